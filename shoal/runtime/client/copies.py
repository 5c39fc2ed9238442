"""Which other nodes hold fetched copies of our values: what reads them may run there, or fetch them from there.

The agent that fetched a copy tells the owner, and tells it again when the copy gave way. It is a hint only: where it is
old, the value is fetched once more, or from elsewhere.
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
FURTHER_MAX = 8
"""How many copies, the newest, are named to those who fetch a value."""


class Copies:
    """The copies of one process's values. Everything with the core's lock held."""

    def __init__(
        self, core: Core, is_ours: Callable[[bytes], bool], changed: Callable[[bytes], None] = lambda object_id: None
    ) -> None:
        """`changed` hears of each value (its id) that gained or lost a copy."""
        self._is_ours, self._changed = is_ours, changed
        self._nodes: collections.OrderedDict[bytes, dict[str, str]] = collections.OrderedDict()
        """By value: the nodes that have a copy, with the addresses that they send it from."""
        self._made_again: set[bytes] = set()
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

    def further(self, object_id: bytes, primary: str) -> list[list[str]]:
        """Return [node, address] of who else than the primary's node can send a value, the newest copies."""
        if object_id in self._made_again:
            return []
        known = [[node, address] for node, address in self._nodes.get(object_id, {}).items() if node != primary]
        return known[-FURTHER_MAX:]

    def values(self) -> list[bytes]:
        """Return the ids of the values that copies are known of."""
        return [object_id for object_id, nodes in self._nodes.items() if nodes]

    def made_again(self, object_id: bytes) -> None:
        """A task has made the value anew, which may differ: what is told of copies could mean the one before."""
        self._made_again.add(object_id)

    def forget(self, object_id: bytes) -> None:
        """The value is gone."""
        self._nodes.pop(object_id, None)
        self._made_again.discard(object_id)

    def drop(self, object_id: bytes, node_id: str) -> None:
        """There is no copy on that node, or it has become the primary one."""
        if self._nodes.get(object_id, {}).pop(node_id, None) is not None:
            self._changed(object_id)

    def node_died(self, node_id: str) -> None:
        """No copy is there any more."""
        for object_id in self.values():
            self.drop(object_id, node_id)

    def _on_copied(self, link: Link, message: list[Any]) -> None:
        _, object_id, node_id, is_there, address = message
        if not is_there:
            self.drop(object_id, node_id)
        elif self._is_ours(object_id):  # else it ended while that was told
            self._nodes.setdefault(object_id, {})[node_id] = address
            if len(self._nodes) > OBJECTS_MAX:
                self._nodes.popitem(last=False)
            self._changed(object_id)
