"""The store of one node, as its agent runs it: who leases which segment, which object lies where, who reads it.

Everything happens on the agent's one thread, in calls that never block: what must wait for room or for the disk is
answered later through the callback it brought. Copies between disk and memory run on the `Disk`.

An object is sealed once and immutable. It is *primary* (the cluster counts on it) or a *secondary* copy (fetched from
another node). Room is made in this order: free segments, then secondaries and objects whose spill file exists, least
recently used first, then primaries are spilled. What a process pins is never moved.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from shoal.foundation.clock import Clock
from shoal.runtime.store.errors import NoRoom, ObjectAbsent, ObjectStoreFullError, store_full
from shoal.runtime.store.objects import Idle, Pinned, Row, State, StoredObject, Usage
from shoal.runtime.store.pool import SegmentPool
from shoal.runtime.store.segments import Located, Segment
from shoal.runtime.store.spill import Disk
from shoal.runtime.store.spilling import WARM_BYTES, Spilling

SPILL_FROM = 0.8
"""Above this fraction of the limit, primaries that nobody reads are spilled ahead of need."""
WAIT_S = 30.0
RECLAIM_EVERY_S = 0.5
HOLDERS_NAMED_MAX = 3
"""How many of those that fill a store its error names, the largest."""
RESTORER = b"restore"
"""The name under which the store leases segments for itself."""


class _Waiter(msgspec.Struct, eq=False):
    process: bytes
    size: int
    since_s: float
    wait_s: float
    until_s: float
    answer: Callable[[Segment | NoRoom], None]


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
        copied: Callable[[bytes, bytes, int, bool], None] = lambda object_id, owner, size, is_there: None,
        name_of: Callable[[bytes], str] = lambda process: process.hex()[:8],
        wait_s: float = WAIT_S,
    ) -> None:
        """Keep at most `limit_bytes` in `directory`; without `disk` and `spill_directory` nothing is spilled.

        `reclaim` is called when room is short: ask every process for its spare segments. `spilled` hears of every
        object that went to disk (id and bytes), `copied` of every copy (id, owner, bytes) that came or gave way: a
        primary one elsewhere is still there. `name_of` says who a process is, for errors.
        `wait_s`: how long somebody waits for room.
        """
        self.pool = SegmentPool(directory, limit_bytes)
        self._clock, self._reclaim, self._spilled, self._name_of = clock, reclaim, spilled, name_of
        self._copied, self._wait_s = copied, wait_s
        self._spilling = Spilling(self.pool, clock, disk, spill_directory)
        self._leases: dict[int, bytes] = {}
        self._objects: dict[bytes, StoredObject] = {}
        self._idle = Idle()
        self._waiters: collections.deque[_Waiter] = collections.deque()
        self._retired: dict[bytes, list[int]] = {}  # by the process whose child may look at them
        self._reclaimed_s = -RECLAIM_EVERY_S
        self._is_pumping = False
        self.primaries = 0
        """Primary copies here, in memory or spilled: while there is one, the node is not idle."""

    def warm(self, budget_bytes: int = WARM_BYTES) -> None:
        """Put memory behind free segments of common sizes, in the background, for the first puts of a new node."""
        self._spilling.warm(min(budget_bytes, self.pool.limit_bytes // 2))

    # ------------------------------------------------------------------------------------------------ segments

    def lease(
        self,
        process: bytes,
        size: int,
        answer: Callable[[Segment | NoRoom], None],
        *,
        wait_s: float | None = None,
    ) -> None:
        """Give `process` a segment of at least `size` bytes, now or when there is room.

        An error once no memory has come free for `wait_s`: while objects go to disk, there is hope.
        """
        if size > self.pool.limit_bytes:
            answer(self._full(size, 0.0, "it can never fit"))
            return
        now = self._clock.monotonic_s()
        wait_s = self._wait_s if wait_s is None else wait_s
        self._waiters.append(_Waiter(process, size, now, wait_s, now + wait_s, answer))
        self._pump()
        self._spill_ahead()

    def lease_now(self, process: bytes, size: int) -> Segment | None:
        """Give `process` a segment if that needs no waiting, spilling or eviction: for filling its stock."""
        if self._waiters or self.pool.used_bytes + size > SPILL_FROM * self.pool.limit_bytes:
            return None
        segment = self.pool.allocate(size, process)
        if segment is not None:
            self._leases[segment.id] = process
        return segment

    def shed(self) -> None:
        """Give up the memory of everything free: the file system is full, whatever our limit says."""
        while (dropped := self._idle.to_drop()) is not None:
            self._drop(dropped)
        self.pool.trim(self.pool.limit_bytes + 1)

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
            waiter.answer(self._full(waiter.size, now - waiter.since_s))
        self._pump()
        self._spill_ahead()

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
        is_pinned: bool = False,
    ) -> bool:
        """Make what `process` wrote into its segment the object `object_id`; `is_pinned`: it pins it once, too.

        A copy that nobody pins may give way at once. If the object is here already (a retried task made it twice), the
        segment is taken back. False: the process does not lease the segment, for it was declared dead meanwhile;
        nothing was done.

        Raises:
            ValueError: the size is not that of something in this segment.
        """
        if self._leases.get(segment_id) != process:
            return False
        segment = self.pool.segment(segment_id)
        if not 0 < size <= segment.size:
            raise ValueError(f"object of {size} bytes in segment {segment_id} of {segment.size}")
        known = self._objects.get(object_id)
        if known is not None:
            if known.is_freed:
                known.is_freed = False
                self.primaries += known.is_primary
            if is_primary:
                self.set_primary(object_id, True)
            if is_pinned and known.located is not None:
                self._pin(known, process)
            self.give_back(process, segment_id, populated=size)
            return True
        del self._leases[segment_id]
        self.pool.populated(segment_id, size)
        made = StoredObject(object_id, size, owner or process, is_primary, self._clock.wall_s(), segment_id, process)
        made.located = Located(segment.name, segment.offset, size)
        self._objects[object_id] = made
        self.primaries += is_primary
        if is_pinned:
            made.pins = {process: 1}
        else:
            self._idle.add(made)
        if not is_primary:
            self._copied(object_id, made.owner, size, True)
        self._pump()
        self._spill_ahead()
        return True

    def pin(self, process: bytes, object_id: bytes, answer: Callable[[Pinned], None]) -> None:
        """Tell `process` where to read an object, restored first if it is on disk; counts as one pin of it."""
        found = self._objects.get(object_id)
        if found is None or found.is_freed:
            answer(ObjectAbsent(f"object {object_id.hex()}: not on this node"))
        elif found.located is not None:
            self._pin(found, process)
            answer(found.located)
        else:
            found.waiters = [*found.waiters, (process, answer)]
            if not found.is_restoring:
                found.is_restoring = True
                self.lease(RESTORER, found.size, lambda segment: self._restore_into(found, segment))

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
                self._give_up(found)
                self._settle(found)
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
        self.primaries += is_primary - found.is_primary
        found.is_primary = is_primary
        if found in self._idle:
            self._idle.add(found)
        self._pump()
        return True

    # ------------------------------------------------------------------------------------------------ processes

    def ended(self, process: bytes) -> None:
        """Take back everything a dead process leased or pinned. What it sealed stays: its owner decides."""
        for segment_id in [segment_id for segment_id, lessee in self._leases.items() if lessee == process]:
            del self._leases[segment_id]
            self.pool.release(segment_id)
        for waiter in [waiter for waiter in self._waiters if waiter.process == process]:
            self._waiters.remove(waiter)
        for found in list(self._objects.values()):
            if found.waiters:
                found.waiters = [waiter for waiter in found.waiters if waiter[0] != process]
            if process in found.pins:
                self._unpin(found, process, found.pins[process])
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
        return [found.row() for found in self._objects.values() if not found.is_freed]

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
            primaries=self.primaries,
            waiting=len(self._waiters),
        )

    # ------------------------------------------------------------------------------------------------ room

    def _pump(self) -> None:
        """Serve those who wait, in order; then make room for the first that must go on waiting."""
        if self._is_pumping:
            return  # an answer came back into the store: the round in progress sees to the rest
        self._is_pumping = True
        try:
            while self._waiters:
                waiter = self._waiters[0]
                segment = self._room_for(waiter.process, waiter.size)
                if segment is None:
                    self._spill(waiter.size - self._spilling.bytes)
                    self._ask_back()
                    return
                self._waiters.popleft()
                self._leases[segment.id] = waiter.process
                waiter.answer(segment)
        finally:
            self._is_pumping = False

    def _room_for(self, process: bytes, size: int) -> Segment | None:
        """Return a segment, dropping what may be dropped at no cost."""
        while (segment := self.pool.allocate(size, process)) is None:
            dropped = self._idle.to_drop()
            if dropped is None:
                return None
            self._drop(dropped)
        return segment

    def _go_on_waiting(self) -> None:
        """Memory comes free: whoever waits for some may hope for as long again."""
        now = self._clock.monotonic_s()
        for waiter in self._waiters:
            waiter.until_s = now + waiter.wait_s

    def _ask_back(self) -> None:
        now = self._clock.monotonic_s()
        if not self._spilling.count and now - self._reclaimed_s >= RECLAIM_EVERY_S:
            self._reclaimed_s = now
            self._reclaim()

    def _spill_ahead(self) -> None:
        """Keep some room free: drop what costs nothing, then write what does."""
        enough = int(SPILL_FROM * self.pool.limit_bytes) + self._spilling.bytes
        while self.pool.used_bytes > enough and (dropped := self._idle.to_drop()) is not None:
            self._drop(dropped)
        self._spill(self.pool.used_bytes - enough)

    def _spill(self, wanted_bytes: int) -> None:
        """Start writing least recently used primaries until `wanted_bytes` more are on their way."""
        while wanted_bytes > 0 and self._spilling.has_room and (found := self._idle.to_spill()) is not None:
            wanted_bytes -= found.size
            self._spill_one(found)

    def _spill_one(self, found: StoredObject) -> None:
        self._idle.discard(found)
        found.is_spilling = True

        def done(is_written: bool) -> None:
            found.is_spilling = False
            if is_written:
                self._spilled(found.id, found.size)
                self._go_on_waiting()
            self._settle(found)
            if is_written and found in self._idle:
                self._drop(found)
            self._pump()
            self._spill_ahead()

        self._spilling.spill(found, done)

    def _restore_into(self, found: StoredObject, segment: Segment | NoRoom) -> None:
        if isinstance(segment, NoRoom):
            self._restored(found, segment, None)
        elif found.is_freed:
            self._restored(found, ObjectAbsent(f"object {found.id.hex()}: freed"), segment)
        else:
            self._spilling.restore(found, segment, lambda result: self._restored(found, result, segment))

    def _restored(self, found: StoredObject, result: object, segment: Segment | None) -> None:
        if isinstance(result, ObjectStoreFullError) and segment is not None and not found.has_shed:
            # The file system is full whatever our limit says: what is only kept for later makes room, once.
            found.has_shed = True
            self.shed()
            self._restore_into(found, segment)
            return
        found.is_restoring = found.has_shed = False
        waiters, found.waiters = found.waiters, []
        if segment is None or isinstance(result, BaseException):
            error = result if isinstance(result, ObjectAbsent | NoRoom) else ObjectAbsent(f"cannot restore: {result}")
            if isinstance(error, ObjectAbsent):
                # The only copy here is unusable: say so from now on, instead of trying for ever.
                self._give_up(found)
            for _, answer in waiters:
                answer(error)
            self._settle(found)
            if segment is not None:
                self.give_back(RESTORER, segment.id)
            return
        del self._leases[segment.id]
        self.pool.populated(segment.id, found.size)
        found.segment_id = segment.id
        found.located = Located(segment.name, segment.offset, found.size)
        for process, _ in waiters:  # all of them first: who is answered may let go of it at once
            self._pin(found, process)
        located = found.located
        for _, answer in waiters:
            answer(located)
        self._settle(found)
        self._pump()

    # ------------------------------------------------------------------------------------------------ leaves

    def _pin(self, found: StoredObject, process: bytes) -> None:
        self._idle.discard(found)
        found.pins[process] = found.pins.get(process, 0) + 1

    def _unpin(self, found: StoredObject, process: bytes, count: int) -> None:
        found.pins[process] -= count
        if found.pins[process] <= 0:
            del found.pins[process]
            self._settle(found)

    def _give_up(self, found: StoredObject) -> None:
        if not found.is_freed:
            found.is_freed = True
            self.primaries -= found.is_primary

    def _settle(self, found: StoredObject) -> None:
        """Put an object where it belongs after any change of pins, work in progress, or being wanted."""
        if found.pins or found.is_spilling or found.is_restoring:
            return
        if found.is_freed:
            self._remove(found)
        elif found.located is not None:
            self._idle.add(found)

    def _drop(self, found: StoredObject) -> None:
        """Take an idle object's memory: it is on disk, or another node has it."""
        self._take_segment(found)
        if found.spill_path is None:
            del self._objects[found.id]
            self._copied(found.id, found.owner, found.size, False)

    def _remove(self, found: StoredObject) -> None:
        if found.located is not None:
            self._take_segment(found)
        if found.spill_path is not None:
            self._spilling.remove(found.spill_path)
        self._objects.pop(found.id, None)

    def _take_segment(self, found: StoredObject) -> None:
        self._idle.discard(found)
        found.located = None
        if not found.forked_by:
            self.pool.release(found.segment_id, populated=found.size)
            return
        self.pool.retire(found.segment_id)
        if found.forked_by in self._retired:
            self._retired[found.forked_by].append(found.segment_id)
        else:
            self.pool.forget(found.segment_id)
        found.forked_by = b""

    def _pinned_bytes(self) -> int:
        return sum(found.size for found in self._objects.values() if found.pins)

    def _full(self, size: int, waited_s: float, why: str = "") -> NoRoom:
        if self._spilling.trouble is not None and not why:
            return self._spilling.trouble
        return store_full(
            wanted_bytes=size,
            limit_bytes=self.pool.limit_bytes,
            used_bytes=self.pool.used_bytes,
            pinned_bytes=self._pinned_bytes(),
            waited_s=waited_s,
            why=why,
            holders=self._holders(),
        )

    def _holders(self) -> list[tuple[str, int]]:
        """Return who pins objects or has segments to fill, and how many bytes, the largest first."""
        held: collections.Counter[bytes] = collections.Counter()
        for segment_id, process in self._leases.items():
            held[process] += self.pool.segment(segment_id).size
        for found in self._objects.values():
            for process in found.pins:
                held[process] += found.size
        return [(self._name_of(process), size) for process, size in held.most_common(HOLDERS_NAMED_MAX)]


__all__ = ["NodeStore", "Pinned", "Row", "State", "Usage"]
