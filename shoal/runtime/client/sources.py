"""What is remembered of tasks that made several values, so that any of them can be made again (`replays`)."""

from __future__ import annotations

import collections
from typing import Any


class Source:
    """A task that can be run again: its message, and what its arguments refer to. None once it was evicted."""

    __slots__ = ("__weakref__", "gone", "message", "n", "pins", "recipe", "tries")

    def __init__(self, n: int, message: Any, pins: Any, recipe: Any, tries: int, gone: collections.deque[int]) -> None:
        """`gone` takes the number when the last value of it has ended."""
        self.n, self.message, self.pins, self.recipe, self.tries = n, message, pins, recipe, tries
        self.gone = gone

    def __del__(self) -> None:
        self.gone.append(self.n)


class Made:
    """Says where a stored value came from: the `index`-th of a task. Stands in the ref's `_recipe`."""

    __slots__ = ("index", "source")

    def __init__(self, source: Source, index: int) -> None:
        self.source, self.index = source, index

    @property
    def tries(self) -> int:
        """How often its task may be run again, as its options say."""
        tries: int = self.source.recipe.tries
        return tries

    @property
    def name(self) -> str:
        """The task's name."""
        name: str = self.source.recipe.name
        return name
