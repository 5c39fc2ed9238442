"""What holds for every plan, whatever the cluster looks like: searched for counterexamples by Hypothesis."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from planner_builders import NOW_S, UID, demand, gang, instance, kind, node, offer, policy, shape, snapshot

from shoal.autoscaler.decide.plan_check import mistakes
from shoal.autoscaler.decide.planner import improve
from shoal.foundation.amounts import minus, times
from shoal.model.demand import Bundle, Selector, Standing, Strategy
from shoal.model.instance import Instance, State
from shoal.model.node import Node
from shoal.model.offer import ON_DEMAND, SPOT, OfferHealth, Quota
from shoal.model.plan import Buy, Drain, Forget, Plan, Release, Undrain
from shoal.model.policy import Budget, Policy
from shoal.model.snapshot import Hold, Recent, Snapshot

SIZES = {"tiny": (1, 0.03), "small": (4, 0.1), "large": (16, 0.31), "huge": (48, 1.1)}
ZONES = ("z1", "z2")

cpus = st.sampled_from([0.25, 0.5, 1, 2, 3, 5, 8, 16, 64])
chances = st.sampled_from([True, False])


@st.composite
def selectors(draw: st.DrawFn) -> Selector:
    match draw(st.integers(0, 6)):
        case 0:
            return Selector(hard={"ray.io/availability-zone": draw(st.sampled_from(["z1", "!z1", "z3"]))})
        case 1:
            return Selector(hard={"disk": "ssd"})
        case 2:
            return Selector(hard={"ray.io/market-type": draw(st.sampled_from(["on-demand", "spot"]))})
        case _:
            return Selector()


@st.composite
def clusters(draw: st.DrawFn) -> tuple[Snapshot, Policy]:
    names = draw(st.lists(st.sampled_from(sorted(SIZES)), min_size=1, max_size=4, unique=True))
    offers = [
        offer(
            name,
            SIZES[name][0],
            draw(st.sampled_from([SIZES[name][1], SIZES[name][1] * 0.6, None])),
            zone=zone,
            market=market,
            limit=draw(st.sampled_from([None, None, 0, 2])),
            is_named=draw(chances),
            **({"GPU": 1} if draw(st.integers(0, 4)) == 0 else {}),
        )
        for name in names
        for zone in draw(st.lists(st.sampled_from(ZONES), min_size=1, max_size=2, unique=True))
        for market in draw(st.sampled_from([(ON_DEMAND,), (ON_DEMAND,), (ON_DEMAND, SPOT), (SPOT,)]))
    ]
    kinds = [
        kind(
            name,
            max_workers=draw(st.integers(0, 12)),
            min_workers=draw(st.sampled_from([0, 0, 1, 2])),
            labels={"disk": "ssd"} if draw(chances) else {},
            markets=draw(st.sampled_from([(ON_DEMAND,), (ON_DEMAND, SPOT), (SPOT,)])),
        )
        for name in names
    ]
    rows, nodes = draw(rows_and_nodes(names))
    how = policy(
        *kinds,
        max_workers=draw(st.integers(1, 20)),
        budget=Budget(
            usd_per_hour_max=draw(st.sampled_from([None, None, 0.5, 2.0])),
            usd_total_max=draw(st.sampled_from([None, None, 1.0])),
        ),
        upscaling_speed=draw(st.sampled_from([None, None, 1.0])),
        spot_share_most=draw(st.sampled_from([1.0, 1.0, 0.5, 0.0])),
    )
    classes = tuple(
        demand(
            f"c{number}",
            draw(cpus),
            draw(st.integers(1, 30)),
            selector=draw(selectors()),
            duration_s=draw(st.sampled_from([None, None, 0.5, 100.0])),
            unplaceable_on=("n001",) if draw(st.integers(0, 6)) == 0 else (),
            resources={"GPU": 0.5} if draw(st.integers(0, 6)) == 0 else {},
        )
        for number in range(draw(st.integers(0, 5)))
    )
    gangs = tuple(
        gang(
            f"g{number}",
            [draw(cpus)] * draw(st.integers(1, 6)),
            draw(st.sampled_from(list(Strategy))),
            draw(selectors()),
        )
        for number in range(draw(st.integers(0, 2)))
    )
    standing = tuple(
        Standing(owner=f"o{number}", bundles=(Bundle(amounts=shape(draw(cpus))),) * draw(st.integers(1, 4)))
        for number in range(draw(st.integers(0, 2)))
    )
    scopes = ["sim/r1/z1", f"sim/r1/z1/{names[0]}", "sim"]
    health = tuple(
        OfferHealth(
            scope=scope,
            p_success=draw(st.sampled_from([0.1, 0.5, 1.0])),
            unhealthy_for_s=draw(st.sampled_from([0.0, 30.0])),
            failures=1,
            may_probe=draw(chances),
        )
        for scope in draw(st.lists(st.sampled_from(scopes), max_size=2, unique=True))
    )
    quotas = (
        (Quota(name="vCPU", provider="sim", region="r1", limit=40, used=3, weights={n: SIZES[n][0] for n in names}),)
        if draw(chances)
        else ()
    )
    held = [Hold(gang="g0", instance_id=row.instance_id, until_s=NOW_S + 60) for row in rows[: draw(st.integers(0, 1))]]
    what = snapshot(
        classes=classes,
        gangs=gangs,
        nodes=nodes,
        offers=tuple(offers),
        instances=rows,
        work={"standing": standing, "is_settling": draw(st.integers(0, 8)) == 0},
        health=health,
        quotas=quotas,
        holds=tuple(held),
        committed_micro=sum(row.price_micro or 0 for row in rows if row.state not in (State.GONE, State.QUEUED)),
        spent_micro=draw(st.sampled_from([0, 300_000])),
        serial_next=len(rows) + 1,
    )
    return what, how


@st.composite
def rows_and_nodes(draw: st.DrawFn, names: list[str]) -> tuple[tuple[Instance, ...], tuple[Node, ...]]:
    rows: list[Instance] = []
    nodes: list[Node] = []
    for serial in range(1, draw(st.integers(0, 6)) + 1):
        state = draw(st.sampled_from(list(State)))
        name = draw(st.sampled_from([*names, "removed"]))
        cpu = SIZES.get(name, (4, 0))[0]
        since_s = NOW_S - draw(st.sampled_from([5.0, 1000.0]))
        rows.append(instance(serial, name, state, since_s=since_s, created_s=since_s, ready_s=since_s))
        if state in (State.READY, State.DRAINING, State.DRAINED) and draw(st.integers(0, 9)):
            free = draw(st.sampled_from([0.0, cpu / 2, float(cpu)]))
            nodes.append(
                node(
                    serial,
                    cpu,
                    free,
                    name,
                    is_cordoned=state is not State.READY,
                    is_missing=draw(st.integers(0, 12)) == 0,
                    notice="spot interruption" if draw(st.integers(0, 9)) == 0 else "",
                    labels={"disk": "ssd"} if draw(chances) else {},
                )
            )
    return tuple(rows), tuple(nodes)


def plans(what: Snapshot, how: Policy, steps: int, seed: int = 0) -> list[Plan]:
    return list(itertools.islice(improve(what, how, seed), steps))


many = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@many
@given(clusters())
def test_every_plan_passes_the_independent_check(cluster: tuple[Snapshot, Policy]) -> None:
    what, how = cluster

    for plan in plans(what, how, 6):
        assert mistakes(plan, what, how) == []


@settings(many, max_examples=60)
@given(clusters(), st.integers(0, 3))
def test_the_same_input_gives_the_same_bytes(cluster: tuple[Snapshot, Policy], seed: int) -> None:
    what, how = cluster

    assert msgspec.json.encode(plans(what, how, 6, seed)) == msgspec.json.encode(plans(what, how, 6, seed))


@settings(many, max_examples=60)
@given(clusters())
def test_later_plans_are_never_worse(cluster: tuple[Snapshot, Policy]) -> None:
    what, how = cluster

    found = plans(what, how, 8)

    for before, after in itertools.pairwise(found):
        assert after.effort == before.effort + 1
        served_more = sum(one.count for one in after.unmet) < sum(one.count for one in before.unmet)
        assert after.cost_micro <= before.cost_micro or served_more or any(one.p_success < 1 for one in what.health)
        assert (after.bound_micro or 0) >= (before.bound_micro or 0) or served_more


@settings(many, max_examples=100)
@given(clusters())
def test_a_second_plan_after_success_changes_nothing(cluster: tuple[Snapshot, Policy]) -> None:
    what, how = cluster
    what, how = msgspec.structs.replace(what, health=(), holds=()), msgspec.structs.replace(how, upscaling_speed=None)
    plan = plans(what, how, 4)[-1]
    # A gang that found no room may well find it on what was bought for others, and a minimum once a wish is dropped
    # that the same machines make needless: that is no change of mind.
    assume(not any(one.kind in ("gang", "standing", "min_workers") for one in plan.unmet))
    after = carried_out(plan, what)

    again = plans(after, how, 4)[-1]

    assert [step for step in again.steps if isinstance(step, Buy)] == []
    repeated = {step.instance_id for step in plan.steps if isinstance(step, (Drain, Undrain, Release, Forget))}
    assert not repeated & {step.instance_id for step in again.steps if isinstance(step, (Undrain, Release, Forget))}


def carried_out(plan: Plan, what: Snapshot) -> Snapshot:
    """Return the snapshot after every step worked: machines boot, drains begin, releases are called, work waits."""
    rows = {row.instance_id: row for row in what.instances}
    committed = what.committed_micro
    for step in plan.steps:
        if isinstance(step, Buy):
            for name, planned in zip(step.instance_ids, step.planned, strict=True):
                rows[name] = Instance(
                    instance_id=name,
                    node_type=step.node_type,
                    offer=step.offer,
                    state=State.BOOTING,
                    since_s=what.now_s,
                    created_s=what.now_s,
                    price_micro=step.price_micro,
                    gang=step.gang,
                    planned=planned,
                )
                committed += step.price_micro or 0
            continue
        row = rows[step.instance_id]
        match step:
            case Drain():
                deadline_s = None if step.deadline_s is None else what.now_s + step.deadline_s
                row = msgspec.structs.replace(
                    row, state=State.DRAINING, since_s=what.now_s, drain_deadline_s=deadline_s
                )
            case Undrain():
                row = msgspec.structs.replace(row, state=State.READY, since_s=what.now_s, drain_deadline_s=None)
            case Release():
                row = msgspec.structs.replace(row, state=State.RELEASING, since_s=what.now_s)
            case Forget():
                row = msgspec.structs.replace(row, state=State.GONE)
        rows[step.instance_id] = row
    drained = {step.instance_id for step in plan.steps if isinstance(step, Drain)}
    back = {step.instance_id for step in plan.steps if isinstance(step, Undrain)}
    nodes = tuple(
        msgspec.structs.replace(
            one, is_cordoned=(one.is_cordoned or one.instance_id in drained) and one.instance_id not in back
        )
        for one in what.work.nodes
    )
    offers = tuple(
        one
        if one.limit is None
        else msgspec.structs.replace(
            one,
            limit=max(0, one.limit)
            - sum(
                1
                for row in what.instances
                if row.offer == one.key
                and row.state is State.REQUESTED
                and rows[row.instance_id].state is State.RELEASING
            )
            - sum(len(step.instance_ids) for step in plan.steps if isinstance(step, Buy) and step.offer == one.key),
        )
        for one in what.offers
    )
    quotas = tuple(
        msgspec.structs.replace(
            one,
            used=one.used
            + sum(
                one.weights.get(step.offer.machine_type, 0) * len(step.instance_ids)
                for step in plan.steps
                if isinstance(step, Buy)
            )
            # What was asked for is in the account's own count from now on, also while it is given back.
            + sum(
                one.weights.get(row.offer.machine_type, 0)
                for row in what.instances
                if row.state is State.REQUESTED and rows[row.instance_id].state is State.RELEASING
            ),
        )
        for one in what.quotas
    )
    return msgspec.structs.replace(
        what,
        work=msgspec.structs.replace(what.work, nodes=nodes),
        instances=tuple(rows[name] for name in sorted(rows)),
        offers=offers,
        quotas=quotas,
        recent=(
            *what.recent,
            *(
                Recent(node_type=step.node_type, offer=step.offer, launched_s=what.now_s, why=step.why)
                for step in plan.steps
                if isinstance(step, Buy)
                for _ in step.instance_ids
            ),
        ),
        committed_micro=committed,
        serial_next=plan.serial_next,
    )


@settings(many, max_examples=40)
@given(st.lists(st.tuples(cpus, st.integers(1, 20)), min_size=1, max_size=4), st.integers(1, 4))
def test_constant_demand_never_makes_the_cluster_swing(shapes: list[tuple[float, int]], idle_types: int) -> None:
    """The same work for an hour: machines come once, what is idle goes once, and nothing comes back."""
    offers = tuple(offer(name, *SIZES[name]) for name in sorted(SIZES))
    how = policy(*(kind(name) for name in sorted(SIZES)), max_workers=200)
    running = [(demand(f"c{number}", cpu, count)) for number, (cpu, count) in enumerate(shapes) if cpu <= 48]
    what = snapshot(
        classes=tuple(running),
        offers=offers,
        nodes=tuple(node(serial, 4) for serial in range(1, idle_types + 1)),
        instances=tuple(instance(serial) for serial in range(1, idle_types + 1)),
        serial_next=idle_types + 1,
    )
    launches = 0
    for _ in range(12):
        plan = plans(what, how, 2)[-1]
        launches += sum(1 for step in plan.steps if isinstance(step, Buy))
        drained = {step.instance_id for step in plan.steps if isinstance(step, Drain)}
        assert not drained & {one.instance_id for one in plan.placed}
        what = served(plan, carried_out(plan, what))

    assert launches <= len(SIZES)  # all of them in the first round
    assert not any(isinstance(step, Buy) for step in plan.steps)


@settings(many, max_examples=60)
@given(clusters())
def test_nothing_swings_where_nothing_changes(cluster: tuple[Snapshot, Policy]) -> None:
    """With limits, budgets, labels, gangs, spot and standing requests: what waits stays the same, so all comes to rest.

    Rounds are five minutes apart; placed work runs for ever. No type that was drained is bought again, and in the end
    nothing is done any more.
    """
    what, how = cluster
    what, how = calm(what), msgspec.structs.replace(how, upscaling_speed=None)
    drained: set[str] = set()
    for turn in range(12):
        plan = plans(what, how, 2)[-1]
        assert mistakes(plan, what, how) == []
        types = {row.instance_id: row.node_type for row in what.instances}
        bought = {step.node_type for step in plan.steps if isinstance(step, Buy)}
        assert not bought & drained, f"round {turn}"
        assert turn < 9 or not plan.steps, f"round {turn}: {plan.steps}"
        drained |= {types[step.instance_id] for step in plan.steps if isinstance(step, Drain)}
        what = served(plan, carried_out(plan, what))
        what = msgspec.structs.replace(what, committed_micro=committed(what))


def calm(what: Snapshot) -> Snapshot:
    """Return the snapshot with nothing under way: nodes that are ready, no sick offers, no holds, no notices."""
    nodes = tuple(
        one
        for one in what.work.nodes
        if not one.is_cordoned and not one.is_missing and not one.notice and one.node_type != "removed"
    )
    there = {one.instance_id for one in nodes}
    rows = tuple(one for one in what.instances if one.state is State.READY and one.instance_id in there)
    # What is placed runs for ever in these rounds, so nothing may say that it ends soon.
    classes = tuple(msgspec.structs.replace(one, unplaceable_on=(), duration_s=None) for one in what.work.classes)
    found = msgspec.structs.replace(
        what,
        work=msgspec.structs.replace(what.work, nodes=nodes, classes=classes, is_settling=False),
        instances=rows,
        health=(),
        holds=(),
    )
    return msgspec.structs.replace(found, committed_micro=committed(found))


def committed(what: Snapshot) -> int:
    """Return what all instances cost that may be billed."""
    return sum(row.price_micro or 0 for row in what.instances if row.state not in (State.GONE, State.QUEUED))


def served(plan: Plan, what: Snapshot) -> Snapshot:
    """Return the snapshot five minutes later: machines have joined and the placed work runs on them."""
    amounts = {one.key: one.amounts for one in what.work.classes}
    amounts |= {one.gang_id: one.bundles[0].amounts for one in what.work.gangs}
    resources = {one.key: one.resources for one in what.offers}
    nodes = {one.instance_id: one for one in what.work.nodes}
    rows: list[Instance] = []
    for row in what.instances:
        state: State = row.state
        if state is State.BOOTING:
            state = State.READY
            total = resources[row.offer]
            nodes[row.instance_id] = Node(
                node_id=f"n-{row.instance_id}",
                instance_id=row.instance_id,
                node_type=row.node_type,
                total=total,
                free=total,
                idle_s=0.0,
            )
        elif state is State.DRAINING:
            state = State.DRAINED
        elif state is State.RELEASING:
            state = State.GONE
            nodes.pop(row.instance_id, None)
        rows.append(msgspec.structs.replace(row, state=state, ready_s=row.ready_s or what.now_s))
    left = {one.key: one.waiting for one in what.work.classes}
    left |= {one.gang_id: len(one.bundles) for one in what.work.gangs}
    for one in plan.placed:
        there = nodes.get(one.instance_id)
        if there is not None:
            free = minus(there.free, times(amounts[one.demand], one.count))
            nodes[one.instance_id] = msgspec.structs.replace(there, free=free, idle_s=None)
            left[one.demand] -= one.count
    later = {
        name: one if one.idle_s is None else msgspec.structs.replace(one, idle_s=one.idle_s + 300)
        for name, one in nodes.items()
    }
    work = msgspec.structs.replace(
        what.work,
        nodes=tuple(later[name] for name in sorted(later)),
        classes=tuple(
            msgspec.structs.replace(one, waiting=left[one.key]) for one in what.work.classes if left[one.key] > 0
        ),
        gangs=tuple(one for one in what.work.gangs if left[one.gang_id] > 0),
    )
    assert what.cluster_uid == UID
    return msgspec.structs.replace(what, now_s=what.now_s + 300, work=work, instances=tuple(rows))


def test_a_check_that_finds_nothing_finds_a_planted_fault() -> None:
    """The checker itself: each fault in an otherwise good plan is named."""
    what = snapshot(offers=(offer("small", 4, 0.1),), classes=(demand("a", 1, 6),))
    how = policy(kind("small", max_workers=2))
    good = plans(what, how, 1)[0]
    buy: Any = good.steps[0]
    assert mistakes(good, what, how) == []

    faults = {
        "has room for": {"placed": tuple(msgspec.structs.replace(one, count=6) for one in good.placed[:1])},
        "wait": {"placed": good.placed[:1]},
        "max_workers": {
            "steps": (msgspec.structs.replace(buy, instance_ids=(*buy.instance_ids, "i-ababab-00003")),),
        },
        "cost_micro": {"cost_micro": 1},
        "above the cost": {"bound_micro": good.cost_micro + 1},
        "forbidden": {"steps": (*good.steps, Drain(instance_id="i-ababab-00001", why="x"))},
    }
    for word, change in faults.items():
        where = (
            msgspec.structs.replace(what, instances=(instance(1, state=State.BOOTING),))
            if word == "forbidden"
            else what
        )
        assert any(word in said for said in mistakes(msgspec.structs.replace(good, **change), where, how)), word
