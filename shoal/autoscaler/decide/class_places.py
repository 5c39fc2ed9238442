"""Classes of tasks and actors: as many units as they are wide go on what is there; the rest is to be bought for."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from shoal.autoscaler.decide.buying import Want
from shoal.autoscaler.decide.draft import EXTRA_LAUNCH_S, FITS_BUT_WAITS, Draft, Lack
from shoal.autoscaler.decide.stands import PLAIN, Stand
from shoal.foundation.amounts import covers, lowest
from shoal.model.demand import DemandClass
from shoal.model.plan import Verdict
from shoal.placement import selectors
from shoal.placement.fits import how_many, width


def wanted(draft: Draft) -> tuple[list[DemandClass], dict[str, int]]:
    """Return the classes, hardest to place first, and for how many units of each slots are wanted."""
    ordered = sorted(draft.snapshot.work.classes, key=_hardness)
    return ordered, {demand.key: _wide(draft, demand) for demand in ordered}


def settle_classes(draft: Draft, ordered: Sequence[DemandClass], left: dict[str, int]) -> None:
    """Place every class; what finds no room becomes a want of the draft."""
    room = OpenStands(draft)
    for demand in ordered:
        if left[demand.key]:
            _place_class(draft, room, demand, left[demand.key])


class OpenStands:
    """The stands with room for at least some class, those without and those with special resources."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._least = lowest([one.amounts for one in draft.snapshot.work.classes])
        self._seen, self._asked = -1, 0
        self._found: tuple[list[Stand], list[Stand]] = ([], [])

    def now(self) -> tuple[list[Stand], list[Stand]]:
        """Return (plain, special) ones; what has no room for any class is left out, as it never gets any."""
        stands = self._draft.stands
        if len(stands) != self._seen:
            # Machines were added since: sort them in.
            able = [stand for stand in stands if covers(stand.spot.free, self._least)]
            self._found = [one for one in able if not one.is_special], [one for one in able if one.is_special]
            self._seen = len(stands)
        elif self._asked % 4 == 0:
            plain, special = self._found
            self._found = (
                [one for one in plain if covers(one.spot.free, self._least)],
                [one for one in special if covers(one.spot.free, self._least)],
            )
        self._asked += 1
        return self._found


def _wide(draft: Draft, demand: DemandClass) -> int:
    """Return for how many units slots are wanted; note the rest as deferred."""
    wide = width(demand, draft.policy.finish_within_s, draft.policy.width)
    if demand.waiting > wide:
        work_s = (demand.waiting - wide) * (demand.duration_s or 0.0) / max(1, wide + demand.running_slots)
        draft.lacks.append(
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


def keep_where_planned(draft: Draft, ordered: Sequence[DemandClass], left: dict[str, int]) -> None:
    """Put work back on the machines on their way that were bought for it.

    A tight packing is found once; found anew by first fit it could leave a unit over, and buy for it again.
    """
    by_key = {demand.key: demand for demand in ordered}
    for stand in draft.arriving if ordered else ():
        one = stand.instance
        if one is None or not one.planned or stand.held_for:
            continue
        for key, planned in sorted(one.planned.items()):
            demand = by_key.get(key)
            if demand is None or not left[key] or stand.spot.spot_id in demand.unplaceable_on:
                continue
            if demand.selector and not selectors.admits(demand.selector, stand.spot.spot_id, stand.spot.labels):
                continue
            count = how_many(demand.amounts, stand.spot.free, min(planned, left[key]))
            if count:
                draft.put(stand, key, demand.amounts, count)
                left[key] -= count


def _place_class(draft: Draft, room: OpenStands, demand: DemandClass, left: int) -> None:
    """Place units on what is there; note the rest as to be bought for."""
    left = _place_units(draft, room, demand, left, skip=set(demand.unplaceable_on))
    if left and demand.unplaceable_on:
        left = _limit_extra(draft, demand, left)
    if left:
        draft.wants.append(Want(key=demand.key, amounts=demand.amounts, selector=demand.selector, count=left))
        draft.jobs[demand.key] = demand.jobs


def _place_units(draft: Draft, room: OpenStands, demand: DemandClass, left: int, skip: set[str]) -> int:
    """Put units on stands in their order, those with special resources last for plain work; return what is left."""
    needs, selector, key = demand.amounts, demand.selector, demand.key
    special = next((name for name in needs if name not in PLAIN), "")
    plain_stands, special_stands = room.now()
    for stand in special_stands if special else itertools.chain(plain_stands, special_stands):
        count = how_many(needs, stand.spot.free, left)
        if not count or stand.held_for or (skip and stand.spot.spot_id in skip):
            continue
        if selector and not selectors.admits(selector, stand.spot.spot_id, stand.spot.labels):
            continue
        draft.put(stand, key, needs, count)
        left -= count
        if not left:
            return 0
    return left


def _limit_extra(draft: Draft, demand: DemandClass, left: int) -> int:
    """Cap what is bought for work that would fit what is there and waits all the same: one machine a minute."""
    skip = set(demand.unplaceable_on)
    would_fit = sum(
        how_many(demand.amounts, stand.spot.free, left) for stand in draft.stands if stand.spot.spot_id in skip
    )
    if not would_fit:
        return left
    mark = f"{FITS_BUT_WAITS} {demand.key}:"
    recently = any(
        one.why.startswith(mark) and draft.snapshot.now_s - one.launched_s < EXTRA_LAUNCH_S
        for one in draft.snapshot.recent
    )
    extra = min(left, would_fit)
    if not recently:
        ware = draft.cheapest(demand.amounts, [demand.selector], "", draft.room)
        if ware is not None:
            draft.room.take(ware, 1)
            stand = draft.add(ware, "")
            stand.used = f"{mark} it would fit {', '.join(sorted(skip)[:3])} but waits"
            count = how_many(demand.amounts, stand.spot.free, extra)
            draft.put(stand, demand.key, demand.amounts, count)
            extra -= count
            left -= count
    if extra:
        draft.lacks.append(
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
