"""Time as an argument: nobody in Shoal asks the operating system for the time but through a `Clock`.

`monotonic_s` drives every decision; `wall_s` is for records only, and no decision compares the clocks of
two machines. In tests and in `provider: sim` the clock is the event loop's virtual time.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Where the time comes from."""

    def monotonic_s(self) -> float:
        """Return seconds on a clock that never jumps and counts sleep of the machine (boot time)."""
        ...

    def wall_s(self) -> float:
        """Return seconds since 1970, UTC. For records; it may jump."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def monotonic_s(self) -> float:
        return time.clock_gettime(_BOOT_CLOCK)

    def wall_s(self) -> float:
        return time.time()


class LoopClock:
    """The running event loop's time: virtual where the loop is virtual."""

    def __init__(self, wall_start_s: float = 1_767_225_600.0) -> None:
        """Count wall time from `wall_start_s` (default: 2026-01-01 00:00 UTC) at loop time 0."""
        self._wall_start_s = wall_start_s

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()

    def wall_s(self) -> float:
        return self._wall_start_s + asyncio.get_running_loop().time()


# CLOCK_BOOTTIME counts suspended time, so a lease also runs out on a frozen host; macOS has no such clock.
_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
