"""`shoal summary`: counts by kind and state."""

from __future__ import annotations

import collections
from typing import Any

import click

from shoal.cli import states
from shoal.cli.output import emit, format_option


@click.command()
@click.argument("kind", type=click.Choice(["tasks", "actors", "objects"]))
@click.option("--cluster", "-c", help="A YAML file or a name; default: the only live cluster.")
@click.option("--timeout", default=30.0, show_default=True, type=click.FloatRange(0.1, 600), help="Seconds to wait.")
@format_option()
def summary(kind: str, cluster: str | None, timeout: float, form: str) -> None:
    """Count tasks by function and state, actors by class and state, objects by place and reference."""
    rows = states.rows_of(cluster, kind, limit=10_000, detail=True, timeout_s=timeout)["rows"]
    emit(summarised(kind, rows), form)


def summarised(kind: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per group, the largest first."""
    if kind == "objects":
        sizes: collections.Counter[tuple[str, str]] = collections.Counter()
        counts: collections.Counter[tuple[str, str]] = collections.Counter()
        for row in rows:
            held = (str(row.get("call_site") or row.get("node_id") or ""), str(row.get("reference_type") or ""))
            sizes[held] += int(row.get("object_size") or 0)
            counts[held] += 1
        return [
            {"place": place, "reference_type": kind_, "objects": counts[place, kind_], "bytes": size}
            for (place, kind_), size in sizes.most_common()
        ]
    name = "func_or_class_name" if kind == "tasks" else "class_name"
    groups: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    types: dict[str, str] = {}
    for row in rows:
        group = str(row.get(name) or row.get("name") or "")
        groups[group][str(row.get("state"))] += 1
        types[group] = str(row.get("type") or "")
    ordered = sorted(groups, key=lambda group: (-groups[group].total(), group))
    return [
        {
            name: group,
            "state_counts": dict(sorted(groups[group].items())),
            **({"type": types[group]} if kind == "tasks" else {}),
        }
        for group in ordered
    ]
