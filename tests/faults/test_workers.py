"""Workers that are killed, run out of memory, cannot pickle, or are cancelled by the thousand; owners that are dead."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import exceptions
from tests.runtime.nodes import cluster_of


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    shoal.init("local", num_cpus=4)
    yield
    shoal.shutdown()


local = pytest.mark.usefixtures("cluster")


@shoal.remote
def die_once(place: str, by: int) -> str:
    if not Path(place).exists():
        Path(place).touch()
        os.kill(os.getpid(), by)
        time.sleep(10)
    return "lived"


@shoal.remote
class Counter:
    def __init__(self) -> None:
        self.count = 0

    def add(self) -> int:
        self.count += 1
        return self.count

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def put(self, value: Any) -> list[Any]:
        return [shoal.put(value)]

    def pid(self) -> int:
        return os.getpid()


@local
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGSEGV])
def test_a_task_whose_worker_is_killed_runs_again_if_it_may(tmp_path: Path, by: int) -> None:
    assert shoal.get(die_once.remote(str(tmp_path / "a"), int(by)), timeout=20) == "lived"
    with pytest.raises(exceptions.WorkerCrashedError, match=f"die_once.*signal {int(by)}|die_once.*{by.name}"):
        shoal.get(die_once.options(max_retries=0).remote(str(tmp_path / "b"), int(by)), timeout=20)


@local
def test_an_actors_killed_worker_with_and_without_restarts() -> None:
    mortal = Counter.remote()
    assert shoal.get(mortal.add.remote(), timeout=10) == 1
    os.kill(shoal.get(mortal.pid.remote()), signal.SIGKILL)
    with pytest.raises(exceptions.ActorDiedError):
        shoal.get(mortal.add.remote(), timeout=10)

    again = Counter.options(max_restarts=2, max_task_retries=-1).remote()
    for _ in range(2):
        assert shoal.get(again.add.remote(), timeout=10) == 1, "a restart has lost its state"
        os.kill(shoal.get(again.pid.remote(), timeout=10), signal.SIGKILL)
    assert shoal.get(again.add.remote(), timeout=10) == 1
    os.kill(shoal.get(again.pid.remote(), timeout=10), signal.SIGKILL)
    with pytest.raises(exceptions.ActorDiedError):
        shoal.get(again.add.remote(), timeout=10)


@local
@pytest.mark.parametrize("size", [10, 400_000])
def test_what_a_dead_owner_owned_is_lost_with_its_name(size: int) -> None:
    keeper = Counter.remote()
    ref = shoal.get(keeper.put.remote(np.zeros(size)), timeout=10)[0]
    with pytest.raises(exceptions.ActorDiedError):
        shoal.get(keeper.die.remote(), timeout=10)

    @shoal.remote
    def read(value: Any) -> int:
        return len(value)

    with pytest.raises(exceptions.OwnerDiedError):
        shoal.get(ref, timeout=20)
    with pytest.raises(exceptions.OwnerDiedError):
        shoal.get(read.remote(ref), timeout=20)


@local
def test_what_cannot_be_pickled_is_one_clear_error_everywhere() -> None:
    @shoal.remote
    def give(value: Any = None) -> Any:
        return threading.Lock()

    class Bad:
        def __reduce__(self) -> Any:
            raise ValueError("not this one")

    for send in (lambda: give.remote(threading.Lock()), lambda: shoal.put(threading.Lock())):
        with pytest.raises(TypeError, match="pickle"):
            send()
    with pytest.raises((TypeError, ValueError), match="not this one"):
        give.remote(Bad())
    with pytest.raises(TypeError, match=r"give.*|pickle") as caught:
        shoal.get(give.remote(), timeout=10)
    assert "lock" in str(caught.value)

    class Explodes:
        def __init__(self) -> None:
            self.x = 1

        def __setstate__(self, state: Any) -> None:
            raise RuntimeError("cannot be loaded")

    @shoal.remote
    def take(value: Any) -> int:
        return 1

    with pytest.raises(RuntimeError, match="cannot be loaded"):
        shoal.get(take.remote(Explodes()), timeout=10)
    assert shoal.get(take.remote(1), timeout=10) == 1, "the worker lives on"


@local
def test_ten_thousand_tasks_are_cancelled() -> None:
    @shoal.remote
    def nap(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    refs = [nap.remote(1000) for _ in range(10_000)]
    began_s = time.monotonic()
    for ref in refs:
        shoal.cancel(ref)
    for ref in refs:
        with pytest.raises(exceptions.TaskCancelledError):
            shoal.get(ref, timeout=30)

    assert shoal.get(nap.remote(0.0), timeout=20) == 0.0, "there is room again"
    assert time.monotonic() - began_s < 20


def test_a_node_out_of_memory_kills_a_task_and_says_how_much_it_used(own_places: Path) -> None:
    # Any machine uses more than a thousandth of its memory.
    with cluster_of(own_places, head={"CPU": 1, "memory_threshold": 0.001}) as nodes:
        for node in nodes.nodes.values():
            node.log.unlink()

        @shoal.remote(max_retries=0)
        def greedy() -> None:
            time.sleep(30)

        with pytest.raises(exceptions.OutOfMemoryError, match=r"greedy.*out of memory: .* of .* GiB \(limit 0%\)"):
            shoal.get(greedy.remote(), timeout=20)
