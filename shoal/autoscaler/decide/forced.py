"""Machines that go whatever waits: endless boots, interruptions, limits that were lowered, a cap that prices crossed.

Decided before work is placed, so that nothing is planned on them. Idle nodes go first and at once; a busy one may
finish until a drain's deadline, and only for a limit that the user lowered or under `budget_hard`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container

from shoal.model.instance import Instance, State
from shoal.model.node import Node
from shoal.model.offer import MICRO
from shoal.model.plan import Drain
from shoal.model.policy import Deadlines, Policy
from shoal.model.snapshot import Snapshot

SERVING = frozenset({State.REQUESTED, State.BOOTING, State.READY})


def forced_drains(
    snapshot: Snapshot, policy: Policy, there: Counter[str], committed_micro: int, calm: str
) -> dict[str, Drain]:
    """Return the drains by instance id; dearest nodes first where only some must go.

    `there` counts what serves, by node type. `calm` is why nothing but interruptions may drain now, `` if it may.
    `committed_micro` is the price per hour of all that is or may be billed.
    """
    found: dict[str, Drain] = {}
    over_type = {name: there[name] - most for name, most in _most(policy, there).items()}
    over_total = sum(there.values()) - policy.max_workers
    cap = policy.budget.usd_per_hour_max
    cap_micro = None if cap is None else cap * MICRO
    is_over = over_total > 0 or any(count > 0 for count in over_type.values())
    is_dear = cap_micro is not None and committed_micro > cap_micro
    if not is_over and not is_dear and not any(node.notice for node in snapshot.troubled):
        return found
    joined = [(one, node) for one, node in _dearest_first(snapshot) if not node.is_head]
    # The narrowest reason first: a node that must go for its type makes room under the limit of all.
    for turn in ("notice", "type", "total", "cap"):
        for one, node in joined:
            name = one.node_type
            if one.instance_id in found or (turn != "notice" and (calm or node.is_missing)):
                continue
            why, may_interrupt = "", True
            if turn == "notice" and node.notice:
                why = f"notice: {node.notice}"
            elif turn == "type" and over_type[name] > 0:
                is_known = policy.node_type(name) is not None
                why = "above max_workers" if is_known else f"node type `{name}` is gone from the configuration"
            elif turn == "total" and over_total > 0:
                why = "above max_workers"
            elif turn == "cap" and cap_micro is not None and committed_micro > cap_micro:
                why, may_interrupt = "the committed price is above usd_per_hour_max", policy.budget.is_hard
            if not why or (node.idle_s is None and not may_interrupt):
                continue
            found[one.instance_id] = _drain(policy, one, node, why)
            over_type[name] -= 1
            over_total -= 1
            committed_micro -= one.price_micro or 0
    return found


def _drain(policy: Policy, one: Instance, node: Node, why: str) -> Drain:
    """Return the drain of an idle node at its idle serial, else one with a deadline."""
    if node.notice:
        # Where the cloud names no time, work may go on until it takes the machine.
        left_s = _draining_s(policy, one) if node.notice_deadline_s is None else node.notice_deadline_s
        return Drain(instance_id=one.instance_id, why=why, deadline_s=left_s)
    if node.idle_s is not None:
        return Drain(instance_id=one.instance_id, why=why, idle_serial=node.idle_serial)
    return Drain(instance_id=one.instance_id, why=why, deadline_s=_draining_s(policy, one))


def _draining_s(policy: Policy, one: Instance) -> float:
    kind = policy.node_type(one.node_type)
    return (kind.deadlines if kind is not None else Deadlines()).draining_s


def expired(snapshot: Snapshot, policy: Policy) -> dict[str, str]:
    """Return the instances on their way that are given up, with the reason: nothing may be planned on them."""
    found: dict[str, str] = {}
    if not snapshot.may_expire:
        return found
    for one in snapshot.moving:
        if one.state is not State.REQUESTED and one.state is not State.BOOTING:
            continue
        kind = policy.node_type(one.node_type)
        deadlines = kind.deadlines if kind is not None else Deadlines()
        for_s = snapshot.now_s - one.since_s
        if one.state is State.REQUESTED and for_s > deadlines.requested_s:
            found[one.instance_id] = f"no machine after {for_s:.0f} s"
        elif one.state is State.BOOTING and for_s > deadlines.booting_s:
            found[one.instance_id] = f"has not joined after {for_s:.0f} s"
    return found


def serving(snapshot: Snapshot, given_up: Container[str] = ()) -> Counter[str]:
    """Return per node type how many instances serve or will, those that are given up left out."""
    found = Counter(
        one.node_type for one in snapshot.moving if one.state in SERVING and one.instance_id not in given_up
    )
    for (node_type, _), count in snapshot.ready_counts.items():
        found[node_type] += count
    return found


def _most(policy: Policy, there: Counter[str]) -> dict[str, int]:
    most = {kind.name: kind.max_workers for kind in policy.node_types}
    return {**dict.fromkeys(there, 0), **most}


def _dearest_first(snapshot: Snapshot) -> list[tuple[Instance, Node]]:
    nodes = snapshot.nodes
    joined = [
        (one, nodes[one.instance_id])
        for one in snapshot.instances
        if one.state is State.READY and one.instance_id in nodes
    ]
    joined.sort(
        key=lambda pair: (
            pair[1].idle_s is None,
            -(pair[0].price_micro or 0),
            -(pair[1].idle_s or 0.0),
            pair[0].instance_id,
        )
    )
    return joined
