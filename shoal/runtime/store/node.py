"""The store of one node, as its agent runs it: who leases which segment, which object lies where, who reads it.

Everything happens on the agent's one thread, in calls that never block: what must wait for room or for the disk is
answered later through the callback it brought. Copies between disk and memory run on the `Disk`.

An object is sealed once and immutable. It is *primary* (the cluster counts on it) or a *secondary* copy (fetched from
another node). Room is made in this order: free segments, then secondaries and objects whose spill file exists, least
recently used first, then primaries are spilled. What a process pins is never moved.
"""

from __future__ import annotations

import collections
import itertools
import os
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path

import msgspec

from shoal.foundation.clock import Clock
from shoal.runtime.store import spill
from shoal.runtime.store.errors import ObjectLostError, ObjectStoreFullError, store_full
from shoal.runtime.store.pool import SegmentPool
from shoal.runtime.store.segments import Located, Segment
from shoal.runtime.store.spill import Disk

SPILL_FROM = 0.8
"""Above this fraction of the limit, primaries that nobody reads are spilled ahead of need."""
WAIT_S = 30.0
SPILL_PAUSE_S = 10.0
"""How long spilling rests after the disk was full."""
SPILLING_MAX = 4
"""Objects that are being spilled at once; further ones wait their turn."""
RECLAIM_EVERY_S = 0.5
WARM_BYTES = 256 * 2**20
"""How much memory is taken ahead of need when a node starts; it counts in the limit."""
_WARM_STEP_BYTES = 4 * 2**20  # a writer of the same file waits no longer than this takes


Pinned = Located | ObjectLostError | ObjectStoreFullError
"""What a reader is answered."""


class State(StrEnum):
    """Where an object is."""

    MEMORY = "in_memory"
    SPILLING = "spilling"
    SPILLED = "spilled"
    RESTORING = "restoring"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One object, for `shoal memory` and `shoal list objects`."""

    object_id: bytes
    size: int
    state: State
    is_primary: bool
    owner: bytes
    pins: dict[bytes, int]
    """How often each process pins it."""
    created_s: float


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """The store in numbers, bytes each."""

    limit: int
    total: int
    """All files, free ones included; what `/dev/shm` may hold of ours."""
    used: int
    """Segments that are out: leased or sealed."""
    leased: int
    sealed: int
    pinned: int
    spilled: int
    objects: int
    primaries: int
    """Primary copies here, in memory or spilled: while there is one, the node is not idle."""
    waiting: int


class _Object(msgspec.Struct, eq=False):
    id: bytes
    size: int
    owner: bytes
    is_primary: bool
    created_s: float
    segment_id: int = 0  # 0: not in memory
    located: Located | None = None
    spill_path: Path | None = None  # a whole copy is on disk
    pins: dict[bytes, int] = {}
    is_spilling: bool = False
    is_restoring: bool = False
    is_freed: bool = False
    forked_by: bytes = b""  # a process that forked while it pinned this
    waiters: list[tuple[bytes, Callable[[Pinned], None]]] = []


class _Waiter(msgspec.Struct, eq=False):
    process: bytes
    size: int
    since_s: float
    until_s: float
    answer: Callable[[Segment | ObjectStoreFullError], None]


RESTORER = b"restore"
"""The name under which the store leases segments for itself."""


class NodeStore:
    """The objects and segments of one node."""

    def __init__(
        self,
        directory: Path,
        limit_bytes: int,
        clock: Clock,
        *,
        disk: Disk | None = None,
        spill_directory: Path | None = None,
        reclaim: Callable[[], None] = lambda: None,
        spilled: Callable[[bytes, int], None] = lambda object_id, size: None,
    ) -> None:
        """Keep at most `limit_bytes` in `directory`; without `disk` and `spill_directory` nothing is spilled.

        `reclaim` is called when room is short: ask every process for its spare segments. `spilled` hears of every
        object that went to disk (id and bytes).
        """
        self.pool = SegmentPool(directory, limit_bytes)
        self._clock, self._disk, self._spill_directory = clock, disk, spill_directory
        self._reclaim, self._spilled = reclaim, spilled
        self._leases: dict[int, bytes] = {}
        self._objects: dict[bytes, _Object] = {}
        # Unpinned objects in memory, least recently used first: what costs nothing to drop, and what must be written
        # first.
        self._droppable: collections.OrderedDict[bytes, _Object] = collections.OrderedDict()
        self._spillable: collections.OrderedDict[bytes, _Object] = collections.OrderedDict()
        self._waiters: collections.deque[_Waiter] = collections.deque()
        self._retired: dict[bytes, list[int]] = {}  # by the process whose child may look at them
        self._spilling_bytes = self._spilling = 0
        self._spill_after_s = 0.0
        self._spill_trouble = ""
        self._reclaimed_s = -RECLAIM_EVERY_S
        self._files = itertools.count(1)

    def warm(self, budget_bytes: int = WARM_BYTES) -> None:
        """Put memory behind free segments of common sizes, in the background, for the first puts of a new node."""
        if self._disk is None or not hasattr(os, "posix_fallocate"):
            return
        for segment in self.pool.reserve(min(budget_bytes, self.pool.limit_bytes // 2)):
            self._warm(self._disk, segment)

    def _warm(self, disk: Disk, segment: Segment) -> None:
        path = self.pool.path(segment)

        def work() -> None:
            _populate(path, segment.offset, segment.size)

        def done(result: object) -> None:
            if not isinstance(result, BaseException):  # no memory, or the file is gone: then the first put pays
                self.pool.populated(segment.id, segment.size)

        disk.submit(work, done)

    # ------------------------------------------------------------------------------------------------ segments

    def lease(
        self,
        process: bytes,
        size: int,
        answer: Callable[[Segment | ObjectStoreFullError], None],
        *,
        wait_s: float = WAIT_S,
    ) -> None:
        """Give `process` a segment of at least `size` bytes, now or when there is room; an error after `wait_s`."""
        if size > self.pool.limit_bytes:
            answer(self._full(size, 0.0, "it can never fit"))
            return
        if not self._waiters:
            segment = self._room_for(process, size)
            if segment is not None:
                self._leases[segment.id] = process
                answer(segment)
                self._spill_ahead()
                return
        now = self._clock.monotonic_s()
        self._waiters.append(_Waiter(process, size, now, now + wait_s, answer))
        self._pump()

    def lease_now(self, process: bytes, size: int) -> Segment | None:
        """Give `process` a segment if that needs no waiting, spilling or eviction: for filling its stock."""
        if self._waiters or self.pool.used_bytes + size > SPILL_FROM * self.pool.limit_bytes:
            return None
        segment = self.pool.allocate(size, process)
        if segment is not None:
            self._leases[segment.id] = process
        return segment

    def give_back(self, process: bytes, segment_id: int, *, populated: int = 0) -> None:
        """Take back a leased segment that holds no object; quiet if `process` does not lease it."""
        if self._leases.get(segment_id) == process:
            del self._leases[segment_id]
            self.pool.release(segment_id, populated=populated)
            self._pump()

    def tick(self) -> None:
        """Answer those who waited too long; try again for the others. Call it a few times a second."""
        now = self._clock.monotonic_s()
        late = [waiter for waiter in self._waiters if now >= waiter.until_s]
        for waiter in late:
            self._waiters.remove(waiter)
            waiter.answer(self._full(waiter.size, now - waiter.since_s, self._spill_trouble))
        self._pump()

    # ------------------------------------------------------------------------------------------------ objects

    def seal(
        self,
        process: bytes,
        object_id: bytes,
        segment_id: int,
        size: int,
        *,
        owner: bytes = b"",
        is_primary: bool = True,
    ) -> bool:
        """Make what `process` wrote into its segment the object `object_id`.

        If the object is here already (a retried task made it twice), the segment is taken back. False: the process does
        not lease the segment, for it was declared dead meanwhile; nothing was done.
        """
        if self._leases.get(segment_id) != process:
            return False
        segment = self.pool.segment(segment_id)
        if not 0 < size <= segment.size:
            raise ValueError(f"object of {size} bytes in segment {segment_id} of {segment.size}")
        known = self._objects.get(object_id)
        if known is not None:
            known.is_freed = False
            self.give_back(process, segment_id, populated=size)
            return True
        del self._leases[segment_id]
        self.pool.populated(segment_id, size)
        made = _Object(
            object_id,
            size,
            owner or process,
            is_primary,
            self._clock.monotonic_s(),
            segment_id,
            Located(segment.name, segment.offset, size),
        )
        self._objects[object_id] = made
        self._unpinned(made)
        self._spill_ahead()
        return True

    def pin(
        self,
        process: bytes,
        object_id: bytes,
        answer: Callable[[Pinned], None],
    ) -> None:
        """Tell `process` where to read an object, restored first if it is on disk; counts as one pin of it."""
        found = self._objects.get(object_id)
        if found is None or found.is_freed:
            answer(ObjectLostError(f"object {object_id.hex()}: not on this node"))
        elif found.located is not None:
            self._pinned(found, process)
            answer(found.located)
        else:
            found.waiters = [*found.waiters, (process, answer)]
            self._restore(found)

    def unpin(self, process: bytes, object_ids: Iterable[bytes]) -> None:
        """Take back one pin of `process` from each object; quiet about what it does not pin."""
        for object_id in object_ids:
            found = self._objects.get(object_id)
            if found is not None and process in found.pins:
                self._unpin(found, process, 1)
        self._pump()

    def free(self, object_ids: Iterable[bytes]) -> None:
        """Drop objects that nobody refers to any more; their memory goes when the last reader lets go."""
        for object_id in object_ids:
            found = self._objects.get(object_id)
            if found is not None and not found.is_freed:
                found.is_freed = True
                self._settled(found)
        self._pump()

    def has(self, object_id: bytes) -> bool:
        """Say whether the node holds the object, in memory or on disk."""
        found = self._objects.get(object_id)
        return found is not None and not found.is_freed

    def size_of(self, object_id: bytes) -> int | None:
        """Return an object's size in bytes, None if it is not here."""
        return self._objects[object_id].size if self.has(object_id) else None

    def set_primary(self, object_id: bytes, is_primary: bool) -> bool:
        """Make a copy the one that counts (a moved primary), or stop doing so; False if it is not here."""
        found = self._objects.get(object_id)
        if found is None or found.is_freed:
            return False
        found.is_primary = is_primary
        if object_id in self._droppable or object_id in self._spillable:
            self._droppable.pop(object_id, None)
            self._spillable.pop(object_id, None)
            self._unpinned(found)
        return True

    # ------------------------------------------------------------------------------------------------ processes

    def ended(self, process: bytes) -> None:
        """Take back everything a dead process leased or pinned. What it sealed stays: its owner decides."""
        for segment_id in [segment_id for segment_id, lessee in self._leases.items() if lessee == process]:
            del self._leases[segment_id]
            self.pool.release(segment_id)
        for waiter in [waiter for waiter in self._waiters if waiter.process == process]:
            self._waiters.remove(waiter)
        for found in [found for found in self._objects.values() if process in found.pins]:
            self._unpin(found, process, found.pins[process])
        for found in self._objects.values():
            if found.waiters:
                found.waiters = [waiter for waiter in found.waiters if waiter[0] != process]
        for segment_id in self._retired.pop(process, ()):
            self.pool.forget(segment_id)
        self._pump()

    def forked(self, process: bytes) -> None:
        """User code of `process` forked: the child may look for ever at what is pinned now; never recycle that.

        Call it for every fork of user code, and `ended` when the process has. The bytes stay counted until then.
        """
        self._retired.setdefault(process, [])
        for found in self._objects.values():
            if process in found.pins and not found.forked_by:
                found.forked_by = process

    # ------------------------------------------------------------------------------------------------ accounts

    def rows(self) -> list[Row]:
        """Return every object, oldest first."""
        return [
            Row(
                object_id=found.id,
                size=found.size,
                state=_state(found),
                is_primary=found.is_primary,
                owner=found.owner,
                pins=dict(found.pins),
                created_s=found.created_s,
            )
            for found in self._objects.values()
            if not found.is_freed
        ]

    def usage(self) -> Usage:
        """Return the store in numbers. Cost: linear in the number of objects."""
        held = [found for found in self._objects.values() if not found.is_freed]
        return Usage(
            limit=self.pool.limit_bytes,
            total=self.pool.total_bytes,
            used=self.pool.used_bytes,
            leased=sum(self.pool.segment(segment_id).size for segment_id in self._leases),
            sealed=sum(found.size for found in self._objects.values() if found.located is not None),
            pinned=self._pinned_bytes(),
            spilled=sum(found.size for found in held if found.spill_path is not None),
            objects=len(held),
            primaries=sum(found.is_primary for found in held),
            waiting=len(self._waiters),
        )

    # ------------------------------------------------------------------------------------------------ room

    def _room_for(self, process: bytes, size: int) -> Segment | None:
        """Return a segment, dropping what may be dropped at no cost."""
        while (segment := self.pool.allocate(size, process)) is None:
            if not self._droppable:
                return None
            self._drop(next(iter(self._droppable.values())))
        return segment

    def _pump(self) -> None:
        """Serve those who wait, in order; then make room for the first that must go on waiting."""
        while self._waiters:
            waiter = self._waiters[0]
            segment = self._room_for(waiter.process, waiter.size)
            if segment is None:
                self._spill_for(waiter.size)
                now = self._clock.monotonic_s()
                if not self._spilling and now - self._reclaimed_s >= RECLAIM_EVERY_S:
                    self._reclaimed_s = now
                    self._reclaim()
                return
            self._waiters.popleft()
            self._leases[segment.id] = waiter.process
            waiter.answer(segment)

    def _spill_ahead(self) -> None:
        over = self.pool.used_bytes - self._spilling_bytes - SPILL_FROM * self.pool.limit_bytes
        if over > 0:
            self._spill_for(int(over), is_early=True)

    def _spill_for(self, wanted_bytes: int, *, is_early: bool = False) -> None:
        """Start writing least recently used primaries until `wanted_bytes` are on their way."""
        if self._disk is None or self._spill_directory is None or self._clock.monotonic_s() < self._spill_after_s:
            return
        coming = 0 if is_early else self._spilling_bytes
        while coming < wanted_bytes and self._spillable and self._spilling < SPILLING_MAX:
            found = next(iter(self._spillable.values()))
            coming += found.size
            self._spill(found)

    def _spill(self, found: _Object) -> None:
        assert self._disk is not None and self._spill_directory is not None and found.located is not None
        del self._spillable[found.id]
        found.is_spilling = True
        self._spilling += 1
        self._spilling_bytes += found.size
        target = self._spill_directory / f"o{next(self._files)}"
        located = found.located
        source = self.pool.directory / located.name

        def work() -> None:
            spill.write(source, located.offset, located.size, target, found.id)

        def done(result: object) -> None:
            self._spilling -= 1
            self._spilling_bytes -= found.size
            found.is_spilling = False
            if isinstance(result, BaseException):
                # Not for long, and not for ever: somebody may make room on that disk.
                self._spill_after_s = self._clock.monotonic_s() + SPILL_PAUSE_S
                self._spill_trouble = str(result).partition("\n")[0]
            else:
                self._spill_trouble = ""
                found.spill_path = target
                self._spilled(found.id, found.size)
            self._settled(found)
            if found.spill_path is not None and not found.pins and found.id in self._droppable:
                self._drop(found)
            self._pump()
            self._spill_ahead()

        self._disk.submit(work, done)

    def _restore(self, found: _Object) -> None:
        if found.is_restoring:
            return
        found.is_restoring = True
        self.lease(RESTORER, found.size, lambda answer: self._restore_into(found, answer))

    def _restore_into(self, found: _Object, segment: Segment | ObjectStoreFullError) -> None:
        if isinstance(segment, ObjectStoreFullError):
            self._restored(found, segment)
            return
        if found.is_freed or self._disk is None or found.spill_path is None:
            self._restored(found, ObjectLostError(f"object {found.id.hex()}: freed"), segment)
            return
        source, target = found.spill_path, self.pool.path(segment)

        def work() -> None:
            spill.restore(source, target, segment.offset, found.size, found.id)

        self._disk.submit(work, lambda result: self._restored(found, result, segment))

    def _restored(self, found: _Object, result: object, segment: Segment | None = None) -> None:
        found.is_restoring = False
        waiters, found.waiters = found.waiters, []
        if segment is not None and isinstance(result, BaseException):
            self.give_back(RESTORER, segment.id)
        if isinstance(result, BaseException):
            if isinstance(result, ObjectLostError):
                # The only copy here is unusable: say so from now on, instead of trying for ever.
                found.is_freed = True
            known = isinstance(result, (ObjectLostError, ObjectStoreFullError))
            error = result if known else ObjectLostError(f"object {found.id.hex()}: cannot be restored: {result}")
            for _, answer in waiters:
                answer(error)  # type: ignore[arg-type]
            self._settled(found)
            return
        assert segment is not None
        del self._leases[segment.id]
        self.pool.populated(segment.id, found.size)
        found.segment_id = segment.id
        found.located = Located(segment.name, segment.offset, found.size)
        for process, answer in waiters:
            self._pinned(found, process)
            answer(found.located)
        self._settled(found)
        self._pump()

    # ------------------------------------------------------------------------------------------------ leaves

    def _pinned(self, found: _Object, process: bytes) -> None:
        self._droppable.pop(found.id, None)
        self._spillable.pop(found.id, None)
        if not found.pins:
            found.pins = {process: 1}
        else:
            found.pins[process] = found.pins.get(process, 0) + 1

    def _unpin(self, found: _Object, process: bytes, count: int) -> None:
        left = found.pins[process] - count
        if left > 0:
            found.pins[process] = left
            return
        del found.pins[process]
        self._settled(found)

    def _settled(self, found: _Object) -> None:
        """Put an object where it belongs after any change of pins, work in progress, or being wanted."""
        if found.pins or found.is_spilling or found.is_restoring:
            return
        if found.is_freed:
            self._gone(found)
        elif found.located is not None:
            self._unpinned(found)

    def _unpinned(self, found: _Object) -> None:
        cheap = not found.is_primary or found.spill_path is not None
        (self._droppable if cheap else self._spillable)[found.id] = found

    def _drop(self, found: _Object) -> None:
        """Take an unpinned object's memory: it is on disk, or another node has it."""
        self._take_segment(found)
        if found.spill_path is None:
            self._objects.pop(found.id, None)

    def _gone(self, found: _Object) -> None:
        if found.located is not None:
            self._take_segment(found)
        if found.spill_path is not None and self._disk is not None:
            path, found.spill_path = found.spill_path, None
            self._disk.submit(lambda: path.unlink(missing_ok=True), lambda result: None)
        self._objects.pop(found.id, None)

    def _take_segment(self, found: _Object) -> None:
        self._droppable.pop(found.id, None)
        self._spillable.pop(found.id, None)
        if found.forked_by:
            self.pool.retire(found.segment_id)
            if found.forked_by in self._retired:
                self._retired[found.forked_by].append(found.segment_id)
            else:
                self.pool.forget(found.segment_id)
            found.forked_by = b""
        else:
            self.pool.release(found.segment_id, populated=found.size)
        found.segment_id, found.located = 0, None

    def _pinned_bytes(self) -> int:
        return sum(found.size for found in self._objects.values() if found.pins)

    def _full(self, size: int, waited_s: float, why: str) -> ObjectStoreFullError:
        return store_full(
            wanted_bytes=size,
            limit_bytes=self.pool.limit_bytes,
            used_bytes=self.pool.used_bytes,
            pinned_bytes=self._pinned_bytes(),
            waited_s=waited_s,
            why=why,
        )


def _state(found: _Object) -> State:
    if found.is_restoring:
        return State.RESTORING
    if found.is_spilling:
        return State.SPILLING
    return State.MEMORY if found.located is not None else State.SPILLED


def _populate(path: Path, offset: int, size: int) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        for start in range(offset, offset + size, _WARM_STEP_BYTES):
            os.posix_fallocate(descriptor, start, min(_WARM_STEP_BYTES, offset + size - start))
    finally:
        os.close(descriptor)


__all__ = ["NodeStore", "Row", "State", "Usage"]
