"""Hosts: namespaces with their own network, mounts, processes, host name, /dev/shm and /tmp, on one bridge.

Needs root. Elsewhere the tests are skipped and say so; in CI nothing is skipped.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DRIVER_PORT = 6401
NETWORK = "10.77.{}.{}"
NETWORK_ALL = "10.77.0.0/16"
_numbers = itertools.count(1)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Host:
    """One host. `run` executes a command there and waits; `start` leaves it running until the host ends."""

    def __init__(self, network: Network, number: int) -> None:
        self.network, self.number = network, number
        self.name = f"{network.name}h{number}"
        self.address = network.address(number)
        self.exchange = network.exchange
        self._started: list[subprocess.Popen[str]] = []
        self.is_off = False
        inside, outside = f"{self.name}i", f"{self.name}o"
        _ip("netns", "add", self.name)
        _ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", self.name)
        _ip("link", "set", outside, "master", network.bridge, "up")
        _ip("-n", self.name, "addr", "add", f"{self.address}/24", "dev", inside)
        _ip("-n", self.name, "link", "set", inside, "up")
        _ip("-n", self.name, "link", "set", "lo", "up")
        self.outside = outside
        # The host's first process keeps its namespaces; everything else enters them.
        apart = ["unshare", "--mount", "--pid", "--fork", "--uts", "--ipc", "--mount-proc"]
        self._init = subprocess.Popen(
            ["ip", "netns", "exec", self.name, *apart, "sh", "-c", self._boot()],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._init.stdout is not None
        assert self._init.stdout.readline().strip() == "up"
        self._pid = _only_child(self._init.pid)

    def _boot(self) -> str:
        return "; ".join(
            [
                f"mount --bind {self.exchange} /mnt",
                "mount -t tmpfs -o size=512m tmpfs /dev/shm",
                *_own_tmp(),
                f"hostname {self.name}",
                "echo up",
                "while :; do sleep 1000 & wait; done",
            ]
        )

    def _inside_of(self, command: list[str]) -> list[str]:
        where = ["nsenter", "-t", str(self._pid), "--mount", "--pid", "--uts", "--ipc", "--net", "--wd=/tmp", "--"]
        places = {
            "HOME": "/tmp",
            "SHOAL_RUNTIME_DIR": "/tmp",
            "SHOAL_STATE_DIR": "/tmp/state",
            "SHOAL_SHM_DIR": "/dev/shm",
        }
        return [*where, "env", *(f"{name}={value}" for name, value in places.items()), *command]

    def run(self, *command: str, limit_s: float = 60, check: bool = True) -> subprocess.CompletedProcess[str]:
        ran = subprocess.run(self._inside_of(list(command)), capture_output=True, text=True, timeout=limit_s)
        assert not check or ran.returncode == 0, f"{command}: {ran.stdout}\n{ran.stderr[-3000:]}"
        return ran

    def only_reach(self, address: str, port: int) -> None:
        """From now on the host may open connections to this port only, and nobody can open one to the host."""
        rules = [f"pref 10 to {address} ipproto tcp dport {port} lookup main", f"pref 20 to {NETWORK_ALL} blackhole"]
        for rule in rules:  # nothing else leaves, answers to others' connections included
            _ip("-n", self.name, "rule", "add", *rule.split())

    def start(self, *command: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self._inside_of(list(command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._started.append(process)
        return process

    def shoal(self, *words: str, limit_s: float = 60, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "shoal", *words, limit_s=limit_s, check=check)

    def python(self, program: str, *arguments: str, limit_s: float = 60) -> str:
        return self.run(sys.executable, "-c", program, *arguments, limit_s=limit_s).stdout

    def cut(self) -> None:
        """Take the host off the network."""
        _ip("link", "set", self.outside, "down")

    def heal(self) -> None:
        _ip("link", "set", self.outside, "up")

    def power_off(self) -> None:
        """End everything there at once, and say goodbye to nobody."""
        self.cut()
        os.kill(self._pid, signal.SIGKILL)  # the first process of a PID namespace takes all others with it
        self._init.wait(10)
        self.is_off = True

    def bytes_sent(self) -> int:
        """Return how many bytes have left this host over its network card."""
        # Read at the bridge's end of the cable: the host's own /sys shows the network it was mounted in.
        return int(Path(f"/sys/class/net/{self.outside}/statistics/rx_bytes").read_text())

    def segments(self) -> list[str]:
        return self.run("ls", "/dev/shm").stdout.split()

    def processes(self) -> list[str]:
        """Return the command lines of what runs there beside the host's own first processes."""
        shown = self.run("ps", "-eo", "pid,stat,args").stdout.splitlines()[1:]
        return [line for line in shown if "python" in line and " Z" not in line]

    def end(self) -> None:
        if not self.is_off:
            self.power_off()
        self._init.stdout.close() if self._init.stdout else None
        for process in self._started:
            process.communicate(timeout=10)
        _ip("netns", "del", self.name)


class Network:
    """One bridge, and the hosts on it."""

    def __init__(self) -> None:
        number = next(_numbers)
        self.name = f"s{os.getpid() % 10_000}{number}"
        self.third = (os.getpid() * 7 + number) % 250 + 1
        self.bridge = f"{self.name}b"
        self.exchange = Path(tempfile.mkdtemp(prefix="shoal-exchange-", dir="/var/tmp"))
        self.hosts: list[Host] = []
        _ip("link", "add", self.bridge, "type", "bridge")
        _ip("link", "set", self.bridge, "up")

    def address(self, number: int) -> str:
        """Return the address that the host of this number has or will have."""
        return NETWORK.format(self.third, number)

    def host(self) -> Host:
        self.hosts.append(Host(self, len(self.hosts) + 1))
        return self.hosts[-1]

    def end(self) -> None:
        for host in self.hosts:
            host.end()
        _ip("link", "del", self.bridge)
        shutil.rmtree(self.exchange)


class Cluster:
    """A head on one host, nodes on the others; `driver` programs run on the head's host."""

    def __init__(
        self,
        network: Network,
        *,
        head_cpus: int = 1,
        dead_s: float = 40.0,
        fence_s: float = 25.0,
        driver_dead_s: float = 30.0,
        is_encrypted: bool = False,
    ) -> None:
        self._is_encrypted = is_encrypted
        self.network = network
        self.head = network.host()
        self.address = f"{self.head.address}:6400"
        self.head.shoal("start", "--head", "--host", self.head.address, "--port", "6400", "--num-cpus", str(head_cpus),
                        "--object-store-memory", "256 MiB", "--node-dead-after", str(dead_s),
                        "--fence-after", str(fence_s), "--driver-port", str(DRIVER_PORT),
                        "--driver-dead-after", str(driver_dead_s), *self._tls(self.head))  # fmt: skip
        self.head.run("sh", "-c", "cp /tmp/shoal-*/*/node.secret /tmp/shoal-*/*/driver.secret /mnt/")
        self.nodes: list[Host] = []

    def join(self, *, cpus: int = 2, resources: str = "{}", more: tuple[str, ...] = ()) -> Host:
        node = self.network.host()
        node.shoal("start", "--address", self.address, "--secret-file", "/mnt/node.secret", "--num-cpus", str(cpus),
                   "--object-store-memory", "256 MiB", "--resources", resources, *self._tls(node), *more)  # fmt: skip
        self.nodes.append(node)
        return node

    def _tls(self, host: Host) -> list[str]:
        own = f"/mnt/{host.address}"
        given = ["--tls-cert", f"{own}.pem", "--tls-key", f"{own}.key", "--tls-ca", "/mnt/ca.pem"]
        return given if self._is_encrypted else []

    def end(self) -> None:
        """Stop everything in order and check on every host that nothing stays."""
        hosts = [host for host in (*self.nodes, self.head) if not host.is_off]
        for host in hosts:
            host.shoal("stop", "--all")
        for host in hosts:
            assert host.segments() == []
            assert host.processes() == []


def _own_tmp() -> list[str]:
    """Return the commands that give a host its own /tmp, in which what we run from stays where it is."""
    kept = sorted({str(ROOT), sys.prefix})
    kept = [path for path in kept if path.startswith("/tmp/") and not any(path.startswith(f"{up}/") for up in kept)]
    aside = [f"mkdir -p /mnt/kept{n}; mount --bind {path} /mnt/kept{n}" for n, path in enumerate(kept)]
    back = [f"mkdir -p {path}; mount --bind /mnt/kept{n} {path}; umount /mnt/kept{n}" for n, path in enumerate(kept)]
    return [*aside, "mount -t tmpfs tmpfs /tmp", *back]


def _only_child(pid: int) -> int:
    deadline_s = time.monotonic() + 5
    while time.monotonic() < deadline_s:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if children:
            return int(children[0])
        time.sleep(0.01)
    raise AssertionError("the host did not start")


def _why_not() -> str:
    if os.geteuid() != 0:
        return "needs root, for namespaces"
    missing = [tool for tool in ("ip", "unshare", "nsenter") if shutil.which(tool) is None]
    return f"needs {', '.join(missing)}" if missing else ""


@pytest.fixture
def network() -> Iterator[Network]:
    """Return a network to put hosts on; it is taken apart afterwards, whatever happened."""
    why = _why_not()
    if why:
        if os.environ.get("CI"):
            pytest.fail(f"in CI nothing is skipped: {why}")
        pytest.skip(why)
    made = Network()
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def make_cluster(network: Network) -> Iterator[Callable[..., Cluster]]:
    """Return a maker of one cluster, which is stopped in order and must leave nothing."""
    made: list[Cluster] = []

    def make(**options: float) -> Cluster:
        made.append(Cluster(network, **options))  # type: ignore[arg-type]
        return made[0]

    yield make
    for cluster in made:
        cluster.end()
