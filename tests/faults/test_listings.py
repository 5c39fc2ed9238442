"""What the commands show of two nodes while a driver works: where each object is and what made it, prints, a trace."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from tests.faults.conftest import ByHand, eventually

DRIVER = """
import numpy, shoal, sys, time
shoal.init(log_to_driver=False)  # the first line that it prints is read as its own

@shoal.remote(resources={"there": 0.1})
def make():
    return numpy.ones(100_000)

@shoal.remote(num_cpus=0, resources={"there": 0.1})
class Speaker:
    def say(self, n):
        print("word", n)

put = shoal.put(numpy.ones(200_000))
made = make.remote()
kept = shoal.get(made)
speaker = Speaker.remote()
shoal.get(speaker.say.remote(0))
print("ready", flush=True)
for n, _ in enumerate(sys.stdin):
    shoal.get(speaker.say.remote(n + 1))
"""


def test_two_nodes_are_seen_from_the_command_line(by_hand: Callable[..., ByHand], tmp_path: Path) -> None:
    cluster = by_hand("--num-cpus", "1")
    cluster.shoal("start", "--num-cpus", "1", "--resources", '{"there": 1}', "--object-store-memory", "64 MiB")
    driver = cluster.start(DRIVER, stdin=subprocess.PIPE)
    assert driver.stdin is not None
    here, there = (
        next(row["node_id"] for row in cluster.rows("nodes") if row["is_head_node"] is is_head)
        for is_head in (True, False)
    )

    def objects() -> set[tuple[str, int, str, int | None]]:
        rows = cluster.rows("objects")
        return {(one["node_id"], one["object_size"] // 800_000, one["task_status"], one["attempt_number"])
                for one in rows}  # fmt: skip

    # Put by the driver; made by a task there; its copy here, which does not know what made it. A worker tells the node
    # what it ran about once a second.
    expected = {(here, 2, "-", None), (there, 1, "FINISHED", 1), (here, 1, "", None)}
    eventually(lambda: objects() == expected)
    filtered = json.loads(cluster.shoal("list", "objects", "-c", cluster.name, "-f", "task_status=finished",
                                        "--format", "json"))  # fmt: skip
    assert [row["node_id"] for row in filtered] == [there]
    assert {row["call_site"] for row in filtered} == {"disabled"}
    sums = json.loads(cluster.shoal("memory", "-c", cluster.name, "--stats-only", "--format", "json"))
    assert {row["node_id"]: row["objects"] for row in sums} == {here: 2, there: 1}

    (actor,) = cluster.rows("actors")
    assert actor["node_id"] == there
    follower = subprocess.Popen(
        [sys.executable, "-m", "shoal", "logs", "actor", "-c", cluster.name, "--id", actor["actor_id"], "-f"],
        stdout=subprocess.PIPE,
        text=True,
    )
    limit = threading.Timer(60, follower.kill)
    limit.start()
    try:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "word 0\n"
        driver.stdin.write("\n")
        driver.stdin.flush()
        assert follower.stdout.readline() == "word 1\n", "what is printed later is followed"
    finally:
        limit.cancel()
        follower.kill()
        follower.communicate()

    trace = tmp_path / "trace.json"

    def spans() -> set[str]:
        cluster.shoal("timeline", "-c", cluster.name, "-o", str(trace))
        return {one["name"] for one in json.loads(trace.read_text()) if one["ph"] == "X"}

    eventually(lambda: {"make", "Speaker.__init__", "Speaker.say"} <= spans())
