"""`Queue`: shared by drivers, tasks and actors; Ray's meanings."""

from __future__ import annotations

import queue
import time

import pytest

import shoal
from shoal.util.queue import Empty, Full, Queue

pytestmark = pytest.mark.usefixtures("cluster")


def test_first_in_first_out() -> None:
    items = Queue()
    for value in range(5):
        items.put(value)

    assert len(items) == items.size() == items.qsize() == 5
    assert [items.get() for _ in range(5)] == list(range(5))
    assert items.empty()


def test_limits() -> None:
    items = Queue(maxsize=1)
    items.put("a")

    assert items.full()
    for call in (
        lambda: items.put("b", block=False),
        lambda: items.put_nowait("b"),
        lambda: items.put("b", timeout=0.02),
    ):
        with pytest.raises(Full):
            call()
    assert items.get() == "a"
    for call in (items.get_nowait, lambda: items.get(block=False), lambda: items.get(timeout=0.02)):
        with pytest.raises(Empty):
            call()


def test_errors_are_those_of_the_standard_library_too() -> None:
    with pytest.raises(queue.Empty):
        Queue().get_nowait()
    with pytest.raises(ValueError, match="non-negative"):
        Queue().get(timeout=-1)
    with pytest.raises(ValueError, match="non-negative"):
        Queue().put(1, timeout=-1)


def test_batches_are_all_or_nothing() -> None:
    items = Queue(maxsize=3)
    items.put_nowait_batch([1, 2])

    with pytest.raises(Full, match="Cannot add 2 items"):
        items.put_nowait_batch([3, 4])
    assert items.qsize() == 2
    with pytest.raises(Empty, match="Cannot get 3 items"):
        items.get_nowait_batch(3)
    assert items.get_nowait_batch(2) == [1, 2]
    with pytest.raises(TypeError):
        items.put_nowait_batch(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_items"):
        items.get_nowait_batch(-1)


def test_tasks_share_it() -> None:
    items = Queue(actor_options={"num_cpus": 0})

    @shoal.remote
    def produce(target: Queue, count: int) -> None:
        for value in range(count):
            target.put(value)

    produce.remote(items, 10)

    assert [items.get(timeout=10) for _ in range(10)] == list(range(10))


def test_getter_waits_for_a_putter() -> None:
    items = Queue()

    @shoal.remote
    def produce(target: Queue) -> None:
        time.sleep(0.1)
        target.put("late")

    produce.remote(items)

    assert items.get(timeout=10) == "late"


async def test_async_calls() -> None:
    items = Queue(maxsize=1)

    await items.put_async(1)
    with pytest.raises(Full):
        await items.put_async(2, block=False)
    assert await items.get_async() == 1
    with pytest.raises(Empty):
        await items.get_async(timeout=0.02)


@pytest.mark.parametrize("force", [False, True])
def test_shutdown_ends_the_actor(force: bool) -> None:
    items = Queue()
    items.put(1)
    actor = items.actor

    items.shutdown(force=force)

    with pytest.raises(shoal.exceptions.RayActorError):
        shoal.get(actor.qsize.remote(), timeout=10)
    items.shutdown()
