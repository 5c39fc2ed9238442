"""One authenticated connection on an event loop: frames in, frames out, batched, with limits both ways.

Used by head, agent, autoscaler and tools. Drivers and workers use the blocking dialler of `dial` with a reactor
of their own. Encryption is the `ssl_context`, identity the `authenticator`; neither is optional in signature,
so that no caller forgets to decide.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from shoal.foundation.errors import AuthenticationError, LimitExceeded, NoAnswer, ProtocolError
from shoal.transport.address import Address, lose_after, peer_uid, tune, unix
from shoal.transport.bulk import BulkProtocol
from shoal.wire.frames import LENGTH, FrameReader, frame, raw_head
from shoal.wire.hello import (
    CLIENT_BYTES,
    HELLO_LIMIT_S,
    PROOF_BYTES,
    SERVER_BYTES,
    UNAUTHENTICATED_MAX,
    Authenticator,
    ClientHello,
    Role,
    ServerHello,
)

OUTBOX_BYTES_MAX = 64 * 2**20
"""How much may wait for a slow peer before the connection is given up."""
MESSAGES_PER_FRAME_MAX = 512


class Connection:
    """A peer that has proven its role. Messages sent in one turn of the loop leave as one frame."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, role: Role, type: Any = list[Any]
    ) -> None:
        self.role = role
        self.peer = str(writer.get_extra_info("peername") or "")
        self.is_closed = False
        self._reader, self._writer = reader, writer
        self._frames = FrameReader(type)
        self._bulk: BulkProtocol | None = None
        self._outbox: list[Any] = []
        self._is_flush_due = False
        self._loop = asyncio.get_running_loop()

    def send(self, message: Any) -> None:
        """Queue one message; it leaves at the end of this turn of the loop. Quiet once closed."""
        if self.is_closed:
            return
        self._outbox.append(message)
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write everything queued now."""
        self._is_flush_due = False
        outbox = self._outbox
        if not outbox or self.is_closed or self._writer.transport.is_closing():
            return
        self._outbox = []
        for start in range(0, len(outbox), MESSAGES_PER_FRAME_MAX):
            self._writer.write(frame(outbox[start : start + MESSAGES_PER_FRAME_MAX]))
        self._limit_outbox()

    def _limit_outbox(self) -> None:
        if self._writer.transport.get_write_buffer_size() > OUTBOX_BYTES_MAX:
            # A peer that does not read for so long is as good as gone; waiting would cost everybody's memory.
            self.abort()

    async def drain(self) -> None:
        """Wait until the peer has taken what was written."""
        self.flush()
        await self._writer.drain()

    async def receive(self) -> list[Any] | None:
        """Return the messages of everything that arrived, None once the peer is gone.

        Raises:
            ProtocolError, LimitExceeded: the peer broke the rules; close.
        """
        if self._bulk is not None:
            found = await self._bulk.receive()
            if not found:
                self.abort()
                return None
            return found
        while True:
            data = await self._read()
            if not data:
                self.abort()
                return None
            messages = [message for body in self._frames.feed(data) for message in body]
            if messages:
                return messages

    async def receive_bodies(self) -> list[bytes] | None:
        """Return the bodies of the frames that arrived as they are, None once the peer is gone: for passing them on.

        After the first call `receive` must not be used any more. Raises as `receive`.
        """
        self._frames.leave_undecoded()
        while data := await self._read():
            bodies = list(self._frames.feed(data))
            if bodies:
                return bodies
        self.abort()
        return None

    async def take_raw(self, take: Callable[[int, int, memoryview], None]) -> None:
        """Allow the peer raw frames from now on, and receive them uncopied: `take(key, offset, bytes)`, in parts."""
        self._frames.take_raw(take)
        transport: Any = self._writer.transport
        transport.pause_reading()
        stream = transport.get_protocol()
        self._bulk = BulkProtocol(transport, stream, self._frames)
        transport.set_protocol(self._bulk)
        self._reader.feed_eof()  # nothing comes that way any more: what is left there is all there is
        self._bulk.feed(await self._reader.read())
        transport.resume_reading()

    def send_raw(self, key: int, data: memoryview) -> None:
        """Write a raw frame at once, after what is queued. Whatever `data` looks at must stay until it has left."""
        if not self.is_closed:
            self.flush()
            self._writer.writelines((raw_head(key, 0, len(data)), data))
            self._limit_outbox()

    def forward(self, body: bytes) -> None:
        """Write one frame that somebody else has encoded, at once. Quiet once closed."""
        if not self.is_closed and not self._writer.transport.is_closing():
            self._writer.writelines((LENGTH.pack(len(body)), body))
            self._limit_outbox()

    def lose_after(self, silent_s: float) -> None:
        """Break the connection once the other host has been silent for so long (TCP only; whole seconds)."""
        sock = self._writer.get_extra_info("socket")
        if sock is not None:
            lose_after(sock.fileno(), silent_s)

    async def serve(self, handle: Callable[[Connection, list[Any]], Awaitable[None] | None]) -> None:
        """Give every batch of messages to `handle` until the peer is gone or breaks the rules."""
        while (messages := await self.receive()) is not None:
            waiting = handle(self, messages)
            if waiting is not None:
                await waiting

    async def close(self) -> None:
        """Flush what is queued and close."""
        self.flush()
        self.is_closed = True
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError, ssl.SSLError):
            await asyncio.wait_for(self._writer.wait_closed(), 1.0)

    def abort(self) -> None:
        """Close at once; what is queued is lost."""
        self.is_closed = True
        self._writer.transport.abort()

    async def _read(self) -> bytes:
        try:
            return await self._reader.read(262_144)
        except (ConnectionError, ssl.SSLError, OSError):
            return b""


class Listener:
    """Accepts connections on one address and hands over those whose hello holds."""

    def __init__(
        self,
        ssl_context: ssl.SSLContext | None,
        authenticator: Authenticator,
        handle: Callable[[Connection], Awaitable[None]],
        *,
        type: Any = list[Any],
        hello_limit_s: float = HELLO_LIMIT_S,
        unauthenticated_max: int = UNAUTHENTICATED_MAX,
    ) -> None:
        self._ssl, self._authenticator, self._handle, self._type = ssl_context, authenticator, handle, type
        self._hello_limit_s, self._unauthenticated_max = hello_limit_s, unauthenticated_max
        self._unauthenticated = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections: set[Connection] = set()
        self.refused: collections.Counter[str] = collections.Counter()
        """How many connections were turned away, by reason."""
        self.address: Address | None = None

    async def start(self, address: Address) -> Address:
        """Listen there and return the real address (a port of 0 is filled in).

        Raises:
            OSError: the address cannot be bound.
        """
        if address.scheme == "unix":
            self._server = await asyncio.start_unix_server(self._accepted, path=address.host, limit=2**20)
            Path(address.host).chmod(0o600)
            self.address = address
        else:
            self._server = await asyncio.start_server(
                self._accepted,
                address.host,
                address.port,
                limit=2**20,
                ssl=self._ssl,
                ssl_handshake_timeout=self._hello_limit_s if self._ssl else None,
            )
            port = self._server.sockets[0].getsockname()[1]
            self.address = Address("tcp", address.host, port)
        return self.address

    async def close(self) -> None:
        """Stop listening, end every connection, remove the socket's file."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=2.0)
        for connection in tuple(self.connections):
            connection.abort()
        if self.address is not None and self.address.scheme == "unix":
            Path(self.address.host).unlink(missing_ok=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            connection = await self._greeted(reader, writer)
            if connection is None:
                writer.transport.abort()
                return
            self.connections.add(connection)
            try:
                await self._handle(connection)
            except (ProtocolError, LimitExceeded) as error:
                self.refused[type(error).__name__] += 1
            finally:
                self.connections.discard(connection)
                connection.is_closed = True
                writer.transport.abort()
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._tasks.discard(task)

    async def _greeted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Connection | None:
        """Return the connection once the hello holds, None (counted in `refused`) if it does not."""
        if self._unauthenticated >= self._unauthenticated_max:
            self.refused["too many"] += 1
            return None
        self._unauthenticated += 1
        try:
            async with asyncio.timeout(self._hello_limit_s):
                role = await self._hello(reader, writer)
            return Connection(reader, writer, role, self._type)
        except TimeoutError:
            self.refused["slow"] += 1
        except AuthenticationError:
            self.refused["secret"] += 1
        except (ProtocolError, asyncio.IncompleteReadError, ConnectionError, OSError):
            self.refused["garbage"] += 1
        finally:
            self._unauthenticated -= 1
        return None

    async def _hello(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Role:
        sock = writer.get_extra_info("socket")
        owner = peer_uid(sock)
        if owner is not None and owner not in (os.getuid(), 0):
            raise AuthenticationError("hello: another user's process")
        tune(sock)
        hello = ServerHello(self._authenticator)
        writer.write(hello.answer(await reader.readexactly(CLIENT_BYTES)))
        await writer.drain()
        if hello.is_refused:
            raise AuthenticationError("hello: refused")
        return hello.check(await reader.readexactly(PROOF_BYTES))


async def dial(
    address: Address,
    ssl_context: ssl.SSLContext | None,
    authenticator: Authenticator,
    *,
    role: Role | None = None,
    type: Any = list[Any],
    limit_s: float = 5.0,
) -> Connection:
    """Return an authenticated connection to `address`.

    Raises:
        OSError, TimeoutError: nobody answers there.
        AuthenticationError, ProtocolError: somebody does, but not our cluster.
    """
    async with asyncio.timeout(limit_s):
        if address.scheme == "unix":
            reader, writer = await asyncio.open_unix_connection(unix(Path(address.host)).host, limit=2**20)
        else:
            reader, writer = await asyncio.open_connection(address.host, address.port, limit=2**20, ssl=ssl_context)
        try:
            tune(writer.get_extra_info("socket"))
            hello = ClientHello(authenticator, role=role)
            writer.write(hello.first)
            writer.write(hello.reply(await reader.readexactly(SERVER_BYTES)))
            await writer.drain()
        except asyncio.IncompleteReadError as error:
            writer.transport.abort()
            raise NoAnswer("hello: the other side closed without an answer") from error
        except BaseException:
            writer.transport.abort()
            raise
    return Connection(reader, writer, authenticator.role if role is None else role, type)
