"""Make the planner's `Policy` from a checked cluster file, and give every provider used in it a name."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from shoal.config.pods import pod_resources
from shoal.config.providers import CLOUDS, Common, region_written, settings, zone_names, zones_written
from shoal.config.schema import Cluster, NodeType
from shoal.foundation.amounts import Amounts
from shoal.model import policy as model


class ProviderUse(msgspec.Struct, frozen=True, kw_only=True):
    """One provider to be made: `name` is what `NodeType.provider` and offers say, `kind` the word under `type`.

    `settings` is its section of the file as JSON, defaults included, keys sorted.
    """

    name: str
    kind: str
    settings: bytes


def provider_uses(cluster: Cluster) -> tuple[ProviderUse, ...]:
    """Return every provider the file uses, the cluster's own first, each once."""
    uses: list[ProviderUse] = []
    for provider in (cluster.provider, *(kind.provider for kind in cluster.available_node_types.values())):
        if provider is not None and not any(_same(use, provider) for use in uses):
            uses.append(_use(provider, taken={use.name for use in uses}))
    return tuple(uses)


def provider_name(cluster: Cluster, provider: Common | None) -> str:
    """Return the name under which `provider` (None: the cluster's) is known."""
    wanted = provider or cluster.provider
    return next(use.name for use in provider_uses(cluster) if _same(use, wanted))


def policy(cluster: Cluster) -> model.Policy:
    """Return what the planner may take as given. The cluster must have passed every rule."""
    ways = cluster.policy
    thinking, health, repack = ways.thinking, ways.health, ways.repack
    return model.Policy(
        cluster_name=cluster.cluster_name,
        node_types=tuple(node_type(cluster, name) for name in cluster.available_node_types),
        head_node_type=cluster.head_node_type or "",
        max_workers=cluster.max_workers,
        upscaling_speed=cluster.upscaling_speed,
        idle_timeout_s=idle_timeout_s(cluster),
        budget=model.Budget(
            usd_per_hour_max=cluster.budget.usd_per_hour_max,
            usd_total_max=cluster.budget.usd_total_max,
            is_hard=cluster.budget.budget_hard,
        ),
        width=ways.width,
        finish_within_s=cluster.finish_within,
        flap_s=ways.flap,
        gang_hold_s=ways.gang_hold,
        cluster_idle_s=cluster.idle_shutdown,
        lifetime_s=cluster.lifetime,
        lease_s=ways.lease,
        lease_busy_s=ways.lease_busy,
        gc_age_s=ways.gc_age,
        request_ttl_s=ways.request_ttl,
        spot_share_most=ways.spot_share_most,
        thinking=model.Thinking(
            act_gap=thinking.act_gap,
            think_floor_usd=thinking.think_floor_usd,
            think_s_max=thinking.think_max,
            think_boot_share=thinking.think_boot_share,
            quiet_s=thinking.quiet,
            quiet_s_max=thinking.quiet_max,
            tick_s=thinking.tick,
        ),
        health=model.Health(
            ttl_first_s=health.ttl_first,
            ttl_most_s=health.ttl_most,
            p_least=health.p_least,
            breaker_failures=health.breaker_failures,
            breaker_first_s=health.breaker_first,
            breaker_most_s=health.breaker_most,
        ),
        repack=model.Repack(
            is_on=repack.is_on,
            saving_least=repack.saving_least,
            saving_least_usd_per_h=repack.saving_least_usd_per_h,
            disrupted_nodes_max=repack.disrupted_nodes_max,
            horizon_s=repack.horizon,
            restart_cost_s=repack.restart_cost,
        ),
    )


def node_type(cluster: Cluster, name: str) -> model.NodeType:
    """Return one node type as the planner sees it."""
    kind = cluster.available_node_types[name]
    provider = kind.provider or cluster.provider
    deadlines = kind.deadlines or cluster.deadlines
    return model.NodeType(
        name=name,
        provider=provider_name(cluster, kind.provider),
        resources=resources(kind, str(getattr(provider, "type", ""))),
        labels=dict(sorted(kind.labels.items())),
        min_workers=kind.min_workers,
        max_workers=max_workers(cluster, name),
        priority=kind.priority,
        idle_timeout_s=kind.idle_timeout_s,
        min_up_s=cluster.min_up if kind.min_up is None else kind.min_up,
        machine_types=machine_types(kind),
        need=kind.machine_types.need,
        zones=zones(kind, provider),
        regions=kind.regions or ((region_written(provider),) if region_written(provider) else ()),
        markets=markets(kind),
        price_usd_per_h=kind.price_usd_per_h,
        deadlines=model.Deadlines(
            requested_s=deadlines.requested,
            booting_s=deadlines.booting,
            draining_s=deadlines.draining,
            releasing_s=deadlines.releasing,
            lost_s=deadlines.lost,
        ),
        node_config=_canonical(
            kind.node_config if kind.boot_s is None else {**kind.node_config, "boot_s": kind.boot_s}
        ),
        setup=setup(cluster, kind, is_head=name == cluster.head_node_type),
    )


def resources(kind: NodeType, provider: str) -> Amounts:
    """Return what a node of the type offers; what is left out is as the offer says.

    At Kubernetes, where nothing else says how large a pod is, the first container's limits and requests do.
    """
    said = kind.resources.amounts(with_zeros=provider in CLOUDS)
    if provider == "kubernetes" and not said:
        return pod_resources(kind.node_config)
    return said


def max_workers(cluster: Cluster, name: str) -> int:
    """Return the most workers of a type: its own limit, else the cluster's, and 0 for the head's type."""
    own = cluster.available_node_types[name].max_workers
    if own is not None:
        return own
    return 0 if name == cluster.head_node_type else cluster.max_workers


def idle_timeout_s(cluster: Cluster) -> float:
    """Return the cluster's idle timeout from whichever key it was written with."""
    if cluster.idle_timeout_s is not None:
        return cluster.idle_timeout_s
    if cluster.idle_timeout_minutes is not None:
        return cluster.idle_timeout_minutes * 60
    return model.Policy().idle_timeout_s


def machine_types(kind: NodeType) -> tuple[str, ...]:
    """Return the machine types by name: those written, else the one that `node_config` names in its cloud's way."""
    if kind.machine_types:
        return kind.machine_types.names
    named = named_machine_type(kind.node_config)
    return (named,) if named else ()


def named_machine_type(node_config: dict[str, Any]) -> str:
    """Return the machine type in a cloud's request body, "" if it has none.

    AWS: `InstanceType`; GCP: `machineType`, with or without its URL; Azure: `azure_arm_parameters.vmSize`.
    """
    arm = node_config.get("azure_arm_parameters")
    found = node_config.get("InstanceType") or node_config.get("machineType")
    if not found and isinstance(arm, dict):
        found = arm.get("vmSize")
    return found.rsplit("/", 1)[-1] if isinstance(found, str) else ""


def named_market(node_config: dict[str, Any]) -> str:
    """Return the market in a cloud's request body, "" if it says nothing."""
    options = node_config.get("InstanceMarketOptions")
    if isinstance(options, dict) and options.get("MarketType") == "spot":
        return "spot"
    # Ray's example files write GCP's `scheduling` as a list of one-key mappings; its own body is a mapping.
    scheduling = node_config.get("scheduling")
    for part in scheduling if isinstance(scheduling, list) else [scheduling]:
        if isinstance(part, dict) and (part.get("preemptible") is True or part.get("provisioningModel") == "SPOT"):
            return "spot"
    arm = node_config.get("azure_arm_parameters")
    if isinstance(arm, dict) and str(arm.get("priority", "")).lower() == "spot":
        return "spot"
    return ""


def markets(kind: NodeType) -> tuple[str, ...]:
    """Return the markets: those written, else what `node_config` says, else on-demand."""
    if "markets" not in kind.model_fields_set and (named := named_market(kind.node_config)):
        return (named,)
    return tuple(kind.markets)


def named_zones(node_config: dict[str, Any]) -> tuple[str, ...] | None:
    """Return the zones in a cloud's request body, None if it says nothing; empty: any.

    AWS: `Placement.AvailabilityZone`; Azure: `azure_arm_parameters.availability_zone`, as Ray reads it.
    """
    placement, arm = node_config.get("Placement"), node_config.get("azure_arm_parameters")
    found = placement.get("AvailabilityZone") if isinstance(placement, dict) else None
    if not found and isinstance(arm, dict):
        found = arm.get("availability_zone")
    if not isinstance(found, str | int) or isinstance(found, bool) or found == "":
        return None
    return zone_names(str(found))


def zones(kind: NodeType, provider: Common) -> tuple[str, ...]:
    """Return the zones a type may use: those written, else what `node_config` says, else the provider's."""
    if kind.zones:
        return kind.zones
    named = named_zones(kind.node_config)
    return zones_written(provider) if named is None else named


def setup(cluster: Cluster, kind: NodeType, *, is_head: bool) -> tuple[str, ...]:
    """Return the commands that set a machine up, in Ray's order: initialization, common, then of its role."""
    first = cluster.initialization_commands if kind.initialization_commands is None else kind.initialization_commands
    if is_head:
        return (*first, *cluster.setup_commands, *cluster.head_setup_commands)
    workers = cluster.worker_setup_commands if kind.worker_setup_commands is None else kind.worker_setup_commands
    return (*first, *cluster.setup_commands, *workers)


def _use(provider: Common, taken: set[str]) -> ProviderUse:
    said = settings(provider)
    kind = str(said["type"])
    region = region_written(provider)
    names = [kind, f"{kind}-{region}"] if region else [kind]
    names += [f"{kind}-{serial}" for serial in range(2, len(taken) + 3)]
    return ProviderUse(name=next(name for name in names if name not in taken), kind=kind, settings=_canonical(said))


def _same(use: ProviderUse, provider: Common) -> bool:
    return use.settings == _canonical(settings(provider))


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
