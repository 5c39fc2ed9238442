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


SMALL = """
import shoal
shoal.init(log_to_driver=False)

@shoal.remote
def says(n):
    for _ in range(n):
        print("a long line of " + 2_000 * "x")
    print("the end")

@shoal.remote
def fails():
    raise ValueError("on purpose")

shoal.get(says.remote(300))
shoal.wait([fails.remote()], timeout=30)
print("ready", flush=True)
input()
"""


def test_the_clusters_own_logs_are_listed_and_read(by_hand: Callable[..., ByHand]) -> None:
    cluster = by_hand("--num-cpus", "1")
    node = cluster.shoal("start", "--num-cpus", "1")
    assert node.startswith("node `")
    driver = cluster.start(SMALL, stdin=subprocess.PIPE)
    by_node: dict[str, dict[str, int]] = {}
    for line in cluster.shoal("logs", "-c", cluster.name).splitlines():
        node_id, size, name = line.split()
        by_node.setdefault(node_id, {})[name] = int(size)
    (head,) = (row["node_id"] for row in cluster.rows("nodes") if row["is_head_node"])
    own, others = by_node.pop(head[:12]), next(iter(by_node.values()))
    assert {"head.log", "agent.log", "guard.jsonl", "guard-head.log", "head-events.jsonl"} <= own.keys()
    assert {"agent.log", "guard.jsonl", "guard.log"} <= others.keys()

    events = cluster.shoal("logs", "-c", cluster.name, "head-events.jsonl", "--tail", "-1").splitlines()
    assert [json.loads(line)["kind"] for line in events][:2] == ["head_started", "node_joined"]
    last = cluster.shoal("logs", "-c", cluster.name, "head-events.jsonl", "--tail", "1").splitlines()
    assert last == events[-1:]
    assert cluster.shoal("logs", "cluster", "-c", cluster.name, "agent.log", "--node-id", head[:12]) == ""
    kinds = {
        json.loads(line)["kind"]
        for line in cluster.shoal("logs", "-c", cluster.name, "guard.json*").splitlines()
        if line.startswith("{")
    }
    assert "process_started" in kinds

    # Lines that are longer than is usual are found all the same, and whole.
    (task,) = eventually(lambda: [row for row in cluster.rows("tasks") if row["name"] == "says"])
    pid = str(task["worker_pid"])
    for way in (["--pid", pid], ["--task-id", task["task_id"]], ["worker", "--id", task["worker_id"]]):
        lines = cluster.shoal("logs", "-c", cluster.name, *way, "--tail", "150").splitlines()
        assert len(lines) == 150
        assert lines[0] == "a long line of " + 2_000 * "x"
        assert lines[-1] == "the end"
    driver.kill()

    for words, told in (
        (["logs", "none.log"], "error: no such log"),
        (["logs", "--node-id", "ff", "head.log"], "error: no node `ff`"),
        (["logs", "actor"], "error: logs actor: expected --id"),
        (["logs", "--pid", "1", "--actor-id", "ab", "--task-id", "ab"], "error: logs: expected one"),
        (["list", "tasks", "-f", "stat=RUNNING"], "did you mean `state`?"),
        (["list", "nodes", "--filter", "zzz=1"], "there are node_id, node_ip"),
        (["get", "tasks", "ab"], "hint: see `shoal list tasks`"),
    ):
        ran = subprocess.run(
            [sys.executable, "-m", "shoal", *words, "-c", cluster.name], capture_output=True, text=True, check=False
        )
        assert ran.returncode in (1, 2), ran
        assert told in ran.stderr
        assert "Traceback" not in ran.stderr
    ran = subprocess.run(
        [sys.executable, "-m", "shoal", "list", "tasks", "--limit", "1", "-c", cluster.name, "--format", "json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(json.loads(ran.stdout)) == 1
    assert ran.stderr == "warning: 1 of 2 rows; raise --limit (at most 10000) or filter\n"
