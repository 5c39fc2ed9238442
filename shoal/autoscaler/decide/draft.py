"""A plan in the making: stands, machines bought so far, the room that is left, and what was found unserved.

`drafting` fills it, in order; here are its state and the few things that can be done with it.
"""

from __future__ import annotations

import bisect
import operator
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import msgspec

from shoal.autoscaler.decide.buying import Want, admits
from shoal.autoscaler.decide.forced import expired, forced_drains, serving
from shoal.autoscaler.decide.room import Room, is_mass_loss
from shoal.autoscaler.decide.stands import Rank, Stand, bought, stands
from shoal.autoscaler.decide.wares import Ware, wares
from shoal.foundation.amounts import Amounts
from shoal.model.demand import ANYWHERE, Bundle, Selector
from shoal.model.instance import State
from shoal.model.plan import Drain, Verdict
from shoal.model.policy import Policy
from shoal.model.snapshot import Snapshot
from shoal.placement.fits import fits, take

FITS_BUT_WAITS = "fits-but-waits"
"""How the `why` of a launch begins that was made because work waits although it would fit (see `Snapshot.recent`)."""
EXTRA_LAUNCH_S = 60.0
WORK = "work of"
"""How `Stand.used` begins where the plan itself put work on the stand."""

_LEAVING = frozenset({State.DRAINING, State.DRAINED})

ShapeKey = tuple[tuple[tuple[str, int], ...], str]
"""A bundle's shape and selector, to count bundles that are alike."""


_RANK = operator.attrgetter("rank")


class Lack(msgspec.Struct, kw_only=True):
    """Demand found unserved, before its reasons are looked up."""

    demand: str
    kind: str
    amounts: Amounts
    count: int
    selector: Selector = ANYWHERE
    verdict: Verdict | None = None
    why: str = ""
    jobs: tuple[str, ...] = ()
    topology: str = ""
    parts: tuple[Bundle, ...] = ()
    room: Room | None = None
    """The room in which it failed, for what is served as a whole or not at all; None: what the plan leaves."""


class Draft:
    """The state of one planning run up to the point where the classes that are left must be bought for."""

    def __init__(self, snapshot: Snapshot, policy: Policy, unwanted: AbstractSet[str] = frozenset()) -> None:
        """Place what waits on what is there; wishes that are `unwanted` do not count as there."""
        self.snapshot = snapshot
        self.policy = policy
        self.wares = wares(snapshot, policy)
        self.is_mass_loss = is_mass_loss(snapshot)
        self.room = Room(snapshot, policy, self.is_mass_loss)
        self.calm = _why_nothing_drains(snapshot, self.is_mass_loss)
        self.expired = expired(snapshot, policy)
        self.serving = serving(snapshot, self.expired)
        self.forced = forced_drains(snapshot, policy, self.serving, snapshot.committed_micro, self.calm)
        by_offer = {(ware.node_type.name, ware.offer.key): ware for ware in self.wares}
        self.stands = stands(snapshot, policy, by_offer)
        self.lacks: list[Lack] = []
        self.moves: dict[str, Drain] = {}
        """Drains of nodes whose work moves elsewhere, by instance id."""
        self._reject_wishes_without_room(unwanted)
        self._leave_out_what_goes()

        self.wants: list[Want] = []
        self.jobs: dict[str, tuple[str, ...]] = {}
        """The jobs that wait in each class of `wants`."""

    @property
    def unused_wishes(self) -> set[str]:
        """The wishes that nothing was placed on: they only take up room under the limits."""
        return {stand.name for stand in self.stands if stand.rank is Rank.QUEUED and not stand.used}

    @property
    def arriving(self) -> list[Stand]:
        """The stands of machines on their way or wished for: few of many, and together in the order of ranks."""
        first = self.first_of(Rank.COMING)
        last = bisect.bisect_right(self.stands, Rank.QUEUED, key=_RANK)
        return [stand for stand in self.stands[first:last] if stand.rank is not Rank.UNDRAIN]

    def first_of(self, rank: Rank) -> int:
        """Return where the stands of this rank and those after it begin."""
        return bisect.bisect_left(self.stands, rank, key=_RANK)

    def add_machine(self, ware: Ware, why: str) -> None:
        """Count on one more machine, bought for the reason; its room has been taken already."""
        self.need(self.add(ware, ""), why)

    @property
    def is_bare(self) -> bool:
        """Whether all that is bought serves classes alone: no room is there to be shared, nothing else was bought."""
        return not any(
            stand.ware is not None or stand.placed or any(amount > 0 for amount in stand.spot.free.values())
            for stand in self.stands
        )

    # --- small parts -------------------------------------------------------------------------------------------

    def put(self, stand: Stand, key: str, amounts: Amounts, count: int) -> None:
        """Place `count` units of a demand on the stand, which must have room for them."""
        take(stand.spot, amounts, count)
        stand.placed = {**stand.placed, key: stand.placed.get(key, 0) + count}
        stand.used = stand.used or f"{WORK} {key} is planned on it"

    @staticmethod
    def need(stand: Stand, why: str) -> None:
        """Note that the stand has to stay, unless a reason is known already."""
        stand.used = stand.used or why

    def add(self, ware: Ware, gang: str) -> Stand:
        """Count on one more machine; the room for it has been taken already."""
        stand = bought(ware, len(self.stands))
        stand.gang = gang
        stand.held_for = ""
        self.stands.append(stand)
        return stand

    def cheapest(self, needs: Amounts, selector_list: Sequence[Selector], topology: str, room: Room) -> Ware | None:
        """Return the cheapest ware that holds the amounts, admits all the selectors and may still be bought."""
        for ware in self.wares:
            if (
                fits(needs, ware.resources)
                and all(
                    admits(Want(key="", amounts=needs, selector=selector, count=1, topology=topology), ware)
                    for selector in selector_list
                )
                and room.holds(ware, 1)[0]
            ):
                return ware
        return None

    def _leave_out_what_goes(self) -> None:
        """Count neither on nodes that are forced out, nor on taking back more than the limits allow."""
        if not self.forced and not self.expired and not any(one.state in _LEAVING for one in self.snapshot.moving):
            return
        there = self.serving
        total_left = self.policy.max_workers - sum(there.values()) + len(self.forced)
        type_left = {kind.name: kind.max_workers - there[kind.name] for kind in self.policy.node_types}
        for one in self.snapshot.instances if self.forced else ():
            if one.instance_id in self.forced and one.node_type in type_left:
                type_left[one.node_type] += 1
        kept: list[Stand] = []
        forced, gone = self.forced, self.expired
        for stand in self.stands:
            if stand.name in forced or stand.name in gone:
                continue
            if stand.rank is Rank.UNDRAIN:
                left = min(total_left, type_left.get(stand.node_type, 0))
                if left <= 0 or self.room.is_over_cap:
                    continue
                total_left -= 1
                type_left[stand.node_type] -= 1
            kept.append(stand)
        self.stands = kept

    def _reject_wishes_without_room(self, unwanted: AbstractSet[str]) -> None:
        """Give up wishes (`queued`) that a lowered limit, cap or bad offer has overtaken, newest first."""
        self.given_up: set[str] = set()
        wishes = [one for one in self.snapshot.moving if one.state is State.QUEUED]
        if not wishes:
            return
        usable = {stand.name for stand in self.stands} - unwanted
        for wish in sorted(wishes, key=lambda one: one.instance_id, reverse=True):
            if (
                wish.instance_id not in usable
                or self.room.total_left < 0
                or self.room.over_type(wish.node_type)
                or self.room.is_over_cap
            ):
                self.given_up.add(wish.instance_id)
                self.room.give_back(wish)
        if self.given_up:
            self.stands = [stand for stand in self.stands if stand.name not in self.given_up]


def _why_nothing_drains(snapshot: Snapshot, is_mass_loss: bool) -> str:
    """Return why no node is drained for being idle or surplus just now, `` if they are."""
    if snapshot.work.is_settling:
        return "the head is settling after a restart"
    if any(node.is_missing for node in snapshot.troubled):
        return "nodes are missing since the head restarted"
    if is_mass_loss:
        return "many nodes fell silent at once"
    return ""
