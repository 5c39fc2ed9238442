"""Drivers that are killed, and heads that are killed under load and started again by their guard."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.conftest import marked
from tests.faults.conftest import ByHand, eventually, said


def test_a_killed_driver_takes_its_work_along_and_leaves_what_is_detached(
    by_hand: Callable[..., ByHand],
) -> None:
    cluster = by_hand("--num-cpus", "3")
    driver = cluster.start(
        """
import shoal, time
shoal.init(namespace="shared")
@shoal.remote(num_cpus=0)
class Counter:
    def __init__(self):
        self.count = 0
    def add(self):
        self.count += 1
        return self.count
@shoal.remote
def nap():
    time.sleep(1000)
kept = Counter.options(name="kept", lifetime="detached").remote()
own = Counter.options(name="own").remote()
shoal.get([kept.add.remote(), own.add.remote()], timeout=20)
naps = [nap.remote() for _ in range(5)]
time.sleep(0.5)
print("ready", flush=True)
time.sleep(1000)
"""
    )
    driver.send_signal(signal.SIGKILL)
    eventually(lambda: sum(row["state"] == "ALIVE" for row in cluster.rows("actors")) == 1)

    lines = cluster.run(
        """
import shoal, time
shoal.init(namespace="shared")
print("ready")
print(shoal.get(shoal.get_actor("kept").add.remote(), timeout=20))
try:
    shoal.get_actor("own")
except ValueError:
    print("gone")
@shoal.remote(num_cpus=3)
def all_of_it():
    return "free again"
print(shoal.get(all_of_it.remote(), timeout=20))
shoal.kill(shoal.get_actor("kept"))
"""
    )
    assert lines == ["2", "gone", "free again"]


KEEPS = """
import numpy as np, shoal, sys, time
shoal.init()
@shoal.remote(resources={"there": 1})
def make(refs):
    return np.full(400_000, shoal.get(refs[0]).sum())
put = shoal.put(np.ones(400_000))
made = make.remote([put])
assert shoal.get(made, timeout=20)[0] == 400_000
print("ready", flush=True)
time.sleep(float(sys.argv[1]))
"""


def test_what_a_driver_owned_leaves_every_node_when_it_ends_or_is_killed(by_hand: Callable[..., ByHand]) -> None:
    cluster = by_hand("--num-cpus", "1")
    cluster.shoal("start", "--num-cpus", "1", "--resources", '{"there": 1}', "--object-store-memory", "64 MiB")
    for is_killed in (False, True):
        driver = cluster.start(KEEPS, "1000" if is_killed else "2")
        rows = cluster.rows("objects")
        assert len({row["object_id"] for row in rows}) == 2, rows
        if is_killed:
            driver.send_signal(signal.SIGKILL)
        driver.wait(30)
        eventually(lambda: not cluster.rows("objects"))


LOAD = """
import shoal, sys, os, time
from shoal.util import placement_group
place = sys.argv[1]
shoal.init(namespace="shared")
@shoal.remote(num_cpus=0.5, max_retries=0)
def work(n):
    with open(place, "a") as file:
        file.write(f"{n}\\n")
    time.sleep(0.02)
    return n
@shoal.remote(num_cpus=0)
class Counter:
    def __init__(self):
        self.count = 0
    def add(self):
        self.count += 1
        return self.count, os.getpid()
counter = Counter.options(name="counter", lifetime="detached").remote()
first = shoal.get(counter.add.remote(), timeout=20)
group = placement_group([{"CPU": 1}], name="group")
assert group.wait(20)
refs = [work.remote(n) for n in range(200)]
print("ready", flush=True)
calls = []
until = time.monotonic() + 4
more = 200
while time.monotonic() < until:
    calls.append(counter.add.remote())
    refs.append(work.remote(more))
    more += 1
    time.sleep(0.02)
assert sorted(shoal.get(refs, timeout=50)) == list(range(more))
counts = shoal.get(calls, timeout=20)
assert [count for count, _ in counts] == list(range(2, len(counts) + 2)), counts
assert {pid for _, pid in counts} == {first[1]}
@shoal.remote(num_cpus=1)
def inside():
    return "inside"
from shoal.util.scheduling_strategies import PlacementGroupSchedulingStrategy
strategy = PlacementGroupSchedulingStrategy(group)
print(shoal.get(inside.options(scheduling_strategy=strategy).remote(), timeout=20))
print(shoal.get(shoal.get_actor("counter").add.remote(), timeout=20)[0] == len(counts) + 2)
late = Counter.options(name="late").remote()
print(shoal.get(late.add.remote(), timeout=20)[0])
shoal.kill(counter)
"""


def test_a_head_killed_under_load_costs_nothing(by_hand: Callable[..., ByHand], tmp_path: Path) -> None:
    cluster = by_hand("--num-cpus", "3", "--node-dead-after", "4", "--fence-after", "3")
    done = tmp_path / "done"
    first = cluster.pid_of("head")
    driver = cluster.start(LOAD, str(done))
    nodes = {row["node_id"] for row in cluster.rows("nodes")}

    cluster.kill("head")
    second = eventually(lambda: (pid := cluster.pid_of("head")) != first and pid)
    eventually(lambda: done.exists() and len(done.read_text().splitlines()) > 100)
    cluster.kill("head")
    eventually(lambda: cluster.pid_of("head") != second)

    assert said(driver) == ["inside", "True", "1"]
    assert max(Counter(done.read_text().splitlines()).values()) == 1, "with max_retries=0 nothing runs twice"
    assert {row["node_id"] for row in cluster.rows("nodes")} == nodes, "the agent has joined again as itself"


def test_a_killed_agent_is_another_node_and_its_work_is_done_again(
    by_hand: Callable[..., ByHand], own_places: Path, tmp_path: Path
) -> None:
    cluster = by_hand("--num-cpus", "1")
    cluster.shoal("start", "--num-cpus", "8", "--resources", '{"there": 2}', "--object-store-memory", "64 MiB")
    driver = cluster.start(
        """
import numpy as np, os, shoal, sys, time
place = sys.argv[1]
shoal.init()
@shoal.remote(resources={"there": 1})
def make(n):
    return np.full(400_000, n)
@shoal.remote(resources={"there": 1})
def nap(seconds, mark):
    open(os.path.join(place, mark), "w").close()
    time.sleep(seconds)
    return "woke"
@shoal.remote(resources={"there": 0.1}, max_restarts=1)
class Reborn:
    def born(self):
        return os.getpid()
@shoal.remote(resources={"there": 0.1})
class Mortal:
    def keep(self):
        return [shoal.put(np.zeros(400_000))]
    def born(self):
        return os.getpid()
sole = make.remote(7)
shoal.wait([sole], timeout=20)
reborn, mortal = Reborn.remote(), Mortal.remote()
born = shoal.get(reborn.born.remote(), timeout=20)
owned = shoal.get(mortal.keep.remote(), timeout=20)[0]
running = nap.remote(1.5, "running")
once = nap.options(max_retries=0, resources={"there": 0.5}).remote(1000, "once")
with open(os.path.join(place, "owner"), "w") as file:
    file.write(str(shoal.get(mortal.born.remote(), timeout=20)))
while len(os.listdir(place)) < 3:
    time.sleep(0.01)
print("ready", flush=True)
while not os.path.exists(os.path.join(place, "killed")):
    time.sleep(0.01)
def outcome(ref):
    try:
        return shoal.get(ref, timeout=30)
    except Exception as error:
        return type(error).__name__
print(outcome(owned), outcome(mortal.keep.remote()), outcome(once))
print(outcome(running), int(outcome(sole)[0]))
while True:
    again = outcome(reborn.born.remote())
    if isinstance(again, int) and again != born:
        break
    assert again in (born, "ActorUnavailableError"), again
print("reborn")
""",
        str(tmp_path),
    )
    agents = [pid for pid in marked(own_places) if b"agent" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
    (agent,) = set(agents) - {cluster.pid_of("agent")}
    os.kill(agent, signal.SIGKILL)
    # Its workers see that it is gone and end. As long as one lives it may answer, as may anybody without a verdict.
    owner = int((tmp_path / "owner").read_text())
    eventually(lambda: owner not in marked(own_places))
    (tmp_path / "killed").touch()

    assert said(driver) == ["OwnerDiedError ActorDiedError NodeDiedError", "woke 7", "reborn"]


FOLLOW = """
import shoal, sys, time
from shoal.util.placement_group import placement_group
shoal.init()
@shoal.remote(resources={"there": 1})
class Late:
    def name(self):
        return "late"
@shoal.remote(num_cpus=0)
def ask(late, mark):
    name = late.name.remote()
    open(mark, "w").close()
    return shoal.get(name, timeout=50)
group = placement_group([{"there": 1}])
ready = group.ready()
asked = ask.remote(Late.remote(), sys.argv[1])
print("ready", flush=True)
shoal.get(ready, timeout=50)
print(shoal.get(asked, timeout=50))
"""


def test_who_follows_what_still_hears_of_it_after_the_head_was_killed(
    by_hand: Callable[..., ByHand], tmp_path: Path
) -> None:
    """A group that a driver waits for, and an actor whose handle was passed on: neither is followed by its creator."""
    cluster = by_hand("--num-cpus", "1")
    driver = cluster.start(FOLLOW, str(tmp_path / "asked"))
    eventually((tmp_path / "asked").exists)
    first = cluster.pid_of("head")

    cluster.kill("head")
    eventually(lambda: cluster.pid_of("head") != first)
    cluster.shoal("start", "--num-cpus", "1", "--resources", '{"there": 2}', "--object-store-memory", "64 MiB")

    assert said(driver) == ["late"]


GREEDY = """
import shoal, sys, time
shoal.init()
@shoal.remote
def nap(seconds):
    time.sleep(seconds)
    return seconds
long = nap.remote(1000)
refs = [nap.remote(0.02) for _ in range(400)]
shoal.wait(refs, num_returns=20, timeout=30)
print("ready", flush=True)
sys.stdin.readline()
print(len(shoal.get(refs, timeout=50)))
shoal.cancel(long, force=True)
"""

MODEST = """
import shoal, time
shoal.init()
@shoal.remote
def own():
    time.sleep(0.02)
    return 1
refs = [own.remote() for _ in range(50)]
shoal.get(refs[0], timeout=50)
print("ready", flush=True)
print(sum(shoal.get(refs, timeout=50)))
"""


def test_a_driver_has_its_share_beside_one_with_endless_work_also_while_that_is_stopped(
    by_hand: Callable[..., ByHand],
) -> None:
    cluster = by_hand("--num-cpus", "2")
    greedy = cluster.start(GREEDY, stdin=subprocess.PIPE)

    assert cluster.run(MODEST) == ["50"], "leases of short tasks are asked back, though one of a long task was, too"
    modest = cluster.start(MODEST)
    greedy.send_signal(signal.SIGSTOP)
    assert said(modest) == ["50"], "it goes on with what it has"
    time.sleep(3)
    greedy.send_signal(signal.SIGCONT)
    assert greedy.stdin is not None
    greedy.stdin.write("\n")
    greedy.stdin.flush()
    assert said(greedy) == ["400"]
