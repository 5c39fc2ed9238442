"""`get` and `wait`: time-outs, order, what counts as ready, futures, threads."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

import shoal
from shoal import exceptions

pytestmark = pytest.mark.usefixtures("cluster")


@shoal.remote(num_cpus=0)
def after(seconds: float, value: object = None) -> object:
    time.sleep(seconds)
    return value


def test_get_times_out_as_timeout_error() -> None:
    ref = after.remote(5)
    started = time.monotonic()
    with pytest.raises(exceptions.GetTimeoutError):
        shoal.get(ref, timeout=0.1)
    with pytest.raises(TimeoutError):
        shoal.get([ref], timeout=0)
    assert time.monotonic() - started < 2
    shoal.cancel(ref, force=True)


def test_timeout_0_finds_what_is_ready() -> None:
    ref = after.remote(0, 3)
    shoal.wait([ref])
    assert shoal.get(ref, timeout=0) == 3


def test_wait_returns_at_most_what_was_asked_in_the_order_given() -> None:
    refs = [shoal.put(one) for one in range(5)]
    ready, rest = shoal.wait(refs, num_returns=2)
    assert (ready, rest) == (refs[:2], refs[2:])


def test_wait_returns_the_ready_ones() -> None:
    slow, quick = after.remote(3), after.remote(0.0)
    ready, rest = shoal.wait([slow, quick], timeout=2)
    assert (ready, rest) == ([quick], [slow])
    ready, rest = shoal.wait([slow], timeout=0)
    assert (ready, rest) == ([], [slow])
    shoal.cancel(slow, force=True)


def test_failed_counts_as_ready() -> None:
    @shoal.remote
    def fail() -> None:
        raise ValueError

    ref = fail.remote()
    assert shoal.wait([ref], timeout=5)[0] == [ref]


def test_wait_for_nothing_is_nothing() -> None:
    assert shoal.wait([]) == ([], [])


def test_wait_refuses_what_makes_no_sense() -> None:
    ref = shoal.put(1)
    for refs, count in (([ref, ref], 1), ([ref], 2), ([ref], 0)):
        with pytest.raises(ValueError):
            shoal.wait(refs, num_returns=count)
    with pytest.raises(TypeError):
        shoal.wait(ref)
    with pytest.raises(TypeError):
        shoal.wait([1])
    with pytest.raises(ValueError):
        shoal.get(1)


def test_refs_are_equal_by_what_they_name() -> None:
    @shoal.remote
    def pair(box: list[shoal.ObjectRef]) -> tuple[bool, bool, int]:
        left, right = box[0], box[1]
        return left == right, hash(left) == hash(right), len({left, right})

    ref = shoal.put(1)
    assert shoal.get(pair.remote([ref, ref])) == (True, True, 1)
    assert shoal.get(pair.remote([ref, shoal.put(1)]))[0] is False
    assert len(ref.hex()) == 48


def test_await_and_future() -> None:
    async def main() -> list[object]:
        ref = after.remote(0.05, "a")
        return [await ref, await asyncio.wait_for(after.remote(0, "b"), 5)]

    assert asyncio.run(main()) == ["a", "b"]
    assert after.remote(0.05, "c").future().result(timeout=5) == "c"


def test_an_awaited_error_is_raised() -> None:
    @shoal.remote
    def fail() -> None:
        raise KeyError("x")

    async def main() -> None:
        await fail.remote()

    with pytest.raises(KeyError):
        asyncio.run(main())


def test_many_threads_wait_at_once() -> None:
    found: dict[int, object] = {}

    def one(number: int) -> None:
        for turn in range(20):
            found[number] = shoal.get(after.remote(0.001 * (number % 3), (number, turn)))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "a waiting thread was not woken"
    assert found == {number: (number, 19) for number in range(8)}


def test_a_short_wait_beside_a_long_one_is_not_held_up() -> None:
    slow = after.remote(2.0)
    thread = threading.Thread(target=shoal.get, args=(slow,))
    thread.start()
    time.sleep(0.05)
    started = time.monotonic()
    assert shoal.get(after.remote(0, 1)) == 1
    assert time.monotonic() - started < 1.0
    thread.join()
