"""What the store's unit tests share: a clock moved by hand, a disk that works when told."""

from __future__ import annotations

import collections
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shoal.runtime.store.node import NodeStore

MIB = 2**20


class HandClock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.now_s


class StepDisk:
    """A disk whose jobs run one at a time, when a test calls `step`; `fault` makes the next jobs fail."""

    def __init__(self) -> None:
        self.jobs: collections.deque[tuple[Callable[[], Any], Callable[[Any], None]]] = collections.deque()
        self.fault: BaseException | None = None

    def submit(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        self.jobs.append((work, done))

    def step(self) -> bool:
        if not self.jobs:
            return False
        work, done = self.jobs.popleft()
        result: Any = self.fault
        if result is None:
            try:
                result = work()
            except BaseException as error:
                result = error
        done(result)
        return True

    def finish(self) -> None:
        while self.step():
            pass


class Desk:
    """A store with its clock and disk, and the short ways in which tests use it."""

    def __init__(self, directory: Path, limit_bytes: int) -> None:
        self.clock, self.disk = HandClock(), StepDisk()
        self.segments, self.spill = directory / "segments", directory / "spill"
        self.segments.mkdir()
        self.spill.mkdir()
        self.reclaims = 0
        self.copied: list[tuple[bytes, bytes, int, bool]] = []
        self.store = NodeStore(
            self.segments,
            limit_bytes,
            self.clock,
            disk=self.disk,
            spill_directory=self.spill,
            reclaim=self._reclaim,
            copied=lambda object_id, owner, size, is_there: self.copied.append((object_id, owner, size, is_there)),
        )

    def _reclaim(self) -> None:
        self.reclaims += 1

    def lease(self, size: int, process: bytes = b"w", *, wait_s: float = 30.0) -> list[Any]:
        """Ask for a segment; the list holds the answer once there is one."""
        answers: list[Any] = []
        self.store.lease(process, size, answers.append, wait_s=wait_s)
        return answers

    def put(self, object_id: bytes, data: bytes, process: bytes = b"w", *, is_primary: bool = True) -> None:
        """Write and seal an object that must fit now."""
        (segment,) = self.lease(len(data), process)
        assert not isinstance(segment, Exception), segment
        with open(self.segments / segment.name, "r+b") as file:
            file.seek(segment.offset)
            file.write(data)
        assert self.store.seal(process, object_id, segment.id, len(data), is_primary=is_primary)

    def pin(self, object_id: bytes, process: bytes = b"r") -> list[Any]:
        """Pin an object; the list holds the answer once there is one."""
        answers: list[Any] = []
        self.store.pin(process, object_id, answers.append)
        return answers

    def bytes_at(self, located: Any) -> bytes:
        """Read what lies at an answer of `pin`."""
        with open(self.segments / located.name, "rb") as file:
            file.seek(located.offset)
            return file.read(located.size)

    def states(self) -> dict[bytes, str]:
        """Return the state of every object."""
        return {row.object_id: str(row.state) for row in self.store.rows()}
