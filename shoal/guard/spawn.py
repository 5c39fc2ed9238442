"""Starting a guard so that it outlives its starter: a session of its own, no inherited descriptor but its log."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path


def spawn_guard(folder: Path, log: Path) -> int:
    """Start the guard of the machine described in `folder`, and return its pid, which is also its session's id.

    The caller is its parent and collects it with `reap`, if it lives so long.

    Raises:
        OSError: no process could be started.
    """
    return spawn_session([sys.executable, "-m", "shoal.guard", str(folder)], log)


def spawn_session(argv: list[str], log: Path) -> int:
    """Start a program in a session of its own, its output appended to `log` (0600), and return its pid."""
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    return os.posix_spawn(
        argv[0],
        argv,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def reap(pid: int) -> bool:
    """Collect a child that has ended; say whether it is no (longer a) running child of ours."""
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    return True
