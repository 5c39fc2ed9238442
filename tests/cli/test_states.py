"""How listings and summaries are printed: as Ray prints its own."""

from __future__ import annotations

import re

import pytest
import yaml

from shoal.cli import states
from shoal.foundation.errors import BadInput
from shoal.util.state_tables import summary_of


def unstamped(text: str) -> list[str]:
    return [re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+", "TIME", line) for line in text.splitlines()]


def test_a_listing_has_heading_count_and_an_unnamed_index() -> None:
    rows = [
        {"actor_id": "a1", "class_name": "Counter", "state": "ALIVE", "job_id": "01", "name": "c", "node_id": "n",
         "pid": 12, "ray_namespace": "x", "secret": "not a column"},
        {"actor_id": "a2", "class_name": "Counter", "state": "DEAD", "job_id": "01", "name": None, "node_id": "n",
         "pid": 0, "ray_namespace": "x"},
    ]  # fmt: skip

    assert unstamped(states.ray_table("actors", {"rows": rows, "total": 7})) == [
        "======== List: TIME ========",
        "Stats:",
        "------------------------------",
        "Total: 7 (showing 2)",
        "",
        "Table:",
        "------------------------------",
        "   ACTOR_ID  CLASS_NAME  STATE  JOB_ID  NAME  NODE_ID  PID  RAY_NAMESPACE",
        "0  a1        Counter     ALIVE  01      c     n        12   x",
        "1  a2        Counter     DEAD   01            n        0    x",
    ]
    assert states.ray_table("actors", {"rows": [], "total": 0}) == "No resource in the cluster"


def test_a_cell_of_several_parts_takes_several_lines() -> None:
    rows = [{"node_id": "n1", "resources_total": {"CPU": 2.0, "memory": 1234.5678}}, {"node_id": "n2"}]

    lines = states.ray_table("nodes", {"rows": rows, "total": 2}).splitlines()[8:]

    assert [line.split() for line in lines] == [["0", "n1", "CPU:", "2.0"], ["memory:", "1.206", "KiB"], ["1", "n2"]]
    assert lines[0].index("CPU") == lines[1].index("memory")


def test_a_summary_of_tasks_counts_every_task_that_waits() -> None:
    rows = [
        {"name": "f", "state": "FINISHED", "type": "NORMAL_TASK"},
        {"name": "f", "state": "PENDING_NODE_ASSIGNMENT", "type": "NORMAL_TASK", "count": 40},
        {"name": "A.m", "state": "RUNNING", "type": "ACTOR_TASK"},
        {"name": "A.__init__", "state": "FINISHED", "type": "ACTOR_CREATION_TASK"},
    ]
    found = summary_of("tasks", rows)

    assert (found["total_tasks"], found["total_actor_tasks"], found["total_actor_scheduled"]) == (41, 1, 1)
    assert unstamped(states.ray_summary("tasks", found)) == [
        "======== Tasks Summary: TIME ========",
        "Stats:",
        "------------------------------------",
        "total_actor_scheduled: 1",
        "total_actor_tasks: 1",
        "total_tasks: 41",
        "",
        "",
        "Table (group by func_name):",
        "------------------------------------",
        "   FUNC_OR_CLASS_NAME  STATE_COUNTS                 TYPE",
        "0  f                   FINISHED: 1                  NORMAL_TASK",
        "                       PENDING_NODE_ASSIGNMENT: 40",
        "1  A.m                 RUNNING: 1                   ACTOR_TASK",
        "2  A.__init__          FINISHED: 1                  ACTOR_CREATION_TASK",
    ]
    assert states.ray_summary("tasks", summary_of("tasks", [])) == "No resource in the cluster"


def test_a_summary_of_objects_has_a_table_for_each_node() -> None:
    rows = [
        {"node_id": "n1", "object_size": 2**20, "reference_type": "LOCAL_REFERENCE", "owner": "p"},
        {"node_id": "n1", "object_size": 2**20, "reference_type": "PINNED_IN_MEMORY", "owner": "p"},
        {"node_id": "n2", "object_size": 2**19, "reference_type": "LOCAL_REFERENCE", "owner": "q"},
    ]
    found = summary_of("objects", rows)
    text = states.ray_summary("objects", found)

    assert (found["total_objects"], found["total_size_mb"]) == (3, 2.5)
    assert found["summary"]["n1"]["ref_type_counts"] == {"LOCAL_REFERENCE": 1, "PINNED_IN_MEMORY": 1}
    assert "Object Summary" in text and "Table (group by node):" in text
    assert text.index("\nn1\n") < text.index("\nn2\n")


def test_details_are_yaml_documents() -> None:
    text = states.documents([{"a": 1}, {"a": 2}])

    assert text.startswith("---\n") and text.endswith("\n...")
    assert yaml.safe_load(text) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("text", ["state", "=x", "!=x", ""])
def test_what_is_no_filter_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="expected key=value or key!=value"):
        states.filters_of([text])
    assert states.filters_of(["State = alive", "b!=c=d"]) == [("state", "=", "alive"), ("b", "!=", "c=d")]


def test_times_and_sizes_are_shown_as_people_read_them() -> None:
    shown = states.human({"start_time_s": 1e9, "end_time_s": 0.0, "object_size": 5, "store_bytes": 3 * 2**30})

    assert str(shown["start_time_s"]).startswith("2001-09-")
    assert shown["end_time_s"] is None
    assert (shown["object_size"], shown["store_bytes"]) == ("5.000 B", "3.000 GiB")
