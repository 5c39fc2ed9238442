"""Streams of actors over connections that break and lose what is under way; readers that stop, or are gone."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import exceptions
from shoal.runtime.client import api, reactor
from tests.runtime.conftest import eventually
from tests.runtime.test_broken_links import Lossy

pytestmark = pytest.mark.usefixtures("cluster")

COUNT, LOST_FROM, LOST_TO = 60, 20, 40


def make_links_lossy(patch: Any) -> None:
    """Have every new connection of this process count as one between hosts."""
    set_up = reactor.Link.__init__

    def lossy(self: Any, *args: Any) -> None:
        set_up(self, *args)
        self.is_lossy = True

    patch(reactor.Link, "__init__", lossy)


@pytest.fixture
def lossy_links(monkeypatch: pytest.MonkeyPatch) -> None:
    make_links_lossy(monkeypatch.setattr)


def value_of(index: int) -> Any:
    return np.full(40_000, index) if index % 10 == 0 else index  # some lie in the store


class Source:
    def __init__(self) -> None:
        make_links_lossy(setattr)
        self.lossy: Any = None
        self.made = 0

    def process(self) -> bytes:
        return api.session().core.process

    def items_made(self) -> int:
        return self.made

    def break_at(self, index: int, driver: bytes) -> None:
        if index == LOST_FROM:
            self.lossy = Lossy(driver)
        elif index == LOST_TO:
            self.lossy.cut()

    def items(self, driver: bytes) -> Iterator[Any]:
        for index in range(COUNT):
            self.break_at(index, driver)
            yield value_of(index)
            time.sleep(0.005)

    def for_ever(self) -> Iterator[int]:
        while True:
            self.made += 1
            yield self.made


class AsyncSource(Source):
    async def items(self, driver: bytes) -> AsyncIterator[Any]:  # type: ignore[override]
        for index in range(COUNT):
            self.break_at(index, driver)
            yield value_of(index)
            await asyncio.sleep(0.005)


PLAIN = shoal.remote(Source)
KINDS = {"sync": PLAIN, "threads": PLAIN.options(max_concurrency=2), "async": shoal.remote(AsyncSource)}


@pytest.mark.usefixtures("lossy_links")
@pytest.mark.parametrize("limit", [-1, 3], ids=["free", "limited"])
@pytest.mark.parametrize("kind", KINDS)
def test_items_that_were_lost_with_their_connection_come_again_once(kind: str, limit: int) -> None:
    core = api.session().core
    source = KINDS[kind].remote()
    process = shoal.get(source.process.remote(), timeout=20)
    items = source.items.options(_generator_backpressure_num_objects=limit).remote(core.process)
    broken = core.peers[process]
    found = []
    for ref in items:
        found.append(shoal.get(ref, timeout=20))
        if limit > 0 and len(found) == LOST_FROM:
            cut_soon(process)

    assert [int(np.max(one)) for one in found] == list(range(COUNT))
    assert core.peers[process] is not broken, "the connection did break"
    eventually(lambda: not api.session().streams._stopped)


def cut_soon(process: bytes) -> None:
    """Lose what we say from now on, and cut the connection a little later."""
    lossy = Lossy(process)
    threading.Timer(0.5, lossy.cut).start()


@pytest.mark.usefixtures("lossy_links")
@pytest.mark.parametrize("kind", ["sync", "threads"])
def test_a_stream_that_nobody_wants_ends_though_the_word_of_it_was_lost(kind: str) -> None:
    source = KINDS[kind].remote()
    process = shoal.get(source.process.remote(), timeout=20)
    items = source.for_ever.options(_generator_backpressure_num_objects=2).remote()
    assert shoal.get(next(items), timeout=20) == 1
    lossy = Lossy(process)
    items.close()
    time.sleep(0.1)
    lossy.cut()

    assert shoal.get(source.items_made.remote(), timeout=20) <= 4, "it has stopped, and the actor goes on"


@shoal.remote(max_retries=0, num_cpus=0)
def begin_and_die(source: Any) -> None:
    items = source.for_ever.options(_generator_backpressure_num_objects=2).remote()
    next(items)
    os._exit(1)


def test_a_stream_whose_reader_died_does_not_keep_its_actor() -> None:
    source = Unbroken.remote()
    with pytest.raises(exceptions.WorkerCrashedError):
        shoal.get(begin_and_die.remote(source), timeout=20)

    assert shoal.get(source.items_made.remote(), timeout=20) <= 4


@pytest.mark.usefixtures("lossy_links")
def test_a_stream_whose_reader_died_elsewhere_does_not_keep_its_actor() -> None:
    """Its connection alone says nothing; the agent's verdict does."""
    source = PLAIN.remote()
    with pytest.raises(exceptions.WorkerCrashedError):
        shoal.get(begin_and_die.remote(source), timeout=20)

    assert shoal.get(source.items_made.remote(), timeout=20) <= 4


@shoal.remote
class Unbroken:
    def __init__(self) -> None:
        self.made = 0

    def items_made(self) -> int:
        return self.made

    def for_ever(self) -> Iterator[int]:
        while True:
            self.made += 1
            yield self.made


def test_a_cancelled_stream_that_waits_for_its_reader_ends() -> None:
    source = Unbroken.remote()
    items = source.for_ever.options(_generator_backpressure_num_objects=2).remote()
    assert shoal.get(next(items), timeout=20) == 1

    shoal.cancel(items)
    with pytest.raises(exceptions.TaskCancelledError):
        shoal.get(items.completed(), timeout=20)  # nothing is taken, so there is never room
    assert shoal.get(source.items_made.remote(), timeout=20) <= 4
    del items
    gc.collect()
