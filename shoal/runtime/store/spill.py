"""Spilled objects on disk: one file each, written whole or not at all, checked when read.

    magic 8 | object id 24 | size 8 | crc32 of the bytes 4 | crc32 of these 44 bytes 4       = 48 bytes, then the bytes

A file is written under another name, then renamed; so a crash leaves no half file under the real one. The bytes go
between segment file and spill file on `Disk`'s thread, never through the agent's event loop.
"""

from __future__ import annotations

import collections
import errno
import os
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from shoal.foundation.amounts import bytes_shown
from shoal.foundation.ids import OBJECT_ID_BYTES
from shoal.runtime.store.errors import ObjectAbsent, OutOfDiskError, no_memory

MAGIC = b"SHSPILL1"
_HEADER = struct.Struct(f"<8s{OBJECT_ID_BYTES}sQI")
_SUM = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _SUM.size
_CHUNK_BYTES = 4 * 2**20
DISK_FREE_LEAST = 0.05
"""This fraction of the disk stays free: a full disk harms more than a full store."""


class Disk(Protocol):
    """Where blocking work runs. `done` gets the result, or the exception, on the store's own thread."""

    def submit(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None: ...


class DiskThread:
    """One thread for all spilling and restoring of a node, in order."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """`wake` is called on the disk's thread whenever `poll` has something to do; it must not block."""
        self._wake = wake
        self._jobs: collections.deque[tuple[Callable[[], Any], Callable[[Any], None]] | None] = collections.deque()
        self._ready = threading.Semaphore(0)
        self._finished: collections.deque[tuple[Callable[[Any], None], Any]] = collections.deque()
        self._thread: threading.Thread | None = None

    def submit(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="shoal-spill", daemon=True)
            self._thread.start()
        self._jobs.append((work, done))
        self._ready.release()

    def poll(self) -> None:
        """Hand finished results to those who wait for them, on the caller's thread."""
        while self._finished:
            done, result = self._finished.popleft()
            done(result)

    def close(self) -> None:
        """Finish the job in hand and stop; what is queued is dropped."""
        self._jobs.clear()
        self._jobs.append(None)
        self._ready.release()
        if self._thread is not None:
            self._thread.join(10.0)

    def _run(self) -> None:
        while True:
            self._ready.acquire()
            try:
                job = self._jobs.popleft()
            except IndexError:
                continue  # its job was dropped by `close`
            if job is None:
                return
            work, done = job
            try:
                result = work()
            except BaseException as error:
                result = error
            self._finished.append((done, result))
            self._wake()


def write(source: Path, offset: int, size: int, target: Path, object_id: bytes) -> None:
    """Write `size` bytes of a segment file at `offset` as the spill file `target` (mode 0600).

    Raises:
        OutOfDiskError: the disk is full, or would be nearly.
        OSError: it cannot be written.
    """
    room = os.statvfs(target.parent)
    free, total = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize
    if free - size < total * DISK_FREE_LEAST:
        raise _disk_full(target.parent, size, free)
    part = target.with_name(target.name + ".part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        output = os.open(part, flags, 0o600)
        try:
            with source.open("rb", buffering=0) as segment:
                segment.seek(offset)
                os.lseek(output, HEADER_BYTES, os.SEEK_SET)
                checksum = _copied(segment.fileno(), output, size)
            header = _HEADER.pack(MAGIC, object_id, size, checksum)
            os.pwrite(output, header + _SUM.pack(zlib.crc32(header)), 0)
        finally:
            os.close(output)
        part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(target.parent, size, free) from error
        raise
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def restore(source: Path, target: Path, offset: int, size: int, object_id: bytes) -> None:
    """Write a spilled object back into a segment file at `offset`.

    Raises:
        ObjectAbsent: the spill file is gone, short, damaged or another object's.
        ObjectStoreFullError: no memory behind the segment file.
    """
    try:
        spilled = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise ObjectAbsent(f"spill file `{source}`: {error.strerror}") from error
    try:
        header = os.read(spilled, HEADER_BYTES)
        if len(header) < HEADER_BYTES or _SUM.unpack(header[_HEADER.size :])[0] != zlib.crc32(header[: _HEADER.size]):
            raise ObjectAbsent(f"spill file `{source}`: damaged header")
        magic, found_id, found_size, checksum = _HEADER.unpack_from(header)
        if magic != MAGIC or found_id != object_id or found_size != size:
            raise ObjectAbsent(f"spill file `{source}`: holds another object")
        output = os.open(target, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.lseek(output, offset, os.SEEK_SET)
            found = _copied(spilled, output, size)
        finally:
            os.close(output)
        if found != checksum:
            raise ObjectAbsent(f"spill file `{source}`: damaged contents")
    except EOFError as error:
        raise ObjectAbsent(f"spill file `{source}`: shorter than its {bytes_shown(size)}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM):
            raise no_memory(size, target.parent) from error
        raise
    finally:
        os.close(spilled)


def _copied(source: int, target: int, size: int) -> int:
    """Copy `size` bytes between two open files; return their crc32. Raises EOFError if there are fewer."""
    checksum, left = 0, size
    buffer = memoryview(bytearray(min(_CHUNK_BYTES, max(1, size))))
    while left:
        count = os.readv(source, [buffer[: min(left, len(buffer))]])
        if not count:
            raise EOFError
        checksum = zlib.crc32(buffer[:count], checksum)
        done = 0
        while done < count:
            done += os.write(target, buffer[done:count])
        left -= count
    return checksum


def _disk_full(directory: Path, size: int, free: int) -> OutOfDiskError:
    return OutOfDiskError(
        f"object store: cannot spill {bytes_shown(size)} to `{directory}`: {bytes_shown(free)} free there, and "
        f"{DISK_FREE_LEAST:.0%} of the disk stay free"
    )
