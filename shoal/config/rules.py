"""What several keys say together: Ray's cross-field rules, those Ray misses, and ours."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from shoal.config.build import (
    idle_timeout_s,
    max_workers,
    named_machine_type,
    named_market,
    named_zones,
    resources,
)
from shoal.config.diagnostics import Path, nearest, shown
from shoal.config.findings import Findings
from shoal.config.honour import kind_of, providers
from shoal.config.providers import CLOUDS, Azure, Common, Ssh, region_written, zones_written
from shoal.config.schema import Cluster, NodeType

TYPES = "available_node_types"
_MACHINE_KEY = {"aws": "InstanceType", "gcp": "machineType", "azure": "azure_arm_parameters: {vmSize}"}
_BODIES = {"InstanceType": "aws", "machineType": "gcp", "azure_arm_parameters": "azure"}
_PRIVILEGED_PORTS = 1024


def check(cluster: Cluster, findings: Findings) -> None:
    """Note everything that does not hold."""
    _head(cluster, findings)
    _counts(cluster, findings)
    _times(cluster, findings)
    _budget(cluster, findings)
    _docker_and_auth(cluster, findings)
    _networks(cluster, findings)
    _ports(cluster, findings)
    for path, provider in providers(cluster):
        if isinstance(provider, Ssh):
            _hosts(path, provider, findings)
        _zones((*path, "availability_zone"), zones_written(provider), (region_written(provider),), provider, findings)
    for name, kind in cluster.available_node_types.items():
        _node_type(cluster, name, kind, findings)


def _head(cluster: Cluster, findings: Findings) -> None:
    types = cluster.available_node_types
    if not types:
        hint = "`configs/` has an example for each provider"
        findings.error((TYPES,), "at least one node type", "none", hint)
    elif cluster.head_node_type is None:
        near = next((name for name in types if "head" in name), next(iter(types)))
        hint = f"write `head_node_type: {near}`"
        findings.error(("head_node_type",), f"a key of `{TYPES}`", "nothing", hint, reads=[(TYPES,)])
    elif cluster.head_node_type not in types:
        near = nearest(cluster.head_node_type, types)
        hint = f"did you mean `{near}`?" if near else f"there are {', '.join(f'`{name}`' for name in types)}"
        got = shown(cluster.head_node_type)
        findings.error(("head_node_type",), f"a key of `{TYPES}`", got, hint)


def _counts(cluster: Cluster, findings: Findings) -> None:
    total = 0
    for name, kind in cluster.available_node_types.items():
        path = (TYPES, name, "min_workers")
        limit = (TYPES, name, "max_workers")
        most = max_workers(cluster, name)
        total += kind.min_workers
        if kind.min_workers <= most:
            continue
        hint = ""
        if name == cluster.head_node_type:
            hint = "the head is there anyway; these are workers of the head's type, so raise its `max_workers` too"
        elif kind.max_workers is None:
            hint = "the type has no `max_workers`, so the cluster's holds"
        reads = [limit, ("max_workers",), ("head_node_type",)]
        findings.error(path, f"at most `max_workers`, which is {most}", f"`{kind.min_workers}`", hint, reads=reads)
    if total > cluster.max_workers:
        findings.error(
            ("max_workers",),
            f"at least {total}, the sum of all `min_workers`",
            f"`{cluster.max_workers}`",
            reads=[(TYPES, name, "min_workers") for name in cluster.available_node_types],
        )


def _times(cluster: Cluster, findings: Findings) -> None:
    if cluster.idle_timeout_s is not None and cluster.idle_timeout_minutes is not None:
        findings.error(
            ("idle_timeout_s",), "one idle timeout", "also `idle_timeout_minutes`", "leave one of them out", at_key=True
        )
    ways = cluster.policy
    pairs = (
        (("policy", "thinking", "quiet"), ways.thinking.quiet, "quiet_max", ways.thinking.quiet_max),
        (("policy", "health", "ttl_first"), ways.health.ttl_first, "ttl_most", ways.health.ttl_most),
        (("policy", "health", "breaker_first"), ways.health.breaker_first, "breaker_most", ways.health.breaker_most),
        (("policy", "lease"), ways.lease, "lease_busy", ways.lease_busy),
    )
    for path, low, name, high in pairs:
        if low > high:
            other = (*path[:-1], name)
            findings.error(path, f"at most `{name}`, which is {high:g} s", f"{low:g} s", reads=[other])
    idle = idle_timeout_s(cluster)
    if cluster.idle_shutdown is not None and cluster.idle_shutdown < idle:
        findings.warning(
            ("idle_shutdown",),
            f"at least the idle timeout, which is {idle:g} s",
            f"{cluster.idle_shutdown:g} s",
            "the whole cluster ends before a worker is idle for long enough to go",
            reads=[("idle_timeout_s",), ("idle_timeout_minutes",)],
        )


def _budget(cluster: Cluster, findings: Findings) -> None:
    """Say it now if what is always there costs more than is allowed. Only prices in the file are known here."""
    cap = cluster.budget.usd_per_hour_max
    cost, reads = 0.0, []
    for name, kind in cluster.available_node_types.items():
        count = kind.min_workers + (name == cluster.head_node_type)
        if count and kind.price_usd_per_h is not None:
            cost += count * kind.price_usd_per_h
            reads += [(TYPES, name, "min_workers"), (TYPES, name, "price_usd_per_h")]
    if cap is not None and cost > cap:
        findings.error(
            ("budget", "usd_per_hour_max"),
            f"at least {cost:.4g} USD/h, the price of the head and all `min_workers`",
            f"`{cap:g}`",
            reads=[*reads, ("head_node_type",)],
        )


def _docker_and_auth(cluster: Cluster, findings: Findings) -> None:
    docker = cluster.docker
    images = [image for image in (docker.image, docker.head_image, docker.worker_image) if image]
    images += [image for kind in cluster.available_node_types.values() if (image := _own_image(kind))]
    if images and not docker.container_name:
        findings.error(
            ("docker", "container_name"),
            "a name beside the image",
            "nothing",
            "write `container_name: ray_container`",
            reads=[(TYPES,)],
        )
    if docker.container_name and not images:
        findings.error(
            ("docker", "image"), "an image beside `container_name`", "nothing", "leave `docker` out for no container"
        )
    if cluster.auth.ssh_proxy_use_node_id and not cluster.auth.ssh_proxy_command:
        findings.error(("auth", "ssh_proxy_command"), "a command, for `ssh_proxy_use_node_id`", "nothing")
    private, public = cluster.auth.ssh_private_key, cluster.auth.ssh_public_key
    if isinstance(cluster.provider, Azure) and bool(private) != bool(public):
        there, lacking = ("ssh_private_key", "ssh_public_key") if private else ("ssh_public_key", "ssh_private_key")
        findings.error(
            ("auth", lacking), f"the other key beside `{there}`", "nothing", "azure needs both keys or neither"
        )


def _own_image(kind: NodeType) -> str:
    return (kind.docker.worker_image or "") if kind.docker else ""


def _networks(cluster: Cluster, findings: Findings) -> None:
    first = kind_of(cluster.provider)
    for name, kind in cluster.available_node_types.items():
        other = kind_of(kind.provider or cluster.provider)
        if other == first:
            continue
        path: Path = (TYPES, name, "provider")
        if "sim" in (first, other):
            findings.error(
                path,
                f"`{first}` as for the cluster",
                f"`{other}`",
                "simulated machines cannot join real ones",
                reads=[("provider",)],
            )
        elif not cluster.network.joined:
            findings.error(
                path,
                "networks that are joined",
                f"`{other}` beside `{first}`",
                "join them (VPN or peering) and write `network: {joined: true}`",
                reads=[("network",), ("provider",)],
            )
    for place, network in enumerate(cluster.security.ssh_from):
        path = ("security", "ssh_from", place)
        try:
            size = ipaddress.ip_network(network, strict=False).prefixlen
        except ValueError:
            findings.error(path, "a network such as `203.0.113.0/24`", shown(network))
            continue
        if size == 0:
            findings.warning(
                path, "networks of yours", shown(network), "opens SSH to everybody; write your own network"
            )


def _ports(cluster: Cluster, findings: Findings) -> None:
    fixed: dict[int, str] = {}
    for name in type(cluster.ports).model_fields:
        port = getattr(cluster.ports, name)
        if not port:
            continue
        if port < _PRIVILEGED_PORTS:
            findings.error(("ports", name), "0 or at least 1024", f"`{port}`", "lower ports belong to the system")
        if port in fixed:
            findings.error(("ports", name), "a port of its own", f"`{port}`, as for `{fixed[port]}`")
        fixed.setdefault(port, name)


def _hosts(path: Path, provider: Ssh, findings: Findings) -> None:
    seen = {provider.head_ip}
    for place, host in enumerate(provider.worker_ips):
        if host in seen:
            other = "`head_ip`" if host == provider.head_ip else "above"
            findings.error((*path, "worker_ips", place), "each host once", f"{shown(host)}, as {other}")
        seen.add(host)


def _zones(path: Path, zones: tuple[str, ...], regions: tuple[str, ...], provider: Common, findings: Findings) -> None:
    """Zones carry the name of their region at AWS (`us-west-2a`) and GCP (`us-west1-a`)."""
    if kind_of(provider) not in ("aws", "gcp") or not any(regions):
        return
    for zone in zones:
        if not zone.startswith(regions):
            findings.error(path, f"zones of {' or '.join(f'`{region}`' for region in regions)}", shown(zone))


def _node_type(cluster: Cluster, name: str, kind: NodeType, findings: Findings) -> None:
    path: Path = (TYPES, name)
    provider = kind.provider or cluster.provider
    word = kind_of(provider)
    # Everything below depends on which provider it is; say nothing if that is not known.
    reads = [(*path, "provider") if kind.provider else ("provider",)]
    for key, hint in _misplaced(kind, word):
        findings.error((*path, key), f"no `{key}` for provider `{word}`", "one", hint, reads=reads, at_key=True)
    _resources(path, kind, findings)
    if word in CLOUDS:
        _cloud_machine(path, kind, word, reads, findings)
        regions = kind.regions or (region_written(provider),)
        _zones((*path, "zones"), kind.zones, regions, provider, findings)
        if not kind.zones:
            _zones(
                (*path, "node_config", "Placement", "AvailabilityZone"),
                named_zones(kind.node_config) or (),
                regions,
                provider,
                findings,
            )
    elif word == "local" and not kind.resources.amounts():
        findings.error(
            (*path, "resources"),
            "what a node offers, such as `{CPU: 2}`",
            "nothing",
            "`local` nodes share this machine, so each says what it may use",
            reads=reads,
        )
    elif word == "kubernetes" and not resources(kind, word):
        findings.error(
            (*path, "resources"),
            "what a pod offers, such as `{CPU: 2, memory: 4 GiB}`",
            "nothing",
            "or give the first container of `node_config` a limit or request of `cpu`",
            reads=[*reads, (*path, "node_config")],
        )
    elif isinstance(provider, Ssh):
        hosts = {provider.head_ip, *provider.worker_ips}
        for host in kind.machine_types.names:
            if host not in hosts:
                findings.error((*path, "machine_types"), "hosts of `worker_ips`", shown(host), reads=reads)
    if word != "kubernetes" and name == cluster.head_node_type and "spot" in _markets_said(kind):
        findings.warning(
            (*path, "markets"),
            "`on-demand` for the head",
            "`spot`",
            "the cluster loses its head when the cloud takes the machine back",
        )


def _misplaced(kind: NodeType, word: str) -> Iterator[tuple[str, str]]:
    """Yield keys that say nothing at this provider; most would change what is bought."""
    said = kind.model_fields_set
    if "boot_s" in said and word != "sim":
        yield "boot_s", "only simulated machines can be told how fast to boot"
    if word not in ("local", "ssh"):
        return
    for key in ("zones", "regions", "markets"):
        if key in said and getattr(kind, key) not in ((), ("on-demand",)):
            yield key, "nothing is bought there"
    if word == "local" and kind.machine_types:
        yield "machine_types", "write `resources`"
    if word == "ssh" and kind.machine_types.need:
        yield "machine_types", "list hosts of `worker_ips`"
    if kind.node_config:
        yield "node_config", "nothing is bought there; leave it out or write `{}`"


def _cloud_machine(path: Path, kind: NodeType, word: str, reads: list[Path], findings: Findings) -> None:
    body = kind.node_config
    named = named_machine_type(body)
    owners = {owner: key for key, owner in _BODIES.items() if key in body}
    if owners and word not in owners:
        owner, key = next(iter(owners.items()))
        findings.error(
            (*path, "node_config", key),
            f"the body of `{word}`",
            f"`{key}`, which is of `{owner}`",
            f"write `provider: {{type: {owner}, ...}}` in the node type, or `{_MACHINE_KEY[word]}`",
            reads=reads,
            at_key=True,
        )
        return
    has_other_name = any(key in body for key in ("LaunchTemplate", "sourceInstanceTemplate", "acceleratorType"))
    if not kind.machine_types and not named and not has_other_name and "acceleratorConfig" not in body:
        findings.error(
            (*path, "machine_types"),
            "a machine type's name, or requirements",
            "nothing",
            f"or name it in `node_config` as `{_MACHINE_KEY[word]}`",
            reads=[*reads, (*path, "node_config")],
        )
    if kind.machine_types and named and kind.machine_types.names != (named,):
        findings.error(
            (*path, "machine_types"),
            "one word on the machine type",
            f"`{kind.machine_types}` beside `{named}` in `node_config`",
            "leave one of them out",
            reads=reads,
        )
    zones = named_zones(body)
    if zones is not None and kind.zones and kind.zones != zones:
        findings.error(
            (*path, "zones"),
            "one word on the zones",
            f"`{', '.join(kind.zones)}` beside `{', '.join(zones) or 'any'}` in `node_config`",
            "leave one of them out",
            reads=reads,
        )
    market = named_market(body)
    if market and "markets" in kind.model_fields_set and kind.markets != (market,):
        findings.error(
            (*path, "markets"),
            f"`{market}` as in `node_config`",
            f"`{', '.join(kind.markets)}`",
            "leave one of them out",
            reads=reads,
        )
    for key in ("MinCount", "MaxCount"):
        if key in body:
            findings.error(
                (*path, "node_config", key),
                "no counts in `node_config`",
                f"`{key}`",
                "write `min_workers` and `max_workers` in the node type",
                at_key=True,
            )


def _markets_said(kind: NodeType) -> tuple[str, ...]:
    named = named_market(kind.node_config)
    return (named,) if named and "markets" not in kind.model_fields_set else tuple(kind.markets)


def _resources(path: Path, kind: NodeType, findings: Findings) -> None:
    standard = ("CPU", "GPU", "memory", "object_store_memory")
    meant = {word.lower(): word for word in standard} | {"cpus": "CPU", "gpus": "GPU", "mem": "memory", "ram": "memory"}
    for name in kind.resources.model_extra or ():
        where = (*path, "resources", name)
        if name.startswith("node:"):
            findings.error(
                where, "a name of your own", shown(name), "every node has its own `node:` resource", at_key=True
            )
        elif not name.strip():
            findings.error(where, "a name", shown(name), at_key=True)
        elif (word := meant.get(name.lower())) is not None:
            findings.error(where, f"`{word}`", shown(name), f"did you mean `{word}`?", at_key=True)
    if len(set(kind.markets)) != len(kind.markets):
        findings.error((*path, "markets"), "each market once", f"`{', '.join(kind.markets)}`")
