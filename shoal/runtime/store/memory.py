"""Shared memory without numpy: mappings with addresses, copies that let other threads run.

Python's `mmap` hides its address and copies under the interpreter's lock, so files are mapped through libc. A mapping
shows itself as memoryviews over an *exporter*: a ctypes object at the mapping's address. Whatever reads the memory
(a numpy array, a slice of a memoryview) keeps the exporter alive, and nothing else does: its end is the one reliable
sign that nobody looks at the bytes any more. `Exporter` therefore carries a note of what it stands for.

Addresses are trusted here: nobody outside this folder makes one.
"""

from __future__ import annotations

import collections
import ctypes
import itertools
import mmap
import os
import threading
from collections.abc import Callable
from typing import Any

PARALLEL_COPY_BYTES = 4 * 2**20
"""From here on a copy is shared by two threads."""
_MANY_HELPERS_BYTES = 64 * 2**20
_HELPERS_MAX = 3
_CHUNK_BYTES = 256 * 2**10
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

    __slots__ = ("address", "is_writable", "size", "view")

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
        self.view: memoryview | None = view_at(address, size) if is_writable else None

    def export(self, offset: int, length: int, notes: collections.deque[Any], note: Any) -> memoryview:
        """Return a read-only view of a part; `note` goes to `notes` when the last object that looks at it is gone."""
        exporter = Exporter.from_address(self.address + offset)
        exporter.mapping = self
        exporter.note = note
        exporter.notes = notes
        return memoryview(exporter).cast("B")[:length].toreadonly()

    def populate(self, offset: int, length: int) -> None:
        """Bring the page table up to date for a part in one call, so that touching it costs no faults."""
        start = offset & ~(mmap.PAGESIZE - 1)
        advice = _POPULATE_WRITE if self.is_writable else _POPULATE_READ
        _libc.madvise(self.address + start, offset + length - start, advice)

    def close(self) -> None:
        """Unmap. The memory must not be touched again."""
        if self.address:
            self.view = None
            _libc.munmap(self.address, self.size)
            self.address = 0


def view_at(address: int, length: int) -> memoryview:
    """Return a writable view of our own mapped memory."""
    return memoryview(Exporter.from_address(address)).cast("B")[:length]


class _PyBuffer(ctypes.Structure):
    """CPython's `Py_buffer`, part of the stable ABI since 3.11."""

    _fields_ = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]


_acquire = ctypes.pythonapi.PyObject_GetBuffer
_acquire.argtypes = [ctypes.py_object, ctypes.POINTER(_PyBuffer), ctypes.c_int]
_acquire.restype = ctypes.c_int
_release = ctypes.pythonapi.PyBuffer_Release
_release.argtypes = [ctypes.POINTER(_PyBuffer)]
_release.restype = None


def copy_in(address: int, source: memoryview) -> None:
    """Copy a contiguous buffer to `address`, without the interpreter's lock, with two threads if it is large."""
    held = _PyBuffer()
    _acquire(source, ctypes.byref(held), 0)
    try:
        _move(address, held.buf or 0, held.len)
    finally:
        _release(ctypes.byref(held))


def _move(target: int, source: int, length: int) -> None:
    if length < PARALLEL_COPY_BYTES or _cores() < 2:
        ctypes.memmove(target, source, length)
        return
    # Every thread takes the next chunk: one that the system keeps waiting does not hold up a whole half.
    turn = itertools.count().__next__

    def work() -> None:
        while (start := turn() * _CHUNK_BYTES) < length:
            ctypes.memmove(target + start, source + start, min(_CHUNK_BYTES, length - start))

    waits = [_helpers.start(work) for _ in range(_HELPERS_MAX if length >= _MANY_HELPERS_BYTES else 1)]
    work()
    for wait in waits:
        wait()


class _Helpers:
    """A few lazily started threads that take part in large copies. A forked child starts its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ready = threading.Semaphore(0)
        self._work: collections.deque[tuple[Callable[[], None], threading.Event]] = collections.deque()
        self._threads = 0

    def start(self, work: Callable[[], None]) -> Callable[[], Any]:
        """Begin `work` elsewhere and return what waits for its end."""
        if self._threads < _HELPERS_MAX:
            with self._lock:
                if self._threads < _HELPERS_MAX:
                    threading.Thread(target=self._run, name="shoal-copy", daemon=True).start()
                    self._threads += 1
        done = threading.Event()
        self._work.append((work, done))
        self._ready.release()
        return done.wait

    def _run(self) -> None:
        while True:
            self._ready.acquire()
            work, done = self._work.popleft()
            try:
                work()
            finally:
                done.set()


_helpers = _Helpers()


def _forked() -> None:
    # A lock or semaphore copied in mid-use would never open again in the child.
    global _helpers
    _helpers = _Helpers()


os.register_at_fork(after_in_child=_forked)


def _cores() -> int:
    global _core_count
    if _core_count is None:
        _core_count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return _core_count


_core_count: int | None = None
