"""Work and objects between hosts that share nothing but a network."""

from __future__ import annotations

import sys
from collections.abc import Callable

from tests.hosts.conftest import Cluster

SPREAD = """
import shoal, socket, time
shoal.init()
@shoal.remote
def where(number):
    time.sleep(0.4)
    return socket.gethostname()
print(*sorted(set(shoal.get([where.remote(n) for n in range(8)], timeout=40))))
"""


def test_tasks_run_on_both_hosts(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster()
    node = cluster.join()

    assert cluster.head.python(SPREAD).split() == sorted([cluster.head.name, node.name])


def test_a_large_result_crosses_the_wire_once(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster()
    node = cluster.join(resources='{"there": 1}')
    before = node.bytes_sent()

    printed = cluster.head.python(
        """
import numpy as np, shoal
shoal.init()
@shoal.remote(resources={"there": 0.1})
def make():
    return np.arange(8_000_000)
ref = make.remote()
first, second = shoal.get(ref, timeout=30), shoal.get(ref, timeout=30)
print(first.nbytes, int(first.sum()), first is second, first.flags.writeable)
"""
    )

    assert printed.split() == ["64000000", str(sum(range(8_000_000))), "False", "False"]
    assert 64_000_000 <= node.bytes_sent() - before < 1.2 * 64_000_000


def test_a_large_argument_goes_to_where_the_task_runs(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster()
    node = cluster.join(resources='{"there": 1}')
    before = cluster.head.bytes_sent()

    printed = cluster.head.python(
        """
import numpy as np, shoal, socket
shoal.init()
@shoal.remote(resources={"there": 0.1})
def total(array):
    return int(array.sum()), socket.gethostname()
ref = shoal.put(np.ones(4_000_000))
print(*shoal.get(total.remote(ref), timeout=30), *shoal.get(total.remote(ref), timeout=30))
"""
    )

    assert printed.split() == ["4000000", node.name] * 2
    assert 32_000_000 <= cluster.head.bytes_sent() - before < 1.2 * 32_000_000


def test_an_actor_on_another_host_is_called_and_holds_its_state(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster()
    node = cluster.join(resources='{"there": 1}')

    printed = cluster.head.python(
        """
import shoal, socket
shoal.init()
@shoal.remote(resources={"there": 0.1})
class Counter:
    def __init__(self):
        self.count = 0
    def add(self):
        self.count += 1
        return self.count
    def host(self):
        return socket.gethostname()
counter = Counter.remote()
print(*shoal.get([counter.add.remote() for _ in range(100)], timeout=30)[-1:], shoal.get(counter.host.remote()))
"""
    )

    assert printed.split() == ["100", node.name]


def test_the_work_of_a_killed_host_is_done_again_elsewhere(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(head_cpus=2)
    node = cluster.join()
    driver = cluster.head.start(
        sys.executable,
        "-c",
        """
import shoal, socket, time
shoal.init()
@shoal.remote
def nap(number):
    time.sleep(1)
    return number
refs = [nap.remote(n) for n in range(8)]
print("started", flush=True)
print(sorted(shoal.get(refs, timeout=90)))
""",
    )
    assert driver.stdout is not None
    driver.stdout.readline()
    node.run("sh", "-c", "sleep 1; kill -9 $(pgrep -f '[s]hoal.assembly')")
    out, error = driver.communicate(timeout=100)

    assert driver.returncode == 0, error[-2000:]
    assert out.strip() == str(list(range(8)))
