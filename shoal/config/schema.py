"""The one model of a cluster file: it validates, it is the JSON Schema for editors and the table in docs/config.md.

Defaults that the planner knows come from `shoal.model.policy`, so that they stand in one place.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from shoal.config.kinds import (
    Anything,
    Duration,
    Label,
    LabelName,
    MachineChoice,
    Machines,
    Markets,
    Memory,
    Name,
    OneOrMany,
    Quantity,
    Section,
    Strings,
    key,
)
from shoal.config.providers import Provider
from shoal.config.quantities import resource_amount
from shoal.foundation.amounts import Amounts
from shoal.model.policy import Deadlines as PolicyDeadlines
from shoal.model.policy import Health, Policy, Repack, Thinking
from shoal.model.policy import NodeType as PolicyNodeType

_POLICY = Policy()
_TYPE = PolicyNodeType(name="", provider="")
_DEADLINES = PolicyDeadlines()
_THINKING = Thinking()
_HEALTH = Health()
_REPACK = Repack()


class Auth(Section):
    """How machines are reached by SSH."""

    ssh_user: str = key("ubuntu", says="User on the machines.", ray=True, min_length=1)
    ssh_private_key: str | None = key(
        None, says="Path of the private key; none: the cluster makes its own.", ray=True, unit="path"
    )
    ssh_public_key: str | None = key(
        None, says="Path of the public key (azure: both keys or neither).", ray=True, unit="path"
    )
    ssh_proxy_command: str | None = key(None, says="Command that SSH connects through.", ray=True)
    ssh_proxy_use_node_id: bool = key(
        False, says="Let the proxy command see the machine's id instead of its address.", ray=True
    )


class Docker(Section):
    """The container that everything runs in."""

    image: str | None = key(None, says="Image for head and workers.", ray=True)
    container_name: str | None = key(None, says="Name of the container.", ray=True)
    pull_before_run: bool = key(True, says="Pull the image at every start.", ray=True)
    run_options: Strings = key((), says="Further options of `docker run`.", ray=True)
    head_image: str | None = key(None, says="Image for the head.", ray=True)
    head_run_options: Strings = key((), says="Further options for the head.", ray=True)
    worker_image: str | None = key(None, says="Image for workers.", ray=True)
    worker_run_options: Strings = key((), says="Further options for workers.", ray=True)
    disable_automatic_runtime_detection: bool = key(False, says="Do not look for the GPU runtime.", ray=True)
    disable_shm_size_detection: bool = key(False, says="Do not set `--shm-size`.", ray=True)
    use_podman: bool = key(False, says="Use podman.", ray=True)


class TypeDocker(Section):
    """The container of one node type."""

    pull_before_run: bool | None = key(None, says="Pull the image at every start.", ray=True)
    worker_image: str | None = key(None, says="Image of this type.", ray=True)
    worker_run_options: Strings = key((), says="Further options of this type.", ray=True)


class Resources(BaseModel):
    """What a node of the type offers. Fractions are fine; any other name is a resource of your own."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, Quantity]

    CPU: Quantity | None = key(None, says="CPUs.", ray=True)
    GPU: Quantity | None = key(None, says="GPUs.", ray=True)
    memory: Memory | None = key(None, says="Memory for tasks.", ray=True, unit="bytes")
    object_store_memory: Memory | None = key(None, says="Memory for objects.", ray=True, unit="bytes")

    def amounts(self, *, with_zeros: bool = False) -> Amounts:
        """Return the resources as exact amounts.

        Zeros are dropped, but for CPU (`{CPU: 0}` is no empty wish), unless they overrule what a machine has.
        """
        quantities = self.model_dump(exclude_none=True)
        exact = {name: resource_amount(name, quantities[name]) for name in sorted(quantities)}
        return {name: amount for name, amount in exact.items() if amount or name == "CPU" or with_zeros}


class Deadlines(Section):
    """How long an instance may wait in each state before it is given up."""

    requested: Duration = key(
        _DEADLINES.requested_s,
        says="From the launch call to a listed machine.",
        why="Clouds list a machine within a minute; twice that is a failure.",
        unit="s",
    )
    booting: Duration = key(
        _DEADLINES.booting_s,
        says="From a listed machine to a joined node.",
        why="The slowest boots with a set-up take some minutes.",
        unit="s",
    )
    draining: Duration = key(_DEADLINES.draining_s, says="For running work to finish.", unit="s")
    releasing: Duration = key(
        _DEADLINES.releasing_s,
        says="Until the release call is made again.",
        why="A release is idempotent, so asking again is safe.",
        unit="s",
    )
    lost: Duration = key(
        _DEADLINES.lost_s,
        says="Silent, until the machine is released.",
        why="A rebooting machine is back by then.",
        unit="s",
    )


class NodeType(Section):
    """One entry of `available_node_types`: machines that are alike."""

    node_config: Anything = key({}, says="The cloud's own request body.", ray=True)
    resources: Resources = key(
        factory=lambda: Resources.model_validate({}),
        says="What a node offers; what is left out is as the machine type has it.",
        ray=True,
        why="`local` nodes need it: nothing else says how large they are.",
    )
    labels: dict[LabelName, Label] = key({}, says="Labels that selectors can ask for.", ray=True)
    min_workers: int = key(_TYPE.min_workers, says="Workers that are always there.", ray=True, ge=0)
    max_workers: int | None = key(
        None,
        says="Most workers of this type; none: the cluster's `max_workers`, for the head's type 0.",
        ray=True,
        ge=0,
    )
    idle_timeout_s: Duration | None = key(
        None, says="Idle time before a worker goes; none: the cluster's.", ray=True, unit="s"
    )
    priority: int = key(_TYPE.priority, says="Higher is preferred where prices tie.", ray=True)
    initialization_commands: Strings | None = key(None, says="Instead of the cluster's.", ray=True)
    worker_setup_commands: Strings | None = key(None, says="Instead of the cluster's.", ray=True)
    docker: TypeDocker | None = key(None, says="The container of this type.", ray=True)
    provider: Provider | None = key(None, says="Another provider than the cluster's.")
    machine_types: Machines = key(
        factory=MachineChoice,
        says="Machine types it may use: a name, a list, or requirements such as `cpu >= 4, gpu: 1 x L4`.",
    )
    regions: OneOrMany = key((), says="Regions it may use; empty: the provider's.")
    zones: OneOrMany = key((), says="Zones it may use; empty: the provider's.")
    markets: Markets = key(_TYPE.markets, says="`on-demand`, `spot`, or both; the cheaper is bought.")
    price_usd_per_h: float | None = key(None, says="Price, instead of the table's.", unit="USD/h", ge=0, le=100_000)
    min_up: Duration | None = key(None, says="Least time a machine is kept; none: the cluster's.", unit="s")
    deadlines: Deadlines | None = key(None, says="Instead of the cluster's.")
    boot_s: Duration | None = key(None, says="Boot time (provider `sim` only).", unit="s")


class Budget(Section):
    """Dollar caps, kept inside the plan."""

    usd_per_hour_max: float | None = key(
        None,
        says="Most that all machines together may cost, the head's at its `price_usd_per_h` too.",
        unit="USD/h",
        ge=0,
    )
    usd_total_max: float | None = key(
        None, says="Most that the cluster may ever cost, the head included in the same way.", unit="USD", ge=0
    )
    budget_hard: bool = key(
        False,
        says="Kill work to get below a cap that a price rise crossed.",
        why="Otherwise launches stop and idle nodes go.",
    )


class ThinkingSection(Section):
    """When the planner stops looking for a cheaper plan."""

    act_gap: float = key(
        _THINKING.act_gap,
        says="Act at once when this near to the proven bound.",
        why="Thinking longer saves less than waiting costs.",
        unit="fraction",
        ge=0,
        le=1,
    )
    think_floor_usd: float = key(_THINKING.think_floor_usd, says="Act at once when less is at stake.", unit="USD", ge=0)
    think_max: Duration = key(_THINKING.think_s_max, says="Longest time to think.", unit="s")
    think_boot_share: float = key(
        _THINKING.think_boot_share, says="Longest time to think, as a share of a boot.", unit="fraction", ge=0, le=1
    )
    quiet: Duration = key(
        _THINKING.quiet_s, says="Plan once demand has not grown for so long.", why="A burst becomes one plan.", unit="s"
    )
    quiet_max: Duration = key(
        _THINKING.quiet_s_max,
        says="Plan at the latest so long after the first unmet demand.",
        why="A steady stream must not starve.",
        unit="s",
    )
    tick: Duration = key(
        _THINKING.tick_s,
        says="Plan at least this often.",
        why="Events may be lost; a look at everything makes up for it. Above 500 nodes it grows with them, up to 30 s.",
        unit="s",
    )


class HealthSection(Section):
    """How failures of offers are remembered."""

    ttl_first: Duration = key(
        _HEALTH.ttl_first_s,
        says="Pause after an offer's first failure.",
        why="Doubles with every further failure.",
        unit="s",
    )
    ttl_most: Duration = key(_HEALTH.ttl_most_s, says="Longest pause.", unit="s")
    p_least: float = key(
        _HEALTH.p_least,
        says="Least chance of success that is believed.",
        why="An offer that failed long ago is tried again.",
        unit="fraction",
        gt=0,
        le=1,
    )
    breaker_failures: int = key(
        _HEALTH.breaker_failures,
        says="Failures of one cause that stop launches.",
        why="Once is bad luck, three times is a cause.",
        ge=1,
    )
    breaker_first: Duration = key(_HEALTH.breaker_first_s, says="First stop.", unit="s")
    breaker_most: Duration = key(_HEALTH.breaker_most_s, says="Longest stop.", unit="s")


class RepackSection(Section):
    """Whether work moves to cheaper nodes."""

    is_on: bool = key(_REPACK.is_on, says="Move work.", why="Off: moving restarts tasks.")
    saving_least: float = key(_REPACK.saving_least, says="Least saving of a move.", unit="fraction", ge=0, le=1)
    saving_least_usd_per_h: float = key(
        _REPACK.saving_least_usd_per_h, says="Least saving of a move.", unit="USD/h", ge=0
    )
    disrupted_nodes_max: float = key(
        _REPACK.disrupted_nodes_max,
        says="Most nodes that move at once.",
        why="The rest of the work goes on.",
        unit="fraction",
        ge=0,
        le=1,
    )
    horizon: Duration = key(_REPACK.horizon_s, says="Time over which a move must pay.", unit="s")
    restart_cost: Duration = key(_REPACK.restart_cost_s, says="Work lost by a restart.", unit="s")


class PolicySection(Section):
    """How the planner decides."""

    width: Literal["work", "full"] = key(
        _POLICY.width,
        says="`work`: buy for the work that waits; `full`: a slot for every task, as Ray does.",
        why="100,000 tasks of 1 ms must not buy machines that boot after the work is done.",
    )
    flap: Duration = key(
        _POLICY.flap_s,
        says="No idle drain of a type launched within this time. 0 turns off every rule against flapping.",
        why="Two boots cost more than a minute of idling.",
        unit="s",
    )
    gang_hold: Duration = key(
        _POLICY.gang_hold_s,
        says="How long machines are held for an incomplete gang.",
        why="The same as `deadlines.booting`.",
        unit="s",
    )
    spot_share_most: float = key(
        _POLICY.spot_share_most, says="Largest share of spot machines.", unit="fraction", ge=0, le=1
    )
    lease: Duration = key(
        _POLICY.lease_s,
        says="An idle machine without contact ends itself after this time.",
        why="Longer than any restart of the head.",
        unit="s",
        gt=0,
    )
    lease_busy: Duration = key(
        _POLICY.lease_busy_s,
        says="A working one after this time.",
        why="Work in flight is worth an hour of waiting for a head that restarts.",
        unit="s",
        gt=0,
    )
    gc_age: Duration = key(
        _POLICY.gc_age_s,
        says="Least age of a stray machine before it is released.",
        why="A listing may lag behind a launch by minutes.",
        unit="s",
    )
    request_ttl: Duration = key(
        _POLICY.request_ttl_s,
        says="How long a `request_resources` holds.",
        why="A forgotten request must not pay for machines for ever.",
        unit="s",
        gt=0,
    )
    thinking: ThinkingSection = key(ThinkingSection(), says="When the planner stops looking for a cheaper plan.")
    health: HealthSection = key(HealthSection(), says="How failures of offers are remembered.")
    repack: RepackSection = key(RepackSection(), says="Whether work moves to cheaper nodes.")


class Security(Section):
    """Who may reach the cluster. Every connection is authenticated, whatever stands here."""

    bind: Literal["loopback", "private"] = key(
        "loopback",
        says="Addresses that listeners use: this machine only, or its private network.",
        why="What nobody outside needs is open to nobody outside; on one machine it stays so.",
    )
    tls: Literal["between-hosts", "always"] = key(
        "between-hosts",
        says="Where connections are encrypted.",
        why="Loopback and Unix sockets never leave the machine.",
    )
    ssh_from: OneOrMany = key(
        (), says="Networks (CIDR) that may reach SSH on the head; empty: the address of who runs `up`."
    )


class Network(Section):
    """How node types on different providers reach each other."""

    joined: bool = key(False, says="Their networks are joined (a VPN or peering); `up` probes it.")


class Ports(Section):
    """Fixed ports; 0 lets the system choose, and is the only choice on one machine."""

    head: int = key(0, says="The head's port for agents and drivers.", ge=0, le=65535)
    control: int = key(0, says="The head's gRPC port.", ge=0, le=65535)
    dashboard: int = key(0, says="Dashboard, REST, jobs and metrics.", ge=0, le=65535)
    join: int = key(0, says="Where new machines join.", ge=0, le=65535)
    agent: int = key(0, says="The agent's port on every machine.", ge=0, le=65535)


class Cluster(Section):
    """A cluster file."""

    cluster_name: Name = key(says="Name of the cluster.", ray=True)
    provider: Provider = key(says="Where machines come from.", ray=True)
    max_workers: int = key(
        _POLICY.max_workers, says="Most workers, the head not counted.", why="Ray's default.", ray=True, ge=0
    )
    head_node_type: str | None = key(None, says="The node type of the head.", ray=True)
    available_node_types: dict[Name, NodeType] = key({}, says="Node types by name.", ray=True)
    upscaling_speed: float | None = key(
        None,
        says="Pending workers allowed per running one; none: no limit.",
        ray=True,
        ge=0,
        why="The plan is as large as the need; Ray's limit holds only when written.",
    )
    idle_timeout_minutes: float | None = key(
        None, says="Idle time before a worker goes.", ray=True, unit="min", ge=0, le=1e6
    )
    idle_timeout_s: Duration | None = key(
        None, says=f"The same in seconds, or as `30s`; neither written: {_POLICY.idle_timeout_s:.0f} s.", unit="s"
    )
    auth: Auth = key(Auth(), says="How machines are reached by SSH.", ray=True)
    docker: Docker = key(Docker(), says="The container that everything runs in; empty: none.", ray=True)
    file_mounts: dict[str, str] = key({}, says="Files for every machine: `{there: here}`.", ray=True)
    cluster_synced_files: Strings = key((), says="Paths copied from the head to workers.", ray=True)
    file_mounts_sync_continuously: bool = key(False, says="Ignored: files are copied by `up` and at boot.", ray=True)
    rsync_exclude: Strings = key((), says="Patterns that are not copied.", ray=True)
    rsync_filter: Strings = key((), says="Files with such patterns, such as `.gitignore`.", ray=True)
    metadata: Any = key(None, says="Yours; nothing reads it.", ray=True)
    initialization_commands: Strings = key((), says="Run on the machine, before the container.", ray=True)
    setup_commands: Strings = key((), says="Run on head and workers.", ray=True)
    head_setup_commands: Strings = key((), says="Then run on the head.", ray=True)
    worker_setup_commands: Strings = key((), says="Then run on workers.", ray=True)
    head_start_ray_commands: Strings = key(
        (), says="Ignored unless `engine: ray`: the head starts by itself.", ray=True
    )
    worker_start_ray_commands: Strings = key(
        (), says="Ignored unless `engine: ray`: workers start by themselves.", ray=True
    )
    no_restart: bool | None = key(None, says="Ignored: `shoal up --no-restart`.", ray=True)
    min_workers: int | None = key(None, says="Old: write it in the node type.", ray=True, ge=0)
    head_node: Anything | None = key(
        None, says="Old: the head's `node_config`, for files without node types.", ray=True
    )
    worker_nodes: Anything | None = key(None, says="Old: the workers' `node_config`.", ray=True)
    worker_default_node_type: str | None = key(None, says="Old and ignored: the cheapest type is chosen.", ray=True)
    budget: Budget = key(Budget(), says="Dollar caps.")
    lifetime: Duration | None = key(None, says="The cluster ends after this time.", unit="s", gt=0)
    idle_shutdown: Duration | None = key(None, says="The cluster ends after being idle for this time.", unit="s", gt=0)
    finish_within: Duration = key(
        _POLICY.finish_within_s,
        says="Machines are bought so that waiting work is done in about this time.",
        unit="s",
        gt=0,
        why="About one boot: less would buy machines for work that is done before they join.",
    )
    min_up: Duration = key(
        _TYPE.min_up_s, says="Least time a machine is kept.", why="Clouds bill at least a minute.", unit="s"
    )
    deadlines: Deadlines = key(Deadlines(), says="How long an instance may wait in each state.")
    policy: PolicySection = key(PolicySection(), says="How the planner decides.")
    security: Security = key(Security(), says="Who may reach the cluster.")
    engine: Literal["builtin", "ray", "dask"] = key("builtin", says="What runs on the machines.")
    network: Network = key(Network(), says="How node types on different providers reach each other.")
    ports: Ports = key(Ports(), says="Fixed ports.")
