"""Processes of one machine: dying with a parent, adopting orphans, ending a whole session by its id.

A machine is a session (setsid), so whatever its processes fork stays findable by the session's id, also after
their parent is gone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def die_with_parent(parent: int | None = None, with_signal: signal.Signals = signal.SIGTERM) -> None:
    """Ask the kernel to signal this process when its parent ends (Linux; elsewhere nothing).

    `parent` is the pid it must have; if that one is already gone, the process ends now.
    """
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, with_signal)
    if parent is not None and os.getppid() != parent:
        raise SystemExit(0)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, so that nothing stays a zombie (Linux)."""
    if sys.platform == "linux":
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def session_members(session: int) -> list[int]:
    """Return the pids of a session's live processes (zombies left out), in ascending order."""
    members = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            after_name = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(after_name[3]) == session and after_name[0] not in ("Z", "X"):
            members.append(int(entry.name))
    return sorted(members)


def kill_session(session: int, with_signal: signal.Signals = signal.SIGKILL) -> int:
    """Signal every process of a session but the caller; return how many there were. Repeat until 0."""
    others = [pid for pid in session_members(session) if pid != os.getpid()]
    for pid in others:
        try:
            os.kill(pid, with_signal)
        except ProcessLookupError:
            continue
    return len(others)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")
