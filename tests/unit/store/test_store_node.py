"""The node's store loses nothing that is wanted, moves nothing that is read, and says clearly when it is full."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests_store_desk import MIB, Desk

from shoal.exceptions import ObjectStoreFullError, OutOfDiskError
from shoal.runtime.store.errors import ObjectAbsent
from shoal.runtime.store.node import RESTORER
from shoal.runtime.store.objects import State
from shoal.runtime.store.segments import Located, Segment

LIMIT = 24 * MIB


def oid(number: int) -> bytes:
    return number.to_bytes(24, "big")


def contents(number: int, size: int) -> bytes:
    return (hashlib.sha256(oid(number)).digest() * (size // 32 + 1))[:size]


class StoreMachine(RuleBasedStateMachine):
    """Random lives of objects under pressure, against what they must contain."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="shoal-node-test-"))
        self.desk = Desk(self.directory, LIMIT)
        self.store = self.desk.store
        self.serial = 0
        self.sizes: dict[int, int] = {}  # wanted primaries
        self.secondaries: dict[int, int] = {}
        self.pins: dict[tuple[bytes, int], list[Located]] = {}
        self.asked: list[tuple[bytes, int, list[Any]]] = []
        self.leased: list[tuple[bytes, Segment]] = []
        self.waiting: list[tuple[bytes, list[Any]]] = []

    @rule(
        size=st.integers(1, MIB) | st.integers(MIB, 9 * MIB),
        process=st.sampled_from([b"w1", b"w2"]),
        is_primary=st.sampled_from([True, True, False]),
    )
    def put(self, size: int, process: bytes, is_primary: bool) -> None:
        answers = self.desk.lease(size, process, wait_s=5.0)
        if not answers:
            self.waiting.append((process, answers))
            return
        (segment,) = answers
        if isinstance(segment, Exception):
            assert isinstance(segment, ObjectStoreFullError)
            return
        self.serial += 1
        with open(self.desk.segments / segment.name, "r+b") as file:
            file.seek(segment.offset)
            file.write(contents(self.serial, size))
        assert self.store.seal(process, oid(self.serial), segment.id, size, is_primary=is_primary)
        (self.sizes if is_primary else self.secondaries)[self.serial] = size

    @rule(size=st.integers(1, 3 * MIB), process=st.sampled_from([b"w1", b"w2"]))
    def lease_and_hold(self, size: int, process: bytes) -> None:
        segment = self.store.lease_now(process, size)
        if segment is not None:
            self.leased.append((process, segment))

    @precondition(lambda self: self.leased)
    @rule()
    def give_back(self) -> None:
        process, segment = self.leased.pop(0)
        self.store.give_back(process, segment.id)

    @precondition(lambda self: self.sizes)
    @rule(data=st.data(), process=st.sampled_from([b"r1", b"r2"]))
    def pin(self, data: st.DataObject, process: bytes) -> None:
        number = data.draw(st.sampled_from(sorted(self.sizes)))
        answers = self.desk.pin(oid(number), process)
        self.asked.append((process, number, answers))
        self.collect()

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        process, number = data.draw(st.sampled_from(sorted(self.pins)))
        held = self.pins[process, number]
        held.pop()
        if not held:
            del self.pins[process, number]
        self.store.unpin(process, [oid(number)])

    @precondition(lambda self: self.sizes)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.sizes)))
        del self.sizes[number]
        self.store.free([oid(number)])

    @rule()
    def disk_step(self) -> None:
        self.desk.disk.step()
        self.collect()

    @rule(process=st.sampled_from([b"w1", b"w2", b"r1", b"r2"]))
    def process_dies(self, process: bytes) -> None:
        self.collect()
        self.store.ended(process)
        self.pins = {key: value for key, value in self.pins.items() if key[0] != process}
        self.asked = [entry for entry in self.asked if entry[0] != process]
        self.leased = [entry for entry in self.leased if entry[0] != process]
        self.waiting = [entry for entry in self.waiting if entry[0] != process]

    @rule(seconds=st.floats(0.1, 8.0))
    def time_passes(self, seconds: float) -> None:
        self.desk.clock.now_s += seconds
        self.store.tick()
        self.collect()

    def collect(self) -> None:
        """Take answers that have come in."""
        still: list[tuple[bytes, int, list[Any]]] = []
        for process, number, answers in self.asked:
            if not answers:
                still.append((process, number, answers))
            elif isinstance(answers[0], Located):
                self.pins.setdefault((process, number), []).append(answers[0])
            elif number in self.sizes:
                assert isinstance(answers[0], ObjectStoreFullError), answers
        self.asked = still
        later: list[tuple[bytes, list[Any]]] = []
        for process, answers in self.waiting:
            if not answers:
                later.append((process, answers))
            elif isinstance(answers[0], Segment):
                self.leased.append((process, answers[0]))
        self.waiting = later

    @invariant()
    def what_is_read_stays_as_it_is(self) -> None:
        for (_, number), held in self.pins.items():
            assert len(set(held)) == 1, "a pinned object moved"
            found = self.desk.bytes_at(held[0])
            assert found == contents(number, len(found))

    @invariant()
    def nothing_wanted_is_lost(self) -> None:
        for number, size in self.sizes.items():
            assert self.store.size_of(oid(number)) == size

    @invariant()
    def the_quota_holds(self) -> None:
        usage = self.store.usage()
        assert usage.total <= LIMIT
        assert usage.sealed + usage.leased <= usage.used <= usage.total

    @invariant()
    def primaries_are_counted(self) -> None:
        assert self.store.primaries == sum(row.is_primary for row in self.store.rows())

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        usage = self.store.usage()
        if usage.waiting and not self.desk.disk.jobs:
            idle = [row for row in self.store.rows() if not row.pins and row.state is State.MEMORY]
            assert not idle, "an unpinned object could have made room"

    def teardown(self) -> None:
        # Calm: everybody lets go, the disk works on; then every object must come back whole.
        for process in (b"w1", b"w2", b"r1", b"r2"):
            self.process_dies(process)
        self.desk.disk.finish()
        for number, size in self.sizes.items():
            answers = self.desk.pin(oid(number), b"end")
            self.desk.disk.finish()
            assert self.desk.bytes_at(answers[0]) == contents(number, size)
            self.store.unpin(b"end", [oid(number)])
            self.desk.disk.finish()
        self.store.free([row.object_id for row in self.store.rows()])
        self.desk.disk.finish()
        usage = self.store.usage()
        assert (usage.objects, usage.used, usage.leased, usage.pinned, usage.waiting) == (0, 0, 0, 0, 0)
        assert os.listdir(self.desk.spill) == []
        shutil.rmtree(self.directory)


StoreMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
test_random_lives = StoreMachine.TestCase


# ------------------------------------------------------------------------------------------------ one rule each


def test_a_freed_object_waits_for_its_last_reader(desk: Callable[[int], Desk]) -> None:
    it = desk(LIMIT)
    it.put(oid(1), b"a" * 2 * MIB)
    (located,) = it.pin(oid(1))

    it.store.free([oid(1)])
    it.put(oid(2), b"b" * 2 * MIB)

    assert it.bytes_at(located) == b"a" * 2 * MIB
    assert not it.store.has(oid(1))
    used = it.store.pool.used_bytes
    it.store.unpin(b"r", [oid(1)])
    assert it.store.pool.used_bytes < used


def test_pressure_spills_the_least_recently_used_first(desk: Callable[[int], Desk]) -> None:
    it = desk(LIMIT)
    for number in range(4):
        it.put(oid(number), contents(number, 4 * MIB))
    it.pin(oid(0))
    it.store.unpin(b"r", [oid(0)])

    it.put(oid(4), contents(4, 4 * MIB))
    it.disk.step()

    assert it.states()[oid(1)] == "spilled"
    assert it.states()[oid(0)] == "in_memory"


def test_a_spilled_object_comes_back_whole(desk: Callable[[int], Desk]) -> None:
    it = desk(LIMIT)
    for number in range(12):
        answers = it.lease(4 * MIB)
        it.disk.finish()
        it.store.tick()
        with open(it.segments / answers[0].name, "r+b") as file:
            file.seek(answers[0].offset)
            file.write(contents(number, 4 * MIB))
        it.store.seal(b"w", oid(number), answers[0].id, 4 * MIB)
        it.disk.finish()

    assert sum(state == "spilled" for state in it.states().values()) >= 6
    for number in range(12):
        answers = it.pin(oid(number))
        it.disk.finish()
        assert it.bytes_at(answers[0]) == contents(number, 4 * MIB)
        it.store.unpin(b"r", [oid(number)])
        it.disk.finish()


def test_secondaries_go_before_any_primary_is_spilled(desk: Callable[[int], Desk]) -> None:
    it = desk(LIMIT)
    it.put(oid(1), b"p" * 8 * MIB)
    it.put(oid(2), b"s" * 8 * MIB, is_primary=False)

    answers = it.lease(9 * MIB)

    assert isinstance(answers[0], Segment)
    assert not it.store.has(oid(2))
    assert it.states()[oid(1)] in ("in_memory", "spilling")


def test_secondaries_go_ahead_of_need_too(desk: Callable[[int], Desk]) -> None:
    it = desk(LIMIT)
    it.put(oid(1), b"s" * 8 * MIB, is_primary=False)
    it.put(oid(2), b"p" * 8 * MIB)

    it.put(oid(3), b"p" * 4 * MIB)

    assert not it.store.has(oid(1))
    assert not it.disk.jobs, "a primary was written although a copy could go"
    assert it.copied == [(oid(1), b"w", 8 * MIB, True), (oid(1), b"w", 8 * MIB, False)], "its owner hears of both"


def test_full_of_pinned_objects_is_a_clear_error_after_the_wait(desk: Callable[[int], Desk]) -> None:
    it = desk(LIMIT)
    for number in range(5):
        it.put(oid(number), b"x" * 4 * MIB)
        it.pin(oid(number))
    it.disk.finish()

    answers = it.lease(6 * MIB, wait_s=10.0)
    it.clock.now_s += 9.9
    it.store.tick()
    assert answers == []
    it.clock.now_s += 0.2
    it.store.tick()

    assert isinstance(answers[0], ObjectStoreFullError)
    text = str(answers[0])
    assert "no room for 6 MiB after 10 s" in text
    assert "of 24 MiB in use, 20 MiB pinned by readers" in text
    assert "`object_store_memory`" in text
    assert it.reclaims > 0
    assert "(held by 72 20 MiB)" in text, "who holds it"


def test_whoever_waits_for_room_waits_on_while_objects_go_to_disk(desk: Callable[[int], Desk]) -> None:
    it = desk(LIMIT)
    for number in range(5):
        it.put(oid(number), b"x" * 4 * MIB)
    answers = it.lease(18 * MIB, wait_s=10.0)
    for _ in range(3):
        it.clock.now_s += 9.0
        it.store.tick()
        assert answers == []
        assert it.disk.step()
    it.disk.finish()
    assert isinstance(answers[0], Segment)


def test_what_can_never_fit_is_refused_at_once(desk: Callable[[int], Desk]) -> None:
    (answer,) = desk(LIMIT).lease(25 * MIB)
    assert isinstance(answer, ObjectStoreFullError)
    assert "it can never fit" in str(answer)


def test_waiters_are_served_in_order_as_room_appears(desk: Callable[[int], Desk]) -> None:
    it = desk(LIMIT)
    for number in range(3):
        it.put(oid(number), b"x" * 7 * MIB)
        it.pin(oid(number))
    large, small = it.lease(7 * MIB), it.lease(MIB // 4)
    assert large == small == []

    it.store.free([oid(0)])
    it.store.unpin(b"r", [oid(0)])

    assert isinstance(large[0], Segment)
    assert isinstance(small[0], Segment)


def test_a_full_disk_is_named_and_spilling_resumes_later(desk: Callable[[int], Desk]) -> None:
    it = desk(LIMIT)
    it.disk.fault = OutOfDiskError("object store: cannot spill 4 MiB to `/d`: 0 B free there")
    for number in range(5):
        it.put(oid(number), contents(number, 4 * MIB))
    answers = it.lease(8 * MIB, wait_s=5.0)
    it.disk.finish()
    it.clock.now_s += 6.0
    it.store.tick()
    assert isinstance(answers[0], OutOfDiskError)
    assert all(state == "in_memory" for state in it.states().values()), "nothing may be lost to a full disk"

    it.disk.fault = None
    answers = it.lease(8 * MIB, wait_s=60.0)
    it.clock.now_s += 6.0
    it.store.tick()
    it.disk.finish()

    assert isinstance(answers[0], Segment)


def test_a_dead_writer_loses_its_leases_and_nothing_else(desk: Callable[[int], Desk]) -> None:
    it = desk(LIMIT)
    it.put(oid(1), b"k" * MIB, b"victim")
    (half_written,) = it.lease(8 * MIB, b"victim")
    it.lease(2 * MIB, b"other")

    it.store.ended(b"victim")

    assert it.store.has(oid(1))
    assert it.store.usage().leased == 2 * MIB
    (again,) = it.lease(8 * MIB, b"other")
    assert again.name == half_written.name
    assert not it.store.seal(b"victim", oid(2), half_written.id, 8 * MIB), "a late message of the dead"
    assert it.store.seal(b"other", oid(2), again.id, 8 * MIB)


def test_the_same_object_sealed_twice_is_kept_once(desk: Callable[[int], Desk]) -> None:
    it = desk(LIMIT)
    it.put(oid(1), b"a" * 2 * MIB)
    it.put(oid(1), b"a" * 2 * MIB, b"retry")
    assert it.store.usage().objects == 1
    assert it.store.usage().used == 2 * MIB


def test_a_sealed_size_must_fit_its_segment(desk: Callable[[int], Desk]) -> None:
    it = desk(LIMIT)
    (segment,) = it.lease(2 * MIB)
    with pytest.raises(ValueError, match="in segment"):
        it.store.seal(b"w", oid(1), segment.id, 3 * MIB)


def test_absent_objects_are_said_to_be_absent(desk: Callable[[int], Desk]) -> None:
    (answer,) = desk(LIMIT).pin(oid(7))
    assert isinstance(answer, ObjectAbsent)


@pytest.mark.parametrize("damage", ["short", "flipped", "gone", "header", "swapped"])
def test_a_damaged_spill_file_is_a_lost_object_not_wrong_data(desk: Callable[[int], Desk], damage: str) -> None:
    it = desk(LIMIT)
    for number in range(5):
        it.put(oid(number), contents(number, 4 * MIB))
    it.disk.finish()
    number = next(n for n in range(5) if it.states()[oid(n)] == "spilled")
    path = min(it.spill.iterdir())
    data = bytearray(path.read_bytes())
    if damage == "short":
        path.write_bytes(data[:-1])
    elif damage == "flipped":
        data[-1000] ^= 1
        path.write_bytes(data)
    elif damage == "gone":
        path.unlink()
    elif damage == "header":
        data[10] ^= 1
        path.write_bytes(data)
    else:
        it.lease(8 * MIB)
        it.disk.finish()
        path.write_bytes(sorted(it.spill.iterdir())[1].read_bytes())

    answers = it.pin(oid(number))
    it.disk.finish()

    assert isinstance(answers[0], ObjectAbsent), answers
    assert not it.store.has(oid(number))
    assert RESTORER not in it.store._leases.values()


def test_memory_looked_at_by_a_fork_is_never_reused(desk: Callable[[int], Desk]) -> None:
    it = desk(LIMIT)
    it.put(oid(1), b"f" * 2 * MIB)
    (located,) = it.pin(oid(1), b"forker")
    it.store.forked(b"forker")
    it.store.unpin(b"forker", [oid(1)])
    it.store.free([oid(1)])

    for _ in range(10):
        (segment,) = it.lease(2 * MIB)
        assert segment.name != located.name
        it.store.give_back(b"w", segment.id)
    assert it.store.pool.retired_bytes == 2 * MIB
    it.store.ended(b"forker")
    assert it.store.pool.retired_bytes == 0


def test_a_secondary_that_becomes_primary_is_spilled_not_dropped(desk: Callable[[int], Desk]) -> None:
    it = desk(LIMIT)
    it.put(oid(1), contents(1, 8 * MIB), is_primary=False)
    assert it.store.set_primary(oid(1), True)

    for number in (2, 3):
        it.put(oid(number), contents(number, 8 * MIB), is_primary=False)
        it.disk.finish()

    assert it.store.has(oid(1))
    assert it.store.usage().primaries == 1


def test_two_readers_of_a_spilled_object_share_one_restore(desk: Callable[[int], Desk]) -> None:
    it = desk(LIMIT)
    for number in range(5):
        it.put(oid(number), contents(number, 4 * MIB))
    it.disk.finish()
    number = next(n for n in range(5) if it.states()[oid(n)] == "spilled")

    one, two = it.pin(oid(number), b"r1"), it.pin(oid(number), b"r2")
    assert it.states()[oid(number)] == "restoring"
    it.disk.finish()

    assert one == two
    assert it.bytes_at(one[0]) == contents(number, 4 * MIB)
    (row,) = [row for row in it.store.rows() if row.object_id == oid(number)]
    assert row.pins == {b"r1": 1, b"r2": 1}


def test_a_full_file_system_gives_up_what_is_kept_for_later_and_never_loses_an_object(
    desk: Callable[[int], Desk],
) -> None:
    it = desk(LIMIT)
    it.put(oid(1), contents(1, 8 * MIB))
    it.put(oid(2), contents(2, 14 * MIB))
    it.disk.finish()
    assert it.states()[oid(1)] == "spilled"
    it.store.free([oid(2)])
    full = ObjectStoreFullError("no memory left")

    answers = it.pin(oid(1))
    it.disk.fault = full
    assert it.disk.step()
    assert answers == []
    assert it.store.pool.total_bytes <= 9 * MIB, "free segments gave their memory back"
    assert it.disk.step()
    assert answers == [full], "twice is enough"
    it.disk.fault = None
    again = it.pin(oid(1))
    it.disk.finish()
    assert it.bytes_at(again[0]) == contents(1, 8 * MIB)


def test_a_reader_that_lets_go_at_once_takes_nothing_from_the_others(desk: Callable[[int], Desk]) -> None:
    it = desk(LIMIT)
    it.put(oid(1), contents(1, 8 * MIB))
    it.put(oid(2), contents(2, 14 * MIB))
    it.disk.finish()
    assert it.states()[oid(1)] == "spilled"
    it.store.free([oid(2)])
    told: list[Any] = []

    def hasty(located: Any) -> None:
        told.append(located)
        it.store.unpin(b"hasty", [oid(1)])

    it.store.pin(b"hasty", oid(1), hasty)
    it.store.pin(b"slow", oid(1), told.append)
    late = it.lease(20 * MIB)  # wants the memory as soon as nobody reads there
    it.disk.finish()

    assert [type(one) for one in told] == [Located, Located]
    assert late == [], "the memory is still read"
    it.store.unpin(b"slow", [oid(1)])
    assert isinstance(late[0], Segment)


def test_warming_puts_memory_behind_free_segments(desk: Callable[[int], Desk]) -> None:
    it = desk(256 * MIB)
    it.store.warm(64 * MIB)
    it.disk.finish()

    (segment,) = it.lease(12 * MIB)

    assert segment.populated == segment.size
    assert os.stat(it.segments / segment.name).st_blocks * 512 >= segment.size
    assert it.store.usage().total <= 64 * MIB
