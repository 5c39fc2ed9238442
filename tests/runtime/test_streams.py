"""Streams: items before the end, back-pressure, errors, `async for`, dynamic results."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from tests.runtime.conftest import eventually

pytestmark = pytest.mark.usefixtures("cluster")


@shoal.remote
def count(to: int, pause_s: float = 0.0, path: str = "") -> Iterator[int]:
    for one in range(to):
        if path:
            Path(path).write_text(str(one))
        yield one
        time.sleep(pause_s)


@shoal.remote
class Source:
    def plain(self, to: int) -> Iterator[int]:
        yield from range(to)

    async def slow(self, to: int) -> AsyncIterator[int]:
        for one in range(to):
            await asyncio.sleep(0.001)
            yield one


def test_a_generator_function_streams_by_default() -> None:
    stream = count.remote(5)
    assert isinstance(stream, shoal.ObjectRefGenerator)
    assert [shoal.get(ref) for ref in stream] == [0, 1, 2, 3, 4]
    with pytest.raises(StopIteration):
        next(stream)


def test_items_can_be_read_before_the_end() -> None:
    stream = count.remote(3, 1.0)
    started = time.monotonic()
    assert shoal.get(next(stream)) == 0
    assert time.monotonic() - started < 0.9
    assert not stream.completed()._ready
    assert [shoal.get(ref) for ref in stream] == [1, 2]
    assert shoal.get(stream.completed()) is None


def test_an_error_is_the_last_item() -> None:
    @shoal.remote
    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("late")

    stream = broken.remote()
    assert shoal.get(next(stream)) == 1
    with pytest.raises(KeyError):
        shoal.get(next(stream))
    with pytest.raises(StopIteration):
        next(stream)


def test_back_pressure_holds_the_producer(tmp_path: Path) -> None:
    path = tmp_path / "at"
    stream = count.options(_generator_backpressure_num_objects=3).remote(50, 0.0, str(path))
    assert shoal.get(next(stream)) == 0
    time.sleep(0.5)
    assert int(path.read_text()) <= 5
    assert [shoal.get(ref) for ref in stream] == list(range(1, 50))


def test_async_for_over_tasks_and_actors() -> None:
    async def drain(stream: Any) -> list[int]:
        return [await ref async for ref in stream]

    source = Source.remote()
    assert asyncio.run(drain(count.remote(4))) == [0, 1, 2, 3]
    assert asyncio.run(drain(source.slow.remote(20))) == list(range(20))
    assert [shoal.get(ref) for ref in source.plain.remote(3)] == [0, 1, 2]


def test_dropping_a_stream_stops_the_task(tmp_path: Path) -> None:
    path = tmp_path / "at"
    stream = count.remote(10_000, 0.01, str(path))
    next(stream)
    del stream
    time.sleep(1.5)
    before = path.read_text()
    time.sleep(0.3)
    assert path.read_text() == before


def test_large_items_and_refs_in_items() -> None:
    @shoal.remote
    def make() -> Iterator[Any]:
        for one in range(3):
            yield [np.full(200_000, one, dtype=np.uint8), shoal.put(one)]

    for one, ref in enumerate(make.remote()):
        array, inner = shoal.get(ref)
        assert int(array[-1]) == shoal.get(inner) == one


def test_dynamic_results() -> None:
    @shoal.remote(num_returns="dynamic")
    def squares(to: int) -> Iterator[int]:
        for one in range(to):
            yield one * one

    found = shoal.get(squares.remote(4))
    assert [shoal.get(ref) for ref in found] == [0, 1, 4, 9]


def test_a_stream_survives_its_workers_death(tmp_path: Path) -> None:
    @shoal.remote(max_retries=2)
    def fragile(path: str) -> Iterator[int]:
        is_first = not Path(path).exists()
        Path(path).write_text("x")
        for one in range(10):
            if is_first and one == 5:
                time.sleep(0.2)
                os._exit(1)
            yield one

    assert [shoal.get(ref) for ref in fragile.remote(str(tmp_path / "a"))] == list(range(10))


def test_wait_takes_streams() -> None:
    quick, slow = count.remote(1), count.remote(2, 5.0)
    next(slow)
    ready, rest = shoal.wait([slow, quick], timeout=5)
    assert (ready, rest) == ([quick], [slow])
    shoal.cancel(slow)


def test_streaming_needs_a_generator() -> None:
    @shoal.remote(num_returns="streaming")
    def plain() -> int:
        return 1

    with pytest.raises(ValueError, match="generator"):
        plain.remote()
    eventually(lambda: True)


def test_nothing_can_be_sent_into_a_stream() -> None:
    stream = count.remote(3)

    for call in (stream.send, stream.throw):
        with pytest.raises(NotImplementedError, match="takes no values"):
            call(ValueError())
    assert [shoal.get(ref) for ref in stream] == [0, 1, 2]
