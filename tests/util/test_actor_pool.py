"""`ActorPool`: Ray's meanings."""

from __future__ import annotations

import time
from typing import Any

import pytest

import shoal
from shoal.exceptions import ActorDiedError
from shoal.util import ActorPool

pytestmark = pytest.mark.usefixtures("cluster")


@shoal.remote(num_cpus=0)
class Worker:
    def double(self, value: int) -> int:
        return 2 * value

    def sleep(self, delay_s: float) -> float:
        time.sleep(delay_s)
        return delay_s

    def fail(self, value: int) -> int:
        raise ValueError(value)

    def leave(self) -> None:
        shoal.actor.exit_actor()


@pytest.fixture
def pool() -> ActorPool:
    return ActorPool([Worker.remote(), Worker.remote()])


def double(actor: Any, value: int) -> Any:
    return actor.double.remote(value)


def sleep(actor: Any, delay_s: float) -> Any:
    return actor.sleep.remote(delay_s)


def test_map_keeps_order(pool: ActorPool) -> None:
    assert list(pool.map(double, range(7))) == [0, 2, 4, 6, 8, 10, 12]
    assert sorted(pool.map_unordered(double, range(7))) == [0, 2, 4, 6, 8, 10, 12]
    assert list(pool.map(double, [])) == []


def test_unordered_gives_the_quick_one_first(pool: ActorPool) -> None:
    assert list(pool.map_unordered(sleep, [0.3, 0.0])) == [0.0, 0.3]


def test_submit_beyond_the_actors_waits(pool: ActorPool) -> None:
    for value in range(5):
        pool.submit(double, value)

    assert not pool.has_free()
    assert [pool.get_next() for _ in range(5)] == [0, 2, 4, 6, 8]
    assert not pool.has_next()
    assert pool.has_free()
    with pytest.raises(StopIteration):
        pool.get_next()
    with pytest.raises(StopIteration):
        pool.get_next_unordered()


def test_timeouts(pool: ActorPool) -> None:
    pool.submit(sleep, 0.3)
    with pytest.raises(TimeoutError, match="Timed out waiting for result"):
        pool.get_next(timeout=0.01)
    assert pool.get_next(timeout=5) == 0.3

    pool.submit(sleep, 0.2)
    with pytest.raises(TimeoutError, match="ignored"):
        pool.get_next_unordered(timeout=0.01, ignore_if_timedout=True)
    assert not pool.has_next()


def test_get_next_after_unordered_gives_the_earliest_that_is_left(pool: ActorPool) -> None:
    pool.submit(sleep, 0.5)
    for value in (1, 2, 3):
        pool.submit(double, value)
    assert pool.get_next_unordered() == 2

    assert [pool.get_next() for _ in range(3)] == [0.5, 4, 6]
    assert sorted(pool.map_unordered(double, [4, 5, 6])) == [8, 10, 12]
    pool.submit(double, 7)
    assert pool.get_next() == 14


def test_a_dead_actor_leaves_the_pool() -> None:
    dead, alive = Worker.remote(), Worker.remote()
    pool = ActorPool([alive, dead])
    pool.submit(lambda actor, value: actor.leave.remote(), None)
    with pytest.raises(ActorDiedError):
        pool.get_next()

    assert list(pool.map(double, [1, 2, 3])) == [2, 4, 6]
    assert [pool.pop_idle(), pool.pop_idle()] == [alive, None]


def test_error_of_a_call_is_raised_and_the_actor_goes_on(pool: ActorPool) -> None:
    pool.submit(lambda actor, value: actor.fail.remote(value), 1)

    with pytest.raises(ValueError, match="1"):
        pool.get_next()
    assert list(pool.map(double, [1, 2])) == [2, 4]


def test_map_drops_what_was_not_taken(pool: ActorPool) -> None:
    list(zip(pool.map(double, [1, 2, 3]), range(1), strict=False))

    assert list(pool.map(double, [10])) == [20]


def test_push_and_pop(pool: ActorPool) -> None:
    actor = pool.pop_idle()
    assert actor is not None
    other = pool.pop_idle()
    assert pool.pop_idle() is None

    pool.push(actor)
    with pytest.raises(ValueError, match="already"):
        pool.push(actor)
    pool.push(other)
    assert list(pool.map(double, [3])) == [6]
