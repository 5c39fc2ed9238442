"""Whatever arrives, in whatever order, the core answers and goes on: facts never raise."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from shoal.model.demand import Bundle, Selector, Strategy
from shoal.runtime.head.core.core import HeadCore
from shoal.runtime.head.core.events import Closed, Heard, Journal, JournalIs, Send, Tick
from shoal.runtime.head.core.rows import TABLES
from shoal.wire import messages as told
from shoal.wire.asks import What
from tests.unit.head.desk import CPU, Desk

NODES = [f"{number:02x}" * 14 for number in range(1, 6)]
ORDERS = ("open_session", "check_session", "cordon", "drain", "undrain", "bar", "forget", "publish", "join_secret")


class Noise(random.Random):
    """Random messages with ids from small pools, so that they meet."""

    def node(self) -> str:
        return self.choice(NODES)

    def process(self) -> bytes:
        return bytes.fromhex(self.node()) + bytes([0, 0, 0, self.randrange(3)])

    def actor(self) -> bytes:
        return bytes([self.randrange(6)]) * 16

    def group(self) -> str:
        return f"g{self.randrange(5)}"

    def amounts(self) -> dict[str, int]:
        return {"CPU": self.randint(1, 6) * CPU // 2} if self.random() < 0.9 else {}

    def selector(self) -> dict[str, Any]:
        return self.choice(
            [{}, {}, {"hard": {"zone": "a"}}, {"node_ids": [self.node()]}, {"fallback": [{"zone": "b"}]}]
        )

    def args(self, what: str) -> dict[str, Any]:
        if self.random() < 0.05:
            return self.choice([{}, {"actor_id": None}, {"spec": 3}, {"count": "x"}, {"bundles": 7}, {"job": {}}])
        return {
            "actor_id": self.actor(),
            "job": self.choice(["", "01000000", "02000000"]),
            "class_name": "A",
            "name": self.choice(["", "", "bob", "eve"]),
            "namespace": "",
            "is_detached": self.random() < 0.3,
            "get_if_exists": self.random() < 0.3,
            "max_restarts": self.choice([-1, 0, 1]),
            "amounts": self.amounts(),
            "held": {},
            "selector": self.selector(),
            "spread": self.random() < 0.2,
            "group_id": self.group() if what != What.CREATE_ACTOR or self.random() < 0.3 else "",
            "bundle": self.choice([-1, 0, 1, 9]),
            "no_restart": self.random() < 0.5,
            "spec": self.spec() if what == What.CREATE_GROUP else b"",
            "owner": "o",
            "bundles": [{"CPU": 1}] * self.randrange(3),
            "ttl_s": self.choice([None, 0.5]),
            "class_key": "c",
            "count": self.randrange(5),
            "away_from": [self.node()],
            "processes": [self.process()],
            "process": self.process(),
            "entrypoint": "x",
            "pid": 1,
            "is_remote": self.random() < 0.2,
            "space": "s",
            "key": "k",
            "value": b"v",
            "kind": self.choice(["tasks", "actors", "nodes", "jobs", "placement-groups", "cluster-events", "x"]),
            "session": self.randrange(3),
            "instance_id": f"i-{self.node()[:2]}",
            "order": "o",
            "idle_serial": None,
            "deadline_s": None,
            "token": "t",
            "report": {},
        } | ({"ttl_s": 1.0} if what == "cordon" else {})

    def spec(self) -> told.GroupSpec:
        bundles = [Bundle(amounts=self.amounts()) for _ in range(self.randint(1, 3))]
        return told.GroupSpec(self.group(), bundles, self.choice(list(Strategy)), self.choice(["", "n"]), "01000000")

    def message(self) -> Any:
        process, actor, group, serial = self.process(), self.actor(), self.group(), self.randrange(4)
        what = self.choice(list(What))
        return self.choice(
            [
                lambda: told.Ask(self.randrange(9), process, what, self.args(what)),
                lambda: told.Ask(self.randrange(9), process, what, self.args(what)),
                lambda: told.Ask(self.randrange(9), process, what, self.args(what)),
                lambda: told.Report(
                    0,
                    is_full=self.random() < 0.2,
                    free=self.choice([None, self.amounts()]),
                    idle_s=self.choice([None, 1.0]),
                    busy=self.choice([None, [], [told.BusyFor("x", 1)]]),
                    backlog=[
                        told.Backlog(
                            process,
                            "c",
                            "01000000",
                            self.randrange(4),
                            self.randrange(4),
                            {"CPU": CPU},
                            selector=Selector(),
                        )
                    ],
                    granted=[told.Grants(process, "c", self.randrange(4))],
                ),
                lambda: told.ActorStarted(actor, serial - 1, process, ["a"], 1),
                lambda: told.ActorEnded(actor, serial - 1, self.choice(["refused", "crashed", "exited", "killed"])),
                lambda: told.Prepared(group, serial, self.random() < 0.8),
                lambda: told.Prepared(group, serial, self.random() < 0.8),
                lambda: told.Committed(group, serial),
                lambda: told.DrainAnswer("o", self.choice(["busy", "emptied"])),
                lambda: told.Died(process, "x", self.random() < 0.3),
                lambda: told.JobStarted(self.choice(["01000000", "02000000"]), process, "e", "n", 1),
                lambda: told.Happened([("notice", {"what": "spot"}), ("worker_died", {"worker": 1}), ("nonsense", {})]),
                lambda: told.Answered(serial, self.random() < 0.8, self.choice([None, {"rows": [{}]}, {"x": 1}, "no"])),
                lambda: told.Leaving("bye") if self.random() < 0.1 else told.Report(1),
            ]
        )()

    def join(self) -> told.Join:
        node = self.node()
        return told.Join(
            node,
            f"i-{node[:2]}" if self.random() < 0.9 else "i-shared",
            "t",
            "",
            "",
            {"CPU": 4 * CPU},
            {"zone": self.choice("ab")},
            ["tcp:1.2.3.4:5"],
            1,
            False,
            "h",
            1,
            actors=[told.ActorHere(self.actor(), self.randrange(3), ["a"])] if self.random() < 0.5 else [],
            bundles={self.group(): [0]} if self.random() < 0.5 else {},
        )


def consistent(core: HeadCore) -> None:
    """What must hold after every event, whatever was said."""
    for actor_id, actor in core.actors.all.items():
        row = actor.row
        if row.state.value == "DEAD":
            assert row.name == "" or core.actors.names.get((row.namespace, row.name)) != actor_id
            assert row.group_id == "" or core.groups.seat_of(row.group_id, actor_id) is None
        elif row.node_id:
            assert row.node_id in core.nodes.alive, "an actor sits on a node that is not alive"
    for name, actor_id in core.actors.names.items():
        assert core.actors.all[actor_id].row.state.value != "DEAD", name
    for group in core.groups.all.values():
        assert all(not node or node in core.nodes.alive for node in group.row.nodes)
        is_waiting = core.groups.gang(group.row.spec.group_id, core.out.now_s) is not None
        is_whole = not group.missing()
        assert is_whole or is_waiting or group.preparing, "a group lacks bundles and nobody is at it"
    for member in core.nodes.alive.values():
        assert member.connection is None or core.nodes.by_connection[member.connection] is member
        assert member.is_missing or member.node_id in core.spots


@pytest.mark.parametrize("seed", range(60))
def test_noise_never_raises_and_leaves_a_consistent_head_that_can_be_restored(seed: int) -> None:
    noise, desk = Noise(seed), Desk(dead_max=20)
    core, now_s, disk = desk.core, desk.now_s, {}
    restarts = 0
    for _ in range(600):
        now_s += noise.choice([0.0, 0.0, 0.01, 0.3, 3.0])
        connection = noise.randint(1, 8)
        luck = noise.random()
        if luck < 0.10:
            event: Any = Heard(now_s, connection, noise.join())
        elif luck < 0.14:
            event = Closed(now_s, connection)
        elif luck < 0.24:
            event = Tick(now_s)
        elif luck < 0.25:
            event = JournalIs(now_s, noise.random() < 0.5)
        elif luck < 0.32:
            what = noise.choice(ORDERS)
            event = Heard(now_s, 0, told.Ask(1, b"", what, noise.args(what)))
        else:
            event = Heard(now_s, connection, noise.message())
        for command in core.react(event):
            if isinstance(command, Journal):
                for row in command.rows:
                    if row.value is None:
                        disk.pop((row.table, row.key), None)
                    else:
                        disk[row.table, row.key] = msgspec.msgpack.encode(row.value)
            elif isinstance(command, Send):
                msgspec.msgpack.encode(command.message)
        consistent(core)
        if noise.random() < 0.005:
            restarts += 1
            rows: dict[str, dict[str, Any]] = {}
            for (table, key), value in disk.items():
                rows.setdefault(table, {})[key] = msgspec.msgpack.decode(value, type=TABLES[table])
            core = HeadCore(desk.settings, now_s, rows)
            core.react(Tick(now_s))
            consistent(core)
    core.status()
    core.work(now_s)
