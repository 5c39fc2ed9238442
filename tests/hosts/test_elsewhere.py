"""A driver on a host that can reach one port of the head's machine and nothing else, and that nobody can dial."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from tests.hosts.authority import Authority
from tests.hosts.conftest import DRIVER_PORT, Cluster, Host, Network

PROGRAM = """
import numpy as np, os, psutil, shoal, socket, sys, time

shoal.init(sys.argv[1])

@shoal.remote
def square(n):
    return n * n

@shoal.remote(resources={"there": 0.1})
def host():
    return socket.gethostname()

@shoal.remote(resources={"there": 0.1})
def make(count):
    return np.arange(count)

@shoal.remote(resources={"there": 0.1})
def total(array):
    return int(array.sum())

@shoal.remote(num_cpus=0, resources={"there": 0.1})
class Keeper:
    def keep(self, refs):
        self.refs = refs
        return socket.gethostname()
    def total(self):
        return int(shoal.get(self.refs[0]).sum())

@shoal.remote(num_returns="streaming", resources={"there": 0.1})
def count(upto):
    yield from range(upto)

@shoal.remote
def sleep(seconds):
    time.sleep(seconds)

assert shoal.get([square.remote(n) for n in range(300)], timeout=60) == [n * n for n in range(300)]
there = shoal.get(host.remote(), timeout=60)
array = np.arange(4_000_000)
here = shoal.put(array)
assert shoal.get(total.remote(here), timeout=60) == int(array.sum())
assert np.array_equal(shoal.get(make.remote(4_000_000), timeout=60), array)
keeper = Keeper.options(name="keeper").remote()
assert shoal.get(keeper.keep.remote([here]), timeout=60) == there
del here
assert shoal.get(shoal.get_actor("keeper").total.remote(), timeout=60) == int(array.sum())
assert [shoal.get(ref) for ref in count.remote(50)] == list(range(50))
long = sleep.remote(100)
ready, rest = shoal.wait([long, square.remote(2)], timeout=30)
assert rest == [long]
shoal.cancel(long)
try:
    shoal.get(long, timeout=30)
    raise AssertionError("not cancelled")
except shoal.exceptions.TaskCancelledError:
    pass
sockets = [fd for fd in os.listdir("/proc/self/fd") if "socket:" in os.path.realpath(f"/proc/self/fd/{fd}")]
tcp = [one for one in psutil.Process().net_connections("inet")]
print(there, len(sockets), *(f"{one.status}:{one.raddr.port}" for one in tcp))
"""


def driver_of(cluster: Cluster, network: Network) -> Host:
    """Return a host that reaches the drivers' port of the head and nothing else; checked."""
    host = network.host()
    host.only_reach(cluster.head.address, DRIVER_PORT)
    probe = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 1).close()"
    assert host.run(sys.executable, "-c", probe, cluster.head.address, str(DRIVER_PORT), check=False).returncode == 0
    assert host.run(sys.executable, "-c", probe, cluster.head.address, "6400", check=False).returncode != 0
    listening = host.start(
        sys.executable,
        "-c",
        "import socket, time; s = socket.create_server(('0.0.0.0', 7000)); print('on', flush=True); time.sleep(600)",
    )
    assert listening.stdout is not None
    listening.stdout.readline()
    assert cluster.head.run(sys.executable, "-c", probe, host.address, "7000", check=False).returncode != 0
    return host


def run_there(host: Host, cluster: Cluster, program: str, *environment: str) -> str:
    address = f"{cluster.head.address}:{DRIVER_PORT}"
    secret = "SHOAL_SECRET_FILE=/mnt/driver.secret"
    return host.run("env", secret, *environment, sys.executable, "-c", program, address, limit_s=120).stdout


def test_everything_through_one_port(make_cluster: Callable[..., Cluster], network: Network) -> None:
    cluster = make_cluster()
    node = cluster.join(resources='{"there": 1}')
    host = driver_of(cluster, network)

    assert run_there(host, cluster, PROGRAM).split() == [node.name, "1", f"ESTABLISHED:{DRIVER_PORT}"]


def test_everything_through_one_port_over_tls(make_cluster: Callable[..., Cluster], network: Network) -> None:
    authority = Authority(network.exchange)
    for number in (1, 2, 3):
        authority.sign(network.address(number))
    cluster = make_cluster(is_encrypted=True)
    node = cluster.join(resources='{"there": 1}')
    host = driver_of(cluster, network)
    own = f"/mnt/{host.address}"
    files = [f"SHOAL_TLS_CERT={own}.pem", f"SHOAL_TLS_KEY={own}.key", "SHOAL_TLS_CA=/mnt/ca.pem"]

    said = run_there(host, cluster, PROGRAM, *files)
    assert said.split() == [node.name, "1", f"ESTABLISHED:{DRIVER_PORT}"]


LONG = """
import os, shoal, sys, time
shoal.init(sys.argv[1])
@shoal.remote
class Actor:
    def pid(self):
        return os.getpid()
actor = Actor.remote()
print(shoal.get(actor.pid.remote(), timeout=30), flush=True)
time.sleep(600)
"""


def test_the_work_of_a_driver_whose_host_lost_power_ends(
    make_cluster: Callable[..., Cluster], network: Network
) -> None:
    cluster = make_cluster(driver_dead_s=4.0)
    host = network.host()
    # The head's own port shows the way to where drivers are served.
    command = ["env", "SHOAL_SECRET_FILE=/mnt/driver.secret", sys.executable, "-c", LONG, cluster.address]
    driver = host.start(*command)
    assert driver.stdout is not None
    pid = int(driver.stdout.readline())
    cluster.head.run("kill", "-0", str(pid))

    host.power_off()
    deadline_s = time.monotonic() + 30
    while cluster.head.run("kill", "-0", str(pid), check=False).returncode == 0:
        assert time.monotonic() < deadline_s, "the actor of the lost driver lives on"
        time.sleep(0.1)
    rows = cluster.head.shoal("list", "jobs", "--format", "json").stdout
    assert "RUNNING" not in rows
