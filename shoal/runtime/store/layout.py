"""How a value lies in memory: a header, the pickle, then its buffers, each at a multiple of 64 bytes.

    magic 4 | format 2 | 0 2 | buffers 4 | 0 4 | pickle's length 8 | total length 8       = 32 bytes
    per buffer: offset 8 | length 8, from the start of the value
    the pickle
    buffer 0 ... buffer n-1

The same bytes stand in a segment, in an inline value, in a spill file and on the wire. All numbers are little-endian.
Pure but for the copying.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from shoal.runtime.store.errors import BadLayout

ALIGNMENT = 64
MAGIC = b"SHV1"
HEADER = struct.Struct("<4sHHIIQQ")
_PAIR = 16
BUFFERS_MAX = 1 << 24


class Plan:
    """Where each part of one value goes, relative to its start."""

    __slots__ = ("head", "offsets", "total")

    def __init__(self, format: int, pickle: bytes | memoryview, buffers: Sequence[memoryview]) -> None:
        count = len(buffers)
        table_end = HEADER.size + _PAIR * count
        cursor = table_end + len(pickle)
        if not count:
            self.offsets: list[int] = []
            self.total = cursor
            self.head = HEADER.pack(MAGIC, format, 0, 0, 0, len(pickle), cursor)
            return
        offsets: list[int] = []
        table: list[int] = []
        for buffer in buffers:
            cursor = (cursor + ALIGNMENT - 1) & -ALIGNMENT
            offsets.append(cursor)
            table += (cursor, buffer.nbytes)
            cursor += buffer.nbytes
        self.offsets = offsets
        self.total = cursor
        """Bytes from the first of the header to the last of the last buffer."""
        self.head = HEADER.pack(MAGIC, format, 0, count, 0, len(pickle), cursor) + struct.pack(f"<{2 * count}Q", *table)
        """Header and table; the pickle follows at once."""


def packed(plan: Plan, pickle: bytes | memoryview, buffers: Sequence[memoryview]) -> bytes:
    """Return the whole value as bytes, for inline use."""
    if not buffers:
        return plan.head + bytes(pickle)
    result = bytearray(plan.total)
    end = len(plan.head) + len(pickle)
    result[: len(plan.head)] = plan.head
    result[len(plan.head) : end] = pickle
    for offset, buffer in zip(plan.offsets, buffers, strict=True):
        result[offset : offset + buffer.nbytes] = buffer
    return bytes(result)


def parts(view: memoryview) -> tuple[int, memoryview, list[memoryview]]:
    """Return (format, pickle, buffers) as views of `view`, which may be longer than the value.

    Raises:
        BadLayout: it holds no value, or less of it than its header says.
    """
    size = view.nbytes
    if size < HEADER.size:
        raise BadLayout(f"value: expected at least {HEADER.size} bytes, got {size}")
    magic, format, zero, count, zero_too, pickle_bytes, total = HEADER.unpack_from(view)
    if magic != MAGIC or zero or zero_too:
        raise BadLayout("value: no header where one was expected")
    start = HEADER.size + _PAIR * count
    if total > size or count > BUFFERS_MAX or start + pickle_bytes > total:
        raise BadLayout(f"value: header says {total} bytes with {count} buffers, got {size} bytes")
    pickle = view[start : start + pickle_bytes]
    if not count:
        return format, pickle, []
    table = struct.unpack_from(f"<{2 * count}Q", view, HEADER.size)
    buffers = []
    for index in range(0, 2 * count, 2):
        offset, length = table[index], table[index + 1]
        if offset + length > total:
            raise BadLayout(f"value: buffer {index // 2} ends at {offset + length}, beyond {total}")
        buffers.append(view[offset : offset + length])
    return format, pickle, buffers
