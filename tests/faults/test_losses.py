"""Values whose node is gone, and memory and disks that are full: what can be is made again, the rest says why not."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import exceptions
from shoal.runtime.client import large
from shoal.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tests.faults.conftest import eventually
from tests.runtime.nodes import Nodes, cluster_of

MIB = 2**20


@pytest.fixture
def nodes(own_places: Path) -> Iterator[Nodes]:
    """Return a head with a node of one CPU, and a node `a` of four; this process is a driver at the head."""
    with cluster_of(own_places, head={"CPU": 1}, a={"CPU": 4}) as made:
        yield made
        clean_up(made, "a")


def clean_up(nodes: Nodes, *killed: str) -> None:
    """Remove what killed nodes leave, which the next node on the machine would sweep, and the logs."""
    for node in nodes.nodes.values():
        node.log.unlink(missing_ok=True)
    for name in killed:
        node_id = nodes.nodes[name].told["node_id"]
        shutil.rmtree(nodes.place / name, ignore_errors=True)
        for left in Path(os.environ["SHOAL_SHM_DIR"]).glob(f"*{node_id[:8]}"):
            shutil.rmtree(left)


def lies_at(ref: Any) -> str:
    """Return the id of the node that has a stored value of ours."""
    shoal.wait([ref], timeout=30)
    return str(ref._data[0][1])


def made_at(node_id: str, start: Callable[[], Any]) -> Any:
    """Start a task that prefers a node until it has run there: a busy node is only preferred."""
    while lies_at(ref := start()) != node_id:
        pass
    return ref


@shoal.remote
def make(number: int, seconds: float = 0.0) -> np.ndarray:
    time.sleep(seconds)
    return np.full(50_000, number)


def test_lost_values_are_made_again_side_by_side(nodes: Nodes) -> None:
    node_id = nodes.nodes["a"].told["node_id"]
    there = make.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=True), num_cpus=0.1)
    refs = [made_at(node_id, lambda n=n: there.remote(n, 0.5)) for n in range(8)]
    nodes.nodes["a"].kill()
    eventually(lambda: sum(one["Alive"] for one in shoal.nodes()) == 1)

    began_s = time.monotonic()
    values = shoal.get(refs, timeout=60)
    took_s = time.monotonic() - began_s

    assert [int(value[0]) for value in values] == list(range(8))
    assert took_s < 8 * 0.5, f"they were made one by one: {took_s:.1f} s"


def test_whoever_awaits_a_lost_value_does_not_hold_up_its_event_loop(nodes: Nodes) -> None:
    node_id = nodes.nodes["a"].told["node_id"]
    there = make.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=True), num_cpus=0.1)
    awaited, as_future = (made_at(node_id, lambda n=n: there.remote(n, 1.0)) for n in range(2))
    nodes.nodes["a"].kill()
    eventually(lambda: sum(one["Alive"] for one in shoal.nodes()) == 1)

    async def main() -> tuple[Any, Any, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.02)
                ticks += 1

        ticking = asyncio.create_task(tick())
        value = await asyncio.wait_for(awaited, 60)
        ticking.cancel()
        return value, await asyncio.wait_for(asyncio.wrap_future(as_future.future()), 60), ticks

    value, other, ticks = asyncio.run(main())
    assert (int(value[0]), int(other[0])) == (0, 1)
    assert ticks >= 10, "the loop stood still while the value was made again, which takes a second"


def test_a_value_whose_recipe_had_to_go_says_so(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "LINEAGE_BYTES_MAX", 1500)  # a few small recipes
    node_id = nodes.nodes["a"].told["node_id"]
    there = make.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=True))
    refs = [made_at(node_id, lambda n=n: there.remote(n)) for n in range(10)]
    nodes.nodes["a"].kill()

    with pytest.raises(exceptions.ObjectReconstructionFailedError, match="lineage") as caught:
        shoal.get(refs[0], timeout=30)
    assert caught.value.reason is exceptions.LossReason.LINEAGE_EVICTED
    assert int(shoal.get(refs[-1], timeout=30)[0]) == 9, "the newest recipes are kept"


def test_a_put_value_whose_node_died_is_lost(own_places: Path) -> None:
    """It has moved from its owner's node, which is being emptied, to another one, and has no recipe."""
    made = Nodes(own_places)
    from shoal.runtime.client import api

    try:
        made.start("head", is_head=True, has_node=False)
        made.start("a", CPU=1)
        made.start("b", CPU=1)
        made.connect("a")
        ref = shoal.put(np.ones(500_000))
        made.nodes["a"].process.send_signal(signal.SIGUSR1)  # the test's node drains itself
        eventually(lambda: lies_at(ref) == made.nodes["b"].told["node_id"])
        made.nodes["b"].kill()

        with pytest.raises(exceptions.ObjectLostError, match="put") as caught:
            shoal.get(ref, timeout=30)
        assert caught.value.reason is exceptions.LossReason.PUT
    finally:
        api.shutdown()
        made.end()
        clean_up(made, "b")
        for path in own_places.glob("journal.db*"):
            path.unlink()


@pytest.fixture
def small_disk(own_places: Path) -> Iterator[Callable[[Path], None]]:
    """Return what mounts a file system of 24 MiB at a path."""
    if os.geteuid() != 0:
        if os.environ.get("CI"):
            pytest.fail("in CI nothing is skipped: needs root, to mount a small file system")
        pytest.skip("needs root, to mount a small file system")
    mounted: list[Path] = []

    def mount(path: Path) -> None:
        path.mkdir(mode=0o700, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs", str(path)], check=True)
        mounted.append(path)

    yield mount
    for path in mounted:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_a_full_shared_memory_fails_what_needs_more_and_nothing_else(
    own_places: Path, small_disk: Callable[[Path], None]
) -> None:
    """The store may use 256 MiB, the file system has 24: a write through a mapping would end the process."""
    small_disk(Path(os.environ["SHOAL_SHM_DIR"]))
    with cluster_of(own_places, head={"CPU": 1, "store": 256 * MIB}) as nodes:

        @shoal.remote(num_cpus=1)
        class Maker:
            def make(self, megabytes: int) -> np.ndarray:
                return np.full(megabytes * MIB, megabytes, np.uint8)

            def pid(self) -> int:
                return os.getpid()

        maker = Maker.remote()
        pid = shoal.get(maker.pid.remote(), timeout=20)
        kept = []
        with pytest.raises(exceptions.ObjectStoreFullError, match="file system is smaller"):
            for number in range(10):
                kept.append(shoal.put(np.full(4 * MIB, number, np.uint8)))
        assert kept
        with pytest.raises(exceptions.ObjectStoreFullError, match="file system is smaller"):
            shoal.get(maker.make.remote(9), timeout=20)

        for number, ref in enumerate(kept):
            value = shoal.get(ref, timeout=20)
            assert (value == number).all()
        del kept, ref, value
        eventually(lambda: fits(lambda: shoal.put(np.zeros(6 * MIB, np.uint8))))
        eventually(lambda: fits(lambda: shoal.get(maker.make.remote(6), timeout=20)))
        assert shoal.get(maker.pid.remote(), timeout=20) == pid, "the process that found no memory lives on"
        clean_up(nodes)


def fits(call: Callable[[], Any]) -> bool:
    try:
        call()
    except exceptions.ObjectStoreFullError:
        return False
    return True


def test_a_full_disk_for_spilling_loses_nothing(own_places: Path, small_disk: Callable[[Path], None]) -> None:
    small_disk(own_places / "head")  # where the node's session is, and what it spills
    with cluster_of(own_places, head={"CPU": 1, "store": 64 * MIB}) as nodes:
        kept: dict[int, Any] = {}
        with pytest.raises(exceptions.OutOfDiskError, match="cannot spill 6 MiB"):
            for number in range(30):
                kept[number] = shoal.put(np.full(6 * MIB, number, np.uint8))
        assert len(kept) > 10, "memory and disk together hold more than memory alone"

        @shoal.remote(num_cpus=1)
        def first(value: np.ndarray) -> int:
            return int(value[0])

        del kept[max(kept)]  # room to read every other one, in turn
        for number, ref in kept.items():
            assert shoal.get(first.remote(ref), timeout=30) == number
        kept.clear()
        clean_up(nodes)


def test_a_value_that_fills_the_store_of_its_reader_is_read_and_never_made_again(own_places: Path) -> None:
    """More than 80 % full, a node drops copies that nobody reads: not the one that is just being fetched."""
    with cluster_of(own_places, head={"CPU": 1, "store": 64 * MIB}, a={"CPU": 1, "store": 256 * MIB}) as nodes:
        made = own_places / "made"

        @shoal.remote(scheduling_strategy=NodeAffinitySchedulingStrategy(nodes.nodes["a"].told["node_id"], soft=False))
        def make_there(megabytes: int) -> np.ndarray:
            with made.open("a") as out:
                out.write("made\n")
            return np.full(megabytes * MIB, megabytes, np.uint8)

        held = shoal.get(shoal.put(np.ones(45 * MIB, np.uint8)))
        small, large, huge = (make_there.remote(megabytes) for megabytes in (8, 12, 100))
        for number in range(3):
            value = shoal.get(small, timeout=20)
            assert (value == 8).all(), number
            del value

        told: list[Any] = []
        reader = threading.Thread(target=lambda: told.append(shoal.get(large, timeout=30)))
        kept = shoal.get(small, timeout=20)
        reader.start()  # there is room for one of the two
        reader.join(0.5)
        assert not told
        del kept
        reader.join(20)
        assert (told.pop() == 12).all()

        with pytest.raises(exceptions.ObjectStoreFullError, match="100 MiB, more than this node's object store holds"):
            shoal.get(huge, timeout=20)
        assert made.read_text().splitlines() == ["made"] * 3, "a value was made again"
        made.unlink()
        del held
        clean_up(nodes)
