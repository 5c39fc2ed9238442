"""`multiprocessing.Pool` on the cluster: the standard library's promises."""

from __future__ import annotations

import multiprocessing
import operator
import os
import time
from collections.abc import Iterator

import pytest

from shoal.util.multiprocessing import Pool

pytestmark = pytest.mark.usefixtures("cluster")
OPTIONS = {"num_cpus": 0.1}


@pytest.fixture(scope="module")
def pool(cluster: None) -> Iterator[Pool]:
    with Pool(2, ray_remote_args=OPTIONS) as found:
        yield found


def square(x: int) -> int:
    return x * x


def set_variable(name: str, value: str) -> None:
    os.environ[name] = value


def fail_at_three(x: int) -> int:
    if x == 3:
        raise KeyError(x)
    return x


def test_calls(pool: Pool) -> None:
    assert pool.apply(operator.add, (1, 2)) == 3
    assert pool.apply(dict, (), {"a": 1}) == {"a": 1}
    assert pool.map(square, range(20)) == [n * n for n in range(20)]
    assert pool.map(square, []) == []
    assert pool.starmap(operator.add, [(1, 2), (3, 4)]) == [3, 7]
    assert pool.starmap_async(operator.add, [(1, 2)], chunksize=1).get(30) == [3]


def test_iterators(pool: Pool) -> None:
    assert list(pool.imap(square, range(50), chunksize=3)) == [n * n for n in range(50)]
    assert sorted(pool.imap_unordered(square, range(20))) == [n * n for n in range(20)]
    assert list(pool.imap(square, [])) == []
    with pytest.raises(ValueError, match="Chunksize"):
        pool.imap(square, [1], chunksize=0)


def test_iterator_reads_only_a_little_ahead(pool: Pool) -> None:
    taken = []

    def source() -> Iterator[int]:
        for n in range(1000):
            taken.append(n)
            yield n

    results = pool.imap(square, source())

    assert next(results) == 0
    assert len(taken) < 100


def test_errors_are_of_their_own_type(pool: Pool) -> None:
    with pytest.raises(KeyError):
        pool.map(fail_at_three, range(6))
    result = pool.apply_async(fail_at_three, (3,))
    result.wait(30)
    assert result.ready()
    assert not result.successful()

    results = pool.imap(fail_at_three, range(6))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError):
        next(results)
    assert next(results) == 4


def test_callbacks(pool: Pool) -> None:
    told: list[object] = []

    pool.map_async(square, [1, 2], callback=told.append).get(30)
    failed = pool.apply_async(fail_at_three, (3,), callback=told.append, error_callback=lambda e: told.append(type(e)))
    failed.wait(30)
    time.sleep(0)

    assert told[0] == [1, 4]
    assert len(told) == 2
    assert issubclass(told[1], KeyError)  # type: ignore[arg-type]


def test_timeouts(pool: Pool) -> None:
    result = pool.apply_async(time.sleep, (0.3,))

    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(timeout=0.01)
    assert result.get(30) is None
    with pytest.raises(multiprocessing.TimeoutError):
        pool.imap(time.sleep, [0.3]).next(timeout=0.01)


def test_initializer_runs_once_in_each_process() -> None:
    with Pool(2, set_variable, ("SHOAL_POOL", "set"), ray_remote_args=OPTIONS) as pool:
        assert pool.map(os.getenv, ["SHOAL_POOL"] * 6) == ["set"] * 6


def test_processes_are_few_and_replaced_after_their_share() -> None:
    with Pool(2, ray_remote_args=OPTIONS) as pool:
        assert len(set(pool.starmap(os.getpid, [()] * 20))) <= 2
    with Pool(1, maxtasksperchild=2, ray_remote_args=OPTIONS) as pool:
        assert len(set(pool.starmap(os.getpid, [()] * 6, chunksize=1))) == 3


def test_life() -> None:
    pool = Pool(1, ray_remote_args=OPTIONS)
    result = pool.map_async(square, range(4))
    with pytest.raises(ValueError, match="still running"):
        pool.join()

    pool.close()
    with pytest.raises(ValueError, match="not running"):
        pool.map(square, [1])
    pool.join()

    assert result.get(0) == [0, 1, 4, 9]


def test_terminate_fails_what_is_not_done() -> None:
    pool = Pool(1, ray_remote_args=OPTIONS)
    result = pool.apply_async(time.sleep, (60,))

    pool.terminate()
    pool.join()

    with pytest.raises(RuntimeError, match="terminated"):
        result.get(1)


def test_arguments_are_checked() -> None:
    for wrong, error in (
        ({"processes": 0}, ValueError),
        ({"processes": 1, "initializer": 3}, TypeError),
        ({"processes": 1, "maxtasksperchild": 0}, ValueError),
    ):
        with pytest.raises(error):
            Pool(**wrong)  # type: ignore[arg-type]
