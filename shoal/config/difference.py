"""What another version of the file would change, in words, and when each change takes effect.

`up` with a changed file prints it and asks; the running autoscaler, which takes a changed file over by itself,
records it.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import msgspec

from shoal.config.build import max_workers
from shoal.config.diagnostics import Path, path_shown, shown
from shoal.config.load import Loaded
from shoal.config.schema import Cluster
from shoal.config.sections import field_at, unit_of
from shoal.foundation import amounts

_TYPES = "available_node_types"
_HEAD_ONLY = ("ports", "security", "engine", "network", "auth", "head_setup_commands")
_MACHINES = (
    "docker",
    "file_mounts",
    "cluster_synced_files",
    "file_mounts_sync_continuously",
    "rsync_exclude",
    "rsync_filter",
    "initialization_commands",
    "setup_commands",
    "worker_setup_commands",
)
_TYPE_MACHINES = (
    "node_config",
    "resources",
    "labels",
    "docker",
    "initialization_commands",
    "worker_setup_commands",
    "machine_types",
    "regions",
    "zones",
    "markets",
    "boot_s",
    "price_usd_per_h",
)
_UNREAD = ("metadata", "head_start_ray_commands", "worker_start_ray_commands", "no_restart", "worker_default_node_type")


class Effect(StrEnum):
    """When a change is felt."""

    NOW = "now"  # by the next plan
    NEW_MACHINES = "new machines"  # those launched from now on; running ones stay as they are
    DRAIN = "drain"  # machines of the type are emptied and released
    RESTART = "restart"  # when the head starts again
    REBUILD = "rebuild"  # not for this cluster: take it down and start it anew
    NONE = "none"  # nothing reads it


WHEN = {
    Effect.NOW: "at once",
    Effect.NEW_MACHINES: "for machines launched from now on",
    Effect.DRAIN: "its machines finish their work and are released",
    Effect.RESTART: "when the head is restarted",
    Effect.REBUILD: "only in a new cluster: `shoal down` first",
    Effect.NONE: "no effect",
}


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One difference: what, and when it is felt."""

    path: str
    text: str
    effect: Effect

    def __str__(self) -> str:
        return f"{self.text} ({WHEN[self.effect]})"


def difference(old: Loaded, new: Loaded) -> tuple[Change, ...]:
    """Return what changes from `old` to `new`, in the order of the schema; empty if nothing that is read does."""
    before, after = _plain(old.config), _plain(new.config)
    changes: list[Change] = []
    for name in type(old.config).model_fields:
        if name == _TYPES:
            changes += _type_changes(old.config, new.config, before[name], after[name])
            continue
        for path, was, becomes in _leaves((name,), before[name], after[name]):
            changes.append(_change(path, was, becomes, _effect(path), after))
    return tuple(changes)


def needs_restart(changes: tuple[Change, ...]) -> bool:
    """Say whether any of the changes waits for a restart of the head."""
    return any(change.effect is Effect.RESTART for change in changes)


def _type_changes(old: Cluster, new: Cluster, before: dict[str, Any], after: dict[str, Any]) -> Iterator[Change]:
    for name in before:
        if name not in after:
            text = f"removes node type `{name}`"
            yield Change(path=path_shown((_TYPES, name)), text=text, effect=Effect.DRAIN)
    for name in after:
        if name not in before:
            holds = amounts.shown(new.available_node_types[name].resources.amounts())
            text = f"adds node type `{name}` ({holds}, at most {max_workers(new, name)} workers)"
            yield Change(path=path_shown((_TYPES, name)), text=text, effect=Effect.NOW)
            continue
        if name not in before:
            continue
        is_head = name in (old.head_node_type, new.head_node_type)
        for path, was, becomes in _leaves((_TYPES, name), before[name], after[name]):
            yield _change(path, was, becomes, _type_effect(str(path[2]), is_head=is_head), {_TYPES: after})


def _type_effect(key: str, *, is_head: bool) -> Effect:
    if key == "provider":
        return Effect.REBUILD if is_head else Effect.NEW_MACHINES
    if key in _TYPE_MACHINES:
        return Effect.RESTART if is_head and key != "price_usd_per_h" else Effect.NEW_MACHINES
    return Effect.NOW


def _effect(path: Path) -> Effect:
    name = str(path[0])
    if name in ("cluster_name", "provider", "head_node_type"):
        return Effect.REBUILD
    if name in _HEAD_ONLY:
        return Effect.RESTART
    if name in _MACHINES:
        return Effect.NEW_MACHINES
    if path[:2] in (("policy", "lease"), ("policy", "lease_busy")):
        return Effect.NEW_MACHINES
    return Effect.NONE if name in _UNREAD else Effect.NOW


def _change(path: Path, was: Any, becomes: Any, effect: Effect, data: Any) -> Change:
    unit = unit_of(field_at(path, data))
    ending = f" {unit}" if unit and unit not in ("path", "fraction", "bytes") else ""
    if unit == "bytes":
        was, becomes = (None if size is None else amounts.bytes_shown(size) for size in (was, becomes))
    where = path_shown(path)
    if was is None:
        text = f"sets {where} to {_said(becomes)}{ending}"
    elif becomes is None:
        text = f"takes {where} away (was {_said(was)}{ending})"
    else:
        text = f"changes {where} from {_said(was)} to {_said(becomes)}{ending}"
    return Change(path=where, text=text, effect=effect)


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"`{value:g}`"
    if isinstance(value, list | tuple) and 0 < len(value) <= 4 and all(isinstance(item, str) for item in value):
        return shown(", ".join(value))
    return shown(value)


def _leaves(path: Path, was: Any, becomes: Any) -> Iterator[tuple[Path, Any, Any]]:
    """Yield every path at which two plain values differ; a list differs as a whole."""
    if isinstance(was, dict) and isinstance(becomes, dict):
        for name in {**was, **becomes}:
            yield from _leaves((*path, name), was.get(name), becomes.get(name))
    elif was != becomes or type(was) is not type(becomes):
        yield path, was or None if was in ({}, ()) else was, becomes or None if becomes in ({}, ()) else becomes


def _plain(config: Cluster) -> dict[str, Any]:
    """Return the model as nested mappings; what is no mapping stays as it is."""
    return config.model_dump()
