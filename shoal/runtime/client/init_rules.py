"""What `init` may be given, told where the user can see it: one line, before anything is started."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from shoal.placement import selectors

STORE_LEAST_BYTES = 2**20


OWN_LABELS = ("ray.io/node-id", "ray.io/node-group")

_IGNORED = frozenset(
    (
        "configure_logging",
        "dashboard_host",
        "dashboard_port",
        "include_dashboard",
        "logging_config",
        "logging_format",
        "logging_level",
        "_metrics_export_port",
        "_node_ip_address",
        "_system_config",
        "_temp_dir",
    )
)
"""Of Ray: where its parts log, listen and lie. None of it changes what a program means."""

_REFUSED = {
    "cgroup_path": "workers are not put into cgroups",
    "enable_resource_isolation": "workers are not put into cgroups",
    "job_config": "give `runtime_env` and `namespace` to init itself",
    "local_mode": "call the functions directly instead",
    "proxy_server_url": "the dashboard is not behind Ray's proxy",
    "system_reserved_cpu": "workers are not put into cgroups",
    "system_reserved_memory": "workers are not put into cgroups",
}


def check(given: Mapping[str, Any], others: Mapping[str, Any]) -> None:
    """Check what the user gave: `given` by parameter, `others` as further keywords.

    Raises:
        TypeError: a value is of the wrong type, or a name is unknown. ValueError: a value is out of range, or of an
            option of Ray's that means something and is not supported.
    """
    for name, value in others.items():
        if name in _REFUSED:
            if value:
                raise ValueError(f"init: {name} is not supported; {_REFUSED[name]}")
        elif name not in _IGNORED:
            raise TypeError(f"init: unknown argument `{name}`")
    for name in ("address", "namespace"):
        _is_of(name, given[name], str, "a string")
    if given["namespace"] == "":
        raise ValueError("init: namespace: expected a name or None, got an empty one")
    for name in ("num_cpus", "num_gpus", "memory"):
        _quantity(name, given[name])
    _is_of("object_store_memory", given["object_store_memory"], int, "a number of bytes")
    if given["object_store_memory"] is not None and given["object_store_memory"] < STORE_LEAST_BYTES:
        raise ValueError(
            f"init: object_store_memory: expected at least {STORE_LEAST_BYTES} bytes, "
            f"got `{given['object_store_memory']}`"
        )
    _resources(given["resources"])
    _labels(given["labels"])


def _is_of(name: str, value: Any, kind: type, shown: str) -> None:
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        raise TypeError(f"init: {name}: expected {shown}, got `{value!r}`")


def _quantity(name: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"init: {name}: expected a number, got `{value!r}`")
    if not (math.isfinite(value) and 0 <= value < 1e15):
        raise ValueError(f"init: {name}: expected a finite quantity of at least 0, got `{value}`")


def _resources(given: Any) -> None:
    _is_of("resources", given, dict, "a dict of names and quantities")
    for name, value in (given or {}).items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"init: resources: expected names, got `{name!r}`")
        if name in ("CPU", "GPU", "memory", "object_store_memory"):
            own = {"CPU": "num_cpus", "GPU": "num_gpus"}.get(name, name)
            raise ValueError(f"init: resources: use {own} instead of `{name}`")
        _quantity(f"resources[{name!r}]", value)


def _labels(given: Any) -> None:
    _is_of("labels", given, dict, "a dict of strings")
    for name, value in (given or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"init: labels: expected strings, got `{name!r}: {value!r}`")
        if name in OWN_LABELS:
            raise ValueError(f"init: labels: `{name}` is every node's own")
        if selectors.mistake(name, value) or selectors.parsed(value) != ("in", frozenset((value,))):
            raise ValueError(f"init: labels[{name!r}]: expected letters, digits, `-`, `_`, `.` and `/`, got `{value}`")
