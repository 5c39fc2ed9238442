"""What a segment is, and the size classes. Pure.

A segment is a piece of a file in the node's directory. It belongs to the agent, is leased to one writer at a time, and
once an object is sealed in it, read by any number of processes. `populated` bytes from its start have memory behind
them; only these may be written through a mapping (beyond, a full file system would kill the writer).
"""

from __future__ import annotations

import msgspec

ARENA_BYTES = 16 * 2**20
"""Small segments are slots of files of this size."""
SLOT_BYTES_MAX = 2**20
"""Up to here segments are slots of an arena; larger ones are files of their own."""
SLOT_BYTES_MIN = 2**16


class Segment(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A piece of shared memory, as it is named between agent, writers and readers."""

    id: int
    name: str
    """The file's name in the node's directory; never used again for another file."""
    offset: int
    size: int
    """Bytes that may be used."""
    populated: int = 0


class Located(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Where a sealed object can be read on this node: file name, offset and length in bytes."""

    name: str
    offset: int
    size: int


def class_bytes(size: int) -> int:
    """Return the capacity of the segment that serves `size` bytes: 4 steps per doubling for slots, 8 for files.

    >>> class_bytes(100_000), class_bytes(2**20), class_bytes(800 * 2**20 + 64) // 2**20
    (114688, 1048576, 832)
    """
    if size <= SLOT_BYTES_MIN:
        return SLOT_BYTES_MIN
    steps = 4 if size <= SLOT_BYTES_MAX else 8
    step = max(1 << (size.bit_length() - 1), SLOT_BYTES_MIN) // steps
    return -(-size // step) * step
