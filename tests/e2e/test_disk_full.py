"""The disk under journal and ledger is full: running work goes on, it is said, and all goes well once there is room."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Cluster, until

QUICK = """
import shoal
shoal.init()
@shoal.remote
def double(number):
    return 2 * number
print(shoal.get([double.remote(n) for n in range(20)], timeout=30)[-1])
"""
WIDE = """
import shoal, time
shoal.init()
@shoal.remote(num_cpus=2)
def nap():
    time.sleep(0.5)
    return 1
print(sum(shoal.get([nap.remote() for _ in range(2)], timeout=60)))
"""


@pytest.fixture
def small_disk(own_places: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a file system of 32 MiB that holds the state of every cluster of this test."""
    if os.geteuid() != 0:
        if os.environ.get("CI"):
            pytest.fail("in CI nothing is skipped: needs root, to mount a small disk")
        pytest.skip("needs root, to mount a small disk")
    place = own_places / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m,mode=700", "tmpfs", str(place)], check=True)
    monkeypatch.setenv("SHOAL_STATE_DIR", str(place))
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path) -> Path:
    """Take every byte that is left."""
    path = place / "filler"
    with path.open("wb") as file, contextlib.suppress(OSError):
        while True:
            os.write(file.fileno(), b"x" * 4096)
    return path


def test_work_goes_on_while_the_disk_is_full_and_everything_does_afterwards(
    small_disk: Path, make_cluster: Callable[..., Cluster]
) -> None:
    cluster = make_cluster()
    cluster.up()
    assert cluster.run(QUICK).strip() == "38"

    filler = fill(small_disk)
    assert cluster.run(QUICK).strip() == "38"
    waiting = cluster.start(WIDE)
    said = until(
        lambda: (lambda found: found["is_read_only"] or found["autoscaler"]["waiting_for"])(cluster.status()),
        what="somebody says why nothing is bought",
    )
    assert said is True or "disk" in said or "full" in said or "ledger" in said

    filler.unlink()
    out, error = waiting.communicate(timeout=70)
    assert out.strip() == "2", error[-2000:]
    until(lambda: cluster.nodes(state="ALIVE", is_head_node=False) == [], what="idle nodes go")


def test_down_works_on_a_full_disk(small_disk: Path, make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster()
    cluster.up()
    fill(small_disk)

    assert "is down, nothing left" in cluster.down()
