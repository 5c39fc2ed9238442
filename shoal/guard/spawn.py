"""Starting a guard so that it outlives its starter: a session of its own, no inherited descriptor but its log."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path


def spawn_guard(folder: Path, log: Path, *, holding: int | None = None) -> int:
    """Start the guard of the machine described in `folder`, and return its pid, which is also its session's id.

    The caller is its parent and collects it with `reap`, if it lives so long. `holding` is the descriptor of a lock
    that the guard keeps until it can be found: should the caller die, the lock is not free before.

    Raises:
        OSError: no process could be started.
    """
    argv = [sys.executable, "-m", "shoal.guard", str(folder)]
    if holding is None:
        return spawn_session(argv, log)
    os.set_inheritable(holding, True)
    try:
        return spawn_session([*argv, str(holding)], log)
    finally:
        os.set_inheritable(holding, False)


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
