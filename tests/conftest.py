"""What every test gets: directories of its own, and a check that it left nothing behind.

Each test has its own runtime, state and shared-memory directory, named in the environment, so that every process it
starts carries the mark of its test. After the test no process with that mark may live, and the directories must hold
nothing: a test that leaves a process, segment, socket or file fails, and is cleaned up after.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SETTLE_S = 3.0
"""How long processes that were told to end may take to be gone."""

_numbers = itertools.count(1)
_SHARED_MEMORY = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir())


@pytest.fixture(autouse=True)
def own_places(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the test its own directories; fail it if it leaves anything."""
    # Short, since a socket's path is limited to about 100 bytes.
    mark = f"st{os.getpid()}-{next(_numbers)}"
    place = Path(tempfile.gettempdir()) / mark
    segments = _SHARED_MEMORY / mark
    place.mkdir(mode=0o700)
    segments.mkdir(mode=0o700)
    monkeypatch.setenv("SHOAL_RUNTIME_DIR", str(place))
    monkeypatch.setenv("SHOAL_STATE_DIR", str(place / "state"))
    monkeypatch.setenv("SHOAL_SHM_DIR", str(segments))
    monkeypatch.delenv("SHOAL_ADDRESS", raising=False)
    yield place
    left = _leftovers(place, segments)
    shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(segments, ignore_errors=True)
    if left:
        pytest.fail("left behind:\n  " + "\n  ".join(left), pytrace=False)


def _leftovers(place: Path, segments: Path) -> list[str]:
    """Return what the test left, after giving ending processes a moment; kill what still lives."""
    was_used = any(place.iterdir()) or any(segments.iterdir())
    if not was_used and not _children():
        return []
    deadline_s = time.monotonic() + SETTLE_S
    while (processes := marked(place)) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    left = [f"process {pid}: {' '.join(_command(pid))[:200]}" for pid in processes]
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    left += [f"file {path}" for path in _files(place)]
    left += [f"segment {path}" for path in _files(segments)]
    return left


def marked(place: Path) -> list[int]:
    """Return the live processes (not ourselves, no zombies) whose environment names the test's directory."""
    mark = f"SHOAL_RUNTIME_DIR={place}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0") and _state(entry) not in ("Z", "X"):
                found.append(int(entry.name))
        except OSError:
            continue
    return sorted(found)


def _children() -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return []


def _files(place: Path) -> list[Path]:
    """Return what is below `place` but for empty folders and lock files, which carry no state."""
    return [path for path in sorted(place.rglob("*")) if not path.is_dir() and path.name != ".lock"]


def _state(entry: Path) -> str:
    return (entry / "stat").read_text().rpartition(")")[2].split()[0]


def _command(pid: int) -> list[str]:
    try:
        return [part.decode(errors="replace") for part in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
    except OSError:
        return []
