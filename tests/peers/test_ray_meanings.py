"""Names mean what they mean in Ray: the same small programs give the same answers.

`meanings.json` holds what Ray 2.60 answered. Shoal is compared with it in every run; Ray itself, where it is
installed, in the slow ones (`pytest -m slow`). To record anew: `python tests/peers/test_ray_meanings.py`.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs.py"
MEANINGS = HERE / "meanings.json"
MARK = "answers: "
RECORDED: dict[str, Any] = json.loads(MEANINGS.read_text()) if MEANINGS.exists() else {}


def answers(*command: str) -> dict[str, Any]:
    """Return what every program answered under one runtime."""
    environment = {**os.environ, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        [sys.executable, *command, str(PROGRAMS)],
        capture_output=True,
        text=True,
        timeout=240,
        env=environment,
        cwd=HERE,
    )
    assert MARK in done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.rsplit(MARK, 1)[1].splitlines()[0])
    return found


@cache
def of_shoal() -> dict[str, Any]:
    return answers("-m", "shoal.compat.ray")


@cache
def of_ray() -> dict[str, Any]:
    return answers()


def test_every_program_has_a_recorded_meaning() -> None:
    names = [line.split("(")[0][4:] for line in after_decorators(PROGRAMS.read_text())]

    assert sorted(names) == sorted(RECORDED)


def after_decorators(text: str) -> list[str]:
    lines = text.splitlines()
    return [lines[place + 1] for place, line in enumerate(lines) if line == "@program"]


# Asked of what is installed: in this process our own `ray` may answer to the name.
HAS_RAY = any(found.metadata["Name"] == "ray" for found in importlib.metadata.distributions(name="ray"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", RECORDED)
def test_shoal_means_what_ray_means(name: str) -> None:
    assert of_shoal()[name] == RECORDED[name]


if HAS_RAY:  # part of the extra `bench`; where it is not installed there is nothing to ask

    @pytest.mark.slow
    @pytest.mark.timeout(300)
    @pytest.mark.parametrize("name", RECORDED)
    def test_ray_still_means_what_was_recorded(name: str) -> None:
        assert of_ray()[name] == RECORDED[name]


if __name__ == "__main__":
    MEANINGS.write_text(json.dumps(of_ray(), indent=1, sort_keys=True) + "\n")
