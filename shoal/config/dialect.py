"""Ray's older and internal ways of saying things, rewritten into today's keys before the model sees them.

Works on plain values of any shape: whatever has the wrong type is left for the model to complain about. Each
rewriting is said aloud as a warning that names the key and what to write instead; what cannot be rewritten without
changing what is bought, exposed or who may enter is an error.
"""

from __future__ import annotations

from typing import Any

from shoal.config.diagnostics import Path, printable, shown
from shoal.config.findings import Findings
from shoal.config.providers import KINDS
from shoal.config.tree import Tree

LEGACY_HEAD = "ray.head.default"
LEGACY_WORKER = "ray.worker.default"
SSH_HEAD = "head"
SSH_WORKER = "local.cluster.node"
"""Ray's own names for the node types that it makes up."""

_SSH_KEYS = ("head_ip", "worker_ips", "external_head_ip", "coordinator_address", "list_of_node_ips")
_FAKE_KEYS = ("gcs_address", "head_node_id", "launch_multiple", "use_node_id_as_ip")
_ELSEWHERE = {
    "external": "Ray's provider classes cannot be used; docs/provider-contract.md says what one of your own must do",
    "fake_multinode_docker": "write `type: local`: nodes are processes on this machine, without containers",
    "kuberay": "write `type: kubernetes`; files of this type are made by Ray's operator and not meant to be written",
    "readonly": "write `type: local`, or start machines by hand with `shoal start --address`",
    "spark": "Ray-on-Spark makes such files for itself; write one of the types above",
    "vsphere": "write `type: ssh` with the addresses of machines that you made there",
    "aliyun": "write `type: ssh` with the addresses of machines that you made there",
    "on-premise": "write `type: ssh`",
    "onprem": "write `type: ssh`",
    "k8s": "write `type: kubernetes`",
    "ec2": "write `type: aws`",
    "gce": "write `type: gcp`",
}


def foreign(data: dict[str, Any], findings: Findings) -> bool:
    """Say whether it is another tool's file altogether, and note that once instead of each of its keys."""
    kind = data.get("kind")
    if "apiVersion" not in data or not isinstance(kind, str) or "provider" in data:
        return False
    hint = "`configs/kubernetes.yaml` is a cluster file for Kubernetes"
    if kind == "RayCluster":
        hint = (
            "write `provider: {type: kubernetes}`, `spec.headGroupSpec` and each of `spec.workerGroupSpecs` as a node "
            "type with its template as `node_config`, `minReplicas` and `maxReplicas` as `min_workers` and "
            "`max_workers`; configs/kubernetes.yaml is such a file"
        )
    findings.error(("kind",), "a cluster file", f"a `{printable(kind)}` of Kubernetes", hint)
    return True


def translate(data: dict[str, Any], tree: Tree, findings: Findings) -> None:
    """Rewrite `data` in place."""
    _provider(data, ("provider",), tree, findings)
    types = data.get("available_node_types")
    if isinstance(types, dict):
        for name, kind in types.items():
            if isinstance(kind, dict):
                _provider(kind, ("available_node_types", name, "provider"), tree, findings)
    _hosts(data, tree, findings)
    _legacy_nodes(data, tree, findings)
    _legacy_counts(data, findings)


def _provider(holder: dict[str, Any], path: Path, tree: Tree, findings: Findings) -> None:
    provider = holder.get("provider")
    if isinstance(provider, str) and (provider in KINDS or provider in _ELSEWHERE):
        findings.error(path, "a mapping of keys", shown(provider), f"write `provider: {{type: {provider}}}`")
        tree.broken.add(path)
        del holder["provider"]
    if not isinstance(provider, dict):
        return
    for name in [name for name in provider if name.startswith("_")]:
        findings.warning(
            (*path, name), "no internal key of Ray's", f"`{printable(name)}`", "ignored; leave it out", at_key=True
        )
        del provider[name]
    kind = provider.get("type")
    if not isinstance(kind, str):
        return
    if kind in _ELSEWHERE:
        known = ", ".join(f"`{word}`" for word in KINDS)
        findings.error((*path, "type"), f"one of {known}", shown(kind), _ELSEWHERE[kind])
        tree.broken.add(path)
        del holder["provider"]
    elif kind == "fake_multinode":
        findings.warning(
            (*path, "type"), "`local`", shown(kind), "nodes are processes on this machine; write `type: local`"
        )
        provider["type"] = "local"
        _ignore(provider, path, _FAKE_KEYS, "`local`", findings)
    elif kind == "local" and any(name in provider for name in _SSH_KEYS):
        name = next(name for name in _SSH_KEYS if name in provider)
        findings.warning(
            (*path, "type"),
            "`ssh` for machines with addresses",
            f"`local` with `{name}`",
            "taken as `type: ssh`; write that (`local` alone means processes on this machine)",
        )
        provider["type"] = "ssh"
    if provider["type"] == "ssh":
        if "coordinator_address" in provider:
            findings.error(
                (*path, "coordinator_address"),
                "`head_ip` and `worker_ips`",
                "a coordinator",
                "Ray's coordinator has no authentication; list the hosts here",
                at_key=True,
            )
            # With its hosts listed the file would also have node types; do not ask for them now.
            tree.broken |= {path, ("available_node_types",)}
            del holder["provider"]
            return
        _ignore(provider, path, ("list_of_node_ips",), "`ssh`", findings)


def _ignore(provider: dict[str, Any], path: Path, names: tuple[str, ...], kind: str, findings: Findings) -> None:
    for name in names:
        if name in provider:
            findings.warning(
                (*path, name), f"no such key for {kind}", f"`{name}`", "ignored; leave it out", at_key=True
            )
            del provider[name]


def _hosts(data: dict[str, Any], tree: Tree, findings: Findings) -> None:
    """Give an SSH cluster without node types the two that Ray gives it: a head and its listed workers."""
    provider = data.get("provider")
    if not isinstance(provider, dict) or provider.get("type") != "ssh" or data.get("available_node_types"):
        return
    written = provider.get("worker_ips", [])
    hosts = [written] if isinstance(written, str) else written
    if not isinstance(hosts, list) or ("available_node_types" in data and data["available_node_types"] != {}):
        return
    for name in ("head_node", "worker_nodes"):
        if data.pop(name, None):
            findings.error(
                (name,), "nothing here for `ssh`", "a mapping", "addresses stand under `provider`", at_key=True
            )
    count = len(hosts)
    most = data.get("max_workers", count)
    least = data.pop("min_workers", None)
    if _is_count(most) and most > count:
        findings.warning(
            ("max_workers",), f"at most the {count} hosts of `worker_ips`", shown(most), f"taken as {count}"
        )
        most = data["max_workers"] = count
    if _is_count(least) and least > count:
        findings.warning(
            ("min_workers",), f"at most the {count} hosts of `worker_ips`", shown(least), f"taken as {count}"
        )
        least = count
    data.setdefault("max_workers", count)
    worker: dict[str, Any] = {"max_workers": most if _is_count(most) else count}
    worker["min_workers"] = least if _is_count(least) else worker["max_workers"]
    data.setdefault("head_node_type", SSH_HEAD)
    if data["head_node_type"] != SSH_HEAD:
        findings.error(
            ("head_node_type",), "nothing here without `available_node_types`", shown(data["head_node_type"])
        )
    data["available_node_types"] = {SSH_HEAD: {}, SSH_WORKER: worker}
    tree.values.setdefault(("available_node_types",), tree.place(("provider",)))


def _legacy_nodes(data: dict[str, Any], tree: Tree, findings: Findings) -> None:
    """Rewrite `head_node` and `worker_nodes` into two node types, as Ray did before it had any."""
    bodies = {name: data[name] for name in ("head_node", "worker_nodes") if isinstance(data.get(name), dict)}
    for name in bodies:
        del data[name]
    bodies = {name: body for name, body in bodies.items() if body}
    if not bodies:
        return
    if data.get("available_node_types"):
        for name in bodies:
            findings.error(
                (name,),
                "`node_config` in the node type",
                "an old key beside `available_node_types`",
                "move its lines there; Ray would silently ignore them",
                at_key=True,
            )
        return
    for name, kind in (("head_node", LEGACY_HEAD), ("worker_nodes", LEGACY_WORKER)):
        if name in bodies:
            findings.warning(
                (name,),
                "`available_node_types`",
                "an old key",
                f"taken as the node type `{kind}`; write `available_node_types: {{{kind}: {{node_config: ...}}}}`",
                at_key=True,
            )
            _copy_places(tree, (name,), ("available_node_types", kind, "node_config"))
            tree.keys["available_node_types", kind] = tree.place((name,), of_key=True)
    head = bodies.get("head_node", bodies.get("worker_nodes"))
    worker: dict[str, Any] = {"node_config": bodies.get("worker_nodes", head)}
    if "min_workers" in data:
        worker["min_workers"] = data.pop("min_workers")
        _copy_places(tree, ("min_workers",), ("available_node_types", LEGACY_WORKER, "min_workers"))
    data["available_node_types"] = {LEGACY_HEAD: {"node_config": head}, LEGACY_WORKER: worker}
    data.setdefault("head_node_type", LEGACY_HEAD)


def _legacy_counts(data: dict[str, Any], findings: Findings) -> None:
    types = data.get("available_node_types")
    if not isinstance(types, dict):
        return
    if _is_count(least := data.get("min_workers")) and types:
        del data["min_workers"]
        workers = [name for name in types if name != data.get("head_node_type")]
        only = types[workers[0]] if len(workers) == 1 else None
        if isinstance(only, dict) and only.get("min_workers", least) == least:
            only["min_workers"] = least
            findings.warning(
                ("min_workers",),
                "`min_workers` in the node type",
                "an old key",
                f"taken for `{printable(workers[0])}`; write it there",
                at_key=True,
            )
        elif least:
            findings.error(
                ("min_workers",),
                "`min_workers` in the node types",
                "one number for all",
                "write in each node type how many of it are always there",
                at_key=True,
            )
    default = data.get("worker_default_node_type")
    if isinstance(default, str):
        if default in types:
            findings.warning(
                ("worker_default_node_type",),
                "no default type",
                shown(default),
                "ignored: the cheapest type that fits is chosen; leave the key out",
                at_key=True,
            )
        else:
            findings.error(
                ("worker_default_node_type",), "a key of `available_node_types`", shown(default), "leave it out"
            )


def _copy_places(tree: Tree, old: Path, new: Path) -> None:
    for places in (tree.keys, tree.values):
        for path in [path for path in places if path[: len(old)] == old]:
            places.setdefault((*new, *path[len(old) :]), places[path])


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
