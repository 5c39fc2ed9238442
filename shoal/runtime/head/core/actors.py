"""Actors as the head knows them: names, places, restarts, who watches, who owns.

The head places an actor, the agent starts it, and only an agent's verdict or a node's death ends an incarnation; so an
actor never has two that answer. Every incarnation that may have run gets its own `generation`; what an older one says
is answered with a kill. Everything that a caller was promised is journaled before it is said.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from shoal.runtime.decide.actor_states import ActorFact, ActorState, after, comes_back
from shoal.runtime.decide.head_spots import Spots
from shoal.runtime.head.core.actor_queue import Actor, ActorQueue
from shoal.runtime.head.core.events import Outbox, Rejected
from shoal.runtime.head.core.groups import Groups
from shoal.runtime.head.core.nodes import Member, Nodes
from shoal.runtime.head.core.rows import ActorRow
from shoal.runtime.head.core.view import WorkView
from shoal.wire.messages import ActorEnded, ActorHere, ActorStarted, KillActor, StartActor

DROPPED = "dropped"
"""Why an actor is killed that nobody has a handle of: its agent lets pending calls finish first."""


class Actors:
    """Every actor that is not long dead."""

    def __init__(self, out: Outbox, nodes: Nodes, spots: Spots, groups: Groups, view: WorkView) -> None:
        self._out, self._nodes, self._spots, self._groups = out, nodes, spots, groups
        self.all: dict[bytes, Actor] = {}
        self.names: dict[tuple[str, str], bytes] = {}
        self._dead: OrderedDict[bytes, None] = OrderedDict()
        self._by_node: dict[str, set[bytes]] = {}
        self._by_creator: dict[bytes, set[bytes]] = {}
        self._by_job: dict[str, set[bytes]] = {}
        self._by_group: dict[str, set[bytes]] = {}
        self.queue = ActorQueue(view)

    # ---------------------------------------------------------------------------------------- requests

    def create(self, row: ActorRow, *, is_getting: bool) -> dict[str, Any]:
        """Register an actor and place it; with `is_getting` an existing one of that name is the answer.

        Raises:
            Rejected: the name is taken, or its group is gone.
        """
        known = self.all.get(row.actor_id)
        if known is not None:
            return {"actor_id": row.actor_id, "is_existing": False, "handle": known.row.handle}
        if row.name:
            holder = self.names.get((row.namespace, row.name))
            if holder is not None:
                if is_getting:
                    return {"actor_id": holder, "is_existing": True, "handle": self.all[holder].row.handle}
                raise Rejected(
                    "ActorAlreadyExistsError",
                    f"the name `{row.name}` (namespace `{row.namespace}`) is already taken by another actor",
                )
        if row.group_id and not self._groups.is_there(row.group_id):
            raise Rejected("ValueError", f"placement group {row.group_id} does not exist or was removed")
        row.began_wall_s = self._out.wall_s()
        actor = Actor(row=row, watchers=set(), since_s=self._out.now_s)
        if row.creator:
            actor.watchers.add((row.creator_node, row.creator))
        self._index(actor)
        self._out.record("actor_state", actor=row.actor_id.hex(), before="", after=row.state, why="created")
        self._place(actor)
        self._out.journal("actors", row.actor_id.hex(), row)
        return {"actor_id": row.actor_id, "is_existing": False, "handle": row.handle}

    def watch(self, actor_id: bytes, node_id: str, process: bytes) -> dict[str, Any]:
        """Return the actor's row now and follow it for the process."""
        actor = self.all.get(actor_id)
        if actor is None:
            return {**_UNKNOWN, "actor_id": actor_id}
        if process and actor.row.state is not ActorState.DEAD:
            actor.watchers.add((node_id, process))
        return self.shown(actor)

    def named(self, namespace: str, name: str) -> dict[str, Any]:
        """Return {actor_id, handle} of a live named actor.

        Raises:
            Rejected: there is none.
        """
        actor_id = self.names.get((namespace, name))
        if actor_id is None:
            raise Rejected("ValueError", f"no live actor is called `{name}` in namespace `{namespace}`")
        return {"actor_id": actor_id, "handle": self.all[actor_id].row.handle}

    def kill(self, actor_id: bytes, *, no_restart: bool, why: str = "killed by `shoal.kill`") -> None:
        """End an actor for good, or only its present process. Quiet if it is dead."""
        actor = self.all.get(actor_id)
        if actor is None or actor.row.state is ActorState.DEAD:
            return
        row = actor.row
        if row.node_id:
            actor.killed_generation = row.generation
            self._nodes.send(row.node_id, KillActor(row.actor_id, row.generation, why), is_durable=True)
        if no_restart:
            self._die(actor, "killed", why)

    def drop(self, actor_id: bytes) -> None:
        """Nobody has a handle any more: end it once its pending calls are done, unless it is detached."""
        actor = self.all.get(actor_id)
        if actor is None or actor.row.is_detached or actor.row.state is ActorState.DEAD:
            return
        row = actor.row
        if not row.node_id:
            self._die(actor, DROPPED, "no handle is left")
            return
        row.is_dropped = True
        self._out.journal("actors", row.actor_id.hex(), row)
        self._nodes.send(row.node_id, KillActor(row.actor_id, row.generation, DROPPED), is_durable=True)

    # ------------------------------------------------------------------------------------------- facts

    def started(self, member: Member, news: ActorStarted) -> None:
        """An agent says that the constructor returned."""
        actor = self.all.get(news.actor_id)
        if actor is None or not self._is_current(actor, member.node_id, news.generation):
            self._out.send(member.connection, KillActor(news.actor_id, news.generation, "superseded"))
            return
        row = actor.row
        before, row.state = row.state, after(row.state, ActorFact.STARTED)
        row.process, row.address, row.pid = news.process, news.address, news.pid
        row.cause = row.why = ""
        actor.refusals = 0
        if row.group_id:
            self._groups.reseat(row.group_id, row.actor_id, row.held)
        else:
            self._spots.ack(row.node_id, row.actor_id, self._out.now_s, row.held)
        if before is row.state:
            return
        self._changed(actor, before)
        if row.is_dropped:
            self._out.send(member.connection, KillActor(row.actor_id, row.generation, DROPPED), is_durable=True)

    def ended(self, member: Member, news: ActorEnded) -> None:
        """An agent's verdict about an incarnation."""
        actor = self.all.get(news.actor_id)
        if actor is None or not self._is_current(actor, member.node_id, news.generation):
            return
        if news.cause == "refused":
            self._unplace(actor)
            actor.refused_by = member.node_id
            self.queue.refuse(actor, self._out.now_s)
            return
        self._lost(actor, news.cause, news.why, news.error)

    def node_died(self, node_id: str, why: str) -> None:
        """Every incarnation there is gone."""
        for actor_id in sorted(self._by_node.get(node_id, ())):
            self._lost(self.all[actor_id], "node-died", f"its node died: {why}")

    def node_back(self, member: Member, here: Iterable[ActorHere]) -> None:
        """A node re-joined: compare what it has with what the head believes, and mend the difference."""
        listed = {one.actor_id: one for one in here}
        for one in listed.values():
            actor = self.all.get(one.actor_id)
            if actor is None or actor.row.state is ActorState.DEAD or one.generation < actor.row.generation:
                self._out.send(member.connection, KillActor(one.actor_id, one.generation, "superseded"))
                continue
            row = actor.row
            if row.node_id != member.node_id or one.generation > row.generation or row.state is not ActorState.ALIVE:
                # The head lost its last rows (a full disk) or the news that it had started: what runs, runs.
                self.queue.remove(actor)
                self._unplace(actor)
                row.generation = one.generation
                self._sit(actor, member.node_id)
                before, row.state = row.state, ActorState.ALIVE
                row.address = one.address
                self._changed(actor, before)
            if row.is_dropped:
                self._out.send(member.connection, KillActor(one.actor_id, one.generation, DROPPED))
            elif actor.killed_generation >= one.generation:
                self._out.send(member.connection, KillActor(one.actor_id, one.generation, "killed"))
        for actor_id in sorted(self._by_node.get(member.node_id, ())):
            if actor_id in listed:
                continue
            actor = self.all[actor_id]
            if actor.row.state is ActorState.ALIVE:
                self._lost(actor, "crashed", "it ended while its node was out of touch")
            else:
                self._send_start(actor)

    def process_died(self, process: bytes) -> None:
        """A process is dead: what it created and did not detach dies with it."""
        for actor_id in sorted(self._by_creator.get(process, ())):
            self._orphan(self.all[actor_id], "its creator died")

    def job_ended(self, job: str) -> None:
        """A job ended: its actors end but for the detached."""
        for actor_id in sorted(self._by_job.get(job, ())):
            self._orphan(self.all[actor_id], "its job ended")

    def group_removed(self, group_id: str) -> None:
        """The ground is gone."""
        for actor_id in sorted(self._by_group.get(group_id, ())):
            actor = self.all[actor_id]
            if actor.row.state is not ActorState.DEAD:
                self._die(actor, "group-removed", f"its placement group {group_id} was removed")

    def never_fits(self, class_key: str, why: str) -> None:
        """Those that wait in the class can never be placed."""
        for actor in self.queue.of_class(class_key):
            self._die(actor, "never-fits", why)

    def owned_by(self, process: bytes) -> bytes | None:
        """Return the live actor whose process this is, None if it is none."""
        for actor_id in self._by_node.get(process[:14].hex(), ()):
            if self.all[actor_id].row.process == process:
                return actor_id
        return None

    def is_detached(self, process: bytes) -> bool:
        """Say whether a live detached actor is in the process."""
        actor_id = self.owned_by(process)
        return actor_id is not None and self.all[actor_id].row.is_detached

    # --------------------------------------------------------------------------------------- placement

    def try_waiting(self, among: set[str]) -> None:
        """Try those who wait, class by class, on nodes whose room grew."""
        for waiting in self.queue.by_class():
            for actor in waiting:
                if not self._place(actor, among=among):
                    break
        for actor in self.queue.seatless():
            self._place(actor)

    def try_refused(self) -> None:
        """Try those anew whose node had no room after all, on any node."""
        for actor in self.queue.due(self._out.now_s):
            self._place(actor)

    def restore(self, rows: dict[str, ActorRow]) -> None:
        """Start from a journal. Those that were on their way are started again when their node is back, or placed."""
        for row in sorted(rows.values(), key=lambda one: one.began_wall_s):
            actor = Actor(row=row, watchers=set(), since_s=self._out.now_s)
            if row.state is ActorState.DEAD:
                self.all[row.actor_id] = actor
                self._dead[row.actor_id] = None
                continue
            if row.creator:
                actor.watchers.add((row.creator_node, row.creator))
            self._index(actor)
            if row.node_id:
                self._by_node.setdefault(row.node_id, set()).add(row.actor_id)
                if row.seat >= 0:
                    amounts = row.held if row.state is ActorState.ALIVE else row.amounts
                    self._groups.seats.take(row.group_id, row.actor_id, row.seat, amounts)
                if row.node_id not in self._nodes.alive:
                    self._lost(actor, "node-died", "its node died")
            else:
                self.queue.add(actor)

    def shown(self, actor: Actor) -> dict[str, Any]:
        """Return the row that watchers get."""
        row = actor.row
        return {
            "actor_id": row.actor_id,
            "state": row.state.value,
            "generation": row.generation,
            "restarts": row.restarts,
            "address": row.address if row.state is ActorState.ALIVE else [],
            "node_id": row.node_id,
            "pid": row.pid,
            "name": row.name,
            "class_name": row.class_name,
            "why": row.why,
            "cause": row.cause,
            "error": row.error,
            "will_restart": row.state is not ActorState.DEAD,
        }

    # ------------------------------------------------------------------------------------------ leaves

    def _is_current(self, actor: Actor, node_id: str, generation: int) -> bool:
        row = actor.row
        return row.state is not ActorState.DEAD and row.node_id == node_id and row.generation == generation

    def _place(self, actor: Actor, among: set[str] | None = None) -> bool:
        row, seat = actor.row, None
        if row.group_id:
            if not self._groups.is_there(row.group_id):
                self._die(actor, "group-removed", f"its placement group {row.group_id} was removed")
                return True
            seat = self._groups.seat(row.group_id, row.actor_id, row.bundle, row.amounts, actor.refused_by)
            node_id = seat[0] if seat else None
        else:
            away = (actor.refused_by,) if actor.refused_by else ()
            node_id = self._spots.pick(
                row.amounts,
                row.selector,
                spread=row.spread,
                home="" if row.spread else row.creator_node,
                among=among,
                away_from=away,
            )
        actor.refused_by = ""
        if node_id is None:
            self.queue.add(actor)
            return False
        self.queue.remove(actor)
        self._sit(actor, node_id)
        if seat is not None:
            row.seat = seat[1]
        else:
            self._spots.hold(node_id, row.actor_id, row.amounts, self._out.now_s)
        self._out.journal("actors", row.actor_id.hex(), row)
        self._send_start(actor)
        return True

    def _send_start(self, actor: Actor) -> None:
        row = actor.row
        options = {
            **row.options,
            "is_detached": row.is_detached,
            "restarts": row.restarts,
            "max_restarts": row.restarts_max,
            "class_name": row.class_name,
            "name": row.name,
            "namespace": row.namespace,
            "creator": row.creator,
        }
        start = StartActor(
            actor_id=row.actor_id,
            generation=row.generation,
            job=row.job,
            amounts=row.amounts,
            held=row.held,
            spec=row.spec,
            group_id=row.group_id,
            bundle=row.seat if row.seat >= 0 else row.bundle,
            options=options,
        )
        self._nodes.send(row.node_id, start, is_durable=True)

    def _lost(self, actor: Actor, cause: str, why: str, error: bytes = b"") -> None:
        row = actor.row
        if row.state is ActorState.PENDING and cause == "node-died" and not row.is_dropped:
            # Its constructor may have begun, so this is another incarnation; but the user has lost no state.
            self._unplace(actor)
            row.generation += 1
            if not self._place(actor):
                self._out.journal("actors", row.actor_id.hex(), row)
            return
        if not comes_back(cause, restarts=row.restarts, restarts_max=row.restarts_max, is_ending=row.is_dropped):
            self._die(actor, cause, why, error)
            return
        self._unplace(actor)
        before, row.state = row.state, after(row.state, ActorFact.LOST)
        row.restarts += 1
        row.generation += 1
        row.cause, row.why, row.process, row.pid = cause, why, b"", 0
        actor.since_s = self._out.now_s
        self._changed(actor, before)
        self._place(actor)

    def _orphan(self, actor: Actor, why: str) -> None:
        if not actor.row.is_detached:
            self.kill(actor.row.actor_id, no_restart=True, why=why)

    def _die(self, actor: Actor, cause: str, why: str, error: bytes = b"") -> None:
        row = actor.row
        before, row.state = row.state, after(row.state, ActorFact.ENDED)
        row.cause, row.why, row.error, row.ended_wall_s = cause, why, error, self._out.wall_s()
        row.spec = b""
        node_id = row.node_id
        self.queue.remove(actor)
        self._unplace(actor)
        row.node_id = node_id  # shown in listings; nothing hangs on it any more
        for index, key in (
            (self._by_creator, row.creator),
            (self._by_job, row.job),
            (self._by_group, row.group_id),
        ):
            _discard(index, key, row.actor_id)
        if self.names.get((row.namespace, row.name)) == row.actor_id:
            del self.names[row.namespace, row.name]
        self._changed(actor, before)
        actor.watchers = set()
        row.handle = b""
        self._dead[row.actor_id] = None
        while len(self._dead) > self._out.settings.dead_max:
            oldest, _ = self._dead.popitem(last=False)
            self.all.pop(oldest, None)
            self._out.journal("actors", oldest.hex(), None)

    def _changed(self, actor: Actor, before: ActorState) -> None:
        row = actor.row
        self._out.journal("actors", row.actor_id.hex(), row)
        self._out.record("actor_state", actor=row.actor_id.hex(), before=before, after=row.state, why=row.why)
        if actor.watchers:
            news = self.shown(actor)
            for node_id, process in sorted(actor.watchers):
                self._nodes.tell(node_id, process, "actor", news)

    def _index(self, actor: Actor) -> None:
        row = actor.row
        self.all[row.actor_id] = actor
        if row.name:
            self.names[row.namespace, row.name] = row.actor_id
        if row.creator:
            self._by_creator.setdefault(row.creator, set()).add(row.actor_id)
        self._by_job.setdefault(row.job, set()).add(row.actor_id)
        if row.group_id:
            self._by_group.setdefault(row.group_id, set()).add(row.actor_id)

    def _sit(self, actor: Actor, node_id: str) -> None:
        actor.row.node_id = node_id
        self._by_node.setdefault(node_id, set()).add(actor.row.actor_id)

    def _unplace(self, actor: Actor) -> None:
        row = actor.row
        if row.node_id:
            _discard(self._by_node, row.node_id, row.actor_id)
            self._spots.release(row.node_id, row.actor_id)
        if row.group_id:
            self._groups.unseat(row.group_id, row.actor_id)
            row.seat = -1
        row.node_id = ""


_UNKNOWN = {
    "state": ActorState.DEAD.value,
    "generation": 0,
    "restarts": 0,
    "address": [],
    "node_id": "",
    "pid": 0,
    "name": "",
    "class_name": "",
    "why": "the head knows no such actor: it died long ago or was never created",
    "cause": "unknown",
    "error": b"",
    "will_restart": False,
}


def _discard(index: dict[Any, set[bytes]], key: Any, actor_id: bytes) -> None:
    held = index.get(key)
    if held is not None:
        held.discard(actor_id)
        if not held:
            del index[key]
