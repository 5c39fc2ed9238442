"""What the worker's code prints: to a file of its own, turned over at a size, and line by line to the driver.

Descriptors 1 and 2 are the files, so that what libraries and child processes write is kept, and shown, as well
(`log_file`). What a worker could not send before it died is read from the files by its agent.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.runtime.client.reactor import Link
from shoal.runtime.worker.log_file import LogFile
from shoal.wire import tasks as wire

if TYPE_CHECKING:
    from shoal.runtime.client.session import Session

LOOK_PAUSE_S = 0.005
"""How often at most the worker looks between batches of work for what others wrote to its descriptors."""
WATCHFUL_S = 2.0
"""How long after such a write the helper looks often."""
monotonic = time.monotonic


class Prints:
    """Both streams of one worker."""

    def __init__(self, request: dict[str, Any]) -> None:
        stem = f"worker-{request['process'][-8:]}-{os.getpid()}"
        limits = {"bytes_max": int(request["log_bytes_max"]), "files_max": int(request["log_files_max"])}
        self._session: Session | None = None
        self.name_now: Callable[[], str] = lambda: "worker"
        """Returns the name that a line printed now shall bear."""
        directory = Path(request["log_dir"])
        self._out, self._err = self._files = [
            LogFile(fd, directory / f"{stem}.{suffix}", self._name, **limits) for fd, suffix in ((1, "out"), (2, "err"))
        ]
        self._look_at = self._watchful_until = 0.0
        sys.stdout, sys.stderr = _Stream(self._out), _Stream(self._err)
        os.register_at_fork(after_in_child=self._forked)

    def start(self, session: Session) -> None:
        """Send lines from now on."""
        self._session = session
        session.core.on_tick.append(self._tick)
        session.core.handlers[wire.SHOW] = self._on_show

    @property
    def is_watchful(self) -> bool:
        """Whether somebody beside Python has written a moment ago, and may do so again."""
        return monotonic() < self._watchful_until

    def after_batch(self) -> None:
        """Send what waits; called after each batch of work, because an actor may be ended right after its last call."""
        if self._out.lines or self._err.lines or monotonic() >= self._look_at:
            self.flush()

    def flush(self) -> None:
        """Look for what others wrote, and send the lines that wait."""
        self._look_at = (now := monotonic()) + LOOK_PAUSE_S
        session = self._session
        if session is None:
            return
        is_sent = False
        for is_error, file in enumerate(self._files):
            if file.look():
                self._watchful_until = now + WATCHFUL_S
            if file.lines:
                session.core.agent.out.append((wire.PRINTED, *file.hand_on(), bool(is_error)))
                is_sent = True
        if is_sent:
            session.core.agent.flush()

    def _tick(self, now: float) -> None:
        self.flush()

    def _on_show(self, link: Link, message: list[Any]) -> None:
        self.flush()
        link.out.append((wire.SHOWN, message[1]))
        link.flush()

    def _name(self) -> str:
        return self.name_now()

    def _forked(self) -> None:
        for file in self._files:
            file.forked()


class _Stream(io.TextIOBase):
    """A text stream over one of the files."""

    def __init__(self, file: LogFile) -> None:
        self._file = file

    encoding = "utf-8"
    errors = "backslashreplace"

    @property
    def buffer(self) -> Any:
        """Raw bytes go to the descriptor."""
        return os.fdopen(os.dup(self._file.fd), "wb")

    def fileno(self) -> int:
        return self._file.fd

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> int:
        self._file.write(text.encode("utf-8", "backslashreplace"))
        return len(text)

    def flush(self) -> None:
        """Nothing is buffered in the worker."""
