"""Which other nodes hold fetched copies of our values: a task that reads them may as well run there.

The agent that fetched a copy tells the owner, and tells it again when the copy gave way. It is a hint only: where it is
old, the value is fetched once more.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from shoal.wire import tasks as wire

if TYPE_CHECKING:
    from shoal.runtime.client.core import Core
    from shoal.runtime.client.reactor import Link

OBJECTS_MAX = 10_000
"""Of how many values copies are remembered, the newest."""


class Copies:
    """The copies of one process's values. Everything with the core's lock held."""

    def __init__(self, core: Core, is_ours: Callable[[bytes], bool]) -> None:
        self._is_ours = is_ours
        self._nodes: collections.OrderedDict[bytes, dict[str, None]] = collections.OrderedDict()
        core.handlers[wire.COPIED] = self._on_copied

    def held(self, parts: Iterable[tuple[int, Any]]) -> list[tuple[str, int]]:
        """Return (node, bytes) of every copy of the stored values among a task's arguments, primary ones first."""
        found: list[tuple[str, int]] = []
        for format, data in parts:
            if format == wire.STORED:
                place, size = data[0], data[1]
                found.append((place[1], size))
                found.extend((node, size) for node in self._nodes.get(place[0], ()) if node != place[1])
        return found

    def forget(self, object_id: bytes) -> None:
        """The value is gone."""
        self._nodes.pop(object_id, None)

    def node_died(self, node_id: str) -> None:
        """No copy is there any more."""
        for nodes in self._nodes.values():
            nodes.pop(node_id, None)

    def _on_copied(self, link: Link, message: list[Any]) -> None:
        _, object_id, node_id, is_there = message
        if not is_there:
            self._nodes.get(object_id, {}).pop(node_id, None)
        elif self._is_ours(object_id):  # else it ended while that was told
            self._nodes.setdefault(object_id, {})[node_id] = None
            if len(self._nodes) > OBJECTS_MAX:
                self._nodes.popitem(last=False)
