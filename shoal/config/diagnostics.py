"""What is wrong with a config file, and where: one line per finding, with a hint where we know one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from enum import StrEnum

import msgspec

from shoal.foundation.errors import BadInput

Path = tuple[str | int, ...]
"""Where a value stands in the file: keys and list indexes from the top."""

_SHOWN_MOST = 60
_LINES_MOST = 100
_LOOKS_OTHERWISE = re.compile(r"[-+]?[0-9.]+|true|false|null|yes|no|on|off", re.IGNORECASE)
"""Texts that would be no texts without their quotes, so the quotes are shown."""


class Level(StrEnum):
    """Whether the file can be used all the same."""

    ERROR = "error"
    WARNING = "warning"


class Diagnostic(msgspec.Struct, frozen=True, kw_only=True):
    """One finding. `line` and `column` count from 1; 0 means that the finding is about the file as such."""

    level: Level = Level.ERROR
    file: str = ""
    line: int = 0
    column: int = 0
    path: str = ""
    expected: str = ""
    got: str = ""
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        word = "warning: " if self.level is Level.WARNING else ""
        where = f"{self.path}: " if self.path else ""
        first = f"{place}: {word}{where}expected {self.expected}, got {self.got}"
        return f"{first}\nhint: {self.hint}" if self.hint else first


class ConfigErrors(BadInput):
    """A config file that cannot be used. Prints the first 100 findings; `diagnostics` has all, in the file's order."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = in_order(diagnostics)
        lines = [str(found) for found in self.diagnostics[:_LINES_MOST]]
        if len(self.diagnostics) > _LINES_MOST:
            lines.append(f"... and {len(self.diagnostics) - _LINES_MOST} more")
        super().__init__("\n".join(lines))

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """What must be mended."""
        return tuple(found for found in self.diagnostics if found.level is Level.ERROR)

    @property
    def warnings(self) -> tuple[Diagnostic, ...]:
        """What works, but not as written."""
        return tuple(found for found in self.diagnostics if found.level is Level.WARNING)


def in_order(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """Return the findings from the file's top to its end; what an alias repeats is said once."""
    ordered = sorted(
        diagnostics,
        key=lambda found: (found.line, found.column, found.level, found.path, found.expected, found.got),
    )
    once: dict[tuple[str, int, int, str, str], Diagnostic] = {}
    for found in ordered:
        once.setdefault((found.level, found.line, found.column, found.expected, found.got), found)
    return tuple(once.values())


def path_shown(path: Path) -> str:
    """Return a path for people.

    >>> path_shown(("setup_commands", 2)), path_shown(())
    ('setup_commands[2]', 'document')
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{printable(part)}" if text else printable(part)
    return text or "document"


def shown(value: object) -> str:
    """Return a value as the user would recognise it: short, in backticks, on one line.

    >>> shown(None), shown(True), shown({"a": 1}), shown("x" * 100)[:12]
    ('nothing', '`true`', 'a mapping of 1 key', '`xxxxxxxxxxx')
    """
    match value:
        case None:
            return "nothing"
        case bool():
            return f"`{str(value).lower()}`"
        case dict():
            return f"a mapping of {len(value)} key{'s' * (len(value) != 1)}"
        case list() | tuple():
            return f"a list of {len(value)} item{'s' * (len(value) != 1)}"
        case "":
            return "an empty string"
        case int() if abs(value) >= 10**_SHOWN_MOST:
            # Not str(): Python refuses to print integers of more than 4300 digits.
            return "a number of more than 60 digits"
        case str() if _LOOKS_OTHERWISE.fullmatch(value):
            return f'`"{printable(value)}"`'
        case _:
            return f"`{printable(str(value))}`"


def printable(text: str) -> str:
    """Return `text` cut to 60 characters, with what a terminal must not see escaped."""
    cut = text if len(text) <= _SHOWN_MOST else text[: _SHOWN_MOST - 3] + "..."
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in cut)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the known word that `word` was probably meant to be, "" if none is near.

    >>> nearest("min_worker", ["max_workers", "min_workers"]), nearest("colour", ["zones"])
    ('min_workers', '')
    """
    words = sorted(known)
    by_lower = {name.lower().replace("-", "_"): name for name in words}
    plain = word[:200].lower().replace("-", "_")
    if plain in by_lower:
        return by_lower[plain]
    found = difflib.get_close_matches(plain, by_lower, 1, 0.6)
    return by_lower[found[0]] if found else ""
