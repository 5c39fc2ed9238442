"""What is there or coming: every machine that a plan may count on, in the order in which work should fill it.

Ready nodes first, then what boots, then what is being emptied (taking it back costs nothing new), last the wishes
that were not called for yet. A stand's `free` goes down as the plan places work on it.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import cast

import msgspec

from shoal.autoscaler.decide.wares import Ware
from shoal.foundation.amounts import Amounts
from shoal.model.instance import Instance, State
from shoal.model.node import Node
from shoal.model.offer import OfferKey
from shoal.model.policy import Policy
from shoal.model.snapshot import Snapshot
from shoal.placement.fits import Spot

PLAIN = frozenset({"CPU", "memory", "object_store_memory"})
"""Resources that every machine has; a machine with others is left to the work that asks for them, while possible."""


class Rank(IntEnum):
    """How a stand comes to serve, cheapest first."""

    READY_BUSY = 0
    READY_IDLE = 1
    COMING = 2
    UNDRAIN = 3
    QUEUED = 4
    BOUGHT = 5


class Stand(msgspec.Struct, eq=False, gc=False):
    """One machine as the plan sees it. `used` says for whom it is needed; a stand nobody uses may go.

    `gc=False` here and in what it holds: a plan makes one per machine, and the collector would walk them all.
    """

    spot: Spot
    name: str
    """The instance's id, else the node's (the head of an `ssh` cluster has no instance)."""
    total: Amounts
    rank: Rank
    instance: Instance | None = None
    node: Node | None = None
    ware: Ware | None = None
    used: str = ""
    gang: str = ""
    held_for: str = ""
    placed: dict[str, int] = {}
    """Replaced, never changed in place."""
    promised: dict[str, int] = {}
    """Standing bundles that a new machine was bought for: a share of its size, not of its room."""

    @property
    def is_special(self) -> bool:
        """Whether the machine may have a resource that not every machine has."""
        total = self.total
        return not total.keys() <= PLAIN and any(name not in PLAIN and not name.startswith("node:") for name in total)

    @property
    def node_type(self) -> str:
        if self.ware is not None:
            return self.ware.node_type.name
        if self.instance is not None:
            return self.instance.node_type
        return self.node.node_type if self.node else ""


def stands(
    snapshot: Snapshot,
    policy: Policy,
    wares: Mapping[tuple[str, OfferKey], Ware],
) -> list[Stand]:
    """Return what a plan may count on, in the order of `Rank`, then by instance id."""
    by_rank: tuple[list[Stand], ...] = tuple([] for _ in Rank)
    nodes, is_ready, busy, idle = snapshot.nodes, State.READY, Rank.READY_BUSY, Rank.READY_IDLE
    without_instance = len(snapshot.work.nodes)
    for instance in snapshot.instances:
        name = instance.instance_id
        node = nodes.get(name)
        without_instance -= node is not None
        if instance.state is is_ready and node is not None and not (node.notice or node.is_cordoned or node.is_missing):
            # Nearly all of many come here: what `_stand` would say, without asking.
            rank = busy if node.idle_s is None else idle
            spot = Spot(spot_id=node.node_id, free=node.free, labels=node.labels)
            by_rank[rank].append(Stand(spot, name, node.total, rank, instance, node, None, "", "", "", _NONE, _NONE))
            continue
        stand = _stand(policy, instance, node, wares)
        if stand is not None:
            by_rank[stand.rank].append(stand)
    if without_instance:
        known = {instance.instance_id for instance in snapshot.instances}
        for node in snapshot.work.nodes:
            if node.instance_id in known or node.is_cordoned or node.notice:
                continue
            by_rank[Rank.READY_BUSY].append(_of_node(None, node, Rank.READY_BUSY))
    found: list[Stand] = []
    for stands_of_rank in by_rank:
        stands_of_rank.sort(key=_NAME)
        found += stands_of_rank
    pending = {gang.gang_id for gang in snapshot.work.gangs}
    held = {hold.instance_id: hold.gang for hold in snapshot.holds if hold.until_s > snapshot.now_s}
    if held:
        for stand in found:
            gang = held.get(stand.name, "")
            if gang in pending:
                stand.held_for = gang
    return found


_NONE = cast("dict[str, int]", MappingProxyType({}))
"""Shared by stands with nothing on them, and not to be written to: two empty dicts for each cost more than the rest."""
_NAME = operator.attrgetter("name")


def _stand(
    policy: Policy,
    instance: Instance,
    node: Node | None,
    wares: Mapping[tuple[str, OfferKey], Ware],
) -> Stand | None:
    match instance.state:
        case State.READY:
            if node is None:
                # Joined, and not in this cut of the head's view yet: as good as about to join.
                return _to_come(policy, instance, wares, Rank.COMING)
            if node.notice or (node.is_cordoned and not node.is_missing):
                return None
            return _of_node(instance, node, Rank.READY_BUSY if node.idle_s is None else Rank.READY_IDLE)
        case State.REQUESTED | State.BOOTING:
            return _to_come(policy, instance, wares, Rank.COMING)
        case State.QUEUED:
            ware = wares.get((instance.node_type, instance.offer))
            if ware is None or ware.word:
                return None  # its offer went bad before the call: better taken back and bought elsewhere
            return _to_come(policy, instance, wares, Rank.QUEUED)
        case State.DRAINING | State.DRAINED:
            if node is None or node.notice or instance.drain_deadline_s is not None:
                return None
            return _of_node(instance, node, Rank.UNDRAIN)
        case _:
            return None


def _of_node(instance: Instance | None, node: Node, rank: Rank) -> Stand:
    # What a missing node had runs or waits elsewhere until it is back; it counts as there, with all its room.
    total = node.total
    spot = Spot(spot_id=node.node_id, free=total if node.is_missing else node.free, labels=node.labels)
    name = node.node_id if instance is None else instance.instance_id
    return Stand(spot, name, total, rank, instance, node)


def _to_come(
    policy: Policy, instance: Instance, wares: Mapping[tuple[str, OfferKey], Ware], rank: Rank
) -> Stand | None:
    ware = wares.get((instance.node_type, instance.offer))
    if ware is not None:
        total, labels = ware.resources, ware.labels
    else:
        # The offer is no longer listed; what was promised then is what the type says now.
        kind = policy.node_type(instance.node_type)
        if kind is None or not kind.resources:
            return None
        total, labels = kind.resources, dict(kind.labels)
    spot = Spot(spot_id=instance.instance_id, free=total, labels=labels)
    return Stand(spot, instance.instance_id, total, rank, instance)


def bought(ware: Ware, number: int) -> Stand:
    """Return the stand of the plan's `number`-th new machine; its id is given when the plan is written down."""
    spot = Spot(spot_id=f"new-{number:06d}", free=ware.resources, labels=ware.labels)
    return Stand(spot, spot.spot_id, ware.resources, Rank.BOUGHT, ware=ware)


__all__ = ["PLAIN", "Rank", "Stand", "bought", "stands"]
