"""Cancelling: queued, running, blocked, forced, nested, on actors."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

import shoal
from shoal import exceptions
from tests.runtime.conftest import eventually

pytestmark = pytest.mark.usefixtures("cluster")


@shoal.remote
def mark_and_sleep(path: str, seconds: float = 60.0) -> None:
    Path(path).write_text("started")
    try:
        time.sleep(seconds)
    except KeyboardInterrupt:
        Path(path).write_text("interrupted")
        raise
    Path(path).write_text("finished")


def test_a_running_task_gets_keyboard_interrupt_inside_a_blocking_call(tmp_path: Path) -> None:
    path = tmp_path / "a"
    ref = mark_and_sleep.remote(str(path))
    eventually(lambda: path.exists() and path.read_text() == "started")
    started = time.monotonic()
    shoal.cancel(ref)
    with pytest.raises(exceptions.TaskCancelledError):
        shoal.get(ref, timeout=10)
    assert time.monotonic() - started < 3
    assert path.read_text() == "interrupted"


def test_a_busy_loop_is_interrupted() -> None:
    @shoal.remote
    def spin() -> None:
        while True:
            pass

    ref = spin.remote()
    time.sleep(0.2)
    shoal.cancel(ref)
    with pytest.raises(exceptions.TaskCancelledError):
        shoal.get(ref, timeout=10)


def test_a_queued_task_is_removed(tmp_path: Path) -> None:
    busy = [mark_and_sleep.remote(str(tmp_path / str(one)), 1.0) for one in range(4)]
    late = mark_and_sleep.remote(str(tmp_path / "late"))
    time.sleep(0.2)
    shoal.cancel(late)
    with pytest.raises(exceptions.TaskCancelledError):
        shoal.get(late, timeout=5)
    shoal.get(busy)
    assert not (tmp_path / "late").exists()


def test_force_kills_and_is_never_retried(tmp_path: Path) -> None:
    path = tmp_path / "a"
    ref = mark_and_sleep.options(max_retries=5).remote(str(path))
    eventually(path.exists)
    shoal.cancel(ref, force=True)
    with pytest.raises(exceptions.TaskCancelledError):
        shoal.get(ref, timeout=10)
    assert path.read_text() == "started"


def test_a_task_blocked_in_get_is_cancelled_with_its_children(tmp_path: Path) -> None:
    @shoal.remote
    def parent(path: str) -> None:
        shoal.get(mark_and_sleep.remote(path))

    path = tmp_path / "child"
    ref = parent.remote(str(path))
    eventually(path.exists)
    shoal.cancel(ref)
    with pytest.raises(exceptions.TaskCancelledError):
        shoal.get(ref, timeout=10)
    eventually(lambda: path.read_text() == "interrupted")


def test_a_task_that_waits_for_arguments_is_cancelled(tmp_path: Path) -> None:
    @shoal.remote
    def use(value: object) -> object:
        return value

    slow = mark_and_sleep.remote(str(tmp_path / "a"), 1.0)
    ref = use.remote(slow)
    shoal.cancel(ref)
    with pytest.raises(exceptions.TaskCancelledError):
        shoal.get(ref, timeout=5)
    shoal.get(slow)


def test_cancelling_what_is_done_changes_nothing() -> None:
    ref = shoal.put(1)
    shoal.cancel(ref)
    assert shoal.get(ref) == 1
    with pytest.raises(TypeError):
        shoal.cancel("ref")


def test_an_async_actors_call_is_cancelled_and_force_is_refused() -> None:
    @shoal.remote
    class Sleeper:
        def __init__(self) -> None:
            self.cancelled = 0

        async def sleep(self) -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise

        async def count(self) -> int:
            return self.cancelled

    actor = Sleeper.remote()
    ref = actor.sleep.remote()
    assert shoal.get(actor.count.remote()) == 0
    with pytest.raises(ValueError, match="force"):
        shoal.cancel(ref, force=True)
    shoal.cancel(ref)
    with pytest.raises(exceptions.TaskCancelledError):
        shoal.get(ref, timeout=5)
    assert shoal.get(actor.count.remote()) == 1


def test_hundreds_are_cancelled_at_once(tmp_path: Path) -> None:
    refs = [mark_and_sleep.remote(str(tmp_path / "x")) for _ in range(500)]
    for ref in refs:
        shoal.cancel(ref)
    cancelled = 0
    for ref in refs:
        with pytest.raises(exceptions.TaskCancelledError):
            shoal.get(ref, timeout=20)
        cancelled += 1
    assert cancelled == 500
