"""What the worker's code prints: to a file of its own, turned over at a size, and line by line to the driver.

File descriptors 1 and 2 are the files, so that what libraries and child processes write is kept as well; Python's
`sys.stdout` and `sys.stderr` also send complete lines on their way.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.wire import tasks as wire

if TYPE_CHECKING:
    from shoal.runtime.client.session import Session

LINES_WAITING_MAX = 10_000
LINE_BYTES_MAX = 64 * 1024


class Prints:
    """Both streams of one worker."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._directory = Path(request["log_dir"])
        self._bytes_max = int(request["log_bytes_max"])
        self._files_max = int(request["log_files_max"])
        self._stem = f"worker-{request['process'][-8:]}-{os.getpid()}"
        self._session: Session | None = None
        self._lines: list[tuple[bool, str, str]] = []
        self._lock = threading.Lock()
        self.name_now: Callable[[], str] = lambda: "worker"
        """Returns the name that a line printed now shall bear."""
        for fd, suffix in ((1, "out"), (2, "err")):
            self._open(fd, suffix)
        sys.stdout = _Stream(self, 1, is_error=False)
        sys.stderr = _Stream(self, 2, is_error=True)

    def start(self, session: Session) -> None:
        """Send lines from now on."""
        self._session = session
        session.core.on_tick.append(self._tick)

    def _open(self, fd: int, suffix: str) -> None:
        path = self._directory / f"{self._stem}.{suffix}"
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError:
            file = os.open(os.devnull, os.O_WRONLY)  # a full disk costs the log, never the work
        os.dup2(file, fd)
        os.close(file)

    def turn_over(self, fd: int) -> None:
        """Start a new file if this one is full: `.err` becomes `.err.1`, and so on."""
        suffix = "out" if fd == 1 else "err"
        with contextlib.suppress(OSError):
            if os.fstat(fd).st_size < self._bytes_max:
                return
            path = self._directory / f"{self._stem}.{suffix}"
            for number in range(self._files_max - 1, 0, -1):
                older = path.with_name(f"{path.name}.{number}")
                if older.exists():
                    older.replace(path.with_name(f"{path.name}.{number + 1}"))
            path.with_name(f"{path.name}.{self._files_max}").unlink(missing_ok=True)
            path.replace(path.with_name(path.name + ".1"))
            self._open(fd, suffix)

    def line(self, text: str, *, is_error: bool) -> None:
        """Take one complete line."""
        with self._lock:
            if len(self._lines) < LINES_WAITING_MAX:
                self._lines.append((is_error, self.name_now(), text[:LINE_BYTES_MAX]))

    def _tick(self, now: float) -> None:
        self.flush_if_any()

    def flush_if_any(self) -> None:
        """Send what waits; called after each batch of work, because an actor may be ended right after its last call."""
        if self._lines:
            self.flush()

    def flush(self) -> None:
        """Send the lines that wait."""
        session = self._session
        if session is None:
            return
        with self._lock:
            lines, self._lines = self._lines, []
        agent = session.core.agent
        for is_error in (False, True):
            part = [(name, text) for of_error, name, text in lines if of_error is is_error]
            if part:
                agent.out.append((wire.PRINTED, part, is_error))
        if lines:
            agent.flush()


class _Stream(io.TextIOBase):
    """A text stream that writes to a descriptor and hands complete lines on."""

    def __init__(self, prints: Prints, fd: int, *, is_error: bool) -> None:
        self._prints, self._fd, self._is_error = prints, fd, is_error
        self._rest = ""
        self._lock = threading.RLock()
        self._written = 0

    encoding = "utf-8"
    errors = "backslashreplace"

    @property
    def buffer(self) -> Any:
        """Raw bytes go to the file alone."""
        return os.fdopen(os.dup(self._fd), "wb")

    def fileno(self) -> int:
        return self._fd

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> int:
        data = text.encode("utf-8", "backslashreplace")
        with self._lock:
            with contextlib.suppress(OSError):  # a full disk must not end user code that prints
                os.write(self._fd, data)
            self._written += len(data)
            if self._written > 1 << 20:
                self._written = 0
                self._prints.turn_over(self._fd)
            rest = self._rest + text
            if "\n" in rest:
                *lines, rest = rest.split("\n")
                for line in lines:
                    self._prints.line(line.rpartition("\r")[2], is_error=self._is_error)
            self._rest = rest[-LINE_BYTES_MAX:]
        return len(text)

    def flush(self) -> None:
        """Nothing is buffered in the worker."""
