"""`up` and `down` stopped anywhere, by Ctrl-C or for good: the next `up` or `down` completes.

Where a command is stopped is said by what it has just done, as seen from outside, so that a slow machine does not move
the moment; the times are for everything in between.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from shoal.assembly import cluster as assembly
from shoal.transport import discovery
from tests.e2e.conftest import Cluster, until

QUICK = """
import shoal
shoal.init()
print(shoal.get(shoal.remote(lambda: 42).remote(), timeout=30))
"""


def epoch() -> int:
    try:
        return int(json.loads((discovery.state_dir("t") / "identity.json").read_text())["epoch"])
    except (OSError, ValueError):
        return 0


def runtime_has(pattern: str) -> bool:
    return any(discovery.runtime_dir().glob(pattern))


UP_MOMENTS: dict[str, Callable[[], bool]] = {
    "identity is written": lambda: epoch() == 1,
    "specs are written": lambda: runtime_has("*/head/machine.json"),
    "the guard runs": lambda: runtime_has("*/head/lock"),
    "the guard is found": lambda: discovery.find("t") is not None,
    "the head listens": lambda: runtime_has("*/head.sock"),
    "the agent listens": lambda: runtime_has("*/n/agent.sock"),
    "the node has joined": lambda: runtime_has("*/n/joined"),
}
DOWN_MOMENTS: dict[str, Callable[[], bool]] = {
    "the epoch is raised": lambda: epoch() == 2,
    "the agent ends": lambda: not runtime_has("*/n/joined"),
    "the head ends": lambda: not runtime_has("*/head.sock"),
    "the guard is gone": lambda: discovery.find("t") is None,
}
KILLED, INTERRUPTED = signal.SIGKILL, signal.SIGINT


def interrupted(*words: str, at: Callable[[], bool], by: signal.Signals) -> None:
    """Run a command and stop it as soon as `at` holds (if it has not finished by itself)."""
    running = subprocess.Popen(
        [sys.executable, "-m", "shoal", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ
    )
    deadline_s = time.monotonic() + 60
    while running.poll() is None and not at():
        assert time.monotonic() < deadline_s, "the moment never came"
        time.sleep(0.001)
    if running.poll() is None:
        running.send_signal(by)
    _, said = running.communicate(timeout=30)
    assert b"Traceback" not in said, said.decode()


def guards() -> list[int]:
    """Return the guards of head machines of this test, found or not."""
    command = f"shoal.guard {discovery.runtime_dir()}/[0-9a-f]+/head"
    found = subprocess.run(["pgrep", "-f", command], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split()]


def assert_whole(cluster: Cluster) -> None:
    """One guard, of the newest epoch; head and node answer at once; work runs."""
    assert cluster.file().epoch == epoch()
    status = cluster.status()
    assert status["epoch"] == epoch()
    assert cluster.run(QUICK).strip() == "42"
    assert guards() == [cluster.file().pid]


@pytest.mark.parametrize(
    ("by", "moment"),
    [
        *((KILLED, moment) for moment in UP_MOMENTS),
        *((INTERRUPTED, moment) for moment in ("identity is written", "the guard runs", "the head listens")),
    ],
)
def test_up_can_be_repeated_after_it_was_stopped(
    make_cluster: Callable[..., Cluster], moment: str, by: signal.Signals
) -> None:
    cluster = make_cluster()
    interrupted("up", str(cluster.path), "-y", at=UP_MOMENTS[moment], by=by)

    cluster.up()
    assert_whole(cluster)


@pytest.mark.parametrize("after_s", [0.0, 0.02, 0.05, 0.1])
def test_down_ends_the_guard_that_a_stopped_up_was_about_to_start(
    make_cluster: Callable[..., Cluster], after_s: float
) -> None:
    cluster = make_cluster()
    interrupted("up", str(cluster.path), "-y", at=UP_MOMENTS["specs are written"], by=KILLED)
    time.sleep(after_s)

    assert assembly.end("t", lambda identity, state, runtime: None)
    assert guards() == []
    assert discovery.find("t") is None
    assert not (discovery.state_dir("t") / "identity.json").exists()


@pytest.mark.parametrize(
    ("by", "moment"),
    [
        *((KILLED, moment) for moment in DOWN_MOMENTS),
        *((INTERRUPTED, moment) for moment in ("the epoch is raised", "the head ends")),
    ],
)
def test_down_can_be_repeated_after_it_was_stopped(cluster: Cluster, moment: str, by: signal.Signals) -> None:
    interrupted("down", cluster.name, "-y", at=DOWN_MOMENTS[moment], by=by)
    cluster.down()

    assert discovery.find("t") is None
    assert not (discovery.state_dir("t") / "identity.json").exists()


def test_a_guard_that_a_stopped_up_was_about_to_start_is_waited_for(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster()
    interrupted("up", str(cluster.path), "-y", at=UP_MOMENTS["specs are written"], by=KILLED)

    with contextlib.suppress(assembly.AlreadyUp):  # at once, without the time that a command takes to start
        assembly.start(assembly.Wanted(name="t", resources={}, config=cluster.path.read_text()))
    cluster.up()
    assert_whole(cluster)


def test_up_after_a_down_that_was_stopped_starts_anew(cluster: Cluster) -> None:
    interrupted("down", cluster.name, "-y", at=DOWN_MOMENTS["the epoch is raised"], by=KILLED)
    cluster.up()

    assert_whole(cluster)


def test_a_cluster_whose_end_was_begun_is_not_taken_for_a_live_one(cluster: Cluster) -> None:
    path = discovery.state_dir("t") / "identity.json"
    identity = json.loads(path.read_text())
    path.write_text(json.dumps({**identity, "epoch": identity["epoch"] + 1}))  # the first thing that `down` does

    assert "is up (" in cluster.up()
    assert_whole(cluster)


def test_up_after_the_guard_was_killed_ends_what_it_left(cluster: Cluster) -> None:
    """A head that ends late would take the sockets away that the new one listens on."""
    head = cluster.pid_of("head")
    started = discovery.process_started(head)
    os.kill(head, signal.SIGSTOP)
    os.kill(cluster.file().pid, signal.SIGKILL)
    until(lambda: discovery.find("t") is None, what="the guard's end")
    cluster.up()

    is_left = discovery.process_started(head) == started
    if is_left:
        os.kill(head, signal.SIGCONT)
    assert not is_left
    assert_whole(cluster)


def test_down_during_a_scale_up_leaves_nothing(cluster: Cluster) -> None:
    cluster.start(
        """
import shoal, time
shoal.init()
@shoal.remote(num_cpus=2)
def hold():
    time.sleep(60)
shoal.get([hold.remote() for _ in range(4)])
"""
    )
    until(lambda: any(event["kind"] == "launch_called" for event in cluster.events()), what="a launch")

    assert "is down, nothing left" in cluster.down()


def test_two_ups_at_once_make_one_cluster(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster()
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "shoal", "up", str(cluster.path), "-y"], stderr=subprocess.PIPE, text=True, stdout=-3
        )
        for _ in range(2)
    ]
    said = [one.communicate(timeout=60)[1] for one in both]

    assert [one.returncode for one in both] == [0, 0], said
    assert len(discovery.live_clusters()) == 1
    assert_whole(cluster)
