"""When time alone will change a plan: the next moment at which something known to lie ahead becomes due.

News wake the loop by themselves. What comes without news - the end of an idle timeout, of a deadline, of a hold, of
an offer's rest - is named here, so that the loop need not wait for its safety tick while machines cost money.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from shoal.autoscaler.decide.room import SILENT_MASS_S, is_mass_loss
from shoal.autoscaler.decide.surplus import Memory, memory_of
from shoal.model.instance import Instance, State
from shoal.model.policy import Deadlines, NodeType, Policy
from shoal.model.snapshot import Snapshot

AFTER_S = 0.01
"""Some limits must be passed, not only reached, and sums of floats may fall short: so much later all of them are."""


def next_due_s(snapshot: Snapshot, policy: Policy) -> float:
    """Return the earliest moment after `snapshot.now_s`, on its clock, at which a plan or the cluster's end is due.

    Infinite where nothing is known to lie ahead. Early is harmless (a plan that changes nothing), so moments are
    named whether or not something else will still be in the way then.
    """
    # A moment that is now may have come a rounding error too late for the plan of now: half the margin tells.
    over_s = snapshot.now_s - AFTER_S / 2
    return min((at_s + AFTER_S for at_s in _moments_s(snapshot, policy) if at_s > over_s), default=math.inf)


def _moments_s(snapshot: Snapshot, policy: Policy) -> Iterator[float]:
    now_s = snapshot.now_s
    kinds = {kind.name: kind for kind in policy.node_types}
    yield from _idle_ends_s(snapshot, policy, kinds)
    if snapshot.may_expire:
        for one in snapshot.moving:
            kind = kinds.get(one.node_type)
            yield _deadline_s(one, kind.deadlines if kind is not None else Deadlines())
    if is_mass_loss(snapshot):
        # What is done about it is limited by the minute; it is over when the losses are no longer fresh.
        for one in snapshot.instances:
            yield one.created_s + SILENT_MASS_S
            if one.state in (State.LOST, State.RELEASING):
                yield one.since_s + SILENT_MASS_S
    for hold in snapshot.holds:
        yield hold.until_s
    for request in snapshot.work.standing:
        if request.ttl_s is not None:
            yield now_s + request.ttl_s
    yield from (now_s + rest.unhealthy_for_s for rest in snapshot.health if rest.unhealthy_for_s > 0)
    yield from (now_s + breaker.open_for_s for breaker in snapshot.breakers if breaker.open_for_s > 0)
    if policy.cluster_idle_s is not None and snapshot.work.idle_s is not None:
        yield now_s + policy.cluster_idle_s - snapshot.work.idle_s
    if policy.lifetime_s is not None:
        yield now_s + policy.lifetime_s - snapshot.up_s


def _idle_ends_s(snapshot: Snapshot, policy: Policy, kinds: dict[str, NodeType]) -> Iterator[float]:
    """Yield when each idle node may go: once everything that keeps it for a time only has ended."""
    memory: Memory | None = None
    for one, node in snapshot.idle:
        kind = kinds.get(one.node_type)
        if kind is None or node.idle_s is None:
            continue
        if memory is None:
            memory = memory_of(snapshot, policy)
        limit_s = policy.idle_timeout_s if kind.idle_timeout_s is None else kind.idle_timeout_s
        idle_end_s = snapshot.now_s + limit_s - node.idle_s
        up_end_s = (one.created_s if one.ready_s is None else one.ready_s) + kind.min_up_s
        may_go_s = max(idle_end_s, up_end_s, memory.frozen_until_s.get(kind.name, -math.inf))
        yield may_go_s
        # A launch of its type a moment ago may keep it longer, or not, by what two boots cost then.
        yield max(may_go_s, memory.launched_s.get(kind.name, -math.inf) + policy.flap_s)


def _deadline_s(one: Instance, deadlines: Deadlines) -> float:
    match one.state:
        case State.REQUESTED:
            return one.since_s + deadlines.requested_s
        case State.BOOTING:
            return one.since_s + deadlines.booting_s
        case State.LOST:
            return one.since_s + deadlines.lost_s
        case State.DRAINING:
            return one.since_s + deadlines.draining_s if one.drain_deadline_s is None else one.drain_deadline_s
        case _:
            return -math.inf
