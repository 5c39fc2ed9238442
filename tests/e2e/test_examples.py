"""Every example runs, by itself and on a live cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Cluster

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAMS = {
    "word_count.py": "400000 words in 40 texts",
    "parameter_server.py": "made from y = 3.00 x -1.00",
    "streaming_pipeline.py": "20 blocks",
    "executor_and_pool.py": "primes, the first [10007",
}


def run(name: str, address: str) -> str:
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        capture_output=True,
        text=True,
        timeout=90,
        env={**os.environ, "SHOAL_ADDRESS": address},
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_runs_by_itself(name: str) -> None:
    assert PROGRAMS[name] in run(name, "local")


def test_all_run_on_a_live_cluster(cluster: Cluster) -> None:
    for name, expected in PROGRAMS.items():
        assert expected in run(name, cluster.name)


def test_every_program_is_listed_and_tested() -> None:
    programs = {path.name for path in EXAMPLES.glob("*.py")}

    assert programs == {*PROGRAMS, "demo.py"}
    assert all(f"[{name}]({name})" in (EXAMPLES / "README.md").read_text() for name in programs)
