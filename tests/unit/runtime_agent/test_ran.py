"""The tables of what ran on a node: what runs, what ended how, and what is left out first."""

from __future__ import annotations

from typing import Any

import msgspec

from shoal.runtime.agent import ran
from shoal.runtime.agent.ran import Ran, exit_type_of
from shoal.runtime.head.core import remembered
from shoal.runtime.head.core.remembered import Remembered
from shoal.wire.messages import LeftBehind

WORKER = b"w" * 18


def row(number: int, ended_s: float | None = 2.0, error: str = "") -> tuple[Any, ...]:
    return f"t{number}", "f", "f", 1.0, ended_s, error, "", "NORMAL_TASK", 0, "", None, "", ""


def listed(process: bytes = WORKER) -> dict[str, Any]:
    return {"worker_id": process.hex(), "is_alive": True, "exit_type": ""}


def test_a_task_is_listed_once_while_it_runs_and_once_it_has_ended() -> None:
    tables = Ran("n")
    tables.add(WORKER, 7, "job", [row(1, None), row(2, None)])
    assert [(one["task_id"], one["state"]) for one in tables.tasks()] == [("t1", "RUNNING"), ("t2", "RUNNING")]

    tables.add(WORKER, 7, "job", [row(1), row(3, error="TASK_CANCELLED")], [["f", "NORMAL_TASK", False, 5]])

    states = {one["task_id"]: (one["state"], one["error_type"]) for one in tables.tasks()}
    assert states == {"t1": ("FINISHED", ""), "t2": ("RUNNING", ""), "t3": ("FAILED", "TASK_CANCELLED")}
    assert (tables.finished, tables.failed, tables.dropped) == (6, 1, 5)


def test_a_worker_takes_what_it_runs_with_it() -> None:
    tables = Ran("n")
    tables.add(WORKER, 7, "job", [row(1, None)])
    tables.add(b"x" * 18, 8, "job", [row(2, None)])

    tables.worker_ended(listed(), "out of memory: ...", "NODE_OUT_OF_MEMORY", 9.0)

    states = {one["task_id"]: (one["state"], one["error_type"], one["end_time_s"]) for one in tables.tasks()}
    assert states == {"t1": ("FAILED", "OUT_OF_MEMORY", 9.0), "t2": ("RUNNING", "", None)}
    (ended,) = tables.ended_workers()
    assert (ended["is_alive"], ended["exit_type"], ended["exit_detail"]) == (
        False,
        "NODE_OUT_OF_MEMORY",
        "out of memory: ...",
    )


def test_the_oldest_rows_go_first() -> None:
    tables = Ran("n")
    tables.add(WORKER, 7, "job", [row(number) for number in range(ran.TASKS_MAX + 10)])
    for number in range(ran.WORKERS_MAX + 10):
        tables.worker_ended(listed(number.to_bytes(18, "big")), "", "SYSTEM_ERROR", 0.0)

    assert len(tables.tasks()) == ran.TASKS_MAX and tables.tasks()[0]["task_id"] == "t10"
    assert len(tables.ended_workers()) == ran.WORKERS_MAX
    left = tables.left_behind([listed(b"z" * 18)])
    assert len(left["tasks"]) == ran.LEFT_TASKS_MAX and left["tasks"][-1] == tables.tasks()[-1]
    assert len(left["workers"]) == ran.LEFT_WORKERS_MAX and left["workers"][-1]["worker_id"] == (b"z" * 18).hex()


def test_what_still_runs_when_the_node_goes_died_with_it() -> None:
    tables = Ran("n")
    tables.add(WORKER, 7, "job", [row(1), row(2, None)])

    left = tables.left_behind([listed()])

    assert [(one["state"], one["error_type"]) for one in left["tasks"]] == [("FINISHED", ""), ("FAILED", "NODE_DIED")]
    assert [(one["is_alive"], one["exit_detail"]) for one in left["workers"]] == [(False, "its node ended")]
    assert tables.tasks()[1]["state"] == "RUNNING", "the node may live on, undrained"


def test_how_a_worker_ended_has_rays_words() -> None:
    assert exit_type_of("used up", was_told=True, code=-9) == "INTENDED_SYSTEM_EXIT"
    assert exit_type_of("out of memory: x", was_told=True, code=-9) == "NODE_OUT_OF_MEMORY"
    assert exit_type_of("the worker process exited with code 0", was_told=False, code=0) == "INTENDED_USER_EXIT"
    assert exit_type_of("the worker process exited with code 3", was_told=False, code=3) == "USER_ERROR"
    assert exit_type_of("the worker process was killed by SIGSEGV", was_told=False, code=-11) == "SYSTEM_ERROR"


def left(name: str, size: int = 0) -> LeftBehind:
    return LeftBehind(msgspec.msgpack.encode({"tasks": [{"task_id": name, "pad": "x" * size}]}))


def test_the_head_remembers_the_newest_word_of_each_node_that_is_gone() -> None:
    kept = Remembered()
    kept.take("a", left("old"))
    kept.take("b", left("b"))
    kept.take("a", left("new"))

    assert [one["task_id"] for one in kept.rows("tasks", but=())] == ["b", "new"]
    assert [one["task_id"] for one in kept.rows("tasks", but={"a"})] == ["b"]
    assert kept.rows("workers", but=()) == []


def test_what_the_head_remembers_is_bounded() -> None:
    kept = Remembered()
    kept.take("too long", left("x", remembered.NODE_BYTES_MAX))
    half = remembered.NODE_BYTES_MAX // 2
    for number in range(40):
        kept.take(f"n{number}", left(str(number), half))

    names = [one["task_id"] for one in kept.rows("tasks", but=())]
    assert len(names) * half <= remembered.BYTES_MAX < (len(names) + 2) * half
    assert names == [str(number) for number in range(40 - len(names), 40)]
    kept.take("other version", LeftBehind(b"\xc1"))
    assert len(kept.rows("tasks", but=())) >= len(names) - 1
