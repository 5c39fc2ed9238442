"""The status in the text shape of `ray status`, which scripts in the wild parse."""

from __future__ import annotations

import collections
import datetime
from collections.abc import Mapping
from typing import Any


def ray_text(found: Mapping[str, Any]) -> str:
    """Return the head's status as Ray's v2 formatter lays it out."""
    report = found.get("autoscaler") or {}
    now = datetime.datetime.now().strftime("%Y-%m-%d %H:%M:%S.%f")
    pending = collections.Counter(
        one["node_type"] for one in report.get("instances", []) if one["state"] in ("queued", "requested", "booting")
    )
    lines = [
        f"======== Autoscaler status: {now} ========",
        "Node status",
        "-" * 63,
        "Active:",
        *_kinds(found["nodes"].get("active", []), "active"),
        "Idle:",
        *_kinds(found["nodes"].get("idle", []), "idle"),
        "Pending:",
        *([f" {kind}, {count} launching" for kind, count in sorted(pending.items())] or [" (no pending nodes)"]),
        "Recent failures:",
        *(
            [f" {one['what']}: {one['code']} - {one['error']}" for one in report.get("failures", [])]
            or [" (no failures)"]
        ),
        "",
        "Resources",
        "-" * 63,
        "Total Usage:",
        *(f" {_usage(name, *amounts)}" for name, amounts in sorted(found["usage"].items())),
        "",
        "From request_resources:",
        *(_standing(found.get("standing", [])) or [" (none)"]),
        "Pending Demands:",
        *(_demands(found.get("demand", [])) or [" (no resource demands)"]),
    ]
    return "\n".join(lines)


def _kinds(nodes: list[Mapping[str, Any]], word: str) -> list[str]:
    counts = collections.Counter(node["node_type"] for node in nodes)
    return [f" {count} {kind}" for kind, count in sorted(counts.items())] or [f" (no {word} nodes)"]


def _failure(one: Mapping[str, Any]) -> str:
    return f" {one['what']}: {one['code']} - {one['error']}"


def _usage(name: str, used: float, total: float) -> str:
    if name.endswith("memory"):
        return f"{_bytes(used)}/{_bytes(total)} {name}"
    return f"{round(used, 4)}/{round(total, 4)} {name}"


def _bytes(count: float) -> str:
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.2f}{unit}"
    return f"{count:.0f}B"


def _standing(requests: list[Mapping[str, Any]]) -> list[str]:
    counts = collections.Counter(_shape(bundle) for one in requests for bundle in one.get("bundles", []))
    return [f" {shape}: {count} from request_resources()" for shape, count in sorted(counts.items())]


def _demands(rows: list[Mapping[str, Any]]) -> list[str]:
    lines = []
    for one in rows:
        if "bundles" in one:
            shapes = collections.Counter(_shape(bundle) for bundle in one["bundles"])
            inside = ", ".join(f"{shape} * {count}" for shape, count in sorted(shapes.items()))
            lines.append(f" {inside} ({one.get('strategy', 'PACK')}): 1+ pending placement groups")
        else:
            lines.append(f" {_shape(one)}: {one['count']}+ pending tasks/actors")
    return lines


def _shape(holder: Mapping[str, Any]) -> str:
    amounts = holder.get("amounts", holder)
    return str({name: float(quantity) for name, quantity in sorted(amounts.items())})
