"""A plan in the making: stands, machines bought so far, the room that is left, and what was found unserved.

The order in which demand is looked at: gangs (all or nothing), standing requests (a total), `min_workers`, then
classes. Each first uses what is there or coming.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import msgspec

from shoal.autoscaler.decide.buying import Market, Want, admits, first_basket
from shoal.autoscaler.decide.forced import expired, forced_drains, serving
from shoal.autoscaler.decide.room import Room, is_mass_loss
from shoal.autoscaler.decide.stands import PLAIN, Rank, Stand, bought, stands
from shoal.autoscaler.decide.wares import Ware, wares
from shoal.foundation.amounts import Amounts, covers, lowest, shape_key, shown, total
from shoal.model.demand import ANYWHERE, Bundle, DemandClass, Gang, Selector, Strategy
from shoal.model.instance import State
from shoal.model.plan import Drain, Verdict
from shoal.model.policy import Policy
from shoal.model.snapshot import Snapshot
from shoal.placement import selectors
from shoal.placement.fits import Spot, fits, how_many, take, width
from shoal.placement.gangs import place_gang

FITS_BUT_WAITS = "fits-but-waits"
"""How the `why` of a launch begins that was made because work waits although it would fit (see `Snapshot.recent`)."""
EXTRA_LAUNCH_S = 60.0
WORK = "work of"
"""How `Stand.used` begins where the plan itself put work on the stand."""

ShapeKey = tuple[tuple[tuple[str, int], ...], str]
"""A bundle's shape and selector, to count bundles that are alike."""


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
        self.stands = stands(snapshot, policy, {(ware.node_type.name, ware.offer.key): ware for ware in self.wares})
        self.lacks: list[Lack] = []
        self.moves: dict[str, Drain] = {}
        """Drains of nodes whose work moves elsewhere, by instance id."""
        self._reject_wishes_without_room(unwanted)
        self._leave_out_what_goes()

        ordered = sorted(snapshot.work.classes, key=_hardness)
        left = {demand.key: self._wide(demand) for demand in ordered}
        self._keep_where_planned(ordered, left)
        holders = {stand.held_for for stand in self.stands}
        for stand in self.stands:
            if stand.instance is not None and stand.rank in (Rank.COMING, Rank.QUEUED):
                holders.update(stand.instance.planned)
        for gang in sorted(
            snapshot.work.gangs,
            key=lambda one: (one.gang_id not in holders, -len(one.bundles), -one.waiting_s, one.gang_id),
        ):
            if self._place_gang(gang):
                for stand in self.stands:
                    if stand.held_for == gang.gang_id:
                        stand.held_for = ""
        self._place_standing()
        self._fill_min_workers()
        self._stands_seen, self._placings = -1, 0
        self._least: Amounts = {}
        self._open: tuple[list[Stand], list[Stand]] = ([], [])
        self.wants: list[Want] = []
        self._jobs: dict[str, tuple[str, ...]] = {}
        for demand in ordered:
            if left[demand.key]:
                self._place_class(demand, left[demand.key])

    # --- gangs -------------------------------------------------------------------------------------------------

    def _place_gang(self, gang: Gang) -> bool:
        """Place the gang on what is there, or buy what it lacks; else note it as unserved. All or nothing."""
        if not gang.bundles:
            return True
        usable = [stand for stand in self.stands if stand.held_for in ("", gang.gang_id)]
        usable.sort(key=lambda stand: stand.held_for != gang.gang_id)
        usable = _roomy(usable, gang)
        by_spot = {stand.spot.spot_id: stand for stand in usable}
        if self._keep_gang_where_planned(gang, usable):
            return True
        spots = [stand.spot for stand in usable]
        found = place_gang(gang.bundles, gang.strategy, spots)
        if found is not None:
            for bundle, spot_id in zip(gang.bundles, found, strict=True):
                self._put(by_spot[spot_id], gang.gang_id, bundle.amounts, 1)
            return True
        if gang.strategy is Strategy.STRICT_PACK:
            done = self._buy_on_one(gang)
        elif gang.strategy is Strategy.STRICT_SPREAD:
            done = self._buy_on_each(gang, usable)
        else:
            done = self._buy_anyhow(gang, usable)
        if not done:
            # What it holds already stays reserved until the hold ends.
            for stand in usable:
                if stand.held_for == gang.gang_id:
                    stand.used = stand.used or f"held for gang {gang.gang_id}"
            self.lacks.append(
                Lack(
                    demand=gang.gang_id,
                    kind="gang",
                    amounts=total(bundle.amounts for bundle in gang.bundles),
                    count=len(gang.bundles),
                    jobs=(gang.job,) if gang.job else (),
                    topology=gang.topology,
                    parts=((_on_one_machine(gang),) if gang.strategy is Strategy.STRICT_PACK else tuple(gang.bundles)),
                    why=f"gang of {len(gang.bundles)} ({gang.strategy}) starts together or not at all",
                )
            )
        return done

    def _keep_gang_where_planned(self, gang: Gang, usable: Sequence[Stand]) -> bool:
        """Keep a gang on the machines on their way that were bought for all of it, as it was placed then."""
        bought_for = [
            stand
            for stand in usable
            if stand.instance is not None
            and stand.rank in (Rank.COMING, Rank.QUEUED)
            and stand.instance.planned.get(gang.gang_id)
        ]
        counts = [stand.instance.planned[gang.gang_id] for stand in bought_for if stand.instance is not None]
        if sum(counts) != len(gang.bundles):
            return False
        amounts = gang.bundles[0].amounts
        if all(bundle.amounts == amounts for bundle in gang.bundles) and all(
            how_many(amounts, stand.spot.free, count) == count for stand, count in zip(bought_for, counts, strict=True)
        ):
            for stand, count in zip(bought_for, counts, strict=True):
                self._put(stand, gang.gang_id, amounts, count)
            return True
        by_spot = {stand.spot.spot_id: stand for stand in bought_for}
        found = place_gang(gang.bundles, gang.strategy, [stand.spot for stand in bought_for])
        if found is not None:
            for bundle, spot_id in zip(gang.bundles, found, strict=True):
                self._put(by_spot[spot_id], gang.gang_id, bundle.amounts, 1)
            return True
        for stand, count in zip(bought_for, counts, strict=True):
            # Which bundle stands where is not known any more: all of the machine is the gang's.
            stand.placed[gang.gang_id] = count
            stand.spot.free = {}
            stand.used = stand.used or f"{WORK} {gang.gang_id} is planned on it"
        return True

    def _buy_on_one(self, gang: Gang) -> bool:
        needs = total(bundle.amounts for bundle in gang.bundles)
        ware = self._cheapest(needs, [bundle.selector for bundle in gang.bundles], gang.topology, self.room)
        if ware is None:
            return False
        self.room.take(ware, 1)
        stand = self._add(ware, gang.gang_id)
        for bundle in gang.bundles:
            self._put(stand, gang.gang_id, bundle.amounts, 1)
        return True

    def _buy_on_each(self, gang: Gang, usable: Sequence[Stand]) -> bool:
        """Buy a machine of its own for each bundle that finds no place on a different one of those there.

        Which bundles stay on what is there: greedily by what their own machine would cost. The sets of bundles
        that can be matched form a matroid, so the greedy choice is the best one.
        """
        room = self.room.copy()
        own = [self._cheapest(bundle.amounts, [bundle.selector], gang.topology, self.room) for bundle in gang.bundles]
        order = sorted(
            range(len(gang.bundles)),
            key=lambda one: (-(ware.expected_micro if (ware := own[one]) else 1 << 62), one),
        )
        spots = [stand.spot for stand in usable]
        there: list[int] = []
        places: list[str] = []
        to_buy: list[int] = []
        for one in order:
            trial = [*there, one]
            found = place_gang([gang.bundles[at] for at in trial], Strategy.STRICT_SPREAD, spots)
            if found is not None:
                there, places = trial, found
            else:
                to_buy.append(one)
        picked: list[tuple[int, Ware]] = []
        for one in to_buy:
            ware = self._cheapest(gang.bundles[one].amounts, [gang.bundles[one].selector], gang.topology, room)
            if ware is None:
                return False
            room.take(ware, 1)
            picked.append((one, ware))
        self.room = room
        by_spot = {stand.spot.spot_id: stand for stand in usable}
        for one, spot_id in zip(there, places, strict=True):
            self._put(by_spot[spot_id], gang.gang_id, gang.bundles[one].amounts, 1)
        for one, ware in picked:
            self._put(self._add(ware, gang.gang_id), gang.gang_id, gang.bundles[one].amounts, 1)
        return True

    def _buy_anyhow(self, gang: Gang, usable: Sequence[Stand]) -> bool:
        """PACK and SPREAD bind only softly: fill what is there, buy the cheapest machines for the rest."""
        counts: dict[ShapeKey, int] = {}
        shapes: dict[ShapeKey, Bundle] = {}
        for bundle in gang.bundles:
            key = (shape_key(bundle.amounts), repr(bundle.selector))
            counts[key] = counts.get(key, 0) + 1
            shapes[key] = bundle
        order = sorted(shapes, key=lambda key: (not shapes[key].selector, -len(shapes[key].amounts), repr(key)))
        trial = [Spot(spot_id=stand.spot.spot_id, free=stand.spot.free, labels=stand.spot.labels) for stand in usable]
        put: list[tuple[int, Bundle, int]] = []
        wants: list[Want] = []
        for key in order:
            bundle, left = shapes[key], counts[key]
            for at, spot in enumerate(trial):
                if bundle.selector and not selectors.admits(bundle.selector, spot.spot_id, spot.labels):
                    continue
                count = how_many(bundle.amounts, spot.free, left)
                if count:
                    take(spot, bundle.amounts, count)
                    put.append((at, bundle, count))
                    left -= count
                    if not left:
                        break
            if left:
                wants.append(
                    Want(
                        key=gang.gang_id,
                        amounts=bundle.amounts,
                        selector=bundle.selector,
                        count=left,
                        topology=gang.topology,
                    )
                )
        basket = first_basket(Market(wants, self.wares), [want.count for want in wants], self.room)
        if any(basket.left):
            return False
        self.room = basket.room
        for at, bundle, count in put:
            self._put(usable[at], gang.gang_id, bundle.amounts, count)
        for item in basket.items:
            for _ in range(item.copies):
                stand = self._add(item.ware, gang.gang_id)
                for number, count in item.content:
                    self._put(stand, gang.gang_id, wants[number].amounts, count)
        return True

    # --- standing requests and minimums ------------------------------------------------------------------------

    def _place_standing(self) -> None:
        """See to it that the total size holds the standing bundles: of each shape, the most that any owner asks."""
        most: dict[ShapeKey, tuple[int, Bundle, str, str]] = {}
        for request in sorted(self.snapshot.work.standing, key=lambda one: one.owner):
            if request.ttl_s is not None and request.ttl_s <= 0:
                continue
            counts: dict[ShapeKey, int] = {}
            for bundle in request.bundles:
                key = (shape_key(bundle.amounts), repr(bundle.selector))
                counts[key] = counts.get(key, 0) + 1
                if counts[key] > most.get(key, (0,))[0]:
                    most[key] = (counts[key], bundle, request.owner, request.job)
        if not most:
            return
        # What must stay anyway comes first, so that an idle node is pinned only if it is really needed.
        order = sorted(self.stands, key=_stays_longest)
        totals = [
            (stand, Spot(spot_id=stand.spot.spot_id, free=stand.total, labels=stand.spot.labels)) for stand in order
        ]
        wants: list[Want] = []
        owners: list[tuple[str, str]] = []
        order_of = sorted(most, key=lambda key: _bundle_hardness(most[key][1]))
        for key in order_of:
            # As with classes: what a machine on its way was bought for stays on it.
            for stand, spot in totals:
                planned = stand.instance.planned.get(_promise(key), 0) if stand.instance else 0
                if planned and stand.rank in (Rank.COMING, Rank.QUEUED):
                    left, bundle, owner, job = most[key]
                    count = how_many(bundle.amounts, spot.free, min(planned, left))
                    take(spot, bundle.amounts, count)
                    if count:
                        self._need(stand, f"standing request of {owner}")
                    most[key] = (left - count, bundle, owner, job)
        for key in order_of:
            left, bundle, owner, job = most[key]
            if not left:
                continue
            for stand, spot in totals:
                if bundle.selector and not selectors.admits(bundle.selector, spot.spot_id, spot.labels):
                    continue
                count = how_many(bundle.amounts, spot.free, left)
                if count:
                    take(spot, bundle.amounts, count)
                    self._need(stand, f"standing request of {owner}")
                    left -= count
                    if not left:
                        break
            if left:
                wants.append(Want(key=_promise(key), amounts=bundle.amounts, selector=bundle.selector, count=left))
                owners.append((owner, job))
        if not wants:
            return
        basket = first_basket(Market(wants, self.wares), [want.count for want in wants], self.room)
        self.room = basket.room
        for item in basket.items:
            for _ in range(item.copies):
                stand = self._add(item.ware, "")
                self._need(stand, f"standing request of {owners[item.content[0][0]][0]}")
                stand.promised = {wants[number].key: count for number, count in item.content}
        for want, (owner, job), left in zip(wants, owners, basket.left, strict=True):
            if left:
                self.lacks.append(
                    Lack(
                        demand=owner,
                        kind="standing",
                        amounts=want.amounts,
                        count=left,
                        selector=want.selector,
                        jobs=(job,) if job else (),
                        why=f"requested in total: {left} more x ({shown(want.amounts)})",
                    )
                )

    def _fill_min_workers(self) -> None:
        for kind in self.policy.node_types:
            if kind.min_workers <= 0:
                continue
            own = [
                stand
                for stand in self.stands
                if stand.node_type == kind.name and not (stand.node and stand.node.is_head)
            ]
            have = [
                stand for stand in own if stand.rank in (Rank.READY_BUSY, Rank.READY_IDLE, Rank.COMING, Rank.BOUGHT)
            ]
            have += [stand for stand in own if stand.rank in (Rank.UNDRAIN, Rank.QUEUED) and stand.used]
            for stand in own:
                if len(have) < kind.min_workers and stand.rank in (Rank.UNDRAIN, Rank.QUEUED) and not stand.used:
                    self._need(stand, f"min_workers of `{kind.name}` is {kind.min_workers}")
                    have.append(stand)
            lack = kind.min_workers - len(have)
            for ware in self.wares:
                if lack <= 0:
                    break
                if ware.node_type.name != kind.name:
                    continue
                count, _, _ = self.room.holds(ware, lack)
                self.room.take(ware, count)
                for _ in range(count):
                    self._need(self._add(ware, ""), f"min_workers of `{kind.name}` is {kind.min_workers}")
                lack -= count
            if lack > 0:
                self.lacks.append(
                    Lack(
                        demand=kind.name,
                        kind="min_workers",
                        amounts=kind.resources,
                        count=lack,
                        why=f"min_workers of `{kind.name}` is {kind.min_workers}, {lack} are missing",
                    )
                )

    # --- classes -----------------------------------------------------------------------------------------------

    def _wide(self, demand: DemandClass) -> int:
        """Return for how many units slots are wanted; note the rest as deferred."""
        wide = width(demand, self.policy.finish_within_s, self.policy.width)
        if demand.waiting > wide:
            work_s = (demand.waiting - wide) * (demand.duration_s or 0.0) / max(1, wide + demand.running_slots)
            self.lacks.append(
                Lack(
                    demand=demand.key,
                    kind="class",
                    amounts=demand.amounts,
                    count=demand.waiting - wide,
                    selector=demand.selector,
                    verdict=Verdict.DEFERRED,
                    why=f"{work_s:.0f} s of work on what is there",
                    jobs=demand.jobs,
                )
            )
        return wide

    def _keep_where_planned(self, ordered: Sequence[DemandClass], left: dict[str, int]) -> None:
        """Put work back on the machines on their way that were bought for it.

        A tight packing is found once; found anew by first fit it could leave a unit over, and buy for it again.
        """
        by_key = {demand.key: demand for demand in ordered}
        for stand in self.stands:
            one = stand.instance
            if one is None or not one.planned or stand.held_for or stand.rank not in (Rank.COMING, Rank.QUEUED):
                continue
            for key, planned in sorted(one.planned.items()):
                demand = by_key.get(key)
                if demand is None or not left[key] or stand.spot.spot_id in demand.unplaceable_on:
                    continue
                if demand.selector and not selectors.admits(demand.selector, stand.spot.spot_id, stand.spot.labels):
                    continue
                count = how_many(demand.amounts, stand.spot.free, min(planned, left[key]))
                if count:
                    self._put(stand, key, demand.amounts, count)
                    left[key] -= count

    def _place_class(self, demand: DemandClass, left: int) -> None:
        """Place units on what is there; note the rest as to be bought for."""
        left = self._place_units(demand, left, skip=set(demand.unplaceable_on))
        if left and demand.unplaceable_on:
            left = self._limit_extra(demand, left)
        if left:
            self.wants.append(Want(key=demand.key, amounts=demand.amounts, selector=demand.selector, count=left))
            self._jobs[demand.key] = demand.jobs

    def _place_units(self, demand: DemandClass, left: int, skip: set[str]) -> int:
        """Put units on stands in their order, those with special resources last for plain work; return what is left."""
        needs, selector, key = demand.amounts, demand.selector, demand.key
        special = next((name for name in needs if name not in PLAIN), "")
        plain_stands, special_stands = self._open_stands()
        for stand in special_stands if special else itertools.chain(plain_stands, special_stands):
            count = how_many(needs, stand.spot.free, left)
            if not count or stand.held_for or (skip and stand.spot.spot_id in skip):
                continue
            if selector and not selectors.admits(selector, stand.spot.spot_id, stand.spot.labels):
                continue
            self._put(stand, key, needs, count)
            left -= count
            if not left:
                return 0
        return left

    def _open_stands(self) -> tuple[list[Stand], list[Stand]]:
        """Return the stands with room for at least some class, those without and those with special resources."""
        if len(self.stands) != self._stands_seen:
            # Machines were added since: sort them in. What has no room for any class never gets any.
            least = lowest([one.amounts for one in self.snapshot.work.classes])
            able = [stand for stand in self.stands if covers(stand.spot.free, least)]
            self._open = (
                [stand for stand in able if not stand.is_special],
                [stand for stand in able if stand.is_special],
            )
            self._stands_seen = len(self.stands)
            self._least = least
        elif self._placings % 4 == 0:
            self._open = (
                [stand for stand in self._open[0] if covers(stand.spot.free, self._least)],
                [stand for stand in self._open[1] if covers(stand.spot.free, self._least)],
            )
        self._placings += 1
        return self._open

    def _limit_extra(self, demand: DemandClass, left: int) -> int:
        """Cap what is bought for work that would fit what is there and waits all the same: one machine a minute."""
        skip = set(demand.unplaceable_on)
        would_fit = sum(
            how_many(demand.amounts, stand.spot.free, left) for stand in self.stands if stand.spot.spot_id in skip
        )
        if not would_fit:
            return left
        mark = f"{FITS_BUT_WAITS} {demand.key}:"
        recently = any(
            one.why.startswith(mark) and self.snapshot.now_s - one.launched_s < EXTRA_LAUNCH_S
            for one in self.snapshot.recent
        )
        extra = min(left, would_fit)
        if not recently:
            ware = self._cheapest(demand.amounts, [demand.selector], "", self.room)
            if ware is not None:
                self.room.take(ware, 1)
                stand = self._add(ware, "")
                stand.used = f"{mark} it would fit {', '.join(sorted(skip)[:3])} but waits"
                count = how_many(demand.amounts, stand.spot.free, extra)
                self._put(stand, demand.key, demand.amounts, count)
                extra -= count
                left -= count
        if extra:
            self.lacks.append(
                Lack(
                    demand=demand.key,
                    kind="class",
                    amounts=demand.amounts,
                    count=extra,
                    selector=demand.selector,
                    verdict=Verdict.DEFERRED,
                    why="it fits what is there but waits; at most one extra launch a minute is made for that",
                    jobs=demand.jobs,
                )
            )
        return left - extra

    @property
    def unused_wishes(self) -> set[str]:
        """The wishes that nothing was placed on: they only take up room under the limits."""
        return {stand.name for stand in self.stands if stand.rank is Rank.QUEUED and not stand.used}

    def add_machine(self, ware: Ware, why: str) -> None:
        """Count on one more machine, bought for the reason; its room has been taken already."""
        self._need(self._add(ware, ""), why)

    @property
    def is_bare(self) -> bool:
        """Whether all that is bought serves classes alone: no room is there to be shared, nothing else was bought."""
        return not any(
            stand.ware is not None or stand.placed or any(amount > 0 for amount in stand.spot.free.values())
            for stand in self.stands
        )

    def jobs_of(self, key: str) -> tuple[str, ...]:
        """Return the jobs that wait in the class."""
        return self._jobs.get(key, ())

    # --- small parts -------------------------------------------------------------------------------------------

    def _put(self, stand: Stand, key: str, amounts: Amounts, count: int) -> None:
        take(stand.spot, amounts, count)
        stand.placed[key] = stand.placed.get(key, 0) + count
        stand.used = stand.used or f"{WORK} {key} is planned on it"

    @staticmethod
    def _need(stand: Stand, why: str) -> None:
        stand.used = stand.used or why

    def _add(self, ware: Ware, gang: str) -> Stand:
        stand = bought(ware, len(self.stands))
        stand.gang = gang
        stand.held_for = ""
        self.stands.append(stand)
        return stand

    def _cheapest(self, needs: Amounts, selector_list: Sequence[Selector], topology: str, room: Room) -> Ware | None:
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
        there = self.serving
        total_left = self.policy.max_workers - sum(there.values()) + len(self.forced)
        type_left = {kind.name: kind.max_workers - there[kind.name] for kind in self.policy.node_types}
        for one in self.snapshot.instances:
            if one.instance_id in self.forced and one.node_type in type_left:
                type_left[one.node_type] += 1
        kept: list[Stand] = []
        for stand in self.stands:
            if stand.name in self.forced or stand.name in self.expired:
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
        usable = {stand.name for stand in self.stands} - unwanted
        self.given_up: set[str] = set()
        wishes = [one for one in self.snapshot.instances if one.state is State.QUEUED]
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
    if any(node.is_missing for node in snapshot.work.nodes):
        return "nodes are missing since the head restarted"
    if is_mass_loss:
        return "many nodes fell silent at once"
    return ""


def _hardness(demand: DemandClass) -> tuple[object, ...]:
    """Order classes for filling: bound by a selector, then by special resources, CPUs and memory; then by key."""
    amounts = demand.amounts
    special = sum(1 for name in amounts if name not in PLAIN)
    return (
        not demand.selector,
        -special,
        -amounts.get("GPU", 0),
        -amounts.get("CPU", 0),
        -amounts.get("memory", 0),
        demand.key,
    )


def _bundle_hardness(bundle: Bundle) -> tuple[object, ...]:
    """Order standing bundles for filling, like classes."""
    amounts = bundle.amounts
    special = sum(1 for name in amounts if name not in PLAIN)
    return (not bundle.selector, -special, -amounts.get("CPU", 0), -amounts.get("memory", 0), repr(bundle))


def _promise(key: ShapeKey) -> str:
    """Return the name under which a standing shape is remembered on the machines bought for it."""
    return "standing " + " ".join(f"{name}={amount}" for name, amount in key[0]) + f" {key[1]}"


def _stays_longest(stand: Stand) -> tuple[object, ...]:
    """Order stands so that those come first which stay in any case; among idle ones the cheapest."""
    price = stand.instance.price_micro if stand.instance else 0
    is_sure = stand.rank in (Rank.BOUGHT, Rank.READY_BUSY) or bool(stand.used)
    return (not is_sure, stand.rank, price or 0, stand.name)


def _roomy(usable: Sequence[Stand], gang: Gang) -> list[Stand]:
    """Return the stands that can hold at least one bundle of the gang."""
    shapes = {shape_key(bundle.amounts): bundle.amounts for bundle in gang.bundles}
    return [stand for stand in usable if any(fits(amounts, stand.spot.free) for amounts in shapes.values())]


def _on_one_machine(gang: Gang) -> Bundle:
    terms: dict[str, str] = {}
    for bundle in gang.bundles:
        terms.update(bundle.selector.hard)
    return Bundle(amounts=total(bundle.amounts for bundle in gang.bundles), selector=Selector(hard=terms))
