"""Which cluster `init` connects to, and what two drivers of one cluster see of each other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import shoal
from shoal.foundation.errors import NoCluster

HOLD = """
import sys

import msgspec
import shoal
from shoal.runtime.client import api
from shoal.transport import discovery

shoal.init("local", num_cpus=2)
file = msgspec.structs.replace(api._embedded.file, name=sys.argv[1], kind="cluster")
discovery.write(file)
print(shoal.get_runtime_context().get_node_id(), flush=True)
sys.stdin.read()
discovery.remove(file.name, file.uid)
"""

SECOND_DRIVER = """
import sys

import shoal

shoal.init(sys.argv[1])


@shoal.remote(num_cpus=0)
class Thing:
    def ping(self):
        return "second"


try:
    shoal.get_actor("thing")
except ValueError:
    print("not seen")
mine = Thing.options(name="thing").remote()
print(shoal.get(mine.ping.remote()), shoal.get(shoal.get_actor("thing", namespace="shared").ping.remote()))
"""


@pytest.fixture(autouse=True)
def left_alone() -> Iterator[None]:
    yield
    shoal.shutdown()


@contextmanager
def cluster(name: str, folder: Path) -> Iterator[str]:
    """A live cluster of that name, of another process; yields its node's id."""
    script = folder / "hold.py"
    script.write_text(HOLD)
    command = [sys.executable, str(script), name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        node_id = process.stdout.readline().strip()
        assert node_id
        yield node_id
        process.communicate(timeout=30)
        assert process.returncode == 0


def node_after_init(address: str | None = None) -> str:
    with shoal.init(address) as context:
        return str(context["node_id"])


def test_init_finds_the_one_cluster_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as clusters:
        first = clusters.enter_context(cluster("first", tmp_path))
        assert node_after_init() == first
        assert node_after_init("auto") == first
        assert node_after_init("local") != first
        with pytest.raises(ValueError, match="labels: the cluster that is there has its own"):
            shoal.init("first", labels={"a": "b"})

        second = clusters.enter_context(cluster("second", tmp_path))
        for address in (None, "auto"):
            with pytest.raises(NoCluster, match="`first`, `second`"):
                shoal.init(address)
        assert node_after_init("second") == second
        monkeypatch.setenv("SHOAL_ADDRESS", "first")
        assert node_after_init() == first
        assert node_after_init("second") == second, "what the program says counts more"
        assert node_after_init("local") not in (first, second)

    monkeypatch.delenv("SHOAL_ADDRESS")
    assert node_after_init() not in (first, second), "they are gone: embedded"


def test_a_process_can_join_by_the_address_that_another_one_knows(tmp_path: Path) -> None:
    with cluster("first", tmp_path) as node_id:
        with shoal.init("first") as context:
            known = [context["address"], shoal.get_runtime_context().gcs_address]
        assert [node_after_init(address) for address in known] == [node_id, node_id]


def test_names_are_of_one_driver_unless_a_namespace_is_given(tmp_path: Path) -> None:
    script = tmp_path / "second.py"
    script.write_text(SECOND_DRIVER)

    @shoal.remote(num_cpus=0)
    class Thing:
        def ping(self) -> str:
            return "first"

    with cluster("first", tmp_path):
        shoal.init("first")
        kept = [Thing.options(name="thing").remote(), Thing.options(name="thing", namespace="shared").remote()]
        assert shoal.get([one.ping.remote() for one in kept], timeout=20) == ["first", "first"]

        ran = subprocess.run([sys.executable, str(script), "first"], capture_output=True, text=True, timeout=60)

        assert ran.stdout == "not seen\nsecond first\n", ran.stderr
        assert shoal.get(shoal.get_actor("thing").ping.remote(), timeout=20) == "first"
        del kept
        shoal.shutdown()
