"""What the file asks for and will not get as written.

The rule: an *error* if it changes what is bought, exposed or who may enter, a *warning* if it changes only how
machines are set up. Both name the key and say what to write instead; nothing is ignored in silence.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shoal.config.diagnostics import Path
from shoal.config.findings import Findings
from shoal.config.providers import REMOTE, Aws, Common, Gcp, Kubernetes, SecurityGroup
from shoal.config.schema import Cluster

LAUNCHABLE = frozenset({"local", "sim"})
"""Providers that this version can launch machines at; the others' files are checked all the same."""

FIXED_PORTS: frozenset[str] = frozenset()
"""Keys of `ports` that this version can fix; the others it chooses itself and publishes."""

_SET_UP = (
    "auth",
    "docker",
    "file_mounts",
    "cluster_synced_files",
    "rsync_exclude",
    "rsync_filter",
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
)
_TYPE_SET_UP = ("initialization_commands", "worker_setup_commands", "docker")
_WITHOUT_EFFECT = {
    "disable_node_updaters": (True, "machines set themselves up"),
    "disable_launch_config_check": (True, "a changed `node_config` never ends a running machine"),
    "foreground_node_launch": (True, "launches never block the planner"),
    "worker_liveness_check": (False, "every machine holds a lease and is watched"),
}


def unhonoured(cluster: Cluster, findings: Findings) -> None:
    """Note everything in `cluster` that this version cannot do as written."""
    _engine(cluster, findings)
    _set_up(cluster, findings)
    _exposed(cluster, findings)
    _not_yet(cluster, findings)
    for path, provider in providers(cluster):
        _provider(path, provider, findings)


def providers(cluster: Cluster) -> Iterator[tuple[Path, Common]]:
    """Yield every provider section with its path."""
    yield ("provider",), cluster.provider
    for name, kind in cluster.available_node_types.items():
        if kind.provider is not None:
            yield ("available_node_types", name, "provider"), kind.provider


def kind_of(provider: Common) -> str:
    """Return the word under `type`."""
    return str(getattr(provider, "type", ""))


def _engine(cluster: Cluster, findings: Findings) -> None:
    if cluster.engine != "builtin":
        findings.error(
            ("engine",),
            "`builtin`",
            f"`{cluster.engine}`",
            "this version runs its own engine only, which has Ray's API; leave the key out",
        )
        return
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        if getattr(cluster, name):
            findings.warning(
                (name,),
                "no start commands with `engine: builtin`",
                "a list of them",
                "ignored: head and workers start by themselves; write other commands under `setup_commands`",
                at_key=True,
            )
    if cluster.no_restart is not None:
        findings.warning(
            ("no_restart",), "an option of the command", "a key", "ignored; write `shoal up --no-restart`", at_key=True
        )


def _exposed(cluster: Cluster, findings: Findings) -> None:
    """Refuse what would have to open something on this machine and does not."""
    if any(kind_of(provider) in REMOTE for _, provider in providers(cluster)):
        return
    reads = [("provider",)]
    for name in type(cluster.ports).model_fields:
        port = getattr(cluster.ports, name)
        if port and name not in FIXED_PORTS:
            hint = "every port is chosen by the system and found through the cluster's name; leave the key out"
            findings.error(("ports", name), "0 in this version", f"`{port}`", hint, reads=reads)
    if cluster.security.bind != "loopback":
        hint = "nodes on one machine listen on loopback only; leave the key out"
        findings.error(("security", "bind"), "`loopback`", f"`{cluster.security.bind}`", hint, reads=reads)
    if cluster.security.tls != "between-hosts":
        hint = "loopback and Unix sockets never leave this machine; leave the key out"
        findings.error(("security", "tls"), "`between-hosts`", f"`{cluster.security.tls}`", hint, reads=reads)
    if cluster.security.ssh_from:
        hint = "nothing is reached by SSH here; leave the key out"
        findings.error(("security", "ssh_from"), "no networks", "some", hint, reads=reads, at_key=True)


def _not_yet(cluster: Cluster, findings: Findings) -> None:
    """Refuse ways of buying that the planner does not know yet."""
    if cluster.policy.repack.is_on:
        hint = "this version does not move running work; leave `repack` out"
        findings.error(("policy", "repack", "is_on"), "`false`", "`true`", hint)


def _set_up(cluster: Cluster, findings: Findings) -> None:
    if cluster.file_mounts_sync_continuously:
        findings.warning(
            ("file_mounts_sync_continuously",),
            "`false`",
            "`true`",
            "ignored: files are copied by `shoal up` and when a machine boots; `shoal rsync-up` copies them again",
        )
    if not any(kind_of(provider) in REMOTE for _, provider in providers(cluster)):
        for name in _SET_UP:
            if name in cluster.model_fields_set and getattr(cluster, name) != type(cluster).model_fields[name].default:
                findings.warning(
                    (name,),
                    "nothing to set up on this machine",
                    f"`{name}`",
                    "ignored: nodes are processes here and use what is installed",
                    reads=[("provider",)],
                    at_key=True,
                )
    for type_name, kind in cluster.available_node_types.items():
        if kind_of(kind.provider or cluster.provider) in REMOTE:
            continue
        for name in _TYPE_SET_UP:
            if getattr(kind, name):
                findings.warning(
                    ("available_node_types", type_name, name),
                    "nothing to set up on this machine",
                    f"`{name}`",
                    "ignored: nodes are processes here and use what is installed",
                    reads=[("provider",)],
                    at_key=True,
                )


def _provider(path: Path, provider: Common, findings: Findings) -> None:
    kind = kind_of(provider)
    if kind not in LAUNCHABLE:
        findings.warning(
            (*path, "type"),
            f"{' or '.join(f'`{word}`' for word in sorted(LAUNCHABLE))} in this version",
            f"`{kind}`",
            "the file is checked, planned and simulated; `shoal up` cannot launch there yet",
        )
    if provider.cache_stopped_nodes:
        findings.error(
            (*path, "cache_stopped_nodes"),
            "`false`",
            "`true`",
            "machines are ended, not stopped: the disks of stopped ones are billed; write `false` or leave it out",
        )
    for name, (value, why) in _WITHOUT_EFFECT.items():
        if getattr(provider, name) is value:
            findings.warning(
                (*path, name), f"`{str(not value).lower()}`", f"`{str(value).lower()}`", f"ignored: {why}", at_key=True
            )
    if kind not in REMOTE:
        for name in ("use_internal_ips", "use_external_head_ip"):
            if getattr(provider, name):
                findings.warning(
                    (*path, name), "`false`", "`true`", f"ignored: `{kind}` nodes have no other addresses", at_key=True
                )
    match provider:
        case Aws():
            _aws(path, provider, findings)
        case Gcp(gcp_credentials=credentials) if credentials is not None:
            _secret(
                (*path, "gcp_credentials"), "`gcloud auth application-default login`, or a service account", findings
            )
        case Kubernetes():
            for name in ("autoscaler_service_account", "autoscaler_role", "autoscaler_role_binding"):
                if getattr(provider, name) is not None:
                    findings.error(
                        (*path, name),
                        "`service_account: NAME`",
                        "an object to create",
                        "make the account with kubectl and name it here",
                        at_key=True,
                    )


def _aws(path: Path, provider: Aws, findings: Findings) -> None:
    if provider.aws_credentials is not None:
        _secret((*path, "aws_credentials"), "`AWS_PROFILE`, `aws configure`, or a role", findings)
    if provider.cloudwatch is not None:
        findings.warning(
            (*path, "cloudwatch"),
            "no CloudWatch section",
            "one",
            "ignored: the head serves metrics; install the agent under `setup_commands`",
            at_key=True,
        )
    group: SecurityGroup | None = provider.security_group
    for place, rule in enumerate(group.IpPermissions if group else ()):
        for everybody in _open_ranges(rule):
            findings.warning(
                (*path, "security_group", "IpPermissions", place),
                "networks of yours",
                f"`{everybody}`",
                "opens these ports to everybody; write your own network, such as `203.0.113.0/24`",
            )


def _open_ranges(rule: dict[str, Any]) -> Iterator[str]:
    """Yield the ranges of a rule in EC2's form that are the whole Internet, of version 4 and 6."""
    for ranges, key in (("IpRanges", "CidrIp"), ("Ipv6Ranges", "CidrIpv6")):
        written = rule.get(ranges)
        for part in written if isinstance(written, list) else ():
            said = part.get(key) if isinstance(part, dict) else None
            if isinstance(said, str) and said.strip().endswith("/0"):
                yield said.strip()


def _secret(path: Path, better: str, findings: Findings) -> None:
    findings.warning(path, "no secrets in the file", "credentials", f"they are used; better: {better}", at_key=True)
