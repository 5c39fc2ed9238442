"""The node's workers: forked from the zygote, kept warm, bound to a job, and declared dead by their pidfd.

A fresh worker belongs to nobody. The first lease or actor binds it to a job and an environment (paths, variables,
GPUs), for good. A few fresh ones wait ready, so that a lease or an actor costs a message and not a fork.
"""

from __future__ import annotations

import array
import asyncio
import collections
import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.runtime.agent.zygotes import Zygote, start_zygote

if TYPE_CHECKING:
    from shoal.runtime.agent.clients import Client
    from shoal.runtime.agent.stock import Grip

FORKS_AT_ONCE = 4
"""More at once only slow each other down."""
START_LIMIT_S = 30.0
ATTEMPTS_MAX = 5
"""How often in a row a zygote may end before it is ready; then the node gives up, saying why."""
CODE_LIMIT_S = 0.25
"""How long a verdict waits for the exit code that explains it."""
LINGER_S = 0.05
"""How long a used-up worker may take to say that others hold refs of its objects."""


class Worker:
    """One forked process. `binding` is (job, environment key), None while it is fresh."""

    __slots__ = (
        "actor",
        "binding",
        "client",
        "code",
        "grip",
        "idle_since",
        "is_dead",
        "is_owner",
        "is_ready",
        "is_reusable",
        "job",
        "kill_why",
        "lease",
        "log_out",
        "mark",
        "pid",
        "pidfd",
        "process",
        "serial",
        "started_wall_s",
        "waiting",
    )

    def __init__(self, serial: int, process: bytes) -> None:
        self.serial, self.process = serial, process
        self.pid = self.pidfd = -1
        self.binding: tuple[str, str] | None = None
        self.client: Client | None = None
        self.is_ready = self.is_dead = False
        self.is_reusable = True
        self.is_owner = False
        """Others hold refs of its objects: it must live on, even idle."""
        self.lease: Any = None
        self.actor: Any = None
        self.grip: Grip | None = None
        self.job = ""
        self.kill_why = ""
        self.code: int | None = None
        self.idle_since = 0.0
        self.started_wall_s = 0.0
        self.mark = -1
        self.log_out = ""
        self.waiting: Callable[[Worker], None] | None = None
        """Who takes it as soon as it is ready."""


class Pool:
    """Every worker of the node. `worker_info` is what a fork must know of the node, as JSON values."""

    def __init__(
        self,
        worker_info: dict[str, Any],
        next_process: Callable[[], bytes],
        died: Callable[[Worker, str], None],
        failed: Callable[[str], None],
        *,
        warm: int,
        log_dir: Path,
        preload: tuple[str, ...] = (),
        zygote: Zygote | None = None,
    ) -> None:
        self._info, self._next_process, self._died, self._failed = worker_info, next_process, died, failed
        self._warm, self._log_dir, self._preload = warm, log_dir, preload
        self.workers: dict[int, Worker] = {}
        self.by_process: dict[bytes, Worker] = {}
        self._fresh: collections.deque[Worker] = collections.deque()
        self._lingering: list[Worker] = []
        self._bound: dict[tuple[str, str], list[Worker]] = {}
        self._starting: collections.deque[Worker] = collections.deque()
        self._to_fork: collections.deque[Worker] = collections.deque()
        self._by_pid: dict[int, Worker] = {}
        self._serial = 0
        self._control: socket.socket | None = None
        self._early = zygote
        self._zygote: Zygote | None = None
        self._loop = asyncio.get_running_loop()
        self._is_ending = False
        self._is_zygote_ready = False
        self._attempts = 0

    # ------------------------------------------------------------------------------------------------ zygote

    async def start(self) -> None:
        """Start the zygote and the first workers."""
        if self._zygote is not None:
            await self._loop.run_in_executor(None, self._zygote.end)  # it is dead: leave no zombie
        log = self._log_dir / "zygote.err"
        zygote, self._early = self._early, None
        if zygote is not None:
            try:
                zygote.control.send(json.dumps({"log": str(log)}).encode())
            except OSError:  # it has died already
                zygote.end()
                zygote = None
        if zygote is None:
            zygote = start_zygote(self._preload, log)
        self._zygote, self._control = zygote, zygote.control
        self._loop.add_reader(zygote.control.fileno(), self._on_control)
        self.keep_warm()

    def _on_control(self) -> None:
        assert self._control is not None
        while True:
            try:
                data, ancillary, _, _ = self._control.recvmsg(1 << 16, socket.CMSG_SPACE(4))
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data, ancillary = b"", []
            if not data:
                self._zygote_gone()
                return
            message = json.loads(data)
            if "ready" in message:
                self._is_zygote_ready, self._attempts = True, 0
                self._fork_more()
            elif "forked" in message:
                fds = array.array("i")
                fds.frombytes(ancillary[0][2][:4])
                self._on_forked(self.workers.get(message["forked"]), message["pid"], fds[0])
            elif "ended" in message:
                worker = self._by_pid.get(message["ended"])
                if worker is not None:
                    worker.code = message["code"]
                    if worker.pidfd < 0:
                        self._lost(worker, "")

    def _zygote_gone(self) -> None:
        """Every worker dies with its zygote (the kernel sees to it); start over."""
        assert self._control is not None
        self._loop.remove_reader(self._control.fileno())
        self._control.close()
        self._control, self._is_zygote_ready = None, False
        if self._is_ending:
            return
        self._attempts += 1
        if self._attempts > ATTEMPTS_MAX:
            self._failed(f"workers cannot be started: {self._last_words()}")
            return
        for worker in tuple(self._starting):
            self._lost(worker, "the zygote died")
        self._loop.call_later(0.1 * self._attempts, self._start_again)

    def _start_again(self) -> None:
        if not self._is_ending:
            self._restart = self._loop.create_task(self.start())

    def _last_words(self) -> str:
        try:
            lines = (self._log_dir / "zygote.err").read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else "the zygote ended without a word"

    def _on_forked(self, worker: Worker | None, pid: int, pidfd: int) -> None:
        if worker is None or worker.is_dead:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
            return
        worker.pid, worker.pidfd = pid, pidfd
        self._by_pid[pid] = worker
        self._loop.add_reader(pidfd, self._on_death, worker)
        if worker.kill_why:
            self.kill(worker, worker.kill_why)

    # ------------------------------------------------------------------------------------------------ taking

    def take(self, binding: tuple[str, str], call: Callable[[Worker], None], *, is_fresh: bool = False) -> None:
        """Give a worker to `call`: an idle one of the binding, a fresh one, or a new one as soon as it has started."""
        if not is_fresh:
            idle = self._bound.get(binding)
            while idle:
                worker = idle.pop()
                if not worker.is_dead:
                    call(worker)
                    return
        while self._fresh:
            worker = self._fresh.popleft()
            if not worker.is_dead:
                worker.binding = binding
                self.keep_warm_soon()
                call(worker)
                return
        for worker in self._starting:
            if worker.waiting is None and not worker.is_dead:
                break
        else:
            worker = self._fork()
        worker.binding, worker.waiting = binding, call

    def put_back(self, worker: Worker) -> None:
        """Take an idle worker back; it is ended if it cannot be used again or too many wait."""
        if worker.is_dead:
            return
        worker.lease = worker.actor = worker.grip = None
        assert worker.binding is not None
        worker.idle_since = self._loop.time()
        if not worker.is_reusable:
            self._lingering.append(worker)
            self._loop.call_later(LINGER_S, self._end_lingering)
            return
        self._bound.setdefault(worker.binding, []).append(worker)

    def ready(self, process: bytes, client: Client) -> Worker | None:
        """Note that a forked worker has attached."""
        worker = self.by_process.get(process)
        if worker is None or worker.is_dead:
            return None
        worker.client, worker.is_ready = client, True
        with contextlib.suppress(ValueError):
            self._starting.remove(worker)
        self._fork_more()
        call, worker.waiting = worker.waiting, None
        if call is not None:
            call(worker)
        elif worker.binding is None:
            self._fresh.append(worker)
        return worker

    def keep_warm_soon(self) -> None:
        """Top up the fresh workers a little later, when whoever took one is on its way."""
        self._loop.call_later(0.005, self.keep_warm)

    def keep_warm(self) -> None:
        """Have as many fresh workers as shall wait ready."""
        if self._is_ending:
            return
        spare = len(self._fresh) + sum(1 for worker in self._starting if worker.waiting is None)
        for _ in range(self._warm - spare):
            self._fork()

    def end_idle(self, job: str | None = None, *, older_than_s: float = 0.0) -> None:
        """End idle bound workers: all of one job, or those of too many that have been idle for long and own nothing."""
        self._end_lingering()
        now = self._loop.time()
        surplus = sum(map(len, self._bound.values())) - max(2, self._warm)
        for idle in self._bound.values():
            for worker in tuple(idle):
                is_of_job = job is not None and worker.job == job
                is_surplus = (
                    job is None and surplus > 0 and not worker.is_owner and now - worker.idle_since >= older_than_s
                )
                if is_of_job or is_surplus:
                    surplus -= 1
                    idle.remove(worker)
                    self.kill(worker, "no longer needed")

    def _end_lingering(self) -> None:
        """End used-up workers that nobody needs as owners any more."""
        now = self._loop.time()
        for worker in tuple(self._lingering):
            if not worker.is_owner and now - worker.idle_since >= LINGER_S * 0.9:
                self._lingering.remove(worker)
                self.kill(worker, "used up")

    # ------------------------------------------------------------------------------------------------ ending

    def kill(self, worker: Worker, why: str) -> None:
        """End a worker at once; the verdict follows."""
        worker.kill_why = worker.kill_why or why
        worker.is_reusable = False
        _signal(worker, signal.SIGKILL)

    def halt(self, worker: Worker) -> None:
        """Stop a worker where it is; it can still be killed."""
        _signal(worker, signal.SIGSTOP)

    def go_on(self, worker: Worker) -> None:
        """Let a stopped worker go on."""
        _signal(worker, signal.SIGCONT)

    async def end(self) -> None:
        """End the zygote and, with it, every worker."""
        self._is_ending = True
        for worker in tuple(self.workers.values()):
            self.kill(worker, "the node ends")
        if self._control is not None:
            self._loop.remove_reader(self._control.fileno())
            self._control.close()
        if self._zygote is not None:
            await self._loop.run_in_executor(None, self._zygote.end)
        for worker in self.workers.values():
            if worker.pidfd >= 0:
                self._loop.remove_reader(worker.pidfd)
                os.close(worker.pidfd)
                worker.pidfd = -1

    def _fork(self) -> Worker:
        self._serial += 1
        worker = Worker(self._serial, self._next_process())
        self.workers[worker.serial] = worker
        self.by_process[worker.process] = worker
        self._to_fork.append(worker)
        self._starting.append(worker)
        self._fork_more()
        return worker

    def _fork_more(self) -> None:
        """Send fork requests, a few at a time; those that somebody waits for go first."""
        if not self._is_zygote_ready or self._control is None:
            return
        under_way = len(self._starting) - len(self._to_fork)
        while self._to_fork and under_way < FORKS_AT_ONCE:
            worker = next((one for one in self._to_fork if one.waiting is not None), self._to_fork[0])
            self._to_fork.remove(worker)
            if worker.is_dead:
                continue
            request = {**self._info, "serial": worker.serial, "process": worker.process.hex()}
            try:
                self._control.send(json.dumps(request).encode())
            except BlockingIOError:
                self._to_fork.appendleft(worker)
                self._loop.call_later(0.01, self._fork_more)
                return
            except OSError:
                return  # the zygote is gone; its end is handled where it is read
            self._loop.call_later(START_LIMIT_S, self._check_started, worker)
            under_way += 1

    def _check_started(self, worker: Worker) -> None:
        if not worker.is_ready and not worker.is_dead:
            self.kill(worker, f"it did not start within {START_LIMIT_S:g} s")

    def _on_death(self, worker: Worker) -> None:
        self._loop.remove_reader(worker.pidfd)
        os.close(worker.pidfd)
        worker.pidfd = -1
        # The verdict is the pidfd's; the exit code, which comes from the zygote, only makes the reason better.
        if worker.code is not None:
            self._lost(worker, "")
        else:
            self._loop.call_later(CODE_LIMIT_S, self._lost, worker, "")

    def _lost(self, worker: Worker, why: str) -> None:
        if worker.is_dead:
            return
        worker.is_dead = True
        self.workers.pop(worker.serial, None)
        self.by_process.pop(worker.process, None)
        self._by_pid.pop(worker.pid, None)
        for group in (self._starting, self._fresh, self._to_fork, self._lingering):
            with contextlib.suppress(ValueError):
                group.remove(worker)
        for idle in self._bound.values():
            with contextlib.suppress(ValueError):
                idle.remove(worker)
        call, worker.waiting = worker.waiting, None
        if not self._is_ending:
            self._died(worker, why or _reason(worker))
            if call is not None and worker.binding is not None:
                self.take(worker.binding, call)
            self._fork_more()
            self.keep_warm_soon()


def _signal(worker: Worker, number: signal.Signals) -> None:
    if worker.pidfd >= 0:
        with contextlib.suppress(ProcessLookupError, OSError):
            signal.pidfd_send_signal(worker.pidfd, number)


def _reason(worker: Worker) -> str:
    if worker.kill_why:
        return worker.kill_why
    code = worker.code
    if code is None:
        return "the worker process died"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"the worker process was killed by {signal.Signals(-code).name}"
        return f"the worker process was killed by signal {-code}"
    return f"the worker process exited with code {code}"
