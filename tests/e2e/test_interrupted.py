"""`up` and `down` stopped anywhere, by Ctrl-C or for good: the next `up` or `down` completes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from shoal.transport import discovery
from tests.e2e.conftest import Cluster, until

MOMENTS_S = (0.25, 0.6)


def interrupted(cluster: Cluster, *words: str, after_s: float, by: signal.Signals) -> None:
    """Run a command and stop it after a while (if it has not finished by itself)."""
    running = subprocess.Popen(
        [sys.executable, "-m", "shoal", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ
    )
    time.sleep(after_s)
    if running.poll() is None:
        running.send_signal(by)
    _, said = running.communicate(timeout=30)
    assert b"Traceback" not in said, said.decode()


@pytest.mark.parametrize("after_s", MOMENTS_S)
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL])
def test_up_can_be_repeated_after_it_was_stopped(
    make_cluster: Callable[..., Cluster], after_s: float, by: signal.Signals
) -> None:
    cluster = make_cluster()
    interrupted(cluster, "up", str(cluster.path), "-y", after_s=after_s, by=by)

    cluster.up()
    until(lambda: cluster.status()["nodes"]["idle"], what="the head's node")


@pytest.mark.parametrize("after_s", MOMENTS_S)
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL])
def test_down_can_be_repeated_after_it_was_stopped(cluster: Cluster, after_s: float, by: signal.Signals) -> None:
    interrupted(cluster, "down", cluster.name, "-y", after_s=after_s, by=by)
    cluster.down()

    assert discovery.find("t") is None
    assert not (discovery.state_dir("t") / "identity.json").exists()


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
    codes = sorted(one.returncode for one in both)

    assert codes in ([0, 0], [0, 3]), said
    assert len(discovery.live_clusters()) == 1
