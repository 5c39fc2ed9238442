"""Drivers that nobody can dial: everything they do passes through the one connection that they opened."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import shoal
from shoal import exceptions
from shoal.foundation.errors import NoCluster, UserError
from shoal.util import state
from tests.runtime.conftest import eventually
from tests.runtime.nodes import Nodes


@pytest.fixture
def nodes(own_places: Path) -> Iterator[Nodes]:
    made = Nodes(own_places)
    try:
        made.start("head", is_head=True, CPU=2)
        made.start("a", CPU=2, there=2)
        for node in made.nodes.values():
            node.log.unlink()
        yield made
    finally:
        made.end()


@pytest.fixture
def far(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    """Make this process a driver that knows nothing but an address and the secret."""
    monkeypatch.setenv("SHOAL_SECRET", nodes.secret_line())
    nodes.sockets_before = sockets()  # type: ignore[attr-defined]
    shoal.init(nodes.nodes["head"].told["tcp"].removeprefix("tcp:"))
    yield nodes
    shoal.shutdown()


def sockets() -> set[str]:
    """Return every socket of this process, of whatever kind: connected, listening, Unix or TCP."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(os.readlink(entry))
    return {one for one in found if one.startswith("socket:")}


@shoal.remote
def square(x: int) -> int:
    return x * x


@shoal.remote
def total(array: Any) -> int:
    return int(array.sum())


@shoal.remote
def make(count: int) -> Any:
    return np.arange(count)


@shoal.remote
def where() -> str:
    return shoal.get_runtime_context().get_node_id()


@shoal.remote
class Counter:
    def __init__(self) -> None:
        self.count = 0

    def add(self, by: int = 1) -> int:
        self.count += by
        return self.count

    def keep(self, refs: list[Any]) -> int:
        self.kept = refs
        return shoal.get(refs[0])

    def again(self) -> Any:
        return shoal.get(self.kept[0])


def test_everything_passes_through_one_connection(far: Nodes) -> None:
    assert shoal.get([square.remote(n) for n in range(200)], timeout=30) == [n * n for n in range(200)]
    there = {"resources": {"there": 1}}
    assert shoal.get(where.options(**there).remote(), timeout=30) == far.nodes["a"].told["node_id"]

    array = np.arange(3_000_000)
    ref = shoal.put(array)
    assert np.array_equal(shoal.get(ref, timeout=30), array)
    assert shoal.get([total.remote(ref), total.options(**there).remote(ref)], timeout=30) == [int(array.sum())] * 2
    made = shoal.get(make.options(**there).remote(2_000_000), timeout=30)
    assert np.array_equal(made, np.arange(2_000_000)) and not made.flags.writeable

    counter = Counter.options(name="far", **there).remote()
    assert shoal.get([counter.add.remote() for _ in range(100)], timeout=30)[-1] == 100
    assert shoal.get(shoal.get_actor("far").add.remote(5), timeout=30) == 105

    assert len(sockets() - far.sockets_before) == 1  # type: ignore[attr-defined]
    port = int(far.nodes["head"].told["tcp"].rpartition(":")[2])
    assert [one.raddr.port for one in psutil.Process().net_connections("tcp") if one.raddr].count(port) == 1


def test_wait_cancel_generators_and_errors(far: Nodes) -> None:
    @shoal.remote
    def slow(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    @shoal.remote
    def fails() -> None:
        raise ZeroDivisionError("on purpose")

    @shoal.remote(num_returns="streaming")
    def count(upto: int) -> Iterator[Any]:
        for number in range(upto):
            yield np.full(50_000, number)

    long, short = slow.remote(30), slow.remote(0.1)
    ready, rest = shoal.wait([long, short], timeout=20)
    assert (ready, rest) == ([short], [long])
    shoal.cancel(long)
    with pytest.raises(exceptions.TaskCancelledError):
        shoal.get(long, timeout=20)
    with pytest.raises(ZeroDivisionError):
        shoal.get(fails.remote(), timeout=20)
    with pytest.raises(exceptions.GetTimeoutError):
        shoal.get(slow.remote(5), timeout=0.2)
    assert [int(shoal.get(ref)[0]) for ref in count.remote(20)] == list(range(20))


def test_threads_read_and_write_large_values_at_once(far: Nodes) -> None:
    ref = shoal.put(np.arange(2_000_000))

    def use(number: int) -> int:
        own = shoal.put(np.full(1_500_000, number))
        return int(shoal.get(ref, timeout=30).sum()) + int(shoal.get(own, timeout=30)[-1])

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(use, range(18))) == [sum(range(2_000_000)) + number for number in range(18)]


def test_memory_of_values_that_are_gone_is_used_again_and_then_given_up(
    far: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shoal.runtime.client import remote_store
    from shoal.runtime.client.api import session

    reader = session().stored._reader
    first, second = shoal.put(np.full(1_000_000, 1)), shoal.put(np.full(900_000, 2))
    value = shoal.get(first, timeout=30)
    held = shoal.get(first)[5:10]
    where = value.__array_interface__["data"][0] & ~0xFFF
    del value
    other = shoal.get(second, timeout=30)
    assert other.__array_interface__["data"][0] & ~0xFFF != where, "somebody looks at it"
    assert (held == 1).all()
    del other, held
    again = shoal.get(second, timeout=30)
    assert (again == 2).all()
    assert len(reader._spare) == 1, "two values lay there one after the other"
    del again
    monkeypatch.setattr(remote_store, "SPARE_S", 0.0)
    eventually(lambda: not reader._spare)
    assert (shoal.get(first, timeout=30) == 1).all()


def test_values_of_many_parts_and_of_hardly_any_bytes(far: Nodes) -> None:
    value = {"arrays": [np.arange(number) for number in range(300)], "large": np.ones(400_000), "empty": np.empty(0)}
    ref = shoal.put(value)

    found = shoal.get(ref, timeout=30)

    assert all(np.array_equal(one, other) for one, other in zip(found["arrays"], value["arrays"], strict=True))
    assert found["large"].sum() == 400_000 and len(found["empty"]) == 0


def test_a_put_that_its_node_has_no_room_for_says_so(far: Nodes) -> None:
    with pytest.raises(exceptions.ObjectStoreFullError, match="can never fit"):
        shoal.put(np.ones(100 * 2**20, np.uint8))
    assert shoal.get(shoal.put(np.ones(500_000)), timeout=30).sum() == 500_000


def test_others_reach_what_the_driver_owns(far: Nodes) -> None:
    small, large = shoal.put({"inline": 1}), shoal.put(np.ones(500_000))
    counter = Counter.options(resources={"there": 1}).remote()

    assert shoal.get(counter.keep.remote([small]), timeout=30) == {"inline": 1}
    assert shoal.get(counter.keep.remote([large]), timeout=30).sum() == 500_000
    del small, large
    assert shoal.get(counter.again.remote(), timeout=30).sum() == 500_000, "the actor's ref keeps it alive"


def test_a_worker_that_dies_costs_a_retry_and_a_killed_actor_is_reported(far: Nodes, tmp_path: Path) -> None:
    @shoal.remote(max_retries=1)
    def dies_once(mark: str) -> str:
        if not Path(mark).exists():
            Path(mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return "done"

    assert shoal.get(dies_once.remote(str(tmp_path / "mark")), timeout=30) == "done"
    counter = Counter.remote()
    assert shoal.get(counter.add.remote(), timeout=30) == 1
    shoal.kill(counter)
    with pytest.raises(exceptions.ActorDiedError):
        shoal.get(counter.add.remote(), timeout=30)


def test_what_a_slow_actor_is_told_waits_with_the_driver_not_with_the_agent(far: Nodes) -> None:
    @shoal.remote
    class Deaf:
        def size(self, data: bytes) -> int:
            return len(data)

        def sleep(self, seconds: float) -> None:
            import ctypes

            ctypes.PyDLL(None).usleep(int(seconds * 1e6))  # holds the interpreter: nothing here reads its socket

    deaf = Deaf.remote()
    shoal.get(deaf.size.remote(b""), timeout=30)
    agent = psutil.Process(far.nodes["head"].told["pid"])
    before = agent.memory_info().rss

    sleeping = deaf.sleep.remote(0.9)
    refs = [deaf.size.remote(os.urandom(90_000)) for _ in range(600)]
    assert shoal.get(square.remote(3), timeout=30) == 9, "others are served meanwhile"
    assert agent.memory_info().rss - before < 40 * 2**20
    shoal.get(sleeping, timeout=30)
    assert shoal.get(refs, timeout=60) == [90_000] * 600


DRIVER = """
import numpy as np, os, shoal, sys, time
shoal.init(sys.argv[1], namespace="n")
@shoal.remote
class Actor:
    def pid(self):
        return os.getpid()
stays = Actor.options(name="stays", lifetime="detached").remote()
goes = Actor.options(name="goes").remote()
kept = shoal.put(np.ones(1_000_000))
print(shoal.get(stays.pid.remote()), shoal.get(goes.pid.remote()), flush=True)
time.sleep(600)
"""


def start_driver(nodes: Nodes) -> tuple[subprocess.Popen[str], int, int]:
    address = nodes.nodes["head"].told["tcp"].removeprefix("tcp:")
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, address],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "SHOAL_SECRET": nodes.secret_line()},
    )
    assert driver.stdout is not None
    stays, goes = map(int, driver.stdout.readline().split())
    return driver, stays, goes


def large_objects() -> list[Any]:
    return [row for row in state.list_objects(limit=100) if row["object_size"] > 8_000_000]


def test_the_work_of_a_killed_driver_ends_but_what_is_detached(far: Nodes) -> None:
    driver, stays, goes = start_driver(far)
    assert len(large_objects()) == 1
    driver.kill()
    driver.communicate()

    eventually(lambda: not psutil.pid_exists(goes), 20)
    eventually(lambda: not large_objects(), 20)
    assert psutil.pid_exists(stays)
    stays_on = shoal.get_actor("stays", namespace="n")
    assert shoal.get(stays_on.pid.remote(), timeout=20) == stays
    shoal.kill(stays_on)


def test_what_cannot_work_is_said_in_one_line(nodes: Nodes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    address = nodes.nodes["head"].told["tcp"].removeprefix("tcp:")
    with pytest.raises(NoCluster) as caught:
        shoal.init(address)
    assert "SHOAL_SECRET_FILE" in caught.value.hint

    monkeypatch.setenv("SHOAL_SECRET", "what is this")
    with pytest.raises(UserError, match="SHOAL_SECRET: expected `uid role hex`"):
        shoal.init(address)
    monkeypatch.setenv("SHOAL_SECRET", f"{nodes.uid} driver {'00' * 32}")
    with pytest.raises(NoCluster) as caught:
        shoal.init(address)
    assert "belong to it" in caught.value.hint

    monkeypatch.setenv("SHOAL_SECRET", nodes.secret_line())
    with pytest.raises(NoCluster, match="refused"):
        shoal.init("127.0.0.1:1")
    missing = tmp_path / "none.pem"
    monkeypatch.setenv("SHOAL_TLS_CERT", str(missing))
    with pytest.raises(UserError, match="got no SHOAL_TLS_KEY and no SHOAL_TLS_CA"):
        shoal.init(address)
    assert not shoal.is_initialized()
