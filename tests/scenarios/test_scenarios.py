"""Every scenario file tells what the code does; `python -m shoal.testing.scenario --accept FILE` rewrites one."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.testing.scenario import played

FILES = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_scenario(file: Path) -> None:
    expected = file.read_text()
    assert played(expected) == expected


def test_every_scenario_ends_well() -> None:
    """A story may not end with something that `show wrong` calls wrong, nor wait for what never came."""
    assert FILES
    for file in FILES:
        for line in file.read_text().splitlines():
            assert not line.startswith("  not "), f"{file.name}: {line}"
            assert "exists and" not in line and "two machines" not in line, f"{file.name}: {line}"


def test_an_unknown_command_names_its_line() -> None:
    with pytest.raises(ValueError, match="`> dance #1`"):
        played("> dance #1\n")
