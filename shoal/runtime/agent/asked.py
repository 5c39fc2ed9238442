"""What waits, as its owners know it: asked of every process attached here when somebody lists or counts tasks.

An owner that does not answer within `ANSWER_LIMIT_S` (its code may hold the interpreter) is shown by what it reports as
demand: rows without ids, of which one stands for many.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from shoal.foundation.amounts import quantities
from shoal.runtime.agent.clients import ClassRow, Client
from shoal.runtime.decide.row_filters import Filters, passes
from shoal.runtime.decide.task_states import TaskState, is_ended, is_running
from shoal.wire import tasks as wire

ANSWER_LIMIT_S = 0.3
Row = dict[str, Any]


class Waiting:
    """One answer: rows, how many tasks there are of which some are in the rows, and their counts as rows."""

    def __init__(self, limit: int, filters: Filters) -> None:
        self.limit, self.filters = limit, filters
        self.rows: list[Row] = []
        self.total = 0
        self.counts: list[Row] = []

    def take(self, node_id: str, rows: Sequence[Row], total: int, counts: Sequence[Sequence[Any]]) -> None:
        """Add one owner's word."""
        room = max(0, self.limit - len(self.rows))
        for row in rows[:room]:
            row["required_resources"] = {} if row["type"] == "ACTOR_TASK" else quantities(row.pop("amounts", {}))
            self.rows.append(row)
        self.total += total
        self.counts += [
            {"func_or_class_name": function, "type": kind, "state": state, "count": count}
            for function, kind, state, count in counts
        ]

    def take_demand(self, works: Iterable[ClassRow]) -> None:
        """Add what an owner that is silent has reported as demand."""
        for work in works:
            if not (count := work.wanted):
                continue
            row = _unnamed(work)
            self.counts.append({**row, "count": count})
            if not passes(row, self.filters):
                continue
            self.total += count
            if len(self.rows) < self.limit:
                self.rows.append({**row, "count": count})


def may_wait(filters: Filters) -> bool:
    """Say whether a task that waits could pass."""
    wanted = [one for one in filters if one[0] == "state"]
    return any(
        passes({"state": state.value}, wanted) for state in TaskState if not is_running(state) and not is_ended(state)
    )


class Asked:
    """The questions under way."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._serials = itertools.count(1)
        self._open: dict[int, tuple[Waiting, dict[bytes, Client], Callable[[Waiting], None]]] = {}

    def ask(self, clients: Iterable[Client], limit: int, filters: Filters, call: Callable[[Waiting], None]) -> None:
        """Have `call` called once with what these clients wait for; at once if none of them could answer."""
        waiting = Waiting(limit, filters)
        asked = {one.process: one for one in clients if one.kind != "owner" and one.job}
        if not asked:
            call(waiting)
            return
        serial = next(self._serials)
        self._open[serial] = (waiting, asked, call)
        for client in asked.values():
            client.tell(wire.ASK_OWED, serial, limit, filters)
        asyncio.get_running_loop().call_later(ANSWER_LIMIT_S, self._give_up, serial)

    def answered(self, client: Client, message: list[Any]) -> None:
        """One owner's answer."""
        _, serial, rows, total, counts = message
        waiting, asked, _ = self._open.get(serial, (None, {}, None))
        if waiting is not None and asked.pop(client.process, None) is not None:
            waiting.take(self._node_id, rows, total, counts)
            if not asked:
                self._finish(serial)

    def gone(self, process: bytes) -> None:
        """A process ended: nobody waits for its answer."""
        for serial, (_, asked, _) in tuple(self._open.items()):
            if asked.pop(process, None) is not None and not asked:
                self._finish(serial)

    def _give_up(self, serial: int) -> None:
        if serial in self._open:
            waiting, asked, _ = self._open[serial]
            for client in asked.values():
                waiting.take_demand(client.classes.values())
            self._finish(serial)

    def _finish(self, serial: int) -> None:
        waiting, _, call = self._open.pop(serial)
        call(waiting)


def _unnamed(work: ClassRow) -> Row:
    name = work.spec.get("name", "")
    return {
        "task_id": "",
        "attempt_number": 0,
        "name": name,
        "state": "PENDING_NODE_ASSIGNMENT",
        "job_id": work.job,
        "actor_id": "",
        "type": "NORMAL_TASK",
        "func_or_class_name": name,
        "required_resources": quantities(work.amounts),
    }
