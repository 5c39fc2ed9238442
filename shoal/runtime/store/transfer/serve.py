"""Sending objects to other agents: a listener and one thread per connection, away from the agent's event loop.

The loop is asked for one thing only, to pin and unpin objects; the bytes go from shared memory to the socket here.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable

from shoal.foundation.errors import AuthenticationError, ProtocolError
from shoal.runtime.store.errors import ObjectAbsent
from shoal.runtime.store.node import NodeStore, Pinned
from shoal.runtime.store.reader import Reader
from shoal.runtime.store.segments import Located
from shoal.runtime.store.transfer.wire import (
    REQUEST_BYTES,
    Answer,
    Request,
    Status,
    decode_request,
    encode_answer,
)
from shoal.wire.hello import UNAUTHENTICATED_MAX, Role

SENDER = b"transfer"
"""The name under which sent objects are pinned."""
CONNECTIONS_MAX = 64
PIN_LIMIT_S = 20.0
"""How long a sender waits for an object that is on disk to be restored; less than its peer's patience."""
STALL_LIMIT_S = 30.0
_HOLD_S = 1.0  # an object stays pinned so long after its last request on a connection
_SEND_BYTES = 2**20


class Server:
    """Answers other agents' requests for the objects of one store."""

    def __init__(
        self,
        store: NodeStore,
        on_loop: Callable[[Callable[[], None]], None],
        answer: Callable[[socket.socket], tuple[socket.socket, Role]],
        *,
        role_least: Role = Role.NODE,
        connections_max: int = CONNECTIONS_MAX,
        stall_limit_s: float = STALL_LIMIT_S,
        pin_limit_s: float = PIN_LIMIT_S,
    ) -> None:
        """Serve `store`. `on_loop` runs a function on the store's thread (`loop.call_soon_threadsafe`); `answer` says
        hello on an accepted socket (TLS included) and returns it with the peer's proven role.
        """
        self._store, self._on_loop, self._answer = store, on_loop, answer
        self._role_least, self._connections_max, self._stall_limit_s = role_least, connections_max, stall_limit_s
        self._pin_limit_s = pin_limit_s
        self._reader = Reader(store.pool.directory)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._greeting = 0
        self._listener: socket.socket | None = None
        self.sent_bytes = 0
        self.answered = 0
        """Requests answered, with bytes or with a no."""
        self.refused = 0

    def start(self, host: str, port: int = 0) -> tuple[str, int]:
        """Listen there and return the real address.

        Raises:
            OSError: the address cannot be bound.
        """
        listener = socket.create_server((host, port), family=_family(host), backlog=128)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), name="shoal-transfer", daemon=True).start()
        return host, listener.getsockname()[1]

    def close(self) -> None:
        """Stop listening and end every connection; pins are returned by their threads."""
        if self._listener is not None:
            # Closing alone would leave the thread in accept.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                accepted, _ = listener.accept()
            except OSError:
                if listener.fileno() < 0 or self._listener is not listener:
                    return
                time.sleep(0.05)  # out of descriptors: shed load instead of spinning
                continue
            with self._lock:
                is_full = self._greeting >= UNAUTHENTICATED_MAX or len(self._open) >= self._connections_max
                if not is_full:
                    self._greeting += 1
                else:
                    self.refused += 1
            if is_full:
                accepted.close()
                continue
            threading.Thread(target=self._serve, args=(accepted,), name="shoal-transfer-send", daemon=True).start()

    def _serve(self, accepted: socket.socket) -> None:
        try:
            connection, role = self._answer(accepted)
        except (OSError, AuthenticationError, ProtocolError):
            accepted.close()
            with self._lock:
                self.refused += 1
            return
        finally:
            with self._lock:
                self._greeting -= 1
        with self._lock:
            self._open.add(connection)
        sender = _Sender(self, connection)
        try:
            if role >= self._role_least:
                sender.run()
        except (OSError, ProtocolError, ValueError):
            pass  # the peer is gone or broke the rules; it asks again on another connection
        finally:
            sender.let_go()
            with self._lock:
                self._open.discard(connection)
            connection.close()

    # ------------------------------------------------------------------------------------------------ for senders

    def view(self, object_id: bytes) -> memoryview | Status:
        """Return an object's bytes, pinned until the view is gone. Waits for the store's thread."""
        answers: queue.SimpleQueue[Pinned] = queue.SimpleQueue()
        is_given_up = False

        def withdraw() -> None:
            nonlocal is_given_up
            is_given_up = True
            while not answers.empty():
                answer(answers.get())

        def answer(located: Pinned) -> None:
            if not is_given_up:
                answers.put(located)
            elif isinstance(located, Located):
                self._store.unpin(SENDER, [object_id])

        self._on_loop(lambda: self._store.pin(SENDER, object_id, answer))
        try:
            located = answers.get(timeout=self._pin_limit_s)
        except queue.Empty:
            self._on_loop(withdraw)
            return Status.NO_ROOM
        if isinstance(located, Located):
            try:
                return self._reader.view(object_id, located)
            except OSError:
                self._on_loop(lambda: self._store.unpin(SENDER, [object_id]))
                return Status.ABSENT
        return Status.ABSENT if isinstance(located, ObjectAbsent) else Status.NO_ROOM

    def unpin(self) -> None:
        """Tell the store which objects nobody sends any more."""
        gone = self._reader.drain()
        if gone:
            self._on_loop(lambda: self._store.unpin(SENDER, gone))

    @property
    def stall_limit_s(self) -> float:
        """How long a peer may take no byte."""
        return self._stall_limit_s


class _Sender:
    """One connection: reads requests, sends ranges, keeps the current object pinned between them."""

    def __init__(self, server: Server, connection: socket.socket) -> None:
        self._server, self._connection = server, connection
        self._object_id = b""
        self._view: memoryview | None = None
        self._request = bytearray(REQUEST_BYTES)

    def run(self) -> None:
        while (request := self._next()) is not None:
            self._send(request)

    def let_go(self) -> None:
        """Stop pinning the current object."""
        self._object_id = b""
        if self._view is not None:
            self._view = None
            self._server.unpin()

    def _next(self) -> Request | None:
        """Return the next request, None once the peer is gone."""
        view, got = memoryview(self._request), 0
        while got < REQUEST_BYTES:
            self._connection.settimeout(_HOLD_S if self._view is not None else None)
            try:
                count = self._connection.recv_into(view[got:])
            except TimeoutError:
                self.let_go()
                continue
            if not count:
                return None
            got += count
        return decode_request(view)

    def _send(self, request: Request) -> None:
        self._server.answered += 1
        self._connection.settimeout(self._server.stall_limit_s)
        if request.object_id != self._object_id:
            self.let_go()
            found = self._server.view(request.object_id)
            if isinstance(found, Status):
                self._connection.sendall(encode_answer(Answer(found, 0, 0, 0)))
                return
            self._object_id, self._view = request.object_id, found
        assert self._view is not None
        size, end = self._view.nbytes, request.offset + request.length
        if end > size:
            self._connection.sendall(encode_answer(Answer(Status.BAD_RANGE, size, 0, 0)))
            return
        self._connection.sendall(encode_answer(Answer(Status.OK, size, request.offset, request.length)))
        for start in range(request.offset, end, _SEND_BYTES):
            # In steps, so that the time limit is for a step and a slow peer is told from a silent one.
            self._connection.sendall(self._view[start : min(end, start + _SEND_BYTES)])
        self._server.sent_bytes += request.length


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
