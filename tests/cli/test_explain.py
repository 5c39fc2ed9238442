"""`shoal explain`, as a user calls it, on an event log and without a cluster."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from shoal.foundation.clock import SystemClock
from shoal.foundation.eventlog import FileLog, Kind

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def events(tmp_path: Path) -> Path:
    path = tmp_path / "events.jsonl"
    log = FileLog(path, SystemClock())
    log.record(Kind.INSTANCE_WANTED, instance="i-ab12cd-00001", node_type="s", offer="sim/r/z/s/spot", why="for 2 x L2")
    log.record(Kind.LAUNCH_CALLED, token="t1", instances=["i-ab12cd-00001"], offer="sim/r/z/s/spot")
    log.record(Kind.LAUNCH_ANSWERED, token="t1", outcome="refused", code="NoCapacity", error="none left")
    log.record(Kind.DEMAND_UNMET, demand="L2", verdict="blocked", why="quota vCPU")
    log.close()
    return path


def test_an_instance_tells_its_story_by_any_clear_beginning_of_its_name(run: Run, events: Path) -> None:
    code, out, _ = run("explain", "i-ab", "--events", events)

    assert code == 0
    assert out.splitlines()[0] == "instance i-ab12cd-00001"
    assert "wanted as `s` on sim/r/z/s/spot: for 2 x L2" in out
    assert "the provider answered: refused NoCapacity none left" in out
    assert "quota" not in out


def test_the_story_of_demand_as_json(run: Run, events: Path) -> None:
    code, out, _ = run("explain", "L2", "--events", events, "--format", "json")

    said = json.loads(out)
    assert code == 0
    assert (said["kind"], said["subject"]) == ("demand", "L2")
    assert [line["text"] for line in said["past"]] == ["not served: blocked: quota vCPU"]


def test_an_unknown_name_ends_in_1_with_a_hint(run: Run, events: Path) -> None:
    code, out, err = run("explain", "i-ab12cd-00002", "--events", events)

    assert (code, out) == (1, "")
    assert "did you mean `i-ab12cd-00001`?" in err


def test_without_a_cluster_one_line_says_so(run: Run) -> None:
    code, out, err = run("explain", "i-ab")

    assert (code, out) == (1, "")
    assert "no live cluster" in err


def test_a_log_of_garbage_has_no_story(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"\xff\xfe\0{]\n" * 100)

    code, _, err = run("explain", "i-ab", "--events", path)

    assert code == 1
    assert f"{path}: expected an event log, got no event" in err


def test_a_machines_name_tells_its_instances_story(run: Run, tmp_path: Path) -> None:
    """Also what was written of the machine after its instance's row was closed, under its own name only."""
    path = tmp_path / "events.jsonl"
    log = FileLog(path, SystemClock())
    log.record(Kind.INSTANCE_WANTED, instance="i-ab12cd-00001", node_type="s", offer="sim/r/z/s/spot", why="for 2 x L2")
    log.record(Kind.RELEASE_CALLED, instance="i-ab12cd-00001", name="vm-7", why="")
    log.record(Kind.RELEASE_ANSWERED, instance="vm-7", name="vm-7", outcome="unknown", error="reset")
    log.close()

    code, out, _ = run("explain", "vm-7", "--events", path)

    assert code == 0
    assert out.splitlines()[0] == "instance i-ab12cd-00001"
    assert "the provider was asked to end it" in out and "the provider answered the release: unknown reset" in out


def test_a_log_alone_does_not_tell_whether_demand_waits_now(run: Run, events: Path) -> None:
    _, out, _ = run("explain", "L2", "--events", events)

    assert "whether it waits now only a live cluster can tell" in out
