"""Real processes that write, read, fork and die, and full file systems: nobody's data is harmed, nothing is left."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from store_rig import MIB, Node, leftovers

from shoal.exceptions import ObjectStoreFullError, OutOfDiskError
from shoal.runtime.store.places import sweep_stale

Make = Callable[..., Node]
HERE = Path(__file__).parent


class Child:
    """Another process of this test."""

    def __init__(self, role: str, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "store_child.py"), role, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(HERE.parent.parent)},
        )

    def say(self, *words: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()

    def hear(self) -> list[Any]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def ask(self, *words: Any) -> list[Any]:
        self.say(*words)
        return self.hear()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def child() -> Iterator[Callable[[str, Path], Child]]:
    made: list[Child] = []

    def make(role: str, directory: Path) -> Child:
        made.append(Child(role, directory))
        return made[-1]

    yield make
    for one in made:
        one.kill()


def located(node: Node, object_id: bytes, process: bytes) -> list[Any]:
    answers: list[Any] = []
    node.store.pin(process, object_id, answers.append)
    node.loop.until(lambda: answers)
    return msgspec.to_builtins(answers[0])


def test_a_writer_killed_in_the_middle_of_a_write(node: Make, child: Callable[[str, Path], Child]) -> None:
    agent = node(256 * MIB)
    mine = np.arange(MIB)
    kept = agent.put(mine)
    writer = child("write", agent.place.path)
    assert writer.hear() == ["writing", 0]
    segment = agent.lease(64 * MIB + 4096, b"writer")
    writer.say(*msgspec.to_builtins(segment))
    _, segment_id, size = writer.hear()
    writer.say(*msgspec.to_builtins(agent.store.pool.segment(segment_id)))
    for _ in range(5):
        writer.hear()  # it writes all the time from here on

    writer.kill()
    agent.store.ended(b"writer")

    assert agent.store.usage().leased == 0
    assert not agent.store.seal(b"writer", b"x" * 24, segment_id, size)
    np.testing.assert_array_equal(agent.get(kept), mine)
    again = agent.lease(64 * MIB, b"other")
    assert again.id == segment_id, "its segment serves the next one"


def test_another_process_reads_without_copying_and_pins(node: Make, child: Callable[[str, Path], Child]) -> None:
    agent = node(512 * MIB)
    array = np.random.default_rng(1).integers(0, 256, 200 * MIB, dtype=np.uint8)
    object_id = agent.put(array)
    reader = child("read", agent.place.path)

    word, total, is_writeable, took_s = reader.ask("load", object_id.hex(), located(agent, object_id, b"reader"))

    assert (word, total, is_writeable) == ("loaded", int(array.sum(dtype=np.uint64)), False)
    assert took_s < 0.001, "a copy of 200 MiB takes ten times longer"
    agent.store.free([object_id])
    agent.put(np.zeros(200 * MIB, dtype=np.uint8))
    assert reader.ask("sum") == ["sum", total], "its memory was reused under its eyes"
    used = agent.store.pool.used_bytes
    assert reader.ask("drop") == ["gone", [object_id.hex()]]
    agent.store.unpin(b"reader", [object_id])
    assert agent.store.pool.used_bytes <= used - 200 * MIB


def test_a_reader_that_is_killed_pins_nothing_any_more(node: Make, child: Callable[[str, Path], Child]) -> None:
    agent = node(256 * MIB)
    object_id = agent.put(np.ones(50 * MIB, dtype=np.uint8))
    reader = child("read", agent.place.path)
    reader.ask("load", object_id.hex(), located(agent, object_id, b"reader"))
    agent.store.free([object_id])
    assert agent.store.pool.used_bytes > 0

    reader.kill()
    agent.store.ended(b"reader")

    assert agent.store.pool.used_bytes == 0


def test_two_clusters_side_by_side(node: Make, child: Callable[[str, Path], Child], tmp_path: Path) -> None:
    """One agent is killed; its directory is swept by the other, whose own objects nobody touches."""
    alive = node(64 * MIB)
    object_id = alive.put(np.arange(MIB))
    script = (
        "import sys, time, numpy as np; sys.path.insert(0, sys.argv[1]); from store_rig import Node, MIB; "
        "n = Node(64 * MIB); n.put(np.arange(MIB)); print(n.place.path.name, flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(HERE)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HERE.parent.parent)},
    )
    assert other.stdout is not None
    name = other.stdout.readline().strip()
    root = alive.place.path.parent
    assert {name, alive.place.path.name} <= leftovers()
    assert root / name not in sweep_stale(root)

    other.send_signal(signal.SIGKILL)
    other.communicate()

    assert root / name in sweep_stale(root)
    assert name not in leftovers()
    np.testing.assert_array_equal(alive.get(object_id), np.arange(MIB))


def test_a_forked_child_of_the_user_goes_on_seeing_its_array(node: Make) -> None:
    agent = node(128 * MIB)
    array = np.full(20 * MIB, 7, dtype=np.uint8)
    object_id = agent.put(array)
    mine = agent.get(object_id)
    to_child, from_parent = os.pipe()
    to_parent, from_child = os.pipe()
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            os.read(to_child, 1)
            os.write(from_child, b"%d" % int((mine == 7).all()))
        os._exit(0)
    agent.store.forked(b"r")

    del mine
    agent.drain()
    agent.store.free([object_id])
    for value in range(3):
        agent.store.free([agent.put(np.full(20 * MIB, value, dtype=np.uint8))])
    os.write(from_parent, b"x")

    assert os.read(to_parent, 1) == b"1"
    os.waitpid(pid, 0)
    for descriptor in (to_child, from_parent, to_parent, from_child):
        os.close(descriptor)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    if os.getuid() != 0 or not shutil.which("mount"):
        pytest.skip("needs root to mount a small file system")
    path = tmp_path / "small"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m,mode=0700", "shoal-test", str(path)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a file system: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.mark.needs_root
def test_a_full_shared_memory_is_an_error_not_a_dead_process(node: Make, small_disk: Path) -> None:
    """The limit says 256 MiB, the file system holds 24: a write through a mapping would be SIGBUS."""
    agent = node(256 * MIB, root=small_disk)
    kept = [agent.put(np.full(4 * MIB, number, dtype=np.uint8)) for number in range(5)]

    with pytest.raises(ObjectStoreFullError, match="its file system is smaller"):
        agent.put(np.zeros(8 * MIB, dtype=np.uint8))

    for number, object_id in enumerate(kept):
        assert (agent.get(object_id) == number).all()
    agent.drain()
    agent.store.free(kept[1:])
    for segment in agent.writer.spare():
        agent.store.give_back(b"w", segment.id)
    assert (agent.get(agent.put(np.full(4 * MIB, 9, dtype=np.uint8))) == 9).all()


@pytest.mark.needs_root
def test_a_segment_that_has_memory_only_in_part_is_written_safely(node: Make, small_disk: Path) -> None:
    agent = node(256 * MIB, root=small_disk)
    for _ in range(3):  # written, known, mapped
        agent.store.free([agent.put(np.ones(8 * MIB, dtype=np.uint8))])
    (small_disk / "filler").write_bytes(bytes(14 * MIB))

    with pytest.raises(ObjectStoreFullError, match="its file system is smaller"):
        agent.put(np.ones(15 * MIB, dtype=np.uint8))

    (small_disk / "filler").unlink()
    assert (agent.get(agent.put(np.full(15 * MIB, 3, dtype=np.uint8))) == 3).all()


@pytest.mark.needs_root
def test_an_arriving_object_that_finds_no_memory_is_refused(node: Make, small_disk: Path) -> None:
    source, target = node(64 * MIB), node(256 * MIB, root=small_disk)
    object_id = source.put(np.ones(32 * MIB, dtype=np.uint8))
    error = target.pull(object_id, [source.serve()])
    assert isinstance(error, ObjectStoreFullError)
    assert target.store.usage().used == 0


@pytest.mark.needs_root
def test_what_is_only_kept_for_later_makes_room_for_what_arrives(node: Make, small_disk: Path) -> None:
    """The limit says that there is room, so nothing is given up before the file system says otherwise."""
    source, target = node(64 * MIB), node(256 * MIB, root=small_disk)
    for _ in range(5):
        source.put(np.ones(1))
    object_id = source.put(np.full(14 * MIB, 5, dtype=np.uint8))
    kept = [target.put(np.ones(4 * MIB, dtype=np.uint8)) for _ in range(4)]
    target.store.free(kept)
    for segment in target.writer.spare():
        target.store.give_back(b"w", segment.id)
    files = [path for path in target.place.path.rglob("*") if path.is_file()]
    assert sum(path.stat().st_blocks * 512 for path in files) > 15 * MIB, "free, and with memory"

    assert target.pull(object_id, [source.serve()]) is None

    assert (target.get(object_id) == 5).all()
    target.drain()


@pytest.mark.needs_root
def test_warming_more_than_there_is_harms_nothing(node: Make, small_disk: Path) -> None:
    agent = node(256 * MIB, root=small_disk)
    agent.store.warm(128 * MIB)
    agent.loop.until(lambda: agent.store.pool.total_bytes > 0)
    object_id = agent.put(np.arange(1000))
    assert agent.get(object_id)[999] == 999


@pytest.mark.needs_root
def test_a_full_disk_for_spilling_loses_nothing(node: Make, small_disk: Path) -> None:
    agent = node(64 * MIB, spill=small_disk)
    kept: dict[bytes, int] = {}
    with pytest.raises(OutOfDiskError, match="cannot spill 6 MiB to"):
        for number in range(30):
            kept[agent.put(np.full(6 * MIB, number, dtype=np.uint8))] = number
    assert len(kept) > 10, "memory and disk together hold more than memory alone"

    # Somebody lets go of one object in memory: its room is enough to read every other one, in turn.
    in_memory = next(row.object_id for row in agent.store.rows() if row.state == "in_memory")
    del kept[in_memory]
    agent.store.free([in_memory])
    for object_id, number in kept.items():
        assert (agent.get(object_id) == number).all()
        agent.drain()
