"""Rows of one task that several nodes tell of."""

from __future__ import annotations

from typing import Any

from shoal.runtime.head.core.queries import once_each


def row(task: str, state: str, attempt: int = 0, began_s: float | None = None) -> dict[str, Any]:
    return {"task_id": task, "attempt_number": attempt, "state": state, "start_time_s": began_s}


def test_of_one_attempt_the_latest_state_is_listed_once() -> None:
    rows = [
        row("a", "SUBMITTED_TO_WORKER"),
        row("b", "FAILED"),
        row("a", "RUNNING", began_s=1.0),
        row("b", "FAILED", began_s=2.0),
        row("b", "RUNNING", attempt=1, began_s=3.0),
        row("b", "RUNNING", began_s=2.0),
        row("", "PENDING_NODE_ASSIGNMENT"),
        row("", "PENDING_NODE_ASSIGNMENT"),
    ]

    assert once_each(rows) == [rows[2], rows[3], rows[4], rows[6], rows[7]]


def test_a_state_of_another_version_does_no_harm() -> None:
    rows = [row("a", "NOVEL"), row("a", "RUNNING", began_s=1.0)]

    assert once_each(rows) == [rows[1]]
