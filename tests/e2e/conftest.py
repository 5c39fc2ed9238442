"""Real clusters from the command line, each with a name and directories of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from shoal.transport import discovery

SMALL = {
    "cluster_name": "t",
    "provider": {"type": "local", "oversubscribe": 16},
    "max_workers": 4,
    "idle_timeout_s": "1s",
    "min_up": "0s",
    "policy": {"flap": "0s"},
    "finish_within": "2s",
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 1, "object_store_memory": "64 MiB"}, "price_usd_per_h": 0.01},
        "small": {
            "resources": {"CPU": 2, "object_store_memory": "64 MiB"},
            "max_workers": 4,
            "price_usd_per_h": 0.1,
        },
    },
}


class Cluster:
    """One cluster under test: its file, and the command line."""

    def __init__(self, place: Path, config: dict[str, Any]) -> None:
        self.name = config["cluster_name"]
        self.path = place / f"{self.name}.yaml"
        self.rewrite(config)
        self._drivers: list[subprocess.Popen[str]] = []

    def rewrite(self, config: dict[str, Any]) -> None:
        self.config = config
        self.path.write_text(yaml.safe_dump(config))

    def shoal(self, *arguments: str, limit_s: float = 60, says: str = "") -> tuple[int, str, str]:
        """Run `shoal ...`, to which a person says something, and return (exit code, stdout, stderr)."""
        ran = subprocess.run(
            [sys.executable, "-m", "shoal", *arguments],
            capture_output=True,
            text=True,
            timeout=limit_s,
            input=says,
        )
        return ran.returncode, ran.stdout, ran.stderr

    def up(self, *more: str) -> str:
        code, out, error = self.shoal("up", str(self.path), "-y", *more)
        assert code == 0, error
        return out

    def down(self) -> str:
        code, out, error = self.shoal("down", str(self.path), "-y")
        assert code == 0, error
        return out

    def status(self) -> dict[str, Any]:
        code, out, error = self.shoal("status", self.name, "--format", "json")
        assert code == 0, error
        found: dict[str, Any] = json.loads(out)
        return found

    def nodes(self, **wanted: object) -> list[dict[str, Any]]:
        """Return the head's rows of nodes (dead ones too) whose columns have these values."""
        code, out, error = self.shoal("list", "nodes", "-c", self.name, "--format", "json", "--detail")
        assert code == 0, error
        return [row for row in json.loads(out) if all(row.get(key) == value for key, value in wanted.items())]

    def file(self) -> discovery.ClusterFile:
        found = discovery.find(self.name)
        assert found is not None
        return found

    def pid_of(self, process: str) -> int:
        """Return the pid of a process of the head machine that its guard started last (head, agent, autoscaler)."""
        log = discovery.state_dir(self.name) / "logs" / "guard.jsonl"

        def started() -> list[int]:
            return [
                event["fields"]["pid"]
                for event in map(json.loads, log.read_text().splitlines())
                if event["kind"] == "process_started" and event["fields"]["process"] == process
            ]

        return int(until(started, what=f"the start of `{process}`")[-1])

    def kill(self, process: str) -> None:
        os.kill(self.pid_of(process), signal.SIGKILL)

    def events(self) -> list[dict[str, Any]]:
        """Return the autoscaler's events so far."""
        path = discovery.state_dir(self.name) / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def run(self, program: str, *arguments: str, limit_s: float = 60) -> str:
        """Run a driver program against the cluster and return what it printed."""
        ran = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            capture_output=True,
            text=True,
            timeout=limit_s,
            env={**os.environ, "SHOAL_ADDRESS": self.name},
        )
        assert ran.returncode == 0, ran.stderr[-3000:]
        return ran.stdout

    def start(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a driver program; it ends with the test at the latest."""
        driver = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "SHOAL_ADDRESS": self.name},
        )
        self._drivers.append(driver)
        return driver

    def end_drivers(self) -> None:
        """Kill every driver that was started and is still there."""
        for driver in self._drivers:
            if driver.poll() is None:
                driver.kill()
            driver.communicate()


def until(condition: Callable[[], Any], limit_s: float = 30, *, what: str = "") -> Any:
    """Return the first true value of `condition`, asked often; fail after `limit_s`."""
    deadline_s = time.monotonic() + limit_s
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {limit_s:g} s: {what or condition}")
        time.sleep(0.05)


@pytest.fixture
def make_cluster(own_places: Path, tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Return a maker of clusters; each one still up at the end is taken down and must go cleanly."""
    made: list[Cluster] = []

    def make(**changes: Any) -> Cluster:
        cluster = Cluster(tmp_path, {**SMALL, **changes})
        made.append(cluster)
        return cluster

    yield make
    for cluster in made:
        cluster.end_drivers()
        code, _, error = cluster.shoal("down", cluster.name, "-y")
        assert code == 0, error


@pytest.fixture
def cluster(make_cluster: Callable[..., Cluster]) -> Cluster:
    """Return one cluster, up."""
    made = make_cluster()
    made.up()
    return made
