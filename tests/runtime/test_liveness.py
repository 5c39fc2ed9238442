"""Nobody waits for ever: leases that nobody uses, threads that read for others, calls cancelled before they start."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import shoal
from shoal import exceptions

pytestmark = pytest.mark.usefixtures("one_cpu")


@pytest.fixture(scope="module")
def one_cpu() -> Iterator[None]:
    shoal.init("local", num_cpus=1)
    yield
    shoal.shutdown()


@shoal.remote
def give(value: Any) -> Any:
    return value


@shoal.remote
def hand_on(count: int) -> list[Any]:
    return [give.remote(number) for number in range(count)]


@shoal.remote
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def test_a_value_that_the_worker_owes_somebody_does_not_keep_its_lease() -> None:
    """The worker owns refs that we wait for; the tasks that make them need the one CPU that our lease holds."""
    for _ in range(3):
        refs = shoal.get(hand_on.remote(3), timeout=10)
        assert shoal.get(refs, timeout=10) == [0, 1, 2]


@shoal.remote(num_cpus=0)
def leave_reader(refs: list[Any]) -> str:
    """Leave a thread behind that waits, and so reads, for longer than this task runs."""
    threading.Thread(target=lambda: shoal.get(refs[0]), daemon=True).start()
    time.sleep(0.2)
    return "left"


@shoal.remote
class Gate:
    def __init__(self) -> None:
        self.event = threading.Event()

    def wait(self) -> bool:
        return self.event.wait(60)

    def open(self) -> None:
        self.event.set()


def test_a_thread_that_a_task_left_behind_does_not_keep_its_worker_from_work() -> None:
    gate = Gate.options(max_concurrency=2).remote()
    passed = gate.wait.remote()
    for _ in range(4):  # the same worker again, or another one: all get a reader
        assert shoal.get(leave_reader.remote([passed]), timeout=10) == "left"

    assert shoal.get([leave_reader.remote([passed]) for _ in range(8)], timeout=20) == ["left"] * 8
    shoal.get(gate.open.remote(), timeout=10)
    assert shoal.get(passed, timeout=10)


@shoal.remote
class Sleeper:
    async def nap(self, seconds: float) -> float:
        import asyncio

        await asyncio.sleep(seconds)
        return seconds


def test_calls_of_an_async_actor_that_are_cancelled_at_once_end() -> None:
    sleeper = Sleeper.remote()
    shoal.get(sleeper.nap.remote(0), timeout=10)
    refs = [sleeper.nap.remote(60) for _ in range(100)]
    for ref in refs:
        shoal.cancel(ref)
    for _ in range(20):
        refs.append(sleeper.nap.remote(60))
        shoal.cancel(refs[-1])

    for ref in refs:
        with pytest.raises(exceptions.TaskCancelledError):
            shoal.get(ref, timeout=10)
    assert shoal.get(sleeper.nap.remote(0), timeout=10) == 0


def test_cancelled_calls_of_an_async_actor_do_not_run_once_there_is_room() -> None:
    sleeper = Sleeper.options(max_concurrency=1).remote()
    first, *others = [sleeper.nap.remote(seconds) for seconds in (0.5, 60, 60)]
    for ref in others:
        shoal.cancel(ref)

    assert shoal.get(first, timeout=10) == 0.5
    for ref in others:
        with pytest.raises(exceptions.TaskCancelledError):
            shoal.get(ref, timeout=10)
    assert shoal.get(sleeper.nap.remote(0), timeout=10) == 0, "every place is free again"


@shoal.remote
class Slow:
    def name(self, value: str) -> str:
        return value


def test_calls_behind_one_that_waits_for_its_arguments_go_once_that_is_cancelled() -> None:
    actor, gate = Slow.remote(), Gate.options(max_concurrency=2).remote()
    late = actor.name.remote(gate.wait.remote())
    behind = actor.name.remote("behind")
    shoal.cancel(late)

    assert shoal.get(behind, timeout=10) == "behind"
    with pytest.raises(exceptions.TaskCancelledError):
        shoal.get(late, timeout=10)
    shoal.get(gate.open.remote(), timeout=10)


@shoal.remote
def count(to: int) -> Iterator[int]:
    yield from range(to)


def test_a_stream_whose_reader_takes_nothing_lets_others_have_its_cpu() -> None:
    numbers = count.options(_generator_backpressure_num_objects=1).remote(4)
    first = shoal.get(next(numbers), timeout=10)

    assert shoal.get([give.remote(value) for value in "ab"], timeout=10) == ["a", "b"]
    assert [first, *(shoal.get(ref, timeout=10) for ref in numbers)] == [0, 1, 2, 3]
