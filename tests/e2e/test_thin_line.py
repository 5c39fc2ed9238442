"""From a YAML to machines and back, with real processes, and with each of them killed in turn."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable

import pytest

from shoal.transport import discovery
from tests.e2e.conftest import Cluster, until

SLEEPERS = """
import sys, time, shoal
shoal.init()
@shoal.remote
def nap(number):
    time.sleep(1.5)
    return number
print(sorted(shoal.get([nap.remote(n) for n in range(int(sys.argv[1]))], timeout=50)))
"""
QUICK = """
import shoal
shoal.init()
@shoal.remote
def double(number):
    return 2 * number
print(shoal.get([double.remote(n) for n in range(5)], timeout=30))
"""


def workers_alive(cluster: Cluster) -> int:
    return len(cluster.nodes(state="ALIVE", is_head_node=False))


def test_work_brings_nodes_and_idleness_takes_them_away(cluster: Cluster) -> None:
    printed = cluster.run(SLEEPERS, "8")

    assert printed.strip() == str(list(range(8)))
    assert len(cluster.nodes(is_head_node=False)) >= 2
    until(lambda: workers_alive(cluster) == 0, what="idle nodes go")
    until(lambda: cluster.status()["autoscaler"]["instances"] == [], what="the ledger is empty")
    assert cluster.status()["autoscaler"]["usd_spent"] > 0


def test_up_twice_changes_and_restarts_nothing(cluster: Cluster) -> None:
    before = cluster.file()

    assert "nothing to change" in cluster.up()
    assert cluster.file() == before


def test_down_without_a_cluster_is_quiet_and_status_is_one_line(make_cluster: Callable[..., Cluster]) -> None:
    made = make_cluster()

    assert "nothing to end" in made.down()
    assert made.shoal("down", "t", "--dry-run")[1] == "cluster `t` is not up here\n"
    assert not discovery.state_path("t").exists()
    code, out, error = made.shoal("status", "t")
    assert (code, out) == (1, "")
    assert error.splitlines()[0] == "error: no live cluster `t` on this machine"


@pytest.mark.parametrize("process", ["autoscaler", "head", "agent"])
def test_a_killed_process_of_the_head_machine_comes_back(cluster: Cluster, process: str) -> None:
    before = cluster.pid_of(process)
    cluster.kill(process)
    until(lambda: cluster.pid_of(process) != before, what="the guard starts it again")

    assert cluster.run(QUICK).strip() == "[0, 2, 4, 6, 8]"


def test_a_killed_autoscaler_neither_doubles_nor_forgets_machines(cluster: Cluster) -> None:
    working = cluster.start(SLEEPERS, "6")
    until(lambda: any(event["kind"] == "launch_called" for event in cluster.events()), what="a launch")
    cluster.kill("autoscaler")
    out, error = working.communicate(timeout=50)

    assert working.returncode == 0, error[-2000:]
    assert out.strip() == str(list(range(6)))
    wanted = [event["fields"]["instance"] for event in cluster.events() if event["kind"] == "instance_wanted"]
    assert len(wanted) == len(set(wanted))
    assert workers_alive(cluster) <= 4
    until(lambda: workers_alive(cluster) == 0, what="idle nodes go")


def test_a_killed_workers_agent_is_replaced_and_its_tasks_run_again(cluster: Cluster) -> None:
    working = cluster.start(SLEEPERS, "6")
    until(lambda: workers_alive(cluster) >= 1, what="a worker")
    machines = discovery.state_dir(cluster.name) / "machines"
    guard = until(lambda: list(machines.glob("*/started")), what="its guard")[0]
    os.kill(int(guard.read_text().split()[0]), signal.SIGKILL)
    out, error = working.communicate(timeout=55)

    assert working.returncode == 0, error[-2000:]
    assert out.strip() == str(list(range(6)))


def test_a_killed_agent_of_a_worker_comes_back_and_its_tasks_run_again(cluster: Cluster) -> None:
    working = cluster.start(SLEEPERS, "6")
    until(lambda: workers_alive(cluster) >= 1, what="a worker")
    log = until(lambda: list((discovery.state_dir(cluster.name) / "logs").glob("i-*/guard.jsonl")), what="its log")[0]
    first = [
        event["fields"]["pid"] for event in map(json.loads, log.read_text().splitlines()) if "pid" in event["fields"]
    ]
    os.kill(first[0], signal.SIGKILL)
    out, error = working.communicate(timeout=55)

    assert working.returncode == 0, error[-2000:]
    assert out.strip() == str(list(range(6)))
    until(lambda: workers_alive(cluster) == 0, what="idle nodes go")


def test_a_head_killed_during_a_scale_up_neither_loses_work_nor_doubles_machines(cluster: Cluster) -> None:
    working = cluster.start(SLEEPERS, "6")
    until(lambda: any(event["kind"] == "launch_called" for event in cluster.events()), what="a launch")
    before = cluster.pid_of("head")
    cluster.kill("head")
    until(lambda: cluster.pid_of("head") != before, what="the guard starts it again")
    out, error = working.communicate(timeout=55)

    assert working.returncode == 0, error[-2000:]
    assert out.strip() == str(list(range(6)))
    wanted = [event["fields"]["instance"] for event in cluster.events() if event["kind"] == "instance_wanted"]
    assert len(wanted) == len(set(wanted)) <= 4
    assert {node["instance_id"] for node in cluster.nodes(is_head_node=False)} == set(wanted)


def test_up_after_the_head_machines_guard_was_killed_finds_its_machines_again(
    make_cluster: Callable[..., Cluster],
) -> None:
    """The machines outlive the head machine's processes; the next `up` has them back instead of buying others."""
    cluster = make_cluster(idle_timeout_s="300s")
    cluster.up()
    cluster.run(SLEEPERS, "4")
    kept = {node["instance_id"] for node in cluster.nodes(state="ALIVE", is_head_node=False)}
    assert kept
    os.kill(cluster.file().pid, signal.SIGKILL)
    until(lambda: discovery.find(cluster.name) is None, what="the guard's end")
    cluster.up()

    def back() -> bool:
        return {node["instance_id"] for node in cluster.nodes(state="ALIVE", is_head_node=False)} == kept

    until(back, limit_s=60, what="its machines join again")
    assert cluster.run(SLEEPERS, "2").strip() == "[0, 1]"
    report = cluster.status()["autoscaler"]
    assert {one["instance_id"] for one in report["instances"]} == kept


def test_the_killed_guard_of_the_head_machine_leaves_what_down_finds(cluster: Cluster) -> None:
    working = cluster.start(SLEEPERS, "6")
    until(lambda: workers_alive(cluster) >= 1, what="a worker")
    _, out, _ = cluster.shoal("down", cluster.name, "--dry-run")
    assert f"would end cluster `t` (pid {cluster.file().pid})" in out
    os.kill(cluster.file().pid, signal.SIGKILL)
    until(lambda: discovery.find(cluster.name) is None, what="the guard's end")
    _, out, _ = cluster.shoal("down", cluster.name, "--dry-run")
    assert "would end what is left of cluster `t`" in out

    assert "is down, nothing left" in cluster.down()
    working.kill()
    working.communicate()


def test_two_clusters_side_by_side_do_not_know_each_other(make_cluster: Callable[..., Cluster]) -> None:
    one, two = make_cluster(cluster_name="one"), make_cluster(cluster_name="two")
    one.up()
    two.up()

    assert one.run(QUICK) == two.run(QUICK)
    code, _, error = one.shoal("status")
    assert code == 2
    assert "`one`, `two`" in error
    one.down()
    assert two.run(QUICK).strip() == "[0, 2, 4, 6, 8]"


def test_the_cluster_is_private(cluster: Cluster) -> None:
    place = discovery.runtime_dir()

    assert place.stat().st_mode & 0o777 == 0o700
    for path in [*place.rglob("*.secret"), *discovery.state_dir("t").rglob("*.secret")]:
        assert path.stat().st_mode & 0o777 == 0o600
    for path in discovery.state_dir("t").iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
