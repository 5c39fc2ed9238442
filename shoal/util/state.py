"""The state of the cluster as rows: `list_*`, `get_*`, `summarize_*` and logs, under Ray's names and columns.

Rows are dicts that can also be read by attribute: `actor["state"]`, `actor.state`. The head holds actors, nodes, jobs,
groups and events; it asks the agents for tasks, objects and workers: one that does not answer makes a result partial.
"""

from __future__ import annotations

import collections
import fnmatch
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from shoal.runtime.client.api import session
from shoal.util.state_tables import summarized, summary_of
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


def _lister(kind: str, doc: str) -> Callable[..., list[Row]]:
    """Return the public function that lists a kind."""

    def listed(
        address: str | None = None,
        filters: Sequence[Filter] | None = None,
        limit: int = LIMIT_DEFAULT,
        timeout: float = 30,
        detail: bool = False,
        raise_on_missing_output: bool = True,
        _explain: bool = False,
    ) -> list[Row]:
        return _listed(kind, address, filters, limit, timeout, detail, raise_on_missing_output)

    listed.__name__ = listed.__qualname__ = "list_" + kind.replace("-", "_")
    listed.__doc__ = doc
    return listed


list_actors = _lister("actors", "Return actors, dead ones too.")
list_nodes = _lister("nodes", "Return nodes, dead ones too.")
list_jobs = _lister("jobs", "Return jobs: drivers and submissions.")
list_placement_groups = _lister("placement-groups", "Return placement groups, removed ones too.")
list_tasks = _lister("tasks", "Return tasks and actor calls that wait, run, or ran lately.")
list_objects = _lister("objects", "Return the objects in the nodes' stores.")
list_workers = _lister("workers", "Return worker processes, those that ended lately too.")
list_cluster_events = _lister("cluster-events", "Return the latest events of the cluster.")


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


def _getter(kind: str, key: str, doc: str) -> Callable[..., Row | None]:
    """Return the public function that finds one thing of a kind."""

    def got(id: str, address: str | None = None, timeout: float = 30, _explain: bool = False) -> Row | None:
        return _one(kind, key, id, address, timeout)

    got.__name__ = got.__qualname__ = "get_" + kind.removesuffix("s").replace("-", "_")
    got.__doc__ = doc
    return got


get_actor = _getter("actors", "actor_id", "Return one actor, None if there is none of that id.")
get_node = _getter("nodes", "node_id", "Return one node, None if there is none of that id.")
get_job = _getter("jobs", "job_id", "Return one job, None if there is none of that id.")
get_placement_group = _getter("placement-groups", "placement_group_id", "Return one placement group, or None.")
get_worker = _getter("workers", "worker_id", "Return one worker process, None if there is none of that id.")


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
    return _summarized("tasks", address, timeout)


def summarize_actors(
    address: str | None = None, timeout: float = 30, raise_on_missing_output: bool = True, _explain: bool = False
) -> dict[str, Any]:
    """Return how many actors of each class are in each state."""
    return _summarized("actors", address, timeout)


def summarize_objects(
    address: str | None = None, timeout: float = 30, raise_on_missing_output: bool = True, _explain: bool = False
) -> dict[str, Any]:
    """Return number and size of the objects in the nodes' stores, by node."""
    return _summarized("objects", address, timeout)


def _summarized(kind: str, address: str | None, timeout: float) -> dict[str, Any]:
    return {"cluster": summary_of(kind, _asked(summarized(kind), address, None, LIMIT_MAX, timeout, True)["rows"])}


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
