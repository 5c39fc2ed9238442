"""`make demo`, as a person runs it: to its end, and interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


def start() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", str(DEMO)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def test_the_demo_ends_well_and_gives_its_account() -> None:
    demo = start()
    out, _ = demo.communicate(timeout=110)

    assert demo.returncode == 0, out[-3000:]
    assert "nothing is left: no process, segment, socket, file or machine" in out
    assert "it would have cost $" in out
    assert "3.1" in out


def test_ctrl_c_in_the_middle_cleans_up_too() -> None:
    demo = start()
    assert demo.stdout is not None
    said = ""
    while "Monte Carlo" not in said:
        said += demo.stdout.readline()
    time.sleep(2.0)  # somewhere in the middle; wherever it is, the same must hold
    demo.send_signal(signal.SIGINT)
    out, _ = demo.communicate(timeout=60)

    assert demo.returncode == 1
    assert "FAILED: interrupted" in out
    assert "nothing is left: no process, segment, socket, file or machine" in out
