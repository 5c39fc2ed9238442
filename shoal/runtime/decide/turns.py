"""From which of the nodes that have a value a reader fetches it first."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence


def in_turn(
    reader: str, sources: Sequence[tuple[str, str]], is_dead: Callable[[str], bool]
) -> Sequence[tuple[str, str]]:
    """Return those of `sources`, (node, address) each, that the node `reader` may ask, in the order to ask them.

    Neither dead nodes nor the reader's own. Each reader begins at a place of its own in the same circle, so that many
    that fetch one value share its senders; the same reader always at the same one.
    """
    known = [(node, address) for node, address in sources if node != reader and not is_dead(node)]
    first = zlib.crc32(reader.encode()) % len(known) if known else 0
    return [*known[first:], *known[:first]]
