"""What must hold of every world, as functions: shared by storm, scenarios and, as alarms, by status pages.

Each returns what is wrong, as text, or nothing. `while_stormy` hold at any moment; `once_calm` after the faults have
ended, the work is done and idle time-outs have passed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from shoal.foundation.eventlog import Kind
from shoal.model.instance import State
from shoal.model.offer import MICRO
from shoal.model.policy import Deadlines
from shoal.testing.world import World

Invariant = Callable[[World], Iterator[str]]


def one_machine_per_intent(world: World) -> Iterator[str]:
    """No instance ever had two machines, no limit was crossed, no busy node was released, every machine had a row.

    These are noted by the world at the moment they happen.
    """
    yield from world.violations[:5]


def no_busy_node_released(world: World) -> Iterator[str]:
    """A node that works and is in contact is given up only at a deadline."""
    yield from world.head.forgotten_busy[:5]


def spend_within_budget(world: World) -> Iterator[str]:
    """What existed at once never cost more than the cap on dollars per hour."""
    cap = world.policy.budget.usd_per_hour_max
    if cap is not None and world.peak_usd_per_h > cap + 1e-9 and not _prices_moved(world):
        yield f"machines of ${world.peak_usd_per_h:.4g}/h existed at once, the cap is ${cap:.4g}/h"


def total_within_budget(world: World) -> Iterator[str]:
    """What was spent stays below the cap on dollars in all."""
    cap = world.policy.budget.usd_total_max
    bill = world.cloud.bill_usd(world.uid)
    if cap is not None and bill > cap and not _prices_moved(world):
        yield f"${bill:.4g} were billed, the cap is ${cap:.4g}"


def no_round_failed(world: World) -> Iterator[str]:
    """No part of the loop raised what it should not have."""
    for event in world.events(Kind.ALARM):
        if event.fields.get("what") in ("round", "step failed", "call failed", "autoscaler ended", "head"):
            yield f"{event.fields['what']}: {event.fields.get('why')}"


def the_autoscaler_lives(world: World) -> Iterator[str]:
    """The loop ends only when it is told to."""
    if not world.is_running:
        yield "the autoscaler is not running"


def no_orphan_machines(world: World) -> Iterator[str]:
    """Nothing exists that nobody needs: no machine, no debris."""
    for machine in world.machines():
        yield f"{machine.name} ({machine.instance_id}, {machine.phase}) outlives its work"
    for name in world.cloud.debris:
        yield f"debris {name} is left"


def every_demand_served(world: World) -> Iterator[str]:
    """Everything submitted has run, and nothing was invented or forgotten."""
    head = world.head
    if head.waiting or head.running:
        yield f"{head.waiting} units wait and {len(head.running)} run"
    if head.finished != head.submitted:
        yield f"{head.submitted} units were submitted, {head.finished} are finished"


def no_wait_without_end(world: World, slack_s: float) -> Iterator[str]:
    """Nothing waits for a call or a boot for longer than its deadline, and `slack_s` to see to it."""
    if world.ledger is None:
        return
    for row in world.ledger.instances.values():
        kind = world.policy.node_type(row.node_type)
        deadlines = kind.deadlines if kind is not None else Deadlines()
        most_s = {State.REQUESTED: deadlines.requested_s, State.BOOTING: deadlines.booting_s}.get(row.state)
        for_s = world.clock.monotonic_s() - row.since_s
        if most_s is not None and for_s > most_s + slack_s:
            yield f"no_wait_without_end: {row.instance_id} has been {row.state} for {for_s:.0f} s of {most_s:.0f} s"


def nothing_in_contact_is_lost(world: World) -> Iterator[str]:
    """An instance whose agent talks to the head is not lost. Holds some seconds after the agent has come back."""
    for row in world.ledger.instances.values() if world.ledger is not None else ():
        node = world.head.nodes.get(row.instance_id)
        if row.state is State.LOST and node is not None and node.contact_lost_s is None and not node.is_missing:
            yield f"nothing_in_contact_is_lost: {row.instance_id} is lost, and its agent is there"


def nothing_closed_exists(world: World) -> Iterator[str]:
    """A row is closed only when its machine has ended. Holds where no ledger was lost and nothing is concealed."""
    if world.ledger is None or world.is_ledger_lost or world.is_concealed:
        return
    for machine in world.machines():
        if machine.instance_id in world.ledger.closed:
            yield f"nothing_closed_exists: {machine.instance_id} is gone in the ledger, {machine.name} is not"


def ledger_is_settled(world: World) -> Iterator[str]:
    """Every row of the ledger is closed when nothing exists any more."""
    if world.ledger is None:
        return
    for row in world.ledger.instances.values():
        if row.state is not State.GONE and not world.machines():
            yield f"{row.instance_id} is still {row.state} in the ledger"
    rest_micro = world.ledger.committed_micro - world.ledger.meta.head_micro
    if rest_micro and not world.ledger.instances:
        yield f"${rest_micro / MICRO:.4g}/h are committed for nothing"


def spend_is_not_understated(world: World) -> Iterator[str]:
    """The ledger's spend covers what the cloud has billed since the ledger was begun."""
    if world.ledger is None or world.bill_before_usd is None or _prices_moved(world) or world.is_concealed:
        return
    spent = world.ledger.spent_micro() / MICRO
    bill = world.cloud.bill_usd(world.uid) - world.bill_before_usd
    if world.is_ledger_lost:
        bill *= 0.8  # what is adopted late was not counted at first
    if spent < bill * 0.99 - 1e-4:
        yield f"the ledger says ${spent:.6f} were spent, the cloud billed ${bill:.6f} since it began"


def while_stormy(world: World) -> list[str]:
    """Return what is wrong at any moment."""
    return _all(
        world,
        (
            one_machine_per_intent,
            no_busy_node_released,
            spend_within_budget,
            total_within_budget,
            no_round_failed,
        ),
    )


def once_calm(world: World) -> list[str]:
    """Return what is wrong after the storm has passed and everything had time to end."""
    return while_stormy(world) + _all(
        world,
        (
            the_autoscaler_lives,
            no_orphan_machines,
            every_demand_served,
            ledger_is_settled,
            spend_is_not_understated,
        ),
    )


def _all(world: World, invariants: tuple[Invariant, ...]) -> list[str]:
    return [f"{check.__name__}: {wrong}" for check in invariants for wrong in check(world)]


def _prices_moved(world: World) -> bool:
    return world.cloud.prices_moved
