"""The autoscaler's orders: sessions, cordons, bars, drains. Kept per instance, because an agent forgets on reboot.

Only one session is in charge; orders of an older one are refused. A cordon ends by itself when nobody extends it, so
a dead autoscaler leaves no node unusable for ever.
"""

from __future__ import annotations

from shoal.runtime.head.core.events import Outbox, Rejected
from shoal.runtime.head.core.nodes import Member, Nodes
from shoal.runtime.head.core.rows import MetaRow, OrderRow
from shoal.runtime.head.core.view import NODE, WorkView
from shoal.wire.messages import Cordon, Drain, DrainAnswer


class Orders:
    """Who is cordoned, barred or draining, and who may say so."""

    def __init__(self, out: Outbox, meta: MetaRow, nodes: Nodes, view: WorkView) -> None:
        self._out, self._meta, self._nodes, self._view = out, meta, nodes, view
        self._cordons: dict[str, OrderRow] = {}
        self._until_s: dict[str, float] = {}
        self._drains: dict[str, tuple[str, int | None, float | None, float]] = {}

    def open_session(self, owner: str) -> int:
        """Put a new session in charge."""
        self._meta.session += 1
        self._meta.session_owner = owner
        self._out.journal("meta", "meta", self._meta)
        self._out.record("session_opened", session=self._meta.session, owner=owner)
        return self._meta.session

    def check_session(self, session: int) -> None:
        """Let orders of the present session pass.

        Raises:
            Rejected: a newer session is in charge.
        """
        if session != self._meta.session:
            raise Rejected("StaleSession", f"session {session} is over, {self._meta.session} is in charge")

    def cordon(self, instance_id: str, order: str, ttl_s: float) -> None:
        """Place nothing more there for `ttl_s`; repeated, it extends the time."""
        row = OrderRow(
            instance_id=instance_id, kind="cordon", order=order, ttl_s=ttl_s, until_wall_s=self._out.wall_s() + ttl_s
        )
        is_new = instance_id not in self._cordons
        self._cordons[instance_id] = row
        self._until_s[instance_id] = self._out.now_s + ttl_s
        self._nodes.cordoned[instance_id] = order
        self._out.journal("orders", f"cordon {instance_id}", row)
        if is_new:
            self._out.record("node_cordoned", instance=instance_id, order=order, until_s=row.until_wall_s)
        member = self._nodes.by_instance.get(instance_id)
        if member is not None:
            self._nodes.refresh_open(member)
            self._out.send(member.connection, Cordon(order, True), is_durable=True)
            self._view.touch(NODE, member.node_id)

    def drain(self, instance_id: str, order: str, idle_serial: int | None, deadline_s: float | None) -> None:
        """Forward a drain; its answer shows at the node. Kept until it is answered, for an agent that reconnects.

        Raises:
            Rejected: nobody holds a cordon there; work would go on arriving.
        """
        if instance_id not in self._cordons:
            raise Rejected("ValueError", f"instance {instance_id} is not cordoned")
        self._drains[instance_id] = (order, idle_serial, deadline_s, self._out.now_s)
        member = self._nodes.by_instance.get(instance_id)
        if member is not None:
            member.drain_order, member.drain_answer = order, ""
            self._out.send(member.connection, Drain(order, idle_serial, deadline_s), is_durable=True)
            self._view.touch(NODE, member.node_id)

    def undrain(self, instance_id: str, order: str) -> None:
        """Lift the cordon and let the agent take work again. Quiet if there is none."""
        self._lift(instance_id, order)

    def answered(self, member: Member, news: DrainAnswer) -> None:
        """The agent says `emptied` or `busy`; busy lifts the cordon."""
        instance_id = member.row.instance_id
        if news.order != member.drain_order:
            return
        member.drain_answer = news.answer
        self._drains.pop(instance_id, None)
        self._out.record("drain_answered", instance=instance_id, order=news.order, answer=news.answer, why=news.why)
        if news.answer == "busy":
            self._lift(instance_id, news.order, keep_answer=True)
        self._view.touch(NODE, member.node_id)

    def bar(self, instance_id: str) -> bool:
        """Commit that the instance may never join; False if it has (a live node is its)."""
        if instance_id in self._nodes.by_instance:
            return False
        if instance_id not in self._nodes.barred:
            self._nodes.barred.add(instance_id)
            row = OrderRow(instance_id=instance_id, kind="bar", order="bar")
            self._out.journal("orders", f"bar {instance_id}", row)
            self._out.record("instance_barred", instance=instance_id)
        return True

    def forget(self, instance_id: str) -> None:
        """The machine is released: its cordon is of no use any more. The node's death is the core's part."""
        if instance_id in self._cordons:
            self._drop(instance_id)
        self._drains.pop(instance_id, None)

    def node_back(self, member: Member) -> None:
        """Repeat to an agent what holds for its instance."""
        row = self._cordons.get(member.row.instance_id)
        if row is None:
            # It may have been out of touch when its cordon was lifted.
            self._out.send(member.connection, Cordon("", False))
            return
        self._out.send(member.connection, Cordon(row.order, True), is_durable=True)
        drain = self._drains.get(member.row.instance_id)
        if drain is not None:
            order, idle_serial, deadline_s, since_s = drain
            member.drain_order, member.drain_answer = order, ""
            left_s = None if deadline_s is None else max(0.0, deadline_s - (self._out.now_s - since_s))
            self._out.send(member.connection, Drain(order, idle_serial, left_s), is_durable=True)

    def expire(self) -> None:
        """Lift cordons that nobody extended."""
        for instance_id, until_s in tuple(self._until_s.items()):
            if until_s <= self._out.now_s:
                self._lift(instance_id, self._cordons[instance_id].order)

    def restore(self, rows: dict[str, OrderRow]) -> None:
        """Start from a journal. A cordon keeps what is left of its time by the wall, at least a minute, at most all."""
        for row in rows.values():
            if row.kind == "bar":
                self._nodes.barred.add(row.instance_id)
                continue
            ttl_s = row.ttl_s or 0.0
            left_s = (row.until_wall_s or 0.0) - self._out.wall_s()
            self._cordons[row.instance_id] = row
            self._nodes.cordoned[row.instance_id] = row.order
            # The wall may have jumped while we were away: nothing expires within a minute of a start.
            self._until_s[row.instance_id] = self._out.now_s + min(max(left_s, 60.0), max(ttl_s, 60.0))

    def _lift(self, instance_id: str, order: str, *, keep_answer: bool = False) -> None:
        if instance_id not in self._cordons:
            return
        self._drop(instance_id)
        self._drains.pop(instance_id, None)
        self._out.record("node_uncordoned", instance=instance_id, order=order)
        member = self._nodes.by_instance.get(instance_id)
        if member is not None:
            if not keep_answer:
                member.drain_order = member.drain_answer = ""
            self._out.send(member.connection, Cordon(order, False), is_durable=True)
            self._nodes.refresh_open(member)
            self._view.touch(NODE, member.node_id)

    def _drop(self, instance_id: str) -> None:
        del self._cordons[instance_id]
        self._until_s.pop(instance_id, None)
        self._nodes.cordoned.pop(instance_id, None)
        self._out.journal("orders", f"cordon {instance_id}", None)
