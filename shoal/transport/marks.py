"""What each worker had started when it died: one small shared page per worker.

The worker writes the number of the task it begins; after its death the agent reads it. That tells an owner which of
the tasks it had pushed were never begun, and may be done again for free.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from pathlib import Path

MARK = struct.Struct("<q")


class Marks:
    """The pages of this node's workers."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self, process: bytes) -> int:
        """Return the highest number that the worker began, -1 if it began none (or none is known)."""
        try:
            data = mark_path(self._directory, process).read_bytes()
        except OSError:
            return -1
        return int(MARK.unpack_from(data)[0]) if len(data) >= MARK.size else -1

    def forget(self, process: bytes) -> None:
        """Remove a dead worker's page and socket."""
        mark_path(self._directory, process).unlink(missing_ok=True)
        socket_path(self._directory, process).unlink(missing_ok=True)

    def close(self) -> None:
        """Remove every page."""
        for path in self._directory.glob("m*.mark"):
            path.unlink(missing_ok=True)


def mark_path(directory: Path, process: bytes) -> Path:
    """Return where a worker's page is."""
    return directory / f"m{int.from_bytes(process[-4:], 'big')}.mark"


def socket_path(directory: Path, process: bytes) -> Path:
    """Return where a client's socket is."""
    return directory / f"p{int.from_bytes(process[-4:], 'big')}.sock"


def open_mark(directory: Path, process: bytes) -> mmap.mmap:
    """Return the worker's own page, mapped for writing."""
    path = mark_path(directory, process)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, mmap.PAGESIZE)
        page = mmap.mmap(descriptor, mmap.PAGESIZE)
    finally:
        os.close(descriptor)
    MARK.pack_into(page, 0, -1)
    return page
