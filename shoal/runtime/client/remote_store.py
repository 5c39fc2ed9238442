"""The object store as a driver elsewhere uses it: values cross its connection in pieces, instead of being mapped.

`RemoteWriter` and `RemoteReader` stand for the store's own; the agent (`runtime/agent/parcels.py`) does the copying at
its end. Pieces under way are limited for the whole process, so that large values never hold up everything else.
"""

from __future__ import annotations

import functools
import mmap
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from shoal.runtime.client.core import named_error
from shoal.runtime.store.segments import Located, Segment
from shoal.runtime.store.writer import Sealed
from shoal.wire import tasks as wire

if TYPE_CHECKING:
    from shoal.runtime.client.core import Core
    from shoal.runtime.store.values import Dumped

PIECE_BYTES = 2**20
PIECES_MAX = 8
"""How many pieces one value has under way."""
TRANSFERS_MAX = 2
"""How many values are under way at once."""


class _Pieces:
    """Requests about the pieces of values, so many at a time."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._turns = threading.Semaphore(TRANSFERS_MAX)

    def carry(self, requests: Iterator[tuple[str, list[Any], Callable[[Any], None]]]) -> None:
        """Make every request (what, arguments, what to do with the answer).

        Raises:
            The first error that an answer names.
        """
        with self._turns:
            self._carry(requests)

    def _carry(self, requests: Iterator[tuple[str, list[Any], Callable[[Any], None]]]) -> None:
        core = self._core
        errors: list[Any] = []
        answers: list[bool] = []  # its length counts them; whichever thread reads an answer appends

        def answered(take: Callable[[Any], None], is_ok: bool, value: Any) -> None:
            if is_ok:
                take(value)
            else:
                errors.append(value)
            answers.append(is_ok)

        asked = 0

        def has_room() -> bool:
            return asked - len(answers) < PIECES_MAX

        for what, args, take in requests:
            asked += 1
            core.request(wire.STORE, what, args, functools.partial(answered, take))
            core.wait(has_room)
            if errors:
                break
        core.wait(lambda: len(answers) == asked)
        if errors:
            raise named_error(errors[0])


class RemoteWriter:
    """Writes values into the home agent's store."""

    def __init__(self, core: Core, pieces: _Pieces, lease: Callable[[int], Segment]) -> None:
        self._core, self._pieces, self._lease = core, pieces, lease

    def put(self, dumped: Dumped) -> Sealed:
        """Write one value and return where it lies. Raises as the store's `Writer.put`."""
        plan = dumped.plan()
        segment = self._lease(plan.total)
        parts: list[tuple[int, memoryview]] = [(0, memoryview(plan.head + dumped.pickle))]
        parts.extend(
            (start, memoryview(data).cast("B")) for start, data in zip(plan.offsets, dumped.buffers, strict=True)
        )
        try:
            self._pieces.carry(
                ("write", [segment.id, start + done, data[done : done + PIECE_BYTES]], _nothing)
                for start, data in parts
                for done in range(0, data.nbytes, PIECE_BYTES)
            )
        except BaseException:
            core = self._core
            with core.lock:
                core.agent.out.append((wire.STORE, 0, "give_back", [segment.id]))
            core.agent.flush()
            raise
        return Sealed(segment.id, segment.name, segment.offset, plan.total)

    def offer(self, segment: Segment) -> bool:
        """Return False: nothing is kept in stock."""
        return False

    def spare(self) -> list[Segment]:
        """Return the stock: none."""
        return []

    def close(self) -> None:
        """Nothing is mapped."""


class RemoteReader:
    """Fetches values from the home agent's store; what this process still looks at is not fetched again."""

    def __init__(self, core: Core, pieces: _Pieces) -> None:
        self._core, self._pieces = core, pieces
        self._lock = threading.Lock()
        self._copies: weakref.WeakValueDictionary[bytes, mmap.mmap] = weakref.WeakValueDictionary()
        self._fetched: list[bytes] = []

    def held_view(self, object_id: bytes) -> memoryview | None:
        """Return the bytes of an object of which a copy is here; None: ask the agent."""
        with self._lock:
            copy = self._copies.get(object_id)
        return None if copy is None else memoryview(copy).toreadonly()

    def view(self, object_id: bytes, located: Located) -> memoryview:
        """Return a copy of an object that the agent has pinned for us.

        Raises:
            ObjectLostError: it was not there any more.
        """
        copy = mmap.mmap(-1, located.size)  # pages come as they are filled, and are aligned for arrays
        target = memoryview(copy)

        def placed(start: int) -> Callable[[Any], None]:
            def take(data: bytes) -> None:
                target[start : start + len(data)] = data

            return take

        try:
            self._pieces.carry(
                ("read", [object_id, start, min(PIECE_BYTES, located.size - start)], placed(start))
                for start in range(0, located.size, PIECE_BYTES)
            )
        finally:
            with self._lock:
                self._fetched.append(object_id)
        with self._lock:
            self._copies[object_id] = copy
        return target.toreadonly()

    def drain(self) -> list[bytes]:
        """Return the objects that need no longer be pinned for us."""
        if not self._fetched:
            return []
        with self._lock:
            fetched, self._fetched = self._fetched, []
        return fetched

    def pinned(self) -> list[bytes]:
        """Return nothing: a copy is our own."""
        return []

    def close(self) -> None:
        """Nothing is mapped."""


def remote_store(core: Core, lease: Callable[[int], Segment]) -> tuple[RemoteWriter, RemoteReader]:
    """Return the writer and reader of a driver elsewhere."""
    pieces = _Pieces(core)
    return RemoteWriter(core, pieces, lease), RemoteReader(core, pieces)


def _nothing(value: Any) -> None:
    return None
