"""Writers and readers in one process: what is written is read, uncopied, and pinned exactly as long as it is seen."""

from __future__ import annotations

import errno
import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests_store_desk import MIB, Desk

from shoal.exceptions import ObjectStoreFullError
from shoal.runtime.store.errors import BadLayout
from shoal.runtime.store.memory import Mapping
from shoal.runtime.store.reader import Reader
from shoal.runtime.store.segments import Located, Segment
from shoal.runtime.store.values import dump
from shoal.runtime.store.writer import Sealed, Writer


class House:
    """A desk with a writer and a reader of it."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.leases = 0
        self.writer = Writer(desk.segments, self.lease)
        self.reader = Reader(desk.segments)
        self.count = 0

    def lease(self, size: int) -> Segment:
        self.leases += 1
        (answer,) = self.desk.lease(size)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def put(self, value: Any) -> bytes:
        sealed = self.writer.put(dump(value))
        self.count += 1
        object_id = self.count.to_bytes(24, "big")
        assert self.desk.store.seal(b"w", object_id, sealed.segment_id, sealed.size)
        return object_id

    def get(self, object_id: bytes) -> Any:
        (located,) = self.desk.pin(object_id)
        return self.reader.load(object_id, located)

    def drain(self) -> list[bytes]:
        gone = self.reader.drain()
        self.desk.store.unpin(b"r", gone)
        return gone


@pytest.fixture
def house(desk: Callable[[int], Desk]) -> House:
    return House(desk(256 * MIB))


@pytest.mark.parametrize("size", [0, 1, 1000, 150_000, MIB + 3, 9 * MIB + 17])
def test_what_is_put_is_read(house: House, size: int) -> None:
    array = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    for value in (array, {"a": array, "b": "x" * size}, bytes(array)):
        # Three times: into fresh pages, into pages that have memory, and into pages that are in the page table.
        for _ in range(3):
            object_id = house.put(value)
            found = house.get(object_id)
            if isinstance(value, dict):
                np.testing.assert_array_equal(found["a"], array)
                assert found["b"] == value["b"]
            elif isinstance(value, bytes):
                assert found == value
            else:
                np.testing.assert_array_equal(found, array)
            del found
            house.drain()
            house.desk.store.free([object_id])
    assert house.desk.store.usage().used == 0


def test_an_array_pins_until_its_last_view_is_gone(house: House) -> None:
    object_id = house.put({"a": np.arange(100_000), "b": np.arange(5)})
    value = house.get(object_id)
    assert not value["a"].flags.writeable
    view = value["a"][10:20].reshape(2, 5)
    del value
    assert house.drain() == []
    assert view[0, 0] == 10

    del view

    assert house.drain() == [object_id]
    assert house.desk.store.usage().pinned == 0


def test_a_value_without_views_pins_nothing_after_loading(house: House) -> None:
    object_id = house.put(["x" * 200_000])
    assert house.get(object_id) == ["x" * 200_000]
    assert house.drain() == [object_id]


def test_views_in_a_cycle_pin_until_collected(house: House) -> None:
    object_id = house.put(np.arange(100_000))
    cycle: list[Any] = [house.get(object_id)]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert house.drain() == [object_id]


def test_a_second_get_of_what_is_pinned_asks_nobody(house: House) -> None:
    object_id = house.put(np.arange(100_000))
    assert house.reader.held_view(object_id) is None
    first = house.get(object_id)
    second = house.reader.held_view(object_id)
    assert second is not None
    del first
    assert house.drain() == []
    assert second.readonly
    del second
    assert house.drain() == [object_id]
    assert house.reader.held_view(object_id) is None


def test_threads_that_ask_at_once_give_back_every_pin(house: House) -> None:
    """Each has asked the agent, before the first of them held the object."""
    object_id = house.put(np.ones(300_000))
    places = [house.desk.pin(object_id)[0] for _ in range(3)]
    values = [house.reader.load(object_id, located) for located in places]
    again = house.reader.held_view(object_id)
    assert house.drain() == []

    del values, again

    assert house.drain() == [object_id] * 3
    assert not any(row.pins for row in house.desk.store.rows())


def test_loading_garbage_is_refused_and_pins_nothing(house: House) -> None:
    (segment,) = house.desk.lease(1000)
    (house.desk.segments / segment.name).write_bytes(os.urandom(70_000))
    house.desk.store.seal(b"w", b"g" * 24, segment.id, 1000)
    with pytest.raises(BadLayout):
        house.get(b"g" * 24)
    gc.collect()
    assert house.drain() == [b"g" * 24]


def test_a_segment_that_is_gone_is_an_error_not_a_crash(house: House) -> None:
    with pytest.raises(FileNotFoundError):
        house.reader.load(b"x" * 24, Located("s999", 0, 100))
    (segment,) = house.desk.lease(2 * MIB)
    os.truncate(house.desk.segments / segment.name, 100)
    with pytest.raises(FileNotFoundError, match="expected"):
        house.reader.load(b"x" * 24, Located(segment.name, 0, 2 * MIB))
    assert house.reader.pinned() == []
    assert house.drain() == [b"x" * 24] * 2, "what could not be opened must be unpinned at the agent"


def test_grown_files_are_mapped_anew_while_old_views_live(house: House) -> None:
    small = house.put(np.arange(300_000))
    view = house.get(small)
    keep = view[:10].copy()
    house.desk.store.free([small])
    large = house.put(np.arange(700_000))
    assert house.get(large)[-1] == 699_999
    np.testing.assert_array_equal(view[:10], keep)
    del view
    house.drain()
    again = house.put(np.arange(4_000_000))
    assert house.get(again)[-1] == 3_999_999


def test_the_stock_saves_round_trips_and_can_be_asked_back(house: House) -> None:
    first = house.writer.put(dump(np.zeros(30_000)))
    segment = house.desk.store.pool.segment(first.segment_id)
    assert house.writer.reuse(first, segment)

    second = house.writer.put(dump(np.zeros(30_000)))

    assert house.leases == 1
    assert second.segment_id == first.segment_id
    house.writer.reuse(second, segment)
    spare = house.writer.spare()
    assert [one.id for one in spare] == [first.segment_id]
    assert house.writer.spare() == []


def test_the_stock_is_bounded(house: House) -> None:
    offered = [house.desk.lease(30 * MIB)[0] for _ in range(3)]
    assert [house.writer.offer(segment) for segment in offered] == [True, True, False]


def test_a_large_segment_does_not_serve_a_small_value(house: House) -> None:
    (segment,) = house.desk.lease(30 * MIB)
    house.writer.offer(segment)
    house.put(np.zeros(20_000))
    assert house.leases == 1


def test_an_error_while_writing_returns_the_segment_to_the_stock(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: Any, offset: int) -> int:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(ObjectStoreFullError, match="no memory left for"):
        house.writer.put(dump(np.zeros(MIB)))
    assert len(house.writer.spare()) == 1


def test_many_threads_put_and_get_at_once(house: House) -> None:
    trouble: list[BaseException] = []
    lock = threading.Lock()

    def work(seed: int) -> None:
        try:
            for step in range(25):
                array = np.full(40_000 + 1000 * step, seed * 1000 + step)
                with lock:  # the store itself is the agent's, single-threaded
                    lease = house.desk.lease(array.nbytes + 4096)[0]
                house.writer.offer(lease)
                sealed = house.writer.put(dump(array))
                found = house.reader.load(
                    b"%024d" % (seed * 1000 + step), Located(sealed.name, sealed.offset, sealed.size)
                )
                assert (found == array).all()
                house.reader.drain()
        except BaseException as error:
            trouble.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert trouble == []
    gc.collect()
    house.reader.drain()
    assert house.reader.pinned() == []


def test_closing_keeps_what_is_still_seen(house: House) -> None:
    object_id = house.put(np.arange(100_000))
    value = house.get(object_id)
    house.writer.close()
    house.reader.close()
    assert value[99_999] == 99_999


def test_mapping_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"")
    with open(tmp_path / "m", "rb") as file, pytest.raises(OSError, match="cannot map"):
        Mapping(file.fileno(), 0, is_writable=False)


def test_structs_are_fit_for_messages() -> None:
    import msgspec

    for one in (Segment(1, "s1", 4096, 65536, 10), Located("s1", 0, 5), Sealed(1, "s1", 0, 5)):
        data = msgspec.msgpack.encode(one)
        assert msgspec.msgpack.decode(data, type=type(one)) == one
        assert isinstance(msgspec.msgpack.decode(data), list)
