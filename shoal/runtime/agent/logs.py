"""Workers' prints on their way to the driver, with a budget; the files are written by the workers themselves."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from shoal.runtime.agent.clients import Client
from shoal.wire import tasks as wire
from shoal.wire.messages import Printed

LINES_PER_S = 2000
"""How many lines of one job are forwarded per second; the rest stays in the files."""


class Logs:
    """Forwards lines to the drivers of the job that printed them."""

    def __init__(
        self, directory: Path, where: str, drivers: Callable[[str], list[Client]], away: Callable[[Printed], None]
    ) -> None:
        """`where` names this node to people; `away` takes lines for a driver that is not attached here."""
        self._directory, self._where, self._drivers, self._away = directory, where, drivers, away
        self._budget: dict[str, tuple[float, int]] = {}

    def printed(self, client: Client, lines: list[list[object]], is_error: bool) -> None:
        """Pass lines on: `[[name, line], ...]`."""
        job = client.job
        window, left = self._budget.get(job, (0.0, LINES_PER_S))
        now = time.monotonic()
        if now - window >= 1.0:
            window, left = now, LINES_PER_S
        kept = lines[:left]
        self._budget[job] = (window, left - len(kept))
        if not kept:
            return
        drivers = self._drivers(job)
        for driver in drivers:
            driver.tell(wire.FORWARDED, client.pid, is_error, kept)
        if not drivers:
            self._away(Printed(job, client.pid, self._where, is_error, kept))

    def close(self) -> None:
        """Forget the budgets."""
        self._budget.clear()
