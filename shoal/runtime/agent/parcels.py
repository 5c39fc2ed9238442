"""Objects in pieces, for drivers that cannot map this node's memory: they read and write here through their connection.

Everything else about such a driver's objects is as for everybody: it leases a segment, seals it, pins and unpins. Only
the copying is done here, in threads, so that nobody else's messages wait for it.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shoal.runtime.agent.clients import Client
from shoal.runtime.store.errors import no_memory
from shoal.runtime.store.segments import Located, Segment

PIECE_BYTES_MAX = 4 * 2**20
"""The longest piece that is read or written at once."""

Answer = Callable[[bool, Any], None]


class Parcels:
    """What remote drivers may read and write now."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._leased: dict[tuple[bytes, int], Segment] = {}
        self._pinned: dict[tuple[bytes, bytes], tuple[Located, int]] = {}
        """With the number of pins: several threads of a driver may read one object."""

    def leased(self, client: Client, segment: Segment) -> None:
        """The driver may write into the segment until `sealed`."""
        self._leased[client.process, segment.id] = segment

    def sealed(self, process: bytes, segment_id: int) -> None:
        """It may no longer: an object lies there now, or the segment was given back."""
        self._leased.pop((process, segment_id), None)

    def pinned(self, client: Client, object_id: bytes, located: Located) -> None:
        """The driver may read the object until `unpinned` as often."""
        _, count = self._pinned.get((client.process, object_id), (located, 0))
        self._pinned[client.process, object_id] = (located, count + 1)

    def unpinned(self, process: bytes, object_id: bytes) -> None:
        """It may read it once less."""
        located, count = self._pinned.pop((process, object_id), (None, 0))
        if located is not None and count > 1:
            self._pinned[process, object_id] = (located, count - 1)

    def ended(self, process: bytes) -> None:
        """The driver is gone."""
        for held in (self._leased, self._pinned):
            for key in [key for key in held if key[0] == process]:
                del held[key]  # type: ignore[arg-type]

    def read(self, client: Client, object_id: bytes, offset: int, length: int, answer: Answer) -> None:
        """Answer with a part of a pinned object's bytes."""
        located, _ = self._pinned.get((client.process, object_id), (None, 0))
        if located is None or not (offset >= 0 and 0 < length <= PIECE_BYTES_MAX and offset + length <= located.size):
            answer(False, ["ObjectLostError", f"object {object_id.hex()}: these bytes are not pinned"])
            return
        self._copy(lambda: _read(self._directory / located.name, located.offset + offset, length), answer)

    def write(self, client: Client, segment_id: int, offset: int, data: bytes, answer: Answer) -> None:
        """Write a part of a leased segment."""
        segment = self._leased.get((client.process, segment_id))
        if segment is None or not (offset >= 0 and len(data) > 0 and offset + len(data) <= segment.size):
            answer(False, ["ValueError", f"segment {segment_id}: these bytes are not leased"])
            return
        self._copy(lambda: _write(self._directory / segment.name, segment.offset + offset, data), answer)

    def _copy(self, work: Callable[[], Any], answer: Answer) -> None:
        def done(future: asyncio.Future[Any]) -> None:
            error = future.exception()
            if error is None:
                answer(True, future.result())
            else:
                answer(False, [type(error).__name__, str(error)])

        asyncio.get_running_loop().run_in_executor(None, work).add_done_callback(done)


def _read(path: Path, start: int, length: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        data = os.pread(descriptor, length, start)
    finally:
        os.close(descriptor)
    if len(data) != length:
        raise EOFError(f"segment `{path.name}`: {len(data)} bytes, expected {length}")
    return data


def _write(path: Path, start: int, data: bytes) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        done = 0
        while done < len(data):
            done += os.pwrite(descriptor, memoryview(data)[done:], start + done)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM):
            raise no_memory(len(data), path.parent) from error
        raise
    finally:
        os.close(descriptor)
