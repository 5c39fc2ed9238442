"""Drills of keeping and giving back: drains, releases, idle time, lost nodes, a head that restarts."""

from __future__ import annotations

import asyncio

from shoal.foundation.eventlog import Kind
from shoal.model.instance import State
from shoal.model.policy import Deadlines
from shoal.providers.sim.faults import CALM, Faults
from shoal.testing import invariants
from shoal.testing.drills import Stage, drill
from shoal.testing.sim_head import LEASE_S


@drill
async def a_busy_answer_keeps_the_node(stage: Stage) -> None:
    """A lease granted just before the drain wins: the node is in service again at once, and takes more work."""
    world = stage.build(idle_timeout_s=10.0)
    world.head.late_grants, world.head.late_grant_s = 1.0, 40.0
    world.submit({"cpu": 1}, 1, stage.chance.uniform(10.0, 30.0))
    await stage.is_busy(1)
    await stage.happens(lambda: world.head.injected["late grant"] > 0, 120.0, "a lease comes before the drain")
    world.head.late_grants = 0.0
    await world.run_for(5.0)
    states = [row.state for row in world.ledger.instances.values()] if world.ledger is not None else []
    stage.claim(states == [State.READY], f"the node that answered `busy` is {states}")


@drill
async def a_drain_that_got_lost_empties_nothing(stage: Stage) -> None:
    """An agent that never heard of the drain has not said that it is empty: its work runs on."""
    world = stage.build(deadlines=Deadlines(draining_s=20.0))
    world.head.late_grants, world.head.late_grant_s, world.head.lost_drains = 1.0, 100.0, 1.0
    world.submit({"cpu": 1}, 1, stage.chance.uniform(10.0, 30.0))
    await stage.is_busy(1)
    await stage.happens(lambda: world.head.injected["lost drain"] > 0, 120.0, "a drain is ordered and lost")
    world.head.late_grants = 0.0
    await world.run_for(stage.chance.uniform(25.0, 40.0))
    world.head.lost_drains = 0.0


@drill
async def what_is_on_its_way_out_is_taken_back(stage: Stage) -> None:
    """Work that comes while a node is being emptied gets that node, not a new machine."""
    world = stage.build()
    world.head.lost_drains = 1.0  # so that it stays on its way
    count = stage.chance.choice((1, 2))
    world.submit({"cpu": 2}, count, stage.chance.uniform(10.0, 30.0))
    await stage.is_busy(count)
    await stage.happens(lambda: world.head.injected["lost drain"] >= count, 120.0, "the nodes are drained")
    world.submit({"cpu": 2}, count, 30.0)
    await stage.is_busy(count, within_s=10.0)
    stage.claim_bought(count)
    world.head.lost_drains = 0.0


@drill
async def a_cordon_that_lapsed_is_asked_for_again(stage: Stage) -> None:
    """What was empty before the autoscaler died for ten minutes may work again after it."""
    world = stage.build()
    world.submit({"cpu": 2}, 1, stage.chance.uniform(5.0, 20.0))
    await stage.is_busy(1)

    def is_drained(boundary: str) -> bool:
        rows = world.ledger.instances.values() if world.ledger is not None and not world.kills else ()
        return boundary == "commit.after" and any(row.state is State.DRAINED for row in rows)

    world.crash_when, world.dead_s = is_drained, (650.0, 700.0)
    await stage.happens(lambda: not world.is_running, 120.0, "the autoscaler dies where the node is drained")
    await asyncio.sleep(stage.chance.uniform(500.0, 590.0))
    world.submit({"cpu": 2}, 1, 400.0)
    await asyncio.sleep(220.0)


@drill
async def a_boot_that_ends_at_its_deadline_is_asked_for(stage: Stage) -> None:
    """A machine that joined while its boot was given up keeps its work: the head knows better than old news."""
    world = stage.build(
        boot_s=(40.0, 80.0), deadlines=Deadlines(booting_s=60.0), world={"report_every_s": 20.0}, max_workers=8
    )
    world.submit({"cpu": 2}, 8, 200.0)
    await world.run_for(120.0)


@drill
async def a_released_machine_never_joins(stage: Stage) -> None:
    """A machine that is given up and boots after all, while the cloud does not take its release, stays outside."""
    world = stage.build(
        max_workers=2, faults=Faults(slow_boot=1.0, stuck_release=1.0), deadlines=Deadlines(booting_s=60.0)
    )
    world.submit({"cpu": 2}, 2, 300.0)
    await world.run_for(stage.chance.uniform(420.0, 500.0))
    first = stage.created[:2]
    stage.claim(
        not any(one.instance_id in world.head.nodes for one in first),
        "a machine that was given up has joined after all",
    )
    world.cloud.faults = CALM


@drill
async def nodes_stay_for_their_time(stage: Stage) -> None:
    """A node stays its idle time and its least time of service, and not much longer."""
    idle_s, up_s = stage.chance.choice(((60.0, 0.0), (30.0, 0.0), (20.0, 150.0)))
    world = stage.build(idle_timeout_s=idle_s, min_up_s=up_s)
    world.submit({"cpu": 2}, 1, stage.chance.uniform(5.0, 20.0))
    await stage.is_busy(1)
    joined_s = next(node.joined_s for node in world.head.nodes.values())
    await stage.happens(lambda: world.head.is_idle, 60.0, "the work is done", step_s=0.5)
    done_s = stage.clock.monotonic_s()
    await stage.happens(lambda: stage.created[0].ended_s is not None, 300.0, "the node goes")
    ended_s = stage.created[0].ended_s or 0.0
    due_s = max(done_s + idle_s, joined_s + up_s)
    stage.claim(ended_s >= due_s - 1.0, f"the node went {due_s - ended_s:.0f} s before its time")
    stage.claim(ended_s <= due_s + 30.0, f"the node went {ended_s - due_s:.0f} s after its time")


@drill
async def a_notice_empties_the_node_in_time(stage: Stage) -> None:
    """A node whose machine is announced to go takes no more work, and what runs there is done before."""
    world = stage.build(markets=("spot",), max_workers=3)
    world.submit({"cpu": 2}, 40, 20.0)
    await stage.is_busy(3)
    for machine in world.machines()[: stage.chance.choice((1, 2))]:
        world.cloud.interrupt(machine.name, 120.0)
    await stage.happens(lambda: world.head.is_idle, 900.0, "the work is done")
    stage.claim(world.head.lost_units == 0, f"{world.head.lost_units} pieces of work went with an announced machine")


@drill
async def a_halted_machine_goes_at_once(stage: Stage) -> None:
    """A machine that stopped by itself still costs: it is released when it is seen, not when a wait is over."""
    world = stage.build()
    count = stage.chance.choice((1, 2))
    world.submit({"cpu": 2}, count, 300.0)
    await stage.is_busy(count)
    for machine in stage.created:
        world.cloud.halt(machine.name)
    await world.run_for(90.0)
    left = [one.name for one in stage.created[:count] if one.deleted_s is None]
    stage.claim(not left, f"{left} stopped 90 s ago and still cost")


@drill
async def many_silent_at_once_are_not_replaced_at_once(stage: Stage) -> None:
    """Where the network is cut, not the nodes: few are replaced, and all that come back are kept."""
    count = stage.chance.choice((10, 12))
    world = stage.build(boot_s=(15.0, 20.0), idle_timeout_s=60.0)
    world.submit({"cpu": 2}, count, 400.0)
    await stage.is_busy(count)
    for name in sorted(world.head.nodes):
        world.cut(name, 75.0)
    await world.run_for(100.0)
    stage.claim_bought(count + 3)
    gone = [one.name for one in stage.created[:count] if one.ended_s is not None]
    stage.claim(not gone, f"{gone} were released although they came back")


@drill
async def a_restarted_head_settles_first(stage: Stage) -> None:
    """While a restarted head waits for its nodes nothing is bought for what they hold, and nothing idle goes."""
    world = stage.build(idle_timeout_s=30.0)
    world.submit({"cpu": 2}, 3, 250.0)
    await stage.is_busy(3)
    world.submit({"cpu": 2}, 2, 30.0)
    await stage.is_busy(5)
    await stage.happens(lambda: len(world.head.running) == 3, 60.0, "two nodes are idle")
    await world.run_for(stage.chance.uniform(1.0, 10.0))
    busy = sorted(name for name, node in world.head.nodes.items() if node.running)
    down_s = stage.chance.uniform(3.0, 10.0)
    world.cut(stage.chance.choice(busy), down_s + 20.0)
    world.head.restart(down_s)
    await asyncio.sleep(down_s)
    world.submit({"cpu": 2}, 1, 20.0)

    def is_well() -> bool:
        rows = world.ledger.instances.values() if world.ledger is not None else ()
        return not any(row.state in (State.LOST, State.DRAINING, State.RELEASING) for row in rows)

    await stage.watched(38.0, is_well, "a node was given up or given back while the head settled", every_s=0.2)
    stage.claim_bought(5)


@drill
async def a_cluster_without_a_head_ends_itself(stage: Stage) -> None:
    """With head and autoscaler dead, idle machines end by their own guards once their lease is over."""
    world = stage.build(idle_timeout_s=60.0)
    world.submit({"cpu": 2}, stage.chance.choice((1, 3)), 30.0)
    await stage.happens(lambda: world.head.is_idle, 120.0, "the work is done")
    await world.kill(None)
    world.head_down(1500.0)
    await asyncio.sleep(LEASE_S + stage.chance.uniform(80.0, 200.0))
    left = [one.name for one in world.machines()]
    stage.claim(not left, f"{left} outlive their lease without a head")
    await asyncio.sleep(1000.0)
    world.start()


@drill
async def a_short_listing_proves_nothing(stage: Stage) -> None:
    """Listings that say they are short end no row, and what a release leaves behind is found all the same."""
    world = stage.build(boot_s=(60.0, 80.0), faults=Faults(debris=1.0), world={"listing_lag_s": 5.0})
    count = stage.chance.choice((2, 3))
    world.submit({"cpu": 2}, count, 60.0)
    await world.run_for(stage.chance.uniform(8.0, 12.0))
    world.cloud.faults, world.provider.short_share = Faults(short_list=1.0, debris=1.0), 0.0
    await stage.watched(50.0, lambda: not list(invariants.nothing_closed_exists(world)), "a machine was written off")
    world.cloud.faults = Faults(debris=1.0)
    await stage.happens(lambda: world.head.is_idle, 300.0, "the work is done")
    stage.claim_bought(count)
    await world.run_for(60.0)


@drill
async def one_bad_instance_stops_nobody(stage: Stage) -> None:
    """Where the head cannot forget one node, the others go all the same."""
    world = stage.build()
    count = stage.chance.choice((3, 4))
    world.submit({"cpu": 2}, count, 30.0)
    await stage.is_busy(count)
    bad = stage.chance.choice(sorted(world.head.nodes))
    forget = world.head.forget

    async def fails(instance_id: str) -> None:
        if instance_id == bad:
            raise RuntimeError("this one is stuck")
        await forget(instance_id)

    world.head.forget = fails  # type: ignore[method-assign]
    await stage.happens(lambda: world.head.is_idle, 120.0, "the work is done")
    await world.run_for(90.0)
    left = [one.instance_id for one in world.machines() if one.instance_id != bad]
    stage.claim(not left, f"{left} stay because of another one")
    failed = [event.fields["why"] for event in world.events(Kind.ALARM) if event.fields["what"] == "round"]
    stage.claim(not failed, f"whole rounds failed: {failed[:1]}")
    stage.ends_calm = False  # the alarm of the failed step stands in the log
