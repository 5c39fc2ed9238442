"""Every kind of event is written by the code that knows of it: a kind that nobody writes is a promise not kept."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import shoal
from shoal.foundation.eventlog import Kind

SOURCE = Path(shoal.__file__).parent


def written(tree: ast.AST) -> Iterator[str]:
    """Yield the kinds that calls of `record` name (a member of `Kind` or its text), and those agents tell the head."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not call.args:
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if name.lstrip("_") == "record":
            firsts: list[ast.expr] = [call.args[0]]
        elif name == "Happened":
            firsts = [one.elts[0] for one in ast.walk(call.args[0]) if isinstance(one, ast.Tuple) and one.elts]
        else:
            continue
        for first in firsts:
            for part in ast.walk(first):
                if isinstance(part, ast.Attribute) and getattr(part.value, "id", "") == "Kind":
                    yield Kind[part.attr].value
                elif isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


def test_every_kind_is_written_somewhere() -> None:
    files = [path for path in SOURCE.rglob("*.py") if "testing" not in path.relative_to(SOURCE).parts]
    found = {kind for path in files for kind in written(ast.parse(path.read_text()))}

    assert sorted({kind.value for kind in Kind} - found) == []


@pytest.mark.parametrize(
    ("code", "kinds"),
    [
        ("log.record(Kind.ALARM, what='x')", ["alarm"]),
        ("self._record('node_left' if gone else 'node_died', node=1)", ["node_left", "node_died"]),
        ("told.Happened([('notice', {})])", ["notice"]),
        ("log.record(known, what=Kind.ALARM)", []),
        ("print('alarm')", []),
    ],
)
def test_only_what_is_recorded_counts(code: str, kinds: list[str]) -> None:
    assert list(written(ast.parse(code))) == kinds
