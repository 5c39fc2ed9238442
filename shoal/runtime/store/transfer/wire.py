"""What two agents say while an object moves: fixed-size requests and answers, then bytes. Pure.

    request:  magic 4 | 0 4 | object id 24 | offset 8 | length 8 | crc32 of these 4                       = 52 bytes
    answer:   magic 4 | status 1 | 0 3 | object's size 8 | offset 8 | length 8 | crc32 of these 4         = 36 bytes
              followed by `length` bytes if the status is OK

A request of length 0 asks for the size only. Several requests may be under way on one connection; answers come in
order. Nothing else is ever said, so nothing has to be decoded, and every size is known before memory is taken for it.
"""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum

import msgspec

from shoal.foundation.errors import ProtocolError
from shoal.foundation.ids import OBJECT_ID_BYTES

_REQUEST = struct.Struct(f"<4sI{OBJECT_ID_BYTES}sQQ")
_ANSWER = struct.Struct("<4sB3sQQQ")
_SUM = struct.Struct("<I")
REQUEST_BYTES = _REQUEST.size + _SUM.size
ANSWER_BYTES = _ANSWER.size + _SUM.size
_ASK, _TELL = b"SHTQ", b"SHTA"
CHUNK_BYTES_MAX = 64 * 2**20
"""Longest range of one request."""


class Status(IntEnum):
    """How a request ended."""

    OK = 0
    ABSENT = 1  # not on that node, or no longer
    NO_ROOM = 2  # spilled there, and no memory to restore it into
    BAD_RANGE = 3


class Request(msgspec.Struct, frozen=True, gc=False):
    """Send me `length` bytes of an object from `offset` on."""

    object_id: bytes
    offset: int
    length: int


class Answer(msgspec.Struct, frozen=True, gc=False):
    """The beginning of an answer; `length` bytes follow."""

    status: Status
    size: int
    offset: int
    length: int


def encode_request(request: Request) -> bytes:
    """Return the bytes of a request."""
    return _sealed(_REQUEST.pack(_ASK, 0, request.object_id, request.offset, request.length))


def decode_request(data: bytes | memoryview) -> Request:
    """Return the request in REQUEST_BYTES of data.

    Raises:
        ProtocolError: it is none, or asks for more than one chunk.
    """
    magic, zero, object_id, offset, length = _REQUEST.unpack(_opened(data, _REQUEST.size))
    if magic != _ASK or zero or length > CHUNK_BYTES_MAX:
        raise ProtocolError("transfer: expected a request")
    return Request(object_id, offset, length)


def encode_answer(answer: Answer) -> bytes:
    """Return the bytes of an answer's beginning."""
    return _sealed(_ANSWER.pack(_TELL, answer.status, b"\0\0\0", answer.size, answer.offset, answer.length))


def decode_answer(data: bytes | memoryview) -> Answer:
    """Return the beginning of an answer in ANSWER_BYTES of data.

    Raises:
        ProtocolError: it is none.
    """
    magic, status, zero, size, offset, length = _ANSWER.unpack(_opened(data, _ANSWER.size))
    if magic != _TELL or zero != b"\0\0\0" or status not in Status._value2member_map_:
        raise ProtocolError("transfer: expected an answer")
    return Answer(Status(status), size, offset, length)


def _sealed(body: bytes) -> bytes:
    return body + _SUM.pack(zlib.crc32(body))


def _opened(data: bytes | memoryview, length: int) -> memoryview:
    view = memoryview(data)
    if _SUM.unpack(view[length:])[0] != zlib.crc32(view[:length]):
        raise ProtocolError("transfer: checksum of a header does not hold")
    return view[:length]
