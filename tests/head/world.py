"""A head's core with simulated agents in virtual time: links that delay, cut and lose; a journal that can crash.

Agents here are a small, honest model of the real one: they take what fits, keep what they were given, answer, fence
themselves, and die. The world checks after every agent step that no node holds more than it has.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import msgspec

from shoal.foundation.amounts import Amounts, covers, minus, plus
from shoal.runtime.decide.contact import Contact
from shoal.runtime.head.core.core import HeadCore
from shoal.wire import messages as told
from tests.virtual.head import VirtualHead
from tests.virtual.links import End, Timeline, Wires

PREPARED_LIMIT_S = 30.0


class Faults(msgspec.Struct):
    """Chances per second of simulated time."""

    cut: float = 0.0
    cut_at_message: float = 0.0
    """Chance per message that its connection breaks while it is under way."""
    head_crash: float = 0.0
    crash_at_commit: float = 0.0
    """Chance per commit, half of them just before it and half just after it, before anything leaves."""
    node_death: float = 0.0
    actor_crash: float = 0.0
    partition: float = 0.0


class World:
    """Virtual time, one head (again and again), many agents."""

    def __init__(self, seed: int, *, faults: Faults | None = None, **settings: Any) -> None:
        self.chance = random.Random(seed)
        self.loop = Timeline(1000.0)
        self.wires = Wires(self.loop, self.chance)
        self.shell = VirtualHead(self.wires, **settings)
        self.settings = self.shell.settings
        self.faults = faults or Faults()
        self._apply(self.faults)
        self.agents: list[Agent] = []
        self.removing: set[str] = set()
        """Groups that somebody asked to remove: nobody else's committed bundles may be taken back."""

    @property
    def head(self) -> HeadCore:
        """The present head's core."""
        return self.shell.core

    @property
    def now_s(self) -> float:
        return self.loop.now_s

    def at(self, after_s: float, call: Callable[[], None]) -> None:
        self.loop.call_later(after_s, call)

    def run_for(self, duration_s: float) -> None:
        self.loop.run_for(duration_s)

    def add(self, total: Amounts, **more: Any) -> Agent:
        agent = Agent(self, total, **more)
        self.agents.append(agent)
        agent.dial()
        return agent

    def calm(self) -> None:
        """No more faults; every partition heals."""
        self.faults = Faults()
        self._apply(self.faults)
        for agent in self.agents:
            agent.is_partitioned = False

    def _apply(self, faults: Faults) -> None:
        self.wires.cut_at_message = faults.cut_at_message
        self.shell.crash_per_s, self.shell.crash_at_commit = faults.head_crash, faults.crash_at_commit


class Agent:
    """A node, and a driver on it that makes requests."""

    serial = itertools.count(1)

    def __init__(self, world: World, total: Amounts, *, instance: str = "", actor_s: float = 0.05) -> None:
        self.world, self.total = world, total
        self.instance = instance or f"i-{next(Agent.serial)}"
        self.actor_s = actor_s
        self.link: End | None = None
        self.is_dead = self.is_partitioned = self.is_joined = False
        self.asks: dict[int, told.Ask] = {}
        self.replies: dict[int, told.Reply] = {}
        self.tells: list[told.Tell] = []
        self._rid = 0
        self.lives = 0
        self._reset()
        world.at(0.05, self._report)
        world.at(0.25, self._chance)

    def _reset(self) -> None:
        self.lives += 1
        self.node_id = self.world.chance.randbytes(14).hex()
        self.driver = bytes.fromhex(self.node_id) + b"\0\0\0\1"
        self.free = dict(self.total)
        self.prepared: dict[str, tuple[int, dict[int, Amounts], float]] = {}
        self.committed: dict[str, dict[int, Amounts]] = {}
        self.actors: dict[bytes, tuple[told.StartActor, bool]] = {}
        self.contact = Contact(self.world.settings.fence_s)
        self._asked_s: dict[int, float] = {}
        self.idle_serial = 0
        self._said: Any = None
        self._said_s = 0.0
        self.is_full_due = True
        self.asks.clear()
        self.outbox: list[Any] = []
        self.drains: list[told.Drain] = []
        self.cordons: set[str] = set()
        self.backlog: list[told.Backlog] = []
        self.granted: list[told.Grants] = []
        self.given: list[told.Granted] = []

    # ----------------------------------------------------------------------------------------- talking

    def dial(self) -> None:
        if self.is_dead or self.link is not None:
            return
        end = End(self.world.wires, self.node_id, lambda message: self.hear(end, message), lambda: self.closed(end))
        if self.is_partitioned or not self.world.shell.connect(end):
            self.world.at(self.world.chance.uniform(0.05, 0.5), self.dial)
            return
        self.link = end
        self.is_joined = False
        self._asked_s = {0: self.world.now_s}
        self.send(
            told.Join(
                node_id=self.node_id,
                instance_id=self.instance,
                node_type="sim",
                token="",
                join_secret="",
                total=self.total,
                labels={},
                address=[f"tcp:10.0.0.1:{self.lives}"],
                epoch=1,
                is_head=False,
                hostname="h",
                pid=1,
                actors=[
                    told.ActorHere(start.actor_id, start.generation, ["a"])
                    for start, is_up in self.actors.values()
                    if is_up
                ],
                bundles={group: sorted(parts) for group, parts in self.committed.items()},
            )
        )

    def send(self, message: Any) -> None:
        """Send now, or once joined again: verdicts must not get lost."""
        if self.link is not None and (self.is_joined or isinstance(message, told.Join)):
            if isinstance(message, told.Ask):
                self._asked_s[message.rid] = self.world.now_s
            self.link.send(message)
        elif isinstance(message, told.ActorEnded | told.ActorStarted | told.Died):
            self.outbox.append(message)

    def closed(self, link: End) -> None:
        if self.link is link:
            self.link, self.is_joined = None, False
            self.world.at(self.world.chance.uniform(0.01, 0.3), self.dial)

    def ask(self, what: str, args: dict[str, Any], process: bytes | None = None) -> int:
        self._rid += 1
        ask = told.Ask(self._rid, self.driver if process is None else process, what, args)
        self.asks[ask.rid] = ask
        if self.is_joined:
            self.send(ask)
        return ask.rid

    # --------------------------------------------------------------------------------------- obeying

    def hear(self, link: End, message: Any) -> None:
        if self.is_dead or link is not self.link:
            return
        match message:
            case told.Joined():
                self.is_joined = self.is_full_due = True
                self.contact.answered(self._asked_s[0])
                waiting, self.outbox = self.outbox, []
                for one in (*waiting, *self.asks.values()):
                    self.send(one)
            case told.Refused(is_dead=True):
                link.cut()
                self._reset()
            case told.Refused():
                link.cut()
            case told.Reply():
                self.asks.pop(message.rid, None)
                self.contact.answered(self._asked_s.pop(message.rid))
                self.replies[message.rid] = message
            case told.Tell():
                self.tells.append(message)
            case told.Prepare():
                self._prepare(message)
            case told.Commit():
                held = self.prepared.pop(message.group_id, None)
                if held is not None:
                    self.committed.setdefault(message.group_id, {}).update(held[1])
                    self.idle_serial += 1
                self.send(told.Committed(message.group_id, message.serial))
            case told.ReturnBundles():
                self._return(message.group_id)
            case told.StartActor():
                self._start(message)
            case told.KillActor():
                held = self.actors.get(message.actor_id)
                if held is not None and held[0].generation <= message.generation:
                    self._end_actor(message.actor_id, "killed", message.why)
            case told.Cordon():
                (self.cordons.add if message.is_on else self.cordons.discard)(message.order)
            case told.Drain():
                self._drain(message)
            case told.Granted():
                self.given.append(message)
            case told.Query():
                row = {"node_id": self.node_id, "what": message.what}
                self.send(told.Answered(message.rid, True, {"rows": [row], "total": 1, "warnings": []}))
        self._check()

    def _prepare(self, message: told.Prepare) -> None:
        known = self.prepared.pop(message.group_id, None)
        if known is not None:
            for amounts in known[1].values():
                self.free = plus(self.free, amounts)
        needed: Amounts = {}
        for amounts in message.bundles.values():
            needed = plus(needed, amounts)
        is_ready = covers(self.free, needed) and not self.cordons
        if is_ready:
            self.free = minus(self.free, needed)
            self.prepared[message.group_id] = (message.serial, dict(message.bundles), self.world.now_s)
        self.send(told.Prepared(message.group_id, message.serial, is_ready))

    def _return(self, group_id: str) -> None:
        held = self.prepared.pop(group_id, None)
        assert group_id not in self.committed or group_id in self.world.removing, "committed bundles were taken back"
        parts = list(held[1].values()) if held else []
        parts += list(self.committed.pop(group_id, {}).values())
        for amounts in parts:
            self.free = plus(self.free, amounts)
        for actor_id, (start, _) in tuple(self.actors.items()):
            if start.group_id == group_id:
                self._end_actor(actor_id, "group-removed", "")

    def _start(self, message: told.StartActor) -> None:
        known = self.actors.get(message.actor_id)
        if known is not None:
            if known[0].generation >= message.generation:
                return
            self._end_actor(message.actor_id, "killed", "newer")
        if message.group_id:
            parts = self.committed.get(message.group_id, {})
            fits = message.bundle in parts or (message.bundle < 0 and parts)
        else:
            fits = covers(self.free, message.amounts) and not self.cordons
        if not fits:
            self.send(told.ActorEnded(message.actor_id, message.generation, "refused"))
            return
        if not message.group_id:
            self.free = minus(self.free, message.amounts)
        self.actors[message.actor_id] = (message, False)
        self.idle_serial += 1
        life = self.lives
        self.world.at(self.world.chance.uniform(0.3, 1.7) * self.actor_s, lambda: self._up(message, life))

    def _up(self, message: told.StartActor, life: int) -> None:
        known = self.actors.get(message.actor_id)
        if self.is_dead or life != self.lives or known is None or known[0] is not message:
            return
        self.actors[message.actor_id] = (message, True)
        if not message.group_id:
            self.free = minus(plus(self.free, message.amounts), message.held)
        process = bytes.fromhex(self.node_id) + self.world.chance.randbytes(4)
        self.send(told.ActorStarted(message.actor_id, message.generation, process, ["a"], 7))

    def _end_actor(self, actor_id: bytes, cause: str, why: str) -> None:
        start, is_up = self.actors.pop(actor_id)
        if not start.group_id:
            self.free = plus(self.free, start.held if is_up else start.amounts)
        self.send(told.ActorEnded(actor_id, start.generation, cause, why))

    def _drain(self, message: told.Drain) -> None:
        self.drains.append(message)
        if message.deadline_s is None and (
            (message.idle_serial is not None and message.idle_serial != self.idle_serial) or self.busy()
        ):
            self.send(told.DrainAnswer(message.order, "busy"))
        else:
            self.send(told.DrainAnswer(message.order, "emptied"))

    def busy(self) -> bool:
        return bool(self.actors or self.prepared or self.committed)

    # -------------------------------------------------------------------------------------------- living

    def _report(self) -> None:
        if self.is_dead:
            return
        now_s = self.world.now_s
        for group_id, (_, _, since_s) in tuple(self.prepared.items()):
            if now_s - since_s > PREPARED_LIMIT_S:
                parts = self.prepared.pop(group_id)[1]
                for amounts in parts.values():
                    self.free = plus(self.free, amounts)
        if self.is_joined:
            if self.contact.is_question_due(now_s):
                self.ask("is_alive", {"processes": []})
            state = (self.free, self.idle_serial, self.busy(), tuple(self.backlog), tuple(self.granted))
            if state != self._said or self.is_full_due or now_s - self._said_s >= 1.0:
                self.send(
                    told.Report(
                        sequence=0,
                        is_full=self.is_full_due,
                        free=dict(self.free),
                        idle_serial=self.idle_serial,
                        idle_s=None if self.busy() else 1.0,
                        busy=[told.BusyFor("work", 1)] if self.busy() else [],
                        backlog=self.backlog,
                        granted=self.granted,
                    )
                )
                self._said, self._said_s, self.is_full_due = state, now_s, False
        self.world.at(0.05, self._report)

    def _chance(self) -> None:
        if self.is_dead:
            return
        world, faults = self.world, self.world.faults
        for actor_id, (_, is_up) in tuple(self.actors.items()):
            if is_up and world.chance.random() < faults.actor_crash / 4:
                self._end_actor(actor_id, "crashed", "boom")
        if self.link is not None and world.chance.random() < faults.cut / 4:
            self.link.cut(late_s=20.0 if world.chance.random() < 0.3 else 0.0)
        if world.chance.random() < faults.partition / 4 and not self.is_partitioned:
            self.is_partitioned = True
            if self.link is not None:
                self.link.cut(late_s=20.0)
            world.at(world.chance.uniform(5, 90), self._heal)
        if world.chance.random() < faults.node_death / 4:
            self.die()
            return
        world.at(0.25, self._chance)

    def _heal(self) -> None:
        self.is_partitioned = False

    def die(self) -> None:
        """The machine is gone without a word."""
        self.is_dead = True
        if self.link is not None:
            self.link.cut(late_s=20.0)
            self.link = None

    def answers(self, actor_id: bytes) -> bool:
        """Say whether an incarnation of the actor here would answer a caller: not while fenced."""
        if self.is_dead or self.contact.is_lost(self.world.now_s):
            return False
        known = self.actors.get(actor_id)
        return known is not None and known[1]

    def _check(self) -> None:
        assert all(amount >= 0 for amount in self.free.values()), f"{self.node_id} holds more than it has: {self.free}"
