"""Prometheus' text format: how rows of metrics are shown at `/metrics`. Pure.

A row is a map: `name`, `kind` (counter, gauge, histogram), `help`, `tag_keys`, `boundaries` (histograms) and `series`,
a list of [tag values, value]; the value of a histogram is its counts per bucket (one more than boundaries) and the sum.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/, read 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def exposition(rows: Sequence[Mapping[str, Any]], labels: Mapping[str, str] | None = None) -> str:
    """Return rows as text, with `labels` added to every series.

    >>> row = {"name": "n", "kind": "gauge", "help": "h", "tag_keys": ["a"], "boundaries": [], "series": [[["x"], 1.5]]}
    >>> print(exposition([row]), end="")
    # HELP n h
    # TYPE n gauge
    n{a="x"} 1.5
    """
    lines: list[str] = []
    for row in rows:
        name = row["name"]
        lines.append(f"# HELP {name} {_help(row['help'])}")
        lines.append(f"# TYPE {name} {row['kind']}")
        for values, value in row["series"]:
            tags = {**dict(zip(row["tag_keys"], values, strict=True)), **(labels or {})}
            if row["kind"] == "histogram":
                lines += _histogram(name, tags, row["boundaries"], value)
            else:
                lines.append(f"{name}{_tags(tags)} {_number(value)}")
    return "\n".join(lines) + "\n" if lines else ""


def _histogram(name: str, tags: Mapping[str, str], boundaries: Sequence[float], value: Sequence[float]) -> list[str]:
    *counts, total = value
    lines, running = [], 0.0
    for bound, count in zip([*boundaries, float("inf")], counts, strict=True):
        running += count
        shown = "+Inf" if bound == float("inf") else _number(bound)
        lines.append(f"{name}_bucket{_tags({**tags, 'le': shown})} {_number(running)}")
    return [*lines, f"{name}_sum{_tags(tags)} {_number(total)}", f"{name}_count{_tags(tags)} {_number(running)}"]


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


def _tags(tags: Mapping[str, str]) -> str:
    inside = ",".join(f'{key}="{_escaped(value)}"' for key, value in tags.items())
    return f"{{{inside}}}" if inside else ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
