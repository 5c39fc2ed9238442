"""The process that workers are forked from: it has imported what they need, has one thread, and does nothing else.

Started by the agent as a command; both talk over one inherited socket pair, one JSON object a message. A fork takes
about 2 ms instead of the 100 that a fresh interpreter with its imports takes, and the pages are shared. The answer
carries a pidfd, so that the agent's verdict about the worker's death can never hit a recycled pid.

Nothing here may start a thread, an event loop, TLS or sqlite: they do not survive a fork.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

MESSAGE_BYTES_MAX = 1 << 20
_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends. Linux; quiet elsewhere."""
    try:
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    except (OSError, AttributeError):
        pass


def main(argv: list[str] | None = None) -> None:
    """Serve fork requests on the inherited socket until the agent is gone."""
    arguments = sys.argv[1:] if argv is None else argv
    control = socket.socket(fileno=int(arguments[0]))
    parent = os.getppid()
    die_with_parent()
    if os.getppid() != parent:
        os._exit(0)  # the agent died before we asked
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from shoal.runtime.worker import main as worker

    for name in arguments[1:]:
        try:
            importlib.import_module(name)
        except ImportError as error:
            print(f"shoal: cannot preload `{name}`: {error}", file=sys.stderr)  # noqa: T201
    _assert_forkable()
    wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    gc.collect()
    gc.freeze()
    control.send(json.dumps({"ready": os.getpid()}).encode())
    while True:
        watched: list[Any] = [control, wake_read]
        readable, _, _ = select.select(watched, [], [])
        if wake_read in readable:
            try:
                os.read(wake_read, 4096)
            except BlockingIOError:
                pass
            _reap(control)
        if control in readable:
            data = control.recv(MESSAGE_BYTES_MAX)
            if not data:
                os._exit(0)
            request = json.loads(data)
            if "log" in request:
                _say_to(request["log"])
                continue
            child = os.fork()
            if child == 0:
                signal.set_wakeup_fd(-1)
                os.close(wake_read)
                os.close(wake_write)
                control.close()
                try:
                    worker.run(request)
                except BaseException:
                    import traceback

                    traceback.print_exc()
                finally:
                    os._exit(1)
            pidfd = os.pidfd_open(child)
            answer = json.dumps({"forked": request["serial"], "pid": child}).encode()
            socket.send_fds(control, [answer], [pidfd])
            os.close(pidfd)


def _say_to(path: str) -> None:
    """Write what we have to say to a file from now on: we were started before there was one."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def _reap(control: socket.socket) -> None:
    """Tell how children ended; the agent's verdict comes from the pidfd, this is the reason it shows."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        try:
            control.send(json.dumps({"ended": pid, "code": os.waitstatus_to_exitcode(status)}).encode())
        except OSError:
            os._exit(0)


def _assert_forkable() -> None:
    """Stop if something that does not survive a fork runs here."""
    threads = threading.active_count()
    assert threads == 1, f"zygote: expected one Python thread, got {threads}"
    for name in ("grpc", "uvloop"):
        assert name not in sys.modules, f"zygote: `{name}` must not be loaded before the fork"
    tasks = len(list(Path("/proc/self/task").iterdir())) if Path("/proc/self/task").exists() else 1
    allowed = 1 + (2 if "numpy" in sys.modules else 0) + (3 if "pyarrow" in sys.modules else 0)
    assert tasks <= max(allowed, 1 + (os.cpu_count() or 1) * ("numpy" in sys.modules)), f"zygote: {tasks} threads"


if __name__ == "__main__":
    main()
