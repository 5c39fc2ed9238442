"""Shares between drivers, memory that runs out, a head that goes and comes back, actors that are fenced."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

import shoal
from shoal import exceptions
from shoal.runtime.client import owner
from shoal.runtime.client.api import session
from tests.runtime.conftest import eventually
from tests.runtime.nodes import Nodes, cluster_of

SECOND_DRIVER = """
import sys, time, shoal
shoal.init(sys.argv[1])
@shoal.remote
def one(): return 1
started = time.monotonic()
print(sum(shoal.get([one.remote() for _ in range(8)])), time.monotonic() - started, flush=True)
"""


def test_a_second_driver_gets_its_share_of_a_busy_node(own_places: Path) -> None:
    @shoal.remote
    def busy() -> None:
        time.sleep(0.1)

    with shoal.init("local", num_cpus=2) as context:
        flood = [busy.remote() for _ in range(300)]
        time.sleep(0.5)
        ran = subprocess.run(
            [sys.executable, "-c", SECOND_DRIVER, context["name"]], capture_output=True, text=True, timeout=60
        )
        assert ran.returncode == 0, ran.stderr
        total, took_s = ran.stdout.split()
        assert int(total) == 8
        left = len(shoal.wait(flood, num_returns=300, timeout=0)[1])
        assert left > 30, "the second driver had to wait for the first one's whole queue"
        assert float(took_s) < 10
        for ref in flood:
            shoal.cancel(ref)


BUSY_DRIVER = """
import sys, time, shoal
from pathlib import Path
name, scratch = sys.argv[1], Path(sys.argv[2])
shoal.init(name)
@shoal.remote
def hold():
    (scratch / "started").touch()
    while not (scratch / "gate").exists():
        time.sleep(0.01)
@shoal.remote
def one(): return 1
held = hold.remote()
while not (scratch / "started").exists():
    time.sleep(0.01)
print(shoal.get(one.remote(), timeout=20), flush=True)
(scratch / "gate").touch()
shoal.get(held)
"""


def test_a_lease_that_a_driver_does_not_use_goes_to_one_that_has_as_many(
    own_places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @shoal.remote
    def plain() -> int:
        return 1

    monkeypatch.setattr(owner, "IDLE_LEASE_S", 600.0)
    with shoal.init("local", num_cpus=2) as context:
        assert shoal.get(plain.remote()) == 1
        assert len(session().owner.leases) == 1
        ran = subprocess.run(
            [sys.executable, "-c", BUSY_DRIVER, context["name"], str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (ran.returncode, ran.stdout.strip()) == (0, "1"), ran.stderr
        assert not session().owner.leases
        assert shoal.get(plain.remote()) == 1


def test_out_of_memory_kills_the_newest_task_and_says_so(own_places: Path) -> None:
    @shoal.remote(num_cpus=1)
    def sleep(seconds: float) -> str:
        time.sleep(seconds)
        return "done"

    with cluster_of(own_places, head={"CPU": 0}, tight={"CPU": 1, "memory_threshold": 0.0001}) as nodes:
        with pytest.raises(exceptions.OutOfMemoryError, match="out of memory"):
            shoal.get(sleep.options(max_retries=0).remote(30), timeout=30)
        _forget_logs(nodes)


def test_a_killed_head_is_joined_again_and_work_goes_on(own_places: Path) -> None:
    @shoal.remote
    class Counter:
        def __init__(self) -> None:
            self.value = 0

        def add(self) -> int:
            self.value += 1
            return self.value

        def pid(self) -> int:
            return os.getpid()

    @shoal.remote
    def slow() -> int:
        time.sleep(4)
        return 7

    nodes = Nodes(own_places)
    from shoal.runtime.client import api

    try:
        nodes.start("head", is_head=True, has_node=False)
        nodes.start("a", CPU=2)
        nodes.connect("a")
        counter = Counter.options(name="survivor", max_restarts=3).remote()
        assert shoal.get(counter.add.remote(), timeout=20) == 1
        running = slow.remote()
        time.sleep(0.3)
        nodes.nodes["head"].kill()
        assert shoal.get(counter.add.remote(), timeout=5) == 2, "calls do not need the head"
        pid = shoal.get(counter.pid.remote())
        eventually(lambda: _state_of(pid) == "T", 15)
        nodes.start("head", is_head=True, has_node=False)
        eventually(lambda: _state_of(pid) != "T", 15)
        assert shoal.get(counter.add.remote(), timeout=20) == 3, "it was stopped, not restarted"
        assert shoal.get(running, timeout=30) == 7
        assert shoal.get(shoal.get_actor("survivor", namespace="tests").add.remote(), timeout=20) == 4
    finally:
        api.shutdown()
        nodes.end()
        for path in own_places.glob("journal.db*"):
            path.unlink()
        _forget_logs(nodes)


def test_queued_tasks_are_small_and_cost_the_collector_nothing(tmp_path: Path) -> None:
    """100,000 waiting tasks: at most 600 bytes each, and no object that garbage collections would walk again."""

    @shoal.remote(num_cpus=1)
    def nothing() -> None: ...

    began = tmp_path / "began"

    @shoal.remote(num_cpus=1)
    def hold() -> None:
        began.touch()
        time.sleep(60)

    with shoal.init("local", num_cpus=1):
        blocker = hold.remote()
        # A slow machine may be asked for its worker back before it has begun, for the others.
        eventually(began.exists)
        refs = [nothing.remote() for _ in range(1000)]
        gc.collect()
        walked = len(gc.get_objects())
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        refs += [nothing.remote() for _ in range(100_000)]
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        gc.collect()
        assert not any(ref._ready for ref in refs)
        assert (after - before) / 100_000 < 600
        assert len(gc.get_objects()) - walked < 1000
        shoal.cancel(blocker, force=True)


def _state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _forget_logs(nodes: Nodes) -> None:
    for node in nodes.nodes.values():
        node.log.unlink(missing_ok=True)
