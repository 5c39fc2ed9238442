"""A certificate that does not name its node: who reads a value from there is told at once; nothing is made again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.faults.conftest import ByHand
from tests.hosts.authority import Authority

HEAD = "127.0.0.2"  # a node that is told no address listens on 127.0.0.1

DRIVER = """
import numpy, pickle, shoal, shoal.util.scheduling_strategies, sys
shoal.init()
print("ready", flush=True)

@shoal.remote(resources={"there": 1}, max_retries=3)
def make(path):
    with open(path, "a") as out:
        out.write("made\\n")
    return numpy.ones(1_000_000)

home = shoal.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
    shoal.get_runtime_context().get_node_id(), soft=False)

@shoal.remote(max_retries=3, scheduling_strategy=home)
def total(array):
    return array.sum()

made = make.remote(sys.argv[1])
print(len(shoal.wait([made], timeout=30, fetch_local=False)[0]))
for read in (lambda: shoal.get(made, timeout=20), lambda: shoal.get(total.remote(made), timeout=20)):
    try:
        print(read())
    except shoal.exceptions.ShoalError as error:
        error = getattr(error, "cause", None) or error
        print(type(error).__name__, error.reason)
        print(pickle.loads(pickle.dumps(error)))
"""


def test_a_value_on_a_node_with_anothers_certificate_is_lost_with_the_reason(
    by_hand: Callable[..., ByHand], tmp_path: Path
) -> None:
    Authority(tmp_path).sign(HEAD)
    own = tmp_path / HEAD
    encrypted = ["--tls-cert", f"{own}.pem", "--tls-key", f"{own}.key", "--tls-ca", str(tmp_path / "ca.pem")]
    cluster = by_hand("--host", HEAD, "--num-cpus", "1", *encrypted)
    cluster.shoal("start", "--num-cpus", "1", "--object-store-memory", "64 MiB", "--resources", '{"there": 1}',
                  *encrypted)  # fmt: skip

    made, *said = cluster.run(DRIVER, str(tmp_path / "runs"))

    assert made == "1", "the task itself ran"
    for error, reason in (said[:2], said[2:]):  # read by the driver, and by a task at home
        assert error == "ObjectLostError untrusted"
        assert "its certificate does not hold: IP address mismatch, certificate is not valid for '127.0.0.1'" in reason
    assert (tmp_path / "runs").read_text() == "made\n", "making it again would change nothing"
