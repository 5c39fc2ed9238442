"""Frames: a u32 length (little-endian) and a msgpack list of messages. Pure; sockets are elsewhere.

Where both sides agreed to it, frames of raw bytes may stand between them: the length with its highest bit set, then
two u64 that say what the bytes are, then the bytes, which nobody encodes or copies:

    length + 16 with bit 31   4 | key 8 | offset 8 | the bytes

A frame is read only after the hello; until then not one byte is interpreted here. Every limit is checked before
memory is taken for it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from shoal.foundation.errors import LimitExceeded, ProtocolError

FRAME_BYTES_MAX = 256 * 2**20
"""Longest frame that is read; larger values travel through the object store."""

LENGTH = struct.Struct("<I")
RAW_BIT = 1 << 31
RAW_HEAD = struct.Struct("<IQQ")
RAW_BYTES_MAX = 4 * 2**20
"""The most bytes of one raw frame: messages never wait for more."""
_encode = msgspec.msgpack.Encoder().encode
_decode_any = msgspec.msgpack.Decoder().decode


def frame(messages: Sequence[Any], *, bytes_max: int = FRAME_BYTES_MAX) -> bytes:
    """Return one frame that holds `messages`.

    Raises:
        LimitExceeded: it would be longer than `bytes_max`.
    """
    body = _encode(messages)
    if len(body) > bytes_max:
        raise LimitExceeded(f"frame: {len(body)} bytes, at most {bytes_max}")
    return LENGTH.pack(len(body)) + body


def raw_head(key: int, offset: int, length: int) -> bytes:
    """Return what stands before `length` raw bytes."""
    return RAW_HEAD.pack((length + RAW_HEAD.size - LENGTH.size) | RAW_BIT, key, offset)


def raw_of(head: tuple[int, int, int]) -> tuple[int, int, int] | None:
    """Return (key, offset, length) of an unpacked `RAW_HEAD`, None if it announces what is not allowed."""
    length = (head[0] & ~RAW_BIT) - (RAW_HEAD.size - LENGTH.size)
    return (head[1], head[2], length) if 0 < length <= RAW_BYTES_MAX else None


class FrameReader:
    """Cuts a byte stream into frames and decodes them.

    `type` is what a frame's body must be (a msgspec type, such as `list[A | B]`); anything else is a
    ProtocolError. Holds at most one incomplete frame of at most `bytes_max`.
    """

    def __init__(self, type: Any = list[Any], *, bytes_max: int = FRAME_BYTES_MAX) -> None:
        self._decode = _decode_any if type is None else msgspec.msgpack.Decoder(type).decode
        self._bytes_max = bytes_max
        self._rest = bytearray()
        self._take_raw: Callable[[int, int, memoryview], None] | None = None
        self._raw = (0, 0, 0)
        """Key, offset and number of the raw bytes that are still to come."""

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[Any]:
        """Yield the body of every frame that `data` completes.

        Raises:
            LimitExceeded: a frame announces more than `bytes_max`.
            ProtocolError: a body is not what was expected.
        """
        if self._raw[2]:
            with memoryview(data) as view:
                taken = self._taken(view)
                if taken == len(view):
                    return
                data = bytes(view[taken:])
        rest = self._rest
        rest += data
        start, size = 0, len(rest)
        try:
            while size - start >= 4:
                (length,) = LENGTH.unpack_from(rest, start)
                if length & RAW_BIT and self._take_raw is not None:
                    if size - start < RAW_HEAD.size:
                        break
                    raw = raw_of(RAW_HEAD.unpack_from(rest, start))
                    if raw is None:
                        raise LimitExceeded(f"frame: {length - RAW_BIT} raw bytes announced, at most {RAW_BYTES_MAX}")
                    self._raw = raw
                    start += RAW_HEAD.size
                    with memoryview(rest) as view, view[start:] as come:
                        start += self._taken(come)
                    continue
                if length > self._bytes_max:
                    raise LimitExceeded(f"frame: {length} bytes announced, at most {self._bytes_max}")
                end = start + 4 + length
                if end > size:
                    break
                with memoryview(rest) as view, view[start + 4 : end] as body:
                    decoded = self._decoded(body)
                start = end
                yield decoded
        finally:
            if start:
                del rest[:start]

    def take_raw(self, take: Callable[[int, int, memoryview], None]) -> None:
        """Allow raw frames from now on: `take(key, offset, bytes)` gets them, in as many parts as they come in."""
        self._take_raw = take

    def _taken(self, come: memoryview) -> int:
        """Hand on what has come of a raw frame; return how many bytes that was."""
        assert self._take_raw is not None
        key, offset, left = self._raw
        count = min(left, len(come))
        if count:
            self._raw = (key, offset + count, left - count)
            with come[:count] as part:
                self._take_raw(key, offset, part)
        return count

    def leave_undecoded(self) -> None:
        """From the next frame on, yield bodies as they came, as `bytes`: for whoever passes them on."""
        self._decode = bytes

    @property
    def bytes_waiting(self) -> int:
        """How many bytes of an incomplete frame are held."""
        return len(self._rest)

    def _decoded(self, body: memoryview) -> Any:
        try:
            return self._decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolError(f"frame of {len(body)} bytes: {error}") from error
