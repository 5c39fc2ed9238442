"""How results are printed: data on stdout as a table, JSON or YAML; words on stderr."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

FORMATS = ("table", "json", "yaml")


def format_option(*, more: Sequence[str] = ()) -> Callable[[Any], Any]:
    """Return the `--format` option that every command with a table has."""
    return click.option(
        "--format",
        "form",
        type=click.Choice([*FORMATS, *more]),
        default="table",
        show_default=True,
        help="How to print the result.",
    )


def emit(value: Any, form: str = "table", columns: Sequence[str] | None = None) -> None:
    """Print rows (a list of mappings) or one mapping in the chosen form, on stdout."""
    match form:
        case "json":
            click.echo(json.dumps(_plain(value), indent=2, sort_keys=False))
        case "yaml":
            import yaml

            click.echo(yaml.safe_dump(_plain(value), sort_keys=False).rstrip())
        case _:
            rows = [value] if isinstance(value, Mapping) else list(value)
            click.echo(table(rows, columns))


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Return rows as aligned text with a heading line; the last column is cut to the terminal's width.

    >>> print(table([{"id": "a", "cpu": 2}, {"id": "bcd", "cpu": 10}]))
    ID   CPU
    a    2
    bcd  10
    """
    names = list(columns) if columns is not None else list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_shown(row.get(name)) for name in names] for row in rows]
    heads = [name.upper().replace("_", " ") for name in names]
    widths = [max(len(line[place]) for line in (heads, *cells)) for place in range(len(names))]
    lines = []
    width_max = shutil.get_terminal_size((200, 24)).columns if sys.stdout.isatty() else 10_000
    for line in (heads, *cells):
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        lines.append(text if len(text) <= width_max else text[: width_max - 1] + "…")
    return "\n".join(lines)


def say(text: str) -> None:
    """Print words for a person, on stderr."""
    click.echo(text, err=True)


def confirm(question: str) -> None:
    """Ask for a yes; with any other answer nothing is done and the command ends with 1."""
    if not click.confirm(question, err=True):
        say("nothing was changed")
        raise SystemExit(1)


def _shown(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4f}".rstrip("0").rstrip(".")
        case Mapping():
            return ", ".join(f"{name}: {_shown(part)}" for name, part in value.items()) or "-"
        case list() | tuple():
            return ", ".join(_shown(part) for part in value) or "-"
        case _:
            return str(value)


def _plain(value: Any) -> Any:
    """Return `value` with only what JSON knows; structs become mappings."""
    import msgspec

    return msgspec.to_builtins(value, str_keys=True, enc_hook=str)
