"""What is listed of work: while it runs, when it has ended, and when its node is gone."""

from __future__ import annotations

import asyncio
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
from tests.runtime.conftest import eventually
from tests.runtime.nodes import Nodes, cluster_of


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
    return state.list_tasks(filters=filters, limit=1000, raise_on_missing_output=False)


def test_work_is_listed_while_it_runs_and_with_how_it_ended(two: Nodes) -> None:
    threaded, awaiting = Threaded.remote(), Async.remote()
    calls = [threaded.nap.remote(3), threaded.nap.remote(3), awaiting.nap.remote(3)]
    busy = [nap.remote(100) for _ in range(6)]

    def running(name: str) -> int:
        return len(rows(state="RUNNING", name=name))

    eventually(lambda: (running("nap"), running("Threaded.nap"), running("Async.nap")) == (4, 2, 1), 20)
    assert len(rows(state="PENDING_NODE_ASSIGNMENT", name="nap")) == 2
    counts = state.summarize_tasks()["cluster"]["summary"]["nap"]["state_counts"]
    assert counts == {"RUNNING": 4, "PENDING_NODE_ASSIGNMENT": 2}
    assert {row.actor_id for row in rows(name="Async.nap")} == {awaiting._actor_id.hex()}

    for ref in busy:
        shoal.cancel(ref)
    shoal.get(calls, timeout=30)
    eventually(lambda: len(rows(state="FINISHED", type="ACTOR_TASK")) == 3)
    eventually(lambda: len(rows(state="FAILED", error_type="TASK_CANCELLED")) == 4)
    assert rows(state="RUNNING") == []

    slow = Async.remote(3)
    eventually(lambda: len(rows(state="RUNNING", type="ACTOR_CREATION_TASK", name="Async.__init__")) == 1)
    shoal.get(slow.nap.remote(0), timeout=30)
    eventually(lambda: len(rows(state="FINISHED", type="ACTOR_CREATION_TASK")) == 3)

    failed, dead = fails.remote(), dies.remote()
    shoal.wait([failed, dead], num_returns=2, timeout=30)
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
    shoal.get([nap.remote(0) for _ in range(500)], timeout=30)
    eventually(lambda: len(state.list_tasks(limit=1000)) == 501)

    (row,) = state.list_tasks(filters=[("state", "=", "failed")], limit=1)

    assert row.name == "fails"
    found = state.get_task(row.task_id)
    assert found is not None and found.error_type == "TASK_EXECUTION_EXCEPTION"


@pytest.mark.parametrize("way", ["leaves", "drained"])
def test_what_ran_on_a_node_is_listed_when_the_node_is_gone(two: Nodes, way: str) -> None:
    node = two.nodes["a"]
    there = nap.options(resources={"there": 1}, name="far")
    shoal.get([there.remote(0) for _ in range(5)], timeout=30)
    eventually(lambda: len(rows(name="far", state="FINISHED")) == 5)
    before = rows(name="far")[0].worker_id

    if way == "drained":
        eventually(lambda: state.list_objects() == [])
        node.process.send_signal(signal.SIGUSR1)
        eventually(lambda: (two.place / "drained").exists(), 20)
        (two.place / "drained").unlink()
        node.kill()  # it says nothing more
        shutil.rmtree(two.place / "a")
        for segments in Path(os.environ["SHOAL_SHM_DIR"]).glob(f"*-{node.told['node_id'][:8]}"):
            shutil.rmtree(segments)
        eventually(lambda: len(state.list_nodes(filters=[("state", "=", "DEAD")])) == 1, 20)
    else:
        node.end()

    eventually(lambda: len(rows(name="far", node_id=node.told["node_id"])) == 5, 20)
    assert state.get_task(rows(name="far")[0].task_id) is not None
    assert state.summarize_tasks()["cluster"]["summary"]["far"]["state_counts"]["FINISHED"] == 5
    if way == "leaves":
        worker = state.get_worker(before)
        assert worker is not None and not worker.is_alive
