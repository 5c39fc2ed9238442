"""Gangs: placed all or nothing on what is there, or bought for as a whole.

A gang that machines were bought for stays on them; one that holds machines comes before the others.
"""

from __future__ import annotations

from collections.abc import Sequence

from shoal.autoscaler.decide.buying import Market, Want, first_basket
from shoal.autoscaler.decide.draft import WORK, Draft, Lack, ShapeKey
from shoal.autoscaler.decide.room import Room
from shoal.autoscaler.decide.stands import Rank, Stand
from shoal.autoscaler.decide.wares import Ware
from shoal.foundation.amounts import shape_key, total
from shoal.model.demand import Bundle, Gang, Selector, Strategy
from shoal.placement import selectors
from shoal.placement.fits import Spot, fits, how_many, take
from shoal.placement.gangs import place_gang


def settle_gangs(draft: Draft) -> None:
    """Place or answer every gang; those with machines of their own first, then the largest and longest waiting."""
    if not draft.snapshot.work.gangs:
        return
    holders = {stand.held_for for stand in draft.stands}
    for stand in draft.arriving:
        if stand.instance is not None:
            holders.update(stand.instance.planned)
    for gang in sorted(
        draft.snapshot.work.gangs,
        key=lambda one: (one.gang_id not in holders, -len(one.bundles), -one.waiting_s, one.gang_id),
    ):
        if _place_gang(draft, gang):
            for stand in draft.stands:
                if stand.held_for == gang.gang_id:
                    stand.held_for = ""


def _place_gang(draft: Draft, gang: Gang) -> bool:
    """Place the gang on what is there, or buy what it lacks; else note it as unserved. All or nothing."""
    if not gang.bundles:
        return True
    usable = [stand for stand in draft.stands if stand.held_for in ("", gang.gang_id)]
    usable.sort(key=lambda stand: stand.held_for != gang.gang_id)
    usable = _roomy(usable, gang)
    by_spot = {stand.spot.spot_id: stand for stand in usable}
    if _keep_gang_where_planned(draft, gang, usable):
        return True
    spots = [stand.spot for stand in usable]
    found = place_gang(gang.bundles, gang.strategy, spots)
    if found is not None:
        for bundle, spot_id in zip(gang.bundles, found, strict=True):
            draft.put(by_spot[spot_id], gang.gang_id, bundle.amounts, 1)
        return True
    if gang.strategy is Strategy.STRICT_PACK:
        failed = _buy_on_one(draft, gang)
    elif gang.strategy is Strategy.STRICT_SPREAD:
        failed = _buy_on_each(draft, gang, usable)
    else:
        failed = _buy_anyhow(draft, gang, usable)
    if failed is not None:
        failed.whose = "this plan and the gang"
        # What it holds already stays reserved until the hold ends.
        for stand in usable:
            if stand.held_for == gang.gang_id:
                stand.used = stand.used or f"held for gang {gang.gang_id}"
        draft.lacks.append(
            Lack(
                demand=gang.gang_id,
                kind="gang",
                amounts=total(bundle.amounts for bundle in gang.bundles),
                count=len(gang.bundles),
                jobs=(gang.job,) if gang.job else (),
                topology=gang.topology,
                parts=((_on_one_machine(gang),) if gang.strategy is Strategy.STRICT_PACK else tuple(gang.bundles)),
                why=f"gang of {len(gang.bundles)} ({gang.strategy}) starts together or not at all",
                room=failed,
            )
        )
    return failed is None


def _keep_gang_where_planned(draft: Draft, gang: Gang, usable: Sequence[Stand]) -> bool:
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
            draft.put(stand, gang.gang_id, amounts, count)
        return True
    by_spot = {stand.spot.spot_id: stand for stand in bought_for}
    found = place_gang(gang.bundles, gang.strategy, [stand.spot for stand in bought_for])
    if found is not None:
        for bundle, spot_id in zip(gang.bundles, found, strict=True):
            draft.put(by_spot[spot_id], gang.gang_id, bundle.amounts, 1)
        return True
    for stand, count in zip(bought_for, counts, strict=True):
        # Which bundle stands where is not known any more: all of the machine is the gang's.
        stand.placed = {**stand.placed, gang.gang_id: count}
        stand.spot.free = {}
        stand.used = stand.used or f"{WORK} {gang.gang_id} is planned on it"
    return True


def _buy_on_one(draft: Draft, gang: Gang) -> Room | None:
    """Buy one machine for all of the gang; None, or the room in which there is none."""
    needs = total(bundle.amounts for bundle in gang.bundles)
    ware = draft.cheapest(needs, [bundle.selector for bundle in gang.bundles], gang.topology, draft.room)
    if ware is None:
        return draft.room.copy()
    draft.room.take(ware, 1)
    stand = draft.add(ware, gang.gang_id)
    for bundle in gang.bundles:
        draft.put(stand, gang.gang_id, bundle.amounts, 1)
    return None


def _buy_on_each(draft: Draft, gang: Gang, usable: Sequence[Stand]) -> Room | None:
    """Buy a machine of its own for each bundle that finds no place on a different one of those there.

    Returns None, or the room that is left when a bundle finds no machine.
    Which bundles stay on what is there: greedily by what their own machine would cost. The sets of bundles
    that can be matched form a matroid, so the greedy choice is the best one.
    """
    room = draft.room.copy()
    own = [draft.cheapest(bundle.amounts, [bundle.selector], gang.topology, draft.room) for bundle in gang.bundles]
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
        ware = draft.cheapest(gang.bundles[one].amounts, [gang.bundles[one].selector], gang.topology, room)
        if ware is None:
            return room
        room.take(ware, 1)
        picked.append((one, ware))
    draft.room = room
    by_spot = {stand.spot.spot_id: stand for stand in usable}
    for one, spot_id in zip(there, places, strict=True):
        draft.put(by_spot[spot_id], gang.gang_id, gang.bundles[one].amounts, 1)
    for one, ware in picked:
        draft.put(draft.add(ware, gang.gang_id), gang.gang_id, gang.bundles[one].amounts, 1)
    return None


def _buy_anyhow(draft: Draft, gang: Gang, usable: Sequence[Stand]) -> Room | None:
    """PACK and SPREAD bind only softly: fill what is there, buy the cheapest machines for the rest.

    Returns None, or the room after as much as could be bought.
    """
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
    basket = first_basket(Market(wants, draft.wares), [want.count for want in wants], draft.room)
    if any(basket.left):
        return basket.room
    draft.room = basket.room
    for at, bundle, count in put:
        draft.put(usable[at], gang.gang_id, bundle.amounts, count)
    for item in basket.items:
        for _ in range(item.copies):
            stand = draft.add(item.ware, gang.gang_id)
            for number, count in item.content:
                draft.put(stand, gang.gang_id, wants[number].amounts, count)
    return None


def _roomy(usable: Sequence[Stand], gang: Gang) -> list[Stand]:
    """Return the stands that can hold at least one bundle of the gang."""
    shapes = {shape_key(bundle.amounts): bundle.amounts for bundle in gang.bundles}
    return [stand for stand in usable if any(fits(amounts, stand.spot.free) for amounts in shapes.values())]


def _on_one_machine(gang: Gang) -> Bundle:
    terms: dict[str, str] = {}
    for bundle in gang.bundles:
        terms.update(bundle.selector.hard)
    return Bundle(amounts=total(bundle.amounts for bundle in gang.bundles), selector=Selector(hard=terms))
