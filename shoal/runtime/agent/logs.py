"""Workers' prints on their way to the driver, with a budget; the files are written by the workers themselves.

A worker sends its lines and how far in its file they reach. When it dies, the rest is read from the file: what it
printed last is often why it died.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from shoal.runtime.agent.clients import Client
from shoal.runtime.agent.pool import Worker
from shoal.wire import tasks as wire
from shoal.wire.messages import Printed

LINES_PER_S = 2000
"""How many lines of one job are forwarded per second; the rest stays in the files."""
LAST_BYTES_MAX = 256 * 1024
"""How much of a dead worker's file is read for the driver, from the end."""
Lines = list[list[str]]


class _Budget:
    """What a job may still show in this second."""

    __slots__ = ("left", "left_out", "since")

    def __init__(self) -> None:
        self.since, self.left, self.left_out = 0.0, LINES_PER_S, 0


class Logs:
    """Forwards lines to the drivers of the job that printed them."""

    def __init__(
        self, directory: Path, where: str, drivers: Callable[[str], list[Client]], away: Callable[[Printed], None]
    ) -> None:
        """`where` names this node to people; `away` takes lines for a driver that is not attached here."""
        self._directory, self._where, self._drivers, self._away = directory, where, drivers, away
        self._budgets: dict[str, _Budget] = {}
        self._reached: dict[tuple[bytes, bool], tuple[int, int]] = {}
        """How far each worker's streams have been sent here: inode and offset."""
        self._names: dict[bytes, str] = {}
        self._serials = itertools.count(1)
        self._shown: dict[int, tuple[set[bytes], Callable[[], None]]] = {}
        """Requests to show everything: workers that have not done so, and what to call then."""

    def printed(self, client: Client, lines: Lines, inode: int, offset: int, is_error: bool) -> None:
        """Pass lines on: `[[name, line], ...]`."""
        if client.worker is not None:
            if client.worker.is_dead:
                return  # its file has been read
            self._reached[client.process, is_error] = (inode, offset)
        if lines:
            self._names[client.process] = lines[-1][0]
            self._forward(client.job, client.pid, lines, is_error)

    def worker_died(self, worker: Worker) -> None:
        """Show what the worker printed and did not send."""
        name = self._names.pop(worker.process, "")
        if worker.lease is not None:
            name = str(worker.lease.row.spec.get("name") or name).rpartition(".")[2]
        for is_error, suffix in ((False, "out"), (True, "err")):
            inode, offset = self._reached.pop((worker.process, is_error), (0, 0))
            if worker.job:
                path = self._directory / f"worker-{worker.process.hex()[-8:]}-{worker.pid}.{suffix}"
                lines = [[name or "worker", text] for text in _rest_of(path, inode, offset)]
                if lines:
                    self._forward(worker.job, worker.pid, lines, is_error)
        for serial in tuple(self._shown):
            self._has_shown(serial, worker.process)

    def show(self, workers: Iterable[Worker], call: Callable[[], None]) -> int:
        """Have workers send all that was printed so far, then `call`; return a number for `give_up`."""
        asked = {one.process: one.client for one in workers if one.client is not None and not one.is_dead}
        serial = next(self._serials)
        self._shown[serial] = (set(asked), call)
        for client in asked.values():
            client.tell(wire.SHOW, serial)
        self._has_shown(serial, b"")
        return serial

    def on_shown(self, client: Client, serial: int) -> None:
        """A worker has sent everything."""
        self._has_shown(serial, client.process)

    def give_up(self, serial: int) -> None:
        """Wait no longer for workers that do not answer."""
        waiting = self._shown.pop(serial, None)
        if waiting is not None:
            waiting[1]()

    def tick(self) -> None:
        """Say what was left out, once there is room again."""
        now = time.monotonic()
        for job, budget in tuple(self._budgets.items()):
            if now - budget.since >= 1.0:
                del self._budgets[job]
                self._tell_left_out(job, budget)

    def close(self) -> None:
        """Forget everything."""
        self._budgets.clear()
        self._reached.clear()
        self._shown.clear()

    # ---------------------------------------------------------------------------------------------- inside

    def _forward(self, job: str, pid: int, lines: Lines, is_error: bool) -> None:
        budget = self._budgets.get(job)
        now = time.monotonic()
        if budget is None or now - budget.since >= 1.0:
            if budget is not None:
                self._tell_left_out(job, budget)
            budget = self._budgets[job] = _Budget()
            budget.since = now
        kept = lines[: budget.left]
        budget.left -= len(kept)
        budget.left_out += len(lines) - len(kept)
        if kept:
            self._tell(job, pid, is_error, kept)

    def _tell_left_out(self, job: str, budget: _Budget) -> None:
        if budget.left_out:
            text = f"{budget.left_out} lines are not shown (more than {LINES_PER_S}/s); `shoal logs` has them"
            self._tell(job, os.getpid(), True, [["agent", text]])

    def _tell(self, job: str, pid: int, is_error: bool, lines: Lines) -> None:
        drivers = self._drivers(job)
        for driver in drivers:
            driver.tell(wire.FORWARDED, pid, is_error, lines)
        if not drivers:
            self._away(Printed(job, pid, self._where, is_error, lines))

    def _has_shown(self, serial: int, process: bytes) -> None:
        waiting = self._shown.get(serial)
        if waiting is not None:
            waiting[0].discard(process)
            if not waiting[0]:
                self.give_up(serial)


def _rest_of(path: Path, inode: int, offset: int) -> list[str]:
    """Return the lines of a file from `offset` on; from the start if it is another file than was meant."""
    data = b""
    with contextlib.suppress(OSError), path.open("rb") as file:
        status = os.fstat(file.fileno())
        start = offset if status.st_ino == inode else 0
        if status.st_size > start:
            file.seek(max(start, status.st_size - LAST_BYTES_MAX))
            data = file.read(LAST_BYTES_MAX)
    return [line.decode("utf-8", "backslashreplace") for line in data.splitlines()]
