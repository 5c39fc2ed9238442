"""What the user wants of the cluster: node types, limits, caps and times. Built by `shoal.config`, read everywhere.

Every duration is in seconds, every price in USD per hour. Defaults stand here once; the schema of the YAML
takes them from here.
"""

from __future__ import annotations

import msgspec

from shoal.foundation.amounts import Amounts
from shoal.model.offer import MICRO, ON_DEMAND


class MachineNeed(msgspec.Struct, frozen=True, kw_only=True):
    """Requirements instead of a machine type's name: `cpu >= 4, memory >= 16 GiB, gpu: 1 x L4`."""

    at_least: Amounts = {}
    at_most: Amounts = {}
    accelerator: str = ""
    arch: str = ""
    families: tuple[str, ...] = ()


class Deadlines(msgspec.Struct, frozen=True, kw_only=True):
    """How long an instance may wait in each state before it is given up."""

    requested_s: float = 120.0
    booting_s: float = 600.0
    draining_s: float = 600.0
    releasing_s: float = 120.0
    lost_s: float = 300.0


class NodeType(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of `available_node_types`.

    `resources` says what a node offers, and what it leaves out is as the offer says (see `on`). `machine_types` and
    `need` limit which offers it may use; both empty allow whatever `node_config` names. `markets` in order of
    preference only where prices tie.
    """

    name: str
    provider: str
    resources: Amounts = {}
    labels: dict[str, str] = {}
    min_workers: int = 0
    max_workers: int = 0
    priority: int = 0
    idle_timeout_s: float | None = None
    min_up_s: float = 60.0
    machine_types: tuple[str, ...] = ()
    need: MachineNeed | None = None
    zones: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    markets: tuple[str, ...] = (ON_DEMAND,)
    price_usd_per_h: float | None = None
    deadlines: Deadlines = Deadlines()
    node_config: bytes = b"{}"
    """The provider's own part of the YAML, as JSON."""
    setup: tuple[str, ...] = ()

    def on(self, sold: Amounts) -> Amounts:
        """Return what a node of the type offers on a machine that is sold with `sold`.

        What the type says holds, zeros too (`{GPU: 0}` keeps tasks off a GPU); the rest is the machine's.
        """
        if not self.resources:
            return sold
        return {name: amount for name, amount in {**sold, **self.resources}.items() if amount or name == "CPU"}


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """Dollar caps, kept inside the plan. None is no cap."""

    usd_per_hour_max: float | None = None
    usd_total_max: float | None = None
    is_hard: bool = False
    """Whether work may be killed to get below a cap that a price rise crossed."""


class Repack(msgspec.Struct, frozen=True, kw_only=True):
    """When to move work to cheaper nodes. Off by default: moving restarts tasks."""

    is_on: bool = False
    saving_least: float = 0.05
    saving_least_usd_per_h: float = 0.05
    disrupted_nodes_max: float = 0.1
    horizon_s: float = 3600.0
    restart_cost_s: float = 60.0


class Thinking(msgspec.Struct, frozen=True, kw_only=True):
    """When to stop improving a plan; `act` holds the clock, `decide` only counts effort."""

    act_gap: float = 0.05
    think_floor_usd: float = 0.05
    think_s_max: float = 1.0
    think_boot_share: float = 0.02
    quiet_s: float = 0.05
    quiet_s_max: float = 0.5
    tick_s: float = 10.0
    effort_fixed: int | None = None


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """How failures of offers are remembered, and when a cause opens the launch breaker."""

    ttl_first_s: float = 30.0
    ttl_most_s: float = 1800.0
    p_least: float = 0.05
    breaker_failures: int = 3
    breaker_first_s: float = 60.0
    breaker_most_s: float = 3600.0


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the planner may take as given. Same snapshot, policy and seed: same plan."""

    cluster_name: str = "default"
    node_types: tuple[NodeType, ...] = ()
    head_node_type: str = ""
    max_workers: int = 2
    upscaling_speed: float | None = None
    idle_timeout_s: float = 300.0
    budget: Budget = Budget()
    width: str = "work"  # "work" | "full"
    finish_within_s: float = 30.0
    flap_s: float = 120.0
    gang_hold_s: float = 600.0
    cluster_idle_s: float | None = None
    lifetime_s: float | None = None
    lease_s: float = 600.0
    lease_busy_s: float = 3600.0
    gc_age_s: float = 300.0
    request_ttl_s: float = 3600.0
    spot_share_most: float = 1.0
    thinking: Thinking = Thinking()
    health: Health = Health()
    repack: Repack = Repack()

    @property
    def head_micro(self) -> int:
        """What the head's machine costs in micro-dollars per hour by its node type; 0 where that names no price."""
        head = self.node_type(self.head_node_type) if self.head_node_type else None
        return round((head.price_usd_per_h or 0.0) * MICRO) if head else 0

    def node_type(self, name: str) -> NodeType | None:
        """Return the node type of that name, None if the YAML has none (any more)."""
        for kind in self.node_types:
            if kind.name == name:
                return kind
        return None
