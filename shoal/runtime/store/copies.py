"""Getting bytes into mapped memory: by several threads if they are many, each page the cheapest way for its state.

  in our page table   copied; from `STREAMED_BYTES` on past the caches (`streaming`), which spares the memory a third of
                      its work
  has memory          put into the page table first, sixteen pages a fault, then copied
  has no memory       written by `pwrite`, which need not clear the page and answers a full file system with an error.
                      The kernel lets one thread at a time do so in a file; the others have it populate their chunk,
                      which says no instead of killing us, too, and copy through the mapping

800 MiB on two processors took 30, 58 and 202 ms so; 38, 155 and 304 ms by plain copies, page faults and `pwrite` alone.
"""

from __future__ import annotations

import collections
import ctypes
import itertools
import os
import threading
from collections.abc import Callable
from typing import Any

from shoal.runtime.store import streaming
from shoal.runtime.store.memory import Mapping

PARALLEL_COPY_BYTES = 4 * 2**20
"""From here on a copy is shared by two threads."""
STREAMED_BYTES = 32 * 2**20
"""From here on a copy goes past the caches: they would not keep it for its reader anyway."""
_MANY_HELPERS_BYTES = 64 * 2**20
_HELPERS_MAX = 3
"""On a busy machine more threads than processors get a larger share of them."""
_CHUNK_BYTES_MIN = 256 * 2**10
_CHUNK_BYTES_MAX = 4 * 2**20
_FRESH_CHUNK_BYTES = 2**20  # populated pages are still in the cache when they are filled
_CHUNKS = 16
_PAGE_BYTES = 4096


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


def copy_in(mapping: Mapping, offset: int, source: memoryview, *, is_in_page_table: bool = True) -> None:
    """Copy a contiguous buffer to pages that have memory, without the interpreter's lock."""
    held = _PyBuffer()
    _acquire(source, ctypes.byref(held), 0)
    try:
        length: int = held.len
        shift = (held.buf or 0) - offset
        target = mapping.address
        move = streaming.move() if length >= STREAMED_BYTES else ctypes.memmove

        def step(start: int, end: int) -> None:
            if not is_in_page_table:
                mapping.populate(start, end - start)
            move(target + start, shift + start, end - start)

        helpers = _HELPERS_MAX if length >= _MANY_HELPERS_BYTES else 1
        chunk = min(max(length // _CHUNKS & -_PAGE_BYTES, _CHUNK_BYTES_MIN), _CHUNK_BYTES_MAX)
        _share(step, offset, offset + length, chunk, helpers)
    finally:
        _release(ctypes.byref(held))


def write_fresh(descriptor: int, mapping: Mapping | None, offset: int, source: memoryview) -> None:
    """Write a contiguous buffer to pages of a file that have no memory yet; `mapping`: of the same file.

    Raises:
        OSError: as `pwrite` does: ENOSPC if the file system is full.
    """
    if mapping is None or source.nbytes < PARALLEL_COPY_BYTES:
        _pwrite(descriptor, source, offset)
        return
    pen = threading.Lock()
    data = source.cast("B")
    held = _PyBuffer()
    _acquire(source, ctypes.byref(held), 0)
    try:
        target, shift = mapping.address, (held.buf or 0) - offset

        def step(start: int, end: int) -> None:
            if pen.acquire(blocking=False):
                try:
                    _pwrite(descriptor, data[start - offset : end - offset], start)
                finally:
                    pen.release()
            elif mapping.populate(start, end - start, is_new=True):
                ctypes.memmove(target + start, shift + start, end - start)
            else:
                _pwrite(descriptor, data[start - offset : end - offset], start)  # says why

        _share(step, offset, offset + source.nbytes, _FRESH_CHUNK_BYTES, 1)
    finally:
        _release(ctypes.byref(held))


def _pwrite(descriptor: int, data: memoryview, offset: int) -> None:
    done = 0
    while done < data.nbytes:  # Linux writes less than 2 GiB at once
        done += os.pwrite(descriptor, data[done:], offset + done)


def _share(step: Callable[[int, int], None], begin: int, end: int, chunk: int, helpers: int) -> None:
    """Have `step(start, end)` do every part from `begin` to `end`, in several threads if it is worth that.

    Every thread takes the next chunk: one that the system keeps waiting does not hold up a whole half. Two threads
    never share a page. When this returns or raises, nobody works any more.
    """
    if end - begin < PARALLEL_COPY_BYTES or _cores() < 2:
        step(begin, end)
        return
    base = begin & -_PAGE_BYTES
    turn = itertools.count().__next__
    failed: list[BaseException] = []

    def work() -> None:
        try:
            while (start := base + turn() * chunk) < end and not failed:
                step(max(start, begin), min(start + chunk, end))
        except BaseException as error:  # whatever it was: the caller raises it, once no thread needs its memory
            failed.append(error)

    waits: list[Callable[[], Any]] = []
    try:
        waits.extend(_helpers.start(work) for _ in range(helpers))
    except BaseException as error:  # an interrupt, as below
        failed.append(error)
    work()
    for wait in waits:
        while True:
            try:
                wait()
                break
            except BaseException as error:  # an interrupt: the others stop after their chunk, which takes no time
                failed.append(error)
    if failed:
        raise failed[0]


class _Helpers:
    """A few lazily started threads that take part in large copies. A forked child starts its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ready = threading.Semaphore(0)
        self._work: collections.deque[tuple[Callable[[], None], threading.Event]] = collections.deque()
        self._threads = 0

    def start(self, work: Callable[[], None]) -> Callable[[], Any]:
        """Begin `work`, which does not raise, elsewhere and return what waits for its end."""
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
            work()
            del work  # it holds the source's memory
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
