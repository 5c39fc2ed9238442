"""Which spill jobs are under way, and whether spilling makes sense at the moment. On the store's thread only."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

from shoal.foundation.clock import Clock
from shoal.runtime.store import spill
from shoal.runtime.store.errors import ObjectAbsent, OutOfDiskError
from shoal.runtime.store.objects import StoredObject
from shoal.runtime.store.pool import SegmentPool
from shoal.runtime.store.segments import Segment
from shoal.runtime.store.spill import Disk

SPILLING_MAX = 4
"""Objects that are being spilled at once; further ones wait their turn."""
PAUSE_S = 10.0
"""How long spilling rests after it failed: not for ever, somebody may make room on that disk."""
WARM_BYTES = 256 * 2**20
"""How much memory is taken ahead of need when a node starts; it counts in the limit."""
_WARM_STEP_BYTES = 4 * 2**20  # a writer of the same file waits no longer than this takes


class Spilling:
    """The store's work for its `Disk`: spill, restore, remove, and warm fresh segments."""

    def __init__(self, pool: SegmentPool, clock: Clock, disk: Disk | None, directory: Path | None) -> None:
        """Spill into `directory` on `disk`; with either absent nothing is ever spilled."""
        self._pool, self._clock, self._disk, self._directory = pool, clock, disk, directory
        self._names = itertools.count(1)
        self._resumes_s = 0.0
        self.count = 0
        self.bytes = 0
        """Bytes on their way to disk."""
        self.trouble: OutOfDiskError | None = None
        """Set while the disk has no room."""

    @property
    def has_room(self) -> bool:
        """Whether another object may be sent on its way now."""
        return (
            self._disk is not None
            and self._directory is not None
            and self.count < SPILLING_MAX
            and self._clock.monotonic_s() >= self._resumes_s
        )

    def spill(self, spilled: StoredObject, done: Callable[[bool], None]) -> None:
        """Write an object's bytes to disk and note where; `done(True)` if that worked."""
        assert self._disk is not None and self._directory is not None and spilled.located is not None
        located, target = spilled.located, self._directory / f"o{next(self._names)}"
        source = self._pool.directory / located.name
        self.count += 1
        self.bytes += spilled.size

        def finished(result: object) -> None:
            self.count -= 1
            self.bytes -= spilled.size
            is_written = not isinstance(result, BaseException)
            if is_written:
                spilled.spill_path = target
                self.trouble = None
            else:
                self._resumes_s = self._clock.monotonic_s() + PAUSE_S
                self.trouble = result if isinstance(result, OutOfDiskError) else None
            done(is_written)

        self._disk.submit(lambda: spill.write(source, located.offset, located.size, target, spilled.id), finished)

    def restore(self, restored: StoredObject, segment: Segment, done: Callable[[object], None]) -> None:
        """Bring an object's bytes back into `segment`; `done` gets None or the error."""
        if self._disk is None or restored.spill_path is None:
            done(ObjectAbsent(f"object {restored.id.hex()}: not on this node"))
            return
        source, target = restored.spill_path, self._pool.path(segment)
        self._disk.submit(
            lambda: spill.restore(source, target, segment.offset, restored.size, restored.id),
            done,
        )

    def remove(self, path: Path) -> None:
        """Remove a spill file, some time."""
        if self._disk is not None:
            self._disk.submit(lambda: path.unlink(missing_ok=True), lambda result: None)

    def warm(self, budget_bytes: int) -> None:
        """Put memory behind free segments of common sizes, one after the other."""
        if self._disk is None or not hasattr(os, "posix_fallocate"):
            return
        for segment in self._pool.reserve(budget_bytes):
            self._warm(self._disk, segment)

    def _warm(self, disk: Disk, segment: Segment) -> None:
        path = self._pool.path(segment)

        def finished(result: object) -> None:
            if not isinstance(result, BaseException):  # no memory, or the file is gone: then the first put pays
                self._pool.populated(segment.id, segment.size)

        disk.submit(lambda: _populate(path, segment.offset, segment.size), finished)


def _populate(path: Path, offset: int, size: int) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        for start in range(offset, offset + size, _WARM_STEP_BYTES):
            os.posix_fallocate(descriptor, start, min(_WARM_STEP_BYTES, offset + size - start))
    finally:
        os.close(descriptor)
