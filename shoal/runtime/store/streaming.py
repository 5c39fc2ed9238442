"""Copying past the caches: what the C library does only for copies larger than we ever ask it for at once.

An ordinary store reads the line that it is going to overwrite; a copy larger than the caches so costs three transfers
a line. Non-temporal stores need two: 1.3 to 1.4 times as fast on two processors, which is as many as it takes to fill
the memory's bandwidth. There is no way to ask for them from Python, and no compiler where Shoal is installed, so the
loop is here as machine code for x86-64 (SSE2, which each of them has). Where that cannot run, `move` is the C library's
(docs/decisions/0021).
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import sys
from collections.abc import Callable
from typing import Any

_LINE_BYTES = 64

# C's `void f(void *target, const void *source, size_t length)`. Target: a multiple of 16; length: a positive one of 64.
_CODE = bytes.fromhex(
    "f30f1efa"  #       endbr64                  the target of an indirect call
    "f30f6f06"  #  next: movdqu xmm0, [rsi]
    "f30f6f4e10"  #     movdqu xmm1, [rsi + 16]
    "f30f6f5620"  #     movdqu xmm2, [rsi + 32]
    "f30f6f5e30"  #     movdqu xmm3, [rsi + 48]
    "660fe707"  #       movntdq [rdi], xmm0
    "660fe74f10"  #     movntdq [rdi + 16], xmm1
    "660fe75720"  #     movntdq [rdi + 32], xmm2
    "660fe75f30"  #     movntdq [rdi + 48], xmm3
    "4883c640"  #       add rsi, 64
    "4883c740"  #       add rdi, 64
    "4883ea40"  #       sub rdx, 64
    "75cc"  #           jne next
    "0faef8"  #         sfence                   ordered before whatever says that it is written
    "c3"  #             ret
)

Move = Callable[[int, int, int], Any]
"""`move(target, source, length)`: addresses and bytes; like `memmove`, but the two must not overlap."""


def move() -> Move:
    """Return the fastest way to copy much memory; it runs without the interpreter's lock."""
    global _move
    if _move is None:
        _move = _past_caches() or ctypes.memmove
    return _move


def _past_caches() -> Move | None:
    """Return a copy past the caches; None where this machine or its rules do not allow one."""
    is_known = sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64") and sys.maxsize > 2**32
    loop = _loaded(_CODE) if is_known else None
    if loop is None:
        return None

    def move(target: int, source: int, length: int) -> None:
        head = min(-target % _LINE_BYTES, length)
        body = (length - head) & -_LINE_BYTES
        tail = length - head - body
        if head:
            ctypes.memmove(target, source, head)
        if body:
            loop(target + head, source + head, body)
        if tail:
            ctypes.memmove(target + head + body, source + head + body, tail)

    return move


def _loaded(code: bytes) -> Move | None:
    """Return `code` as a function; its page is never writable and executable at once. None if that is forbidden."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError:
        return None
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    if libc.mprotect(address, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC):
        return None
    _pages.append(page)
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    return function(address)


_move: Move | None = None
_pages: list[mmap.mmap] = []
"""What functions lie in; forked children have it, too."""
