"""How many tasks there were is known when their rows are not kept any more."""

from __future__ import annotations

from typing import Any

from shoal.runtime.agent import ran
from shoal.runtime.agent.ran import Ran
from shoal.runtime.head.core.queries import _add_counts


def row(n: int, name: str, *, error: str = "", is_running: bool = False) -> list[Any]:
    return [f"{n:048x}", name, name, 1.0, None if is_running else 2.0, error, "", "NORMAL_TASK", 0, "", None, "", ""]


def counts_of(tables: Ran) -> dict[tuple[str, str], int]:
    return {(one["func_or_class_name"], one["state"]): one["count"] for one in tables.counts()}


def test_everything_that_ended_is_counted_for_ever() -> None:
    tables = Ran("n" * 28)
    many = ran.TASKS_MAX + 500

    tables.add(b"w" * 18, 1, "job", [row(n, "f") for n in range(many)])
    tables.add(b"w" * 18, 1, "job", [row(0, "g", error="TASK_CANCELLED"), row(1, "g", is_running=True)])

    assert counts_of(tables) == {("f", "FINISHED"): many, ("g", "FAILED"): 1, ("g", "RUNNING"): 1}
    assert len(tables.tasks()) == ran.TASKS_MAX + 1


def test_what_ended_too_fast_for_rows_is_counted() -> None:
    tables = Ran("n" * 28)

    tables.add(b"w" * 18, 1, "job", [row(0, "f")], [["f", "NORMAL_TASK", False, 7], ["f", "NORMAL_TASK", True, 2]])

    assert counts_of(tables) == {("f", "FINISHED"): 8, ("f", "FAILED"): 2}
    assert (tables.finished, tables.failed, tables.dropped) == (8, 2, 9)


def test_functions_beyond_the_limit_share_a_count(monkeypatch: Any) -> None:
    monkeypatch.setattr(ran, "COUNTS_MAX", 2)
    tables = Ran("n" * 28)

    tables.add(b"w" * 18, 1, "job", [row(n, f"f{n}") for n in range(5)])

    assert counts_of(tables) == {("f0", "FINISHED"): 1, ("f1", "FINISHED"): 1, (ran.OTHER_FUNCTIONS, "FINISHED"): 3}


def test_counts_of_several_nodes_are_summed() -> None:
    one, other = ({"func_or_class_name": "f", "type": "NORMAL_TASK", "state": "FINISHED", "count": n} for n in (3, 4))
    sums: list[dict[str, Any]] = []

    _add_counts(sums, [one, {**one, "state": "FAILED", "count": 1}])
    _add_counts(sums, [other])

    assert sorted(row["count"] for row in sums) == [1, 7]
    assert one["count"] == 3, "what was given is not changed"
