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
        core.handlers[wire.COPIED](None, [wire.COPIED, object_id, node, is_there])

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
        core.handlers[wire.COPIED](None, [wire.COPIED, object_id, "n", True])
    assert [len(found.held([part(one, "home", 1)])) for one in (b"a", b"b", b"c")] == [1, 2, 2]
