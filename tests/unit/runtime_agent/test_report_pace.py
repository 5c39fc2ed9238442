"""When an agent reports: soon after a quiet time, at most every 20 ms while things keep changing. In virtual time."""

from __future__ import annotations

import asyncio
import itertools
from types import SimpleNamespace
from typing import Any

from shoal.foundation.clock import Clock
from shoal.runtime.agent.head_link import REPORT_FIRST_S, REPORT_PAUSE_S, HeadLink
from shoal.testing.sim_time import HandClock, run


class Agent:
    """As much of an agent as a report needs."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.settings = SimpleNamespace(fence_s=25.0)

    def usage(self) -> dict[str, Any]:
        return {"idle_s": 0.0}

    def clients(self) -> list[Any]:
        return []


class Times:
    """A connection that notes when something is sent."""

    def __init__(self) -> None:
        self.sent_s: list[float] = []

    def send(self, message: object) -> None:
        self.sent_s.append(asyncio.get_running_loop().time())


def joined() -> tuple[HeadLink, Times]:
    link, times = HeadLink(Agent(HandClock())), Times()  # type: ignore[arg-type]
    link.connection, link.is_joined = times, True  # type: ignore[assignment]
    return link, times


def test_the_first_change_after_a_quiet_time_is_reported_soon() -> None:
    async def story() -> list[float]:
        link, times = joined()
        await asyncio.sleep(10.0)
        for _ in range(3):
            link.report_soon()
        await asyncio.sleep(1.0)
        return times.sent_s

    [sent_s] = run(story())
    assert abs(sent_s - (10.0 + REPORT_FIRST_S)) < 1e-6


def test_changes_that_keep_coming_are_reported_at_the_pace() -> None:
    async def story() -> list[float]:
        link, times = joined()
        await asyncio.sleep(10.0)
        for _ in range(200):
            link.report_soon()
            await asyncio.sleep(0.001)
        await asyncio.sleep(1.0)
        return times.sent_s

    sent_s = run(story())
    pauses = [after - before for before, after in itertools.pairwise(sent_s)]
    assert all(pause > REPORT_PAUSE_S - 1e-6 for pause in pauses), pauses
    assert len(sent_s) >= 9
