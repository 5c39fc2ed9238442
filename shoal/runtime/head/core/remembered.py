"""What ran on nodes that are gone, as they left it behind: rows of tasks and workers, encoded and bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container
from typing import Any

import msgspec

from shoal.wire.messages import LeftBehind

BYTES_MAX = 16 * 2**20
"""Of all nodes; the node that was heard longest ago goes first."""
NODE_BYTES_MAX = 2 * 2**20
"""Of one node; longer word is not kept."""


class Remembered:
    """The newest word of every node about what ran there."""

    def __init__(self) -> None:
        self._left: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def take(self, node_id: str, news: LeftBehind) -> None:
        """Keep what a node says, in the place of what it said before."""
        self._forget(node_id)
        if len(news.rows) > NODE_BYTES_MAX:
            return
        self._left[node_id] = news.rows
        self._bytes += len(news.rows)
        while self._bytes > BYTES_MAX:
            self._forget(next(iter(self._left)))

    def rows(self, kind: str, *, but: Container[str]) -> list[dict[str, Any]]:
        """Return the rows of a kind, oldest node first, but those of nodes that answer for themselves."""
        found: list[dict[str, Any]] = []
        for node_id, encoded in self._left.items():
            if node_id not in but:
                found.extend(_decoded(encoded).get(kind, ()))
        return found

    def _forget(self, node_id: str) -> None:
        self._bytes -= len(self._left.pop(node_id, b""))


def _decoded(encoded: bytes) -> dict[str, list[dict[str, Any]]]:
    try:
        return msgspec.msgpack.decode(encoded, type=dict[str, list[dict[str, Any]]])
    except msgspec.DecodeError:
        return {}  # another version's word
