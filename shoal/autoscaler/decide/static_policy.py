"""A fleet of fixed size as a policy: what a user without an autoscaler keeps running. For comparison only.

Where a node type has `min_workers`, the minimums are the fleet; else every type is filled up to its `max_workers`, in
the order of the YAML, until `max_workers` of the cluster is reached. Nothing is ever given back for being idle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from shoal.autoscaler.decide import peers
from shoal.model.instance import State
from shoal.model.plan import Plan
from shoal.model.policy import Policy
from shoal.model.snapshot import Snapshot


def improve(snapshot: Snapshot, policy: Policy, seed: int) -> Iterator[Plan]:
    """Yield one plan: keep the fleet complete. `seed` changes nothing."""
    if not snapshot.is_listed:
        yield peers.finished(snapshot, (), snapshot.serial_next, (), "")
        return
    types = peers.peer_types(snapshot, policy)
    there = Counter(one.node_type for one in snapshot.instances if one.state not in (State.GONE, State.QUEUED))
    has_minimums = any(one.kind.min_workers for one in types)
    left = policy.max_workers - sum(there.values())
    counts: list[tuple[peers.PeerType, int, str]] = []
    for one in types:
        size = one.kind.min_workers if has_minimums else one.kind.max_workers
        count = max(0, min(left, size - there[one.kind.name]))
        left -= count
        counts.append((one, count, f"a fixed fleet of {size} `{one.kind.name}`"))
    steps, serial = peers.launches(snapshot, counts)
    steps.extend(peers.ended(snapshot, policy))
    yield peers.finished(snapshot, steps, serial, (), "")
