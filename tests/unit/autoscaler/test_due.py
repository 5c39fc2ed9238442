"""The next moment at which time alone changes a plan: never after the change, and none without one."""

from __future__ import annotations

import itertools
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_builders import NOW_S, gang, instance, kind, node, offer, policy, snapshot

from shoal.autoscaler.decide.due import AFTER_S, next_due_s
from shoal.autoscaler.decide.planner import improve
from shoal.model.demand import Standing
from shoal.model.instance import State
from shoal.model.offer import OfferHealth
from shoal.model.plan import Buy, Drain, Release, Step
from shoal.model.policy import Policy
from shoal.model.snapshot import Breaker, Hold, Recent, Snapshot

KEY = offer("small", 4, 0.1).key
OFFERS = (offer("small", 4, 0.1), offer("large", 8, 0.2))


def at(what: Snapshot, at_s: float) -> Snapshot:
    """Return the same cluster without news at a later moment, as the loop would see it."""
    by_s = at_s - what.now_s
    nodes = tuple(
        one if one.idle_s is None else msgspec.structs.replace(one, idle_s=one.idle_s + by_s) for one in what.work.nodes
    )
    return msgspec.structs.replace(what, now_s=at_s, work=msgspec.structs.replace(what.work, nodes=nodes))


def steps(what: Snapshot, how: Policy, at_s: float) -> set[tuple[str, str]]:
    def named(step: Step) -> str:
        return step.offer.machine_type if isinstance(step, Buy) else step.instance_id

    plan = next(improve(at(what, at_s), how, 0))
    return {(type(step).__name__, named(step)) for step in plan.steps}


TIMES_S = st.one_of(st.integers(0, 40).map(float), st.floats(0, 700, allow_nan=False))


@st.composite
def idle_clusters(draw: st.DrawFn) -> tuple[Snapshot, Policy]:
    """Nodes that fell idle, launches and releases of a while ago, machines on their way and on their way out."""
    kinds = tuple(
        kind(
            name,
            idle_timeout_s=draw(st.one_of(st.none(), TIMES_S)),
            min_up_s=draw(TIMES_S),
            min_workers=draw(st.integers(0, 1)),
        )
        for name in ("small", "large")
    )
    rows, nodes = [], []
    for serial in range(1, draw(st.integers(1, 6)) + 1):
        name = draw(st.sampled_from(["small", "large"]))
        state = draw(
            st.sampled_from([State.READY, State.READY, State.READY, State.BOOTING, State.DRAINING, State.LOST])
        )
        since_s = NOW_S - draw(TIMES_S)
        ready_s = since_s if state is State.READY else None
        rows.append(instance(serial, name, state, since_s=since_s, created_s=since_s - 30, ready_s=ready_s))
        if state is State.READY:
            cpu = 4 if name == "small" else 8
            idle_s = draw(st.one_of(st.none(), st.floats(0, NOW_S - since_s)))
            nodes.append(node(serial, cpu, cpu if idle_s is not None else 0, name, idle_s=idle_s))
    recent = []
    for _ in range(draw(st.integers(0, 4))):
        launched_s = NOW_S - draw(st.floats(1, 3000))
        released_s = draw(st.one_of(st.none(), st.floats(launched_s, NOW_S)))
        recent.append(Recent(node_type="small", offer=KEY, launched_s=launched_s, released_s=released_s, why="idle"))
    how = policy(*kinds, idle_timeout_s=draw(TIMES_S), flap_s=draw(st.sampled_from([0.0, 120.0])))
    return snapshot(instances=tuple(rows), nodes=tuple(nodes), offers=OFFERS, recent=tuple(recent)), how


@settings(max_examples=150, deadline=None)
@given(idle_clusters(), st.floats(0.001, 0.999))
def test_between_two_moments_no_step_changes(cluster: tuple[Snapshot, Policy], share: float) -> None:
    """From moment to moment to the end of time: what is planned at one of them holds until just before the next."""
    what, how = cluster
    now_s = what.now_s
    for _ in range(60):
        due_s = next_due_s(at(what, now_s), how)
        assert due_s > now_s
        until_s = now_s + 7200.0 if due_s == math.inf else due_s - 2 * AFTER_S
        planned = steps(what, how, now_s)
        if until_s > now_s:
            assert planned == steps(what, how, now_s + share * (until_s - now_s))
            # A flap's end may let a node go early, while two boots cost less: that alone may take back a drain.
            assert planned == steps(what, how, until_s)
        if due_s == math.inf:
            return
        now_s = due_s
    raise AssertionError("more moments than there is anything to come due")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 59), st.floats(0, 400)), min_size=1, max_size=5), st.floats(0, 300))
def test_a_node_goes_at_its_moment_and_not_before(nodes: list[tuple[float, float]], min_up_s: float) -> None:
    rows = [
        instance(serial, ready_s=NOW_S - idle_s - busy_s, created_s=NOW_S - 1000.0)
        for serial, (idle_s, busy_s) in enumerate(nodes, start=1)
    ]
    idle = tuple(node(serial, idle_s=idle_s) for serial, (idle_s, _) in enumerate(nodes, start=1))
    what = snapshot(instances=tuple(rows), nodes=idle, offers=OFFERS)
    how = policy(kind("small", min_up_s=min_up_s), idle_timeout_s=60.0, flap_s=0.0)
    first_s = min(max(60.0 - idle_s, min_up_s - idle_s - busy_s) for idle_s, busy_s in nodes)
    due_s = next_due_s(what, how)
    assert due_s == pytest.approx(NOW_S + first_s, abs=2 * AFTER_S)
    assert not steps(what, how, due_s - 2 * AFTER_S)
    assert steps(what, how, due_s)


@pytest.mark.parametrize(
    ("state", "fields", "due_in_s"),
    [
        (State.REQUESTED, {}, 120 - 50),
        (State.BOOTING, {}, 600 - 50),
        (State.LOST, {}, 300 - 50),
        (State.DRAINING, {"drain_order": "o"}, 600 - 50),
        (State.DRAINING, {"drain_order": "o", "drain_deadline_s": NOW_S + 7}, 7),
        (State.DRAINING, {"drain_order": "o", "drain_deadline_s": NOW_S - 7}, math.inf),
        (State.DRAINED, {}, math.inf),
        (State.GONE, {}, math.inf),
    ],
)
def test_a_deadline_of_an_instance_is_a_moment(state: State, fields: dict[str, Any], due_in_s: float) -> None:
    what = snapshot(instances=(instance(1, state=state, since_s=NOW_S - 50, **fields),), offers=OFFERS)
    how = policy(kind("small"))
    assert next_due_s(what, how) - NOW_S == pytest.approx(due_in_s, abs=2 * AFTER_S)
    assert next_due_s(msgspec.structs.replace(what, may_expire=False), how) == math.inf
    if due_in_s < math.inf:
        before, after = steps(what, how, NOW_S + due_in_s - AFTER_S), steps(what, how, next_due_s(what, how))
        assert not any(name == Release.__name__ for name, _ in before) and (Release.__name__, rowname(what)) in after


def rowname(what: Snapshot) -> str:
    return what.instances[0].instance_id


@pytest.mark.parametrize(
    ("seen", "rules", "due_in_s"),
    [
        ({}, {}, math.inf),
        ({"holds": (Hold(gang="g", instance_id="x", until_s=NOW_S + 9),)}, {}, 9),
        ({"work": {"standing": (Standing(owner="o", bundles=(), ttl_s=8.0),)}}, {}, 8),
        ({"health": (OfferHealth(scope=str(KEY), unhealthy_for_s=5.0),)}, {}, 5),
        ({"health": (OfferHealth(scope=str(KEY), unhealthy_for_s=0.0),)}, {}, math.inf),
        ({"breakers": (Breaker(cause="c", node_type="small", failures=3, open_for_s=6.0),)}, {}, 6),
        ({"work": {"idle_s": 30.0}}, {"cluster_idle_s": 40.0}, 10),
        ({"up_s": 100.0}, {"lifetime_s": 104.0}, 4),
    ],
)
def test_whatever_ends_by_itself_is_a_moment(seen: dict[str, Any], rules: dict[str, Any], due_in_s: float) -> None:
    what = snapshot(offers=OFFERS, **seen)
    assert next_due_s(what, policy(kind("small"), **rules)) - NOW_S == pytest.approx(due_in_s, abs=2 * AFTER_S)


def test_an_idle_node_held_for_a_gang_is_due_at_the_end_of_its_hold() -> None:
    """The hold ends, the gang still waits and cannot be bought for: the machine goes."""
    held = instance(1)
    hold = Hold(gang="g", instance_id=held.instance_id, until_s=NOW_S + 20)
    what = snapshot(
        gangs=(gang("g", [4.0, 4.0]),), nodes=(node(1),), instances=(held,), offers=(OFFERS[0],), holds=(hold,)
    )
    how = policy(kind("small", max_workers=1), flap_s=0.0)
    due_s = next_due_s(what, how)
    assert due_s - NOW_S == pytest.approx(20, abs=2 * AFTER_S)
    drains = [
        [step for step in next(improve(at(what, when_s), how, 0)).steps if isinstance(step, Drain)]
        for when_s in (due_s - 2 * AFTER_S, due_s)
    ]
    assert [len(found) for found in drains] == [0, 1]


def test_moments_follow_one_another_to_an_end() -> None:
    nodes = tuple(node(serial, idle_s=float(serial)) for serial in range(1, 6))
    rows = tuple(instance(serial) for serial in range(1, 6))
    what, how = snapshot(nodes=nodes, instances=rows, offers=OFFERS), policy(kind("small"), flap_s=0.0)
    moments, now_s = [], NOW_S
    for _ in itertools.repeat(None, 10):
        now_s = next_due_s(at(what, now_s), how)
        if now_s == math.inf:
            break
        moments.append(round(now_s - NOW_S))
    assert moments == [295, 296, 297, 298, 299]
