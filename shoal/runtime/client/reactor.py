"""The sockets of a driver or worker: one epoll set, read by whichever thread leads at the moment.

A thread that waits for a result polls the sockets itself (the leader); other waiting threads follow and take over
when it leaves. A helper thread leads while nobody else does. Compared with a dedicated reader thread this saves one
hand-over per synchronous call. Nobody ever spins.

A `Link` batches: what is queued leaves as one frame at `flush`. It never blocks: when the socket is full the rest
waits for EPOLLOUT and further messages stay unencoded, so that back-pressure makes batches larger.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from shoal.foundation.errors import ShoalError
from shoal.transport import blocking
from shoal.wire.frames import FRAME_BYTES_MAX, LENGTH, RAW_BIT, RAW_HEAD, raw_head, raw_of
from shoal.wire.hello import UNAUTHENTICATED_MAX, Authenticator

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_pack_length, _length_at = LENGTH.pack, LENGTH.unpack_from

BUFFER_BYTES = 1 << 18
# 256 KiB read into a kept buffer: `recv(262144)` would allocate, fault and free them on every call (about 25 us).
MESSAGES_PER_FRAME = 512
FRAME_SOFT_BYTES = 8 * 2**20
"""A batch that encodes to more than this goes out in smaller frames next time; bounds memory, not messages."""


class Link:
    """One authenticated peer. What it has not answered, by number: `pending` the work we gave it, `asked` values."""

    __slots__ = (
        "__weakref__",
        "_leftover",
        "_reactor",
        "_send",
        "_sock",
        "_write_lock",
        "addresses",
        "asked",
        "fd",
        "is_closed",
        "is_lossy",
        "is_tls",
        "known",
        "lease",
        "out",
        "partial",
        "peer",
        "pending",
        "raw",
        "role",
        "state",
    )

    def __init__(self, sock: socket.socket, reactor: Reactor) -> None:
        self._sock, self._reactor, self._send = sock, reactor, sock.send
        self._set_up()
        self.fd = sock.fileno()
        self.is_tls = isinstance(sock, ssl.SSLSocket)
        self.is_lossy = sock.family != socket.AF_UNIX

    def _set_up(self) -> None:
        self.is_tls = self.is_lossy = False
        """`is_lossy`: it may break, and lose what is under way, while both processes live; a Unix socket never does."""
        self._write_lock = threading.Lock()
        self._leftover: memoryview | None = None
        self.partial: bytearray | None = None
        self.raw: _Raw | None = None
        """The raw bytes that are coming."""
        self.out: list[Any] = []
        self.pending: dict[int, Any] = {}
        self.asked: dict[int, Any] = {}
        # Apart from `pending`: a worker that owes us nothing but the value of somebody's ref has no work of ours.
        self.known: set[bytes] = set()
        self.lease: Any = None
        self.is_closed = False
        self.peer = b""
        self.addresses: list[str] = []
        self.role = 0
        self.state: Any = None
        """Whatever the owner of the link wants to find again: a caller's record, an actor's state."""

    def flush(self) -> None:
        """Send what is queued, as far as the socket takes it."""
        if self._leftover is not None:
            return
        with self._write_lock:
            if self._leftover is not None:
                return
            out = self.out
            while out:
                count = len(out)
                if count > MESSAGES_PER_FRAME:
                    batch = out[:MESSAGES_PER_FRAME]
                    count = MESSAGES_PER_FRAME
                else:
                    batch = out[:count]
                del out[:count]
                if not self._write(_frame_of(batch)):
                    return

    def _write(self, data: bytes | memoryview) -> bool:
        """Send one frame; False if the socket is full or gone."""
        try:
            sent = self._send(data)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            sent = 0
        except (OSError, ValueError):
            self.is_closed = True  # the reader sees the end of file and cleans up
            return False
        if sent < len(data):
            self._leftover = memoryview(data)[sent:]
            self._reactor.want_write(self, True)
            return False
        return True

    def on_writable(self) -> None:
        """Send the rest of a frame that the socket did not take at once."""
        with self._write_lock:
            rest = self._leftover
            while rest is not None:  # TLS takes one record at a time
                try:
                    sent = self._send(rest)
                except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                    return
                except (OSError, ValueError):
                    self.is_closed, self._leftover = True, None
                    return
                rest = self._leftover = rest[sent:] if sent < len(rest) else None
                if rest is not None and not self.is_tls:
                    return
            self._reactor.want_write(self, False)
        self.flush()

    @property
    def is_writable(self) -> bool:
        """Whether nothing waits for room in the socket. False once closed, too, but for good."""
        return self._leftover is None

    def send_raw(self, key: int, offset: int, data: memoryview) -> bool:
        """Send one raw frame, uncopied (`wire/frames.py`); False if the socket is busy: not one byte was taken then.

        `data` must stay until `is_writable`.
        """
        head = raw_head(key, offset, len(data))
        with self._write_lock:
            if self._leftover is not None or self.is_closed:
                return False
            if self._write(head):
                self._write(data)
            elif self._leftover is not None:  # hardly ever: not even the head found room
                self._leftover = memoryview(b"".join((self._leftover, data)))
            return True

    def receive_into(self, buffer: bytearray | mmap.mmap | memoryview) -> int:
        """Return how many bytes were read, 0 at the end.

        Raises:
            BlockingIOError, ssl.SSLWantReadError: nothing is there.
        """
        if not self.is_tls:
            return self._sock.recv_into(buffer)
        with self._write_lock:  # one TLS session must not be read and written at once
            return self._sock.recv_into(buffer)

    @property
    def has_more(self) -> bool:
        """Whether TLS holds decrypted bytes that epoll does not know of."""
        return self.is_tls and not self.is_closed and self._sock.pending() > 0  # type: ignore[attr-defined]

    def close(self) -> None:
        """Close the socket; the reactor has let go of it."""
        self.is_closed = True
        self._sock.close()


class _Raw:
    """The rest of a raw frame: where it goes, None for nowhere, and how many bytes are still to come."""

    __slots__ = ("key", "left", "target")

    def __init__(self, key: int, target: memoryview | None, left: int) -> None:
        self.key, self.target, self.left = key, target, left


class Reactor:
    """The links of this process, its listeners, and the lock of whoever reads them."""

    def __init__(self, handle: Callable[[Link, list[Any]], None], closed: Callable[[Link], None]) -> None:
        self._epoll = select.epoll()
        self._poll = self._epoll.poll
        self.links: dict[int, Link] = {}
        self.lock = threading.Lock()
        """Held by the thread that leads."""
        # Mapped, so that pages take memory only once they are read into: idle workers never fill most of it.
        self._buffer = mmap.mmap(-1, BUFFER_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._view = memoryview(self._buffer)
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._handle, self._closed = handle, closed
        self.raw_target: Callable[[Link, int, int], memoryview | None] = lambda link, key, length: None
        """Where the raw bytes of a link go, by key and number of bytes; None: they are not wanted."""
        self.raw_done: Callable[[Link, int], None] = lambda link, key: None
        self.takes_raw: Callable[[Link], bool] = lambda link: False
        self._listeners: dict[
            int, tuple[socket.socket, ssl.SSLContext | None, Authenticator, Callable[[Link], None]]
        ] = {}
        self._unauthenticated = 0
        self.polls = 0
        """How often anybody polled: the helper sees from it whether somebody leads."""

    @property
    def fd(self) -> int:
        """The epoll descriptor, for an event loop that watches all links at once."""
        return self._epoll.fileno()

    def add(self, sock: socket.socket) -> Link:
        """Watch an authenticated, non-blocking socket."""
        link = Link(sock, self)
        self.links[link.fd] = link
        self._epoll.register(link.fd, select.EPOLLIN)
        return link

    def listen(
        self,
        sock: socket.socket,
        ssl_context: ssl.SSLContext | None,
        authenticator: Authenticator,
        greeted: Callable[[Link], None],
    ) -> None:
        """Accept peers on a listening socket; `greeted` is called for each whose hello holds, before it is read."""
        sock.setblocking(False)
        self._listeners[sock.fileno()] = (sock, ssl_context, authenticator, greeted)
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def want_write(self, link: Link, is_wanted: bool) -> None:
        """Watch, or no longer, for room in the link's socket."""
        try:
            self._epoll.modify(link.fd, select.EPOLLIN | select.EPOLLOUT if is_wanted else select.EPOLLIN)
        except (OSError, ValueError):
            link.is_closed = True

    def kick(self) -> None:
        """Make the leader return from its poll."""
        os.eventfd_write(self._wake_fd, 1)

    def poll(self, timeout_s: float = -1) -> None:
        """Wait for events and handle them. Only with `lock` held."""
        self.polls += 1
        for fd, event in self._poll(timeout_s):
            link = self.links.get(fd)
            if link is None:
                self._other(fd)
                continue
            if event & select.EPOLLOUT:
                link.on_writable()
            if event & ~select.EPOLLOUT:
                self._read(link)
                while link.has_more:
                    self._read(link)

    def drop(self, link: Link) -> None:
        """Forget a link and close it. Its owner is told by `closed`. Only with `lock` held, or before anybody polls."""
        if self.links.pop(link.fd, None) is None:
            return
        try:
            self._epoll.unregister(link.fd)
        except (OSError, ValueError):
            pass
        link.close()
        self._closed(link)

    def close(self) -> None:
        """Close everything, telling nobody. Nobody may poll any more."""
        for link in tuple(self.links.values()):
            link.close()
        self.links.clear()
        for sock, *_ in self._listeners.values():
            sock.close()
        self._listeners.clear()
        self._epoll.close()
        os.close(self._wake_fd)

    def close_in_child(self) -> None:
        """After a fork by user code: let go of every descriptor without a word to anybody."""
        for fd in (*self.links, *self._listeners, self._epoll.fileno(), self._wake_fd):
            try:
                os.close(fd)
            except OSError:
                pass

    def _read(self, link: Link) -> None:
        if link.raw is not None:
            self._read_raw(link, link.raw)
            return
        try:
            count = link.receive_into(self._buffer)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except (OSError, ValueError):
            count = 0
        if count == 0:
            self.drop(link)
            return
        view, partial = self._view, link.partial
        if partial is not None:
            partial += view[:count]
            length = _length_at(partial, 0)[0] if len(partial) >= 4 else FRAME_BYTES_MAX
            is_raw = length & RAW_BIT and len(partial) >= RAW_HEAD.size and self.takes_raw(link)
            if len(partial) - 4 < length and not is_raw:
                if length > FRAME_BYTES_MAX and not (length & RAW_BIT and self.takes_raw(link)):
                    self.drop(link)
                return
            view, count = memoryview(partial), len(partial)
            link.partial = None
        start = 0
        handle = self._handle
        try:
            while count - start >= 4:
                length = _length_at(view, start)[0]
                end = start + 4 + length
                if end > count:
                    if length & RAW_BIT and self.takes_raw(link):
                        if count - start < RAW_HEAD.size:
                            break
                        start = self._begin_raw(link, view[start:count], start)
                        if start < 0:
                            return
                        continue
                    if length > FRAME_BYTES_MAX:
                        self.drop(link)
                        return
                    break
                messages = _decode(view[start + 4 : end])
                start = end
                handle(link, messages)
        except msgspec.DecodeError:
            self.drop(link)
            return
        if start < count:
            link.partial = bytearray(view[start:count])

    def _begin_raw(self, link: Link, view: memoryview, start: int) -> int:
        """Take what is here of a raw frame; return where the next frame begins, -1 if it is not here yet, or never."""
        raw = raw_of(RAW_HEAD.unpack_from(view))
        target = None if raw is None else self.raw_target(link, raw[0], raw[2])
        if raw is None or raw[1] or (target is not None and len(target) != raw[2]):
            self.drop(link)
            return -1
        key, _, length = raw
        here = min(length, len(view) - RAW_HEAD.size)
        if target is not None:
            target[:here] = view[RAW_HEAD.size : RAW_HEAD.size + here]
            target = target[here:]
        if here < length:
            link.raw = _Raw(key, target, length - here)
            return -1
        self.raw_done(link, key)
        return start + RAW_HEAD.size + here

    def _read_raw(self, link: Link, raw: _Raw) -> None:
        """Receive raw bytes right where they belong, as many as are there."""
        while raw.left:
            target = raw.target if raw.target is not None else self._view[: raw.left]
            try:
                count = link.receive_into(target)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except (OSError, ValueError):
                count = 0
            if count == 0:
                self.drop(link)
                return
            raw.left -= count
            if raw.target is not None:
                raw.target = raw.target[count:]
        link.raw = None
        self.raw_done(link, raw.key)

    def _other(self, fd: int) -> None:
        if fd == self._wake_fd:
            try:
                os.eventfd_read(self._wake_fd)
            except BlockingIOError:
                pass
            return
        listener = self._listeners.get(fd)
        if listener is not None:
            self._accept(*listener)

    def _accept(
        self,
        sock: socket.socket,
        ssl_context: ssl.SSLContext | None,
        authenticator: Authenticator,
        greeted: Callable[[Link], None],
    ) -> None:
        while True:
            try:
                peer, _ = sock.accept()
            except OSError:
                return
            if self._unauthenticated >= UNAUTHENTICATED_MAX:
                peer.close()
                continue
            self._unauthenticated += 1
            # The hello waits for the other side, at most 2 s, so it gets a thread of its own.
            threading.Thread(
                target=self._greet, args=(peer, ssl_context, authenticator, greeted), name="shoal-hello", daemon=True
            ).start()

    def _greet(
        self,
        peer: socket.socket,
        ssl_context: ssl.SSLContext | None,
        authenticator: Authenticator,
        greeted: Callable[[Link], None],
    ) -> None:
        try:
            sock, role = blocking.answer(peer, ssl_context, authenticator)
        except (OSError, ShoalError):
            return
        finally:
            self._unauthenticated -= 1
        try:
            link = Link(sock, self)
            link.role = role
            greeted(link)
            self.links[link.fd] = link
            self._epoll.register(link.fd, select.EPOLLIN)
        except (OSError, ValueError):
            sock.close()  # we ended meanwhile


def _frame_of(batch: list[Any]) -> bytes:
    body = body_of(batch)
    return _pack_length(len(body)) + body


def body_of(batch: list[Any]) -> bytes:
    """Return a frame's body. A message that msgpack cannot hold (a lone surrogate in a str) is mended by its pickle."""
    try:
        return _encode(batch)
    except (ValueError, TypeError, OverflowError, UnicodeEncodeError):
        from shoal.runtime.client.codec import mended

        return _encode([mended(message) for message in batch])
