"""What the policies we compare with have in common: capacity that is there, and giving back what has ended.

They stand in for `planner.improve` in simulations and measures only; nothing here looks at prices.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shoal.autoscaler.decide.forced import expired
from shoal.autoscaler.decide.wares import labels_of, offers_for
from shoal.foundation.amounts import Amounts
from shoal.foundation.ids import instance_id
from shoal.model.demand import DemandClass
from shoal.model.instance import State
from shoal.model.offer import Offer
from shoal.model.plan import Buy, Forget, Plan, Release, Step, Unmet, Verdict
from shoal.model.policy import Deadlines, NodeType, Policy
from shoal.model.snapshot import Snapshot


class PeerType(msgspec.Struct, frozen=True):
    """A node type as a price-blind scheduler sees it: resources, labels, and the one offer it launches."""

    kind: NodeType
    offer: Offer
    resources: Amounts
    labels: dict[str, str]


def peer_types(snapshot: Snapshot, policy: Policy) -> list[PeerType]:
    """Return the launchable node types in the order of the YAML, each with the first offer it may use."""
    found: list[PeerType] = []
    for kind in policy.node_types:
        if kind.name == policy.head_node_type and kind.max_workers == 0:
            continue
        offers = offers_for(kind, snapshot.offers)
        if offers:
            offer = offers[0]
            found.append(PeerType(kind, offer, kind.on(offer.resources), labels_of(kind, offer)))
    return found


def ended(snapshot: Snapshot, policy: Policy) -> list[Step]:
    """Return the steps that take back wishes and give back machines whose time is over."""
    steps: list[Step] = []
    late = expired(snapshot, policy)
    for one in sorted(snapshot.instances, key=lambda it: it.instance_id):
        kind = policy.node_type(one.node_type)
        deadlines = kind.deadlines if kind is not None else Deadlines()
        for_s = snapshot.now_s - one.since_s
        if one.state is State.QUEUED:
            steps.append(Forget(instance_id=one.instance_id, why="planned anew"))
        elif one.instance_id in late:
            steps.append(Release(instance_id=one.instance_id, why=late[one.instance_id]))
        elif one.state in (State.DRAINED, State.STRAY):
            steps.append(Release(instance_id=one.instance_id, why=one.why or "drained"))
        elif one.state is State.DRAINING and for_s > deadlines.draining_s and snapshot.may_expire:
            steps.append(Release(instance_id=one.instance_id, why="its drain's deadline has passed"))
        elif one.state is State.LOST and for_s > deadlines.lost_s and snapshot.may_expire:
            steps.append(Release(instance_id=one.instance_id, why=f"lost for {for_s:.0f} s"))
    return steps


def launches(snapshot: Snapshot, counts: Sequence[tuple[PeerType, int, str]]) -> tuple[list[Step], int]:
    """Return one launch per type with a count above 0, and the next serial."""
    serial = snapshot.serial_next
    steps: list[Step] = []
    for one, count, why in counts:
        if count <= 0:
            continue
        ids = tuple(instance_id(snapshot.cluster_uid, serial + number) for number in range(count))
        serial += count
        price = one.offer.price_micro
        steps.append(Buy(instance_ids=ids, node_type=one.kind.name, offer=one.offer.key, why=why, price_micro=price))
    return steps, serial


def finished(
    snapshot: Snapshot, steps: Sequence[Step], serial: int, left: Sequence[tuple[DemandClass, int]], why: str
) -> Plan:
    """Return the plan with what no machine was found for."""
    return Plan(
        steps=tuple(steps),
        unmet=tuple(
            Unmet(
                demand=demand.key,
                kind="class",
                amounts=demand.amounts,
                count=count,
                verdict=Verdict.BLOCKED,
                why=why,
                jobs=demand.jobs,
            )
            for demand, count in left
            if count
        ),
        cost_micro=sum((step.price_micro or 0) * len(step.instance_ids) for step in steps if isinstance(step, Buy)),
        version=(snapshot.work.epoch, snapshot.work.version),
        serial_next=serial,
    )
