"""Objects in pieces, for drivers that cannot map this node's memory: they read and write here through their connection.

Everything else about such a driver's objects is as for everybody: it leases a segment, seals it, pins and unpins. Their
bytes are raw frames (`wire/frames.py`): what comes is written to the segment right from the connection's buffer, what
goes is sent from the mapped segment itself. An object stays pinned by us until its last byte has left.
"""

from __future__ import annotations

import errno
import os

from shoal.runtime.agent.clients import Client
from shoal.runtime.store.errors import no_memory
from shoal.runtime.store.node import NodeStore
from shoal.runtime.store.reader import Reader
from shoal.runtime.store.segments import Located, Segment
from shoal.wire import tasks as wire
from shoal.wire.frames import RAW_BYTES_MAX

PARCELS = b"parcels"
"""The name under which objects are pinned that are on their way to a driver."""


class _Leased:
    """A segment that a driver fills."""

    __slots__ = ("descriptor", "error", "segment")

    def __init__(self, segment: Segment) -> None:
        self.segment, self.descriptor = segment, -1
        self.error: Exception | None = None

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class Parcels:
    """What remote drivers may read and write now."""

    def __init__(self, store: NodeStore) -> None:
        self._store, self._directory = store, store.pool.directory
        self._reader = Reader(self._directory)
        self._leased: dict[tuple[bytes, int], _Leased] = {}
        self._pinned: dict[tuple[bytes, bytes], tuple[memoryview, int]] = {}
        """With the number of pins: several threads of a driver may read one object."""

    def leased(self, client: Client, segment: Segment) -> None:
        """The driver may write into the segment until `sealed`."""
        self._leased[client.process, segment.id] = _Leased(segment)

    def sealed(self, process: bytes, segment_id: int) -> None:
        """It may no longer: an object lies there now, or the segment was given back."""
        leased = self._leased.pop((process, segment_id), None)
        if leased is not None:
            leased.close()

    def pinned(self, client: Client, object_id: bytes, located: Located) -> None:
        """The driver may read the object, which it has just pinned, until `unpinned` as often."""
        self.let_go()
        view, count = self._pinned.get((client.process, object_id), (None, 0))
        if view is None:
            self._store.pin(PARCELS, object_id, lambda at_once: None)
            view = self._reader.view(object_id, located)
        self._pinned[client.process, object_id] = (view, count + 1)

    def unpinned(self, process: bytes, object_id: bytes) -> None:
        """It may read it once less."""
        view, count = self._pinned.pop((process, object_id), (None, 0))
        if view is not None and count > 1:
            self._pinned[process, object_id] = (view, count - 1)

    def ended(self, process: bytes) -> None:
        """The driver is gone."""
        for segment_id in [segment_id for owner, segment_id in self._leased if owner == process]:
            self.sealed(process, segment_id)
        for key in [key for key in self._pinned if key[0] == process]:
            del self._pinned[key]
        self.let_go()

    def let_go(self) -> None:
        """Unpin what has left. Call it now and then."""
        gone = self._reader.drain()
        if gone:
            self._store.unpin(PARCELS, gone)

    def read(self, client: Client, n: int, object_id: bytes, offset: int, length: int) -> None:
        """Send a part of a pinned object's bytes as the raw frame `n`."""
        view, _ = self._pinned.get((client.process, object_id), (None, 0))
        if view is None or not (offset >= 0 and 0 < length <= RAW_BYTES_MAX and offset + length <= len(view)):
            said = ["ObjectLostError", f"object {object_id.hex()}: these bytes are not pinned"]
            client.tell(wire.ANSWER, n, False, said)
            return
        client.connection.send_raw(n, view[offset : offset + length])

    def take(self, process: bytes, segment_id: int, offset: int, data: memoryview) -> None:
        """Write bytes that came into a leased segment; `written` tells whether that went well."""
        leased = self._leased.get((process, segment_id))
        if leased is None or leased.error is not None:
            return
        segment = leased.segment
        if offset + len(data) > segment.size:
            leased.error = ValueError(f"segment {segment_id}: these bytes are not leased")
            return
        at = segment.offset + offset
        try:
            if leased.descriptor < 0:
                path = self._directory / segment.name
                leased.descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                _write(leased.descriptor, data, at)
            except OSError as error:
                if error.errno not in _NO_MEMORY:
                    raise
                self._store.shed()  # what is only kept for later makes room
                _write(leased.descriptor, data, at)
        except OSError as error:
            is_full = error.errno in _NO_MEMORY
            leased.error = no_memory(segment.size, self._directory) if is_full else error

    def written(self, client: Client, n: int, segment_id: int) -> None:
        """Answer whether everything that was sent for a segment is there."""
        leased = self._leased.get((client.process, segment_id))
        if leased is None:
            client.tell(wire.ANSWER, n, False, ["ValueError", f"segment {segment_id}: not leased"])
        elif leased.error is not None:
            client.tell(wire.ANSWER, n, False, [type(leased.error).__name__, str(leased.error)])
        else:
            leased.close()
            client.tell(wire.ANSWER, n, True, None)


_NO_MEMORY = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM)


def _write(descriptor: int, data: memoryview, at: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], at + done)
