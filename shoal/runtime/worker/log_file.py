"""One stream of a worker: the file that keeps it, and the lines of it that the driver shall see.

The file is the only record: C code, child processes and forks write to descriptor 1 or 2 and know nothing of us.
Python's own writes go through a second descriptor, opened for appending, whose position afterwards says where they
ended; so every byte between two of them is somebody else's, and is read back from the file (`look`). Nothing is read
for what Python prints.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

LINES_WAITING_MAX = 10_000
LINE_BYTES_MAX = 64 * 1024
READ_BYTES_MAX = 256 * 1024
"""How much of what others wrote is read at once."""
BEHIND_BYTES_MAX = 8 * 2**20
"""When others write faster than we hand on, all but the newest bytes are left to the file."""


class _Part:
    """One file on disk: a descriptor of ours, how far its bytes were taken, and the line that is not complete."""

    __slots__ = ("fd", "inode", "rest", "taken")

    def __init__(self, fd: int) -> None:
        self.fd, self.inode = fd, os.fstat(fd).st_ino
        self.taken = 0
        self.rest = b""


class LogFile:
    """What goes to descriptor `fd`. Safe to use from several threads; a fork's child calls `forked`."""

    def __init__(self, fd: int, path: Path, name_now: Callable[[], str], *, bytes_max: int, files_max: int) -> None:
        self.fd, self.path = fd, path
        self._name_now = name_now
        self._bytes_max, self._files_max = bytes_max, files_max
        self.lock = threading.RLock()
        self.lines: list[tuple[str, str]] = []
        """(name, line) of what waits to be sent."""
        self._left_out = 0
        self._is_child = self._is_naming = False
        self._older: _Part | None = None
        """The file before the last turn-over: children that began earlier still write there."""
        self._part = self._opened()

    # ---------------------------------------------------------------------------------------------- writing

    def write(self, data: bytes) -> None:
        """Append what Python prints. A full disk costs the log, never the work."""
        if self._is_child:
            with contextlib.suppress(OSError):
                os.write(self.fd, data)
            return
        with self.lock:
            part = self._part
            try:
                count = os.write(part.fd, data)
                end = os.lseek(part.fd, 0, os.SEEK_CUR)
                if end - count > part.taken:
                    self._read(part, end - count)
                part.taken = end
            except OSError:
                end = 0
            self._take(part, data)
            if end > self._bytes_max:
                self._turn_over()

    def look(self) -> bool:
        """Take what others wrote since; say whether there was any. Two system calls if there was none."""
        if self._is_child:
            return False
        with self.lock:
            part = self._part
            found = self._look_at(part)
            if self._older is not None:
                found |= self._look_at(self._older)
            if part.taken > self._bytes_max:
                self._turn_over()
            return found

    def forked(self) -> None:
        """A child writes like any other: its parent reads it from the file."""
        self._is_child = True
        self.lock = threading.RLock()

    # ---------------------------------------------------------------------------------------------- handing on

    def hand_on(self) -> tuple[list[tuple[str, str]], int, int]:
        """Return the lines that wait, and how far they reach: the file's inode and an offset in it."""
        with self.lock:
            lines, self.lines = self.lines, []
            if self._left_out:
                lines.append((self._name(), f"[{self._left_out} lines left out here: see {self.path.name}]"))
                self._left_out = 0
            return lines, self._part.inode, self._part.taken - len(self._part.rest)

    # ---------------------------------------------------------------------------------------------- inside

    def _opened(self) -> _Part:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            os.dup2(shared := os.open(self.path, flags, 0o600), self.fd)
            os.close(shared)
            return _Part(os.open(self.path, flags, 0o600))
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            os.dup2(nowhere, self.fd)
            return _Part(nowhere)

    def _look_at(self, part: _Part) -> bool:
        try:
            end = os.lseek(part.fd, 0, os.SEEK_END)
            if end < part.taken:
                part.taken = end  # somebody emptied it
            if end == part.taken:
                return False
            self._read(part, end)
        except OSError:
            return False
        return True

    def _read(self, part: _Part, until: int) -> None:
        """Take the bytes up to `until`, which others wrote. Raises OSError."""
        behind = until - part.taken
        if behind > BEHIND_BYTES_MAX:
            skipped = behind - READ_BYTES_MAX
            part.taken, part.rest = part.taken + skipped, b""
            self._add(self._name(), f"[{skipped} bytes left out here: see {self.path.name}]")
        while part.taken < until:
            data = os.pread(part.fd, min(READ_BYTES_MAX, until - part.taken), part.taken)
            if not data:
                part.taken = until
                return
            part.taken += len(data)
            self._take(part, data)

    def _take(self, part: _Part, data: bytes) -> None:
        """Cut bytes into lines."""
        if b"\n" not in data:
            part.rest = (part.rest + data)[-LINE_BYTES_MAX:]
            return
        name = self._name()
        *lines, rest = (part.rest + data).split(b"\n")
        part.rest = rest[-LINE_BYTES_MAX:]
        for line in lines:
            # Of a line that overwrites itself (a progress bar) the last state counts.
            shown = line[:LINE_BYTES_MAX].rstrip(b"\r").rpartition(b"\r")[2]
            self._add(name, shown.decode("utf-8", "backslashreplace"))

    def _add(self, name: str, text: str) -> None:
        if len(self.lines) < LINES_WAITING_MAX:
            self.lines.append((name, text))
        else:
            self._left_out += 1

    def _name(self) -> str:
        """Return the name for a line of now: it may be an actor's own repr, which may print in its turn."""
        if self._is_naming:
            return "worker"
        self._is_naming = True
        try:
            return self._name_now()
        finally:
            self._is_naming = False

    def _turn_over(self) -> None:
        """Start a new file: `.err` becomes `.err.1`, and so on."""
        part = self._part
        with contextlib.suppress(OSError):
            self._look_at(part)
            path = self.path
            for number in range(self._files_max - 1, 0, -1):
                older = path.with_name(f"{path.name}.{number}")
                if older.exists():
                    older.replace(path.with_name(f"{path.name}.{number + 1}"))
            path.with_name(f"{path.name}.{self._files_max}").unlink(missing_ok=True)
            path.replace(path.with_name(path.name + ".1"))
            if self._older is not None:
                os.close(self._older.fd)
            self._older, self._part = part, self._opened()
            self._part.rest, part.rest = part.rest, b""
