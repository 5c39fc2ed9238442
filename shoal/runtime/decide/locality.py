"""Which node a task should run on for the sake of its arguments."""

from __future__ import annotations

from collections.abc import Iterable

NEAR_BYTES_MIN = 2**20
"""So many bytes more than at home make another node worth asking: fewer are moved in about the time that takes."""


def best_node(stored: Iterable[tuple[str, int]], home: str) -> str:
    """Return the node that holds the most bytes of stored arguments, empty if that is home or it is not worth it.

    `stored` are (node, bytes) of each copy of an argument, primary or fetched. Among equals the first named wins, so
    that equal calls agree.
    """
    held: dict[str, int] = {}
    for node, size_bytes in stored:
        held[node] = held.get(node, 0) + size_bytes
    if not held:
        return ""
    best = max(held, key=held.__getitem__)
    return best if best != home and held[best] - held.get(home, 0) >= NEAR_BYTES_MIN else ""
