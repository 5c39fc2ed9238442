"""The head's real core in virtual time: a journal that commits a moment later and can crash, connections by number."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec

from shoal.runtime.head.core.core import HeadCore
from shoal.runtime.head.core.events import Closed, Hang, HeadSettings, Heard, Journal, Record, Send, Tick
from shoal.runtime.head.core.rows import TABLES
from shoal.wire import messages as told
from tests.virtual.links import End, Wires

UID = "ab" * 16
PLACE = "head"
_decode = msgspec.msgpack.Decoder(told.TO_HEAD).decode


class Disk:
    """What a journal has committed: encoded rows, so that nothing survives that could not be written."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], bytes] = {}

    def commit(self, rows: list[tuple[str, str, bytes | None]]) -> None:
        for table, key, value in rows:
            if value is None:
                self.rows.pop((table, key), None)
            else:
                self.rows[table, key] = value

    def load(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for (table, key), value in self.rows.items():
            found.setdefault(table, {})[key] = msgspec.msgpack.decode(value, type=TABLES[table])
        return found


class VirtualHead:
    """One head, again and again over the same disk."""

    def __init__(self, wires: Wires, *, is_encoded: bool = False, **settings: Any) -> None:
        self.wires, self.loop, self.chance = wires, wires.loop, wires.chance
        self._is_encoded = is_encoded
        """Whether messages travel as frames, as between real processes; model agents take them as they are."""
        self.crash_per_s = 0.0
        self.crash_at_commit = 0.0
        """Chance per commit, half of them just before it and half just after it, before anything leaves."""
        self.disk = Disk()
        self.settings = HeadSettings(cluster_uid=UID, join_key=b"k" * 32, **settings)
        self.ends: dict[int, End] = {}
        """Connections that the present head serves, by number."""
        self.story: list[tuple[float, str, dict[str, Any]]] = []
        self.incarnation = 0
        self._numbers = itertools.count(1)
        self.start()

    def start(self) -> None:
        """Start from what the disk has."""
        self.incarnation += 1
        self._queued: list[tuple[str, str, bytes | None]] = []
        self._held: list[tuple[int, Send | Hang]] = []
        self._written = self._committed = 0
        self._is_committing = False
        self.core = HeadCore(self.settings, self.loop.time(), self.disk.load())
        self.is_up = True
        self._turn(Tick(self.loop.time()))
        self._tick(self.incarnation)

    def crash(self, down_s: float = 1.0) -> None:
        """Kill it at this very instruction: what is not committed is gone, what has not left is not said."""
        if not self.is_up:
            return
        self.is_up = False
        ends, self.ends = self.ends, {}
        for end in ends.values():
            end.cut()
        self.loop.call_later(down_s, self.start)

    def connect(self, end: End) -> bool:
        """Join an agent's end of a new connection with the head's; False if the head is down or out of reach."""
        if not self.is_up or self.wires.are_apart(end.place, PLACE):
            return False
        number = next(self._numbers)
        mine = End(self.wires, PLACE, lambda message: self._hear(number, message), lambda: self._closed(number))
        self.ends[number] = mine.joined(end)
        return True

    def ask(self, what: str, args: dict[str, Any]) -> told.Reply:
        """Make a request from inside the head's process; its rows commit a moment later."""
        self._answer: told.Reply | None = None
        self._turn(Heard(self.loop.time(), 0, told.Ask(1, b"", what, args)))
        for _, command in self._held:
            if isinstance(command, Send) and command.connection == 0:
                self._answer = command.message
        assert self._answer is not None, "no reply"
        return self._answer

    def kinds(self, kind: str) -> list[dict[str, Any]]:
        """Return the fields of the records of one kind."""
        return [fields for _, one, fields in self.story if one == kind]

    def _hear(self, number: int, message: Any) -> None:
        messages = _decode(message) if self._is_encoded else (message,)
        for one in messages:
            if self.is_up and number in self.ends:
                self._turn(Heard(self.loop.time(), number, one))

    def _closed(self, number: int) -> None:
        if self.ends.pop(number, None) is not None and self.is_up:
            self._turn(Closed(self.loop.time(), number))

    def _tick(self, incarnation: int) -> None:
        if not self.is_up or incarnation != self.incarnation:
            return
        self._turn(Tick(self.loop.time()))
        if self.chance.random() < self.crash_per_s * self.core.tick_s:
            self.crash(self.chance.uniform(0.1, 5.0))
            return
        self.loop.call_later(self.core.tick_s, self._tick, incarnation)

    def _turn(self, event: Any) -> None:
        for command in self.core.react(event):
            match command:
                case Journal(rows=rows):
                    for row in rows:
                        value = None if row.value is None else msgspec.msgpack.encode(row.value)
                        self._queued.append((row.table, row.key, value))
                    self._written += len(rows)
                    self._commit_soon()
                case Send() | Hang():
                    if self._written > self._committed:
                        self._held.append((self._written, command))
                    else:
                        self._leave(command)
                case Record(kind=kind, fields=fields):
                    self.story.append((self.loop.time(), kind, fields))

    def _commit_soon(self) -> None:
        if self._is_committing:
            return
        self._is_committing = True
        rows, self._queued = self._queued, []
        self.loop.call_later(self.chance.uniform(0.0001, 0.002), self._commit, rows, self._written, self.incarnation)

    def _commit(self, rows: list[tuple[str, str, bytes | None]], target: int, incarnation: int) -> None:
        if not self.is_up or incarnation != self.incarnation:
            return
        luck = self.chance.random() / max(self.crash_at_commit, 1e-9)
        if luck < 0.5:
            self.crash(self.chance.uniform(0.1, 2.0))
            return
        self.disk.commit(rows)
        if luck < 1.0:
            self.crash(self.chance.uniform(0.1, 2.0))
            return
        self._committed, self._is_committing = target, False
        held, self._held = self._held, []
        for ticket, command in held:
            if ticket <= target:
                self._leave(command)
            else:
                self._held.append((ticket, command))
        if self._queued:
            self._commit_soon()

    def _leave(self, command: Send | Hang) -> None:
        if command.connection == 0:
            if isinstance(command, Send):
                self._answer = command.message
            return
        end = self.ends.get(command.connection)
        if end is None:
            return
        if isinstance(command, Hang):
            del self.ends[command.connection]
            end.end()
        else:
            end.send(msgspec.msgpack.encode([command.message]) if self._is_encoded else command.message)
