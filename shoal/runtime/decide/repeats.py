"""Which lines of many processes a driver shows, and which it only counts.

A thousand workers that warn alike would bury everything else. Lines are alike if they differ only in words that hold
digits (numbers, addresses, times). The first is shown at once; while it is less than `WINDOW_S` old, those of *other*
processes are counted, and the last of them is shown with its count afterwards. What one process repeats is its own
business and always shown. These are Ray's rules.
"""

from __future__ import annotations

import re

WINDOW_S = 5.0
KINDS_MAX = 1000
"""How many kinds of lines are remembered; the oldest are given up, with their counts shown."""
_DIGITS = re.compile(r"\d")


class _Kind:
    """Lines that are alike: when the first came, who wrote any, how many are not shown, and the last of those."""

    __slots__ = ("count", "last", "since_s", "sources")

    def __init__(self, since_s: float, source: str) -> None:
        self.since_s, self.sources = since_s, {source}
        self.count = 0
        self.last = ""


class Repeats:
    """Decides about one stream of a driver. Times are seconds on any clock that does not go back."""

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}

    def lines(self, source: str, name: str, line: str, now_s: float) -> list[str]:
        """Return what to show now that process `source` (`pid=...`) wrote a line under `name`."""
        shown = self.due(now_s)
        text = f"({name} {source}) {line}"
        key = " ".join(word for word in line.split() if not _DIGITS.search(word))
        if not key:
            return [*shown, text]  # nothing but numbers: they are what there is to see
        kind = self._kinds.get(key)
        if kind is None:
            self._kinds[key] = _Kind(now_s, source)
            if len(self._kinds) > KINDS_MAX:
                shown += _told(self._kinds.pop(next(iter(self._kinds))))
            return [*shown, text]
        kind.sources.add(source)
        if len(kind.sources) == 1:
            return [*shown, text]
        kind.count += 1
        kind.last = text
        return shown

    def due(self, now_s: float) -> list[str]:
        """Return the counts whose window is over. Cheap if there are none."""
        shown: list[str] = []
        while self._kinds:
            key = next(iter(self._kinds))
            kind = self._kinds[key]
            if now_s - kind.since_s < WINDOW_S:
                break
            del self._kinds[key]
            shown += _told(kind)
            if kind.count > 1:  # it goes on, so it is counted on
                kind.since_s, kind.count = now_s, 0
                self._kinds[key] = kind
        return shown

    def rest(self) -> list[str]:
        """Return every count, and forget everything."""
        kinds, self._kinds = self._kinds, {}
        return [text for kind in kinds.values() for text in _told(kind)]


def _told(kind: _Kind) -> list[str]:
    if not kind.count:
        return []
    return [kind.last if kind.count == 1 else f"{kind.last} [repeated {kind.count}x across cluster]"]
