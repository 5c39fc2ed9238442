"""Which rows of the state API a filter lets through. Agents filter before they limit, the head what it holds itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]
Filters = Sequence[Sequence[str]]
"""[column, "=" or "!=", value] each; all must hold."""


def passes(row: Row, filters: Filters) -> bool:
    """Say whether a row satisfies every filter; text is compared without regard to case, as in Ray.

    >>> passes({"state": "ALIVE"}, [["state", "=", "alive"]])
    True
    """
    for key, operator, value in filters:
        is_equal = key in row and str(row[key]).casefold() == str(value).casefold()
        if is_equal != (operator == "="):
            return False
    return True


def chosen(rows: Iterable[Row], filters: Filters) -> list[Row]:
    """Return the rows that pass, in their order."""
    return [row for row in rows if passes(row, filters)] if filters else list(rows)


def tasks_in(rows: Iterable[Row]) -> int:
    """Return for how many things rows stand: one each, but for those that say a `count`."""
    return sum(int(row.get("count", 1)) for row in rows)
