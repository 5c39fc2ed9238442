"""Starting a zygote: a command of its own, joined to us by a socket pair.

Imports next to nothing, so that a process can start its zygote first and make its own imports meanwhile: on two cores
that is a third of the time to the first result.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_COMMAND = "import sys; sys.path.insert(0, sys.argv.pop(1)); from shoal.runtime.worker.zygote import main; main()"
_SEND_BYTES = 1 << 20


class Zygote:
    """A zygote process and our end of its socket. It ends when that is closed, or when we end."""

    def __init__(self, control: socket.socket, process: subprocess.Popen[bytes]) -> None:
        self.control, self._process = control, process

    def end(self) -> None:
        """Kill it, and with it every worker; returns when it is gone."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()


def start_zygote(preload: Sequence[str] = (), log: Path | None = None) -> Zygote:
    """Start one that imports `preload` as well. What it says goes to `log`; without one, to nowhere until it is told.

    Raises:
        OSError: no process can be started.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
    ours.setblocking(False)
    said = os.devnull if log is None else log
    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, str(Path(__file__).parents[3]), str(theirs.fileno()), *preload],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        os.close(output)
        theirs.close()
    return Zygote(ours, process)
