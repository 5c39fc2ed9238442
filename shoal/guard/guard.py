"""The guard's loop: start the children, keep them, seek contact, and end everything in order when it is time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

import msgspec

from shoal.foundation.clock import Clock
from shoal.foundation.errors import AuthenticationError, ProtocolError
from shoal.foundation.eventlog import EventLog, Kind
from shoal.guard import processes
from shoal.guard.lock import INHERITED_LOCK, take_lock
from shoal.guard.machine import Child, MachineSpec
from shoal.guard.rules import Contact, Ending, ending, restart_in_s
from shoal.guard.spawn import reap
from shoal.transport import address, discovery
from shoal.transport.connection import dial

LOG_BYTES_MAX = 8 * 2**20


class Guard:
    """One machine's processes, from the first child to the last file."""

    def __init__(
        self, clock: Clock, directory: Path, spec: MachineSpec, events: EventLog, *, held: int | None = None
    ) -> None:
        """Take the machine; `held` is the descriptor of a lock to close once the machine can be found."""
        self._clock, self._directory, self._spec, self._events = clock, directory, spec, events
        self._held = held
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._ending = asyncio.Event()
        self._why = ""
        now_s = clock.monotonic_s()
        self._contact = Contact(started_s=now_s, answered_s=now_s)
        self._lock = -1

    async def run(self) -> int:
        """Run the machine until it is told, or has, to end; return the exit code.

        Raises:
            Held: another guard runs this machine, or another live cluster has its name.
        """
        self._lock = take_lock(self._directory)
        if self._spec.cluster_file is not None:
            pid = os.getpid()
            discovery.write(
                msgspec.structs.replace(self._spec.cluster_file, pid=pid, started=discovery.process_started(pid))
            )
        if self._held is not None:
            os.close(self._held)
        processes.adopt_orphans()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self.end, f"signal {signal.Signals(number).name}")
        tasks = [asyncio.create_task(self._keep(child)) for child in self._spec.children]
        tasks.append(asyncio.create_task(self._hold_lease()))
        tasks.append(asyncio.create_task(_reap_orphans(self._running)))
        await self._ending.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._end_children()
        self._clean_up()
        return 0

    def end(self, why: str) -> None:
        """Begin the end; repeated calls change nothing."""
        self._why = self._why or why
        self._ending.set()

    async def _keep(self, child: Child) -> None:
        """Start a child, again and again, as its rule allows."""
        deaths_s: list[float] = []
        if child.after_file:
            await self._wait_for(Path(child.after_file), child.after_limit_s)
        while True:
            started_s = self._clock.monotonic_s()
            process = await self._start(child)
            code = await process.wait()
            now_s = self._clock.monotonic_s()
            deaths_s = [at_s for at_s in deaths_s if now_s - at_s < child.restart_window_s] + [now_s]
            wait_s = restart_in_s(child, deaths_s, now_s - started_s)
            self._events.record(Kind.PROCESS_DIED, process=child.name, pid=process.pid, code=code, restart_in_s=wait_s)
            if wait_s is None:
                if child.is_vital:
                    self.end(f"`{child.name}` died {len(deaths_s)} times within {child.restart_window_s:.0f} s")
                return
            await asyncio.sleep(wait_s)

    async def _wait_for(self, path: Path, limit_s: float) -> None:
        end_s = self._clock.monotonic_s() + limit_s
        while not path.exists() and self._clock.monotonic_s() < end_s:
            await asyncio.sleep(0.01)

    async def _start(self, child: Child) -> asyncio.subprocess.Process:
        log = _open_log(Path(self._spec.log_dir) / f"{child.name}.log")
        # Should the guard be killed, a next one of the head machine must wait for these.
        inherited = {INHERITED_LOCK: str(self._lock)} if self._spec.role == "head" else {}
        try:
            process = await asyncio.create_subprocess_exec(
                *child.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **child.env, "SHOAL_PARENT": str(os.getpid()), **inherited},
                pass_fds=tuple(map(int, inherited.values())),
            )
        finally:
            os.close(log)
        self._running[child.name] = process
        self._events.record(Kind.PROCESS_STARTED, process=child.name, pid=process.pid)
        return process

    async def _hold_lease(self) -> None:
        """Seek contact with the head, and end the machine when the lease has run out."""
        if self._spec.role == "head":
            return
        credential = discovery.load_credential(Path(self._spec.secret_file))
        step_s = min(5.0, max(0.2, self._spec.lease_s / 10))
        tls = self._spec.tls.dialling() if self._spec.tls else None
        while True:
            for text in self._spec.head_addresses:
                try:
                    connection = await dial(address.parse(text), tls, credential, limit_s=5.0)
                except AuthenticationError:
                    if self._contact.rejected_s is None:
                        self._contact.rejected_s = self._clock.monotonic_s()
                except (OSError, TimeoutError, ProtocolError):
                    continue
                else:
                    connection.abort()
                    self._contact.answered_s, self._contact.rejected_s = self._clock.monotonic_s(), None
                    break
            if self._spec.joined_file and Path(self._spec.joined_file).exists():
                self._contact.has_joined = True
            is_busy = bool(self._spec.busy_file) and Path(self._spec.busy_file).exists()
            verdict = ending(self._spec, self._contact, self._clock.monotonic_s(), is_busy=is_busy)
            if verdict is not Ending.NOT_YET:
                self._events.record(Kind.ALARM, what="machine ends itself", why=str(verdict))
                self.end(str(verdict))
                return
            await asyncio.sleep(step_s)

    async def _end_children(self) -> None:
        """End the children in reverse order, each with its grace, then whatever is left of the session."""
        for child in reversed(self._spec.children):
            process = self._running.get(child.name)
            if process is None or process.returncode is not None:
                continue
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(child.grace_s):
                    await process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        deadline_s = time.monotonic() + 5.0
        while processes.kill_session(os.getsid(0)) and time.monotonic() < deadline_s:
            await asyncio.sleep(0.01)

    def _clean_up(self) -> None:
        if self._spec.cluster_file is not None:
            discovery.remove(self._spec.cluster_file.name, self._spec.cluster_file.uid)
        for path in self._spec.remove:
            shutil.rmtree(path, ignore_errors=True)
        os.close(self._lock)


async def _reap_orphans(running: dict[str, asyncio.subprocess.Process]) -> None:
    """Collect adopted processes that have ended; our own children belong to asyncio's watcher."""
    while True:
        own = {process.pid for process in running.values()}
        for pid in _zombie_children():
            if pid not in own:
                reap(pid)
        await asyncio.sleep(1.0)


def _zombie_children() -> list[int]:
    found = []
    try:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    except OSError:
        return []
    for pid in children:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                found.append(int(pid))
        except OSError:
            continue
    return found


def _open_log(path: Path) -> int:
    """Open a child's log for appending; a long one is turned over first."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        if path.stat().st_size > LOG_BYTES_MAX:
            path.replace(path.with_name(path.name + ".1"))
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
