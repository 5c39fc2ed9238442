"""Connections in virtual time: in order, late, stalled by a broken cable, or cut with whatever is on its way.

Every world of simulated processes is joined by these. A *cut* ends a connection: what is under way is lost, and each
end notices in its own time. A *stall* is a broken cable that nobody has noticed: what is sent meanwhile arrives once it
is mended, as TCP does it, unless an end gives up first. Each direction between two places stalls for itself.
"""

from __future__ import annotations

import collections
import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any, Protocol


class Loop(Protocol):
    """What a world's time must offer; asyncio's loops do."""

    def time(self) -> float: ...
    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> Any: ...
    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Any: ...


class Timeline:
    """Virtual time for worlds without coroutines."""

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s
        self._events: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._order = itertools.count()

    def time(self) -> float:
        return self.now_s

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> None:
        heapq.heappush(self._events, (when, next(self._order), callback, args))

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> None:
        self.call_at(self.now_s + delay, callback, *args)

    def run_for(self, duration_s: float) -> None:
        end_s = self.now_s + duration_s
        while self._events and self._events[0][0] <= end_s:
            self._step()
        self.now_s = end_s

    def run_until(self, holds: Callable[[], bool], *, within_s: float) -> None:
        end_s = self.now_s + within_s
        while not holds():
            assert self._events and self._events[0][0] <= end_s, f"not within {within_s} s"
            self._step()

    def _step(self) -> None:
        self.now_s, _, call, args = heapq.heappop(self._events)
        call(*args)


class Wires:
    """What all connections of a world share: time, chance, and which ways between two places are broken."""

    def __init__(self, loop: Loop, chance: random.Random, *, slow_s: float = 0.2) -> None:
        self.loop, self.chance, self.slow_s = loop, chance, slow_s
        self.slow_share = 0.05
        """How many of the frames take long."""
        self.cut_at_message = 0.0
        """Chance per frame that its connection breaks while it is under way."""
        self._stalled: dict[tuple[str, str], float] = {}

    def delay_s(self) -> float:
        """Return how long the next frame takes: mostly little, now and then long."""
        chance = self.chance
        return (
            chance.uniform(0.0003, 0.003) if chance.random() >= self.slow_share else chance.uniform(0.003, self.slow_s)
        )

    def stall(self, source: str, target: str, until_s: float) -> None:
        """Break the way from one place to another until a time."""
        self._stalled[source, target] = max(until_s, self._stalled.get((source, target), 0.0))

    def stalled_until(self, source: str, target: str) -> float:
        """Return when the way between two places is mended; a time that is over if it is not broken."""
        return self._stalled.get((source, target), 0.0) if self._stalled else 0.0

    def are_apart(self, one: str, other: str) -> bool:
        """Say whether nobody can dial the other now: that needs both ways."""
        now_s = self.loop.time()
        return self.stalled_until(one, other) > now_s or self.stalled_until(other, one) > now_s

    def mend(self) -> None:
        """Mend everything; what is held back arrives at its former time."""
        self._stalled.clear()


class End:
    """One end of a connection; `heard` gets each thing the other sends, `closed` is called when its end is seen."""

    def __init__(self, wires: Wires, place: str, heard: Callable[[Any], object], closed: Callable[[], object]) -> None:
        self.wires, self.place, self.heard, self.closed = wires, place, heard, closed
        self.other: End = self
        self.is_broken = self.has_ended = False
        self._under_way: collections.deque[Any] = collections.deque()
        self._free_at = 0.0

    def joined(self, other: End) -> End:
        """Make the two one connection; returns this end."""
        self.other, other.other = other, self
        return self

    def send(self, data: Any) -> None:
        """Send one thing; in order, and lost if the connection is cut before it arrives."""
        if not self.is_broken and not self.has_ended:
            self._put(data)

    def end(self) -> None:
        """Close it in order: what is on its way still arrives, then the other end notices."""
        if not self.has_ended:
            self.has_ended = True
            if not self.is_broken:
                self._put(_END)

    def silence(self) -> None:
        """Nothing passes any more, and nobody is told."""
        self.is_broken = self.other.is_broken = True

    def cut(self, late_s: float = 0.0) -> None:
        """Nothing passes any more; each end notices within `late_s`, in its own time."""
        self.silence()
        wires = self.wires
        for end in (self, self.other):
            wires.loop.call_later(wires.chance.uniform(0.0, late_s) + wires.delay_s(), end.notice)

    def notice(self) -> None:
        """See that it is over."""
        if not self.has_ended:
            self.has_ended = True
            self.closed()

    def _put(self, data: Any) -> None:
        wires, now_s = self.wires, self.wires.loop.time()
        self._under_way.append(data)
        # One connection keeps its order; a loop does not, among timers of one moment.
        self._free_at = max(self._free_at + 1e-6, now_s + wires.delay_s())
        if wires.cut_at_message and wires.chance.random() < wires.cut_at_message:
            wires.loop.call_at((now_s + self._free_at) / 2, self.cut)
        wires.loop.call_at(self._free_at, self._arrive)

    def _arrive(self) -> None:
        if self.is_broken:
            return
        wires = self.wires
        until_s = wires.stalled_until(self.place, self.other.place)
        if until_s > wires.loop.time():
            wires.loop.call_at(until_s + wires.delay_s(), self._arrive)
            return
        data = self._under_way.popleft()  # the oldest, whichever timer this is
        if data is _END:
            self.other.notice()
        elif not self.other.has_ended:
            self.other.heard(data)


_END = object()
