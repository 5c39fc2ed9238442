"""Two hosts that speak TLS to each other: the same work, the same bytes, and nobody without a certificate."""

from __future__ import annotations

from collections.abc import Callable

from tests.hosts.authority import Authority
from tests.hosts.conftest import Cluster, Network


def test_work_objects_and_actors_over_tls(make_cluster: Callable[..., Cluster], network: Network) -> None:
    authority = Authority(network.exchange)
    for number in (1, 2, 3):
        authority.sign(network.address(number))
    cluster = make_cluster(is_encrypted=True)
    node = cluster.join(resources='{"there": 1}')
    before = node.bytes_sent()

    printed = cluster.head.python(
        """
import numpy as np, shoal, socket
shoal.init()
@shoal.remote(resources={"there": 0.1})
def make():
    return np.arange(4_000_000)
@shoal.remote(resources={"there": 0.1}, num_cpus=0)
class Keeper:
    def total(self, array):
        return int(array.sum()), socket.gethostname()
made = make.remote()
here = shoal.put(np.ones(1_000_000))
print(int(shoal.get(made, timeout=30).sum()), *shoal.get(Keeper.remote().total.remote(here), timeout=30))
"""
    )
    assert printed.split() == [str(sum(range(4_000_000))), "1000000", node.name]
    assert 32_000_000 <= node.bytes_sent() - before < 1.2 * 32_000_000

    said = node.python(
        """
import ssl, sys
from pathlib import Path
from shoal.foundation.errors import ShoalError
from shoal.transport import address, blocking, discovery, tls
secret = discovery.load_credential(Path("/mnt/node.secret"))
head, own = address.parse(sys.argv[1]), f"/mnt/{sys.argv[2]}"
without = ssl.create_default_context(cafile="/mnt/ca.pem")
for context in (None, without, tls.TlsFiles(f"{own}.pem", f"{own}.key", "/mnt/ca.pem").dialling()):
    try:
        blocking.dial(head, context, secret).close()
        print("welcome")
    except (OSError, ShoalError):
        print("refused")
""",
        cluster.address,
        node.address,
    )
    assert said.split() == ["refused", "refused", "welcome"], "the secret alone is not enough"


def test_work_for_a_node_with_anothers_certificate_ends_at_once_with_the_reason(
    make_cluster: Callable[..., Cluster], network: Network
) -> None:
    authority = Authority(network.exchange)
    for number in (1, 2, 3):
        authority.sign(network.address(number))
    for kind in ("pem", "key"):  # the second host shows the third one's
        (network.exchange / f"{network.address(3)}.{kind}").replace(network.exchange / f"{network.address(2)}.{kind}")
    cluster = make_cluster(is_encrypted=True)
    node = cluster.join(resources='{"there": 1}')

    printed = cluster.head.python(
        """
import shoal, time
shoal.init()
@shoal.remote(resources={"there": 0.1})
def there():
    return 1
@shoal.remote
def here():
    return 2
refs = [there.remote() for _ in range(3)]
for ref in refs:
    try:
        print(shoal.get(ref, timeout=20))
    except shoal.exceptions.ShoalError as error:
        print(type(error).__name__, error)
print(shoal.get(here.remote(), timeout=20))
@shoal.remote(resources={"there": 0.1}, num_cpus=0)
class Keeper:
    def call(self):
        return 3
keeper = Keeper.remote()
for _ in range(2):
    try:
        print(shoal.get(keeper.call.remote(), timeout=20))
    except shoal.exceptions.ShoalError as error:
        print(type(error).__name__, error)
"""
    )
    *failed, last, first_call, second_call = printed.splitlines()
    assert len(failed) == 3
    for line in failed:
        assert line.startswith("TaskUnschedulableError")
        assert "its certificate does not hold: IP address mismatch" in line
        assert node.address in line
    assert last == "2"
    for line in (first_call, second_call):
        assert line.startswith("ActorUnavailableError")
        assert "its certificate does not hold: IP address mismatch" in line
