"""The cheapest machines for a small snapshot, by an exact integer program that shares no code with the planner.

Every machine that could be bought is a slot with a choice of wares; units of classes and members of gangs are counted
on slots. Slow beyond a handful of machines, and right.
"""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from shoal.foundation.amounts import Amounts
from shoal.model.demand import Selector, Strategy
from shoal.model.offer import MICRO, Offer
from shoal.model.policy import NodeType, Policy
from shoal.model.snapshot import Snapshot


class Item(msgspec.Struct, frozen=True):
    """`count` equal units, free to stand anywhere unless they are a gang's."""

    amounts: Amounts
    count: int
    selector: Selector
    gang: int = -1


class Slot(msgspec.Struct, frozen=True):
    """One machine that is there (`price` 0) or one way of buying machine number `machine`."""

    machine: int
    capacity: Amounts
    labels: dict[str, str]
    price: int = 0
    kind: str = ""
    offer: Offer | None = None


def cheapest(what: Snapshot, how: Policy) -> int | None:
    """Return the least price in micro-dollars per hour of serving all demand and `min_workers`, None if none does.

    Knows classes, gangs, labels, limits, the hourly cap, limits of offers and quotas, free nodes; nothing else.
    """
    items = _items(what)
    slots = _slots(what, how)
    strict = [number for number, gang in enumerate(what.work.gangs) if gang.strategy is Strategy.STRICT_PACK]
    machines = sorted({slot.machine for slot in slots})
    # Variables: is slot s chosen; units of item i on slot s; does machine m hold strictly packed gang g.
    chosen = {number: number for number in range(len(slots))}
    held = {
        (s, i): len(slots) + at for at, (s, i) in enumerate(itertools.product(range(len(slots)), range(len(items))))
    }
    packed = {(m, g): len(slots) + len(held) + at for at, (m, g) in enumerate(itertools.product(machines, strict))}
    total = len(slots) + len(held) + len(packed)
    rows, low, high = [], [], []

    def must(terms: dict[int, float], least: float, most: float) -> None:
        row = np.zeros(total)
        for at, value in terms.items():
            row[at] += value
        rows.append(row)
        low.append(least)
        high.append(most)

    upper = np.ones(total)
    for (s, i), at in held.items():
        upper[at] = items[i].count if _admits(items[i].selector, slots[s].labels) else 0
    for s, slot in enumerate(slots):
        for name in {name for item in items for name in item.amounts}:
            needs = {held[s, i]: float(item.amounts.get(name, 0)) for i, item in enumerate(items)}
            must({**needs, chosen[s]: -float(slot.capacity.get(name, 0))}, -np.inf, 0)
    for i, item in enumerate(items):
        must({held[s, i]: 1.0 for s in range(len(slots))}, item.count, item.count)
    for m in machines:
        must({chosen[s]: 1.0 for s, slot in enumerate(slots) if slot.machine == m}, 0, 1)
    for g, gang in enumerate(what.work.gangs):
        for m in machines:
            here = {held[s, i]: 1.0 for (s, i) in held if slots[s].machine == m and items[i].gang == g}
            if gang.strategy is Strategy.STRICT_SPREAD:
                must(here, 0, 1)
            elif gang.strategy is Strategy.STRICT_PACK:
                must({**here, packed[m, g]: -float(len(gang.bundles))}, -np.inf, 0)
        if gang.strategy is Strategy.STRICT_PACK:
            must({packed[m, g]: 1.0 for m in machines}, 1, 1)
    for kind in how.node_types:
        of_kind = {chosen[s]: 1.0 for s, slot in enumerate(slots) if slot.kind == kind.name}
        there = sum(1 for row in what.instances if row.node_type == kind.name)
        must(of_kind, max(0, kind.min_workers - there), max(0, kind.max_workers - there))
    must(
        {chosen[s]: 1.0 for s, slot in enumerate(slots) if slot.offer}, 0, max(0, how.max_workers - len(what.instances))
    )
    for offer in what.offers:
        if offer.limit is not None:
            must({chosen[s]: 1.0 for s, slot in enumerate(slots) if slot.offer == offer}, 0, offer.limit)
    for quota in what.quotas:
        weights = {
            chosen[s]: float(quota.weights.get(slot.offer.key.machine_type, 0))
            for s, slot in enumerate(slots)
            if slot.offer
        }
        must(weights, 0, max(0, quota.limit - quota.used))
    cap = how.budget.usd_per_hour_max
    prices = np.zeros(total)
    for s, slot in enumerate(slots):
        prices[s] = slot.price
    if cap is not None:
        must({s: float(slot.price) for s, slot in enumerate(slots)}, 0, cap * MICRO - what.committed_micro + 0.5)
    lower = np.zeros(total)
    for s, slot in enumerate(slots):
        lower[s] = 0.0 if slot.offer else 1.0
    answer: Any = milp(
        prices,
        constraints=LinearConstraint(np.array(rows), np.array(low), np.array(high)),
        integrality=np.ones(total),
        bounds=Bounds(lower, upper),
    )
    if answer.status == 2:
        return None
    assert answer.status == 0, answer.message
    return round(sum(slot.price for s, slot in enumerate(slots) if answer.x[s] > 0.5))


def _items(what: Snapshot) -> list[Item]:
    items = [Item(one.amounts, one.waiting, one.selector) for one in what.work.classes if one.waiting]
    for number, gang in enumerate(what.work.gangs):
        items += [Item(bundle.amounts, 1, bundle.selector, number) for bundle in gang.bundles]
    return items


def _slots(what: Snapshot, how: Policy) -> list[Slot]:
    slots = [Slot(number, node.free, dict(node.labels)) for number, node in enumerate(what.work.nodes)]
    for machine in range(max(0, how.max_workers - len(what.instances))):
        for kind in how.node_types:
            slots += [
                Slot(
                    machine=len(what.work.nodes) + machine,
                    capacity=kind.resources or offer.resources,
                    labels=_labels(kind, offer),
                    price=offer.price_micro or 0,
                    kind=kind.name,
                    offer=offer,
                )
                for offer in what.offers
                if offer.key.machine_type in kind.machine_types
            ]
    return slots


def _labels(kind: NodeType, offer: Offer) -> dict[str, str]:
    return {**kind.labels, "ray.io/availability-zone": offer.key.zone, "ray.io/node-group": kind.name}


def _admits(selector: Selector, labels: dict[str, str]) -> bool:
    for name, term in selector.hard.items():
        is_there = labels.get(name) == term.lstrip("!")
        if is_there == term.startswith("!"):
            return False
    return True
