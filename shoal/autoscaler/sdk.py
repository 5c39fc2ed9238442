"""Ask for room ahead of the work, and start and end clusters from a program: Ray's module name and its names.

A request is a total, not an extra: the cluster shall be able to hold these bundles at once, whatever runs on it now. It
stands until the same owner of the same job asks again, its job ends, or its time is over; over owners the largest of
each resource counts. The functions on clusters run the `shoal` command, so they do what it does and nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shoal.foundation.amounts import amounts
from shoal.model.demand import Bundle, Selector
from shoal.runtime.client.api import is_initialized, session
from shoal.runtime.client.strategies import checked_selector
from shoal.wire.asks import What


def request_resources(
    num_cpus: int | None = None,
    bundles: Sequence[Mapping[str, float]] | None = None,
    bundle_label_selectors: Sequence[Mapping[str, str]] | None = None,
    *,
    owner: str = "",
    ttl_s: float | None = None,
) -> None:
    """Have the cluster hold `num_cpus` bundles of one CPU, and `bundles`, at once; nothing takes the request back.

    `owner` keeps requests of several parts of one program apart. `ttl_s` None: as the cluster's policy says.

    Raises:
        RuntimeError: this process is not connected. TypeError, ValueError: an argument is wrong.
    """
    wanted = _checked(num_cpus, bundles, bundle_label_selectors)
    if not is_initialized():
        raise RuntimeError("request_resources: not connected; call shoal.init() first")
    here = session()
    args: dict[str, Any] = {"owner": owner, "job": here.job, "bundles": wanted, "ttl_s": ttl_s}
    here.core.ask(What.REQUEST_RESOURCES, args)


def _checked(
    num_cpus: int | None,
    bundles: Sequence[Mapping[str, float]] | None,
    selectors: Sequence[Mapping[str, str]] | None,
) -> list[Bundle]:
    if num_cpus is not None and (isinstance(num_cpus, bool) or not isinstance(num_cpus, int)):
        raise TypeError(f"num_cpus: expected a whole number, got `{num_cpus!r}`")
    if num_cpus is not None and num_cpus < 0:
        raise ValueError(f"num_cpus: expected at least 0, got `{num_cpus}`")
    if bundles is not None and (isinstance(bundles, str) or not isinstance(bundles, Sequence)):
        raise TypeError(f"bundles: expected a list of dicts, got `{type(bundles).__name__}`")
    if selectors and len(selectors) != len(bundles or ()):
        raise ValueError(
            f"bundle_label_selectors: expected one for each of {len(bundles or ())} bundles, got {len(selectors)}"
        )
    found = [Bundle(amounts=amounts({"CPU": 1}))] * (num_cpus or 0)
    for place, bundle in enumerate(bundles or ()):
        if not isinstance(bundle, Mapping):
            raise TypeError(f"bundles[{place}]: expected a dict of resources, got `{bundle!r}`")
        for name, count in bundle.items():
            if not isinstance(name, str) or isinstance(count, bool) or not isinstance(count, int | float):
                raise TypeError(f"bundles[{place}]: expected names and quantities, got `{name!r}: {count!r}`")
        terms = checked_selector(selectors[place]) if selectors else {}
        found.append(Bundle(amounts=amounts(bundle), selector=Selector(hard=terms)))
    return found


# ------------------------------------------------------------------------------------------------------- clusters

_ABSENT = {
    "bootstrap_config": "there is nothing to fill in: `shoal validate` checks a file",
    "configure_logging": "commands print plain lines; capture them as you like",
    "fillout_defaults": "docs/config.md has the defaults; `shoal validate` checks a file",
    "get_docker_host_mount_location": "nodes do not run in containers of Shoal's own",
    "register_callback_handler": "follow `shoal monitor`, or read the cluster's events",
    "rsync": "nodes share this machine's files in this version",
    "run_on_cluster": "nodes share this machine in this version: run the command here",
}
"""Names of Ray's that are not served, and what to do instead."""


def create_or_update_cluster(
    cluster_config: Mapping[str, Any] | str,
    *,
    no_restart: bool = False,
    restart_only: bool = False,
    no_config_cache: bool = False,
) -> dict[str, Any]:
    """Start the cluster of a file (or a mapping like one), or bring it up to date; return its configuration.

    As `shoal up --yes`: returns once work can run. Running work is never restarted, so `no_restart` says what holds
    anyway; there is no cache for `no_config_cache` to pass by.

    Raises:
        ValueError: the configuration is wrong, or `restart_only` is asked for. RuntimeError: it did not start.
    """
    import yaml

    if restart_only:
        raise ValueError("restart_only: `up` never restarts what runs; use teardown_cluster first")
    path = _file(cluster_config)
    _shoal("up", path, "--yes")
    found: dict[str, Any] = yaml.safe_load(Path(path).read_text())
    return found


def teardown_cluster(
    cluster_config: Mapping[str, Any] | str, workers_only: bool = False, keep_min_workers: bool = False
) -> None:
    """End the cluster of a file, mapping or name; with `workers_only` its head, and what runs there, stays.

    Workers of `min_workers` are bought again at once by a cluster that stays, so `keep_min_workers` holds anyway.

    Raises:
        ValueError: the configuration is wrong. RuntimeError: something is left.
    """
    _shoal("down", _name(cluster_config), "--yes", *(["--workers-only"] if workers_only else []))


def get_head_node_ip(cluster_config: Mapping[str, Any] | str) -> str:
    """Return the address of the head's host.

    Raises:
        ValueError: the configuration is wrong. RuntimeError: the cluster is not up.
    """
    return str(next(node["node_ip"] for node in _nodes(cluster_config) if node["is_head_node"]))


def get_worker_node_ips(cluster_config: Mapping[str, Any] | str) -> list[str]:
    """Return the address of each worker's host; nodes on one host have the same.

    Raises:
        ValueError: the configuration is wrong. RuntimeError: the cluster is not up.
    """
    return [node["node_ip"] for node in _nodes(cluster_config) if not node["is_head_node"]]


def _nodes(cluster_config: Mapping[str, Any] | str) -> list[dict[str, Any]]:
    said = _shoal("list", "nodes", "-c", _name(cluster_config), "--format", "json", "--detail")
    found: list[dict[str, Any]] = [node for node in json.loads(said) if node["state"] == "ALIVE"]
    return found


def _file(cluster_config: Mapping[str, Any] | str) -> str:
    """Return the path of a file with this configuration; a mapping is written beside the cluster's state."""
    if isinstance(cluster_config, str):
        return cluster_config
    import yaml

    from shoal.transport import discovery

    # The cluster's own directory, so that it goes with the cluster.
    path = discovery.state_dir(_name(cluster_config)) / "given.yaml"
    discovery.write_private(path, yaml.safe_dump(dict(cluster_config)).encode())
    return str(path)


def _name(cluster_config: Mapping[str, Any] | str) -> str:
    """Return the cluster's name.

    Raises:
        ValueError: it is a file that is wrong.
    """
    if not isinstance(cluster_config, str):
        return str(cluster_config.get("cluster_name", "default"))
    path = Path(cluster_config)
    if path.suffix not in (".yaml", ".yml") and not path.is_file():
        return cluster_config
    from shoal.config.diagnostics import ConfigErrors
    from shoal.config.load import load

    try:
        return load(path).policy.cluster_name
    except ConfigErrors as errors:
        raise ValueError(str(errors)) from None


def _shoal(*words: str) -> str:
    """Run a `shoal` command and return what it printed.

    Raises:
        ValueError: what it was given is wrong. RuntimeError: it did not work.
    """
    command = [sys.executable, "-m", "shoal", *words]
    ran = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=os.environ)
    if ran.returncode:
        raise (ValueError if ran.returncode == 2 else RuntimeError)(ran.stderr.strip() or f"`shoal {words[0]}` failed")
    return ran.stdout


def __getattr__(name: str) -> Any:
    if name in _ABSENT:
        raise AttributeError(f"shoal.autoscaler.sdk does not serve `{name}`: {_ABSENT[name]}")
    raise AttributeError(f"module `shoal.autoscaler.sdk` has no `{name}`")


__all__ = [
    "create_or_update_cluster",
    "get_head_node_ip",
    "get_worker_node_ips",
    "request_resources",
    "teardown_cluster",
]
