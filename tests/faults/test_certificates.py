"""A certificate that does not name its node: who reads a value from there is told so, and does not wait for ever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.faults.conftest import ByHand
from tests.hosts.authority import Authority

HEAD = "127.0.0.2"  # a node that is told no address listens on 127.0.0.1

DRIVER = """
import numpy, pickle, shoal
shoal.init()
print("ready", flush=True)

@shoal.remote(resources={"there": 1}, max_retries=0)
def make():
    return numpy.ones(1_000_000)

made = make.remote()
print(len(shoal.wait([made], timeout=30, fetch_local=False)[0]))
try:
    print(shoal.get(made, timeout=40).sum())
except shoal.exceptions.ObjectLostError as error:
    print(type(error).__name__)
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

    made, error, reason = cluster.run(DRIVER)

    assert made == "1", "the task itself ran"
    assert error == "ObjectReconstructionFailedError"
    assert "the task that made it has `max_retries=0`" in reason
    assert "its certificate does not hold: IP address mismatch, certificate is not valid for '127.0.0.1'" in reason
