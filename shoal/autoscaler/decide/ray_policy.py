"""Ray's autoscaler v2 as a policy, re-implemented from its published source: what our plans are measured against.

Follows Ray 2.60, `python/ray/autoscaler/v2/scheduler.py` (Apache-2.0), by its functions:

- `ResourceDemandScheduler._try_schedule`: requests sorted by number of label constraints, number of resources, sum
  and values, descending; existing nodes first, then new ones, each time the node of the best score.
- `SchedulingNode._compute_score`: (label match, GPU nodes only for GPU work, matching resource kinds, least and mean
  of v x utilisation^3 over the node's resources, v in natural units). No price, zone or failure takes part.
- `_sched_best_node`: ties by user priority. `_enforce_idle_termination`: idle longer than the timeout and not needed.
- `instance_manager/reconciler.py`, `_compute_to_launch`: per tick and type at most max(1, ceil(speed x running)),
  at most 10 requested at once; a tick is 5 s.

Gangs: every bundle a request, STRICT_PACK merged, STRICT_SPREAD on different nodes, all or nothing
(`_sched_gang_resource_requests`). What is bought for several types at once needs no order here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from shoal.autoscaler.decide import peers
from shoal.foundation.amounts import UNIT, Amounts, shape_key, total
from shoal.model.demand import Bundle, DemandClass, Gang, Selector, Strategy
from shoal.model.instance import State
from shoal.model.plan import Drain, Plan, Step
from shoal.model.policy import Policy
from shoal.model.snapshot import Snapshot
from shoal.placement import selectors
from shoal.placement.fits import how_many

TICK_S = 5.0
CONCURRENT_LAUNCHES_MOST = 10

Score = tuple[int, bool, int, float, float]


class Node:
    """A node, there or to come, while requests are placed on it."""

    __slots__ = ("free", "labels", "name", "peer", "placed", "priority", "total")

    def __init__(
        self, name: str, everything: Amounts, free: Amounts, labels: dict[str, str], priority: int = 0
    ) -> None:
        self.name, self.total, self.free, self.labels, self.priority = name, everything, dict(free), labels, priority
        self.placed: dict[int, int] = {}
        self.peer: peers.PeerType | None = None


class Request:
    """Requests of one shape: `count` of them."""

    __slots__ = ("amounts", "count", "selector")

    def __init__(self, amounts: Amounts, selector: Selector, count: int) -> None:
        self.amounts, self.selector, self.count = amounts, selector, count

    def order(self) -> tuple[object, ...]:
        values = {name: amount / UNIT for name, amount in self.amounts.items()}
        return (len(self.selector.hard), len(values), sum(values.values()), sorted(values.items()))


def improve(snapshot: Snapshot, policy: Policy, seed: int) -> Iterator[Plan]:
    """Yield one plan: what Ray's autoscaler would do with this snapshot. `seed` changes nothing."""
    if not snapshot.is_listed:
        yield peers.finished(snapshot, (), snapshot.serial_next, (), "")
        return
    types = peers.peer_types(snapshot, policy)
    nodes = _nodes(snapshot, policy, types)
    room = Room(snapshot, policy, types)
    fresh: list[Node] = _for_minimums(snapshot, policy, types, room)
    classes = [one for one in snapshot.work.classes if one.waiting]
    for gang in sorted(snapshot.work.gangs, key=lambda one: (-len(one.bundles), one.gang_id)):
        fresh.extend(_place_gang(gang, [*nodes, *fresh], types, room))
    standing = _standing_nodes(snapshot, nodes, fresh, types, room)
    fresh.extend(standing)
    requests = [Request(one.amounts, one.selector, one.waiting) for one in classes]
    more, left = place(requests, [*nodes, *fresh], types, room)
    fresh.extend(more)

    counts = Counter(node.peer.kind.name for node in fresh if node.peer is not None)
    paced = [(one, _paced(snapshot, policy, one, counts[one.kind.name]), "Ray's best utilisation") for one in types]
    steps, serial = peers.launches(snapshot, _capped(snapshot, paced))
    needed = {node.name for node in nodes if node.placed}
    steps.extend(_idle_drains(snapshot, policy, needed))
    steps.extend(peers.ended(snapshot, policy))
    lacking = [(one, count) for one, count in zip(classes, left, strict=True)]
    yield peers.finished(snapshot, steps, serial, lacking, "no node type has room for it")


class Room:
    """`max_workers` of each type and of all; the only limits that Ray knows."""

    def __init__(self, snapshot: Snapshot, policy: Policy, types: Sequence[peers.PeerType]) -> None:
        counted = Counter(
            one.node_type for one in snapshot.instances if one.state not in (State.GONE, State.RELEASING, State.QUEUED)
        )
        self.total = policy.max_workers - sum(counted.values())
        self.of = {one.kind.name: one.kind.max_workers - counted[one.kind.name] for one in types}

    def holds(self, name: str) -> int:
        return max(0, min(self.total, self.of.get(name, 0)))

    def take(self, name: str, count: int) -> None:
        self.total -= count
        self.of[name] -= count


def place(
    requests: Sequence[Request], nodes: Sequence[Node], types: Sequence[peers.PeerType], room: Room
) -> tuple[list[Node], list[int]]:
    """Place requests on nodes, then on new ones, each time the best score; return new nodes and what is left of each.

    Equal requests and equal nodes are counted, not looked at one by one: as many equal nodes are filled alike as
    could not have changed any other node's score in between.
    """
    order = sorted(range(len(requests)), key=lambda one: requests[one].order(), reverse=True)
    left = [request.count for request in requests]
    alike: dict[tuple[object, ...], list[Node]] = {}
    for node in nodes:
        key = (shape_key(node.total), shape_key(node.free), tuple(sorted(node.labels.items())), node.priority)
        alike.setdefault(key, []).append(node)
    groups = list(alike.values())
    while any(left) and groups:
        best = _best([group[0] for group in groups], requests, order, left)
        if best is None:
            break
        at, filled, free, copies = best
        group = groups[at]
        taken, groups[at] = group[:copies], group[copies:]
        for node in taken:
            node.free = dict(free)
            for one, count in filled.items():
                left[one] -= count
                node.placed[one] = node.placed.get(one, 0) + count
        groups = [one for one in groups if one]
    fresh: list[Node] = []
    while any(left):
        empty = [_new(peer, 0) for peer in types if room.holds(peer.kind.name)]
        best = _best(empty, requests, order, left)
        if best is None:
            break
        at, filled, free, copies = best
        peer = empty[at].peer
        assert peer is not None, "a new node is of a type"
        copies = min(copies, room.holds(peer.kind.name))
        room.take(peer.kind.name, copies)
        for _ in range(copies):
            fresh.append(_new(peer, len(nodes) + len(fresh)))
            fresh[-1].free, fresh[-1].placed = dict(free), dict(filled)
        for one, count in filled.items():
            left[one] -= count * copies
    return fresh, left


def score_of(node: Node, free: Amounts, filled: dict[int, int], requests: Sequence[Request]) -> Score:
    """Return the node's score after these requests were placed on it: `SchedulingNode._compute_score`."""
    wanted = {name for one in filled for name, amount in requests[one].amounts.items() if amount}
    matching = sum(1 for name in wanted if name in node.total)
    worth = [
        (amount / UNIT) * ((amount - free.get(name, 0)) / amount) ** 3 for name, amount in node.total.items() if amount
    ]
    is_gpu_right = not (node.total.get("GPU", 0) > 0 and not any("GPU" in requests[one].amounts for one in filled))
    label = max((1 for one in filled if requests[one].selector), default=0)
    return (label, is_gpu_right, matching, min(worth, default=0.0), sum(worth) / len(worth) if worth else 0.0)


def _best(
    nodes: Sequence[Node], requests: Sequence[Request], order: Sequence[int], left: Sequence[int]
) -> tuple[int, dict[int, int], Amounts, int] | None:
    """Return the node of the best score, what it holds, what stays free, and how many like it may be filled alike."""
    trials: list[tuple[Score, int, int, dict[int, int], Amounts]] = []
    most = [0] * len(requests)
    for at, node in enumerate(nodes):
        filled, free = _fill(node, requests, order, left)
        if filled:
            trials.append((score_of(node, free, filled, requests), node.priority, -at, filled, free))
            for one, count in filled.items():
                most[one] = max(most[one], count)
    if not trials:
        return None
    _, _, at, filled, free = max(trials, key=lambda trial: trial[:3])
    copies = max(1, 1 + min((left[one] - most[one]) // count for one, count in filled.items()))
    copies = min(copies, min(left[one] // count for one, count in filled.items()))
    return -at, filled, free, copies


def _fill(
    node: Node, requests: Sequence[Request], order: Sequence[int], left: Sequence[int]
) -> tuple[dict[int, int], Amounts]:
    """Return what fits of the requests, taken in order, and what stays free then."""
    free = dict(node.free)
    filled: dict[int, int] = {}
    for one in order:
        request = requests[one]
        if not left[one]:
            continue
        count = how_many(request.amounts, free, left[one])
        if count and (not request.selector or selectors.admits(request.selector, node.name, node.labels)):
            for name, amount in request.amounts.items():
                free[name] = free.get(name, 0) - amount * count
            filled[one] = count
    return filled, free


def _new(peer: peers.PeerType, number: int) -> Node:
    node = Node(f"new-{number}", peer.resources, peer.resources, peer.labels, peer.kind.priority)
    node.peer = peer
    return node


def _nodes(snapshot: Snapshot, policy: Policy, types: Sequence[peers.PeerType]) -> list[Node]:
    """Return running and pending nodes; a pending one counts with all that its type promises."""
    joined = {node.instance_id: node for node in snapshot.work.nodes if node.instance_id}
    by_name = {one.kind.name: one for one in types}
    found = [
        Node(node.node_id, node.total, node.free, node.labels)
        for node in snapshot.work.nodes
        if not node.instance_id and not node.is_cordoned
    ]
    for one in snapshot.instances:
        kind = policy.node_type(one.node_type)
        priority = kind.priority if kind is not None else 0
        node = joined.get(one.instance_id)
        if one.state is State.READY and node is not None:
            if not node.is_cordoned:
                found.append(Node(one.instance_id, node.total, node.free, node.labels, priority))
        elif one.state in (State.REQUESTED, State.BOOTING, State.READY) and one.node_type in by_name:
            peer = by_name[one.node_type]
            found.append(Node(one.instance_id, peer.resources, peer.resources, peer.labels, priority))
    return found


def _for_minimums(snapshot: Snapshot, policy: Policy, types: Sequence[peers.PeerType], room: Room) -> list[Node]:
    there = Counter(
        one.node_type for one in snapshot.instances if one.state in (State.REQUESTED, State.BOOTING, State.READY)
    )
    fresh: list[Node] = []
    for one in types:
        count = min(max(0, one.kind.min_workers - there[one.kind.name]), room.holds(one.kind.name))
        room.take(one.kind.name, count)
        fresh.extend(_new(one, 10_000 + len(fresh)) for _ in range(count))
    return fresh


def _place_gang(gang: Gang, nodes: Sequence[Node], types: Sequence[peers.PeerType], room: Room) -> list[Node]:
    """Place a gang all or nothing; return the new nodes it needs."""
    bundles: Sequence[Bundle] = gang.bundles
    if gang.strategy is Strategy.STRICT_PACK:
        bundles = [Bundle(amounts=total(one.amounts for one in bundles), selector=bundles[0].selector)]
    before = [(node, dict(node.free), dict(node.placed)) for node in nodes]
    saved = (room.total, dict(room.of))
    fresh: list[Node] = []
    is_whole = True
    if gang.strategy is Strategy.STRICT_SPREAD:
        unused = list(nodes)
        for bundle in bundles:
            held = [len(node.placed) + sum(node.placed.values()) for node in unused]
            more, left = place([Request(bundle.amounts, bundle.selector, 1)], unused, types, room)
            unused = [
                node
                for node, count in zip(unused, held, strict=True)
                if len(node.placed) + sum(node.placed.values()) == count
            ]
            fresh.extend(more)
            is_whole = is_whole and not any(left)
    else:
        counted: dict[tuple[object, ...], Request] = {}
        for bundle in bundles:
            key = (shape_key(bundle.amounts), repr(bundle.selector))
            counted.setdefault(key, Request(bundle.amounts, bundle.selector, 0)).count += 1
        fresh, left = place(list(counted.values()), nodes, types, room)
        is_whole = not any(left)
    if not is_whole:
        for node, free, placed in before:
            node.free, node.placed = free, placed
        room.total, room.of = saved
        return []
    return fresh


def _standing_nodes(
    snapshot: Snapshot, nodes: Sequence[Node], fresh: Sequence[Node], types: Sequence[peers.PeerType], room: Room
) -> list[Node]:
    """Return new nodes for `request_resources`: only the last request counts in Ray, by total sizes."""
    if not snapshot.work.standing:
        return []
    empty = [Node(node.name, node.total, node.total, node.labels) for node in (*nodes, *fresh)]
    requests = [Request(one.amounts, one.selector, 1) for one in snapshot.work.standing[-1].bundles]
    more, _ = place(requests, empty, types, room)
    for node, copy in zip((*nodes, *fresh), empty, strict=True):
        if copy.placed:
            node.placed[-1] = 1
    for node in more:
        node.free = dict(node.total)
    return more


def _paced(snapshot: Snapshot, policy: Policy, peer: peers.PeerType, wanted: int) -> int:
    """Return how many of a type may be launched in this tick: `_compute_to_launch`."""
    name = peer.kind.name
    if any(one.node_type == name and snapshot.now_s - one.launched_s < TICK_S for one in snapshot.recent):
        return 0
    running = sum(1 for one in snapshot.instances if one.node_type == name and one.state is State.READY)
    speed = 1.0 if policy.upscaling_speed is None else policy.upscaling_speed
    return min(wanted, max(1, math.ceil(speed * max(running, 1))))


def _capped(
    snapshot: Snapshot, counts: Sequence[tuple[peers.PeerType, int, str]]
) -> list[tuple[peers.PeerType, int, str]]:
    left = CONCURRENT_LAUNCHES_MOST - sum(1 for one in snapshot.instances if one.state is State.REQUESTED)
    found: list[tuple[peers.PeerType, int, str]] = []
    for peer, count, why in counts:
        taken = max(0, min(left, count))
        left -= taken
        found.append((peer, taken, why))
    return found


def _idle_drains(snapshot: Snapshot, policy: Policy, needed: set[str]) -> list[Step]:
    there = Counter(
        one.node_type for one in snapshot.instances if one.state in (State.REQUESTED, State.BOOTING, State.READY)
    )
    joined = {node.instance_id: node for node in snapshot.work.nodes if node.instance_id}
    ready = [
        (joined[one.instance_id], one)
        for one in snapshot.instances
        if one.state is State.READY and one.instance_id in joined
    ]
    steps: list[Step] = []
    for node, one in sorted(ready, key=lambda pair: (-(pair[0].idle_s or 0.0), pair[1].instance_id)):
        kind = policy.node_type(one.node_type)
        limit_s = policy.idle_timeout_s
        if kind is not None and kind.idle_timeout_s is not None:
            limit_s = kind.idle_timeout_s
        if node.is_head or node.idle_s is None or node.idle_s <= limit_s or one.instance_id in needed:
            continue
        if there[one.node_type] <= (kind.min_workers if kind is not None else 0):
            continue
        there[one.node_type] -= 1
        steps.append(
            Drain(instance_id=one.instance_id, why=f"idle for {node.idle_s:.0f} s", idle_serial=node.idle_serial)
        )
    return steps


def packing(classes: Sequence[DemandClass], types: Sequence[peers.PeerType]) -> Counter[str]:
    """Return how many nodes of each type Ray would add to an empty cluster, by node type; for measures."""
    unlimited = Room.__new__(Room)
    unlimited.total = 1 << 40
    unlimited.of = {one.kind.name: 1 << 40 for one in types}
    requests = [Request(one.amounts, one.selector, one.waiting) for one in classes]
    fresh, _ = place(requests, [], types, unlimited)
    return Counter(node.peer.kind.name for node in fresh if node.peer is not None)
