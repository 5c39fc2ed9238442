"""Who fetches one value from several nodes begins with one of them, not all with the same."""

from __future__ import annotations

import collections

from shoal.runtime.decide.turns import in_turn

SOURCES = [(node, f"tcp:{node}") for node in ("primary", "b", "c", "d")]


def nobody(node: str) -> bool:
    return False


def test_each_reader_has_all_sources_in_an_order_of_its_own_and_always_the_same() -> None:
    first: collections.Counter[str] = collections.Counter()
    for number in range(400):
        reader = f"{number:032x}"
        order = in_turn(reader, SOURCES, nobody)
        at = SOURCES.index(order[0])
        assert order == SOURCES[at:] + SOURCES[:at] == in_turn(reader, SOURCES, nobody)
        first[order[0][0]] += 1
    assert min(first[node] for node, _ in SOURCES) >= 60, "about a hundred readers begin at each"


def test_neither_dead_nodes_are_asked_nor_the_reader_itself() -> None:
    assert sorted(in_turn("b", SOURCES, {"primary"}.__contains__)) == SOURCES[2:]
    assert in_turn("b", SOURCES[:2], {"primary"}.__contains__) == []
    assert in_turn("b", [], nobody) == []
