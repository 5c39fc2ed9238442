"""Shared memory without numpy: mappings with addresses.

Python's `mmap` hides its address and copies under the interpreter's lock, so files are mapped through libc. A mapping
shows itself as memoryviews over an *exporter*: a ctypes object at the mapping's address. Whatever reads the memory
(a numpy array, a slice of a memoryview) keeps the exporter alive, and nothing else does: its end is the one reliable
sign that nobody looks at the bytes any more. `Exporter` therefore carries a note of what it stands for.

Addresses are trusted here: nobody outside this folder makes one.
"""

from __future__ import annotations

import collections
import ctypes
import mmap
import os
import sys
from typing import Any

_POPULATE_READ, _POPULATE_WRITE = 22, 23  # Linux 5.14; older kernels answer EINVAL, and pages fault in one by one
_ENDLESS = 1 << 46  # longer than any mapping; views are cut to length

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_FAILED = ctypes.c_void_p(-1).value


class Exporter(ctypes.Array):  # type: ignore[type-arg]
    """The owner of every view of one piece of mapped memory.

    With `note` set, it is appended to `notes` when the last view is gone. That may happen anywhere, even while locks
    are held, so it does nothing else.
    """

    _type_ = ctypes.c_char
    _length_ = _ENDLESS

    mapping: Any = None
    note: Any = None
    notes: collections.deque[Any] | None = None

    def __del__(self) -> None:
        notes = self.notes
        if notes is not None:
            notes.append(self.note)


class Mapping:
    """A file mapped from its start, or memory of our own. Close it only when nothing exported from it lives."""

    __slots__ = ("address", "in_page_table", "is_writable", "size", "view")

    def __init__(self, file_descriptor: int, size: int, *, is_writable: bool) -> None:
        """Map `size` bytes; the descriptor may be closed afterwards. With -1 it is memory of this process alone.

        Raises:
            OSError: the system refuses.
        """
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if is_writable else 0)
        flags = mmap.MAP_SHARED if file_descriptor >= 0 else mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        address = _libc.mmap(None, size, protection, flags, file_descriptor, 0)
        if address is None or address == _FAILED:
            number = ctypes.get_errno()
            raise OSError(number, f"cannot map {size} bytes: {os.strerror(number)}")
        self.address: int = address
        self.size = size
        self.is_writable = is_writable
        self.in_page_table: dict[int, int] = {}
        """Offsets of segments that were written through this mapping, and up to where."""
        self.view: memoryview | None = view_at(address, size) if is_writable else None

    def export(self, offset: int, length: int, notes: collections.deque[Any], note: Any) -> memoryview:
        """Return a read-only view of a part; `note` goes to `notes` when the last object that looks at it is gone."""
        exporter = Exporter.from_address(self.address + offset)
        exporter.mapping = self
        exporter.note = note
        exporter.notes = notes
        return memoryview(exporter).cast("B")[:length].toreadonly()

    def populate(self, offset: int, length: int, *, is_new: bool = False) -> bool:
        """Bring the page table up to date for a part in one call, so that touching it costs no faults.

        Without `is_new` the pages must have memory; with it they get some. False: the system cannot, or has no memory.
        """
        # Read faults: they put sixteen pages at once into the table, and shared memory is as writable through them.
        if sys.platform != "linux":
            return False
        start = offset & ~(mmap.PAGESIZE - 1)
        advice = _POPULATE_WRITE if is_new else _POPULATE_READ
        return not _libc.madvise(self.address + start, offset + length - start, advice)

    def close(self) -> None:
        """Unmap. The memory must not be touched again."""
        if self.address:
            self.view = None
            _libc.munmap(self.address, self.size)
            self.address = 0


def view_at(address: int, length: int) -> memoryview:
    """Return a writable view of our own mapped memory."""
    return memoryview(Exporter.from_address(address)).cast("B")[:length]
