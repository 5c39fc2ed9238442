"""Fetching objects from other agents straight into a segment: in chunks, from several sources, resumed after a cut.

A few lanes (threads) serve all pulls. A pull is a list of ranges still missing; a lane takes one, asks a source for it
and receives into shared memory. What a cut connection has delivered stays; only the rest of its range is asked for
again, from whoever is left. A source that fails, or does not have the object yet, is asked again after a pause,
a few times.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import queue
import random
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from shoal.foundation.amounts import bytes_shown
from shoal.foundation.backoff import backoff_s
from shoal.foundation.errors import AuthenticationError, ProtocolError, ShoalError
from shoal.foundation.ids import PROCESS_ID_BYTES
from shoal.runtime.store.errors import NoRoom, ObjectStoreFullError, TransferError, no_memory
from shoal.runtime.store.node import NodeStore
from shoal.runtime.store.segments import Segment
from shoal.runtime.store.transfer.wire import (
    ANSWER_BYTES,
    Answer,
    Request,
    Status,
    decode_answer,
    encode_request,
)
from shoal.transport import blocking

PULLER = b"pull"
"""The name under which segments for arriving objects are leased."""
LANES_MAX = 4
LANES_PER_PULL_MAX = 2
CHUNK_BYTES = 8 * 2**20
STALL_LIMIT_S = 30.0
FAILURES_MAX = 5
"""Failures in a row, without one byte between them, after which a source is given up."""
ABSENCES_MAX = 4
"""Times that a source may say it does not have the object."""
_BUFFER_BYTES = 2**18
_IDLE_CONNECTIONS_MAX = 8


class _Pull:
    """One object under way."""

    def __init__(self, object_id: bytes, sources: Sequence[str], size: int | None, is_primary: bool) -> None:
        self.object_id, self.size, self.is_primary = object_id, size, is_primary
        self.lock = threading.Lock()
        self.sources: dict[str, int] = dict.fromkeys(sources, 0)  # failures in a row
        self.hints: set[str] = set()
        """Sources that may have let go of the object meanwhile: while there are others, each is asked once."""
        self.users: collections.Counter[str] = collections.Counter()
        self.ranges: collections.deque[tuple[int, int]] = collections.deque()  # missing: (start, end)
        self.missing_bytes = 0
        self.lanes = 0
        self.segment: Segment | None = None
        self.error: ShoalError | None = None
        self.reasons: dict[str, str] = {}
        self.is_doubtful = False
        """A source was given up because it was out of reach, which says nothing about what it has."""
        self.is_source_full = False
        """A source was given up because it has the object on disk and cannot restore it."""
        self.is_untrusted = False
        """A source was given up because whoever answers there is none of ours."""
        self.has_shed = False
        self.is_cancelled = False
        self.done: list[Callable[[ShoalError | None], None]] = []

    @property
    def is_over(self) -> bool:
        return self.is_cancelled or self.error is not None or not self.missing_bytes


class Puller:
    """Brings objects of other nodes into this node's store. Call it on the store's thread only."""

    def __init__(
        self,
        store: NodeStore,
        on_loop: Callable[[Callable[[], None]], None],
        dial: Callable[[str], socket.socket],
        *,
        lanes_max: int = LANES_MAX,
        stall_limit_s: float = STALL_LIMIT_S,
        failures_max: int = FAILURES_MAX,
        pause_first_s: float = 0.05,
        chance: random.Random | None = None,
    ) -> None:
        """Fetch into `store`; `dial(address)` returns an authenticated socket, `on_loop` runs things on our thread."""
        self._store, self._on_loop, self._dial = store, on_loop, dial
        self._lanes_max, self._stall_limit_s, self._failures_max = lanes_max, stall_limit_s, failures_max
        self._pause_first_s, self._chance = pause_first_s, chance or random.Random()
        self._pulls: dict[bytes, _Pull] = {}
        self._jobs: queue.SimpleQueue[_Pull | None] = queue.SimpleQueue()
        self._lanes: list[threading.Thread] = []
        self._idle: dict[str, list[socket.socket]] = {}
        self._idle_lock = threading.Lock()
        self._in_use: dict[str, set[socket.socket]] = {}
        """Connections that lanes read from at this moment, by source."""
        self._is_closed = False
        self.received_bytes = 0

    def pull(
        self,
        object_id: bytes,
        sources: Sequence[str],
        done: Callable[[ShoalError | None], None],
        *,
        size: int | None = None,
        is_primary: bool = False,
        hints: Iterable[str] = (),
    ) -> None:
        """Fetch an object from any of `sources`; `done(None)` once it is sealed here, `done(error)` if it cannot be.

        The first sources are asked first. Those of them that are `hints` may have let go of the object meanwhile, which
        costs one try each. The same object asked for twice is fetched once. A `size` that is not the object's own is an
        error.
        """
        if self._store.has(object_id):
            if is_primary:
                self._store.set_primary(object_id, True)
            done(None)
            return
        known = self._pulls.get(object_id)
        if known is not None:
            known.done.append(done)
            known.is_primary = known.is_primary or is_primary
            with known.lock:
                known.hints.update(set(hints) - known.sources.keys())
            self.add_sources(object_id, sources)
            return
        if not sources:
            done(TransferError(f"object {object_id.hex()}: no node is known to have it", is_verdict=True))
            return
        made = _Pull(object_id, sources, size, is_primary)
        made.done.append(done)
        made.hints.update(hints)
        self._pulls[object_id] = made
        if size is None:
            self._start(made, 1)
        else:
            self._lease(made)

    def add_sources(self, object_id: bytes, sources: Sequence[str]) -> None:
        """Name further nodes that have an object which is under way; quiet if it is not."""
        known = self._pulls.get(object_id)
        if known is not None:
            with known.lock:
                for source in sources:
                    known.sources.setdefault(source, 0)

    def cancel(self, object_id: bytes) -> None:
        """Stop fetching what nobody wants any more; `done` is told so."""
        known = self._pulls.get(object_id)
        if known is not None and not known.is_cancelled:
            known.is_cancelled = True
            known.error = known.error or TransferError(f"object {object_id.hex()}: no longer wanted")
            if not known.lanes and known.segment is not None:
                self._finish(known)

    def give_up(self, sources: Iterable[str], why: str) -> None:
        """Expect nothing from these sources any more: their node is dead by verdict. Who hoped only for them is told.

        A connection to a host without power stays silent for as long as one listens, so lanes are cut off from it here.
        """
        gone = set(sources)
        for pull in tuple(self._pulls.values()):
            with pull.lock:
                lost = gone & pull.sources.keys()
                for source in lost:
                    del pull.sources[source]
                    pull.reasons[source] = why
                is_whole = pull.segment is not None and not pull.missing_bytes
                is_hopeless = bool(lost) and not pull.sources and not is_whole and pull.error is None
                if is_hopeless:
                    pull.error = _without_source(pull)
            if is_hopeless:
                self._tell(pull, pull.error)  # at once, even if a lane has yet to come back from dialling
        with self._idle_lock:
            for source in gone:
                for sock in self._idle.pop(source, ()):
                    sock.close()
                for sock in self._in_use.get(source, ()):
                    with contextlib.suppress(OSError):
                        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # below TLS, whose state is the lane's

    def close(self) -> None:
        """Stop every lane and close all connections. Pulls under way are dropped without an answer."""
        self._is_closed = True
        for known in self._pulls.values():
            known.is_cancelled = True
        for _ in self._lanes:
            self._jobs.put(None)
        with self._idle_lock:
            for sockets in self._idle.values():
                for sock in sockets:
                    sock.close()
            self._idle.clear()
        for lane in self._lanes:
            lane.join(self._stall_limit_s + 1.0)

    # ------------------------------------------------------------------------------------------------ store's thread

    def _lease(self, pull: _Pull) -> None:
        assert pull.size is not None
        self._store.lease(PULLER, pull.size, lambda answer: self._leased(pull, answer))

    def _leased(self, pull: _Pull, answer: Segment | NoRoom) -> None:
        if isinstance(answer, NoRoom):
            pull.error = answer
            self._finish(pull)
            return
        pull.segment = answer
        if pull.is_cancelled or pull.error is not None:
            self._finish(pull)
            return
        assert pull.size is not None
        pull.missing_bytes = pull.size
        pull.ranges.extend((at, min(pull.size, at + CHUNK_BYTES)) for at in range(0, pull.size, CHUNK_BYTES))
        self._start(pull, min(LANES_PER_PULL_MAX * len(pull.sources), len(pull.ranges), self._lanes_max))

    def _start(self, pull: _Pull, lanes: int) -> None:
        pull.lanes = lanes
        for _ in range(min(lanes, self._lanes_max - len(self._lanes))):
            thread = threading.Thread(target=self._run, name="shoal-transfer-pull", daemon=True)
            self._lanes.append(thread)
            thread.start()
        for _ in range(lanes):
            self._jobs.put(pull)

    def _left(self, pull: _Pull) -> None:
        """One lane is through with a pull; the last one ends it."""
        pull.lanes -= 1
        if pull.lanes or self._is_closed:
            return
        if pull.segment is None and pull.error is None and not pull.is_cancelled:
            self._lease(pull)  # it only asked for the size
        elif isinstance(pull.error, ObjectStoreFullError) and pull.segment is not None and not pull.has_shed:
            # The file system is full whatever our limit says: what is only kept for later makes room, once.
            pull.has_shed, pull.error = True, None
            self._store.shed()
            self._start(pull, 1)
        else:
            self._finish(pull)

    def _tell(self, pull: _Pull, error: ShoalError | None) -> None:
        """Answer who waits for a pull, and let the next who asks begin anew."""
        if self._pulls.get(pull.object_id) is pull:
            del self._pulls[pull.object_id]
        waiting, pull.done = pull.done, []
        for done in waiting:
            done(error)

    def _finish(self, pull: _Pull) -> None:
        segment, error = pull.segment, pull.error
        if segment is not None and error is None and pull.size is not None and not pull.missing_bytes:
            owner = pull.object_id[:PROCESS_ID_BYTES]
            self._store.seal(
                PULLER, pull.object_id, segment.id, pull.size, owner=owner, is_primary=pull.is_primary, is_pinned=True
            )
            self._tell(pull, None)
            self._store.unpin(PULLER, [pull.object_id])  # only now: those who wanted it pin it while it is still here
            return
        if segment is not None:
            self._store.give_back(PULLER, segment.id)
        self._tell(pull, error)

    # ------------------------------------------------------------------------------------------------ lanes

    def _run(self) -> None:
        buffer = memoryview(bytearray(_BUFFER_BYTES))
        while (pull := self._jobs.get()) is not None:
            try:
                self._work(pull, buffer)
            except BaseException as error:
                pull.error = pull.error or TransferError(f"object {pull.object_id.hex()}: {error}")
            left = pull
            with contextlib.suppress(RuntimeError):  # the loop is closed: the node ends
                self._on_loop(lambda left=left: self._left(left))  # type: ignore[misc]

    def _work(self, pull: _Pull, buffer: memoryview) -> None:
        """Fetch ranges of one pull until none is left for this lane, or nobody has them."""
        descriptor = -1
        try:
            if pull.segment is not None:
                path = self._store.pool.directory / pull.segment.name
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            while not (pull.is_over if pull.segment is not None else pull.is_cancelled or pull.error or pull.size):
                source = self._chosen(pull)
                if source is None:
                    return
                self._visit(pull, source, descriptor, buffer)
                if pull.segment is not None and not pull.ranges and not pull.missing_bytes:
                    return
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _chosen(self, pull: _Pull) -> str | None:
        """Return the least used source, the first of several; if none is left, note the error of the whole pull."""
        with pull.lock:
            if pull.segment is not None and not pull.ranges:
                return None  # other lanes have the rest; if one of them fails, it goes on itself
            if not pull.sources:
                pull.error = pull.error or _without_source(pull)
                return None
            source = min(pull.sources, key=lambda name: pull.users[name] + 2 * pull.sources[name])
            pull.users[source] += 1
            failures = pull.sources[source]
        if failures:
            time.sleep(backoff_s(failures, first_s=self._pause_first_s, most_s=2.0, chance=self._chance))
        return source

    def _visit(self, pull: _Pull, source: str, descriptor: int, buffer: memoryview) -> None:
        """Fetch as many ranges from one source as it gives."""
        connection: socket.socket | None = None
        is_fresh = False
        try:
            connection = self._kept(source)
            if connection is None:
                is_fresh = True
                connection = self._dial(source)
            connection.settimeout(self._stall_limit_s)
            with self._idle_lock:
                self._in_use.setdefault(source, set()).add(connection)
            if pull.segment is None:
                self._ask_size(pull, connection)
            else:
                self._fetch(pull, source, connection, descriptor, buffer)
            self._keep(source, connection)
            connection = None
        except _Refused as error:
            # The word that an object is sealed may still be on its way to that node.
            pull.is_source_full = pull.is_source_full or error.is_full
            self._strike(pull, source, str(error), at_most=ABSENCES_MAX if error.may_pass else 1)
        except ObjectStoreFullError as error:
            pull.error = pull.error or error
        except (OSError, EOFError, ProtocolError, AuthenticationError) as error:
            if refusal := blocking.refusal(error):
                pull.is_untrusted = True
                self._strike(pull, source, refusal, at_most=1)
            # A kept connection may simply have grown old: that is no fault of its source.
            elif is_fresh or connection is None:
                self._strike(
                    pull, source, str(error) or type(error).__name__, at_most=self._failures_max, is_doubtful=True
                )
        finally:
            with pull.lock:
                pull.users[source] -= 1
            if connection is not None:
                self._let_go(source, connection)
                connection.close()

    def _ask_size(self, pull: _Pull, connection: socket.socket) -> None:
        connection.sendall(encode_request(Request(pull.object_id, 0, 0)))
        answer = _answer(connection)
        if answer.status is not Status.OK:
            raise _refused(answer.status)
        if not answer.size:
            raise _Refused("says that it has 0 bytes")
        if answer.size > self._store.pool.limit_bytes:
            pull.error = ObjectStoreFullError(
                f"object {pull.object_id.hex()}: {bytes_shown(answer.size)}, more than this node's object store holds "
                f"({bytes_shown(self._store.pool.limit_bytes)}); read it on a node with a larger `object_store_memory`"
            )
            return
        pull.size = answer.size

    def _fetch(self, pull: _Pull, source: str, connection: socket.socket, descriptor: int, buffer: memoryview) -> None:
        """Take ranges and receive them, always with one request ahead, so that the line is never idle."""
        assert pull.segment is not None
        asked: collections.deque[list[int]] = collections.deque()  # [next byte, end] of each range asked for
        try:
            while True:
                while len(asked) < 2 and not pull.is_over:
                    taken = self._taken(pull)
                    if taken is None:
                        break
                    asked.append([*taken])
                    connection.sendall(encode_request(Request(pull.object_id, taken[0], taken[1] - taken[0])))
                if not asked:
                    return
                current = asked[0]
                answer = _answer(connection)
                if answer.status is not Status.OK:
                    raise _refused(answer.status)
                if (answer.size, answer.offset, answer.length) != (pull.size, current[0], current[1] - current[0]):
                    raise _Refused(
                        f"sent {answer.length} bytes at {answer.offset} of {answer.size}, "
                        f"expected {current[1] - current[0]} at {current[0]} of {pull.size}"
                    )
                self._receive(pull, source, connection, descriptor, buffer, current)
                asked.popleft()
        finally:
            with pull.lock:
                pull.ranges.extendleft((start, end) for start, end in asked if start < end)

    def _receive(
        self,
        pull: _Pull,
        source: str,
        connection: socket.socket,
        descriptor: int,
        buffer: memoryview,
        current: list[int],
    ) -> None:
        """Receive one range; `current[0]` moves with every byte that is safe in the segment."""
        assert pull.segment is not None
        base = pull.segment.offset
        while current[0] < current[1]:
            if pull.is_cancelled or pull.error is not None:
                raise EOFError("cancelled")
            filled, wanted = 0, min(len(buffer), current[1] - current[0])
            try:
                while filled < wanted:
                    count = connection.recv_into(buffer[filled:wanted])
                    if not count:
                        raise EOFError("the connection was cut")
                    filled += count
            finally:
                # Also what came before a cut is kept.
                if filled:
                    _written(descriptor, buffer[:filled], base + current[0])
                    current[0] += filled
                    with pull.lock:
                        pull.missing_bytes -= filled
                        if source in pull.sources:
                            pull.sources[source] = 0
                        self.received_bytes += filled

    def _taken(self, pull: _Pull) -> tuple[int, int] | None:
        with pull.lock:
            return pull.ranges.popleft() if pull.ranges else None

    def _strike(self, pull: _Pull, source: str, reason: str, *, at_most: int, is_doubtful: bool = False) -> None:
        with pull.lock:
            if source in pull.sources:  # else its node was declared dead meanwhile, which says more
                pull.reasons[source] = reason
                pull.sources[source] += 1
                if pull.sources[source] >= (1 if source in pull.hints and len(pull.sources) > 1 else at_most):
                    del pull.sources[source]
                    pull.is_doubtful = pull.is_doubtful or is_doubtful

    def _kept(self, source: str) -> socket.socket | None:
        with self._idle_lock:
            sockets = self._idle.get(source)
            return sockets.pop() if sockets else None

    def _let_go(self, source: str, connection: socket.socket) -> None:
        with self._idle_lock:
            self._forget(source, connection)

    def _forget(self, source: str, connection: socket.socket) -> None:
        used = self._in_use.get(source)
        if used is not None:
            used.discard(connection)
            if not used:
                del self._in_use[source]

    def _keep(self, source: str, connection: socket.socket) -> None:
        with self._idle_lock:
            self._forget(source, connection)
            sockets = self._idle.setdefault(source, [])
            if not self._is_closed and len(sockets) < LANES_PER_PULL_MAX and len(self._idle) <= _IDLE_CONNECTIONS_MAX:
                sockets.append(connection)
                return
        connection.close()


def _without_source(pull: _Pull) -> TransferError | ObjectStoreFullError:
    """Return the error of a pull that nobody is left for."""
    reasons = "; ".join(f"{source}: {reason}" for source, reason in sorted(pull.reasons.items()))
    if pull.is_source_full:  # it is not lost
        return ObjectStoreFullError(
            f"object {pull.object_id.hex()}: the object store of its node is full ({reasons}); drop references you no "
            "longer need, or start that node with a larger `object_store_memory`"
        )
    return TransferError(
        f"object {pull.object_id.hex()}: no source left ({reasons})",
        is_verdict=not pull.is_doubtful,
        is_untrusted=pull.is_untrusted and not pull.is_doubtful,
    )


class _Refused(Exception):
    """A source that does not give this object."""

    def __init__(self, reason: str, *, may_pass: bool = False, is_full: bool = False) -> None:
        super().__init__(reason)
        self.may_pass, self.is_full = may_pass, is_full


_WORDS = {
    Status.ABSENT: "does not have it",
    Status.NO_ROOM: "has it on disk and no memory to restore it",
    Status.BAD_RANGE: "has an object of another size",
}


def _refused(status: Status) -> _Refused:
    return _Refused(_WORDS[status], may_pass=status is not Status.BAD_RANGE, is_full=status is Status.NO_ROOM)


def _answer(connection: socket.socket) -> Answer:
    data = bytearray(ANSWER_BYTES)
    view, got = memoryview(data), 0
    while got < ANSWER_BYTES:
        count = connection.recv_into(view[got:])
        if not count:
            raise EOFError("the connection was cut")
        got += count
    return decode_answer(view)


def _written(descriptor: int, data: memoryview, offset: int) -> None:
    """Put bytes into a segment's file; a full file system is an error here, not a signal."""
    done = 0
    try:
        while done < len(data):
            done += os.pwrite(descriptor, data[done:], offset + done)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM):
            raise no_memory(len(data), "/dev/shm") from error
        raise
