"""`.remote()` is typed: mypy and pyright accept what is right and refuse every line marked `# wrong`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def marked(program: Path) -> set[int]:
    return {number for number, line in enumerate(program.read_text().splitlines(), 1) if line.endswith("# wrong")}


def refused_by_mypy(program: Path, cache: Path) -> dict[int, str]:
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(cache), "--follow-imports", "silent", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    found = re.findall(rf"^{re.escape(str(program.relative_to(ROOT)))}:(\d+): error: (.*)$", done.stdout, re.MULTILINE)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return {int(line): text for line, text in found}


def refused_by_pyright(program: Path) -> dict[int, str]:
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {one["range"]["start"]["line"] + 1: one["message"] for one in found if one["severity"] == "error"}


def test_mypy(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    program = HERE / "programs.py"

    refused = refused_by_mypy(program, tmp_path)

    assert set(refused) == marked(program), refused


@pytest.mark.parametrize("name", ["programs.py", "decorated.py"])
def test_pyright(name: str) -> None:
    pytest.importorskip("pyright")
    program = HERE / name

    refused = refused_by_pyright(program)

    assert set(refused) == marked(program), refused
