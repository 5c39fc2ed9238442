"""The lock of a machine's folder: it says that the machine runs, and by whom.

The guard takes it; on the head machine its children inherit it, so that it is free only when all of them are gone.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from shoal.foundation.errors import Held
from shoal.transport import discovery

INHERITED_LOCK = "SHOAL_MACHINE_LOCK"
"""The environment variable that names a lock's descriptor to a child that inherits it."""


def take_lock(directory: Path) -> int:
    """Take a machine's lock for this process and return its descriptor.

    Raises:
        Held: another guard runs this machine.
    """
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise Held(f"{directory}: another guard runs this machine") from error
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()} {discovery.process_started(os.getpid())}\n".encode())
    return descriptor


def keep_inherited_lock() -> None:
    """Keep the lock that this process inherited, if it did, for its own life only: nothing it starts gets it."""
    descriptor = os.environ.pop(INHERITED_LOCK, "")
    if descriptor.isdecimal():
        os.set_inheritable(int(descriptor), False)


def lock_holder(directory: Path) -> tuple[int, str] | None:
    """Return (pid, start time) of the guard that took a machine's lock, None if nobody holds it."""
    try:
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid, _, started = os.read(descriptor, 100).decode().strip().partition(" ")
        return (int(pid), started) if pid.isdecimal() else None
    finally:
        os.close(descriptor)
    return None
