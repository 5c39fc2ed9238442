"""Two hosts cut from each other, healed before and after the cut-off one was given up: who answers, and what counts.

A caller on the cut-off host asks the actor there without pause, so that an instance which still could answer does. The
hosts' clocks are one, and the notes that processes take travel by a shared directory, not by the network.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.hosts.conftest import Cluster, Host
from tests.hosts.test_lost_hosts import said, start

PROGRAM = """
import os, shoal, socket, time
from shoal.exceptions import GetTimeoutError
shoal.init()
def note(what):
    with open("/mnt/notes", "a") as file:
        file.write(f"{time.monotonic()} {socket.gethostname()} {os.getpid()} {what}\\n")
def noted(what):
    return sum(line.split()[3].startswith(what) for line in open("/mnt/notes"))
@shoal.remote(resources={"part": 1}, num_cpus=0, max_restarts=1, max_task_retries=-1)
class Teller:
    def __init__(self):
        self.count = 0
        note("born")
    def add(self, who):
        note(who)
        self.count += 1
        return self.count, socket.gethostname()
@shoal.remote(resources={"there": 1}, num_cpus=0)
class Neighbour:
    def keep_asking(self, teller):
        while not os.path.exists("/mnt/enough"):
            try:
                shoal.get(teller.add.remote("neighbour"), timeout=0.5)
            except GetTimeoutError:
                pass
            time.sleep(0.01)
@shoal.remote(resources={"work": 1}, num_cpus=0, max_retries=1)
def piece(n):
    note(f"piece-{n}")
    time.sleep(6)
    return n, socket.gethostname()
teller, neighbour = Teller.remote(), Neighbour.remote()
told = [shoal.get(teller.add.remote("driver"), timeout=20)]
asking = neighbour.keep_asking.remote(teller)
left = [piece.remote(n) for n in range(2)]
while noted("piece") < 2 or noted("neighbour") < 3:
    time.sleep(0.01)
print("ready", flush=True)
while not os.path.exists("/mnt/enough"):
    try:
        told.append(shoal.get(teller.add.remote("driver"), timeout=0.5))
    except GetTimeoutError:
        pass
    time.sleep(0.01)
got = []
while left:
    done, left = shoal.wait(left, timeout=40)
    assert done, "a piece of work is lost"
    got += shoal.get(done)
print(sorted(got))
print(sorted({host for _, host in told}))
print(len(set(told)) == len(told), all(one < two for (one, here), (two, there) in zip(told, told[1:]) if here == there))
"""


class Note(NamedTuple):
    at_s: float
    host: str
    process: str
    what: str


def notes(cluster: Cluster) -> list[Note]:
    lines = (cluster.network.exchange / "notes").read_text().splitlines()
    return [Note(float(at_s), *rest) for at_s, *rest in (line.split() for line in lines)]


def wait_until(claim: Callable[[], bool], within_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not claim():
        assert time.monotonic() < deadline_s, f"not within {within_s} s"
        time.sleep(0.02)


def begin(make_cluster: Callable[..., Cluster], dead_s: float) -> tuple[Cluster, Host, subprocess.Popen[str]]:
    cluster = make_cluster(dead_s=dead_s, fence_s=2.0)
    node = cluster.join(resources='{"part": 1, "there": 1, "work": 2}')
    return cluster, node, start(cluster.head, PROGRAM)


def stopped(node: Host) -> list[str]:
    return [line for line in node.run("ps", "-eo", "stat,args").stdout.splitlines() if line.startswith("T")]


def answers(cluster: Cluster) -> list[Note]:
    return [note for note in notes(cluster) if note.what in ("driver", "neighbour")]


@pytest.mark.parametrize("is_in_time", [True, False], ids=["in time", "too late"])
def test_an_actor_never_answers_in_two_places_and_no_work_counts_twice(
    make_cluster: Callable[..., Cluster], is_in_time: bool
) -> None:
    cluster, node, driver = begin(make_cluster, dead_s=20.0 if is_in_time else 4.0)
    node.cut()
    wait_until(lambda: len(stopped(node)) == 1)
    silent_from_s = time.monotonic()
    hosts = {node.name}
    if not is_in_time:
        other = cluster.join(resources='{"part": 1, "work": 2}')
        wait_until(lambda: any(note.host == other.name and note.what == "driver" for note in answers(cluster)))
        hosts.add(other.name)
    node.heal()
    back = node.name if is_in_time else other.name
    wait_until(lambda: any(note.at_s > silent_from_s and note.host == back for note in answers(cluster)))
    last_s = time.monotonic() + 1.0
    wait_until(lambda: time.monotonic() > last_s)  # who could answer against the rules has time to do so
    (cluster.network.exchange / "enough").touch()

    pieces, told, in_order = said(driver)
    born = [note for note in notes(cluster) if note.what == "born"]
    assert [note.host for note in born] == ([node.name] if is_in_time else [node.name, other.name])
    assert told == str(sorted(hosts))
    assert in_order == "True True", "every answer is another, and each instance counts up"
    assert pieces == str([(n, back) for n in range(2)])
    for note in answers(cluster):
        instance = born[-1] if note.at_s > born[-1].at_s else born[0]
        assert (note.host, note.process) == (instance.host, instance.process), "a former instance answered"
    assert any(note.what == "neighbour" for note in answers(cluster))
