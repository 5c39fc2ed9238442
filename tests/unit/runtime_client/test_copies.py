"""Where copies of a driver's values lie, as their nodes tell it."""

from __future__ import annotations

from typing import Any

from shoal.runtime.client import copies
from shoal.runtime.client.copies import Copies
from shoal.wire import tasks as wire


class Core:
    def __init__(self) -> None:
        self.handlers: dict[int, Any] = {}


def part(object_id: bytes, node: str, size: int) -> tuple[int, Any]:
    return wire.STORED, [[object_id, node, []], size, None]


def test_copies_count_until_they_give_way_their_value_ends_or_their_node_dies() -> None:
    core: Any = Core()
    ours = {b"a", b"b"}
    found = Copies(core, ours.__contains__)

    def tell(object_id: bytes, node: str, is_there: bool) -> None:
        core.handlers[wire.COPIED](None, [wire.COPIED, object_id, node, is_there, f"tcp:{node}"])

    for object_id, node in ((b"a", "n1"), (b"a", "n2"), (b"b", "n2"), (b"c", "n1"), (b"a", "home")):
        tell(object_id, node, True)
    parts = [part(b"a", "home", 10), (wire.NATIVE, 5), part(b"b", "n1", 20), part(b"c", "n3", 5)]
    assert found.held(parts) == [("home", 10), ("n1", 10), ("n2", 10), ("n1", 20), ("n2", 20), ("n3", 5)]

    tell(b"a", "n1", False)
    tell(b"c", "n9", False)
    assert found.held(parts) == [("home", 10), ("n2", 10), ("n1", 20), ("n2", 20), ("n3", 5)]
    found.node_died("n2")
    assert found.held(parts) == [("home", 10), ("n1", 20), ("n3", 5)]
    tell(b"b", "n4", True)
    found.forget(b"b")
    assert found.held(parts) == [("home", 10), ("n1", 20), ("n3", 5)]


def test_only_so_many_are_remembered(monkeypatch: Any) -> None:
    monkeypatch.setattr(copies, "OBJECTS_MAX", 2)
    core: Any = Core()
    found = Copies(core, lambda object_id: True)
    for object_id in (b"a", b"b", b"c"):
        core.handlers[wire.COPIED](None, [wire.COPIED, object_id, "n", True, "tcp:n"])
    assert [len(found.held([part(one, "home", 1)])) for one in (b"a", b"b", b"c")] == [1, 2, 2]


def test_copies_are_named_as_further_sources_the_newest_and_never_those_of_an_earlier_making(monkeypatch: Any) -> None:
    monkeypatch.setattr(copies, "FURTHER_MAX", 2)
    core: Any = Core()
    changed: list[bytes] = []
    found = Copies(core, lambda object_id: True, changed.append)

    def tell(node: str, is_there: bool) -> None:
        core.handlers[wire.COPIED](None, [wire.COPIED, b"a", node, is_there, f"tcp:{node}"])

    for node in ("n1", "n2", "home", "n3"):
        tell(node, True)
    assert found.further(b"a", "home") == [["n2", "tcp:n2"], ["n3", "tcp:n3"]]
    assert len(changed) == 4
    tell("n3", False)
    tell("n3", False)
    assert found.further(b"a", "home") == [["n1", "tcp:n1"], ["n2", "tcp:n2"]]
    found.node_died("n1")
    assert found.further(b"a", "home") == [["n2", "tcp:n2"]]
    assert len(changed) == 6, "what changes nothing is not told"
    assert found.further(b"b", "home") == []

    found.made_again(b"a")
    assert found.further(b"a", "home") == [], "its bytes may differ from those of the copies"
    found.forget(b"a")
    tell("n4", True)
    assert found.further(b"a", "home") == [["n4", "tcp:n4"]]
