"""`as_completed` and `map_unordered`."""

from __future__ import annotations

import time

import pytest

import shoal
from shoal.util import as_completed, map_unordered

pytestmark = pytest.mark.usefixtures("cluster")


@shoal.remote
def slow(delay_s: float) -> float:
    time.sleep(delay_s)
    return delay_s


@shoal.remote
def double(value: int) -> int:
    return 2 * value


def test_first_ready_comes_first() -> None:
    refs = [slow.remote(0.4), slow.remote(0.0)]

    assert list(as_completed(refs, chunk_size=1)) == [0.0, 0.4]


def test_all_come_once() -> None:
    refs = [double.remote(n) for n in range(30)]

    assert sorted(as_completed(refs)) == [2 * n for n in range(30)]
    assert set(as_completed(refs, yield_obj_refs=True)) == set(refs)


def test_map_unordered_gives_every_result() -> None:
    assert sorted(map_unordered(double, list(range(25)), backpressure_size=10)) == [2 * n for n in range(25)]
    assert list(map_unordered(double, [])) == []


def test_limits_are_checked() -> None:
    with pytest.raises(ValueError, match="chunk_size"):
        list(as_completed([], chunk_size=0))
    with pytest.raises(ValueError, match="backpressure_size"):
        list(map_unordered(double, [1], backpressure_size=0))
    assert sorted(map_unordered(double, iter([1, 2, 3]), backpressure_size=1)) == [2, 4, 6]
