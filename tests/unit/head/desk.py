"""A head's core on a desk: tests hand it messages one by one and look at what it says. No links, no delays."""

from __future__ import annotations

from typing import Any

from shoal.foundation.amounts import Amounts
from shoal.runtime.head.core.core import HeadCore, Restored
from shoal.runtime.head.core.events import (
    Closed,
    Command,
    Hang,
    HeadSettings,
    Heard,
    Journal,
    JournalIs,
    Record,
    Send,
    Shut,
    Tick,
)
from shoal.wire import messages as told

CPU = 10_000
UID = "ab" * 16


class Desk:
    """One core, its journal as a dict, and everything it said so far."""

    def __init__(self, restored: Restored | None = None, *, now_s: float = 1000.0, **settings: Any) -> None:
        self.now_s = now_s
        self.settings = HeadSettings(**{"cluster_uid": UID, "join_key": b"k" * 32, **settings})
        self.core = HeadCore(self.settings, now_s, restored)
        self.rows: dict[str, dict[str, Any]] = {table: dict(found) for table, found in (restored or {}).items()}
        self.records: list[tuple[str, dict[str, Any]]] = []
        self.said: dict[int, list[Any]] = {}
        self.hung: set[int] = set()
        self.shut: str | None = None
        self._connections = self._named = 0
        self._rid = 0
        self._take(self.core.react(Tick(now_s)))

    def node(self, name: str = "", *, cpu: int = 4, **more: Any) -> Node:
        """Join a node and return it."""
        self._named += not name
        node = Node(self, name or f"{self._named:02x}" * 14, cpu, more)
        node.join()
        return node

    def hear(self, connection: int, message: Any) -> None:
        self._take(self.core.react(Heard(self.now_s, connection, message)))

    def close(self, connection: int) -> None:
        self._take(self.core.react(Closed(self.now_s, connection)))

    def full(self, is_full: bool) -> None:
        self._take(self.core.react(JournalIs(self.now_s, is_full)))

    def wait(self, duration_s: float) -> None:
        """Let time pass, with a tick every quarter of a second; nodes in touch go on reporting."""
        end_s = self.now_s + duration_s
        while self.now_s < end_s - 1e-9:
            self.now_s = min(end_s, self.now_s + 0.25)
            self._take(self.core.react(Tick(self.now_s)))

    def ask(self, what: str, **args: Any) -> Any:
        """Make a request from inside the head's process and return its value; a refusal is an AssertionError."""
        reply = self.reply(0, what, args)
        assert reply.is_ok, reply.value
        return reply.value

    def refused(self, what: str, **args: Any) -> list[str]:
        """Make a request that must be refused; return [name, text]."""
        reply = self.reply(0, what, args)
        assert not reply.is_ok, reply.value
        found: list[str] = reply.value
        return found

    def reply(self, connection: int, what: str, args: dict[str, Any], process: bytes = b"") -> told.Reply:
        self._rid += 1
        self.hear(connection, told.Ask(self._rid, process, what, args))
        return self.answer(connection, self._rid)

    def answer(self, connection: int, rid: int) -> told.Reply:
        found = [one for one in self.said.get(connection, ()) if isinstance(one, told.Reply) and one.rid == rid]
        assert len(found) == 1, f"{len(found)} replies"
        return found[0]

    def kinds(self, kind: str) -> list[dict[str, Any]]:
        return [fields for one, fields in self.records if one == kind]

    def _take(self, commands: list[Command]) -> None:
        for place, command in enumerate(commands):
            match command:
                case Journal(rows=rows):
                    assert place == 0, "rows must be committed before anything leaves"
                    for row in rows:
                        table = self.rows.setdefault(row.table, {})
                        if row.value is None:
                            table.pop(row.key, None)
                        else:
                            table[row.key] = row.value
                case Send(connection=connection, message=message):
                    self.said.setdefault(connection, []).append(message)
                case Hang(connection=connection):
                    self.hung.add(connection)
                case Record(kind=kind, fields=fields):
                    self.records.append((kind, fields))
                case Shut(why=why):
                    self.shut = why


class Node:
    """One agent's end of the desk."""

    def __init__(self, desk: Desk, node_id: str, cpu: int, more: dict[str, Any]) -> None:
        self.desk, self.node_id, self.total = desk, node_id, {"CPU": cpu * CPU}
        self.more = more
        self.process = bytes.fromhex(node_id) + b"\0\0\0\1"
        self.connection = self.refusals = 0

    def join(self, **more: Any) -> None:
        self.desk._connections += 1
        self.connection = self.desk._connections
        given = {
            "node_id": self.node_id,
            "instance_id": f"i-{self.node_id[:2]}",
            "node_type": "t",
            "token": "",
            "join_secret": "",
            "total": self.total,
            "labels": {},
            "address": [f"tcp:10.0.0.{int(self.node_id[:2], 16)}:1"],
            "epoch": 1,
            "is_head": False,
            "hostname": "h",
            "pid": 1,
            **self.more,
            **more,
        }
        self.desk.hear(self.connection, told.Join(**given))

    def say(self, message: Any) -> None:
        self.desk.hear(self.connection, message)

    def report(self, free: Amounts | None = None, **more: Any) -> None:
        self.say(told.Report(0, free=free, **more))

    def close(self) -> None:
        self.desk.close(self.connection)

    def ask(self, what: str, **args: Any) -> Any:
        reply = self.desk.reply(self.connection, what, args, self.process)
        assert reply.is_ok, reply.value
        return reply.value

    def refused(self, what: str, **args: Any) -> list[str]:
        reply = self.desk.reply(self.connection, what, args, self.process)
        assert not reply.is_ok, reply.value
        found: list[str] = reply.value
        return found

    def heard(self, kind: type) -> list[Any]:
        """Return what this connection was told, of one kind."""
        return [one for one in self.desk.said.get(self.connection, ()) if isinstance(one, kind)]

    def tells(self, what: str) -> list[Any]:
        return [one.value for one in self.heard(told.Tell) if one.what == what]

    def actor(self, name: str = "", **more: Any) -> bytes:
        """Ask for an actor of one CPU and return its id."""
        actor_id = more.pop("actor_id", None) or len(self.desk.core.actors.all).to_bytes(16, "big")
        given = {"job": "", "class_name": "A", "amounts": {"CPU": CPU}, "held": {}, **more}
        self.ask("create_actor", actor_id=actor_id, name=name, **given)
        return actor_id

    def up(self, actor_id: bytes, generation: int = 0) -> None:
        process = bytes.fromhex(self.node_id) + actor_id[-4:]
        self.say(told.ActorStarted(actor_id, generation, process, ["a"], 9))
