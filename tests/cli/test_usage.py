"""Whatever a person mistypes: one line that says what is wrong, one with a hint, exit code 2; never a traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shoal.cli.main import COMMANDS

AWS = Path(__file__).parents[2] / "configs" / "aws.yaml"
LOCAL = Path(__file__).parents[2] / "configs" / "local.yaml"


Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["frob"], "no command `frob`"),
        (["statu"], "no command `statu`, did you mean `status`?"),
        (["up"], "missing argument 'CONFIG'"),
        (["up", "x.yaml", "--min-workers", "some"], "--min-workers"),
        (["up", "x.yaml", "--max-workers", "-1"], "--max-workers"),
        (["down", "a", "b"], "unexpected extra argument"),
        (["down", "a", "--workers"], "--workers"),
        (["status", "--format", "xml"], "'xml' is not one of 'table', 'json', 'yaml', 'ray'"),
        (["status", "--fromat", "json"], "--format"),
        (["list", "frobs"], "'frobs' is not one of"),
        (["explain"], "missing argument"),
        (["monitor", "--nothing"], "--nothing"),
        (["logs", "--tail", "x"], "--tail"),
        (["simulate"], "missing argument 'CONFIG'"),
        (["up", str(AWS), "-y"], "which this version cannot run machines on yet"),
        (["up", str(AWS), "--dry-run"], "which this version cannot run machines on yet"),
    ],
)
def test_a_mistake_is_one_line_and_a_hint(run: Run, words: list[str], expected: str) -> None:
    code, out, error = run(*words)

    first, second = error.splitlines()
    assert (code, out) == (2, "")
    assert first.startswith("error: ")
    assert expected in first
    assert second.startswith("hint: ")


@pytest.mark.parametrize("command", ["status", "monitor", "logs", "memory", "timeline", "down"])
def test_a_command_that_needs_a_live_cluster_says_that_there_is_none(run: Run, command: str) -> None:
    code, out, error = run(command)

    assert (code, out) == (1, "")
    assert error.splitlines() == [
        "error: no live cluster on this machine",
        "hint: `shoal up CLUSTER.yaml` starts one",
    ]


def test_no_command_shows_the_help(run: Run) -> None:
    _, out, error = run()

    assert all(f"\n  {command} " in out + error for command in COMMANDS)


def test_a_dry_run_says_what_would_start_with_the_limits_that_were_given(run: Run) -> None:
    code, out, _ = run("up", str(LOCAL), "--dry-run", "--min-workers", "2", "--max-workers", "3", "-n", "other")

    assert code == 0
    assert "would start cluster `other`" in out
    assert "small (2 to 4)" in out
    assert "at most 3 in all" in out
