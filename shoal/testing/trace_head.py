"""The head of a simulated day: work of many lengths, by a trace, on many nodes.

It is `SimHead` with another way of keeping work. Units of one shape and constraint are one class, whatever their
lengths, as at the real head; the class's duration is an average of what has finished, unknown below five samples, so
that no policy sees into the future. Placing costs by what changed, not by how many nodes there are: each class keeps
the nodes that had room for it when they last changed.
"""

from __future__ import annotations

import asyncio
import collections
import heapq
from collections.abc import Callable

import msgspec

from shoal.foundation.amounts import Amounts, minus, plus, shape_key, times
from shoal.model.demand import DemandClass, Gang, Selector
from shoal.model.node import Busy, Node
from shoal.model.snapshot import Work
from shoal.placement import selectors
from shoal.placement.fits import Spot, fits, how_many
from shoal.placement.gangs import place_gang
from shoal.testing.sim_head import Running, SimHead, SimNode

SAMPLES_LEAST = 5
FRESH_SHARE = 0.2
"""Weight of the newest sample in a class's moving average."""


class Batch(msgspec.Struct, kw_only=True):
    """Units that were submitted together."""

    count: int
    duration_s: float
    submitted_s: float


class Line(msgspec.Struct, kw_only=True):
    """One class: what waits of it, oldest first, and the nodes that may have room."""

    key: str
    amounts: Amounts
    selector: Selector
    batches: collections.deque[Batch]
    count: int = 0
    running: int = 0
    samples: int = 0
    duration_s: float = 0.0
    roomy: list[tuple[int, str]] = []
    """A heap of (order of joining, instance): older nodes fill first, so that younger ones fall idle."""
    roomy_ids: set[str] = set()
    admitted: dict[tuple[tuple[str, str], ...], bool] = {}


class WaitingGang(msgspec.Struct, kw_only=True):
    """A gang that waits for all of its members."""

    gang: Gang
    duration_s: float
    submitted_s: float


class Span(Running, kw_only=True):
    """Running units that know how long they take; nobody else does before they end."""

    duration_s: float = 0.0


class Counts(msgspec.Struct, kw_only=True):
    """What a day adds up to; amounts are CPU-seconds."""

    submitted: int = 0
    finished: int = 0
    put_back: int = 0
    cpu_used_s: float = 0.0
    cpu_there_s: float = 0.0
    waits: list[tuple[float, int]] = []
    """(seconds from submission to start, units)."""


class TraceHead(SimHead):
    """The head that `shoal simulate` uses; the autoscaler sees the same protocol."""

    def prepare(self, labels_of: Callable[[str], dict[str, str]], *, usage_every_s: float = 2.0) -> None:
        """Say how an instance's labels are found, and how long news without new demand may wait; call once, first."""
        self._labels_of, self.usage_every_s = labels_of, usage_every_s
        self.lines: dict[str, Line] = {}
        self._by_shape: dict[tuple[object, ...], Line] = {}
        self.waiting_gangs: dict[str, WaitingGang] = {}
        self.running_gangs: dict[str, WaitingGang] = {}
        self.counts = Counts()
        self.node_labels: dict[str, dict[str, str]] = {}
        self._order: dict[str, int] = {}
        self._dirty_nodes: dict[str, None] = {}
        self._new_gangs = False
        self._shown_nodes: dict[str, Node] = {}
        """What the autoscaler sees of each node, in the order of `nodes`."""
        self._outdated: set[str] = set()
        """Nodes that are not what `_shown_nodes` says any more: changed, idle or cordoned."""
        self._cpu_used = 0
        self._cpu_there = 0
        self._counted_s = self._clock.monotonic_s()
        self._is_telling = False

    # work

    def enter(self, amounts: Amounts, selector: Selector, count: int, duration_s: float, key: str) -> None:
        """Let `count` units wait, each of which runs for `duration_s`."""
        shape = (shape_key(amounts), tuple(sorted(selector.hard.items())))
        line = self._by_shape.get(shape)
        if line is None:
            line = Line(
                key=key,
                amounts=amounts,
                selector=selector,
                batches=collections.deque(),
                roomy=[],
                roomy_ids=set(),
                admitted={},
            )
            self._by_shape[shape] = self.lines[key] = line
            for name, node in self.nodes.items():
                self._offer_room(line, name, node)
        now_s = self._clock.monotonic_s()
        line.batches.append(Batch(count=count, duration_s=duration_s, submitted_s=now_s))
        line.count += count
        self.counts.submitted += count
        self._fill(line)
        self._announce(is_new_demand=line.count > 0)

    def enter_gang(self, gang: Gang, duration_s: float) -> None:
        """Let a gang wait for all of its members."""
        self.waiting_gangs[gang.gang_id] = WaitingGang(
            gang=gang, duration_s=duration_s, submitted_s=self._clock.monotonic_s()
        )
        self.counts.submitted += len(gang.bundles)
        self._new_gangs = True
        self._place()
        self._announce(is_new_demand=gang.gang_id in self.waiting_gangs)

    @property
    def waiting(self) -> int:
        """How many units wait, members of gangs included."""
        return sum(line.count for line in self.lines.values()) + sum(
            len(one.gang.bundles) for one in self.waiting_gangs.values()
        )

    @property
    def is_idle(self) -> bool:
        return not self.running and not self.waiting

    @property
    def cpu_used(self) -> int:
        """CPUs that run work now, as an amount."""
        return self._cpu_used

    @property
    def cpu_there(self) -> int:
        """CPUs of all joined nodes, as an amount."""
        return self._cpu_there

    def count_up(self) -> None:
        """Bring the CPU-seconds up to now."""
        now_s = self._clock.monotonic_s()
        passed_s = now_s - self._counted_s
        self._counted_s = now_s
        self.counts.cpu_used_s += passed_s * self._cpu_used / 10_000
        self.counts.cpu_there_s += passed_s * self._cpu_there / 10_000

    # nodes

    def join(self, instance_id: str, node_type: str, total: Amounts, *, is_head: bool = False) -> bool:
        """Let an agent join; its labels are those of what was bought."""
        if not super().join(instance_id, node_type, total, is_head=is_head):
            return False
        self.count_up()
        self._cpu_there += total.get("CPU", 0)
        self.node_labels[instance_id] = self._labels_of(instance_id)
        self._order[instance_id] = len(self._order)
        node = self.nodes[instance_id]
        self._shown_nodes[instance_id] = self._as_shown(node, node.joined_s)
        self._changed_node(instance_id)
        return True

    def _drop(self, node: SimNode, why: str) -> None:
        is_there = self.nodes.get(node.instance_id) is node
        if is_there:
            self.count_up()
            self._cpu_there -= node.total.get("CPU", 0)
        super()._drop(node, why)
        if is_there:
            for held in (self.node_labels, self._shown_nodes):
                held.pop(node.instance_id, None)
            self._outdated.discard(node.instance_id)

    def _changed_node(self, instance_id: str) -> None:
        """The node may have gained room: look at it in the next turn of placing."""
        self._outdated.add(instance_id)
        self._dirty_nodes[instance_id] = None
        self._touch()

    def _lift(self, node: SimNode, answer: str) -> None:
        super()._lift(node, answer)
        self._changed_node(node.instance_id)

    def lose(self, instance_id: str, *, has_ended: bool = False) -> None:
        """The agent's stream is closed."""
        super().lose(instance_id, has_ended=has_ended)
        if instance_id in self.nodes:
            self._outdated.add(instance_id)

    def back(self, instance_id: str) -> bool:
        """A cut-off agent reaches the head again."""
        is_back = super().back(instance_id)
        if is_back:
            self._changed_node(instance_id)
        return is_back

    # placing

    def _place(self) -> None:
        self._is_placing = False
        if not self.is_up:
            return
        dirty, self._dirty_nodes = self._dirty_nodes, {}
        if self.waiting_gangs and (dirty or self._new_gangs):
            self._new_gangs = False
            self._place_waiting_gangs()
        if dirty:
            waiting = [line for line in self.lines.values() if line.count]
            waiting.sort(key=lambda line: (line.batches[0].submitted_s, line.key))
            for name in dirty:
                node = self.nodes.get(name)
                if node is None or not node.takes_work:
                    continue
                for line in waiting:
                    if line.count:
                        self._start_some(line, name, node)
                for line in self.lines.values():
                    self._offer_room(line, name, node)
        is_idle = self.is_idle
        if not is_idle:
            self._idle_since_s = None
        elif self._idle_since_s is None:
            self._idle_since_s = self._clock.monotonic_s()
        self._announce(is_new_demand=False)

    def _announce(self, *, is_new_demand: bool) -> None:
        """Let the autoscaler hear of new demand at once, of all else within `usage_every_s`."""
        if is_new_demand:
            self._tell()
        elif not self._is_telling:
            self._is_telling = True
            self._later(self.usage_every_s, self._tell)

    def _tell(self) -> None:
        self._is_telling = False
        for stream in self._streams:
            stream.set()

    def _offer_room(self, line: Line, name: str, node: SimNode) -> None:
        """Note that the node has room for the class, if it has."""
        if name in line.roomy_ids or not node.takes_work or not fits(line.amounts, node.free):
            return
        if self._admits(line, name):
            line.roomy_ids.add(name)
            heapq.heappush(line.roomy, (self._order[name], name))

    def _admits(self, line: Line, name: str) -> bool:
        if not line.selector:
            return True
        labels = self.node_labels[name]
        key = tuple(sorted(labels.items()))
        if key not in line.admitted:
            line.admitted[key] = selectors.admits(line.selector, name, labels)
        return line.admitted[key]

    def _fill(self, line: Line) -> None:
        """Start what waits on the nodes that are noted as roomy; each gives room or is struck off."""
        while line.count and line.roomy:
            name = line.roomy[0][1]
            node = self.nodes.get(name)
            if node is not None and node.takes_work and fits(line.amounts, node.free):
                self._start_some(line, name, node)
                if fits(line.amounts, node.free):
                    return
            heapq.heappop(line.roomy)
            line.roomy_ids.discard(name)

    def _start_some(self, line: Line, name: str, node: SimNode) -> None:
        if not fits(line.amounts, node.free) or not self._admits(line, name):
            return
        now_s = self._clock.monotonic_s()
        left = how_many(line.amounts, node.free, line.count)
        while left:
            batch = line.batches[0]
            count = min(left, batch.count)
            left -= count
            batch.count -= count
            line.count -= count
            line.running += count
            self.counts.waits.append((now_s - batch.submitted_s, count))
            self._run(node, line.key, times(line.amounts, count), count, batch.duration_s)
            if not batch.count:
                line.batches.popleft()

    def _run(self, node: SimNode, key: str, amounts: Amounts, count: int, duration_s: float, gang: str = "") -> None:
        self.count_up()
        self._cpu_used += amounts.get("CPU", 0)
        self._serial += 1
        node.free = minus(node.free, amounts)
        node.idle_serial += 1
        node.running += 1
        self._outdated.add(node.instance_id)
        running = Span(
            work_id=self._serial,
            instance_id=node.instance_id,
            key=key,
            amounts=amounts,
            count=count,
            timer=None,
            gang=gang,
            duration_s=duration_s,
        )
        running.timer = asyncio.get_running_loop().call_later(duration_s, self._ended, running)
        node.work_ids.add(running.work_id)
        self.running[running.work_id] = running

    def _ended(self, running: Span) -> None:
        """Work is done; only now its length is known."""
        if running.work_id not in self.running:
            return
        self._leave(running)
        self.counts.finished += running.count
        line = self.lines.get(running.key)
        if line is not None:
            weight = 1.0 - (1.0 - FRESH_SHARE) ** running.count if line.samples else 1.0
            line.duration_s += weight * (running.duration_s - line.duration_s)
            line.samples += running.count

    def _leave(self, running: Running) -> None:
        self.count_up()
        self._cpu_used -= running.amounts.get("CPU", 0)
        del self.running[running.work_id]
        if running.timer is not None:
            running.timer.cancel()
        if running.key in self.lines:
            self.lines[running.key].running -= running.count
        node = self.nodes.get(running.instance_id)
        if node is None or running.work_id not in node.work_ids:
            return
        node.work_ids.discard(running.work_id)
        node.free = plus(node.free, running.amounts)
        node.running -= 1
        if not node.running:
            node.idle_since_s = self._clock.monotonic_s()
            if node.drain_deadline_s is not None and node.cordon:
                self._later(0.5, self._empty, node.instance_id, node.cordon)
        self._changed_node(node.instance_id)

    def _put_back(self, running: Running) -> None:
        """Work was lost with its node: it waits again from now on, and starts from its beginning; a gang as a whole."""
        if running.work_id not in self.running:
            return
        assert isinstance(running, Span), "this head starts nothing else"
        now_s = self._clock.monotonic_s()
        if running.gang:
            members = [one for one in self.running.values() if one.gang == running.gang]
            for one in members:
                self._leave(one)
            gang = self.running_gangs.pop(running.gang)
            self.counts.put_back += len(members)
            # Members that had finished run again with the others.
            self.counts.finished -= len(gang.gang.bundles) - len(members)
            self.waiting_gangs[running.gang] = msgspec.structs.replace(gang, submitted_s=now_s)
            self._new_gangs = True
        else:
            self._leave(running)
            self.counts.put_back += running.count
            line = self.lines[running.key]
            line.batches.appendleft(Batch(count=running.count, duration_s=running.duration_s, submitted_s=now_s))
            line.count += running.count
            self._fill(line)
        self._touch()
        self._announce(is_new_demand=True)

    def _place_waiting_gangs(self) -> None:
        now_s = self._clock.monotonic_s()
        for gang_id, one in list(self.waiting_gangs.items()):
            shapes = {shape_key(bundle.amounts): bundle.amounts for bundle in one.gang.bundles}
            spots = [
                Spot(spot_id=name, free=node.free, labels=self.node_labels[name])
                for name, node in self.nodes.items()
                if node.takes_work and any(fits(amounts, node.free) for amounts in shapes.values())
            ]
            found = place_gang(one.gang.bundles, one.gang.strategy, spots) if spots else None
            if found is None:
                continue
            del self.waiting_gangs[gang_id]
            self.running_gangs[gang_id] = one
            self.counts.waits.append((now_s - one.submitted_s, len(one.gang.bundles)))
            for bundle, name in zip(one.gang.bundles, found, strict=True):
                self._run(self.nodes[name], "", bundle.amounts, 1, one.duration_s, gang=gang_id)

    # what the autoscaler hears

    def work(self) -> Work:
        """Return the newest state; nodes that have not changed and are busy are not made anew."""
        now_s = self._clock.monotonic_s()
        self._version += 1
        outdated, self._outdated = self._outdated, set()
        for name in outdated & self.nodes.keys():
            node = self.nodes[name]
            self._shown_nodes[name] = self._as_shown(node, now_s)
            if not node.running or node.cordon or node.drain_order:
                self._outdated.add(name)
        return Work(
            epoch=self.epoch,
            version=self._version,
            nodes=tuple(self._shown_nodes.values()),
            classes=tuple(
                DemandClass(
                    key=line.key,
                    amounts=line.amounts,
                    selector=line.selector,
                    waiting=line.count,
                    running_slots=line.running,
                    duration_s=line.duration_s if line.samples >= SAMPLES_LEAST else None,
                    waiting_s=now_s - line.batches[0].submitted_s,
                )
                for line in self.lines.values()
                if line.count
            ),
            gangs=tuple(
                msgspec.structs.replace(one.gang, waiting_s=now_s - one.submitted_s)
                for one in self.waiting_gangs.values()
            ),
            idle_s=None if self._idle_since_s is None else now_s - self._idle_since_s,
        )

    def _as_shown(self, node: SimNode, now_s: float) -> Node:
        return Node(
            node_id=node.node_id,
            instance_id=node.instance_id,
            node_type=node.node_type,
            total=node.total,
            free=node.free,
            labels=self.node_labels[node.instance_id],
            is_head=node.is_head,
            is_cordoned=bool(node.cordon),
            is_stale=node.contact_lost_s is not None,
            is_missing=node.is_missing,
            idle_s=None if node.running else now_s - node.idle_since_s,
            idle_serial=node.idle_serial,
            busy=(Busy(what="lease", count=node.running),) if node.running else (),
            drain_order=node.drain_order,
            drain_answer=node.drain_answer,
        )
