"""Connections between real processes that break after the system took what was written: references survive it."""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
import time
from typing import Any

import pytest

import shoal
from shoal.runtime.client import api
from tests.runtime.conftest import eventually

pytestmark = pytest.mark.usefixtures("cluster")


class Lossy:
    """The link of this process to another one: from now on what is sent is lost, until it is cut."""

    def __init__(self, process: bytes) -> None:
        self.core = api.session().core
        self.process = process
        self.link = self.core.peers[process]
        self.link._send = len  # as if the system had taken all of it

    def waits(self) -> bool:
        """Whether something that must arrive was sent."""
        channel = self.core.reliable.channels.get(self.process)
        return channel is not None and len(channel.outgoing) > 0

    def cut(self) -> None:
        with contextlib.suppress(OSError):
            self.link._sock.shutdown(socket.SHUT_RDWR)


@shoal.remote
class Actor:
    def __init__(self) -> None:
        self.kept: list[Any] = []

    def process(self) -> bytes:
        return api.session().core.process

    def make(self) -> list[Any]:
        return [shoal.put({"made": "here"})]

    def keep(self, refs: list[Any]) -> None:
        self.kept = refs

    def read(self) -> Any:
        return shoal.get(self.kept[0], timeout=20)

    def drop(self) -> None:
        self.kept = []
        gc.collect()

    def drop_and_lose_the_word(self, driver: bytes) -> None:
        def lose() -> None:
            time.sleep(0.3)  # this call's answer is on its way
            lossy = Lossy(driver)
            self.kept = []
            gc.collect()
            while not lossy.waits():
                time.sleep(0.01)
            time.sleep(0.2)
            lossy.cut()

        threading.Thread(target=lose, daemon=True).start()

    def lent(self) -> int:
        return len(api.session().core.lending.held)


def test_a_release_that_was_lost_with_its_connection_is_said_again() -> None:
    core = api.session().core
    borrower = Actor.remote()
    shoal.get(borrower.keep.remote([shoal.put("value")]), timeout=20)
    eventually(lambda: len(core.lending.held) == 1)

    shoal.get(borrower.drop_and_lose_the_word.remote(core.process), timeout=20)

    eventually(lambda: not core.lending.held, 20)
    assert shoal.get(borrower.lent.remote(), timeout=20) == 0, "and the actor answers on the new connection"


def test_what_was_lent_lives_though_the_word_of_it_was_lost() -> None:
    core = api.session().core
    owner, borrower = Actor.remote(), Actor.remote()
    process = shoal.get(owner.process.remote(), timeout=20)
    refs = shoal.get(owner.make.remote(), timeout=20)
    lossy = Lossy(process)

    shoal.get(borrower.keep.remote(refs), timeout=20)
    eventually(lossy.waits)
    del refs
    gc.collect()
    time.sleep(0.3)
    lossy.cut()

    assert shoal.get(borrower.read.remote(), timeout=30) == {"made": "here"}
    eventually(lambda: len(core.reliable.channels[process].outgoing) == 0, 20)
    assert shoal.get(owner.lent.remote(), timeout=20) == 1, "only the borrower holds it now"
    assert shoal.get(borrower.read.remote(), timeout=30) == {"made": "here"}
    shoal.get(borrower.drop.remote(), timeout=20)
    eventually(lambda: shoal.get(owner.lent.remote(), timeout=20) == 0, 20)
