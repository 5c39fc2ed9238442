"""One cluster for each test here, started by hand: head, agent and guard are processes that can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shoal.transport import discovery


class ByHand:
    """`shoal start --head`, with drivers of its own."""

    name = "faults"

    def __init__(self, *more: str) -> None:
        self._drivers: list[subprocess.Popen[str]] = []
        self.shoal("start", "--head", "--name", self.name, "--object-store-memory", "64 MiB", *more)

    def shoal(self, *words: str) -> str:
        ran = subprocess.run(
            [sys.executable, "-m", "shoal", *words], capture_output=True, text=True, timeout=60, check=False
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def pid_of(self, process: str) -> int:
        """Return the pid of the head or agent that the guard started last."""
        log = discovery.state_dir(self.name) / "logs" / "guard.jsonl"
        events = [json.loads(line) for line in log.read_text().splitlines()]
        started = [event["fields"] for event in events if event["kind"] == "process_started"]
        return int([one["pid"] for one in started if one["process"] == process][-1])

    def kill(self, process: str) -> None:
        os.kill(self.pid_of(process), signal.SIGKILL)

    def rows(self, what: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.shoal("list", what, "-c", self.name, "--format", "json"))
        return found

    def start(self, program: str, *arguments: str, stdin: int | None = None) -> subprocess.Popen[str]:
        """Start a driver and return it once it has printed `ready`."""
        driver = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "SHOAL_ADDRESS": self.name},
        )
        self._drivers.append(driver)
        assert driver.stdout is not None
        assert driver.stdout.readline() == "ready\n", driver.communicate(timeout=10)[1][-3000:]
        return driver

    def run(self, program: str, *arguments: str) -> list[str]:
        """Run a driver that prints `ready`, and return what else it prints."""
        return said(self.start(program, *arguments))

    def end(self) -> None:
        for driver in self._drivers:
            driver.kill()
            driver.communicate()
        self.shoal("stop", "--all")


def said(driver: subprocess.Popen[str]) -> list[str]:
    """Return the lines that a driver still prints until its good end."""
    assert driver.stdout is not None
    assert driver.stderr is not None
    limit = threading.Timer(60, driver.kill)
    limit.start()
    errors: list[str] = []
    reading = threading.Thread(target=lambda: errors.append(driver.stderr.read()))  # type: ignore[union-attr]
    reading.start()
    out = driver.stdout.read()  # whoever read the first line may hold more than that; `communicate` would lose it
    reading.join()
    driver.wait()
    limit.cancel()
    assert driver.returncode == 0, errors[0][-3000:]
    return out.splitlines()


def eventually(claim: Callable[[], Any], within_s: float = 30.0) -> Any:
    """Return the claim's first true value; fail if it is not true in time."""
    deadline_s = time.monotonic() + within_s
    while not (value := claim()):
        assert time.monotonic() < deadline_s, f"not true within {within_s} s: {claim}"
        time.sleep(0.02)
    return value


@pytest.fixture
def by_hand(own_places: Path) -> Iterator[Callable[..., ByHand]]:
    """Return a maker of one cluster; it is stopped in order."""
    made: list[ByHand] = []

    def make(*more: str) -> ByHand:
        made.append(ByHand(*more))
        return made[0]

    yield make
    for one in made:
        one.end()
