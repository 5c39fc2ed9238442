"""The directories of a node: made for this process, proven to be alive by a lock, swept once their owner is dead.

The name is `shoal-<8 of the cluster's uid>-<8 of the node's id>`. A file `owner` in it stays locked (flock) as long as
the agent lives; the kernel lets go of it at death, however that came, and across PID namespaces, where process numbers
prove nothing. Process number, start time and boot are recorded for people, and decide where locks do not work.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from shoal.foundation.errors import BadInput

PREFIX = "shoal-"
_OWNER = "owner"
_STARTING = ".starting"
_STARTING_LIMIT_S = 600.0


def shared_memory_root() -> Path:
    """Return where segments live by default: SHOAL_SHM_DIR, else `/dev/shm`, else the temporary directory."""
    if chosen := os.environ.get("SHOAL_SHM_DIR"):
        return Path(chosen)
    root = Path("/dev/shm")
    return root if sys.platform == "linux" and os.access(root, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())


def room_bytes(root: Path) -> int:
    """Return how many bytes are free in the file system of `root`."""
    room = os.statvfs(root)
    return room.f_bavail * room.f_frsize


class NodeDirectory:
    """One node's directory below `root`, ours until `remove` or our death."""

    def __init__(self, root: Path, cluster_uid: str, node_id: str) -> None:
        """Create it, mode 0700.

        Raises:
            BadInput: it cannot be created there, or somebody has it already.
        """
        self.path = root / f"{PREFIX}{cluster_uid[:8]}-{node_id[:8]}"
        self._lock = -1
        starting = self.path.with_name(self.path.name + _STARTING)
        try:
            starting.mkdir(mode=0o700)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            self._lock = os.open(starting / _OWNER, flags, 0o600)
            with contextlib.suppress(OSError):  # no locks on this file system: the record decides
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(self._lock, json.dumps(_identity(os.getpid())).encode())
            if self.path.exists():
                raise FileExistsError(errno.EEXIST, "exists", str(self.path))
            starting.rename(self.path)
        except OSError as error:
            if self._lock >= 0:
                os.close(self._lock)
                shutil.rmtree(starting, ignore_errors=True)
            raise BadInput(
                f"object store: cannot create `{self.path}`: {error.strerror}",
                hint="give another directory for the object store",
            ) from error

    def remove(self) -> None:
        """Remove the directory with everything in it; quiet if it is gone."""
        # Not truncated: a driver may still look at arrays in it, and its memory goes when it does.
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def sweep_stale(root: Path) -> list[Path]:
    """Remove the directories in `root` whose owner is dead and which are ours to remove; return their paths."""
    removed = []
    for path in _candidates(root):
        with contextlib.suppress(OSError):
            status = path.lstat()
            if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
                continue
            if path.name.endswith(_STARTING) and time.time() - status.st_mtime < _STARTING_LIMIT_S:
                continue
            if _is_stale(path):
                shutil.rmtree(path, ignore_errors=True)
                removed.append(path)
    return removed


def _candidates(root: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from sorted(path for path in root.iterdir() if path.name.startswith(PREFIX))


def _is_stale(path: Path) -> bool:
    """Say whether nobody lives there. In doubt, somebody does."""
    try:
        descriptor = os.open(path / _OWNER, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return path.name.endswith(_STARTING)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return _is_dead(os.read(descriptor, 4096))
        return True
    finally:
        os.close(descriptor)


def _is_dead(record: bytes) -> bool:
    try:
        owner = json.loads(record)
        return bool(owner["boot_s"] != _identity(0)["boot_s"] or owner != _identity(int(owner["pid"])))
    except (ValueError, KeyError, TypeError):
        return False


def _identity(pid: int) -> dict[str, float | int]:
    """Return what tells a process from every other one of this machine's life; start 0 if there is none."""
    try:
        started = psutil.Process(pid).create_time() if pid else 0.0
    except psutil.Error:
        started = 0.0
    return {"pid": pid, "started_s": round(started, 1), "boot_s": round(psutil.boot_time(), -1)}
