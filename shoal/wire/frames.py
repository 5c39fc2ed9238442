"""Frames: a u32 length (little-endian) and a msgpack list of messages. Pure; sockets are elsewhere.

A frame is read only after the hello; until then not one byte is interpreted here. Every limit is checked before
memory is taken for it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from shoal.foundation.errors import LimitExceeded, ProtocolError

FRAME_BYTES_MAX = 256 * 2**20
"""Longest frame that is read; larger values travel through the object store."""

LENGTH = struct.Struct("<I")
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


class FrameReader:
    """Cuts a byte stream into frames and decodes them.

    `type` is what a frame's body must be (a msgspec type, such as `list[A | B]`); anything else is a
    ProtocolError. Holds at most one incomplete frame of at most `bytes_max`.
    """

    def __init__(self, type: Any = list[Any], *, bytes_max: int = FRAME_BYTES_MAX) -> None:
        self._decode = _decode_any if type is None else msgspec.msgpack.Decoder(type).decode
        self._bytes_max = bytes_max
        self._rest = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[Any]:
        """Yield the body of every frame that `data` completes.

        Raises:
            LimitExceeded: a frame announces more than `bytes_max`.
            ProtocolError: a body is not what was expected.
        """
        rest = self._rest
        rest += data
        start, size = 0, len(rest)
        try:
            while size - start >= 4:
                (length,) = LENGTH.unpack_from(rest, start)
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
