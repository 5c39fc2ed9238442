"""What may go: nodes nobody needs, machines past a deadline, wishes taken back; and why every other idle node stays.

An order given here is one that the instance table allows. A drain for idleness names the idle serial it was decided
on, so that the agent can refuse it when work came in between.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import msgspec

from shoal.autoscaler.decide.draft import Draft
from shoal.autoscaler.decide.stands import Rank, Stand
from shoal.model.instance import Instance, State
from shoal.model.node import Node
from shoal.model.offer import OfferKey
from shoal.model.plan import Drain, Forget, Kept, Release, Step, Undrain
from shoal.model.policy import Deadlines, NodeType, Policy
from shoal.model.snapshot import Recent, Snapshot

FREEZE_S = 3600.0
FREEZE_PAIRS = 3
BOOT_S = 60.0
"""How long a boot takes where no offer says it."""
_IDLE = "idle"
"""How the reason of a drain for idleness begins, and with it that of the release."""


class Surplus(msgspec.Struct):
    """The steps that give machines back (or keep them after all), and the idle nodes that stay."""

    steps: list[Step]
    kept: list[Kept]
    frozen: dict[str, float]
    """Node types whose idle drain is frozen because they flapped, and for how many seconds more."""


def surplus(draft: Draft) -> Surplus:
    """Return what goes and what stays, in the order of instance ids within each kind of step."""
    snapshot = draft.snapshot
    # Who works, and stays so, comes first and is not asked about.
    others = draft.stands[draft.first_of(Rank.READY_IDLE) :]
    stands = {stand.name: stand for stand in others if stand.instance is not None}
    nodes = snapshot.nodes
    undrains: list[Step] = []
    releases: list[Step] = []
    forgets: list[Step] = []
    lost_left = _lost_to_release(snapshot, draft.is_mass_loss)
    for one in sorted(snapshot.moving, key=lambda it: it.instance_id):
        stand = stands.get(one.instance_id)
        used = stand.used if stand is not None else ""
        kind = draft.policy.node_type(one.node_type)
        deadlines = kind.deadlines if kind is not None else Deadlines()
        for_s = snapshot.now_s - one.since_s
        match one.state:
            case State.QUEUED:
                if not used:
                    why = "no longer wanted, or a limit or its offer changed"
                    forgets.append(Forget(instance_id=one.instance_id, why=why))
            case State.REQUESTED | State.BOOTING if one.instance_id in draft.expired:
                releases.append(Release(instance_id=one.instance_id, why=draft.expired[one.instance_id]))
            case State.LOST if one.why.startswith("halted") or (for_s > deadlines.lost_s and snapshot.may_expire):
                if lost_left > 0:
                    lost_left -= 1
                    releases.append(Release(instance_id=one.instance_id, why=f"lost for {for_s:.0f} s"))
            case State.DRAINED:
                if used:
                    undrains.append(Undrain(instance_id=one.instance_id, why=used))
                else:
                    releases.append(Release(instance_id=one.instance_id, why=one.why or "drained"))
            case State.DRAINING:
                if used:
                    undrains.append(Undrain(instance_id=one.instance_id, why=used))
                elif snapshot.may_expire and _is_past_deadline(snapshot, one, deadlines):
                    node = nodes.get(one.instance_id)
                    if one.drain_deadline_s is None and node is not None and node.busy:
                        undrains.append(Undrain(instance_id=one.instance_id, why="work came before it was empty"))
                    else:
                        releases.append(Release(instance_id=one.instance_id, why="its drain's deadline has passed"))
            case State.STRAY:
                releases.append(Release(instance_id=one.instance_id, why="nobody wants it any more"))
            case _:
                pass
    drains, kept, frozen = _drains(draft, stands)
    return Surplus([*undrains, *drains, *releases, *forgets], kept, frozen)


def frozen_until(recent: Sequence[Recent], flap_s: float, boot_s: Callable[[OfferKey], float]) -> dict[str, float]:
    """Return the node types whose idle drain is frozen, with the end of it on the clock of `launched_s`.

    Three flaps of a type within an hour freeze it for an hour after the third. A flap is a launch and its release
    that undo each other within `flap_s`, or within two boots where those are faster: the type was given back so
    soon after its launch, or launched again so soon after it was given back. Work that comes, ends, and leaves its
    machines idle for their time is none. Machines that were there together make one round: ten nodes bought and
    given back at once did not flap. Source: docs/decisions/0010-what-counts-as-a-flap.md.
    """
    launches: dict[str, list[float]] = defaultdict(list)
    rounds: dict[str, list[_Round]] = defaultdict(list)
    for one in sorted(recent, key=lambda it: (it.launched_s, it.released_s or 0.0)):
        launches[one.node_type].append(one.launched_s)
        if one.released_s is None or not was_given_back(one.released_s, one.why):
            continue  # refused, lost and interrupted machines say nothing about our own changes of mind
        of_type = rounds[one.node_type]
        if of_type and one.launched_s <= of_type[-1].released_s:
            of_type[-1].released_s = max(of_type[-1].released_s, one.released_s)
        else:
            of_type.append(_Round(one.launched_s, one.released_s, min(flap_s, 2 * boot_s(one.offer))))
    found: dict[str, float] = {}
    for node_type, of_type in rounds.items():
        flaps = [one for one in of_type if one.is_flap(launches[node_type])]
        for first, last in zip(flaps, flaps[FREEZE_PAIRS - 1 :], strict=False):
            if last.released_s - first.launched_s <= FREEZE_S:
                found[node_type] = last.released_s + FREEZE_S
    return found


def was_given_back(released_s: float | None, why: str) -> bool:
    """Say whether a machine was released for being idle, by our own decision."""
    return released_s is not None and why.startswith(_IDLE)


class _Round(msgspec.Struct):
    """From a launch to the release of the last machine that was there at the same time."""

    launched_s: float
    released_s: float
    reach_s: float
    """Within so long the opposite order makes a flap."""

    def is_flap(self, launches_s: Sequence[float]) -> bool:
        """Say whether release and launch undo each other; `launches_s` are all launches of the type, in order."""
        if self.released_s - self.launched_s < self.reach_s:
            return True
        later = bisect.bisect_left(launches_s, self.released_s)
        return later < len(launches_s) and launches_s[later] - self.released_s < self.reach_s


class Memory(msgspec.Struct, frozen=True):
    """What hysteresis remembers of each node type: until when idle drain is frozen, when one was launched last."""

    frozen_until_s: dict[str, float]
    launched_s: dict[str, float]


def memory_of(snapshot: Snapshot, policy: Policy) -> Memory:
    """Return what the launches and releases not long ago say; freezes that have ended are left out."""
    launched_s: dict[str, float] = {}
    for one in snapshot.recent:
        if one.launched_s > launched_s.get(one.node_type, -math.inf):
            launched_s[one.node_type] = one.launched_s
    if not policy.flap_s > 0:
        return Memory({}, launched_s)
    boots_s = {offer.key: offer.boot_typical_s for offer in snapshot.offers}
    frozen = frozen_until(snapshot.recent, policy.flap_s, lambda key: boots_s.get(key, BOOT_S))
    return Memory({name: until_s for name, until_s in frozen.items() if until_s > snapshot.now_s}, launched_s)


def _drains(draft: Draft, stands: dict[str, Stand]) -> tuple[list[Step], list[Kept], dict[str, float]]:
    snapshot, policy = draft.snapshot, draft.policy
    forced = draft.forced
    drains: list[Step] = [*forced.values(), *draft.moves.values()]
    kept: list[Kept] = []
    there = Counter(draft.serving)
    leaving = forced.keys() | draft.moves.keys()
    for one in snapshot.instances if leaving else ():
        if one.instance_id in leaving:
            there[one.node_type] -= 1
    idle = [pair for pair in snapshot.idle if pair[0].instance_id not in leaving and not pair[1].is_cordoned]
    memory = Memory({}, {})
    if idle:
        memory = memory_of(snapshot, policy)
        # The dearest goes first where `min_workers` lets only some go.
        idle.sort(key=lambda pair: (-(pair[0].price_micro or 0), -(pair[1].idle_s or 0.0), pair[0].instance_id))
    kinds = {kind.name: kind for kind in policy.node_types}
    for one, node in idle:
        kind = kinds.get(one.node_type)
        assert kind is not None or draft.calm, "a type gone from the configuration is forced to drain"
        stand = stands.get(one.instance_id)
        used = stand.used if stand is not None else ""
        why = draft.calm or (kind and _why_it_stays(draft, one, node, kind, used, there[kind.name], memory)) or ""
        if why:
            kept.append(Kept(instance_id=one.instance_id, why=why))
        else:
            drains.append(
                Drain(
                    instance_id=one.instance_id,
                    why=f"{_IDLE} for {node.idle_s:.0f} s",
                    idle_serial=node.idle_serial,
                )
            )
            there[one.node_type] -= 1
    drains.sort(key=lambda step: step.instance_id if isinstance(step, Drain) else "")
    kept.sort(key=lambda one: one.instance_id)
    frozen = {name: until_s - snapshot.now_s for name, until_s in sorted(memory.frozen_until_s.items())}
    return drains, kept, frozen


def _why_it_stays(
    draft: Draft,
    one: Instance,
    node: Node,
    kind: NodeType,
    used: str,
    there: int,
    memory: Memory,
) -> str:
    """Return why an idle node stays, `` if it may go; the most binding reason first."""
    snapshot, policy = draft.snapshot, draft.policy
    if used:
        return used
    hold = next(
        (it for it in snapshot.holds if it.instance_id == one.instance_id and it.until_s > snapshot.now_s), None
    )
    if hold is not None and any(gang.gang_id == hold.gang for gang in snapshot.work.gangs):
        return f"held for gang {hold.gang} for {hold.until_s - snapshot.now_s:.0f} s more"
    if there <= kind.min_workers:
        return f"min_workers of `{kind.name}` is {kind.min_workers}"
    limit_s = policy.idle_timeout_s if kind.idle_timeout_s is None else kind.idle_timeout_s
    idle_s = node.idle_s or 0.0
    if idle_s < limit_s:
        return f"idle for {idle_s:.0f} s of {limit_s:.0f} s"
    up_s = snapshot.now_s - (one.created_s if one.ready_s is None else one.ready_s)
    if up_s < kind.min_up_s:
        return f"up for {up_s:.0f} s of min_up {kind.min_up_s:.0f} s"
    until_s = memory.frozen_until_s.get(kind.name, 0.0)
    if until_s > snapshot.now_s:
        return (
            f"`{kind.name}` was launched and given back in turn three times within an hour; "
            f"idle drain is frozen for {until_s - snapshot.now_s:.0f} s more"
        )
    return _why_flap(snapshot, policy, one, kind, memory)


def _why_flap(snapshot: Snapshot, policy: Policy, one: Instance, kind: NodeType, memory: Memory) -> str:
    """Return why a node of a type that was launched a moment ago stays, unless giving it back pays for two boots."""
    launched_s = memory.launched_s.get(kind.name)
    if launched_s is None or snapshot.now_s - launched_s >= policy.flap_s:
        return ""
    since_s = snapshot.now_s - launched_s
    left_s = policy.flap_s - since_s
    boot_s = next((offer.boot_typical_s for offer in snapshot.offers if offer.key == one.offer), BOOT_S)
    if one.price_micro and left_s > 2 * boot_s:
        return ""
    return f"`{kind.name}` was launched {since_s:.0f} s ago; it may be wanted again for {left_s:.0f} s more"


def _lost_to_release(snapshot: Snapshot, is_mass_loss: bool) -> int:
    """Return how many lost machines may be released now: after a mass loss, a tenth of all per minute."""
    if not is_mass_loss:
        return len(snapshot.instances)
    recently = sum(
        1
        for one in snapshot.moving
        if one.state is State.RELEASING and snapshot.now_s - one.since_s < 60 and one.why.startswith("lost")
    )
    return max(0, max(1, len(snapshot.instances) // 10) - recently)


def _is_past_deadline(snapshot: Snapshot, one: Instance, deadlines: Deadlines) -> bool:
    if one.drain_deadline_s is not None:
        return snapshot.now_s >= one.drain_deadline_s
    return snapshot.now_s - one.since_s > deadlines.draining_s
