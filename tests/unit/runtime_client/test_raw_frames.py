"""Raw frames as a driver's reactor reads and writes them: bytes go where they were asked to, whatever comes between."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from shoal.runtime.client.reactor import Link, Reactor
from shoal.wire.frames import FrameReader, frame, raw_head


class Desk:
    """A reactor with one link; what it is told, in order."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.closed: list[Link] = []
        self.targets: dict[int, bytearray] = {}
        self.reactor = Reactor(lambda link, messages: self.told.extend(messages), self.closed.append)
        self.reactor.takes_raw = lambda link: True
        self.reactor.raw_target = lambda link, key, length: (
            memoryview(self.targets[key]) if key in self.targets else None
        )
        self.reactor.raw_done = lambda link, key: self.told.append(("raw", key))
        self.peer, own = socket.socketpair()
        own.setblocking(False)
        self.link = self.reactor.add(own)

    def send(self, data: bytes, chance: random.Random) -> None:
        """Send in parts of any length, read after each."""
        at = 0
        while at < len(data):
            step = chance.choice((1, 3, 19, 1000, 100_000))
            self.peer.sendall(data[at : at + step])
            at += step
            self.reactor.poll(1)
        self.reactor.poll(0)


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.peer.close()
    made.reactor.close()


@pytest.mark.parametrize("seed", range(20))
def test_raw_bytes_go_where_they_were_asked_to(desk: Desk, seed: int) -> None:
    chance = random.Random(seed)
    wanted = {key: chance.randbytes(chance.choice((1, 30, 5_000, 400_000))) for key in (3, 4, 5)}
    desk.targets = {key: bytearray(len(data)) for key, data in wanted.items()}
    parts, expected = [], []
    for key in (3, 8, 4, 5):  # nobody wants 8 any more
        data = wanted.get(key, b"late" * 100_000)
        parts += [frame([["before", key]]), raw_head(key, 0, len(data)) + data]
        expected += [["before", key], ("raw", key)]

    desk.send(b"".join(parts) + frame([["end"]]), chance)

    assert desk.told == [*expected, ["end"]]
    assert desk.targets == wanted
    assert not desk.closed


@pytest.mark.parametrize("head", [raw_head(3, 0, 11), raw_head(3, 1, 10), raw_head(3, 0, 1 << 29)])
def test_raw_bytes_of_another_length_than_asked_for_end_the_link(desk: Desk, head: bytes) -> None:
    desk.targets = {3: bytearray(10)}
    desk.send(head + b"0123456789", random.Random(1))
    assert desk.closed == [desk.link]
    assert desk.targets == {3: bytearray(10)}


def test_raw_bytes_that_nobody_allowed_end_the_link(desk: Desk) -> None:
    desk.reactor.takes_raw = lambda link: False
    desk.peer.sendall(raw_head(3, 0, 10))
    desk.reactor.poll(1)
    assert desk.closed == [desk.link]


def test_raw_bytes_and_messages_leave_in_order_through_a_full_socket(desk: Desk) -> None:
    reader, got, seen = FrameReader(), bytearray(), []
    reader.take_raw(lambda key, offset, come: got.extend(come))

    def read() -> None:
        while data := desk.peer.recv(100_000):
            seen.extend(reader.feed(data))

    sent = random.Random(7).randbytes(8 * 2**20)
    thread = threading.Thread(target=read)
    thread.start()
    for start in range(0, len(sent), 2**20):
        piece = memoryview(sent)[start : start + 2**20]
        while not desk.link.send_raw(1, start, piece):
            desk.reactor.poll(1)
        desk.link.out.append(["after", start])
        desk.link.flush()
    while desk.link.out or not desk.link.is_writable:
        desk.reactor.poll(1)
    desk.reactor.drop(desk.link)
    thread.join(10)

    assert got == sent
    assert [message for body in seen for message in body] == [["after", start] for start in range(0, len(sent), 2**20)]
