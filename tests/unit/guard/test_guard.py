"""A real guard with real children: order, restarts, the lease, and nothing left of the session."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shoal.guard import processes
from shoal.guard.lock import lock_holder
from shoal.guard.machine import Child, MachineSpec
from shoal.transport import discovery
from shoal.transport.discovery import ClusterFile
from shoal.wire.hello import Role, fresh_secret

UID = "ab" * 16
WAITS = [sys.executable, "-S", "-c", "import time; time.sleep(100)"]


def until(condition: Callable[[], Any], limit_s: float = 10) -> Any:
    deadline_s = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < deadline_s, "not in time"
        time.sleep(0.02)
    return found


class Machine:
    def __init__(self, place: Path, children: list[Child], **changes: Any) -> None:
        self.folder = place / "machine"
        self.folder.mkdir()
        secret = discovery.save_secret(place, Role.NODE, fresh_secret(), UID)
        spec = MachineSpec(
            name="m",
            uid=UID,
            instance_id="i",
            children=children,
            secret_file=str(secret),
            log_dir=str(place / "logs"),
            **{"role": "head", **changes},
        )
        (self.folder / "machine.json").write_bytes(msgspec.json.encode(spec))
        self.log = place / "logs" / "guard.jsonl"
        self.guard = subprocess.Popen(
            [sys.executable, "-m", "shoal.guard", str(self.folder)], start_new_session=True, stderr=subprocess.DEVNULL
        )

    def events(self, kind: str) -> list[dict[str, Any]]:
        if not self.log.exists():
            return []
        lines = map(json.loads, self.log.read_text().splitlines())
        return [event["fields"] for event in lines if event["kind"] == kind]

    def started(self, count: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = until(lambda: len(e := self.events("process_started")) >= count and e)
        return found

    def end(self) -> int:
        self.guard.terminate()
        return self.guard.wait(15)


@pytest.fixture
def machine(own_places: Path, tmp_path: Path) -> Any:
    made: list[Machine] = []

    def make(children: list[Child], **changes: Any) -> Machine:
        made.append(Machine(tmp_path, children, **changes))
        return made[0]

    yield make
    for one in made:
        if one.guard.poll() is None:
            one.end()


def test_ending_takes_the_children_and_their_children(machine: Any) -> None:
    forks = [sys.executable, "-S", "-c", "import os, time; os.fork(); os.fork(); time.sleep(100)"]
    one = machine([Child(name="forks", argv=forks)])
    one.started(1)
    until(lambda: len(processes.session_members(one.guard.pid)) == 5)

    assert one.end() == 0
    assert processes.session_members(one.guard.pid) == []


def test_a_child_that_ignores_the_polite_signal_is_killed_after_its_grace(machine: Any) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(100)"
    one = machine([Child(name="deaf", argv=[sys.executable, "-S", "-c", deaf], grace_s=0.3)])
    until(lambda: (one.log.parent / "deaf.log").exists() and (one.log.parent / "deaf.log").read_text())

    assert one.end() == 0
    assert processes.session_members(one.guard.pid) == []


def test_a_killed_child_is_started_again(machine: Any) -> None:
    one = machine([Child(name="waits", argv=WAITS)])
    first = one.started(1)[0]["pid"]
    os.kill(first, signal.SIGKILL)

    assert one.started(2)[1]["pid"] != first
    assert one.events("process_died")[0]["code"] == -signal.SIGKILL
    one.end()


def test_a_child_waits_for_the_file_it_should_start_after(machine: Any, tmp_path: Path) -> None:
    mark = tmp_path / "joined"
    late = Child(name="late", argv=WAITS, after_file=str(mark), after_limit_s=60.0)
    one = machine([late, Child(name="first", argv=WAITS)])
    assert [event["process"] for event in one.started(1)] == ["first"]

    mark.touch()
    assert [event["process"] for event in one.started(2)] == ["first", "late"]
    one.end()


def test_a_file_that_never_comes_does_not_keep_a_child_from_starting(machine: Any, tmp_path: Path) -> None:
    one = machine([Child(name="late", argv=WAITS, after_file=str(tmp_path / "never"), after_limit_s=0.2)])

    assert one.started(1)[0]["process"] == "late"
    one.end()


def test_children_of_a_head_machine_hold_its_lock_after_its_guard_was_killed(machine: Any) -> None:
    """The children here do not end with the guard; what the lock says is what the next `up` waits for."""
    one = machine([Child(name="waits", argv=WAITS)])
    child = one.started(1)[0]["pid"]
    one.guard.kill()
    one.guard.wait()
    holder = lock_holder(one.folder)
    os.kill(child, signal.SIGKILL)

    assert holder is not None
    assert holder[0] == one.guard.pid
    until(lambda: lock_holder(one.folder) is None)


def test_a_vital_child_that_dies_too_often_ends_the_machine(machine: Any) -> None:
    one = machine([Child(name="dies", argv=[sys.executable, "-S", "-c", ""], restarts_max=2, is_vital=True)])

    assert one.guard.wait(15) == 0
    assert len(one.events("process_started")) == 3


def test_a_machine_without_its_head_ends_when_the_lease_is_over(machine: Any, tmp_path: Path) -> None:
    began_s = time.monotonic()
    one = machine([Child(name="waits", argv=WAITS)], role="worker", lease_s=1.0, head_addresses=["unix:/none"])

    assert one.guard.wait(15) == 0
    assert time.monotonic() - began_s > 0.9
    assert "no contact" in one.events("alarm")[0]["why"]
    assert processes.session_members(one.guard.pid) == []


def test_work_prolongs_the_lease(machine: Any, tmp_path: Path) -> None:
    busy = tmp_path / "busy"
    busy.touch()
    one = machine(
        [Child(name="waits", argv=WAITS)],
        role="worker",
        lease_s=0.5,
        lease_busy_s=100.0,
        head_addresses=["unix:/none"],
        busy_file=str(busy),
    )
    one.started(1)
    with pytest.raises(subprocess.TimeoutExpired):
        one.guard.wait(2)
    busy.unlink()

    assert one.guard.wait(15) == 0


def test_the_guard_of_a_cluster_writes_and_removes_its_file(machine: Any, tmp_path: Path) -> None:
    file = ClusterFile(name="c", uid=UID, pid=0, started="", directory="", frames="unix:/x")
    one = machine([], cluster_file=file)

    found = until(lambda: discovery.find("c"))
    assert found.pid == one.guard.pid
    one.end()
    assert discovery.find("c") is None


def test_nonsense_is_one_line(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "shoal.guard", str(tmp_path)], capture_output=True, text=True, timeout=20, check=False
    )

    assert ran.returncode == 2
    assert len(ran.stderr.splitlines()) == 1
