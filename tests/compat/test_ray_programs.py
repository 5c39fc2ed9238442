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
