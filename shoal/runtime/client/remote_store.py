"""The object store as a driver elsewhere uses it: values cross its connection in pieces, instead of being mapped.

`RemoteWriter` and `RemoteReader` stand for the store's own; the agent (`runtime/agent/parcels.py`) does the copying at
its end. Pieces under way are limited for the whole process, so that large values never hold up everything else.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from shoal.foundation.errors import ShoalError
from shoal.runtime.client.core import monotonic, named_error, raise_closed
from shoal.runtime.store.memory import Mapping
from shoal.runtime.store.segments import Located, Segment
from shoal.runtime.store.writer import Sealed
from shoal.wire import tasks as wire

if TYPE_CHECKING:
    from shoal.runtime.client.core import Core
    from shoal.runtime.client.reactor import Link
    from shoal.runtime.store.values import Dumped

PIECE_BYTES = 2**20
PIECES_MAX = 16
"""How many pieces of one value are asked for ahead."""
SPARE_BYTES_MAX = 512 * 2**20
SPARE_S = 5.0
"""How much memory of values that are gone is kept for the next ones, and for how long."""
TRANSFERS_MAX = 2
"""How many values are under way at once."""


class _Pieces:
    """The raw frames of this process's one connection: values leave and come in them."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._turns = threading.Semaphore(TRANSFERS_MAX)
        self._targets: dict[int, memoryview] = {}
        """Where the pieces go that were asked for, by request."""
        core.reactor.takes_raw = lambda link: link is core.agent
        core.reactor.raw_target = lambda link, n, length: self._targets.get(n)
        core.reactor.raw_done = self._done

    def fetch(self, object_id: bytes, target: memoryview) -> None:
        """Receive a pinned object's bytes into `target`.

        Raises:
            The first error that the agent names.
        """
        core, size = self._core, target.nbytes
        errors: list[Any] = []
        answers: list[bool] = []  # its length counts them; whichever thread reads an answer appends
        asked = 0

        def has_room() -> bool:
            return asked - len(answers) < PIECES_MAX

        with self._turns:
            for start in range(0, size, PIECE_BYTES):
                length = min(PIECE_BYTES, size - start)
                self._ask(object_id, start, target[start : start + length], answers, errors)
                asked += 1
                core.wait(has_room)
                if errors:
                    break
            core.wait(lambda: len(answers) == asked)
        if errors:
            raise named_error(errors[0])

    def send(self, segment_id: int, parts: Iterable[tuple[int, memoryview]]) -> None:
        """Write parts into a leased segment, each at its offset; return once they are there.

        Raises:
            The error that the agent names.
        """
        core = self._core
        agent = core.agent
        with self._turns:
            for offset, data in parts:
                for start in range(0, data.nbytes, PIECE_BYTES):
                    piece = data[start : start + PIECE_BYTES]
                    while not agent.send_raw(segment_id, offset + start, piece):
                        if agent.is_closed:
                            raise_closed()
                        core.wait(lambda: agent.is_writable or agent.is_closed)
            core.ask("written", segment_id, kind=wire.STORE)  # type: ignore[arg-type]

    def _ask(self, object_id: bytes, start: int, target: memoryview, answers: list[bool], errors: list[Any]) -> None:
        core = self._core

        def answered(is_ok: bool, value: Any) -> None:
            if not is_ok:
                self._targets.pop(n, None)
                errors.append(value)
            answers.append(is_ok)

        with core.lock:
            n = next(core.ids)
            self._targets[n] = target
            core.requests[n] = answered
            core.agent.out.append((wire.STORE, n, "read", [object_id, start, target.nbytes]))
            core.agent.flush()

    def _done(self, link: Link, n: int) -> None:
        core = self._core
        with core.lock:
            self._targets.pop(n, None)
            call = core.requests.pop(n, None)
            if call is not None:
                call(True, None)


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
            self._pieces.send(segment.id, parts)
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


class _Copy:
    """One object's copy that values of this process look at."""

    __slots__ = ("count", "memory", "size")

    def __init__(self, memory: Mapping, size: int) -> None:
        self.memory, self.size, self.count = memory, size, 0


class RemoteReader:
    """Fetches values from the home agent's store; what this process still looks at is not fetched again.

    Memory of values that are gone serves the next ones for a while: a fresh page costs several times its copy.
    """

    def __init__(self, core: Core, pieces: _Pieces) -> None:
        self._core, self._pieces = core, pieces
        self._lock = threading.Lock()
        self._copies: dict[bytes, _Copy] = {}
        self._notes: collections.deque[_Copy] = collections.deque()
        self._fetched: list[bytes] = []
        self._spare: list[tuple[float, Mapping]] = []
        """Memory that nobody looks at, and since when."""

    def held_view(self, object_id: bytes) -> memoryview | None:
        """Return the bytes of an object of which a copy is here; None: ask the agent."""
        with self._lock:
            self._settle()
            copy = self._copies.get(object_id)
            return None if copy is None else self._view_of(copy)

    def view(self, object_id: bytes, located: Located) -> memoryview:
        """Return a copy of an object that the agent has pinned for us.

        Raises:
            ObjectLostError: it was not there any more.
        """
        with self._lock:
            self._settle()
            copy = _Copy(self._memory(located.size), located.size)
        target = copy.memory.view
        assert target is not None
        try:
            self._pieces.fetch(object_id, target[: located.size])
        except ShoalError:  # every piece has been answered; after anything else some may still come, and are written
            with self._lock:
                self._spare.append((monotonic(), copy.memory))
            raise
        finally:
            with self._lock:
                self._fetched.append(object_id)
        with self._lock:
            self._copies[object_id] = copy
            return self._view_of(copy)

    def drain(self) -> list[bytes]:
        """Return the objects that need no longer be pinned for us."""
        if self._notes or self._spare:
            with self._lock:
                self._settle()
        if not self._fetched:
            return []
        with self._lock:
            fetched, self._fetched = self._fetched, []
        return fetched

    def pinned(self) -> list[bytes]:
        """Return nothing: a copy is our own."""
        return []

    def close(self) -> None:
        """Give up what nobody looks at."""
        with self._lock:
            self._settle()
            for _, memory in self._spare:
                memory.close()
            self._spare.clear()

    # ---------------------------------------------------------------------------------------------- with the lock held

    def _view_of(self, copy: _Copy) -> memoryview:
        copy.count += 1
        return copy.memory.export(0, copy.size, self._notes, copy)

    def _memory(self, size: int) -> Mapping:
        """Return memory for so many bytes: the smallest that is spare and not far too large, else fresh."""
        fitting = [place for place, (_, one) in enumerate(self._spare) if size <= one.size <= 2 * size]
        if fitting:
            return self._spare.pop(min(fitting, key=lambda place: self._spare[place][1].size))[1]
        return Mapping(-1, size, is_writable=True)

    def _settle(self) -> None:
        """Take back what nobody looks at any more, and give up what was spare for long."""
        now = monotonic()
        while self._notes:
            copy = self._notes.popleft()
            copy.count -= 1
            if not copy.count:
                self._spare.append((now, copy.memory))
                for object_id in [one for one, held in self._copies.items() if held is copy]:
                    del self._copies[object_id]
        total = sum(memory.size for _, memory in self._spare)
        while self._spare and (total > SPARE_BYTES_MAX or now - self._spare[0][0] > SPARE_S):
            _, memory = self._spare.pop(0)
            total -= memory.size
            memory.close()


def remote_store(core: Core, lease: Callable[[int], Segment]) -> tuple[RemoteWriter, RemoteReader]:
    """Return the writer and reader of a driver elsewhere."""
    pieces = _Pieces(core)
    return RemoteWriter(core, pieces, lease), RemoteReader(core, pieces)
