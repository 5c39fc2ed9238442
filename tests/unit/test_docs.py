"""The docs are true where that can be checked: links lead somewhere, every command is there, nothing leans on us."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from shoal.cli.main import COMMANDS, shoal

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_files_that_the_architecture_names_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    named = set(re.findall(r"`((?:\w+/)+\w+\.(?:py|proto))`", text))

    assert len(named) > 12
    assert [name for name in named if not (ROOT / name).exists() and not (ROOT / "shoal" / name).exists()] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_says_what_it_does(name: str) -> None:
    command = shoal.get_command(None, name)  # type: ignore[arg-type]

    assert command is not None
    assert command.help
    assert command.name == name


def test_help_lists_every_command() -> None:
    ran = subprocess.run([sys.executable, "-m", "shoal", "--help"], capture_output=True, text=True, check=True)

    assert [name for name in COMMANDS if f"\n  {name} " not in ran.stdout] == []


def test_the_repository_speaks_of_the_project_alone() -> None:
    """No path of a developer's machine, no address of a package registry."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    wrong = re.compile(r"/home/\w+/|/root/|--(extra-)?index-url")
    found = []
    for name in listed.stdout.split():
        path = ROOT / name
        if path == Path(__file__) or path.suffix in (".gz", ".png") or not path.is_file():
            continue
        if wrong.search(path.read_text(errors="replace")):
            found.append(name)

    assert found == []
