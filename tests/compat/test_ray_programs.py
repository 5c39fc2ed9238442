"""Whole Ray programs, run on Shoal: `programs/NAME.py` must print `programs/NAME.txt`. They run on Ray as well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "programs"


@pytest.mark.parametrize("name", sorted(path.stem for path in PROGRAMS.glob("*.py")))
def test_program_prints_what_it_should(name: str) -> None:
    command = [sys.executable, "-m", "shoal.compat.ray", str(PROGRAMS / f"{name}.py")]

    done = subprocess.run(command, capture_output=True, text=True, timeout=100)

    assert done.stdout == (PROGRAMS / f"{name}.txt").read_text(), done.stderr


def test_handle_of_an_earlier_session_is_an_error_not_a_wait() -> None:
    program = """
import shoal

@shoal.remote(num_cpus=0)
class Actor:
    def ping(self):
        return "pong"

shoal.init("local", num_cpus=1)
actor = Actor.remote()
print(shoal.get(actor.ping.remote()))
shoal.shutdown()
shoal.init("local", num_cpus=1)
try:
    shoal.get(actor.ping.remote(), timeout=20)
except shoal.exceptions.ActorDiedError:
    print("died")
"""

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)

    assert done.stdout == "pong\ndied\n", done.stderr
