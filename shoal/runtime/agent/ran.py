"""What ran on this node, as rows with Ray's columns: tasks that run or ran, workers that ended. Bounded.

Workers send what they finished about once a second, and what has been running for a while (see
`runtime/worker/telling.py`). A worker's death ends what it ran. `left_behind` is what the head keeps when the node
goes.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterable
from typing import Any

from shoal.foundation.amounts import quantities

TASKS_MAX = 20_000
WORKERS_MAX = 1_000
COUNTS_MAX = 1_000
OTHER_FUNCTIONS = "(other functions)"
"""What stands for functions beyond the first `COUNTS_MAX` in the counts."""
LEFT_TASKS_MAX, LEFT_WORKERS_MAX = 2_000, 200
"""How much is handed to the head when the node goes."""

Row = dict[str, Any]
Told = list[Any]
"""[task id, name, function, start, end, error, actor, kind, attempt, parent, creation, error's text, call site]. An end
of None: it still runs. An empty error: it went well."""
ID, NAME, FUNCTION, BEGAN, ENDED, ERROR, ACTOR, KIND, ATTEMPT, PARENT, MADE, WHY, SITE = range(13)
Counted = list[Any]
"""[function, kind, whether they failed, how many]: what ended so fast that no rows are told of it."""
Entry = tuple[Told, Row]
"""What was told of a task, and what it shares with the others of one message."""


class Ran:
    """The tables of one node."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._done: collections.deque[Entry] = collections.deque(maxlen=TASKS_MAX)
        """As they were told: rows are made of them when somebody asks."""
        self._running: dict[bytes, dict[str, Entry]] = {}
        """By worker, then by task id."""
        self._ended: collections.deque[Row] = collections.deque(maxlen=WORKERS_MAX)
        self._counts: collections.Counter[tuple[str, str, bool]] = collections.Counter()
        """How many ended, ever, by function, type and whether they failed: true where rows are no longer kept."""
        self._ended_with_worker: dict[tuple[str, int], None] = {}
        """Tasks that ended with their worker, lately: their owners may tell of them as well."""
        self.finished = self.failed = self.dropped = 0
        self.version = 0
        """Grows with every change."""

    def add(
        self,
        process: bytes,
        pid: int,
        job: str,
        rows: list[Told],
        counts: Iterable[Counted] = (),
        about: dict[str, Any] | None = None,
    ) -> None:
        """Take a process's word; `about` is what the tasks have in common: amounts, group, environment.

        An owner tells of tasks that ended with their worker; then `about` names that worker's process, node and job.
        """
        for function, kind, is_failed, count in counts:
            self.dropped += count
            self._count(function, kind, is_failed, count)
        self.version += 1
        about = about or {}
        is_owners = "process" in about
        ran_by: bytes = about.get("process", process)
        common = {
            "job_id": about.get("job", job),
            "node_id": about.get("node", self._node_id),
            "worker_id": ran_by.hex(),
            "worker_pid": None if is_owners else pid,
            "required_resources": quantities(about.get("amounts") or {}),
            "placement_group_id": about.get("group", ""),
            "runtime_env_info": about.get("environment") or {},
        }
        if is_owners:
            for told in rows:
                if self._is_news_of_end(told):
                    self._end(told, common)
            return
        running = self._running.setdefault(process, {})
        for told in rows:
            if told[ENDED] is not None:
                running.pop(told[ID], None)
                self._end(told, common)
            elif len(running) < TASKS_MAX:
                running[told[ID]] = (told, common)

    def _end(self, told: Told, common: Row) -> None:
        """Keep what ended, and count it."""
        self._count(told[FUNCTION], told[KIND], bool(told[ERROR]), 1)
        self._done.append((told, common))

    def _count(self, function: str, kind: str, is_failed: bool, count: int) -> None:
        if is_failed:
            self.failed += count
        else:
            self.finished += count
        key = function, kind, is_failed
        if key not in self._counts and len(self._counts) >= COUNTS_MAX:
            key = OTHER_FUNCTIONS, *key[1:]
        self._counts[key] += count

    def _is_news_of_end(self, told: Told) -> bool:
        """Say whether nobody has told yet that this attempt ended with its worker, and note that it did."""
        key = told[ID], told[ATTEMPT]
        if key in self._ended_with_worker:
            return False
        self._ended_with_worker[key] = None
        while len(self._ended_with_worker) > TASKS_MAX:
            del self._ended_with_worker[next(iter(self._ended_with_worker))]
        return True

    def worker_ended(self, row: Row, why: str, exit_type: str, now_s: float) -> None:
        """Note a worker's end, which ends what it ran. `row` is how it was listed while it lived."""
        process = bytes.fromhex(row["worker_id"])
        self.version += 1
        for told, common in self._running.pop(process, {}).values():
            ended = [*told]
            ended[ENDED], ended[ERROR], ended[WHY] = now_s, _ERROR_OF.get(exit_type, "WORKER_DIED"), why
            if self._is_news_of_end(ended):
                self._end(ended, common)
        over = {"is_alive": False, "state": "ended", "exit_type": exit_type, "exit_detail": why, "end_time_s": now_s}
        self._ended.append({**row, **over})

    def tasks(self) -> list[Row]:
        """Return what ran, in the order in which it ended, then what runs."""
        running = (entry for entries in self._running.values() for entry in entries.values())
        return [_row(told, common) for told, common in (*self._done, *running)]

    def counts(self, waiting: Iterable[Row] = ()) -> list[Row]:
        """Return how many tasks of each function, type and state there were, are, and (in `waiting`) will be."""
        found: collections.Counter[tuple[str, str, str]] = collections.Counter()
        for (function, kind, is_failed), count in self._counts.items():
            found[function, kind, "FAILED" if is_failed else "FINISHED"] += count
        for entries in self._running.values():
            for told, _ in entries.values():
                found[told[FUNCTION], told[KIND], "RUNNING"] += 1
        for row in waiting:
            found[row["func_or_class_name"], row["type"], row["state"]] += row.get("count", 1)
        return [
            {"func_or_class_name": name, "type": kind, "state": state, "count": count}
            for (name, kind, state), count in found.items()
        ]

    def ended_workers(self) -> list[Row]:
        """Return the workers that ended, oldest first."""
        return list(self._ended)

    def left_behind(
        self, living: Iterable[Row], *, tasks_max: int = LEFT_TASKS_MAX, has_died: bool = False
    ) -> dict[str, list[Row]]:
        """Return what the head shall remember of this node, as if it were gone; `living` are its workers of now.

        `tasks_max`: how many tasks of those that have ended; `has_died`: it went without a word.
        """
        running = [_row(*entry) for entries in self._running.values() for entry in entries.values()][-LEFT_TASKS_MAX:]
        kept = list(itertools.islice(reversed(self._done), max(0, tasks_max - len(running))))
        tasks = [*(_row(*entry) for entry in reversed(kept)), *running]
        died = {"state": "FAILED", "error_type": "NODE_DIED", "error_message": "its node died"}
        ended = {"is_alive": False, "exit_type": "INTENDED_SYSTEM_EXIT", "exit_detail": "its node ended"}
        if has_died:
            ended |= {"exit_type": "SYSTEM_ERROR", "exit_detail": "its node died"}
        workers = [*self._ended, *({**row, **ended, "state": "ended"} for row in living)]
        # Owners elsewhere will tell of what ran here; those that go with the node will not.
        lost = [row for row in tasks if row["state"] == "RUNNING" and row["task_id"].startswith(self._node_id)]
        counts = [row for row in self.counts() if row["state"] != "RUNNING"]
        counts += [{**_counted(row), "state": "FAILED", "count": 1} for row in lost]
        return {
            "task-counts": counts,
            "tasks": [{**row, **died} if row["state"] == "RUNNING" else row for row in tasks],
            "workers": workers[-LEFT_WORKERS_MAX:],
        }


def exit_type_of(why: str, *, was_told: bool, code: int | None) -> str:
    """Return Ray's word for how a worker ended; `was_told`: this node ended it.

    >>> exit_type_of("the worker process was killed by SIGKILL", was_told=False, code=-9)
    'SYSTEM_ERROR'
    """
    if why.startswith("out of memory"):
        return "NODE_OUT_OF_MEMORY"
    if was_told:
        return "INTENDED_SYSTEM_EXIT"
    if code == 0:
        return "INTENDED_USER_EXIT"
    return "USER_ERROR" if code is not None and code > 0 else "SYSTEM_ERROR"


_ERROR_OF = {"NODE_OUT_OF_MEMORY": "OUT_OF_MEMORY"}


def _row(told: Told, common: Row) -> Row:
    task_id, name, function, began_s, ended_s, error, actor, kind, attempt, parent, made_s, why, site = told
    return {
        "task_id": task_id,
        "attempt_number": attempt,
        "name": name,
        "state": "RUNNING" if ended_s is None else ("FAILED" if error else "FINISHED"),
        "job_id": "",  # which keeps the order of columns
        "actor_id": actor,
        "type": kind,
        "func_or_class_name": function,
        "parent_task_id": parent,
        "error_type": error,
        "error_message": why,
        # When its owner looked last before or after it; a start is earlier than that where it started at once.
        "creation_time_s": made_s if made_s is None or began_s is None else min(made_s, began_s),
        "start_time_s": began_s,
        "end_time_s": ended_s,
        **common,
        **({"required_resources": {}} if kind == "ACTOR_TASK" else {}),  # the actor holds what they use
        "call_site": site,
    }


def _counted(row: Row) -> Row:
    return {"func_or_class_name": row["func_or_class_name"], "type": row["type"]}
