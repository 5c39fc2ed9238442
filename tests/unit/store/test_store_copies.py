"""Bytes get into shared memory exactly, whichever way, by however many threads; after an error nobody works on."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.runtime.store import copies, streaming
from shoal.runtime.store.memory import Mapping
from shoal.runtime.store.places import shared_memory_root

MIB = 2**20
GUARD = 0xA5


class Target:
    """A file that is mapped, between two pages of guard bytes that nobody may change."""

    def __init__(self, path: Path, size: int) -> None:
        self.file = open(path, "w+b")  # noqa: SIM115  # closed by close()
        self.file.truncate(size)
        self.mapping = Mapping(self.file.fileno(), size, is_writable=True)
        assert self.mapping.view is not None
        self.view = self.mapping.view

    @property
    def descriptor(self) -> int:
        return self.file.fileno()

    def close(self) -> None:
        del self.view
        self.mapping.close()
        self.file.close()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    made = Target(tmp_path / "m", 12 * MIB)
    yield made
    made.close()


def random_bytes(size: int) -> Any:
    return np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)


@settings(deadline=None)
@given(st.integers(0, 9 * MIB), st.integers(0, 63), st.integers(0, 5000), st.booleans(), st.booleans())
def test_copies_are_exact(
    tmp_path_factory: pytest.TempPathFactory, size: int, shift: int, offset: int, is_streamed: bool, is_known: bool
) -> None:
    data = random_bytes(size + shift)[shift:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copies, "STREAMED_BYTES", 0 if is_streamed else 1 << 40)
        target = Target(tmp_path_factory.getbasetemp() / "copies", 10 * MIB)
        try:
            target.view[offset + size] = GUARD
            target.view[max(0, offset - 1)] = GUARD
            copies.copy_in(target.mapping, offset, memoryview(data), is_in_page_table=is_known)
            assert target.view[offset : offset + size] == data.tobytes()
            assert target.view[offset + size] == GUARD, "one byte too many"
            assert offset == 0 or target.view[offset - 1] == GUARD, "a byte before the first"
        finally:
            target.close()


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 9 * MIB), st.integers(0, 63), st.integers(0, 5000), st.sampled_from(["both", "write", "refused"]))
def test_fresh_pages_are_written_exactly(
    tmp_path_factory: pytest.TempPathFactory, size: int, shift: int, offset: int, how: str
) -> None:
    data = random_bytes(size + shift)[shift:]
    with pytest.MonkeyPatch.context() as patch:
        if how == "refused":
            patch.setattr(Mapping, "populate", lambda *args, **kwargs: False)
        target = Target(tmp_path_factory.getbasetemp() / "fresh", 10 * MIB)
        try:
            mapping = None if how == "write" else target.mapping
            copies.write_fresh(target.descriptor, mapping, offset, memoryview(data))
            assert target.view[offset : offset + size] == data.tobytes()
            assert target.view[offset + size] == 0, "one byte too many"
            assert offset == 0 or target.view[offset - 1] == 0, "a byte before the first"
        finally:
            target.close()


def test_read_only_sources_can_be_copied(target: Target) -> None:
    data = os.urandom(5 * MIB)
    copies.copy_in(target.mapping, 0, memoryview(data))
    copies.write_fresh(target.descriptor, target.mapping, 6 * MIB, memoryview(data))
    assert target.view[: 5 * MIB] == data == target.view[6 * MIB : 11 * MIB]


def test_past_the_caches_every_alignment_is_exact() -> None:
    move = streaming.move()
    source = ctypes.create_string_buffer(os.urandom(1024), 1024)
    data = source.raw
    for length in (0, 1, 15, 63, 64, 65, 127, 128, 300):
        for to in range(0, 130, 3):
            for start in range(0, 70, 7):
                found = ctypes.create_string_buffer(bytes([GUARD]) * 1024, 1024)
                move(ctypes.addressof(found) + to, ctypes.addressof(source) + start, length)
                assert found.raw == bytes([GUARD]) * to + data[start : start + length] + bytes([GUARD]) * (
                    1024 - to - length
                )


@pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine != "x86_64", reason="the loop is x86-64's: elsewhere the C library's"
)
def test_here_large_copies_go_past_the_caches() -> None:
    assert streaming.move() is not ctypes.memmove


_REFUSED = """
import ctypes
PR_SET_MDWE, REFUSE_EXEC_GAIN = 65, 1
if ctypes.CDLL(None).prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0):
    print("old kernel")
else:
    from shoal.runtime.store import streaming
    print("plain" if streaming.move() is ctypes.memmove else "streamed")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a rule of Linux")
def test_where_new_code_is_forbidden_copies_are_plain() -> None:
    done = subprocess.run([sys.executable, "-c", _REFUSED], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() in ("plain", "old kernel")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel populates page tables for us")
def test_pages_with_memory_do_not_fault_one_by_one() -> None:
    data = memoryview(random_bytes(8 * MIB))
    with tempfile.TemporaryFile(dir=shared_memory_root()) as file:
        file.truncate(8 * MIB)
        copies.write_fresh(file.fileno(), None, 0, data)
        mapping = Mapping(file.fileno(), 8 * MIB, is_writable=True)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        copies.copy_in(mapping, 0, data, is_in_page_table=False)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        mapping.close()
    assert faults < 8 * MIB // 4096 // 4


def test_an_error_of_any_thread_is_the_callers(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """The helper finds no memory while the caller still writes."""
    real, caller = os.pwrite, threading.get_ident()

    def full(descriptor: int, data: Any, offset: int) -> int:
        if threading.get_ident() != caller:
            raise OSError(errno.ENOSPC, "no space left on device")
        time.sleep(0.01)
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    monkeypatch.setattr(Mapping, "populate", lambda *args, **kwargs: False)
    monkeypatch.setattr(copies, "_cores", lambda: 2)
    with pytest.raises(OSError, match="no space left"):
        copies.write_fresh(target.descriptor, target.mapping, 0, memoryview(random_bytes(10 * MIB)))


def test_nobody_works_on_after_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory may be freed, or be another value's, as soon as the caller hears of it."""
    caller = threading.get_ident()
    helper_began, late = threading.Event(), []
    is_over = False

    def step(start: int, end: int) -> None:
        if threading.get_ident() == caller:
            assert helper_began.wait(20)
            raise KeyboardInterrupt
        helper_began.set()
        time.sleep(0.05)
        late.append(is_over)

    monkeypatch.setattr(copies, "_cores", lambda: 2)
    with pytest.raises(KeyboardInterrupt):
        copies._share(step, 0, 64 * MIB, MIB, 3)
    is_over = True
    done = len(late)
    time.sleep(0.2)
    assert len(late) == done and not any(late)
