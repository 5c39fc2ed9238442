"""`shoal explain` on a live cluster: a machine, its node, demand that waits, a gang that cannot start."""

from __future__ import annotations

import json
from typing import Any

from tests.e2e.conftest import Cluster, until

PROGRAM = """
import shoal
from shoal.util import placement_group

shoal.init()


@shoal.remote(num_cpus=2)
def work():
    import time

    time.sleep(600)


refs = [work.remote() for _ in range(8)]
gang = placement_group([{"CPU": 2}] * 9, strategy="STRICT_SPREAD", name="nine-apart")
shoal.get(refs)
"""


def told(cluster: Cluster, name: str) -> dict[str, Any]:
    code, out, error = cluster.shoal("explain", name, "--cluster", str(cluster.path), "--format", "json")
    assert code == 0, error
    found: dict[str, Any] = json.loads(out)
    return found


def text(cluster: Cluster, name: str) -> str:
    code, out, error = cluster.shoal("explain", name, "--cluster", cluster.name)
    assert code == 0, error
    return out


def test_what_is_there_and_what_waits_have_a_story(cluster: Cluster) -> None:
    cluster.start(PROGRAM)
    until(lambda: len(cluster.nodes(state="ALIVE", node_type="small")) == 4, 60, what="four workers")
    until(lambda: cluster.status()["demand"], what="demand that waits")
    (node, *_) = cluster.nodes(state="ALIVE", node_type="small")

    machine = text(cluster, node["instance_id"])
    assert "why it is: for" in machine and "$0.1/h" in machine and "joined the head" in machine
    assert text(cluster, node["node_id"]).splitlines()[0] == machine.splitlines()[0]

    keys = {one["key"] for one in cluster.status()["demand"] if "gang" not in one["kind"]}
    gangs = {one["key"] for one in cluster.status()["demand"] if "gang" in one["kind"]}
    assert keys and gangs
    for key in (*keys, *gangs):
        assert "max_workers is 4" in text(cluster, key)
        assert told(cluster, key)["past"], "what the log says of it"
    (gang,) = gangs
    assert "starts together or not at all" in text(cluster, gang)
    assert told(cluster, "nine-apart")["subject"] == gang
    assert "gang nine-apart (STRICT_SPREAD)" in cluster.shoal("status", str(cluster.path))[1]

    code, out, error = cluster.shoal("explain", "i-nothing", "--cluster", cluster.name)
    assert (code, out) == (1, "") and "nothing known is called" in error
