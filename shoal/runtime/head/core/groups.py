"""Placement groups: all bundles or none, in two phases.

Prepare asks every chosen agent to reserve; once all have, the decision is journaled, then committed at the agents. If
one cannot, or falls silent, all of it is undone and the group waits for room again; agents drop a prepared bundle that
is never committed. A node's death takes its bundles with it: the group is rescheduled for those only.

Cost: one group's work depends on its bundles, not on the number of nodes or groups.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from shoal.foundation.amounts import Amounts, plus, quantities
from shoal.model.demand import Gang, Strategy
from shoal.runtime.decide.group_states import GroupFact, GroupState, after
from shoal.runtime.decide.head_spots import Spots
from shoal.runtime.head.core.events import Outbox, Rejected
from shoal.runtime.head.core.nodes import Member, Nodes
from shoal.runtime.head.core.rows import GroupRow
from shoal.runtime.head.core.seats import Seats
from shoal.runtime.head.core.view import GANG, WorkView
from shoal.wire.messages import Commit, Committed, GroupSpec, Prepare, Prepared, ReturnBundles


class Group(msgspec.Struct, kw_only=True):
    """One group: its journaled row, the attempt under way, and the actors in its bundles."""

    row: GroupRow
    watchers: set[tuple[str, bytes]]
    since_s: float = 0.0
    plan: dict[int, str] = {}
    preparing: set[str] = set()
    committing: set[str] = set()
    decided: dict[int, str] = {}
    """The bundles of the newest attempt that was committed."""
    asked_s: float = 0.0
    refused_by: str = ""
    refusals: int = 0

    def missing(self) -> list[int]:
        """Return the numbers of the bundles that have no node."""
        return [number for number, node in enumerate(self.row.nodes) if not node]


class Groups:
    """Every placement group that is not removed."""

    def __init__(self, out: Outbox, nodes: Nodes, spots: Spots, view: WorkView) -> None:
        self._out, self._nodes, self._spots, self._view = out, nodes, spots, view
        self.all: dict[str, Group] = {}
        self.names: dict[str, str] = {}
        self.removed: OrderedDict[str, GroupRow] = OrderedDict()
        self.seats = Seats()
        self._waiting: dict[str, None] = {}
        self._preparing: dict[str, None] = {}
        self._refused: dict[str, float] = {}
        """Groups that some agent had no room for after all, and when to try again."""
        self._by_node: dict[str, set[str]] = {}
        self._by_creator: dict[bytes, set[str]] = {}
        self._by_job: dict[str, set[str]] = {}
        self.has_news = False
        """Set when a group got bundles: actors may be waiting for them."""

    # ---------------------------------------------------------------------------------------- requests

    def create(self, spec: GroupSpec, creator_node: str, creator: bytes, *, owner: bytes = b"") -> None:
        """Register a group and try to place it. Doing it again is quiet. `owner`: the actor process it dies with.

        Raises:
            Rejected: no bundles, or the name is taken.
        """
        if spec.group_id in self.all:
            return
        if not spec.bundles or any(not bundle.amounts for bundle in spec.bundles):
            raise Rejected("ValueError", "placement group: expected at least one bundle, each with a resource above 0")
        if spec.name and spec.name in self.names:
            raise Rejected("ValueError", f"a placement group named `{spec.name}` already exists")
        row = GroupRow(spec=spec, nodes=[""] * len(spec.bundles), creator=owner, creator_node=creator_node)
        group = Group(row=row, watchers=set(), since_s=self._out.now_s)
        if creator:
            group.watchers.add((creator_node, creator))
        self._index(group)
        if not self._try(group):
            self._wait(group)
        self._out.journal("groups", spec.group_id, row)

    def watch(self, group_id: str, node_id: str, process: bytes) -> dict[str, Any]:
        """Return the group's row now and follow it for the process."""
        group = self.all.get(group_id)
        if group is not None:
            if process:
                group.watchers.add((node_id, process))
            return shown(group.row)
        removed = self.removed.get(group_id)
        if removed is not None:
            return shown(removed)
        raise Rejected("ValueError", f"placement group {group_id} does not exist")

    def named(self, name: str) -> dict[str, Any]:
        """Return the row of a named group.

        Raises:
            Rejected: there is none.
        """
        group_id = self.names.get(name)
        if group_id is None:
            raise Rejected("ValueError", f"no placement group is called `{name}`")
        return shown(self.all[group_id].row)

    def remove(self, group_id: str, why: str = "removed") -> bool:
        """Take the group's bundles back and kill what is inside. Return False if it is gone already."""
        group = self.all.pop(group_id, None)
        if group is None:
            return False
        row = group.row
        before, row.state = row.state, after(row.state, GroupFact.REMOVED)
        row.why = why
        self._waiting_ends(group)
        self._preparing.pop(group_id, None)
        self._refused.pop(group_id, None)
        self.seats.forget(group_id)
        for node_id, amounts in self._held(group).items():
            self._spots.hand_back(node_id, group_id, amounts, self._out.now_s)
            self._nodes.send(node_id, ReturnBundles(group_id, why), is_durable=True)
            self._leave(self._by_node, node_id, group_id)
        if row.spec.name and self.names.get(row.spec.name) == group_id:
            del self.names[row.spec.name]
        self._leave(self._by_job, row.spec.job, group_id)
        self._leave(self._by_creator, row.creator, group_id)
        self.removed[group_id] = row
        while len(self.removed) > self._out.settings.dead_max:
            self.removed.popitem(last=False)
        self._out.journal("groups", group_id, None)
        self._record(row, before, why)
        self._tell(group)
        return True

    # ------------------------------------------------------------------------------------------- facts

    def prepared(self, member: Member, news: Prepared) -> None:
        """An agent reserved its part, or could not."""
        group = self.all.get(news.group_id)
        node_id = member.node_id
        if group is None:
            if news.is_ready:
                self._out.send(member.connection, ReturnBundles(news.group_id, "removed"))
            return
        if news.serial == group.row.serial and node_id in group.committing and not news.is_ready:
            # The commit came so late that the agent had dropped what it had prepared.
            self._break(group, {number for number, node in group.decided.items() if node == node_id}, node_id)
            self._refused[news.group_id] = self._out.now_s
            return
        if news.serial != group.row.serial or node_id not in group.preparing:
            return
        if not news.is_ready:
            self._spots.release(node_id, news.group_id)
            group.preparing.discard(node_id)
            self._undo(group, but=node_id)
            group.refused_by = node_id
            group.refusals += 1
            self._refused[news.group_id] = self._out.now_s + min(1.0, 0.01 * 2.0 ** min(group.refusals, 10))
            self._wait(group)
            return
        self._spots.ack(node_id, news.group_id, self._out.now_s)
        group.preparing.discard(node_id)
        if not group.preparing:
            self._commit(group)

    def committed(self, member: Member, news: Committed) -> None:
        """An agent confirms that its bundles are usable."""
        group = self.all.get(news.group_id)
        if group is None or news.serial != group.row.serial:
            return
        group.committing.discard(member.node_id)
        if not group.committing and group.row.state is GroupState.PREPARED:
            self._created(group)

    def node_died(self, node_id: str) -> None:
        """Bundles there are lost; attempts that involve it start anew."""
        for group_id in sorted(self._by_node.pop(node_id, ())):
            group = self.all[group_id]
            if node_id in group.plan.values():
                self._undo(group, but=node_id)
                self._wait(group)
            self._break(group, {number for number, node in enumerate(group.row.nodes) if node == node_id}, node_id)

    def out_of_touch(self, node_id: str) -> None:
        """The node's stream closed: an attempt that waits for its answer is undone; what is committed stays."""
        for group_id in sorted(self._by_node.get(node_id, ())):
            group = self.all[group_id]
            if node_id in group.preparing:
                self._undo(group, but=node_id)
                self._wait(group)

    def node_back(self, member: Member, bundles: dict[str, list[int]]) -> None:
        """A node re-joined: compare the bundles it has with what the journal believes, and mend the difference."""
        node_id = member.node_id
        for group_id in bundles:
            group = self.all.get(group_id)
            if group is None or node_id not in group.row.nodes:
                self._out.send(member.connection, ReturnBundles(group_id, "removed"))
        for group_id in sorted(self._by_node.get(node_id, ())):
            group = self.all[group_id]
            expected = {number for number, node in enumerate(group.row.nodes) if node == node_id}
            lost = expected - set(bundles.get(group_id, ()))
            if lost:
                self._break(group, lost, node_id)
            elif node_id in group.committing:
                self.committed(member, Committed(group_id, group.row.serial))

    def expire(self) -> None:
        """Undo attempts whose agents did not answer in time."""
        limit_s = self._out.now_s - self._out.settings.prepare_s
        for group_id in tuple(self._preparing):
            group = self.all[group_id]
            if group.asked_s > limit_s:
                break
            self._undo(group)
            self._wait(group)

    def job_ended(self, job: str, stays: Callable[[bytes], bool]) -> list[str]:
        """Remove the job's groups but for detached ones and those of actors that stay (detached ones); return which."""
        rows = [self.all[one].row for one in self._by_job.get(job, ())]
        gone = [row.spec.group_id for row in rows if not (row.spec.is_detached or (row.creator and stays(row.creator)))]
        return [group_id for group_id in gone if self.remove(group_id, "its job ended")]

    def process_died(self, process: bytes) -> list[str]:
        """Remove the groups that a dead actor had created, but for detached ones; return which."""
        gone = [one for one in self._by_creator.get(process, ()) if not self.all[one].row.spec.is_detached]
        return [group_id for group_id in gone if self.remove(group_id, "its creator died")]

    # ------------------------------------------------------------------------------------------- seats

    def is_there(self, group_id: str) -> bool:
        """Say whether the group exists and is not removed."""
        return group_id in self.all

    def seat(
        self, group_id: str, actor_id: bytes, bundle: int, amounts: Amounts, away_from: str = ""
    ) -> tuple[str, int] | None:
        """Give an actor room in a bundle (-1: any); return (node, bundle), None if there is none now."""
        row = self.all[group_id].row
        is_partly_there = row.state in (GroupState.PREPARED, GroupState.RESCHEDULING) and bundle >= 0
        if row.state is not GroupState.CREATED and not is_partly_there:
            return None
        return self.seats.give(row, actor_id, bundle, amounts, away_from)

    def seat_of(self, group_id: str, actor_id: bytes) -> int | None:
        """Return the bundle that an actor sits in."""
        return self.seats.of(group_id, actor_id)

    def reseat(self, group_id: str, actor_id: bytes, held: Amounts) -> None:
        """The actor runs: from now on it holds what it holds for life."""
        self.has_news |= self.seats.shrink(group_id, actor_id, held)

    def unseat(self, group_id: str, actor_id: bytes) -> None:
        """The actor is gone from its bundle."""
        self.has_news |= self.seats.leave(group_id, actor_id)

    # --------------------------------------------------------------------------------------- placement

    def try_waiting(self) -> None:
        """Try every group that waits; of equal ones only until the first that does not fit."""
        failed: set[bytes] = set()
        for group_id in tuple(self._waiting):
            if group_id in self._refused:
                continue
            group = self.all[group_id]
            shape = msgspec.msgpack.encode((group.row.spec.bundles, group.row.spec.strategy, group.missing()))
            if shape in failed:
                continue
            if self._try(group):
                self._waiting_ends(group)
            else:
                failed.add(shape)

    def try_refused(self) -> None:
        """Try those anew that some agent had no room for after all: soon at first, then ever less often."""
        for group_id, due_s in tuple(self._refused.items()):
            if due_s <= self._out.now_s:
                del self._refused[group_id]
                if group_id in self._waiting and self._try(self.all[group_id]):
                    self._waiting_ends(self.all[group_id])

    @property
    def has_refused(self) -> bool:
        """Whether any group is to be tried again because an agent had no room after all."""
        return bool(self._refused)

    @property
    def has_waiting(self) -> bool:
        """Whether any group waits for room."""
        return bool(self._waiting)

    @property
    def has_preparing(self) -> bool:
        """Whether any attempt is under way."""
        return bool(self._preparing)

    def waiting_ids(self) -> Iterable[str]:
        """Return the ids of the groups that wait for room."""
        return self._waiting

    def waiting_owners(self, group_id: str) -> list[tuple[str, bytes]]:
        """Return who follows a group that waits."""
        return list(self.all[group_id].watchers) if group_id in self._waiting else []

    def gang(self, group_id: str, now_s: float) -> Gang | None:
        """Return a waiting group as the autoscaler sees it: the bundles it lacks."""
        if group_id not in self._waiting:
            return None
        group = self.all[group_id]
        spec = group.row.spec
        return Gang(
            gang_id=group_id,
            bundles=tuple(spec.bundles[number] for number in group.missing()),
            strategy=spec.strategy,
            job=spec.job,
            waiting_s=max(0.0, now_s - group.since_s),
            name=spec.name,
        )

    def restore(self, rows: dict[str, GroupRow]) -> None:
        """Start from a journal. What was being prepared starts anew; what was committed is believed until nodes say."""
        for row in rows.values():
            group = Group(row=row, watchers=set(), since_s=self._out.now_s)
            if row.creator:
                group.watchers.add((row.creator_node, row.creator))
            self._index(group)
            if row.state is GroupState.PREPARED:
                row.state = after(row.state, GroupFact.COMMITTED)
            dead = {node for node in row.nodes if node and node not in self._nodes.alive}
            for node_id in {node for node in row.nodes if node} - dead:
                self._by_node.setdefault(node_id, set()).add(row.spec.group_id)
            for node_id in sorted(dead):
                self._break(group, {number for number, node in enumerate(row.nodes) if node == node_id}, node_id)
            if group.missing():
                self._wait(group)

    # ------------------------------------------------------------------------------------------ leaves

    def _try(self, group: Group) -> bool:
        """Choose nodes and ask them to prepare; False if the missing bundles do not all fit now."""
        row, spec = group.row, group.row.spec
        missing = group.missing()
        away = {node for node in row.nodes if node} if spec.strategy is Strategy.STRICT_SPREAD else set()
        bundles = spec.bundles if len(missing) == len(spec.bundles) else [spec.bundles[number] for number in missing]
        found = None
        if group.refused_by:
            found = self._spots.place(bundles, spec.strategy, away | {group.refused_by})
            group.refused_by = ""
        if found is None:
            found = self._spots.place(bundles, spec.strategy, away)
        if found is None:
            return False
        row.serial += 1
        group.plan = dict(zip(missing, found, strict=True))
        group.preparing = set(found)
        group.asked_s = self._out.now_s
        self._preparing[spec.group_id] = None
        for node_id in sorted(group.preparing) if len(group.preparing) > 1 else group.preparing:
            parts = {number: spec.bundles[number].amounts for number, node in group.plan.items() if node == node_id}
            self._spots.hold(node_id, spec.group_id, _sum(parts), self._out.now_s, absorbed_after_s=math.inf)
            self._by_node.setdefault(node_id, set()).add(spec.group_id)
            self._nodes.send(node_id, Prepare(spec.group_id, row.serial, parts, spec.job), is_durable=True)
        return True

    def _commit(self, group: Group) -> None:
        row, group_id = group.row, group.row.spec.group_id
        self._preparing.pop(group_id, None)
        row.state = after(row.state, GroupFact.READY)
        row.why = ""
        group.refusals = 0
        group.committing = set(group.plan.values())
        for number, node_id in group.plan.items():
            row.nodes[number] = node_id
        group.decided, group.plan = group.plan, {}
        self._out.journal("groups", group_id, row)
        for node_id in sorted(group.committing):
            self._nodes.send(node_id, Commit(group_id, row.serial), is_durable=True)
        if group.committing == {row.creator_node}:
            # Its creator hears of it on the very connection that carries the Commit before it: no need to wait.
            self._created(group)

    def _created(self, group: Group) -> None:
        row = group.row
        before, row.state = row.state, after(row.state, GroupFact.COMMITTED)
        self._record(row, before, "")
        self._tell(group)
        self.has_news = True

    def _record(self, row: GroupRow, before: GroupState, why: str) -> None:
        spec = row.spec
        self._out.record("group_state", group=spec.group_id, name=spec.name, before=before, after=row.state, why=why)

    def _break(self, group: Group, lost: set[int], node_id: str) -> None:
        if not lost:
            return
        row = group.row
        for number in lost:
            row.nodes[number] = ""
        if node_id not in row.nodes:
            self._leave(self._by_node, node_id, row.spec.group_id)
        group.committing.discard(node_id)
        before, row.state = row.state, after(row.state, GroupFact.BROKEN)
        row.why = f"lost {len(lost)} bundles with node {node_id[:8]}"
        self._out.journal("groups", row.spec.group_id, row)
        if before is not row.state:
            self._record(row, before, row.why)
            group.since_s = self._out.now_s
            self._tell(group)
        self._wait(group)

    def _undo(self, group: Group, but: str = "") -> None:
        """Give up the attempt under way: whoever was asked returns its part, except `but`, who has none."""
        row = group.row
        for node_id in sorted(set(group.plan.values())):
            parts = {number: row.spec.bundles[number].amounts for number, at in group.plan.items() if at == node_id}
            if node_id in row.nodes:
                # It also holds committed bundles of this group: a newer Prepare replaces the uncommitted ones there.
                self._spots.release(node_id, row.spec.group_id)
                continue
            self._leave(self._by_node, node_id, row.spec.group_id)
            if node_id != but:
                self._spots.hand_back(node_id, row.spec.group_id, _sum(parts), self._out.now_s)
                self._nodes.send(node_id, ReturnBundles(row.spec.group_id, "undone"))
            else:
                self._spots.release(node_id, row.spec.group_id)
        group.plan, group.preparing = {}, set()
        self._preparing.pop(row.spec.group_id, None)

    def _held(self, group: Group) -> dict[str, Amounts]:
        """Return what the group has or was promised, by node."""
        found: dict[str, Amounts] = {}
        for number, node in enumerate(group.row.nodes):
            at = node or group.plan.get(number, "")
            if at:
                amounts = group.row.spec.bundles[number].amounts
                found[at] = plus(found[at], amounts) if at in found else amounts
        return found

    def _wait(self, group: Group) -> None:
        group_id = group.row.spec.group_id
        if group_id not in self._waiting and not group.preparing:
            self._waiting[group_id] = None
        self._view.touch(GANG, group_id)

    def _waiting_ends(self, group: Group) -> None:
        group_id = group.row.spec.group_id
        if group_id in self._waiting:
            del self._waiting[group_id]
            self._view.touch(GANG, group_id)

    def _index(self, group: Group) -> None:
        row = group.row
        self.all[row.spec.group_id] = group
        if row.spec.name:
            self.names[row.spec.name] = row.spec.group_id
        self._by_job.setdefault(row.spec.job, set()).add(row.spec.group_id)
        if row.creator:
            self._by_creator.setdefault(row.creator, set()).add(row.spec.group_id)

    def _tell(self, group: Group) -> None:
        if group.watchers:
            news = shown(group.row)
            for node_id, process in sorted(group.watchers):
                self._nodes.tell(node_id, process, "group", news)

    @staticmethod
    def _leave(index: dict[Any, set[str]], key: Any, group_id: str) -> None:
        held = index.get(key)
        if held is not None:
            held.discard(group_id)
            if not held:
                del index[key]


def shown(row: GroupRow) -> dict[str, Any]:
    """Return the row that watchers get; amounts in natural units."""
    spec = row.spec
    return {
        "group_id": spec.group_id,
        "name": spec.name,
        "state": row.state.value,
        "strategy": spec.strategy.value,
        "bundles": [quantities(bundle.amounts) for bundle in spec.bundles],
        "nodes": row.nodes,
        "why": row.why,
        "job": spec.job,
        "is_detached": spec.is_detached,
    }


def _sum(parts: dict[int, Amounts]) -> Amounts:
    if len(parts) == 1:
        return next(iter(parts.values()))
    found: Amounts = {}
    for amounts in parts.values():
        for name, amount in amounts.items():
            found[name] = found.get(name, 0) + amount
    return found
