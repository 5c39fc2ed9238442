"""Where this process's tasks come from: the task that made each of them, about when, and (if wanted) from which line.

None of this travels with a task. Numbers are given in order, so it is enough to remember where another task began to
hand out work (`note`, only in workers: all that a driver hands out is its own) and, ten times a second, which number
came next. Who ran our tasks asks for it about once a second, before it tells its agent what it ran.

Threads of one actor that hand out work at the same moment may be taken for each other.
"""

from __future__ import annotations

import bisect
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from shoal.runtime.client.context import _running
from shoal.runtime.client.core import Core
from shoal.runtime.client.reactor import Link
from shoal.wire import tasks as wire

MARK_S = 0.1
MARKS_MAX = 20_000
"""How many changes of the task, and of the time, are remembered."""
TOLD_MAX = 5_000
"""In how many pieces one answer may come."""
SITE_CHARACTERS_MAX = 500
SITES_VARIABLE = "SHOAL_RECORD_CALL_SITES"
Origin = tuple[bytes, float]
"""The id of the task that made it (empty: unknown), and the wall time at which it was there."""


class Origins:
    """What is remembered of the numbers that this process gave."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.records_sites = sites_wanted()
        self.is_watching = core.is_worker or self.records_sites
        """Whether `note` is to be called for each task."""
        self.now: Callable[[], Any] = lambda: None
        """What the main thread runs, as something that is another object for another task; set by the worker."""
        self.name_of: Callable[[Any], bytes] = lambda running: b""
        """The id of the task that `now`, or the context, gave."""
        self._last: Any = None
        self._highest = 0
        self._firsts: list[int] = []
        self._parents: list[bytes] = []
        self._times: list[int] = []
        self._walls: list[float] = []
        self._mark_at = 0.0
        core.on_tick.append(self._tick)
        core.handlers[wire.ASK_ORIGINS] = self._on_asked

    # ---------------------------------------------------------------------------------------------- the hot path

    def note(self, n: int, options: dict[str, Any] | None) -> dict[str, Any] | None:
        """Remember who makes task `n`; return its options, with the place that calls if that is recorded."""
        if self._core.is_worker:
            running = _running.get() or self.now()
            if running is not self._last or n < self._highest:
                self._begin(n, running)
        return {**(options or {}), "site": call_site()} if self.records_sites else options

    def _begin(self, n: int, running: Any) -> None:
        with self._core.lock:
            place = bisect.bisect_left(self._firsts, n)
            self._firsts.insert(place, n)
            self._parents.insert(place, self.name_of(running) if running is not None else b"")
            if n >= self._highest:
                self._highest, self._last = n, running
            if len(self._firsts) > MARKS_MAX:
                del self._firsts[: MARKS_MAX // 2], self._parents[: MARKS_MAX // 2]

    # ---------------------------------------------------------------------------------------------- answers

    def of(self, n: int) -> Origin:
        """Return where number `n` comes from. With the core's lock held."""
        if not self._core.is_worker:
            parent = driver_task(self._core.process)
        else:
            place = bisect.bisect_right(self._firsts, n)
            parent = self._parents[place - 1] if place else b""
        later = bisect.bisect_right(self._times, n)
        return parent, self._walls[later] if later < len(self._walls) else time.time()

    def between(self, low: int, high: int) -> list[tuple[int, bytes, float]]:
        """Return (first number, parent, time) of each piece of the numbers from `low` to `high`, the last pieces.

        With the core's lock held.
        """
        firsts = {low}
        for marks in (self._firsts, self._times):
            firsts.update(marks[bisect.bisect_right(marks, low) : bisect.bisect_right(marks, high)])
        return [(first, *self.of(first)) for first in sorted(firsts)[-TOLD_MAX:]]

    def _on_asked(self, link: Link, message: list[Any]) -> None:
        _, serial, low, high = message
        link.out.append((wire.ORIGINS, serial, self.between(low, high)))
        self._core.touch(link)

    def _tick(self, now: float) -> None:
        """Note which number comes next, if any was given since."""
        if now < self._mark_at:
            return
        self._mark_at = now + MARK_S
        self._last = None  # it holds the task's arguments
        with self._core.lock:
            n = next(self._core.ids)
            if self._times and n == self._times[-1] + 1:
                # Nothing but our own looking happened: the number that came next then is the one that comes now.
                self._times[-1] = n
                return
            self._times.append(n)
            self._walls.append(time.time())
            if len(self._times) > MARKS_MAX:
                del self._times[: MARKS_MAX // 2], self._walls[: MARKS_MAX // 2]


def driver_task(process: bytes) -> bytes:
    """Return the id that stands for what a driver does outside of tasks: its number 0."""
    return process + bytes(6)


def sites_wanted() -> bool:
    """Say whether this process's environment asks for call sites."""
    return os.environ.get(SITES_VARIABLE, "").lower() in ("1", "true", "yes")


def call_site() -> str:
    """Return the innermost caller outside of Shoal, as `file:line in function`."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "shoal":
        frame = frame.f_back
    code = frame.f_code
    return f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}"[-SITE_CHARACTERS_MAX:]
