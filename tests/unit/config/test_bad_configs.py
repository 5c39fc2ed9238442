"""Every message that is promised for a wrong or doubtful cluster file, word for word.

Each `tests/bad_configs/NAME.yaml` has a `NAME.expected` beside it: what `shoal validate` prints. After a wanted change,
`SHOAL_ACCEPT=1 pytest tests/unit/config/test_bad_configs.py` rewrites them; read the difference before committing it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from shoal.config.diagnostics import ConfigErrors
from shoal.config.load import loaded
from shoal.config.source import decode

FOLDER = Path(__file__).parents[2] / "bad_configs"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def printed(name: str) -> str:
    path = FOLDER / f"{name}.yaml"
    try:
        result = loaded(decode(path.read_bytes(), path.name), path)
    except ConfigErrors as errors:
        return f"{errors}\n"
    return "".join(f"{warning}\n" for warning in result.warnings)


@pytest.mark.parametrize("name", NAMES)
def test_message_is_the_promised_one(name: str) -> None:
    expected = FOLDER / f"{name}.expected"
    text = printed(name)
    if os.environ.get("SHOAL_ACCEPT"):
        expected.write_text(text)

    assert text == expected.read_text()


@pytest.mark.parametrize("name", NAMES)
def test_every_line_names_place_expectation_and_finding(name: str) -> None:
    text = (FOLDER / f"{name}.expected").read_text()
    assert text
    for line in text.splitlines():
        assert re.fullmatch(r"hint: .+|\S+\.yaml:\d+:\d+: (warning: )?\S.*: expected .+, got .+", line), line


def test_only_files_named_warned_can_be_used() -> None:
    usable = {name for name in NAMES if ": warning: " in (text := printed(name)) and not _has_error(text)}

    assert usable == {name for name in NAMES if name.startswith("warned_")}


def test_every_file_has_its_expectation_and_none_is_left_over() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.expected")) == NAMES


def _has_error(text: str) -> bool:
    return any(not line.startswith("hint: ") and ": warning: " not in line for line in text.splitlines())
