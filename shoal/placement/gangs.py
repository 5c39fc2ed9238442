"""All or nothing: where the bundles of a gang go, under each of the four strategies.

STRICT_PACK puts all on one spot, STRICT_SPREAD each on another; PACK takes as few spots as it finds, SPREAD as many.
The soft ones fall back on any placement. The order of the result is the order of the bundles.
"""

from __future__ import annotations

from collections.abc import Sequence

from shoal.foundation.amounts import total
from shoal.model.demand import Bundle, Strategy
from shoal.placement import selectors
from shoal.placement.fits import Spot, fits, fits_on, take


def place_gang(bundles: Sequence[Bundle], strategy: Strategy, spots: Sequence[Spot]) -> list[str] | None:
    """Return the spot's id for each bundle, or None if they do not all fit now. Changes no spot.

    Deterministic: ties go to the spot that stands first. STRICT_SPREAD is exact (a matching); PACK and SPREAD
    try several orders of first fit, so a very tight gang that only a search would place may be refused.
    Cost: about bundles x spots.
    """
    if not bundles:
        return []
    match strategy:
        case Strategy.STRICT_PACK:
            return _on_one(bundles, spots)
        case Strategy.STRICT_SPREAD:
            return _each_on_another(bundles, spots)
        case Strategy.SPREAD:
            return _each_on_another(bundles, spots) or _widely(bundles, spots)
        case _:
            return _on_one(bundles, spots) or _tightly(bundles, spots)


def merged(bundles: Sequence[Bundle]) -> Bundle | None:
    """Return the one bundle that a STRICT_PACK gang amounts to, None if their selectors differ."""
    first = bundles[0].selector
    if any(bundle.selector != first for bundle in bundles):
        return None
    return Bundle(amounts=total(bundle.amounts for bundle in bundles), selector=first)


def _on_one(bundles: Sequence[Bundle], spots: Sequence[Spot]) -> list[str] | None:
    needed = total(bundle.amounts for bundle in bundles)
    for spot in spots:
        if fits(needed, spot.free) and all(
            not bundle.selector or selectors.admits(bundle.selector, spot.spot_id, spot.labels) for bundle in bundles
        ):
            return [spot.spot_id] * len(bundles)
    return None


def _each_on_another(bundles: Sequence[Bundle], spots: Sequence[Spot]) -> list[str] | None:
    """Match bundles to different spots by augmenting paths (Kuhn), largest bundles first."""
    if len(bundles) > len(spots):
        return None
    choices = [
        [place for place, spot in enumerate(spots) if fits_on(bundle.amounts, bundle.selector, spot)]
        for bundle in bundles
    ]
    holder: dict[int, int] = {}

    def settle(bundle: int, tried: set[int]) -> bool:
        for place in choices[bundle]:
            if place in tried:
                continue
            tried.add(place)
            if place not in holder or settle(holder[place], tried):
                holder[place] = bundle
                return True
        return False

    for bundle in sorted(range(len(bundles)), key=lambda one: (len(choices[one]), one)):
        if not settle(bundle, set()):
            return None
    found = {bundle: spots[place].spot_id for place, bundle in holder.items()}
    return [found[bundle] for bundle in range(len(bundles))]


def _tightly(bundles: Sequence[Bundle], spots: Sequence[Spot]) -> list[str] | None:
    for order in _orders(bundles):
        if (found := _first_fit(bundles, order, spots, prefer_used=True)) is not None:
            return found
    return None


def _widely(bundles: Sequence[Bundle], spots: Sequence[Spot]) -> list[str] | None:
    for order in _orders(bundles):
        if (found := _first_fit(bundles, order, spots, prefer_used=False)) is not None:
            return found
    return None


def _orders(bundles: Sequence[Bundle]) -> list[list[int]]:
    """Return orders worth trying: most constrained first, then largest by each resource."""
    numbers = range(len(bundles))
    names = sorted({name for bundle in bundles for name in bundle.amounts})
    orders = [sorted(numbers, key=lambda one: (not bundles[one].selector, -sum(bundles[one].amounts.values()), one))]
    for name in names:
        orders.append(sorted(numbers, key=lambda one: (-bundles[one].amounts.get(name, 0), one)))
    return orders


def _first_fit(
    bundles: Sequence[Bundle], order: Sequence[int], spots: Sequence[Spot], *, prefer_used: bool
) -> list[str] | None:
    trial = [Spot(spot_id=spot.spot_id, free=spot.free, labels=spot.labels) for spot in spots]
    held = [0] * len(trial)
    found = [""] * len(bundles)
    for one in order:
        bundle = bundles[one]
        able = [place for place, spot in enumerate(trial) if fits_on(bundle.amounts, bundle.selector, spot)]
        if not able:
            return None
        place = min(able, key=lambda p: (-held[p] if prefer_used else held[p], p))
        take(trial[place], bundle.amounts)
        held[place] += 1
        found[one] = trial[place].spot_id
    return found
