"""Threads that wait take turns at reading: whoever is told to read and need not hands that on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shoal.runtime.client.core import Core
from shoal.wire.hello import Credential, Role

LIMIT_S = 20.0


@pytest.fixture
def core() -> Iterator[Core]:
    made = Core(Credential("ab" * 16, b"s" * 32, Role.DRIVER), None, Path("/nowhere"), is_worker=False)
    yield made
    made.close()


class Waiter:
    """A thread that waits until it is told that it is done."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.is_done = False
        self._thread = threading.Thread(target=core.wait, args=(lambda: self.is_done,), daemon=True)
        before = len(core._followers)
        self._thread.start()
        eventually(lambda: len(core._followers) > before or not self._thread.is_alive())

    def end(self) -> None:
        """Be done, as by a message; whoever reads sees it."""
        self.is_done = True
        self._core.reactor.kick()
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive(), "nobody reads"


def eventually(claim: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not claim():
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


def test_a_thread_that_is_done_when_it_is_told_to_read_hands_that_on(core: Core) -> None:
    core.reactor.lock.acquire()  # somebody reads
    first, second = Waiter(core), Waiter(core)
    first.is_done = True  # settled by another thread than the reader
    core.reactor.lock.release()
    core._hand_over()

    second.end()


def test_a_thread_that_is_interrupted_when_it_is_told_to_read_hands_that_on(core: Core) -> None:
    core.reactor.lock.acquire()
    told = threading.Event()

    def fails_once_told() -> bool:
        if told.is_set():
            raise KeyboardInterrupt
        return False

    def wait() -> None:
        with pytest.raises(KeyboardInterrupt):
            core.wait(fails_once_told)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    eventually(lambda: bool(core._followers))
    second = Waiter(core)
    told.set()
    core.reactor.lock.release()
    core._hand_over()

    second.end()
    thread.join(LIMIT_S)


def test_reading_what_is_there_leaves_nobody_without_a_reader(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    waiters: list[Waiter] = []
    poll = core.reactor.poll

    def poll_while_another_begins_to_wait(timeout_s: float = -1) -> None:
        monkeypatch.setattr(core.reactor, "poll", poll)
        waiters.append(Waiter(core))

    monkeypatch.setattr(core.reactor, "poll", poll_while_another_begins_to_wait)
    core.poll_now()

    waiters[0].end()
