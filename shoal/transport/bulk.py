"""Receiving on an event loop without streams: into one kept buffer, from which raw frames go where they belong.

A stream copies every byte three times before it is a message. For a peer that sends values as raw frames
(`wire/frames.py`) that is most of the work; here they are received once and handed on from a buffer that stays in the
processor's cache. Messages wait as with a stream: reading pauses while too much of them does.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from shoal.foundation.errors import ShoalError
from shoal.wire.frames import FrameReader

BUFFER_BYTES = 2**18
HELD_BYTES_MAX = 2 * 2**20
"""So many bytes of messages may wait to be handled before reading pauses."""


class BulkProtocol(asyncio.BufferedProtocol):
    """Takes over a connection's receiving half; writing stays with the stream, which hears what it must know."""

    def __init__(self, transport: asyncio.Transport, stream: Any, frames: FrameReader) -> None:
        self._transport, self._stream, self._frames = transport, stream, frames
        self._view = memoryview(bytearray(BUFFER_BYTES))
        self._messages: list[Any] = []
        self._held_bytes = 0
        self._is_paused = self._is_over = False
        self._error: ShoalError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def feed(self, data: memoryview | bytes) -> None:
        """Take bytes that have arrived."""
        try:
            found = [message for body in self._frames.feed(data) for message in body]
        except ShoalError as error:  # the peer broke the rules: whoever receives hears of it
            self._error = error
            self._pause()
            self._wake()
            return
        if found:
            self._messages += found
            self._held_bytes += len(data)
            if self._held_bytes > HELD_BYTES_MAX:
                self._pause()
            self._wake()

    async def receive(self) -> list[Any]:
        """Return the messages that have arrived, none once the peer is gone. Raises what a frame reader raises."""
        while not self._messages and not self._is_over:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        messages, self._messages, self._held_bytes = self._messages, [], 0
        if self._is_paused and self._error is None:
            self._is_paused = False
            with contextlib.suppress(RuntimeError):  # it is closing
                self._transport.resume_reading()
        return messages

    # ---------------------------------------------------------------------------------------------- for the transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        self.feed(self._view[:nbytes])

    def eof_received(self) -> bool:
        self._is_over = True
        self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_over = True
        self._wake()
        self._stream.connection_lost(exc)

    def pause_writing(self) -> None:
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        self._stream.resume_writing()

    # ---------------------------------------------------------------------------------------------- inside

    def _pause(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            with contextlib.suppress(RuntimeError):
                self._transport.pause_reading()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
