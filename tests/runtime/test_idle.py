"""What makes a node busy, and what it says about it; without any of that it is idle."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal.runtime.client.api import session
from shoal.util import placement_group, remove_placement_group
from shoal.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from shoal.wire.asks import What
from tests.runtime.conftest import eventually
from tests.runtime.nodes import cluster_of


@pytest.fixture
def other(own_places: Path) -> Iterator[str]:
    """The id of a node without a driver, in a cluster of two."""
    with cluster_of(own_places, head={"CPU": 1}, other={"CPU": 2, "disk": 1}) as nodes:
        for node in nodes.nodes.values():
            node.log.unlink()
        yield nodes.nodes["other"].told["node_id"]


def reasons(node_id: str) -> list[str]:
    """Return what the head shows as keeping the node busy."""
    rows = session().core.ask(What.STATE, {"kind": "nodes", "detail": True})["rows"]
    return [what for row in rows if row["node_id"] == node_id for what, _, _ in row["busy"]]


def is_idle(node_id: str) -> bool:
    """Say whether `status` lists the node as idle."""
    return node_id in [row["node_id"] for row in session().core.ask(What.STATUS, {})["nodes"]["idle"]]


def test_a_node_is_idle_without_lease_actor_bundle_and_primary_copy(other: str) -> None:
    at = NodeAffinitySchedulingStrategy(other, soft=False)

    @shoal.remote(scheduling_strategy=at)
    def nap(delay_s: float) -> float:
        time.sleep(delay_s)
        return delay_s

    @shoal.remote(scheduling_strategy=at)
    def make() -> Any:
        return np.ones(1_000_000)

    @shoal.remote(num_cpus=0, scheduling_strategy=at)
    class Holder:
        def ping(self) -> None:
            pass

    eventually(lambda: is_idle(other))
    assert reasons(other) == []

    ref: Any = nap.remote(60)
    eventually(lambda: reasons(other) == ["lease"] and not is_idle(other))
    shoal.cancel(ref)
    eventually(lambda: is_idle(other))

    actor: Any = Holder.remote()
    shoal.get(actor.ping.remote(), timeout=10)
    eventually(lambda: reasons(other) == ["actor"] and not is_idle(other))
    del actor
    eventually(lambda: is_idle(other))

    group = placement_group([{"disk": 0.1}])
    assert group.wait(10)
    eventually(lambda: reasons(other) == ["bundle"] and not is_idle(other))
    remove_placement_group(group)
    eventually(lambda: is_idle(other))

    ref = make.remote()
    assert shoal.wait([ref], timeout=20, fetch_local=False)[0] == [ref]
    eventually(lambda: reasons(other) == ["object"] and not is_idle(other))
    del ref
    eventually(lambda: is_idle(other) and reasons(other) == [])


def test_a_task_that_is_blocked_keeps_its_node_busy(other: str) -> None:
    at = NodeAffinitySchedulingStrategy(other, soft=False)

    @shoal.remote(num_cpus=0, resources={"disk": 0.1})
    class Gate:
        def wait(self, delay_s: float) -> None:
            time.sleep(delay_s)

    @shoal.remote(num_cpus=2, scheduling_strategy=at)
    def blocked(refs: list[Any]) -> str:
        shoal.get(refs[0])
        return "went on"

    gate = Gate.remote()
    ref = blocked.remote([gate.wait.remote(3.0)])
    eventually(lambda: "lease" in reasons(other))
    eventually(lambda: shoal.available_resources().get("CPU") == 3.0)
    assert "lease" in reasons(other)
    assert not is_idle(other)
    assert shoal.get(ref, timeout=20) == "went on"
