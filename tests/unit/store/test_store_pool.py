"""The pool never hands one byte out twice, never exceeds its quota, and keeps pages in use."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from shoal.runtime.store.pool import SegmentPool
from shoal.runtime.store.segments import Segment

MIB = 2**20
LIMIT = 40 * MIB


class PoolMachine(RuleBasedStateMachine):
    """Random programs of one pool, against the plainest possible idea of it: the set of what is out."""

    out = Bundle("out")

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="shoal-pool-test-"))
        self.pool = SegmentPool(self.directory, LIMIT)
        self.held: dict[int, Segment] = {}
        self.retired: dict[int, Segment] = {}

    @rule(
        target=out,
        size=st.integers(1, 2 * MIB) | st.integers(1, 24 * MIB),
        owner=st.sampled_from([b"a", b"b", b"c"]),
    )
    def allocate(self, size: int, owner: bytes) -> Segment | None:
        segment = self.pool.allocate(size, owner)
        if segment is None:
            return None
        assert segment.size >= size
        assert segment.offset % 4096 == 0
        assert segment.offset + segment.size <= os.stat(self.directory / segment.name).st_size
        for other in [*self.held.values(), *self.retired.values()]:
            apart = (
                other.name != segment.name
                or other.offset + other.size <= segment.offset
                or segment.offset + segment.size <= other.offset
            )
            assert apart, (other, segment)
        assert segment.id not in self.retired
        self.held[segment.id] = segment
        return segment

    @rule(segment=consumes(out), populated=st.integers(0, 30 * MIB))
    def release(self, segment: Segment | None, populated: int) -> None:
        if segment is not None:
            del self.held[segment.id]
            self.pool.release(segment.id, populated=populated)

    @rule(segment=consumes(out))
    def retire(self, segment: Segment | None) -> None:
        if segment is not None:
            self.retired[segment.id] = self.held.pop(segment.id)
            self.pool.retire(segment.id)

    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        if self.retired:
            segment_id = data.draw(st.sampled_from(sorted(self.retired)))
            self.pool.forget(segment_id)
            if self.retired[segment_id].size > MIB:
                del self.retired[segment_id]

    @rule(wanted=st.integers(0, LIMIT))
    def trim(self, wanted: int) -> None:
        unused = self.pool.trim(wanted)
        assert unused == LIMIT - self.pool.total_bytes

    @invariant()
    def quota_holds(self) -> None:
        assert self.pool.total_bytes <= LIMIT
        on_disk = sum(entry.stat().st_size for entry in os.scandir(self.directory))
        assert on_disk <= self.pool.total_bytes

    @invariant()
    def sums_hold(self) -> None:
        assert self.pool.used_bytes == sum(segment.size for segment in self.held.values())
        free = sum(segment.size for segment in self.pool.free_segments())
        assert self.pool.used_bytes + self.pool.retired_bytes + free == self.pool.total_bytes

    def teardown(self) -> None:
        shutil.rmtree(self.directory)


PoolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_random_programs = PoolMachine.TestCase


@pytest.fixture
def pool(tmp_path: Path) -> SegmentPool:
    return SegmentPool(tmp_path, LIMIT)


def test_a_released_segment_serves_the_next_writer_with_its_pages(pool: SegmentPool) -> None:
    first = pool.allocate(5 * MIB, b"a")
    assert first is not None
    pool.release(first.id, populated=4 * MIB)

    second = pool.allocate(5 * MIB - 1000, b"b")

    assert second is not None
    assert (second.name, second.populated) == (first.name, 4 * MIB)


def test_a_writer_gets_back_the_segment_that_it_has_mapped(pool: SegmentPool) -> None:
    ours, theirs = pool.allocate(3 * MIB, b"a"), pool.allocate(3 * MIB, b"b")
    assert ours and theirs
    pool.release(ours.id)
    pool.release(theirs.id)

    assert pool.allocate(3 * MIB, b"b") == theirs
    assert pool.allocate(3 * MIB, b"a") == ours


def test_a_warm_file_grows_instead_of_being_thrown_away(pool: SegmentPool) -> None:
    small = pool.allocate(8 * MIB)
    assert small is not None
    pool.release(small.id, populated=8 * MIB)

    large = pool.allocate(20 * MIB)

    assert large is not None
    assert (large.name, large.populated) == (small.name, 8 * MIB)
    assert large.size >= 20 * MIB
    assert pool.total_bytes == large.size


def test_free_files_are_given_up_before_anybody_is_refused(pool: SegmentPool) -> None:
    sizes = [3 * MIB, 5 * MIB, 7 * MIB, 9 * MIB]
    for segment in [pool.allocate(size) for size in sizes]:
        assert segment is not None
        pool.release(segment.id)

    assert pool.allocate(38 * MIB) is not None


def test_the_last_bytes_of_the_quota_are_usable(tmp_path: Path) -> None:
    pool = SegmentPool(tmp_path, 10 * MIB)
    assert pool.allocate(10 * MIB - 5000) is not None
    assert pool.allocate(MIB) is None


def test_a_destroyed_file_gives_its_memory_back_though_somebody_maps_it(pool: SegmentPool, tmp_path: Path) -> None:
    segment = pool.allocate(4 * MIB)
    assert segment is not None
    with open(tmp_path / segment.name, "r+b") as mapped:
        mapped.write(b"x" * 4 * MIB)
        mapped.flush()
        pool.release(segment.id, populated=4 * MIB)
        pool.trim(LIMIT)
        assert os.fstat(mapped.fileno()).st_blocks == 0


def test_a_retired_file_keeps_its_bytes_for_whoever_looks(pool: SegmentPool, tmp_path: Path) -> None:
    segment = pool.allocate(4 * MIB)
    assert segment is not None
    with open(tmp_path / segment.name, "r+b") as mapped:
        mapped.write(b"y" * 4 * MIB)
        mapped.flush()
        pool.retire(segment.id)
        pool.trim(LIMIT)
        mapped.seek(0)
        assert mapped.read(1) == b"y"
    assert pool.retired_bytes == pool.total_bytes == segment.size
    pool.forget(segment.id)
    assert pool.retired_bytes == pool.total_bytes == 0


def test_releasing_twice_is_a_bug_of_ours(pool: SegmentPool) -> None:
    segment = pool.allocate(MIB)
    assert segment is not None
    pool.release(segment.id)
    with pytest.raises(ValueError, match="twice"):
        pool.release(segment.id)


def test_files_are_private(pool: SegmentPool, tmp_path: Path) -> None:
    assert pool.allocate(4 * MIB) and pool.allocate(1000)
    assert {entry.stat().st_mode & 0o777 for entry in os.scandir(tmp_path)} == {0o600}


def test_reserve_stays_within_its_budget(tmp_path: Path) -> None:
    pool = SegmentPool(tmp_path, 1024 * MIB)
    made = pool.reserve(256 * MIB)
    assert sum(segment.size for segment in made) == pool.total_bytes <= 256 * MIB
    assert pool.total_bytes > 200 * MIB
    assert pool.used_bytes == 0
