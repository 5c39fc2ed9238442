"""What `list`, `get`, `summary`, `memory` and `timeline` share: asking for rows, and printing them as Ray does."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import click

from shoal.foundation.errors import BadInput

COLUMNS: dict[str, tuple[str, ...]] = {
    "tasks": ("task_id", "attempt_number", "name", "state", "job_id", "actor_id", "type", "func_or_class_name",
              "parent_task_id", "node_id", "worker_id", "error_type"),
    "actors": ("actor_id", "class_name", "state", "job_id", "name", "node_id", "pid", "ray_namespace"),
    "objects": ("object_id", "object_size", "task_status", "attempt_number", "reference_type", "call_site", "type",
                "pid", "ip"),
    "nodes": ("node_id", "node_ip", "is_head_node", "state", "state_message", "node_name", "resources_total", "labels"),
    "placement-groups": ("placement_group_id", "name", "creator_job_id", "state"),
    "workers": ("worker_id", "is_alive", "worker_type", "exit_type", "node_id", "ip", "pid"),
    "jobs": ("job_id", "submission_id", "entrypoint", "type", "status", "message", "error_type", "driver_info"),
    "cluster-events": ("severity", "time", "source_type", "message", "event_id"),
}  # fmt: skip
"""The default columns of each resource, in the order in which Ray prints them."""

KEY = {
    "tasks": "task_id",
    "actors": "actor_id",
    "objects": "object_id",
    "nodes": "node_id",
    "placement-groups": "placement_group_id",
    "workers": "worker_id",
}


def filters_of(texts: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return `key=value` and `key!=value` texts as (key, operator, value).

    Raises:
        BadInput: one is neither.
    """
    found = []
    for text in texts:
        operator = "!=" if "!=" in text else "="
        key, there, value = text.partition(operator)
        if not there or not key.strip():
            raise BadInput(f"--filter: expected key=value or key!=value, got `{text}`")
        found.append((key.strip().lower(), operator, value.strip()))
    return found


def rows_of(
    cluster: str | None,
    kind: str,
    *,
    filters: Sequence[str] = (),
    limit: int = 100,
    detail: bool = False,
    timeout_s: float = 30.0,
) -> dict[str, Any]:
    """Return {rows, total, is_partial, warnings} of a live cluster's state table; warnings go to stderr."""
    from shoal.cli.live import ask
    from shoal.cli.which import live, name_in

    wanted = filters_of(filters)
    found = ask(
        live(name_in(cluster) if cluster else None),
        lambda client: client.state(kind, filters=wanted, limit=limit, detail=detail, timeout_s=timeout_s),
    )
    for warning in found["warnings"]:
        click.echo(f"warning: {warning}", err=True)
    return found


def ray_table(kind: str, found: Mapping[str, Any]) -> str:
    """Return rows as Ray prints them: heading, count, table with an unnamed index column."""
    rows = found["rows"]
    if not rows:
        return "No resource in the cluster"
    names = COLUMNS[kind]
    stamp = datetime.datetime.now().strftime("%Y-%m-%d %H:%M:%S.%f")
    head = ["", *(name.upper() for name in names)]
    body = [[str(place), *(_cell(row.get(name)) for name in names)] for place, row in enumerate(rows)]
    widths = [max(len(line[place]) for line in (head, *body)) for place in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (head, *body)
    ]
    title = f"======== List: {stamp} ========"
    shown = f"Total: {found['total']}" + (f" (showing {len(rows)})" if found["total"] > len(rows) else "")
    return "\n".join([title, "Stats:", "-" * 30, shown, "", "Table:", "-" * 30, *lines])


def documents(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as YAML documents between `---` and `...`, as `--detail` prints them."""
    import yaml

    return "---\n" + yaml.safe_dump([dict(row) for row in rows], sort_keys=False).rstrip() + "\n..."


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case Mapping():
            return str({key: round(part, 4) if isinstance(part, float) else part for key, part in value.items()})
        case _:
            return str(value)
