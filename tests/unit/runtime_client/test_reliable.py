"""Words that must arrive: random connections that break, lose what was under way, overlap, come from either side."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shoal.runtime.client.reliable import Reliable
from shoal.wire import tasks as wire


class End:
    """One end of a connection: what is queued there, and what is under way from it."""

    def __init__(self, peer: bytes) -> None:
        self.peer, self.addresses = peer, [f"unix:/{peer.decode()}"]
        self.out: list[Any] = []
        self.under_way: deque[Any] = deque()
        self.other: End = self
        self.is_closed = False

    def flush(self) -> None:
        self.under_way.extend(self.out)
        self.out.clear()


class Process:
    """As much of a core as the channels use."""

    def __init__(self, name: bytes) -> None:
        self.name, self.lock = name, threading.RLock()
        self.handlers: dict[int, Callable[[Any, Any], None]] = {wire.RELEASE: self.heard, wire.LEND: self.heard}
        self.on_link_closed: list[Callable[[Any], None]] = []
        self.peers: dict[bytes, End] = {}
        self.agent = End(b"agent")
        self.dialling: list[Callable[[End | None], None]] = []
        self.got: list[Any] = []
        self.reliable = Reliable(self)  # type: ignore[arg-type]

    def heard(self, link: End, message: list[Any]) -> None:
        self.got.append(message[1])

    def touch(self, link: End) -> None:
        link.flush()

    def with_peer(self, address: Any, call: Callable[[End | None], None]) -> None:
        link = self.peers.get(address[0])
        if link is not None and not link.is_closed:
            call(link)
        else:
            self.dialling.append(call)

    def read(self, link: End, count: int) -> None:
        """Read some of what the other end sent."""
        sent = link.other.under_way
        for _ in range(min(count, len(sent))):
            message = sent.popleft()
            self.handlers[message[0]](link, message)
        if self.reliable.is_owing:
            self.reliable.acknowledge()


class Machine(RuleBasedStateMachine):
    """Two processes. Everything said is heard once and in order; what is held for it goes only once it was heard."""

    def __init__(self) -> None:
        super().__init__()
        self.sides = {b"a": Process(b"a"), b"b": Process(b"b")}
        self.open: list[dict[bytes, End]] = []
        self.said: dict[bytes, list[int]] = {b"a": [], b"b": []}

    def other(self, name: bytes) -> bytes:
        return b"b" if name == b"a" else b"a"

    def connect(self, dialler: bytes) -> None:
        accepter = self.other(dialler)
        ends = {dialler: End(accepter), accepter: End(dialler)}
        ends[dialler].other, ends[accepter].other = ends[accepter], ends[dialler]
        self.open.append(ends)
        process = self.sides[dialler]
        process.peers[accepter] = ends[dialler]
        process.reliable.greeted(ends[dialler])  # type: ignore[arg-type]
        calls, process.dialling = process.dialling, []
        for call in calls:
            call(ends[dialler])
        process = self.sides[accepter]  # reads the HELLO
        known = process.peers.get(dialler)
        if known is None or known.is_closed:
            process.peers[dialler] = ends[accepter]
        process.reliable.greeted(ends[accepter])  # type: ignore[arg-type]

    def close(self, ends: dict[bytes, End]) -> None:
        for name, end in ends.items():
            end.is_closed = True
            process = self.sides[name]
            if process.peers.get(end.peer) is end:
                del process.peers[end.peer]
            for call in process.on_link_closed:
                call(end)

    # ------------------------------------------------------------------------------------------------ rules

    @rule(name=st.sampled_from([b"a", b"b"]), is_lend=st.booleans())
    def say(self, name: bytes, is_lend: bool) -> None:
        number = len(self.said[name])
        self.said[name].append(number)
        kind = wire.LEND if is_lend else wire.RELEASE
        address = (self.other(name), ("unix:/x",))
        self.sides[name].reliable.send(address, (kind, number), [number])

    @rule(dialler=st.sampled_from([b"a", b"b"]))
    @precondition(lambda self: len(self.open) < 3)
    def dial(self, dialler: bytes) -> None:
        """A new connection, perhaps beside one whose end nobody has seen yet."""
        self.connect(dialler)

    @rule(name=st.sampled_from([b"a", b"b"]))
    def dial_fails(self, name: bytes) -> None:
        calls, self.sides[name].dialling = self.sides[name].dialling, []
        for call in calls:
            call(None)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), count=st.integers(1, 4))
    def read(self, data: st.DataObject, count: int) -> None:
        name = data.draw(st.sampled_from([b"a", b"b"]))
        ends = data.draw(st.sampled_from(self.open))
        self.sides[name].read(ends[name], count)  # type: ignore[index]

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def cut(self, data: st.DataObject) -> None:
        """The connection is gone, with whatever was under way."""
        self.close(self.open.pop(data.draw(st.integers(0, len(self.open) - 1))))

    @rule(name=st.sampled_from([b"a", b"b"]))
    def alive(self, name: bytes) -> None:
        """The agent answers, if it was asked."""
        if self.sides[name].agent.under_way:
            self.sides[name].agent.under_way.popleft()
            self.sides[name].reliable.process_alive(self.other(name))

    # ------------------------------------------------------------------------------------------------ claims

    @invariant()
    def heard_once_and_in_order(self) -> None:
        for name, process in self.sides.items():
            assert process.got == self.said[self.other(name)][: len(process.got)]

    @invariant()
    def held_until_heard(self) -> None:
        for name, process in self.sides.items():
            channel = process.reliable.channels.get(self.other(name))
            if channel is not None:
                held = [pins[0] for _, (_, pins) in channel.outgoing.again()]
                heard = len(self.sides[self.other(name)].got)
                assert held == self.said[name][len(self.said[name]) - len(held) :]
                assert len(self.said[name]) - len(held) <= heard

    def teardown(self) -> None:
        """Once all is calm everything has been heard, and nothing is held."""
        for _ in range(4):
            for name, process in self.sides.items():
                for ends in self.open:
                    process.read(ends[name], 1000)
                while process.agent.under_way:
                    self.alive(name)
                if process.dialling:
                    self.connect(name)
        for name, process in self.sides.items():
            assert process.got == self.said[self.other(name)]
            channel = process.reliable.channels.get(self.other(name))
            assert channel is None or len(channel.outgoing) == 0


TestReliable = Machine.TestCase
TestReliable.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


def test_the_dead_are_told_nothing_and_what_was_held_for_them_goes() -> None:
    process = Process(b"a")
    process.reliable.send((b"b", ()), (wire.LEND, 1), ["pins"])
    assert len(process.dialling) == 1
    process.dialling.pop()(None)
    assert process.agent.under_way == deque([(wire.FATE, b"b")])
    process.reliable.process_died(b"b", "it died")
    assert process.reliable.channels == {}
    process.reliable.send((b"b", ()), (wire.RELEASE, 2))
    assert (process.reliable.channels, process.dialling) == ({}, [])
