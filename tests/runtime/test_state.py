"""What is listed of work: while it runs, when it has ended, and when its node is gone."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.util import state
from tests.runtime import conftest
from tests.runtime.nodes import Nodes, cluster_of

eventually = functools.partial(conftest.eventually, within_s=60.0)
"""Generous: what is told once a second takes its time on a busy machine."""


@pytest.fixture
def two(own_places: Path) -> Iterator[Nodes]:
    with cluster_of(own_places, head={"CPU": 2}, a={"CPU": 2, "there": 2}) as nodes:
        for node in nodes.nodes.values():
            node.log.unlink()
        yield nodes


@shoal.remote
def nap(seconds: float) -> None:
    time.sleep(seconds)


@shoal.remote(max_retries=0)
def dies() -> None:
    time.sleep(3)  # running work is told of once a second
    os.kill(os.getpid(), signal.SIGKILL)


@shoal.remote
def fails() -> None:
    raise ValueError("on purpose")


@shoal.remote(num_cpus=0, max_concurrency=4)
class Threaded:
    def nap(self, seconds: float) -> None:
        time.sleep(seconds)


@shoal.remote(num_cpus=0)
class Async:
    def __init__(self, seconds: float = 0.0) -> None:
        time.sleep(seconds)

    async def nap(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def rows(**wanted: Any) -> list[Any]:
    filters = [(name, "=", value) for name, value in wanted.items()]
    # A node that goes while it is asked makes the answer partial; the next is whole.
    return state.list_tasks(filters=filters, limit=10_000, raise_on_missing_output=False)


def test_work_is_listed_while_it_runs_and_with_how_it_ended(two: Nodes) -> None:
    threaded, awaiting = Threaded.remote(), Async.remote()
    calls = [threaded.nap.remote(3), threaded.nap.remote(3), awaiting.nap.remote(3)]
    busy = [nap.remote(100) for _ in range(6)]

    def running(name: str) -> int:
        return len(rows(state="RUNNING", name=name))

    eventually(lambda: (running("nap"), running("Threaded.nap"), running("Async.nap")) == (4, 2, 1))
    assert len(rows(state="PENDING_NODE_ASSIGNMENT", name="nap")) == 2
    counts = state.summarize_tasks()["cluster"]["summary"]["nap"]["state_counts"]
    assert counts == {"RUNNING": 4, "PENDING_NODE_ASSIGNMENT": 2}
    assert {row.actor_id for row in rows(name="Async.nap")} == {awaiting._actor_id.hex()}

    for ref in busy:
        shoal.cancel(ref)
    shoal.get(calls, timeout=60)
    eventually(lambda: len(rows(state="FINISHED", type="ACTOR_TASK")) == 3)
    eventually(lambda: len(rows(state="FAILED", error_type="TASK_CANCELLED")) == 6)
    assert rows(state="RUNNING") == []

    slow = Async.remote(3)
    eventually(lambda: len(rows(state="RUNNING", type="ACTOR_CREATION_TASK", name="Async.__init__")) == 1)
    shoal.get(slow.nap.remote(0), timeout=60)
    eventually(lambda: len(rows(state="FINISHED", type="ACTOR_CREATION_TASK")) == 3)

    failed, dead = fails.remote(), dies.remote()
    shoal.wait([failed, dead], num_returns=2, timeout=60)
    eventually(lambda: len(rows(name="fails", error_type="TASK_EXECUTION_EXCEPTION")) == 1)
    eventually(lambda: len(rows(name="dies", error_type="WORKER_DIED")) == 1)
    (row,) = rows(name="dies")
    worker = state.get_worker(row.worker_id)
    assert worker is not None
    assert (worker.is_alive, worker.exit_type) == (False, "SYSTEM_ERROR")
    assert "SIGKILL" in worker.exit_detail


def test_filters_apply_to_everything_that_is_kept_and_not_to_the_newest_rows(two: Nodes) -> None:
    with pytest.raises(ValueError, match="on purpose"):
        shoal.get(fails.remote())
    shoal.get([nap.remote(0) for _ in range(500)], timeout=60)
    eventually(lambda: len(state.list_tasks(limit=1000)) == 501)

    (row,) = state.list_tasks(filters=[("state", "=", "failed")], limit=1)

    assert row.name == "fails"
    found = state.get_task(row.task_id)
    assert found is not None and found.error_type == "TASK_EXECUTION_EXCEPTION"


@pytest.mark.parametrize("way", ["leaves", "drained"])
def test_what_ran_on_a_node_is_listed_when_the_node_is_gone(two: Nodes, way: str) -> None:
    node = two.nodes["a"]
    there = nap.options(resources={"there": 1}, name="far")
    shoal.get([there.remote(0) for _ in range(5)], timeout=60)
    eventually(lambda: len(rows(name="far", state="FINISHED")) == 5)
    before = rows(name="far")[0].worker_id

    if way == "drained":
        eventually(lambda: state.list_objects() == [])
        node.process.send_signal(signal.SIGUSR1)
        eventually(lambda: (two.place / "drained").exists())
        (two.place / "drained").unlink()
        node.kill()  # it says nothing more
        clear_away(two)
        eventually(lambda: len(state.list_nodes(filters=[("state", "=", "DEAD")])) == 1)
    else:
        node.end()

    eventually(lambda: len(rows(name="far", node_id=node.told["node_id"])) == 5)
    assert state.get_task(rows(name="far")[0].task_id) is not None
    assert state.summarize_tasks()["cluster"]["summary"]["nap"]["state_counts"]["FINISHED"] == 5
    if way == "leaves":
        worker = state.get_worker(before)
        assert worker is not None and not worker.is_alive


def clear_away(two: Nodes) -> None:
    """Remove what the killed node `a` left, as its machine's end would."""
    node = two.nodes["a"]
    shutil.rmtree(two.place / "a")
    for segments in Path(os.environ["SHOAL_SHM_DIR"]).glob(f"*-{node.told['node_id'][:8]}"):
        shutil.rmtree(segments)


@shoal.remote(resources={"there": 0.1})
def hands_out() -> None:
    shoal.get(nap.options(num_cpus=0.1, resources={"there": 0.1}, name="nested").remote(1000))


def test_what_ran_on_a_node_that_is_killed_has_failed_with_it(two: Nodes) -> None:
    node_id = two.nodes["a"].told["node_id"]
    far = nap.options(resources={"there": 0.1}, name="far", max_retries=0)
    done = [far.remote(0) for _ in range(3)]
    shoal.get(done, timeout=60)
    lost, outer = far.remote(1000), hands_out.options(max_retries=0).remote()
    eventually(lambda: len(rows(state="RUNNING", node_id=node_id)) == 3)
    eventually(lambda: len(rows(name="far", state="FINISHED")) == 3)
    workers = {row.worker_id for row in state.list_workers() if row.node_id == node_id}
    word = two.place / "word-a"
    expected = sorted([*3 * [["far", "FINISHED"]], *[[name, "FAILED"] for name in ("far", "hands_out", "nested")]])
    eventually(lambda: word.exists() and sorted(json.loads(word.read_text())) == expected)

    two.nodes["a"].kill()
    clear_away(two)
    with pytest.raises(shoal.exceptions.NodeDiedError):
        shoal.get(lost, timeout=60)

    # What its own workers owned is known from the node alone, the rest from the owners as well: each is listed once.
    def ends() -> set[tuple[str, str, str]]:
        return {(row.name, row.state, row.error_type) for row in rows(node_id=node_id)}

    failed = {(name, "FAILED", "NODE_DIED") for name in ("far", "nested", "hands_out")}
    eventually(lambda: ends() == {("far", "FINISHED", ""), *failed})
    assert [len(rows(node_id=node_id, name=name, state="FAILED")) for name in ("far", "nested")] == [1, 1]
    (row,) = rows(node_id=node_id, name="nested")
    assert row.parent_task_id == outer.hex()
    assert row.end_time_s - row.start_time_s < 60

    def counts() -> dict[str, Any]:
        return {name: one["state_counts"] for name, one in state.summarize_tasks()["cluster"]["summary"].items()}

    eventually(lambda: counts() == {"nap": {"FINISHED": 3, "FAILED": 2}, "hands_out": {"FAILED": 1}})
    dead = [row for row in state.list_workers() if row.node_id == node_id]
    assert workers <= {row.worker_id for row in dead}
    assert {(row.is_alive, row.exit_type) for row in dead if row.worker_id in workers} == {(False, "SYSTEM_ERROR")}


@shoal.remote(num_cpus=0.5)
def child(n: int) -> int:
    time.sleep(n)
    return n


@shoal.remote
def parent(n: int) -> list[int]:
    return shoal.get([child.remote(n), nap.options(num_cpus=0.1, name="nested").remote(0)])


@shoal.remote(num_cpus=0)
class Parent:
    async def make(self, name: str) -> None:
        await asyncio.sleep(0.1)
        await nap.options(num_cpus=0.1, name=name).remote(0)


def test_what_waits_is_listed_by_its_id_and_counted_whole(two: Nodes) -> None:
    busy = [nap.remote(100) for _ in range(4)]
    eventually(lambda: len(rows(state="RUNNING", name="nap")) == 4)
    waiting = [nap.options(name=f"w{n % 2}").remote(1) for n in range(3000)]
    later = [child.remote(waiting[-1]), child.remote(busy[0])]
    actor = Threaded.options(resources={"nowhere": 1}).remote()
    call = actor.nap.remote(0)

    with pytest.warns(UserWarning, match="100 of 3000"):
        shown = state.list_tasks(filters=[("state", "=", "pending_node_assignment"), ("type", "=", "NORMAL_TASK")])
    assert [row.task_id for row in shown] == [ref.task_id() for ref in waiting[:100]], "the oldest first"
    assert {(row.name, row.func_or_class_name) for row in shown} == {("w0", "nap"), ("w1", "nap")}
    (one,) = state.list_tasks(filters=[("task_id", "=", waiting[2345].hex())], detail=True)
    assert (one.name, one.state) == ("w1", "PENDING_NODE_ASSIGNMENT")
    assert one.required_resources == {"CPU": 1.0}
    assert 0 <= time.time() - one.creation_time_s < 60
    assert state.get_task(waiting[7]) is not None
    with pytest.warns(UserWarning, match="1 of 1500"):
        state.list_tasks(filters=[("name", "=", "w1")], limit=1)
    assert {row.task_id for row in rows(state="PENDING_ARGS_AVAIL")} == {ref.hex() for ref in later}
    (called,) = rows(state="PENDING_NODE_ASSIGNMENT", type="ACTOR_TASK")
    assert (called.task_id, called.name, called.actor_id) == (call.hex(), "Threaded.nap", actor._actor_id.hex())

    summary = state.summarize_tasks()["cluster"]["summary"]
    assert summary["nap"]["state_counts"] == {"RUNNING": 4, "PENDING_NODE_ASSIGNMENT": 3000}
    assert summary["child"]["state_counts"] == {"PENDING_ARGS_AVAIL": 2}

    for ref in (*waiting, *busy):
        shoal.cancel(ref)
    eventually(lambda: len(rows(state="FAILED", error_type="TASK_CANCELLED", name="w0")) == 1500)
    eventually(lambda: state.summarize_tasks()["cluster"]["summary"]["nap"]["state_counts"] == {"FAILED": 3004})


def test_a_task_names_the_one_that_made_it(two: Nodes) -> None:
    made = [parent.options(resources={"there": 0.1}).remote(1), parent.remote(0)]
    running = eventually_rows(name="child", state="RUNNING")
    assert running[0].parent_task_id == made[0].hex(), "while it runs, too"
    shoal.get(made, timeout=60)
    actor = Parent.remote()
    calls = [actor.make.remote(f"by{n}") for n in range(3)]
    shoal.get(calls, timeout=60)
    eventually(lambda: len(rows(name="by2", state="FINISHED")) == 1)

    tops = {
        row.parent_task_id for row in (*rows(name="parent"), *rows(name="Parent.__init__"), *rows(name="Parent.make"))
    }
    assert tops == {rows(name="parent")[0].task_id[:36] + 12 * "0"}, "the driver stands for itself"
    eventually(lambda: len(rows(name="nested", state="FINISHED")) == 2)
    for name in ("child", "nested"):
        assert {row.parent_task_id for row in rows(name=name)} == {ref.hex() for ref in made}
    for number, ref in enumerate(calls):
        assert [row.parent_task_id for row in rows(name=f"by{number}")] == [ref.hex()]
    assert {row.name for row in rows(parent_task_id=made[1].hex())} == {"child", "nested"}
    (detailed,) = state.list_tasks(
        filters=[("name", "=", "child"), ("parent_task_id", "=", made[1].hex())], detail=True
    )
    assert detailed.creation_time_s <= detailed.start_time_s <= detailed.end_time_s
    assert detailed.required_resources == {"CPU": 0.5}


def eventually_rows(**wanted: Any) -> list[Any]:
    eventually(lambda: rows(**wanted))
    return rows(**wanted)


def test_every_attempt_is_listed_with_how_it_ended(two: Nodes, own_places: Path) -> None:
    mark = own_places / "mark"

    @shoal.remote(max_retries=2)
    def dies_once() -> str:
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)  # at once: its worker had no time to tell of it
        return "well"

    @shoal.remote(max_retries=2, retry_exceptions=True)
    def fails_once() -> str:
        if mark.exists():
            mark.unlink()
            raise KeyError("first")
        return "well"

    @shoal.remote(max_retries=0)
    def dies_at_once() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    shoal.get(dies_once.options(name="dies_once").remote(), timeout=60)
    shoal.get(fails_once.options(name="fails_once").remote(), timeout=60)

    def attempts(name: str) -> list[tuple[int, str, str]]:
        return sorted((row.attempt_number, row.state, row.error_type) for row in rows(name=name))

    eventually(lambda: attempts("dies_once") == [(0, "FAILED", "WORKER_DIED"), (1, "FINISHED", "")])
    eventually(lambda: attempts("fails_once") == [(0, "FAILED", "TASK_EXECUTION_EXCEPTION"), (1, "FINISHED", "")])
    # Only now: what a worker did in its last second goes with it.
    there = dies_at_once.options(resources={"there": 0.1}, name="there").remote()
    shoal.wait([there, dies_at_once.options(name="here").remote()], num_returns=2, timeout=60)
    for name in ("there", "here"):
        eventually(lambda name=name: attempts(name) == [(0, "FAILED", "WORKER_DIED")])
    (row,) = rows(name="there")
    assert row.node_id == two.nodes["a"].told["node_id"]
    assert "SIGKILL" in row.error_message
    (row,) = rows(name="fails_once", state="FAILED")
    assert row.error_message == "KeyError: 'first'"


@shoal.remote(num_cpus=0.1)
def makes_large(seconds: float = 0.0) -> bytes:
    time.sleep(seconds)
    return bytes(500_000)


@shoal.remote(num_cpus=0.1)
def nests() -> None:
    shoal.get(makes_large.options(name="nested").remote())


def test_call_sites_are_recorded_where_the_driver_asks_for_them(two: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    shoal.get(makes_large.options(name="before").remote(), timeout=60)
    eventually(lambda: [row.call_site for row in rows(name="before")] == [""])
    shoal.shutdown()
    monkeypatch.setenv("SHOAL_RECORD_CALL_SITES", "1")
    two.connect()

    kept, busy = makes_large.options(name="kept").remote(), makes_large.options(name="busy").remote(100)
    shoal.get([kept, nests.remote()], timeout=60)
    actor = Threaded.remote()
    shoal.get(actor.nap.remote(0), timeout=60)

    def site(name: str) -> str:
        found = rows(name=name)
        return str(found[-1].call_site) if found else ""

    for name in ("kept", "busy", "Threaded.nap", "Threaded.__init__"):
        eventually(
            lambda name=name: site(name).endswith("in test_call_sites_are_recorded_where_the_driver_asks_for_them")
        )
        assert "test_state.py:" in site(name)
    eventually(lambda: site("nested").endswith("in nests"))
    (listed,) = state.list_actors(filters=[("state", "=", "ALIVE")], detail=True)
    assert "test_state.py:" in listed.call_site
    eventually(lambda: any("test_state.py:" in row.call_site for row in state.list_objects()))
    shoal.cancel(busy)


def test_every_task_is_counted_however_fast_they_end(two: Nodes) -> None:
    """More than a worker tells rows of: the rest is told as counts."""
    count = 60_000

    @shoal.remote
    def quick() -> None:
        pass

    @shoal.remote
    class Quick:
        def call(self) -> None:
            pass

    one = Quick.remote()
    shoal.get([quick.remote() for _ in range(count)])
    shoal.get([one.call.remote() for _ in range(count)])

    def counted() -> dict[str, Any]:
        found = state.summarize_tasks()["cluster"]["summary"]
        return {name.rpartition(".")[2]: row["state_counts"] for name, row in found.items()}

    eventually(lambda: counted().get("quick") == {"FINISHED": count} and counted().get("call") == {"FINISHED": count})
