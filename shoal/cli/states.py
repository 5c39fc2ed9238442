"""What `list`, `get`, `summary`, `memory` and `timeline` share: asking for rows, and printing them as Ray does."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import click

from shoal.foundation.errors import BadInput
from shoal.util.state_tables import COLUMNS, DETAILS


def filters_of(texts: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return `key=value` and `key!=value` texts as (key, operator, value).

    Raises:
        BadInput: one is neither.
    """
    found = []
    for text in texts:
        operator = "!=" if "!=" in text else "="
        key, there, value = text.partition(operator)
        if not there or not key.strip():
            raise BadInput(f"--filter: expected key=value or key!=value, got `{text}`")
        found.append((key.strip().lower(), operator, value.strip()))
    return found


def rows_of(
    cluster: str | None,
    kind: str,
    *,
    filters: Sequence[str] = (),
    limit: int = 100,
    detail: bool = False,
    timeout_s: float = 30.0,
) -> dict[str, Any]:
    """Return {rows, total, is_partial, warnings} of a live cluster's state table; warnings go to stderr."""
    from shoal.cli.live import ask
    from shoal.cli.which import live, name_in

    wanted = filters_of(filters)
    found = ask(
        live(name_in(cluster) if cluster else None),
        lambda client: client.state(kind, filters=wanted, limit=limit, detail=detail, timeout_s=timeout_s),
    )
    for warning in found["warnings"]:
        click.echo(f"warning: {warning}", err=True)
    names = (*COLUMNS.get(kind, ()), *DETAILS.get(kind, ()))
    found["rows"] = [{**{name: row[name] for name in names if name in row}, **row} for row in found["rows"]]
    return found


def warn_if_cut(found: Mapping[str, Any], limit: int) -> None:
    """Say on stderr that there are more rows than were asked for."""
    shown, total = sum(int(row.get("count") or 1) for row in found["rows"]), found["total"]
    if total > shown:
        more = "filter" if limit >= 10_000 else "raise --limit (at most 10000) or filter"
        click.echo(f"warning: {shown} of {total} rows; {more}", err=True)


def ray_table(kind: str, found: Mapping[str, Any]) -> str:
    """Return rows as Ray prints them: heading, count, table with an unnamed index column."""
    rows = found["rows"]
    if not rows:
        return "No resource in the cluster"
    shown = f"Total: {found['total']}" + (f" (showing {len(rows)})" if found["total"] > len(rows) else "")
    table = _table(COLUMNS[kind], [human(row) for row in rows])
    return "\n".join([_title("List"), "Stats:", "-" * 30, shown, "", "Table:", "-" * 30, *table])


def ray_summary(kind: str, summary: Mapping[str, Any]) -> str:
    """Return a summary as Ray prints it: heading, totals, one table of groups, or one for each of objects."""
    groups = summary["summary"]
    if not groups:
        return "No resource in the cluster"
    title = _title("Object Summary" if kind == "objects" else f"{kind.capitalize()} Summary")
    stats = [f"{name}: {_cell(value)}" for name, value in summary.items() if not name.startswith("summary")]
    lines = [title, "Stats:", "-" * 36, *stats, "", "", f"Table (group by {summary['summary_by']}):", "-" * 36]
    if kind == "objects":
        for place, one in groups.items():
            lines += [place, *_table(sorted(one), [one]), ""]
    else:
        lines += _table(sorted(next(iter(groups.values()))), list(groups.values()))
    return "\n".join(lines)


def _title(what: str) -> str:
    stamp = datetime.datetime.now().strftime("%Y-%m-%d %H:%M:%S.%f")
    return f"======== {what}: {stamp} ========"


def _table(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return aligned lines; a cell with several parts takes as many lines, as in Ray's tables."""
    head = [["", *(name.upper() for name in names)]]
    body = [[str(place), *(_cell(row.get(name)) for name in names)] for place, row in enumerate(rows)]
    split = [[cell.split("\n") for cell in line] for line in head + body]
    widths = [max(len(part) for line in split for part in line[place]) for place in range(len(names) + 1)]
    lines = []
    for line in split:
        for number in range(max(len(cell) for cell in line)):
            parts = [cell[number] if number < len(cell) else "" for cell in line]
            lines.append("  ".join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip())
    return lines


def documents(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as YAML documents between `---` and `...`, as `--detail` prints them."""
    import yaml

    return "---\n" + yaml.safe_dump([human(row) for row in rows], sort_keys=False).rstrip() + "\n..."


def human(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with its times as local dates and its sizes in the largest unit that fits, as Ray shows them.

    >>> human({"object_size": 3 * 2**19, "resources_total": {"CPU": 2.0, "memory": 2.0**30}})
    {'object_size': '1.500 MiB', 'resources_total': {'CPU': 2.0, 'memory': '1.000 GiB'}}
    """
    shown: dict[str, Any] = {}
    for name, value in row.items():
        if name.endswith("_time_s"):
            value = str(datetime.datetime.fromtimestamp(value)) if value else None
        elif name == "object_size" or name.endswith("_bytes"):
            value = _size(value or 0)
        elif name.startswith("resources_") or name.endswith("_resources"):
            value = {kind: _size(amount) if "memory" in kind else amount for kind, amount in (value or {}).items()}
        shown[name] = value
    return shown


def _size(count: float) -> str:
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 2**power:
            return f"{count / 2**power:.3f} {unit}"
    return f"{count:.3f} B"


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case float():
            return f"{value:.3f}".rstrip("0").rstrip(".") if value % 1 else str(value)
        case Mapping():
            return "\n".join(f"{key}: {_cell(part)}" for key, part in value.items())
        case _:
            return str(value)
