"""Hosts that lose their power, and hosts that are cut off and come back, before and after they were given up.

Dead is who is silent for 4 s here, and the fence closes after 2.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from tests.hosts.conftest import Cluster, Host

IMPATIENT = {"dead_s": 4.0, "fence_s": 2.0}


def start(host: Host, program: str) -> subprocess.Popen[str]:
    """Start a driver and return once it has printed its first line."""
    driver = host.start(sys.executable, "-c", program)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "ready\n", driver.communicate(timeout=10)[1][-3000:]
    return driver


def said(driver: subprocess.Popen[str]) -> list[str]:
    out, error = driver.communicate(timeout=60)
    assert driver.returncode == 0, error[-3000:]
    return out.splitlines()


def test_what_a_host_without_power_held_is_made_again_or_said_to_be_lost(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(head_cpus=3, **IMPATIENT)
    node = cluster.join(cpus=8, resources='{"there": 3}')
    driver = start(
        cluster.head,
        """
import numpy as np, os, shoal, socket, time
from shoal.util.scheduling_strategies import NodeAffinitySchedulingStrategy
shoal.init()
there = next(one["NodeID"] for one in shoal.nodes() if "there" in one["Resources"])
there = NodeAffinitySchedulingStrategy(there, soft=True)
@shoal.remote(scheduling_strategy=there)
def make(n):
    open(f"/mnt/made-{n}-{socket.gethostname()}", "w").close()
    return np.full(500_000, n)
sole = make.options(max_retries=0, resources={"there": 1}).remote(9)
@shoal.remote(scheduling_strategy=there)
def nap(mark):
    open(f"/mnt/{mark}-{socket.gethostname()}", "w").close()
    time.sleep(1000 if os.path.exists("/mnt/on") else 0)
    return socket.gethostname()
@shoal.remote(resources={"there": 1})
class Keeper:
    def put(self):
        return [shoal.put(np.ones(500_000))]
def lies_there(mark):
    while not (found := [name for name in os.listdir("/mnt") if name.startswith(mark + "-")]):
        time.sleep(0.01)
    for name in found:
        os.unlink("/mnt/" + name)
    return not found[0].endswith(socket.gethostname())
def made_there(start, mark):
    # A busy node is only preferred: what went elsewhere is begun again.
    while True:
        ref = start()
        if lies_there(mark):
            return ref
        shoal.cancel(ref)
made = [made_there(lambda: make.remote(n), f"made-{n}") for n in range(3)]
shoal.wait([*made, sole], num_returns=4, timeout=20)
keeper = Keeper.remote()
owned = shoal.get(keeper.put.remote(), timeout=20)[0]
open("/mnt/on", "w").close()
napping = made_there(lambda: nap.remote("napping"), "napping")
once = nap.options(max_retries=0, resources={"there": 1}).remote("once")
assert lies_there("once")
print("ready", flush=True)
while os.path.exists("/mnt/on"):
    time.sleep(0.01)
def outcome(ref):
    try:
        return shoal.get(ref, timeout=30)
    except Exception as error:
        return type(error).__name__
began = time.monotonic()
try:
    shoal.get(made[0], timeout=0.5)
except shoal.exceptions.GetTimeoutError:
    print("nobody knows yet", time.monotonic() - began < 3)
print(*[int(outcome(ref)[0]) for ref in made])
print(outcome(napping), outcome(once))
try:
    shoal.get(sole, timeout=30)
except Exception as error:
    print(type(error).__name__, error)
print(outcome(owned), outcome(keeper.put.remote()))
""",
    )
    node.power_off()
    (cluster.network.exchange / "on").unlink()

    early, made, naps, sole, owned = said(driver)
    assert early == "nobody knows yet True"
    assert made == "0 1 2"
    assert naps == f"{cluster.head.name} NodeDiedError"
    assert sole.startswith("ObjectReconstructionFailedError")
    assert "max_retries" in sole
    assert owned == "OwnerDiedError ActorDiedError"


WORK = """
import os, shoal, socket, time
shoal.init()
@shoal.remote(resources={"part": 1}, max_restarts=1, max_task_retries=-1, num_cpus=0)
class Counter:
    def __init__(self):
        self.count = 0
    def add(self):
        self.count += 1
        return self.count, socket.gethostname()
@shoal.remote(max_retries=0, resources={"there": 1})
def once(seconds):
    open("/mnt/started", "w").close()
    time.sleep(seconds)
    return socket.gethostname()
def outcome(ref):
    try:
        return shoal.get(ref, timeout=40)
    except Exception as error:
        return type(error).__name__
counter = Counter.remote()
first = shoal.get(counter.add.remote(), timeout=20)
running = once.remote(SECONDS)
while not os.path.exists("/mnt/started"):
    time.sleep(0.01)
print("ready", flush=True)
time.sleep(SECONDS)
print(*first, *outcome(counter.add.remote()), outcome(running))
"""


def test_a_host_that_comes_back_in_time_has_lost_nothing(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(dead_s=15.0, fence_s=2.0)
    node = cluster.join(resources='{"part": 1, "there": 1}')
    driver = start(cluster.head, WORK.replace("SECONDS", "3"))

    node.cut()
    # Longer than the fence, so that the actor is stopped; then TCP takes a while to notice that it may go on.
    node.run("sleep", "2.8")
    stopped = [line for line in node.run("ps", "-eo", "stat,args").stdout.splitlines() if line.startswith("T")]
    node.heal()

    assert len(stopped) == 1, "the actor that could be restarted elsewhere is stopped"
    assert said(driver) == [f"1 {node.name} 2 {node.name} {node.name}"]


def test_a_host_that_was_given_up_comes_back_as_another_node(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(head_cpus=2, **IMPATIENT)
    node = cluster.join(resources='{"part": 1, "there": 1}')
    driver = start(
        cluster.head,
        WORK.replace("SECONDS", "6")
        + """
before = {one["NodeID"] for one in shoal.nodes() if not one["Alive"]}
after = outcome(once.remote(0))
print(len(before), after, sum(one["Alive"] for one in shoal.nodes()))
""",
    )
    node.cut()
    other = cluster.join(resources='{"part": 1}')
    node.run("sleep", "3")
    driver_said_after = cluster.head.run("sleep", "1.5")
    node.heal()

    assert driver_said_after.returncode == 0
    assert said(driver) == [f"1 {node.name} 1 {other.name} NodeDiedError", f"1 {node.name} 3"]


BROKEN = """
import itertools, shoal, socket, time
from shoal.runtime.client.core import here
shoal.init()
class Plain:
    def __init__(self):
        self.counts = itertools.count(1)
    def add(self, n):
        return next(self.counts), b"x" * 500
class Async(Plain):
    async def add(self, n):
        return next(self.counts), b"x" * 500
there = {"resources": {"there": 1}, "num_cpus": 0, "max_task_retries": 0}
def ways():
    return [one for one in here().peers.values() if one.is_lossy and not one.peer.startswith(b"agent:")]
print("ready", flush=True)
for kind, at_once in ((Plain, 1), (Plain, 4), (Async, 100)):
    actor = shoal.remote(max_concurrency=at_once, **there)(kind).remote()
    shoal.get(actor.add.remote(0), timeout=20)
    (link,) = ways()
    refs = []
    for n in range(1, 3000):
        refs.append(actor.add.remote(n))
        if n % 500 == 250:
            link._sock.shutdown(socket.SHUT_RDWR)
            until = time.monotonic() + 20
            while not (found := [one for one in ways() if one is not link]) and time.monotonic() < until:
                refs.append(actor.add.remote(n))
                time.sleep(0.01)
            link = found[0]
    counts = sorted(count for count, _ in shoal.get(refs, timeout=30))
    print(kind.__name__, counts == list(range(2, len(refs) + 2)), len(refs) > 2999)
    shoal.kill(actor)
    while ways():
        time.sleep(0.01)
"""


def test_calls_of_an_actor_run_once_and_are_answered_although_connections_break(
    make_cluster: Callable[..., Cluster],
) -> None:
    """What the buffers of a broken connection held is lost: calls are sent again and run once, answers are kept."""
    cluster = make_cluster()
    cluster.join(resources='{"there": 1}')
    driver = start(cluster.head, BROKEN)
    assert [line.split()[1:] for line in said(driver)] == [["True", "True"]] * 3
