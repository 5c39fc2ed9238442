"""Who has joined: registry of nodes with their streams, verdicts and what hangs on them.

A broken connection is never a death. A node is dead by verdict only: silent for `node_dead_s` on the head's clock and
the head not settling after a restart; or it said goodbye; or another agent joined for the same instance; or its machine
was released. A dead node's id never comes back: its agent is told to kill all workers and join anew.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from typing import Any

import msgspec

from shoal.foundation.amounts import Amounts
from shoal.model import node as model
from shoal.model.node import Busy
from shoal.placement import selectors
from shoal.runtime.decide.demand_ledger import DemandLedger
from shoal.runtime.decide.head_spots import Spots
from shoal.runtime.head.core.events import Hang, Outbox
from shoal.runtime.head.core.rows import JoinRow, MetaRow, NodeRow
from shoal.runtime.head.core.view import CLASS, FLAGS, NODE, WorkView
from shoal.wire.messages import Join, Joined, Refused, Report, Tell


class Member(msgspec.Struct, kw_only=True):
    """One live node: its journaled row and the soft state that its stream brought."""

    row: NodeRow
    connection: int | None = None
    heard_s: float = 0.0
    is_missing: bool = False
    free: Amounts = {}
    idle_serial: int = 0
    idle_since_s: float | None = None
    busy: tuple[Busy, ...] = ()
    store_used_bytes: int = 0
    stats: dict[str, float] = {}
    drain_order: str = ""
    drain_answer: str = ""
    notice: str = ""
    notice_until_s: float | None = None
    listed: frozenset[bytes] = frozenset()
    listed_to: int = -1
    """The processes that its newest `Join` named, and the highest number among them: lower ones not named are dead."""
    jobs_ended: list[str] = []
    """Jobs that ended while it was out of touch: it is told when it is back."""

    @property
    def node_id(self) -> str:
        return self.row.node_id


class Nodes:
    """Every live node, and the newest dead ones for listings and verdicts."""

    def __init__(self, out: Outbox, meta: MetaRow, spots: Spots, demand: DemandLedger, view: WorkView) -> None:
        self._out, self._meta, self._spots, self._demand, self._view = out, meta, spots, demand, view
        self.alive: dict[str, Member] = {}
        self.dead: OrderedDict[str, NodeRow] = OrderedDict()
        self.by_connection: dict[int, Member] = {}
        self.by_instance: dict[str, Member] = {}
        self.dead_processes: OrderedDict[bytes, str] = OrderedDict()
        self.settles_until_s: float | None = None
        self.cordoned: dict[str, str] = {}
        """Instance id to order, kept by `Orders`."""
        self.barred: set[str] = set()
        self._joins: dict[str, JoinRow] = {}
        self._news_joined: dict[str, list[str]] = {}
        self._news_left: dict[str, str] = {}
        self._idle_since_s: float | None = None

    # ---------------------------------------------------------------------------------------- joining

    def refusal(self, join: Join) -> Refused | None:
        """Return why the node may not join, None if it may."""
        settings = self._out.settings
        if join.epoch > self._meta.epoch:
            return Refused(f"this head is of epoch {self._meta.epoch}, the cluster is at {join.epoch}")
        if join.node_id in self.dead:
            return Refused(f"node {join.node_id[:8]} was declared dead: {self.dead[join.node_id].why}", is_dead=True)
        if join.instance_id and join.instance_id in self.barred:
            return Refused(f"instance {join.instance_id} may not join any more: it is being released")
        if (join.token or join.join_secret) and not self.is_secret(join.token, join.join_secret):
            return Refused(f"join secret: not one of cluster {settings.cluster_uid[:8]}")
        return None

    def is_secret(self, token: str, secret: str) -> bool:
        """Say whether `secret` is the join secret of `token` under the key of any epoch so far."""
        return any(hmac.compare_digest(join_secret(key, token), secret) for key in self._meta.join_keys.values())

    def join(self, connection: int, join: Join) -> tuple[Member, Member | None] | None:
        """Take a node in; return it and, if its instance had another live node, that one (now to be declared dead).

        None: it was refused, and told so.
        """
        refusal = self.refusal(join)
        if refusal is not None:
            self._out.send(connection, refusal)
            self._out.add(Hang(connection))
            self._out.record("join_refused", node=join.node_id, instance=join.instance_id, why=refusal.why)
            return None
        now_s = self._out.now_s
        member = self.alive.get(join.node_id)
        replaced = self.by_instance.get(join.instance_id) if join.instance_id else None
        if replaced is member:
            replaced = None
        if member is None:
            row = _row(join, self._out.wall_s())
            member = self.alive[join.node_id] = Member(row=row, jobs_ended=[])
            self._out.journal("nodes", row.node_id, row)
            self._out.record(
                "node_joined",
                node=row.node_id,
                instance=row.instance_id,
                node_type=row.node_type,
                resources=row.total,
            )
        else:
            if member.connection != connection:
                self._leave_connection(member)
            if member.is_missing:
                self._out.record("node_returned", node=join.node_id)
            fresh = _row(join, member.row.joined_wall_s)
            if fresh != member.row:
                member.row = fresh
                self._out.journal("nodes", fresh.node_id, fresh)
        if join.token:
            # A batch of machines shares one token, so its use is noted per instance.
            key = f"{join.token} {join.instance_id}"
            used = self._joins.get(key)
            if used is None or used.node_id != join.node_id:
                self._joins[key] = JoinRow(instance_id=join.instance_id, token=join.token, node_id=join.node_id)
                self._out.journal("joins", key, self._joins[key])
        member.connection, member.heard_s, member.is_missing = connection, now_s, False
        member.listed = frozenset(join.processes)
        member.listed_to = max((_number(process) for process in join.processes), default=-1)
        member.free = dict(join.total)
        member.idle_since_s, member.busy = None, ()
        self.by_connection[connection] = member
        if join.instance_id:
            self.by_instance[join.instance_id] = member
        self._spots.join(member.node_id, member.free, self.labels_of(member))
        self.refresh_open(member)
        self._news_joined[member.node_id] = join.address
        self._view.touch(NODE, member.node_id)
        settings = self._out.settings
        self._out.send(
            connection,
            Joined(
                node_id=member.node_id,
                epoch=self._meta.epoch,
                cluster_uid=settings.cluster_uid,
                fence_s=settings.fence_s,
                heartbeat_s=settings.heartbeat_s,
                peers={one.node_id: one.row.address for one in self.alive.values() if one is not member},
            ),
        )
        return member, replaced

    @staticmethod
    def labels_of(member: Member) -> dict[str, str]:
        """Return the node's labels with those every node has."""
        row = member.row
        return selectors.labels_of_node(row.node_id, row.node_type, row.labels)

    def closed(self, connection: int) -> Member | None:
        """A connection ended: freeze what hung on it, place nothing there until it is back."""
        member = self.by_connection.pop(connection, None)
        if member is None:
            return None
        member.connection = None
        self._demand.freeze(member.node_id)
        self._spots.allow(member.node_id, False)
        self._view.touch(NODE, member.node_id)
        return member

    # ---------------------------------------------------------------------------------------- reports

    def report(self, member: Member, report: Report) -> bool:
        """Take usage and backlog in one cut; return whether there is more room somewhere than before."""
        now_s = self._out.now_s
        member.heard_s = now_s
        is_changed = report.is_full
        if report.total is not None and report.total != member.row.total:
            member.row.total = report.total
            self._out.journal("nodes", member.node_id, member.row)
            is_changed = True
        if report.free is not None and report.free != member.free:
            member.free = report.free
            is_changed = True
        if report.idle_serial is not None and report.idle_serial != member.idle_serial:
            member.idle_serial = report.idle_serial
            is_changed = True
        if report.busy is not None:
            # A busy list is what makes `idle_s` None mean busy rather than unchanged.
            member.busy = tuple(Busy(what=one.what, count=one.count, detail=one.detail) for one in report.busy)
            is_changed = True
            if member.busy:
                member.idle_since_s = None
        if report.idle_s is not None:
            since_s = now_s - report.idle_s
            if member.idle_since_s is None or abs(member.idle_since_s - since_s) > 1.0:
                member.idle_since_s = since_s
                is_changed = True
            if member.busy:
                member.busy = ()
        if report.store_used_bytes is not None:
            member.store_used_bytes = report.store_used_bytes
        if report.stats is not None:
            member.stats = report.stats
        if is_changed:
            self._view.touch(NODE, member.node_id)
        taken = self._demand.newly_granted(member.node_id, report.granted) if report.granted else None
        if report.backlog or report.granted or report.is_full:
            touched = self._demand.report(member.node_id, report.backlog, report.granted, now_s, is_full=report.is_full)
            for class_key in touched:
                self._view.touch(CLASS, class_key)
        growth = self._spots.growth
        self._spots.report(member.node_id, report.free, now_s, taken)
        return self._spots.growth != growth

    def silent(self) -> list[Member]:
        """Return the nodes whose time is over; none while the head settles."""
        if self.is_settling():
            return []
        limit_s = self._out.now_s - self._out.settings.node_dead_s
        return [member for member in self.alive.values() if member.heard_s <= limit_s]

    def end(self, member: Member, why: str, verdict: str = "dead") -> None:
        """Declare a node dead (or left). Its id never comes back."""
        row, settings = member.row, self._out.settings
        row.verdict, row.why, row.ended_wall_s = verdict, why, self._out.wall_s()
        self.alive.pop(row.node_id, None)
        self.dead[row.node_id] = row
        if self.by_instance.get(row.instance_id) is member:
            del self.by_instance[row.instance_id]
        if member.connection is not None:
            self._out.send(member.connection, Refused(f"declared dead: {why}", is_dead=True))
            self._out.add(Hang(member.connection))
            self.by_connection.pop(member.connection, None)
            member.connection = None
        self._spots.leave(row.node_id)
        for class_key in self._demand.drop_node(row.node_id):
            self._view.touch(CLASS, class_key)
        self._out.journal("nodes", row.node_id, row)
        self._out.record(
            "node_left" if verdict == "left" else "node_died", node=row.node_id, instance=row.instance_id, why=why
        )
        self._view.touch(NODE, row.node_id)
        self._news_joined.pop(row.node_id, None)
        self._news_left[row.node_id] = why
        while len(self.dead) > settings.dead_max:
            oldest, _ = self.dead.popitem(last=False)
            self._out.journal("nodes", oldest, None)
            for key in [key for key, join in self._joins.items() if join.node_id == oldest]:
                del self._joins[key]
                self._out.journal("joins", key, None)
        for other in self.alive.values():
            self._out.send(other.connection, Tell(b"", "node-died", {"node_id": row.node_id, "why": why}))

    # ------------------------------------------------------------------------------------------ news

    def tell_news(self) -> None:
        """Tell every agent who came and went since the last time."""
        if not self._news_joined and not self._news_left:
            return
        news = Tell(b"", "nodes", {"peers": self._news_joined, "left": self._news_left})
        self._news_joined, self._news_left = {}, {}
        for member in self.alive.values():
            self._out.send(member.connection, news)

    def tell(self, node_id: str, process: bytes, what: str, value: Any) -> None:
        """Tell one process, through its home agent; quiet if that is out of touch (it is told when it is back)."""
        member = self.alive.get(node_id)
        if member is not None:
            self._out.send(member.connection, Tell(process, what, value))

    def send(self, node_id: str, message: Any, *, is_durable: bool = False) -> bool:
        """Send to a node's agent; return False if it is out of touch or gone."""
        member = self.alive.get(node_id)
        if member is None or member.connection is None:
            return False
        self._out.send(member.connection, message, is_durable=is_durable)
        return True

    def note_death(self, process: bytes, why: str) -> bool:
        """Keep an agent's verdict about one of its processes; return False if it was known."""
        if process in self.dead_processes:
            return False
        self.dead_processes[process] = why
        while len(self.dead_processes) > 10 * self._out.settings.dead_max:
            self.dead_processes.popitem(last=False)
        return True

    def is_process_alive(self, process: bytes) -> bool:
        """Say False only by a verdict: of the process's agent, or of the head about its node.

        An agent numbers its processes upwards and names all that live when it joins, so a lower number that it did not
        name is its verdict too: one that an earlier head heard of, and took with it.
        """
        node_id = process[:14].hex()
        if process in self.dead_processes or node_id in self.dead:
            return False
        member = self.alive.get(node_id)
        return member is None or _number(process) > member.listed_to or process in member.listed

    # ----------------------------------------------------------------------------------------- state

    def refresh_open(self, member: Member) -> None:
        """Allow placing on the node if it is in touch and not cordoned."""
        is_open = member.connection is not None and member.row.instance_id not in self.cordoned
        self._spots.allow(member.node_id, is_open and not member.notice)

    def is_settling(self) -> bool:
        """Say whether the head restarted so recently that nodes may still be on their way back."""
        return self.settles_until_s is not None and self._out.now_s < self.settles_until_s

    def missing(self) -> list[str]:
        """Return the nodes that the journal has alive and that are not back."""
        return [member.node_id for member in self.alive.values() if member.is_missing]

    def idle_s(self, has_work: bool) -> float | None:
        """Return for how long nobody has had anything to do, None while somebody has. Cost: number of nodes."""
        now_s = self._out.now_s
        is_busy = has_work or any(member.idle_since_s is None for member in self.alive.values())
        if is_busy:
            self._idle_since_s = None
            return None
        if self._idle_since_s is None:
            self._idle_since_s = max((member.idle_since_s or now_s for member in self.alive.values()), default=now_s)
        return max(0.0, now_s - self._idle_since_s)

    def model(self, node_id: str, now_s: float) -> model.Node | None:
        """Return the node as the autoscaler sees it, None if it is not alive."""
        member = self.alive.get(node_id)
        if member is None:
            return None
        row = member.row
        return model.Node(
            node_id=row.node_id,
            instance_id=row.instance_id,
            node_type=row.node_type,
            total=row.total,
            # A missing node has no free amounts until it is back: its last capacity counts as there and full.
            free=member.free,
            labels=self.labels_of(member),
            is_head=row.is_head,
            is_cordoned=row.instance_id in self.cordoned,
            is_stale=member.connection is None,
            is_missing=member.is_missing,
            idle_s=None if member.idle_since_s is None else max(0.0, now_s - member.idle_since_s),
            idle_serial=member.idle_serial,
            busy=member.busy,
            drain_order=member.drain_order,
            drain_answer=member.drain_answer,
            notice=member.notice,
            notice_deadline_s=None if member.notice_until_s is None else max(0.0, member.notice_until_s - now_s),
            address=row.address[0] if row.address else "",
        )

    def restore(self, rows: dict[str, NodeRow], joins: dict[str, JoinRow]) -> None:
        """Start from a journal: nodes that were alive are missing until they are back."""
        self._joins = dict(joins)
        for row in sorted(rows.values(), key=lambda one: one.joined_wall_s):
            if row.verdict:
                self.dead[row.node_id] = row
                continue
            member = Member(row=row, is_missing=True, heard_s=self._out.now_s, jobs_ended=[])
            self.alive[row.node_id] = member
            if row.instance_id:
                self.by_instance[row.instance_id] = member
            self._out.record("node_missing", node=row.node_id)
        if self.alive:
            self.settles_until_s = self._out.now_s + self._out.settings.settle_for_s
        self._view.touch(FLAGS)

    def settled(self) -> bool:
        """Return True once, when the settling time is over."""
        if self.settles_until_s is None or self._out.now_s < self.settles_until_s:
            return False
        self.settles_until_s = None
        self._out.record("head_settled", missing=self.missing())
        self._view.touch(FLAGS)
        return True

    def _leave_connection(self, member: Member) -> None:
        if member.connection is not None:
            self.by_connection.pop(member.connection, None)
            self._out.add(Hang(member.connection))
            member.connection = None


def join_secret(key: bytes, token: str) -> str:
    """Return the join secret of a launch token: the same for the same token, so that replays are byte-equal."""
    return hmac.new(key, b"shoal join " + token.encode(), hashlib.sha256).hexdigest()


def _number(process: bytes) -> int:
    return int.from_bytes(process[14:], "big")


def _row(join: Join, joined_wall_s: float) -> NodeRow:
    return NodeRow(
        node_id=join.node_id,
        instance_id=join.instance_id,
        node_type=join.node_type,
        total=join.total,
        labels=join.labels,
        address=join.address,
        is_head=join.is_head,
        hostname=join.hostname,
        pid=join.pid,
        object_store_bytes=join.object_store_bytes,
        version=join.version,
        joined_wall_s=joined_wall_s,
    )
