"""Questions to the agents for the state API: fanned out, merged, limited, with a deadline. Nothing is kept.

An agent answers `Query(rid, what, {"filters", "limit", "detail", ...})` with {"rows": [...], "total": n, "warnings":
[...]}, or with one map that is no table. A row is a map with lower-case column names. Filters are [key, "=" or "!=",
value], all of which must hold; the agent applies them, the head again. Who does not answer in time makes the result
partial, with a warning that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from shoal.runtime.decide.row_filters import chosen, passes, tasks_in
from shoal.runtime.decide.task_states import TaskState, later
from shoal.runtime.head.core.events import Outbox, Rejected
from shoal.runtime.head.core.nodes import Member, Nodes
from shoal.wire.messages import Answered, Query

WARNINGS_MAX = 20
Answer = Callable[[dict[str, Any]], None]


class Open(msgspec.Struct, kw_only=True):
    """One question under way."""

    what: str
    answer: Answer
    asked: set[str]
    filters: list[list[str]]
    limit: int
    until_s: float
    rows: list[dict[str, Any]]
    warnings: list[str]
    known: list[dict[str, Any]]
    total: int = 0
    is_partial: bool = False


class Queries:
    """Every question that waits for agents."""

    def __init__(self, out: Outbox, nodes: Nodes) -> None:
        self._out, self._nodes = out, nodes
        self._open: dict[int, Open] = {}
        self._serial = 0

    def ask(
        self,
        what: str,
        args: dict[str, Any],
        answer: Answer,
        *,
        node_ids: Iterable[str] | None = None,
        known: Sequence[dict[str, Any]] = (),
    ) -> None:
        """Ask every agent in touch (or only some) and call `answer` with {rows, total, is_partial, warnings}, once.

        `known` are rows that are here already; they come after the agents'.
        """
        filters, limit = filters_of(args), limit_of(args, self._out.settings.rows_max)
        self._serial += 1
        settings = self._out.settings
        until_s = self._out.now_s + min(float(args.get("timeout_s") or settings.query_limit_s), 60.0)
        question = Open(
            what=what,
            answer=answer,
            asked=set(),
            filters=filters,
            limit=limit,
            until_s=until_s,
            rows=[],
            warnings=[],
            known=chosen(known, filters),
        )
        wanted = None if node_ids is None else set(node_ids)
        for member in self._nodes.alive.values():
            if wanted is not None and member.node_id not in wanted:
                continue
            if member.connection is None:
                question.is_partial = True
                question.warnings.append(f"node {member.node_id[:8]} is out of touch")
                continue
            question.asked.add(member.node_id)
            self._out.send(member.connection, Query(self._serial, what, {**args, "filters": filters, "limit": limit}))
        if question.asked:
            self._open[self._serial] = question
        else:
            self._finish(question)

    def answered(self, member: Member, news: Answered) -> None:
        """One agent's part."""
        question = self._open.get(news.rid)
        if question is None or member.node_id not in question.asked:
            return
        question.asked.discard(member.node_id)
        if not news.is_ok:
            question.is_partial = True
            question.warnings.append(f"node {member.node_id[:8]}: {news.value}")
        else:
            self._merge(question, member, news.value)
        if not question.asked:
            del self._open[news.rid]
            self._finish(question)

    def out_of_touch(self, node_id: str) -> None:
        """A node's stream closed: nobody waits for it."""
        for rid, question in tuple(self._open.items()):
            if node_id in question.asked:
                question.asked.discard(node_id)
                question.is_partial = True
                question.warnings.append(f"node {node_id[:8]} is out of touch")
                if not question.asked:
                    del self._open[rid]
                    self._finish(question)

    def expire(self) -> None:
        """Answer with what there is once the time is over."""
        for rid, question in tuple(self._open.items()):
            if question.until_s <= self._out.now_s:
                del self._open[rid]
                question.is_partial = True
                silent = ", ".join(sorted(node[:8] for node in question.asked)[:5])
                question.warnings.append(f"no answer in time from {len(question.asked)} nodes: {silent}")
                self._finish(question)

    def _merge(self, question: Open, member: Member, value: Any) -> None:
        if not isinstance(value, dict):
            question.is_partial = True
            question.warnings.append(f"node {member.node_id[:8]} answered something else than rows")
            return
        rows = value.get("rows")
        if not isinstance(rows, list):
            rows = [{"node_id": member.node_id, **value}]  # one thing, not a table: part of a file, say
        for row in rows:
            if isinstance(row, dict) and question.what == "logs" and "name" in row:
                row["file"] = row.pop("name")
        if question.what == "task-counts":
            _add_counts(question.rows, rows)
            return
        room = question.limit - len(question.rows)
        found = [row for row in rows if isinstance(row, dict) and passes(row, question.filters)]
        question.rows.extend(found[: max(0, room)])
        total = value.get("total")
        question.total += total if isinstance(total, int) else len(rows)
        question.warnings.extend(str(text) for text in value.get("warnings") or ())

    def _finish(self, question: Open) -> None:
        if question.what == "task-counts":
            _add_counts(question.rows, question.known)
            question.known = []
            question.total = len(question.rows)
        question.total += tasks_in(question.known)
        question.rows.extend(question.known[: max(0, question.limit - len(question.rows))])
        if question.what == "tasks":
            found = once_each(question.rows)
            question.total -= len(question.rows) - len(found)
            question.rows = found
        question.answer(
            {
                "rows": question.rows,
                "total": max(question.total, len(question.rows)),
                "is_partial": question.is_partial or question.total > len(question.rows),
                "warnings": question.warnings[:WARNINGS_MAX],
            }
        )


def once_each(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of tasks with one for each attempt: several tell of it (who owns it, who ran it, a node before it
    died), and who knows the later state knows best; of one state, who knows when it began."""
    best: dict[tuple[Any, Any], dict[str, Any]] = {}
    for row in rows:
        if row.get("task_id"):
            key = row["task_id"], row.get("attempt_number")
            known = best.get(key)
            if known is None or _knows_more(row, known):
                best[key] = row
    return [row for row in rows if not row.get("task_id") or best[row["task_id"], row.get("attempt_number")] is row]


def _knows_more(row: dict[str, Any], known: dict[str, Any]) -> bool:
    before, heard = str(known.get("state")), str(row.get("state"))
    if before == heard or not {before, heard} <= STATES:
        return known.get("start_time_s") is None and row.get("start_time_s") is not None
    return later(TaskState(before), TaskState(heard)) == heard


STATES = frozenset(state.value for state in TaskState)


def _add_counts(sums: list[dict[str, Any]], rows: Iterable[dict[str, Any]]) -> None:
    """Add the counts of rows to the sums of their function, type and state."""
    known = {_counted(row): row for row in sums}
    for row in rows:
        same = known.get(_counted(row))
        if same is not None:
            same["count"] += row["count"]
        else:
            known[_counted(row)] = copied = dict(row)
            sums.append(copied)


def _counted(row: dict[str, Any]) -> tuple[Any, Any, Any]:
    return row.get("func_or_class_name"), row.get("type"), row.get("state")


def limited(rows: Sequence[dict[str, Any]], args: dict[str, Any], rows_max: int) -> dict[str, Any]:
    """Return the answer for rows that the head itself holds."""
    filters, limit = filters_of(args), limit_of(args, rows_max)
    found = chosen(rows, filters)
    return {"rows": found[:limit], "total": len(found), "is_partial": len(found) > limit, "warnings": []}


def filters_of(args: dict[str, Any]) -> list[list[str]]:
    """Return the request's filters.

    Raises:
        Rejected: one of them is none.
    """
    found = []
    for one in args.get("filters") or ():
        if not isinstance(one, (list, tuple)) or len(one) != 3 or one[1] not in ("=", "!="):
            raise Rejected("ValueError", f"filter: expected KEY=VALUE or KEY!=VALUE, got `{one}`")
        found.append([str(one[0]).lower(), str(one[1]), str(one[2])])
    return found


def limit_of(args: dict[str, Any], rows_max: int) -> int:
    """Return how many rows are wanted: 100 unless the request says otherwise, never more than `rows_max`."""
    limit = args.get("limit")
    if limit is None:
        return min(100, rows_max)
    if not isinstance(limit, int) or limit < 1:
        raise Rejected("ValueError", f"limit: expected a whole number of at least 1, got `{limit}`")
    return min(limit, rows_max)
