"""Writing values into segments: for drivers, workers, and the agent's own transfers.

A writer keeps a small stock of leased segments, so that a put usually asks nobody. How bytes get there is the business
of `copies`; no page without memory is touched through a mapping, for a full file system would kill us.
"""

from __future__ import annotations

import collections
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from shoal.runtime.store import copies
from shoal.runtime.store.errors import ObjectStoreFullError, no_memory
from shoal.runtime.store.memory import Mapping
from shoal.runtime.store.segments import Segment
from shoal.runtime.store.values import Dumped

STOCK_BYTES_MAX = 64 * 2**20
STOCK_SEGMENTS_MAX = 32
"""How much a writer keeps for itself when segments are offered to it."""
_MAPPINGS_MAX = 256
_SMALL_COPY = 32 * 1024  # below, a slice assignment is cheaper than a call without the interpreter's lock


class Sealed(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A written value: which segment, how many bytes of it."""

    segment_id: int
    name: str
    offset: int
    size: int


class Writer:
    """Puts values into shared memory. Safe to use from several threads."""

    def __init__(
        self, directory: Path, lease: Callable[[int], Segment], shed: Callable[[], None] | None = None
    ) -> None:
        """Write below `directory`; `lease(size)` asks the agent for a segment and may wait.

        `lease` raises ObjectStoreFullError when there is none to be had. `shed` has the memory of free segments given
        up, ours included, when the file system is full before our limit is reached.
        """
        self._directory = directory
        self._lease, self._shed = lease, shed
        self._lock = threading.Lock()
        self._stock: list[Segment] = []
        self._mappings: collections.OrderedDict[str, Mapping] = collections.OrderedDict()
        self._busy: collections.Counter[str] = collections.Counter()

    def put(self, dumped: Dumped) -> Sealed:
        """Write one value and return where it lies; the caller reports it to the agent.

        Raises:
            ObjectStoreFullError: no segment to be had, or the file system under the segments is full (the segment then
                goes back to the stock).
        """
        plan = dumped.plan()
        pieces: list[tuple[int, bytes | memoryview]] = [(0, plan.head + dumped.pickle)]
        pieces.extend(zip(plan.offsets, dumped.buffers, strict=True))
        is_shed = self._shed is None
        while True:
            segment = self._take(plan.total) or self._lease(plan.total)
            try:
                self._write(segment, pieces)
                break
            except BaseException as error:
                with self._lock:
                    self._stock.append(segment)  # even above the stock's limit: it is ours until the agent asks for it
                if is_shed or not isinstance(error, ObjectStoreFullError):
                    raise
            # Free segments keep their memory for the next writer of their size, which others need more now.
            assert self._shed is not None
            self._shed()
            is_shed = True
        return Sealed(segment.id, segment.name, segment.offset, plan.total)

    def offer(self, segment: Segment, *, populated: int = 0) -> bool:
        """Add a leased segment to the stock; False if the stock is full: give it back to the agent then."""
        if populated > segment.populated:
            segment = Segment(segment.id, segment.name, segment.offset, segment.size, min(populated, segment.size))
        with self._lock:
            held = sum([other.size for other in self._stock])
            if self._stock and (len(self._stock) >= STOCK_SEGMENTS_MAX or held + segment.size > STOCK_BYTES_MAX):
                return False
            self._stock.append(segment)
        return True

    def reuse(self, sealed: Sealed, segment: Segment) -> bool:
        """Take back a segment whose value nobody else ever heard of; as `offer`."""
        return self.offer(segment, populated=sealed.size)

    def spare(self) -> list[Segment]:
        """Empty the stock, for giving it back to the agent."""
        with self._lock:
            stock, self._stock = self._stock, []
        return stock

    def close(self) -> list[Segment]:
        """Unmap everything and return the stock."""
        with self._lock:
            for name in [name for name in self._mappings if not self._busy[name]]:
                self._mappings.pop(name).close()
        return self.spare()

    # ------------------------------------------------------------------------------------------------ inside

    def _take(self, size: int) -> Segment | None:
        """Return the smallest segment of the stock that fits without waste."""
        with self._lock:
            best = None
            for segment in self._stock:
                if size <= segment.size <= max(4 * size, 2**20) and (best is None or segment.size < best.size):
                    best = segment
            if best is not None:
                self._stock.remove(best)
            return best

    def _write(self, segment: Segment, pieces: list[tuple[int, bytes | memoryview]]) -> None:
        end = pieces[-1][0] + memoryview(pieces[-1][1]).nbytes
        if end > segment.size:
            raise ValueError(f"segment {segment.id}: {end} bytes into {segment.size}")
        if end <= segment.populated:
            mapping = self._mapped(segment, None)
            try:
                _copy(mapping, segment, pieces, end)
            finally:
                self._done(segment.name)
            return
        descriptor = os.open(self._directory / segment.name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            is_mapped = segment.populated or end >= copies.PARALLEL_COPY_BYTES
            fresh_mapping = self._mapped(segment, descriptor) if is_mapped else None
            try:
                _copy_and_write(segment, pieces, fresh_mapping, descriptor)
            finally:
                if fresh_mapping is not None:
                    self._done(segment.name)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM):
                raise
            raise no_memory(end, self._directory) from error
        finally:
            os.close(descriptor)

    def _mapped(self, segment: Segment, descriptor: int | None) -> Mapping:
        """Return the mapping of the segment's file and mark it as in use."""
        name, needed = segment.name, segment.offset + segment.size
        with self._lock:
            mapping = self._mappings.get(name)
            if mapping is not None and mapping.size >= needed:
                self._mappings.move_to_end(name)
                self._busy[name] += 1
                return mapping
            opened = descriptor
            if opened is None:
                opened = os.open(self._directory / name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                made = Mapping(opened, os.fstat(opened).st_size, is_writable=True)
            finally:
                if descriptor is None:
                    os.close(opened)
            if mapping is not None and not self._busy[name]:
                mapping.close()
            self._mappings[name] = made
            self._mappings.move_to_end(name)
            self._busy[name] += 1
            if len(self._mappings) > _MAPPINGS_MAX:
                old = next(other for other in self._mappings if other != name)
                if not self._busy[old]:
                    self._mappings.pop(old).close()
            return made

    def _done(self, name: str) -> None:
        with self._lock:
            self._busy[name] -= 1
            if self._busy[name] <= 0:
                del self._busy[name]


def _copy(mapping: Mapping, segment: Segment, pieces: list[tuple[int, bytes | memoryview]], end: int) -> None:
    """Copy everything to pages that have memory."""
    view = mapping.view
    assert view is not None
    known = mapping.in_page_table.get(segment.offset, 0)
    for offset, data in pieces:
        start = segment.offset + offset
        source = data if isinstance(data, memoryview) else memoryview(data)
        if source.nbytes < _SMALL_COPY:
            view[start : start + source.nbytes] = source
        else:
            copies.copy_in(mapping, start, source, is_in_page_table=offset + source.nbytes <= known)
    if end > known:
        mapping.in_page_table[segment.offset] = end


def _copy_and_write(
    segment: Segment, pieces: list[tuple[int, bytes | memoryview]], mapping: Mapping | None, descriptor: int
) -> None:
    """Copy what falls on pages that have memory, write the rest."""
    for offset, data in pieces:
        source = data if isinstance(data, memoryview) else memoryview(data)
        old = max(0, min(source.nbytes, segment.populated - offset))
        if old and mapping is not None:
            known = mapping.in_page_table.get(segment.offset, 0)
            copies.copy_in(mapping, segment.offset + offset, source[:old], is_in_page_table=offset + old <= known)
        if old < source.nbytes:
            copies.write_fresh(descriptor, mapping, segment.offset + offset + old, source[old:])
