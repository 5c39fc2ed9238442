"""The state of the cluster as rows, and the small questions."""

from __future__ import annotations

import time

import pytest

import shoal
from shoal.util import list_named_actors, log_once, placement_group, remove_placement_group, state
from shoal.util.nearby import get_node_ip_address

pytestmark = pytest.mark.usefixtures("cluster")


@shoal.remote(num_cpus=0)
class Named:
    def ping(self) -> str:
        return "pong"


@shoal.remote
def counted(n: int) -> int:
    return n


def eventually(claim, within_s: float = 10.0) -> None:
    """Wait until `claim()` holds: rows of finished tasks come about once a second."""
    end = time.monotonic() + within_s
    while not claim():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.05)


def test_actors_are_listed_found_and_filtered() -> None:
    actor = Named.options(name="listed").remote()
    shoal.get(actor.ping.remote())

    rows = state.list_actors(filters=[("name", "=", "listed")])

    assert len(rows) == 1
    assert rows[0].state == rows[0]["state"] == "ALIVE"
    assert rows[0].class_name == "Named"
    detailed = state.get_actor(rows[0].actor_id)
    assert detailed is not None
    assert detailed.num_restarts == 0
    assert state.get_actor("00" * 12) is None
    assert state.list_actors(filters=[("name", "!=", "listed"), ("state", "=", "alive")]) == []
    assert "listed" in list_named_actors()
    assert {"name": "listed"}.items() <= next(iter(list_named_actors(all_namespaces=True))).items()
    assert state.summarize_actors()["cluster"]["summary"]["Named"]["state_counts"]["ALIVE"] == 1
    shoal.kill(actor)


def test_nodes_jobs_workers_and_groups_are_listed() -> None:
    group = placement_group([{"CPU": 0.1}], name="shown")
    assert group.wait(10)

    nodes = state.list_nodes(detail=True)
    assert [node.state for node in nodes] == ["ALIVE"]
    assert nodes[0].resources_total["CPU"] == 4.0
    assert state.get_node(nodes[0].node_id).is_head_node
    assert state.list_jobs(filters=[("status", "=", "RUNNING")])
    assert [row.name for row in state.list_placement_groups(filters=[("state", "=", "CREATED")])] == ["shown"]
    assert state.get_placement_group(group.id).state == "CREATED"
    eventually(lambda: state.list_workers())
    remove_placement_group(group)


def test_tasks_are_counted_by_name_and_state() -> None:
    shoal.get([counted.remote(n) for n in range(20)])

    def finished() -> int:
        row = state.summarize_tasks()["cluster"]["summary"].get("counted", {"state_counts": {}})
        return row["state_counts"].get("FINISHED", 0)

    eventually(lambda: finished() == 20)
    with pytest.warns(UserWarning, match="5 of"):
        assert len(state.list_tasks(limit=5)) == 5


def test_logs_are_listed_and_read() -> None:
    @shoal.remote
    def says() -> None:
        print("a line to be found")

    shoal.get(says.remote())
    names = [name for names in state.list_logs().values() for name in names]

    assert names
    eventually(lambda: any("a line to be found" in line for name in names for line in state.get_log(filename=name)))
    with pytest.raises(ValueError, match="log file"):
        list(state.get_log(filename="../../etc/passwd"))
    with pytest.raises(ValueError, match="No such file"):
        list(state.get_log(filename="none"))
    with pytest.raises(ValueError, match="no log file"):
        list(state.get_log(filename=names[0], node_id="ab" * 14))


def test_wrong_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="limit"):
        state.list_tasks(limit=0)
    with pytest.raises(ValueError, match="filters"):
        state.list_tasks(filters=[("name", "<", "a")])
    with pytest.raises(ValueError, match="address"):
        state.list_tasks(address="other:1234")
    with pytest.raises(AttributeError, match="no column `colour`"):
        _ = state.list_nodes()[0].colour


def test_small_questions() -> None:
    assert get_node_ip_address().count(".") == 3
    assert log_once("test_small_questions")
    assert not log_once("test_small_questions")
