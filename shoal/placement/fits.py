"""One node, one piece of work: does it fit, and how many do?"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from shoal.foundation.amounts import Amounts
from shoal.model.demand import ANYWHERE, DemandClass, Selector
from shoal.placement import selectors


class Spot(msgspec.Struct, kw_only=True, gc=False):
    """A node, present or to come, as placement sees it. `free` is taken down while work is placed."""

    spot_id: str
    free: Amounts
    labels: dict[str, str] = {}
    topology: str = ""


def fits(amounts: Mapping[str, int], free: Mapping[str, int]) -> bool:
    """Say whether `amounts` fit into `free`. A need of 0 fits even where `free` is negative."""
    for name, amount in amounts.items():
        if amount and free.get(name, 0) < amount:
            return False
    return True


def fits_on(amounts: Mapping[str, int], selector: Selector, spot: Spot) -> bool:
    """Say whether the work may run on the spot and fits there now."""
    return fits(amounts, spot.free) and (not selector or selectors.admits(selector, spot.spot_id, spot.labels))


def how_many(amounts: Mapping[str, int], free: Mapping[str, int], most: int) -> int:
    """Return how many copies of `amounts` fit into `free`, at most `most`.

    >>> how_many({"CPU": 10000}, {"CPU": 25000}, 10)
    2
    """
    count = most
    for name, amount in amounts.items():
        if amount:
            count = min(count, max(0, free.get(name, 0)) // amount)
    return max(0, count)


def take(spot: Spot, amounts: Mapping[str, int], count: int = 1) -> None:
    """Take `count` copies of `amounts` from the spot's free resources, which must hold them."""
    free = dict(spot.free)
    for name, amount in amounts.items():
        if amount:
            left = free.get(name, 0) - amount * count
            assert left >= 0, f"{spot.spot_id} is over-full: {name} {left}"
            free[name] = left
    spot.free = free


def width(demand: DemandClass, finish_within_s: float, rule: str = "work") -> int:
    """Return how many slots the class deserves beyond those that run: width, not queue length.

    100,000 tasks of 1 ms must not buy machines that boot after the work is done. A running slot takes waiting work
    only once it comes free, and then for what is left of the time: it counts by the share `1 - duration /
    finish_within` of a free one, not at all where one unit takes longer than that. Every waiting unit counts where
    the duration is unknown, for actors, and under `policy.width: full`.
    Source: docs/decisions/0009-width-of-long-tasks.md.
    """
    if demand.waiting <= 0:
        return 0
    if rule == "full" or demand.duration_s is None or demand.kind == "actor":
        return demand.waiting
    work_s = demand.waiting * demand.duration_s
    slots = min(demand.waiting, max(1, -int(-work_s // finish_within_s)))
    share = max(0.0, 1.0 - demand.duration_s / finish_within_s)
    return max(0, slots - int(demand.running_slots * share + 0.5))


__all__ = ["ANYWHERE", "Spot", "fits", "fits_on", "how_many", "take", "width"]
