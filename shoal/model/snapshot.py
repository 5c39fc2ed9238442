"""Everything a plan is made from, at one version: nothing else may influence it.

Durations are relative to `now_s` (the autoscaler's monotonic clock); no wall clock appears here.
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property

import msgspec

from shoal.foundation.amounts import Amounts
from shoal.model.demand import DemandClass, Gang, Standing
from shoal.model.instance import Instance, State
from shoal.model.node import Node
from shoal.model.offer import Offer, OfferHealth, OfferKey, Quota


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What the head reports, as one cut: ordered by (epoch, version).

    While `is_settling` or a node is missing, nothing is drained for idleness.
    """

    epoch: int = 0
    version: int = 0
    nodes: tuple[Node, ...] = ()
    classes: tuple[DemandClass, ...] = ()
    gangs: tuple[Gang, ...] = ()
    standing: tuple[Standing, ...] = ()
    is_settling: bool = False
    idle_s: float | None = None
    """For how long the whole cluster has had nothing to do; None while it has."""


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """An instance kept for a gang until `until_s`."""

    gang: str
    instance_id: str
    until_s: float


class Recent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A launch (and perhaps its release) not long ago; hysteresis needs memory."""

    node_type: str
    offer: OfferKey
    launched_s: float
    released_s: float | None = None
    why: str = ""


class UsableMemory(msgspec.Struct, frozen=True):
    """Resources that the first node of a machine type really had, learned when it joined."""

    node_type: str
    machine_type: str
    resources: Amounts


class Breaker(msgspec.Struct, frozen=True, kw_only=True):
    """A launch circuit: open after repeated failures of one cause; half open allows one canary."""

    cause: str
    node_type: str
    failures: int
    open_for_s: float = 0.0
    is_half_open: bool = False
    error: str = ""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One consistent view of demand, nodes, instances, offers with their health, quotas and money.

    The views at the end follow from the rest. Most nodes of a large cluster are ready and busy and of no interest to
    most questions: who looks at the others alone need not walk all.
    """

    now_s: float
    cluster_uid: str = ""
    work: Work = Work()
    instances: tuple[Instance, ...] = ()
    offers: tuple[Offer, ...] = ()
    quotas: tuple[Quota, ...] = ()
    health: tuple[OfferHealth, ...] = ()
    breakers: tuple[Breaker, ...] = ()
    holds: tuple[Hold, ...] = ()
    recent: tuple[Recent, ...] = ()
    usable: tuple[UsableMemory, ...] = ()
    spent_micro: int = 0
    committed_micro: int = 0
    """Price per hour of every instance not gone or queued; unknown outcomes, releasing and debris included."""
    serial_next: int = 1
    up_s: float = 0.0
    is_listed: bool = True
    """Every provider has had one complete listing since the autoscaler started."""
    may_expire: bool = True
    """Deadlines count; False for a while after a restart or a jump of the clock."""

    @cached_property
    def nodes(self) -> dict[str, Node]:
        """The head's nodes by instance id; those without an instance (a head that nobody bought) are left out."""
        return {node.instance_id: node for node in self.work.nodes if node.instance_id}

    @cached_property
    def moving(self) -> tuple[Instance, ...]:
        """The instances that are not ready: on their way, lost or leaving."""
        ready = State.READY
        return tuple([one for one in self.instances if one.state is not ready])

    @cached_property
    def ready_counts(self) -> Counter[tuple[str, str]]:
        """How many instances are ready, by node type and market."""
        ready = State.READY
        return Counter([(one.node_type, one.offer.market) for one in self.instances if one.state is ready])

    @cached_property
    def idle(self) -> tuple[tuple[Instance, Node], ...]:
        """The ready instances whose nodes have nothing to do, the head's own left out."""
        nodes, ready = self.nodes, State.READY
        unused = {name for name, node in nodes.items() if node.idle_s is not None and not node.is_head}
        return tuple(
            [
                (one, nodes[one.instance_id])
                for one in self.instances
                if one.instance_id in unused and one.state is ready
            ]
            if unused
            else ()
        )

    @cached_property
    def troubled(self) -> tuple[Node, ...]:
        """The nodes that are missing or about to be taken away."""
        return tuple([node for node in self.work.nodes if node.notice or node.is_missing])
