"""Columns, keys and summaries of the state's rows: shared by `shoal.util.state` and the commands. Pure.

A row stands for one thing, but for rows of waiting tasks with a `count`.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shoal.runtime.decide.state_columns import COLUMNS, DETAILS

KEY = {
    "tasks": "task_id",
    "actors": "actor_id",
    "objects": "object_id",
    "nodes": "node_id",
    "placement-groups": "placement_group_id",
    "workers": "worker_id",
    "jobs": "job_id",
}
"""The column that names one thing of each resource that `get` knows."""

Row = Mapping[str, Any]


def summarized(kind: str) -> str:
    """Return the kind of rows that a summary of `kind` is made of: tasks are counted where they run."""
    return "task-counts" if kind == "tasks" else kind


def summary_of(kind: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the summary of `tasks`, `actors` or `objects`, as Ray's state API answers it: groups and totals."""
    return {"tasks": _tasks, "actors": _actors, "objects": _objects}[kind](rows)


def _tasks(rows: Iterable[Row]) -> dict[str, Any]:
    groups: dict[str, dict[str, Any]] = {}
    totals: collections.Counter[str] = collections.Counter()
    for row in rows:
        name, kind, count = row.get("func_or_class_name") or row.get("name") or "", row.get("type", ""), _count(row)
        one = groups.setdefault(name, {"func_or_class_name": name, "state_counts": {}, "type": kind})
        one["state_counts"][row["state"]] = one["state_counts"].get(row["state"], 0) + count
        totals[kind] += count
    return {
        "summary": groups,
        "summary_by": "func_name",
        "total_actor_scheduled": totals["ACTOR_CREATION_TASK"],
        "total_actor_tasks": totals["ACTOR_TASK"],
        "total_tasks": totals["NORMAL_TASK"],
    }


def _actors(rows: Sequence[Row]) -> dict[str, Any]:
    groups: dict[str, dict[str, Any]] = {}
    for row in rows:
        one = groups.setdefault(row["class_name"], {"class_name": row["class_name"], "state_counts": {}})
        one["state_counts"][row["state"]] = one["state_counts"].get(row["state"], 0) + 1
    return {"summary": groups, "summary_by": "class", "total_actors": len(rows)}


def _objects(rows: Sequence[Row]) -> dict[str, Any]:
    groups: dict[str, dict[str, Any]] = {}
    workers: dict[str, set[Any]] = collections.defaultdict(set)
    for row in rows:
        node = row.get("node_id", "")
        one = groups.setdefault(node, {"total_objects": 0, "total_size_mb": 0.0, "ref_type_counts": {}})
        one["total_objects"] += 1
        one["total_size_mb"] += row.get("object_size", 0) / 2**20
        kind = row.get("reference_type") or "UNKNOWN"
        one["ref_type_counts"][kind] = one["ref_type_counts"].get(kind, 0) + 1
        workers[node].add(row.get("owner"))
    for node, one in groups.items():
        one["total_num_workers"] = len(workers[node])
    return {
        "summary": groups,
        "summary_by": "node",
        "total_objects": len(rows),
        "total_size_mb": sum(one["total_size_mb"] for one in groups.values()),
    }


def _count(row: Row) -> int:
    return int(row.get("count", 1))


__all__ = ["COLUMNS", "DETAILS", "KEY", "summarized", "summary_of"]
