"""The loop against the simulated cloud and head: what it promises, one promise per test."""

from __future__ import annotations

import asyncio
import functools
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from shoal.autoscaler.act.thinking import in_common
from shoal.autoscaler.decide.planner import improve
from shoal.foundation.errors import Outcome, ThrottledError, UnknownOutcome
from shoal.foundation.eventlog import Kind
from shoal.model.instance import State
from shoal.model.launch import Answer
from shoal.model.plan import Buy, Plan
from shoal.model.policy import Budget, NodeType
from shoal.model.snapshot import Work
from shoal.providers.sim.faults import CALM, Faults
from shoal.testing import builders, sim_time
from shoal.testing.world import World


def virtual(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test in virtual time."""

    @functools.wraps(test)
    def run(*args: Any, **options: Any) -> None:
        sim_time.run(test(*args, **options))  # type: ignore[arg-type]

    return run


def small(**fields: Any) -> Any:
    kinds = (NodeType(name="s2", provider="sim", max_workers=100),)
    return builders.policy(node_types=kinds, max_workers=100, flap_s=0.0, **fields)


async def grown(world: World, count: int, duration_s: float = 60.0) -> World:
    world.submit({"cpu": 2}, count, duration_s)
    await world.run_until(lambda: len(world.head.nodes) == count, within_s=120)
    return world


def called_at_s(world: World) -> list[float]:
    return [event.at_s - 1_767_225_600.0 for event in world.events(Kind.LAUNCH_CALLED)]


@virtual
async def test_demand_becomes_a_call_within_a_tenth_of_a_second() -> None:
    world = World(1, policy=small())
    await world.run_for(60.0)
    asked_s = world.clock.monotonic_s()
    world.submit({"cpu": 2}, 5)
    await world.run_for(1.0)
    (called_s,) = called_at_s(world)
    assert called_s - asked_s <= 0.1001


@virtual
async def test_growing_demand_is_bought_for_once_it_is_quiet() -> None:
    """A burst over a third of a second is one launch call; a flood without end is acted on after half a second."""
    world = World(1, policy=small(), report_every_s=0.01)
    await world.run_for(60.0)
    for _ in range(10):
        world.submit({"cpu": 2}, 1)
        await world.run_for(0.03)
    await world.run_for(1.0)
    assert len(called_at_s(world)) == 1

    flood_s = world.clock.monotonic_s()
    for _ in range(60):
        world.submit({"cpu": 2}, 1)
        await world.run_for(0.03)
    assert called_at_s(world)[1] - flood_s <= 0.6


@virtual
async def test_a_refusal_is_answered_by_another_offer_at_once() -> None:
    world = World(1, policy=small())
    await world.run_for(1.0)
    for key in world.cloud.offers:
        if key.zone == "z1":
            world.cloud.offers[key] = msgspec.structs.replace(world.cloud.offers[key], limit=0)
    world.submit({"cpu": 2}, 1)
    await world.run_for(2.0)
    first_s, second_s = called_at_s(world)
    answered_s = world.events(Kind.LAUNCH_ANSWERED)[0].at_s - 1_767_225_600.0
    assert second_s - answered_s < 0.01
    assert [one.offer.zone for one in world.machines()] == ["z2"]
    assert second_s - first_s < 1.0


@virtual
async def test_a_steady_cluster_is_listed_rarely() -> None:
    """At most a tenth of a call per machine and minute once nothing is unsettled."""
    world = await grown(World(1, policy=small()), 30, duration_s=7200.0)
    await world.run_for(120.0)
    before = world.provider.calls["machines"]
    await world.run_for(1800.0)
    assert world.provider.calls["machines"] - before <= 0.1 * 30 * 30 + 1


@virtual
async def test_a_busy_answer_makes_the_node_ready_again() -> None:
    """Work came between plan and drain: the cordon is lifted, the work finishes, and the node goes when it is idle."""
    world = World(1, policy=small(idle_timeout_s=20.0))
    await grown(world, 2, duration_s=10.0)
    world.head.late_grants = 1.0
    await world.run_until(lambda: bool(_moves(world, "draining", "busy")), within_s=120)
    world.head.late_grants = 0.0
    await world.run_for(1.0)
    assert all(row.state is State.READY for row in world.ledger.instances.values())  # type: ignore[union-attr]
    assert not any(node.cordon for node in world.head.nodes.values())
    await world.run_until(lambda: not world.machines(), within_s=300)
    assert world.head.finished == world.head.submitted
    assert not world.head.forgotten_busy and not world.head.lost_units


@virtual
async def test_a_refused_repetition_proves_nothing() -> None:
    """The first call worked and its answer was lost; the repetition is throttled. The row must stay until a listing."""
    world = World(1, policy=small(), listing_lag_s=30.0)
    await world.run_for(1.0)
    real, answers = world.provider.launch, [UnknownOutcome("reset"), ThrottledError("slow down")]

    async def launch(launches: Any) -> Any:
        if not answers:
            return await real(launches)
        error = answers.pop(0)
        if error.outcome is Outcome.UNKNOWN:
            await real(launches)
            for machine in world.cloud.machines.values():
                machine.listed_s = machine.hidden_until_s = world.clock.monotonic_s() + 29.0
        return [Answer(name=one.token, outcome=error.outcome, error=error) for one in launches]

    world.provider.launch = launch  # type: ignore[method-assign]
    world.submit({"cpu": 2}, 1)
    await world.run_until(lambda: not answers, within_s=60)
    await world.run_for(0.1)
    (row,) = world.ledger.instances.values()  # type: ignore[union-attr]
    assert row.state is State.REQUESTED
    await world.run_until(lambda: world.head.is_idle, within_s=200)
    assert world.cloud.launches == 1 and not world.violations


@virtual
async def test_a_release_that_was_lost_is_called_again() -> None:
    world = await grown(World(1, policy=small(idle_timeout_s=5.0)), 1, duration_s=5.0)
    world.cloud.faults = Faults(throttle=1.0)
    await world.run_until(lambda: bool(_moves(world, "drained", "release")), within_s=120)
    await world.run_for(30.0)
    assert len(world.machines()) == 1
    world.cloud.faults = CALM
    await world.run_until(lambda: not world.machines(), within_s=200)


@virtual
async def test_a_machine_that_joined_is_not_released_as_overdue() -> None:
    """`bar` answers that it joined: a fact, which stops the release."""
    world = World(1, policy=small())
    real = world.head.work

    def hidden() -> Any:
        return msgspec.structs.replace(real(), nodes=())

    world.head.work = hidden  # type: ignore[method-assign]
    world.policy = msgspec.structs.replace(
        world.policy,
        node_types=(
            msgspec.structs.replace(
                world.policy.node_types[0],
                deadlines=msgspec.structs.replace(world.policy.node_types[0].deadlines, booting_s=60.0),
            ),
        ),
    )
    world.submit({"cpu": 2}, 1, 300.0)
    await world.run_until(lambda: bool(_moves(world, "booting", "joined")), within_s=300)
    assert len(world.machines()) == 1 and not world.events(Kind.RELEASE_CALLED)


@virtual
async def test_without_the_head_nothing_is_bought_or_released() -> None:
    world = await grown(World(1, policy=small(idle_timeout_s=5.0)), 2, duration_s=5.0)
    world.head.is_up = False
    for stream in world.head._streams:
        stream.set()
    before = world.provider.calls["launch"], world.provider.calls["release"]
    await world.run_for(900.0)
    assert (world.provider.calls["launch"], world.provider.calls["release"]) == before
    assert world.autoscaler is not None and world.autoscaler.waiting_for == "the head: the head is down"
    assert world.is_running
    world.head.is_up = True
    await world.run_until(lambda: not world.machines(), within_s=300)


@virtual
async def test_a_full_disk_stops_orders_and_says_so() -> None:
    world = World(1, policy=small())
    await world.run_for(5.0)
    pages = world.disk.execute("PRAGMA page_count").fetchone()[0]
    world.disk.execute(f"PRAGMA max_page_count = {pages}")
    world.submit({"cpu": 2}, 50, 20.0)
    await world.run_for(30.0)
    assert not world.cloud.machines
    report = world.autoscaler.report()  # type: ignore[union-attr]
    assert any("full" in alarm for alarm in report.alarms) and "full" in report.waiting_for
    world.disk.execute("PRAGMA max_page_count = 1000000")
    await world.run_until(lambda: world.head.is_idle, within_s=300)
    assert not world.autoscaler.report().alarms  # type: ignore[union-attr]


@virtual
async def test_one_bad_instance_does_not_stop_the_others() -> None:
    world = await grown(World(1, policy=small(idle_timeout_s=5.0)), 3, duration_s=5.0)
    bad, real = min(world.head.nodes), world.head.drain

    async def drain(instance_id: str, *args: Any) -> None:
        if instance_id == bad:
            raise ValueError("this one is cursed")
        await real(instance_id, *args)

    world.head.drain = drain  # type: ignore[method-assign]
    await world.run_until(lambda: len(world.machines()) == 1, within_s=200)
    assert [one.instance_id for one in world.machines()] == [bad]
    assert any("cursed" in event.fields["why"] for event in world.events(Kind.ALARM))


@virtual
async def test_a_planner_that_fails_is_an_alarm_and_no_hot_loop() -> None:
    state = {"fails": True}

    def planner(snapshot: Any, policy: Any, seed: int) -> Any:
        if state["fails"]:
            raise RuntimeError("cannot plan")
        return improve(snapshot, policy, seed)

    world = World(1, policy=small(), improve=planner)
    world.submit({"cpu": 2}, 1, 20.0)
    await world.run_for(60.0)
    assert world.autoscaler is not None and world.autoscaler.rounds < 60
    assert "cannot plan" in world.autoscaler.alarms["round"]
    state["fails"] = False
    await world.run_until(lambda: world.head.is_idle, within_s=120)
    assert not world.autoscaler.alarms


@virtual
async def test_a_cordon_that_lapsed_takes_the_node_back_instead_of_releasing_it() -> None:
    world = await grown(World(1, policy=small(idle_timeout_s=5.0)), 1, duration_s=5.0)
    hands = world.autoscaler._hands  # type: ignore[union-attr]
    hands._cordon_left_s = lambda row: 30.0  # type: ignore[method-assign]
    await world.run_until(lambda: bool(_moves(world, "drained", "undrain")), within_s=120)
    assert not world.events(Kind.RELEASE_CALLED)
    assert len(world.machines()) == 1


@virtual
async def test_a_changed_policy_is_used_at_once() -> None:
    world = World(1, policy=small())
    world.policy = msgspec.structs.replace(world.policy, max_workers=2)
    world.submit({"cpu": 2}, 5, 600.0)
    await world.run_for(30.0)
    assert len(world.machines()) == 2
    world.autoscaler.set_policy(msgspec.structs.replace(world.policy, max_workers=5))  # type: ignore[union-attr]
    world.policy = msgspec.structs.replace(world.policy, max_workers=5)
    await world.run_for(1.0)
    assert len(world.machines()) == 5


@virtual
async def test_an_instance_that_is_released_cannot_join_again() -> None:
    world = await grown(World(1, policy=small(idle_timeout_s=5.0)), 1, duration_s=5.0)
    world.cloud.faults = Faults(throttle=1.0)
    await world.run_until(lambda: bool(_moves(world, "drained", "release")), within_s=120)
    (machine,) = world.machines()
    assert not world.head.join(machine.instance_id, "s2", machine.resources)


@virtual
async def test_the_head_is_asked_to_forget_a_node_again_only_where_a_newer_word_still_shows_it() -> None:
    world = await grown(World(1, policy=small(idle_timeout_s=5.0), report_every_s=20.0), 3)
    asked: Counter[tuple[str, int]] = Counter()
    real, lost = world.head.forget, set[str]()

    async def forget(instance_id: str) -> None:
        asked[instance_id, heard[0]] += 1
        if instance_id in lost:
            await real(instance_id)
        lost.add(instance_id)  # the first call has no effect

    world.cloud.faults = Faults(throttle=1.0)  # the machines stay, so that nothing but this ends their nodes
    words, heard = world.head.work, [0]

    def work() -> Work:
        word = words()
        heard[0] = word.version
        return word

    world.head.work, world.head.forget = work, forget  # type: ignore[method-assign]
    await world.run_until(lambda: not world.head.nodes, within_s=400)

    assert len({name for name, _ in asked}) == 3 and not world.violations
    assert max(asked.values()) == 1, "the head has agreed; a newer word will tell"


@virtual
async def test_a_gang_is_held_for_and_let_go_when_it_is_taken_back() -> None:
    world = World(1, policy=small(idle_timeout_s=5.0, gang_hold_s=600.0))
    world.submit_gang("g", [{"cpu": 2}] * 3, 60.0)
    await world.run_for(5.0)
    assert {hold.gang for hold in world.ledger.holds.values()} == {"g"}  # type: ignore[union-attr]
    world.head.remove_gang("g")
    await world.run_for(1.0)
    assert not world.ledger.holds  # type: ignore[union-attr]
    await world.run_until(lambda: not world.machines(), within_s=300)


@virtual
async def test_a_smaller_node_than_promised_is_learned() -> None:
    world = World(1, policy=small(), faults=Faults(smaller=1.0))
    await grown(world, 1)
    await world.run_for(1.0)
    (usable,) = world.ledger.usable.values()  # type: ignore[union-attr]
    (promised,) = {one.resources["memory"] for key, one in world.cloud.offers.items() if key.machine_type == "s2"}
    assert usable.resources["memory"] == promised * 9 // 10


@virtual
async def test_the_report_says_what_there_is_and_what_it_costs() -> None:
    world = await grown(World(1, policy=small()), 3, duration_s=1000.0)
    world.submit({"cpu": 1000}, 1)
    await world.run_for(600.0)
    report = world.head.report
    assert report is not None and report.session == 1
    assert {one.state for one in report.instances} == {"ready"} and len(report.instances) == 3
    assert report.usd_per_hour == pytest.approx(0.3)
    assert report.usd_spent == pytest.approx(0.3 * 630 / 3600, rel=0.1)
    assert [one.verdict for one in report.unmet] == ["infeasible"]
    assert report.is_price_complete


@virtual
async def test_the_heads_machine_counts_against_the_budget_and_a_changed_price_at_once() -> None:
    """0.1 + 2 x 0.1 USD/h are above 0.25; without the head's they would not be."""
    head = NodeType(name="head", provider="sim", price_usd_per_h=0.1)
    types = tuple(NodeType(name=name, provider="sim", max_workers=50) for name in ("s2",))
    capped = builders.policy(node_types=(head, *types), head_node_type="head", budget=Budget(usd_per_hour_max=0.25))
    world = World(policy=capped)
    world.submit({"cpu": 2}, count=5, duration_s=3000)
    await world.run_for(120)
    assert len(world.machines()) == 1
    assert world.autoscaler is not None
    assert world.autoscaler.report().usd_per_hour == pytest.approx(0.2)

    cheaper = msgspec.structs.replace(head, price_usd_per_h=0.01)
    world.policy = msgspec.structs.replace(capped, node_types=(cheaper, *types))
    world.autoscaler.set_policy(world.policy)
    await world.run_for(120)
    assert len(world.machines()) == 2
    assert world.autoscaler.report().usd_per_hour == pytest.approx(0.21)
    await world.stop()


@virtual
async def test_a_jump_of_the_wall_clock_gives_everyone_a_minute() -> None:
    world = World(1, policy=small(), faults=Faults(never_join=1.0))
    world.submit({"cpu": 2}, 1)
    await world.run_for(595.0)
    world.clock._wall_start_s += 3600.0
    await world.run_for(30.0)
    assert not world.events(Kind.RELEASE_CALLED)
    assert any(event.fields["what"] == "clock" for event in world.events(Kind.ALARM))
    await world.run_for(60.0)
    assert world.events(Kind.RELEASE_CALLED)


@virtual
async def test_the_first_plan_waits_for_a_complete_listing() -> None:
    plans: list[Plan] = []

    def planner(snapshot: Any, policy: Any, seed: int) -> Any:
        assert snapshot.is_listed
        for plan in improve(snapshot, policy, seed):
            plans.append(plan)
            yield plan

    world = World(1, policy=small(), improve=planner, faults=Faults(short_list=1.0))
    world.submit({"cpu": 2}, 1)
    await world.run_for(60.0)
    assert not plans
    world.cloud.faults = CALM
    await world.run_until(lambda: bool(world.machines()), within_s=30)


@virtual
async def test_lifetime_is_said_once() -> None:
    world = World(1, policy=small(lifetime_s=100.0))
    await world.run_for(300.0)
    assert world.ends == ["its lifetime of 100 s is over"]


@virtual
async def test_stop_leaves_machines_and_ledger_as_they_are() -> None:
    world = await grown(World(1, policy=small()), 2, duration_s=600.0)
    await world.stop()
    rows = {row.instance_id for row in world.ledger.instances.values()}  # type: ignore[union-attr]
    assert len(world.machines()) == 2
    world.start()
    await world.run_for(90.0)
    assert {row.instance_id for row in world.ledger.instances.values()} == rows  # type: ignore[union-attr]
    assert len(world.machines()) == 2
    assert isinstance(world.disk, sqlite3.Connection)


def _moves(world: World, before: str, cause: str) -> list[Any]:
    return [
        event
        for event in world.events(Kind.INSTANCE_STATE)
        if event.fields["before"] == before and event.fields["cause"] == cause
    ]


def buy(number: int, count: int, key: Any, **fields: Any) -> Buy:
    names = tuple(f"i-a-{serial:05d}" for serial in range(number, number + count))
    return Buy(instance_ids=names, node_type="s2", offer=key, why="", **fields)


def test_what_every_plan_buys_is_in_common_and_gangs_go_whole() -> None:
    one, two = builders.offer_key(), builders.offer_key("s4")
    first = Plan(steps=(buy(1, 5, one), buy(6, 2, two)))
    second = Plan(steps=(buy(1, 3, one), buy(4, 4, two, gang="g", count_min=4)))
    early = in_common([first, second])
    assert early is not None
    assert [(step.offer, len(step.instance_ids)) for step in early.steps if isinstance(step, Buy)] == [(one, 3)]
    assert in_common([first]) is None
    assert in_common([first, Plan(steps=(buy(1, 1, builders.offer_key("s16")),))]) is None

    gang = Plan(steps=(buy(1, 4, two, gang="g", count_min=4),))
    smaller = Plan(steps=(buy(1, 3, two, gang="g", count_min=3),))
    assert in_common([smaller, gang]) is None
    assert in_common([gang, gang]) == gang


@virtual
async def test_launches_that_are_certain_do_not_wait_for_the_end_of_thought() -> None:
    """A slow planner: what both of its plans buy leaves after a tenth of a second, the rest when thought is over."""

    def slow(snapshot: Any, policy: Any, seed: int) -> Any:
        (first,) = list(improve(snapshot, policy, seed))[:1]
        plan = msgspec.structs.replace(first, bound_micro=1, cost_micro=max(first.cost_micro, 10_000_000))
        fewer = tuple(
            msgspec.structs.replace(step, instance_ids=step.instance_ids[:2], planned=step.planned[:2])
            if isinstance(step, Buy)
            else step
            for step in plan.steps
        )
        yield plan
        for _ in range(20):
            loop.now_s += 0.06  # each further plan costs 60 ms of thought
            yield msgspec.structs.replace(plan, steps=fewer)

    policy = small()
    policy = msgspec.structs.replace(policy, thinking=msgspec.structs.replace(policy.thinking, effort_fixed=None))
    world = World(1, policy=policy, improve=slow)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, sim_time.SimLoop)
    await world.run_for(60.0)
    asked_s = world.clock.monotonic_s()
    world.submit({"cpu": 2}, 5, 600.0)
    await world.run_for(5.0)
    calls = [
        (event.at_s - 1_767_225_600.0 - asked_s, len(event.fields["instances"]))
        for event in world.events(Kind.LAUNCH_CALLED)
    ]
    assert calls[0][1] == 2 and calls[0][0] < 0.3
    assert sum(count for _, count in calls) == 5


@virtual
async def test_all_parts_of_one_thought_share_its_time() -> None:
    """Launched in parts or not, the last call leaves when the time for thinking is over, counted from the demand."""

    def elsewhere(step: Any) -> tuple[Any, ...]:
        """Buy all but the first in another zone."""
        if not isinstance(step, Buy) or len(step.instance_ids) < 2:
            return (step,)
        one = msgspec.structs.replace(step, instance_ids=step.instance_ids[:1], planned=step.planned[:1])
        zone = msgspec.structs.replace(step.offer, zone="z2" if step.offer.zone == "z1" else "z1")
        rest = msgspec.structs.replace(step, offer=zone, instance_ids=step.instance_ids[1:], planned=step.planned[1:])
        return (one, rest)

    def slow(snapshot: Any, policy: Any, seed: int) -> Any:
        (first,) = list(improve(snapshot, policy, seed))[:1]
        plan = msgspec.structs.replace(first, bound_micro=1, cost_micro=max(first.cost_micro, 10_000_000))
        other = tuple(part for step in plan.steps for part in elsewhere(step))
        for turn in range(100):
            yield msgspec.structs.replace(plan, steps=other) if turn % 2 else plan
            loop.now_s += 0.06

    policy = small()
    policy = msgspec.structs.replace(policy, thinking=msgspec.structs.replace(policy.thinking, effort_fixed=None))
    world = World(1, policy=policy, improve=slow)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, sim_time.SimLoop)
    await world.run_for(60.0)
    asked_s = world.clock.monotonic_s()
    world.submit({"cpu": 2}, 30, 600.0)
    await world.run_for(8.0)

    calls_s = [at_s - asked_s for at_s in called_at_s(world)]
    assert len(calls_s) > 3 and calls_s[-1] < 1.25
    assert sum(len(event.fields["instances"]) for event in world.events(Kind.LAUNCH_CALLED)) == 30


@virtual
async def test_work_that_was_answered_is_planned_for_again_now_and_then_and_new_work_at_once() -> None:
    """Usage changes all the time while work waits: at most one plan a second for it, at once for what is new."""
    plans: list[float] = []

    def counted(snapshot: Any, policy: Any, seed: int) -> Any:
        plans.append(snapshot.now_s)
        return improve(snapshot, policy, seed)

    kinds = (NodeType(name="s2", provider="sim", max_workers=4),)
    policy = builders.policy(node_types=kinds, max_workers=4, flap_s=0.0)
    world = World(1, policy=policy, report_every_s=0.02, improve=counted)
    world.submit({"cpu": 2}, 4, None)
    world.submit({"cpu": 1}, 1_000, 0.3)
    await world.run_until(lambda: len(world.head.nodes) == 4, within_s=120)
    for key in list(world.head.pending):
        if key.startswith("CPU=20000"):
            world.head.finish(key)

    plans.clear()
    words = world.head._version
    await world.run_for(20.0)
    assert world.head._version - words > 60, "usage changed often enough to tell"
    assert 10 <= len(plans) <= 22

    await world.run_for(max(0.0, plans[-1] + 0.3 - world.clock.monotonic_s()))
    asked_s = world.clock.monotonic_s()
    world.submit({"cpu": 1, "gpu": 1}, 1)
    await world.run_for(0.2)
    assert any(asked_s < at_s <= asked_s + 0.1001 for at_s in plans)


@virtual
async def test_an_idle_node_goes_when_its_time_is_over_and_not_at_a_safety_tick() -> None:
    """Each costs money until then; the nodes fell idle at different times, so no tick can suit them all."""
    world = World(1, policy=small(idle_timeout_s=5.0))
    world.submit({"cpu": 2}, 1, 70.0)
    world.submit({"cpu": 2}, 1, 73.3)
    await world.run_until(lambda: len(world.head.nodes) == 2, within_s=120)
    await world.run_until(lambda: world.head.is_idle, within_s=120)
    last_idle_s = world.clock.monotonic_s()
    await world.run_until(lambda: len(_moves(world, "ready", "drain")) == 2, within_s=60)
    assert 5.0 <= world.clock.monotonic_s() - last_idle_s <= 6.5


@virtual
async def test_many_nodes_are_looked_at_more_rarely_without_news_and_demand_is_answered_as_soon() -> None:
    plans: list[float] = []

    def counted(snapshot: Any, policy: Any, seed: int) -> Any:
        plans.append(snapshot.now_s)
        return improve(snapshot, policy, seed)

    kinds = (NodeType(name="s2", provider="sim", max_workers=2_000),)
    policy = builders.policy(node_types=kinds, max_workers=2_000, flap_s=0.0)
    world = World(1, policy=policy, report_every_s=1.0, improve=counted)
    world.submit({"cpu": 2}, 1_000, None)
    await world.run_until(lambda: len(world.head.nodes) == 1_000, within_s=200)
    await world.run_for(150.0)
    plans.clear()
    await world.run_for(1_000.0)
    assert 7 <= len(plans) <= 9, "every sixth tick of 20 s"

    asked_s = world.clock.monotonic_s()
    world.submit({"cpu": 2}, 1, None)
    await world.run_for(2.0)
    assert called_at_s(world)[-1] - asked_s <= 1.1, "the head's word and the quiet time"


@virtual
async def test_min_up_and_a_deadline_end_on_time() -> None:
    kinds = (NodeType(name="s2", provider="sim", max_workers=100, min_up_s=97.0),)
    world = World(1, policy=msgspec.structs.replace(small(idle_timeout_s=5.0), node_types=kinds))
    await grown(world, 1, duration_s=3.0)
    ready_s = next(iter(world.ledger.instances.values())).ready_s  # type: ignore[union-attr]
    assert ready_s is not None
    await world.run_until(lambda: bool(_moves(world, "ready", "drain")), within_s=200)
    assert 97.0 <= world.clock.monotonic_s() - ready_s <= 98.5


@virtual
async def test_many_moments_close_together_share_their_plans() -> None:
    """Forty idle times end a tenth of a second apart, and `min_workers` keeps every node: few plans find that out."""
    made: list[float] = []

    def counted(snapshot: Any, policy: Any, seed: int) -> Any:
        made.append(snapshot.now_s)
        return improve(snapshot, policy, seed)

    kinds = (NodeType(name="s2", provider="sim", max_workers=100, min_workers=40),)
    policy = msgspec.structs.replace(small(idle_timeout_s=30.0), node_types=kinds)
    world = World(1, policy=policy, improve=counted, boot_s=(20.0, 20.0))
    for number in range(40):
        world.submit({"cpu": 2}, 1, 60.0 + number / 10)
    await world.run_until(lambda: len(world.head.nodes) == 40, within_s=120)
    await world.run_until(lambda: world.head.is_idle, within_s=120)
    await world.run_for(20.0)
    made.clear()
    await world.run_for(15.0)
    assert 3 <= len(made) <= 12, made
