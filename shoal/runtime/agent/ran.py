"""What ran on this node, as rows with Ray's columns: tasks that run or ran, workers that ended. Bounded.

Workers send what they finished about once a second, and what runs for longer than half a second. A worker's death ends
what it ran. `left_behind` is what the head keeps when the node goes.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import Any

TASKS_MAX = 20_000
WORKERS_MAX = 1_000
COUNTS_MAX = 1_000
OTHER_FUNCTIONS = "(other functions)"
"""What stands for functions beyond the first `COUNTS_MAX` in the counts."""
LEFT_TASKS_MAX, LEFT_WORKERS_MAX = 2_000, 200
"""How much is handed to the head when the node goes."""

Row = dict[str, Any]


class Ran:
    """The tables of one node."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._done: collections.deque[Row] = collections.deque(maxlen=TASKS_MAX)
        self._running: dict[bytes, dict[str, Row]] = {}
        """By worker, then by task id."""
        self._ended: collections.deque[Row] = collections.deque(maxlen=WORKERS_MAX)
        self._counts: collections.Counter[tuple[str, str, str]] = collections.Counter()
        """How many ended, ever, by function, type and state: true where rows are no longer kept."""
        self.finished = self.failed = self.dropped = 0

    def add(self, process: bytes, pid: int, job: str, rows: list[Any], dropped: int) -> None:
        """Take a worker's word: [task id, name, function, start, end, error, actor, kind, attempt] each.

        An end of None: it still runs. An empty error: it went well.
        """
        self.dropped += dropped
        running = self._running.setdefault(process, {})
        for task_id, name, function, started_s, ended_s, error, actor, kind, attempt in rows:
            row = {
                "task_id": task_id,
                "attempt_number": attempt,
                "name": name,
                "state": "RUNNING" if ended_s is None else ("FAILED" if error else "FINISHED"),
                "job_id": job,
                "actor_id": actor,
                "type": kind,
                "func_or_class_name": function,
                "parent_task_id": "",
                "node_id": self._node_id,
                "worker_id": process.hex(),
                "worker_pid": pid,
                "error_type": error,
                "start_time_s": started_s,
                "end_time_s": ended_s,
            }
            if ended_s is None:
                if len(running) < TASKS_MAX:
                    running[task_id] = row
                continue
            running.pop(task_id, None)
            self._end(row)

    def _end(self, row: Row) -> None:
        """Keep a row of what ended, and count it."""
        if row["state"] == "FAILED":
            self.failed += 1
        else:
            self.finished += 1
        key = row["func_or_class_name"], row["type"], row["state"]
        if key not in self._counts and len(self._counts) >= COUNTS_MAX:
            key = OTHER_FUNCTIONS, *key[1:]
        self._counts[key] += 1
        self._done.append(row)

    def worker_ended(self, row: Row, why: str, exit_type: str, now_s: float) -> None:
        """Note a worker's end, which ends what it ran. `row` is how it was listed while it lived."""
        process = bytes.fromhex(row["worker_id"])
        for task in self._running.pop(process, {}).values():
            task |= {"state": "FAILED", "error_type": _ERROR_OF.get(exit_type, "WORKER_DIED"), "end_time_s": now_s}
            self._end(task)
        ended = {"is_alive": False, "state": "ended", "exit_type": exit_type, "exit_detail": why, "end_time_s": now_s}
        self._ended.append({**row, **ended})

    def tasks(self) -> list[Row]:
        """Return what ran, in the order in which it ended, then what runs."""
        return [*self._done, *(row for rows in self._running.values() for row in rows.values())]

    def counts(self, waiting: Iterable[Row] = ()) -> list[Row]:
        """Return how many tasks of each function, type and state there were, are, and (in `waiting`) will be."""
        found = self._counts.copy()
        running = (row for rows in self._running.values() for row in rows.values())
        for row in (*running, *waiting):
            found[row["func_or_class_name"], row["type"], row["state"]] += row.get("count", 1)
        return [
            {"func_or_class_name": name, "type": kind, "state": state, "count": count}
            for (name, kind, state), count in found.items()
        ]

    def ended_workers(self) -> list[Row]:
        """Return the workers that ended, oldest first."""
        return list(self._ended)

    def left_behind(self, living: Iterable[Row]) -> dict[str, list[Row]]:
        """Return what the head shall remember of this node, as if it were gone; `living` are its workers of now."""
        tasks = self.tasks()[-LEFT_TASKS_MAX:]
        died = {"state": "FAILED", "error_type": "NODE_DIED"}
        ended = {"is_alive": False, "exit_type": "INTENDED_SYSTEM_EXIT", "exit_detail": "its node ended"}
        workers = [*self._ended, *({**row, **ended, "state": "ended"} for row in living)]
        counts = [{**row, "state": "FAILED"} if row["state"] == "RUNNING" else row for row in self.counts()]
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
