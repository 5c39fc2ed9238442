"""A head in virtual time: the `Head` that the autoscaler sees, with tasks, gangs, nodes and drains behind it.

It keeps the same promises as the real one as far as the autoscaler can see: a task is counted once, a cordon and a
bar are durable, a drain is refused by the agent if anything came in between, a restarted head settles first. Work
is placed by `shoal.placement`, so what the planner says fits, fits here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable

import msgspec

from shoal.autoscaler.act.contracts import Report
from shoal.foundation.amounts import Amounts, minus, plus, shape_key, times
from shoal.foundation.chance import Chance
from shoal.foundation.clock import Clock
from shoal.foundation.errors import StaleSession
from shoal.foundation.eventlog import EventLog, Kind
from shoal.model.demand import Bundle, DemandClass, Gang, Standing, Strategy
from shoal.model.node import Busy, Node
from shoal.model.snapshot import Work
from shoal.placement.fits import Spot, how_many
from shoal.placement.gangs import place_gang

NODE_DEAD_S = 40.0
LEASE_S = 600.0
REJOIN_S = 5.0
EMPTY_S = (0.2, 1.0)


class SimNode(msgspec.Struct, kw_only=True):
    """One joined agent."""

    node_id: str
    instance_id: str
    node_type: str
    total: Amounts
    free: Amounts
    joined_s: float
    idle_since_s: float
    is_head: bool = False
    idle_serial: int = 0
    running: int = 0
    bundles: int = 0
    cordon: str = ""
    cordon_until_s: float = 0.0
    drain_order: str = ""
    drain_answer: str = ""
    drain_deadline_s: float | None = None
    contact_lost_s: float | None = None
    is_missing: bool = False
    notice: str = ""
    notice_s: float = 0.0
    work_ids: set[int] = {}  # type: ignore[assignment]

    @property
    def takes_work(self) -> bool:
        return not self.cordon and self.contact_lost_s is None and not self.is_missing


class Running(msgspec.Struct, kw_only=True):
    """`count` equal units that started together on one node."""

    work_id: int
    instance_id: str
    key: str
    amounts: Amounts
    count: int
    timer: asyncio.TimerHandle | None
    gang: str = ""


class Pending(msgspec.Struct, kw_only=True):
    """Units of one class that wait."""

    key: str
    amounts: Amounts
    duration_s: float | None
    count: int = 0
    since_s: float = 0.0
    kind: str = "task"
    is_duration_known: bool = False
    running: int = 0


class PendingGang(msgspec.Struct, kw_only=True):
    gang: Gang
    duration_s: float | None
    since_s: float


class SimHead:
    """The head. World calls `join`, `lose`, `submit...`; the autoscaler sees the `Head` protocol."""

    def __init__(
        self,
        clock: Clock,
        chance: Chance,
        log: EventLog,
        *,
        cluster_uid: str,
        epoch: int = 1,
        report_every_s: float = 0.05,
        settle_s: float = NODE_DEAD_S,
    ) -> None:
        """Send `Work` at most every `report_every_s`."""
        self._clock, self._chance, self._log, self._uid = clock, chance, log, cluster_uid
        self.epoch, self._report_every_s, self._settle_s = epoch, report_every_s, settle_s
        self.nodes: dict[str, SimNode] = {}
        self.barred: set[str] = set()
        self.pending: dict[str, Pending] = {}
        self.gangs: dict[str, PendingGang] = {}
        self.standing: dict[str, tuple[Standing, float | None]] = {}
        self.running: dict[int, Running] = {}
        self.finished = 0
        self.submitted = 0
        self.lost_units = 0
        """Units that a dying node took with it; they were put back."""
        self.killed_at_drain = 0
        self.forgotten_busy: list[str] = []
        """Nodes that were given up while they worked, in contact, and with no deadline to empty themselves."""
        self.gangs_placed = 0
        self.waits_s: list[float] = []
        self.report: Report | None = None
        self.session = 0
        self.late_grants = 0.0
        """The chance that an agent grants a lease of its own between the plan and the drain that it led to."""
        self.late_grant_s = 7.0
        """How long such work runs."""
        self.lost_drains = 0.0
        """The chance that a drain never reaches its agent, although the head took the order."""
        self.injected: Counter[str] = Counter()
        """How often each of the head's and the network's own faults has struck."""
        self._version = 0
        self._serial = 0
        self._changed = asyncio.Event()
        self._is_placing = False
        self._streams: set[asyncio.Event] = set()
        self.is_up = True
        self._settles_at_s = 0.0
        self._idle_since_s: float | None = clock.monotonic_s()

    # work

    def submit(
        self, shape: Amounts, count: int, duration_s: float | None, *, kind: str = "task", known: bool = False
    ) -> str:
        """Let `count` units of a shape wait; each runs for `duration_s` (None: until `finish`)."""
        key = ",".join(f"{name}={amount}" for name, amount in shape_key(shape)) + f"/{duration_s}/{kind}"
        pending = self.pending.get(key)
        if pending is None:
            pending = self.pending[key] = Pending(
                key=key, amounts=dict(shape), duration_s=duration_s, kind=kind, is_duration_known=known
            )
        if not pending.count:
            pending.since_s = self._clock.monotonic_s()
        pending.count += count
        self.submitted += count
        self._touch()
        return key

    def submit_gang(
        self, gang_id: str, bundles: list[Amounts], duration_s: float | None, strategy: Strategy = Strategy.PACK
    ) -> None:
        """Let a gang wait for all of its bundles."""
        gang = Gang(gang_id=gang_id, bundles=tuple(Bundle(amounts=one) for one in bundles), strategy=strategy)
        self.gangs[gang_id] = PendingGang(gang=gang, duration_s=duration_s, since_s=self._clock.monotonic_s())
        self.submitted += 1
        self._touch()

    def remove_gang(self, gang_id: str) -> None:
        """Take a waiting gang back, or end one that runs."""
        if self.gangs.pop(gang_id, None) is not None:
            self.submitted -= 1
        for running in [one for one in self.running.values() if one.gang == gang_id]:
            self._end(running)
        self._touch()

    def request(self, owner: str, bundles: list[Amounts], ttl_s: float | None = None) -> None:
        """Keep the cluster at a total size for an owner; no bundles end it."""
        until_s = None if ttl_s is None else self._clock.monotonic_s() + ttl_s
        if bundles:
            standing = Standing(owner=owner, bundles=tuple(Bundle(amounts=one) for one in bundles), ttl_s=ttl_s)
            self.standing[owner] = (standing, until_s)
        else:
            self.standing.pop(owner, None)
        self._touch()

    def finish(self, key: str) -> None:
        """End everything of a class, running or waiting."""
        pending = self.pending.get(key)
        if pending is not None:
            self.submitted -= pending.count
            pending.count = 0
        for running in [one for one in self.running.values() if one.key == key]:
            self._end(running)
        self._touch()

    @property
    def waiting(self) -> int:
        """How many units wait, gangs counted as one each."""
        return sum(one.count for one in self.pending.values()) + len(self.gangs)

    @property
    def is_idle(self) -> bool:
        return not self.waiting and not self.running

    # nodes

    def join(self, instance_id: str, node_type: str, total: Amounts, *, is_head: bool = False) -> bool:
        """Let an agent join; False: it is barred, or the head cannot be reached now."""
        if not self.is_up:
            return False
        if instance_id in self.barred:
            self._log.record(Kind.JOIN_REFUSED, instance=instance_id, why="barred")
            return False
        now_s = self._clock.monotonic_s()
        self._serial += 1
        self.nodes[instance_id] = SimNode(
            node_id=f"n{self._serial:05d}",
            instance_id=instance_id,
            node_type=node_type,
            total=dict(total),
            free=dict(total),
            joined_s=now_s,
            idle_since_s=now_s,
            is_head=is_head,
            work_ids=set(),
        )
        self._log.record(Kind.NODE_JOINED, instance=instance_id, node_type=node_type)
        self._touch()
        return True

    def lose(self, instance_id: str, *, has_ended: bool = False) -> None:
        """The agent's stream is closed: its machine ended or is cut off; a verdict comes later.

        On a machine that has ended (`has_ended`) nothing runs to its end any more, though the head cannot know yet.
        """
        node = self.nodes.get(instance_id)
        if node is not None and has_ended:
            for running in (self.running[one] for one in node.work_ids if one in self.running):
                if running.timer is not None:
                    running.timer.cancel()
        if node is not None and node.contact_lost_s is None:
            node.contact_lost_s = self._clock.monotonic_s()
            self._later(NODE_DEAD_S, self._give_verdict, instance_id, node.node_id)
            self._touch()

    def warn(self, instance_id: str, what: str, in_s: float) -> None:
        """The guard of a node saw the cloud's notice that its machine will be taken away."""
        node = self.nodes.get(instance_id)
        if node is not None and node.contact_lost_s is None:
            node.notice, node.notice_s = what, self._clock.monotonic_s() + in_s
            self._log.record(Kind.NOTICE, instance=instance_id, what=what, deadline_s=in_s)
            self._touch()

    def back(self, instance_id: str) -> bool:
        """A cut-off agent reaches the head again; False: it was declared dead and must join anew."""
        node = self.nodes.get(instance_id)
        if node is None or not self.is_up:
            return False
        node.contact_lost_s = None
        node.is_missing = False
        self._touch()
        return True

    def restart(self, down_s: float = 5.0) -> None:
        """Kill the head and start it again after `down_s`; agents come back one by one, then it has settled."""
        self.injected["head restart"] += 1
        self.is_up = False
        for stream in self._streams:
            stream.set()
        self._later(down_s, self._come_up)

    def _come_up(self) -> None:
        now_s = self._clock.monotonic_s()
        self.is_up = True
        self._settles_at_s = now_s + self._settle_s
        for node in self.nodes.values():
            node.is_missing = True
            if node.contact_lost_s is None:
                self._later(self._chance.uniform(0.5, 5.0), self._return, node.instance_id, node.node_id)
        self._later(self._settle_s + 0.01, self._settle)
        self._log.record(Kind.HEAD_STARTED, epoch=self.epoch)
        self._touch()

    def _return(self, instance_id: str, node_id: str) -> None:
        node = self.nodes.get(instance_id)
        if node is not None and node.node_id == node_id and node.contact_lost_s is None:
            node.is_missing = False
            self._touch()

    def _settle(self) -> None:
        for node in [one for one in self.nodes.values() if one.is_missing]:
            self._drop(node, "it did not return after the head's restart")
        self._touch()

    # the Head protocol

    async def open_session(self, owner: str) -> int:
        """Take charge; older sessions are refused from now on."""
        self._must_be_up()
        self.session += 1
        return self.session

    def of_session(self) -> SessionHead:
        """Return the head as the next autoscaler sees it; it turns stale when a newer one opens a session."""
        return SessionHead(self)

    async def watch(self, check: Callable[[], None] = lambda: None) -> AsyncIterator[Work]:
        """Yield the newest `Work` whenever it changed."""
        changed = asyncio.Event()
        self._streams.add(changed)
        try:
            changed.set()
            while True:
                await changed.wait()
                changed.clear()
                self._must_be_up()
                check()
                yield self.work()
                await asyncio.sleep(self._report_every_s)
        finally:
            self._streams.discard(changed)

    def work(self) -> Work:
        """Return the head's word of now."""
        now_s = self._clock.monotonic_s()
        self._version += 1
        return Work(
            epoch=self.epoch,
            version=self._version,
            nodes=tuple(self._shown(node, now_s) for _, node in sorted(self.nodes.items())),
            classes=tuple(
                DemandClass(
                    key=one.key,
                    amounts=one.amounts,
                    waiting=one.count,
                    running_slots=one.running,
                    duration_s=one.duration_s if one.is_duration_known else None,
                    kind=one.kind,
                    waiting_s=now_s - one.since_s,
                )
                for _, one in sorted(self.pending.items())
                if one.count
            ),
            gangs=tuple(
                msgspec.structs.replace(one.gang, waiting_s=now_s - one.since_s)
                for _, one in sorted(self.gangs.items())
            ),
            standing=tuple(
                msgspec.structs.replace(one, ttl_s=None if until_s is None else until_s - now_s)
                for _, (one, until_s) in sorted(self.standing.items())
                if until_s is None or until_s > now_s
            ),
            is_settling=now_s < self._settles_at_s,
            idle_s=None if self._idle_since_s is None else now_s - self._idle_since_s,
        )

    async def join_secret(self, token: str) -> str:
        self._must_be_up()
        return f"secret-of-{token}"

    async def cordon(self, instance_id: str, order: str, ttl_s: float) -> None:
        self._must_be_up()
        node = self.nodes.get(instance_id)
        if node is None:
            return
        if not node.cordon and self.late_grants and self._chance.random() < self.late_grants:
            self._grant_late(node)
        node.cordon = node.drain_order = order
        if node.drain_answer == "busy":
            node.drain_answer = ""
        node.cordon_until_s = self._clock.monotonic_s() + ttl_s
        self._later(ttl_s + 0.01, self._lapse, instance_id, order)
        self._touch()

    async def drain(self, instance_id: str, order: str, idle_serial: int | None, deadline_s: float | None) -> None:
        self._must_be_up()
        if self.lost_drains and self._chance.random() < self.lost_drains:
            self.injected["lost drain"] += 1
            return
        self._later(self._chance.uniform(0.01, 0.1), self._agent_drains, instance_id, order, idle_serial, deadline_s)

    async def undrain(self, instance_id: str, order: str) -> None:
        self._must_be_up()
        node = self.nodes.get(instance_id)
        if node is not None and node.drain_order == order:
            self._lift(node, "")

    async def bar(self, instance_id: str) -> bool:
        self._must_be_up()
        node = self.nodes.get(instance_id)
        if node is not None and node.contact_lost_s is None and not node.is_missing:
            return False
        self.barred.add(instance_id)
        return True

    async def forget(self, instance_id: str) -> None:
        self._must_be_up()
        node = self.nodes.get(instance_id)
        if node is None:
            return
        in_contact = node.contact_lost_s is None and not node.is_missing
        if node.running and in_contact and node.drain_deadline_s is None:
            self.forgotten_busy.append(f"{instance_id} was released with {node.running} pieces of work on it")
        self._drop(node, "released")

    async def publish(self, report: Report) -> None:
        self._must_be_up()
        self.report = report

    # drains, as an agent does them

    def _agent_drains(self, instance_id: str, order: str, idle_serial: int | None, deadline_s: float | None) -> None:
        node = self.nodes.get(instance_id)
        if node is None or node.cordon != order or node.contact_lost_s is not None or node.drain_answer:
            return
        if deadline_s is None and (node.running or (idle_serial is not None and idle_serial != node.idle_serial)):
            self._lift(node, "busy")
            return
        if deadline_s is not None:
            node.drain_deadline_s = self._clock.monotonic_s() + deadline_s
            self._later(deadline_s, self._kill_at_deadline, instance_id, order)
        if not node.running:
            self._later(self._chance.uniform(*EMPTY_S), self._empty, instance_id, order)

    def _grant_late(self, node: SimNode) -> None:
        """Start a unit that the agent leased before it heard of the cordon."""
        shape = {"CPU": 10_000}
        if how_many(shape, node.free, 1):
            self.injected["late grant"] += 1
            key = self.submit(shape, 1, self.late_grant_s)
            pending = self.pending[key]
            pending.count -= 1
            pending.running += 1
            self._start(node, key, shape, 1, self.late_grant_s)

    def _empty(self, instance_id: str, order: str) -> None:
        node = self.nodes.get(instance_id)
        if node is not None and node.cordon == order and not node.running and node.contact_lost_s is None:
            node.drain_answer = "emptied"
            self._touch()

    def _kill_at_deadline(self, instance_id: str, order: str) -> None:
        node = self.nodes.get(instance_id)
        if node is None or node.cordon != order:
            return
        for work_id in sorted(node.work_ids):
            if (running := self.running.get(work_id)) is not None:
                self.killed_at_drain += running.count
                self._put_back(running)
        self._empty(instance_id, order)

    def _lift(self, node: SimNode, answer: str) -> None:
        node.cordon, node.cordon_until_s, node.drain_deadline_s = "", 0.0, None
        node.drain_answer = answer
        if not answer:
            node.drain_order = ""
        self._touch()

    def _lapse(self, instance_id: str, order: str) -> None:
        node = self.nodes.get(instance_id)
        if node is not None and node.cordon == order and self._clock.monotonic_s() >= node.cordon_until_s:
            self._lift(node, "")

    # placing

    def _touch(self) -> None:
        if not self._is_placing:
            self._is_placing = True
            asyncio.get_running_loop().call_soon(self._place)

    def _place(self) -> None:
        self._is_placing = False
        if self.is_up:
            able = [node for _, node in sorted(self.nodes.items()) if node.takes_work]
            self._place_gangs(able)
            for _, pending in sorted(self.pending.items()):
                self._place_class(pending, able)
        busy = bool(self.waiting or self.running)
        if busy:
            self._idle_since_s = None
        elif self._idle_since_s is None:
            self._idle_since_s = self._clock.monotonic_s()
        for stream in self._streams:
            stream.set()

    def _place_class(self, pending: Pending, able: list[SimNode]) -> None:
        for node in able:
            if not pending.count:
                return
            count = how_many(pending.amounts, node.free, pending.count)
            if count:
                self.waits_s.append(self._clock.monotonic_s() - pending.since_s)
                pending.count -= count
                pending.running += count
                self._start(node, pending.key, times(pending.amounts, count), count, pending.duration_s)

    def _place_gangs(self, able: list[SimNode]) -> None:
        for gang_id, waiting in sorted(self.gangs.items()):
            spots = [Spot(spot_id=node.instance_id, free=node.free) for node in able]
            found = place_gang(waiting.gang.bundles, waiting.gang.strategy, spots)
            if found is None:
                continue
            del self.gangs[gang_id]
            self.gangs_placed += 1
            for bundle, instance_id in zip(waiting.gang.bundles, found, strict=True):
                self._start(self.nodes[instance_id], "", bundle.amounts, 1, waiting.duration_s, gang=gang_id)

    def _start(
        self, node: SimNode, key: str, amounts: Amounts, count: int, duration_s: float | None, gang: str = ""
    ) -> None:
        self._serial += 1
        node.free = minus(node.free, amounts)
        node.idle_serial += 1
        node.running += 1
        running = Running(
            work_id=self._serial,
            instance_id=node.instance_id,
            key=key,
            amounts=amounts,
            count=count,
            timer=None,
            gang=gang,
        )
        if duration_s is not None:
            running.timer = asyncio.get_running_loop().call_later(duration_s, self._end, running)
        node.work_ids.add(running.work_id)
        self.running[running.work_id] = running

    def _end(self, running: Running) -> None:
        """Work is done."""
        if running.work_id not in self.running:
            return
        self._leave(running)
        if not running.gang:
            self.finished += running.count
        elif not any(one.gang == running.gang for one in self.running.values()):
            self.finished += 1
        self._touch()

    def _leave(self, running: Running) -> None:
        del self.running[running.work_id]
        if running.timer is not None:
            running.timer.cancel()
        if running.key in self.pending:
            self.pending[running.key].running -= running.count
        node = self.nodes.get(running.instance_id)
        if node is None or running.work_id not in node.work_ids:
            return
        node.work_ids.discard(running.work_id)
        node.free = plus(node.free, running.amounts)
        node.running -= 1
        if not node.running:
            node.idle_since_s = self._clock.monotonic_s()
            if node.drain_deadline_s is not None and node.cordon:
                self._later(self._chance.uniform(*EMPTY_S), self._empty, node.instance_id, node.cordon)

    def _put_back(self, running: Running) -> None:
        """Work was lost with its node: it waits again. A gang is lost as a whole and counts as finished."""
        if running.work_id not in self.running:
            return
        self.lost_units += running.count
        if running.gang:
            self.remove_gang(running.gang)
            return
        self._leave(running)
        pending = self.pending[running.key]
        if not pending.count:
            pending.since_s = self._clock.monotonic_s()
        pending.count += running.count
        self._touch()

    # verdicts

    def _give_verdict(self, instance_id: str, node_id: str) -> None:
        node = self.nodes.get(instance_id)
        if node is None or node.node_id != node_id or node.contact_lost_s is None:
            return
        now_s = self._clock.monotonic_s()
        if not self.is_up or now_s < self._settles_at_s:
            self._later(NODE_DEAD_S, self._give_verdict, instance_id, node_id)
        elif now_s - node.contact_lost_s >= NODE_DEAD_S - 1e-6:
            self._drop(node, "silent")

    def _drop(self, node: SimNode, why: str) -> None:
        for work_id in sorted(node.work_ids):
            if work_id in self.running:
                self._put_back(self.running[work_id])
        if self.nodes.get(node.instance_id) is node:
            del self.nodes[node.instance_id]
        self._log.record(Kind.NODE_LEFT, instance=node.instance_id, why=why)
        self._touch()

    def _shown(self, node: SimNode, now_s: float) -> Node:
        busy = (Busy(what="lease", count=node.running),) if node.running else ()
        return Node(
            node_id=node.node_id,
            instance_id=node.instance_id,
            node_type=node.node_type,
            total=node.total,
            free=node.free,
            is_head=node.is_head,
            is_cordoned=bool(node.cordon),
            is_stale=node.contact_lost_s is not None,
            is_missing=node.is_missing,
            idle_s=None if node.running else now_s - node.idle_since_s,
            idle_serial=node.idle_serial,
            busy=busy,
            drain_order=node.drain_order,
            drain_answer=node.drain_answer,
            notice=node.notice,
            notice_deadline_s=max(0.0, node.notice_s - now_s) if node.notice else None,
        )

    def _must_be_up(self) -> None:
        if not self.is_up:
            raise ConnectionError("the head is down")

    def _later(self, delay_s: float, deed: Callable[..., object], *args: object) -> None:
        asyncio.get_running_loop().call_later(delay_s, deed, *args)


class SessionHead:
    """The head as one autoscaler sees it: once a newer session is open, everything is refused."""

    def __init__(self, head: SimHead) -> None:
        self._head = head
        self._session = 0

    async def open_session(self, owner: str) -> int:
        self._session = await self._head.open_session(owner)
        return self._session

    def watch(self) -> AsyncIterator[Work]:
        return self._head.watch(self._check)

    async def join_secret(self, token: str) -> str:
        self._check()
        return await self._head.join_secret(token)

    async def cordon(self, instance_id: str, order: str, ttl_s: float) -> None:
        self._check()
        await self._head.cordon(instance_id, order, ttl_s)

    async def drain(self, instance_id: str, order: str, idle_serial: int | None, deadline_s: float | None) -> None:
        self._check()
        await self._head.drain(instance_id, order, idle_serial, deadline_s)

    async def undrain(self, instance_id: str, order: str) -> None:
        self._check()
        await self._head.undrain(instance_id, order)

    async def bar(self, instance_id: str) -> bool:
        self._check()
        return await self._head.bar(instance_id)

    async def forget(self, instance_id: str) -> None:
        self._check()
        await self._head.forget(instance_id)

    async def publish(self, report: Report) -> None:
        self._check()
        await self._head.publish(report)

    def _check(self) -> None:
        if self._session and self._session != self._head.session:
            raise StaleSession(f"session {self._session} is over: session {self._head.session} is in charge")
