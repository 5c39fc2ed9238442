"""What a driver elsewhere may read and write at its agent: its own leases and pins, within bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shoal.foundation.clock import SystemClock
from shoal.runtime.agent.parcels import Parcels
from shoal.runtime.store.node import NodeStore
from shoal.wire import tasks as wire

MIB = 2**20


class Far:
    """A driver elsewhere: what it was told, and the raw frames that it was sent."""

    def __init__(self, process: bytes) -> None:
        self.process = process
        self.told: list[Any] = []
        self.raw: list[tuple[int, bytes]] = []
        self.connection = self

    def tell(self, *message: Any) -> None:
        self.told.append(message)

    def send_raw(self, n: int, data: memoryview) -> None:
        self.raw.append((n, bytes(data)))


class Desk:
    def __init__(self, directory: Path) -> None:
        self.store = NodeStore(directory, 16 * MIB, SystemClock())
        self.parcels: Any = Parcels(self.store)

    def lease(self, far: Far, size: int) -> Any:
        found: list[Any] = []
        self.store.lease(far.process, size, found.append)
        self.parcels.leased(far, found[0])
        return found[0]

    def put(self, far: Far, object_id: bytes, data: bytes) -> None:
        segment = self.lease(far, len(data))
        self.parcels.take(far.process, segment.id, 0, memoryview(data))
        self.parcels.written(far, 1, segment.id)
        assert far.told.pop() == (wire.ANSWER, 1, True, None)
        self.store.seal(far.process, object_id, segment.id, len(data))
        self.parcels.sealed(far.process, segment.id)

    def pin(self, far: Far, object_id: bytes) -> None:
        self.store.pin(far.process, object_id, lambda located: self.parcels.pinned(far, object_id, located))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_what_is_written_is_read_in_any_parts(desk: Desk) -> None:
    far, object_id = Far(b"d" * 18), b"o" * 24
    data = bytes(range(256)) * 8192
    segment = desk.lease(far, len(data))
    for start in range(0, len(data), 300_000):
        desk.parcels.take(far.process, segment.id, start, memoryview(data)[start : start + 300_000])
    desk.parcels.written(far, 4, segment.id)
    assert far.told == [(wire.ANSWER, 4, True, None)]
    desk.store.seal(far.process, object_id, segment.id, len(data))
    desk.parcels.sealed(far.process, segment.id)

    desk.pin(far, object_id)
    desk.parcels.read(far, 7, object_id, 5, 1000)
    desk.parcels.read(far, 8, object_id, len(data) - 3, 3)

    assert far.raw == [(7, data[5:1005]), (8, data[-3:])]


def test_nobody_writes_outside_of_what_it_has_leased(desk: Desk) -> None:
    far, other = Far(b"d" * 18), Far(b"e" * 18)
    segment = desk.lease(far, 2 * MIB)
    neighbour = desk.lease(other, 2 * MIB)
    desk.parcels.take(far.process, neighbour.id, 0, memoryview(b"mine"))
    desk.parcels.written(far, 1, neighbour.id)
    desk.parcels.take(far.process, segment.id, segment.size - 3, memoryview(b"over"))
    desk.parcels.take(far.process, segment.id, 0, memoryview(b"after an error nothing counts"))
    desk.parcels.written(far, 2, segment.id)
    desk.parcels.sealed(far.process, segment.id)
    desk.parcels.written(far, 3, segment.id)

    assert [(message[1], message[2], message[3][0]) for message in far.told] == [
        (1, False, "ValueError"),
        (2, False, "ValueError"),
        (3, False, "ValueError"),
    ]
    assert not any(desk.store.pool.path(neighbour).read_bytes())


@pytest.mark.parametrize("offset, length", [(-1, 5), (0, 0), (0, 5 * MIB), (MIB - 1, 2), (1 << 62, 1)])
def test_nobody_reads_outside_of_an_object(desk: Desk, offset: int, length: int) -> None:
    far, other, object_id = Far(b"d" * 18), Far(b"e" * 18), b"o" * 24
    desk.put(far, object_id, b"x" * MIB)
    desk.pin(far, object_id)

    desk.parcels.read(far, 1, object_id, offset, length)
    desk.parcels.read(other, 2, object_id, 0, 1)  # has not pinned it

    assert far.raw == other.raw == []
    assert far.told[0][:3] == (wire.ANSWER, 1, False) and far.told[0][3][0] == "ObjectLostError"
    assert other.told[0][:3] == (wire.ANSWER, 2, False)


def test_an_object_stays_until_its_last_byte_has_left_and_no_longer(desk: Desk) -> None:
    far, object_id = Far(b"d" * 18), b"o" * 24
    desk.put(far, object_id, b"x" * MIB)
    desk.pin(far, object_id)
    under_way: list[memoryview] = []
    far.send_raw = lambda n, data: under_way.append(data)  # type: ignore[method-assign]
    desk.parcels.read(far, 1, object_id, 0, MIB)

    desk.parcels.ended(far.process)  # the driver is gone, its connection still holds what it was sent
    desk.store.ended(far.process)
    desk.store.free([object_id])
    assert desk.store.usage().sealed == MIB
    assert bytes(under_way.pop()) == b"x" * MIB
    desk.parcels.let_go()

    assert desk.store.usage().sealed == 0
