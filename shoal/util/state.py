"""The state of the cluster as rows: `list_*`, `get_*`, `summarize_*` and logs, under Ray's names and columns.

Rows are dicts that can also be read by attribute: `actor["state"]`, `actor.state`. The head holds actors, nodes, jobs,
groups and events; it asks the agents for tasks, objects and workers: one that does not answer makes a result partial.
"""

from __future__ import annotations

import collections
import fnmatch
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from shoal.runtime.client.api import session
from shoal.wire import tasks as wire
from shoal.wire.asks import What

Filter = tuple[str, str, Any]
LIMIT_DEFAULT = 100
LIMIT_MAX = 10_000
LOG_BYTES_MAX = 16 * 2**20
LOG_LINE_BYTES = 1000
"""How long a line is taken to be when the end of a log is read."""


class Row(dict[str, Any]):
    """One row; its columns are attributes as well."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no column `{name}`; there are {', '.join(self)}") from None


class StateApiError(Exception):
    """The state could not be read, or not in full (`raise_on_missing_output`)."""


RayStateApiException = StateApiError


def _listed(
    kind: str,
    address: str | None,
    filters: Sequence[Filter] | None,
    limit: int,
    timeout: float,
    detail: bool,
    raise_on_missing_output: bool,
) -> list[Row]:
    """Return the rows of a kind.

    Raises:
        ValueError: `address` is another cluster's, a filter or the limit is wrong.
        StateApiError: rows are missing, and `raise_on_missing_output`.
    """
    answer = _asked(kind, address, filters, limit, timeout, detail)
    rows = [Row(one) for one in answer["rows"]]
    lacking = answer["warnings"] or (answer["is_partial"] and answer["total"] <= len(rows))
    if lacking and raise_on_missing_output:
        raise StateApiError(f"{kind}: " + ("; ".join(answer["warnings"]) or "some rows are missing"))
    if answer["total"] > len(rows):
        warnings.warn(
            f"{kind}: {len(rows)} of {answer['total']} rows; raise `limit` (now {limit}) or filter", stacklevel=3
        )
    return rows


def _asked(
    kind: str, address: str | None, filters: Sequence[Filter] | None, limit: int, timeout: float, detail: bool
) -> dict[str, Any]:
    here = session()
    if address not in (None, "auto"):
        raise ValueError(f"address: expected None (the cluster of init()), got `{address}`")
    if not 1 <= limit <= LIMIT_MAX:
        raise ValueError(f"limit: expected 1 to {LIMIT_MAX}, got `{limit}`")
    for one in filters or ():
        if len(one) != 3 or one[1] not in ("=", "!="):
            raise ValueError(f"filters: expected (column, '=' or '!=', value), got `{one}`")
    args = {
        "kind": kind,
        "filters": [[name, sign, str(value)] for name, sign, value in filters or ()],
        "limit": limit,
        "detail": detail,
        "timeout_s": timeout,
    }
    answer: dict[str, Any] = here.core.ask(What.STATE, args, limit_s=timeout + 5)
    return answer


def list_actors(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = LIMIT_DEFAULT,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[Row]:
    """Return actors, dead ones too."""
    return _listed("actors", address, filters, limit, timeout, detail, raise_on_missing_output)


def list_nodes(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = LIMIT_DEFAULT,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[Row]:
    """Return nodes, dead ones too."""
    return _listed("nodes", address, filters, limit, timeout, detail, raise_on_missing_output)


def list_jobs(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = LIMIT_DEFAULT,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[Row]:
    """Return jobs: drivers and submissions."""
    return _listed("jobs", address, filters, limit, timeout, detail, raise_on_missing_output)


def list_placement_groups(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = LIMIT_DEFAULT,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[Row]:
    """Return placement groups, removed ones too."""
    return _listed("placement-groups", address, filters, limit, timeout, detail, raise_on_missing_output)


def list_tasks(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = LIMIT_DEFAULT,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[Row]:
    """Return tasks and actor calls that wait, run, or ran lately."""
    return _listed("tasks", address, filters, limit, timeout, detail, raise_on_missing_output)


def list_objects(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = LIMIT_DEFAULT,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[Row]:
    """Return the objects in the nodes' stores."""
    return _listed("objects", address, filters, limit, timeout, detail, raise_on_missing_output)


def list_workers(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = LIMIT_DEFAULT,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[Row]:
    """Return worker processes."""
    return _listed("workers", address, filters, limit, timeout, detail, raise_on_missing_output)


def list_cluster_events(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = LIMIT_DEFAULT,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[Row]:
    """Return the latest events of the cluster."""
    return _listed("cluster-events", address, filters, limit, timeout, detail, raise_on_missing_output)


def list_logs(
    address: str | None = None,
    node_id: str | None = None,
    node_ip: str | None = None,
    glob_filter: str | None = None,
    timeout: float = 30,
) -> dict[str, list[str]]:
    """Return names of log files by the kind of process that writes them."""
    filters: list[Filter] = [("node_id", "=", node_id)] if node_id else []
    found: dict[str, list[str]] = collections.defaultdict(list)
    for row in _asked("logs", address, filters, LIMIT_MAX, timeout, False)["rows"]:
        name = row["file"]
        if glob_filter is None or fnmatch.fnmatch(name, glob_filter):
            found[re.split(r"[-_.]", name, maxsplit=1)[0]].append(name)
    return dict(found)


def get_log(
    address: str | None = None,
    node_id: str | None = None,
    node_ip: str | None = None,
    filename: str | None = None,
    tail: int = 1000,
    timeout: float = 30,
    encoding: str | None = "utf-8",
    errors: str | None = "strict",
) -> Iterator[Any]:
    """Yield the last `tail` lines (-1: all that is kept) of a node's log file; `list_logs` gives their names.

    Without `node_id`, of this node. Lines are text, or bytes with `encoding=None`.

    Raises:
        ValueError: no file is named, or there is none of that name.
    """
    here = session()
    if not filename:
        raise ValueError("filename: expected the name of a log file; `list_logs()` gives them")
    if node_ip is not None or address not in (None, "auto"):
        raise ValueError("get_log: expected `node_id` to say where the file is, and the cluster of init()")
    size = LOG_BYTES_MAX if tail < 0 else min(LOG_BYTES_MAX, tail * LOG_LINE_BYTES)
    args: dict[str, Any] = {"name": filename, "tail_bytes": size, "bytes_max": size}
    if node_id in (None, here.core.info["node_id"]):
        found = here.core.ask("logs", args, kind=wire.LOCAL, limit_s=timeout)
    else:
        args |= {"kind": "logs", "filters": [["node_id", "=", node_id]], "timeout_s": timeout}
        answer = here.core.ask(What.STATE, args, limit_s=timeout + 5)
        if not answer["rows"]:
            raise ValueError(f"no log file `{filename}` on node {node_id}: {'; '.join(answer['warnings'])}")
        found = answer["rows"][0]
    lines = found["data"].splitlines()
    for line in lines if tail < 0 else lines[max(0, len(lines) - tail) :]:
        yield line if encoding is None else line.decode(encoding, errors or "strict")


def get_actor(id: str, address: str | None = None, timeout: float = 30, _explain: bool = False) -> Row | None:
    """Return one actor, None if there is none of that id."""
    return _one("actors", "actor_id", id, address, timeout)


def get_node(id: str, address: str | None = None, timeout: float = 30, _explain: bool = False) -> Row | None:
    """Return one node."""
    return _one("nodes", "node_id", id, address, timeout)


def get_job(id: str, address: str | None = None, timeout: float = 30, _explain: bool = False) -> Row | None:
    """Return one job."""
    return _one("jobs", "job_id", id, address, timeout)


def get_placement_group(id: str, address: str | None = None, timeout: float = 30, _explain: bool = False) -> Row | None:
    """Return one placement group."""
    return _one("placement-groups", "placement_group_id", id, address, timeout)


def get_worker(id: str, address: str | None = None, timeout: float = 30, _explain: bool = False) -> Row | None:
    """Return one worker process."""
    return _one("workers", "worker_id", id, address, timeout)


def get_task(id: Any, address: str | None = None, timeout: float = 30, _explain: bool = False) -> Row | None:
    """Return one task, by its id or by the ref of its result."""
    text = id if isinstance(id, str) else id.task_id()
    return _one("tasks", "task_id", text if isinstance(text, str) else text.hex(), address, timeout)


def get_objects(id: str, address: str | None = None, timeout: float = 30, _explain: bool = False) -> list[Row]:
    """Return the copies of one object."""
    return _listed("objects", address, [("object_id", "=", id)], LIMIT_DEFAULT, timeout, True, False)


def summarize_tasks(
    address: str | None = None, timeout: float = 30, raise_on_missing_output: bool = True, _explain: bool = False
) -> dict[str, Any]:
    """Return how many tasks of each name are in each state."""
    rows = _asked("tasks", address, None, LIMIT_MAX, timeout, False)["rows"]
    summary: dict[str, dict[str, Any]] = {}
    for row in rows:
        one = summary.setdefault(
            row["name"], {"func_or_class_name": row["name"], "type": row.get("type", ""), "state_counts": {}}
        )
        one["state_counts"][row["state"]] = one["state_counts"].get(row["state"], 0) + 1
    kinds = collections.Counter(row.get("type", "") for row in rows)
    return _summary(
        {
            "summary": summary,
            "summary_by": "func_name",
            "total_tasks": kinds["NORMAL_TASK"],
            "total_actor_tasks": kinds["ACTOR_TASK"],
            "total_actor_scheduled": kinds["ACTOR_CREATION_TASK"],
        }
    )


def summarize_actors(
    address: str | None = None, timeout: float = 30, raise_on_missing_output: bool = True, _explain: bool = False
) -> dict[str, Any]:
    """Return how many actors of each class are in each state."""
    rows = _asked("actors", address, None, LIMIT_MAX, timeout, False)["rows"]
    summary: dict[str, dict[str, Any]] = {}
    for row in rows:
        one = summary.setdefault(row["class_name"], {"class_name": row["class_name"], "state_counts": {}})
        one["state_counts"][row["state"]] = one["state_counts"].get(row["state"], 0) + 1
    return _summary({"summary": summary, "summary_by": "class", "total_actors": len(rows)})


def summarize_objects(
    address: str | None = None, timeout: float = 30, raise_on_missing_output: bool = True, _explain: bool = False
) -> dict[str, Any]:
    """Return number and size of the objects in the nodes' stores, by node."""
    rows = _asked("objects", address, None, LIMIT_MAX, timeout, True)["rows"]
    summary: dict[str, dict[str, Any]] = {}
    for row in rows:
        one = summary.setdefault(row.get("node_id", ""), {"total_objects": 0, "total_size_mb": 0.0})
        one["total_objects"] += 1
        one["total_size_mb"] += row.get("object_size", 0) / 2**20
    total_mb = sum(one["total_size_mb"] for one in summary.values())
    return _summary({"summary": summary, "summary_by": "node", "total_objects": len(rows), "total_size_mb": total_mb})


def _summary(content: dict[str, Any]) -> dict[str, Any]:
    return {"cluster": content}


def _one(kind: str, key: str, value: str, address: str | None, timeout: float) -> Row | None:
    rows = _listed(kind, address, [(key, "=", value)], 1, timeout, True, False)
    return rows[0] if rows else None


__all__ = [
    "RayStateApiException",
    "Row",
    "StateApiError",
    "get_actor",
    "get_job",
    "get_log",
    "get_node",
    "get_objects",
    "get_placement_group",
    "get_task",
    "get_worker",
    "list_actors",
    "list_cluster_events",
    "list_jobs",
    "list_logs",
    "list_nodes",
    "list_objects",
    "list_placement_groups",
    "list_tasks",
    "list_workers",
    "summarize_actors",
    "summarize_objects",
    "summarize_tasks",
]
