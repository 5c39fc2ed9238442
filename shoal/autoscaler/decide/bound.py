"""Proven lower bounds on the price of serving work, without a solver.

Both hold for every plan, however clever. `resource_bound`: machines must offer in total what the work takes in total,
as if work were a liquid (the dual of a small linear program; its solution is checked in whole numbers, so rounding
errors can only make the bound weaker, never wrong). `widest_bound`: some machine must hold each single unit.
"""

from __future__ import annotations

from collections.abc import Sequence

from shoal.autoscaler.decide.filling import Bin, Problem

ROUNDS_MOST = 60
PIVOTS_MOST = 200


def lower_bound(problem: Problem, useful: Sequence[int]) -> int:
    """Return micro-dollars per hour that no packing of all of the problem's work can go below."""
    totals = [0] * problem.dimensions
    for needs, count in zip(problem.shapes, problem.counts, strict=True):
        for at, amount in needs:
            totals[at] += amount * count
    bins = [problem.bins[one] for one in useful]
    return max(resource_bound(totals, bins), widest_bound(problem, useful))


def widest_bound(problem: Problem, useful: Sequence[int]) -> int:
    """Return the price of the cheapest machine that holds the unit which is hardest to hold."""
    by_price = sorted(useful, key=lambda one: problem.bins[one].price)
    highest = 0
    for number, needs in enumerate(problem.shapes):
        if not problem.counts[number]:
            continue
        for one in by_price:
            this = problem.bins[one]
            if (this.allowed is None or number in this.allowed) and all(
                this.capacity[at] >= amount for at, amount in needs
            ):
                highest = max(highest, this.price)
                break
    return highest


def resource_bound(totals: Sequence[int], bins: Sequence[Bin]) -> int:
    """Return the least price of machines that offer `totals` together, were they divisible.

    Finds worths y of each dimension with y . capacity <= price for every bin and y . totals as large as possible,
    by adding the most violated bin to a small linear program until none is violated.
    """
    wanted = [at for at, amount in enumerate(totals) if amount > 0]
    bins = [one for one in bins if any(one.capacity[at] for at in wanted)]
    if not wanted or not bins:
        return 0
    # In shares of what is wanted: all numbers are near 1 then.
    rows = [[one.capacity[at] / totals[at] for at in wanted] for one in bins]
    prices = [float(one.price) for one in bins]
    scale = max(prices) or 1.0
    active = {_cheapest(rows, prices, at) for at in range(len(wanted))}
    worths = [0.0] * len(wanted)
    for _ in range(ROUNDS_MOST):
        chosen = sorted(active)
        worths = _maximise([rows[one] for one in chosen], [prices[one] / scale for one in chosen])
        worst, most = -1, 1e-9
        for one, row in enumerate(rows):
            excess = sum(share * worth for share, worth in zip(row, worths, strict=True)) - prices[one] / scale
            if excess > most and one not in active:
                worst, most = one, excess
        if worst < 0:
            break
        active.add(worst)
    # Whole numbers from here on: worth in 2^-40 micro-dollars of each share, scaled down until no bin is violated.
    whole = [int(worth * scale * 2**40) for worth in worths]
    numerator, denominator = 1, 1
    for this in bins:
        # price >= sum(whole * capacity / totals) / 2^40, with everything times the product of the totals' denominators
        held = sum(-(-whole[place] * this.capacity[at] // totals[at]) for place, at in enumerate(wanted))
        if held > 0 and this.price * 2**40 * denominator < held * numerator:
            numerator, denominator = this.price * 2**40, held
    return sum(whole) * numerator // denominator // 2**40


def _cheapest(rows: Sequence[Sequence[float]], prices: Sequence[float], at: int) -> int:
    """Return the bin that offers most of the dimension for its price."""
    return min(range(len(rows)), key=lambda one: (prices[one] / rows[one][at] if rows[one][at] else 1e300, one))


def _maximise(rows: Sequence[Sequence[float]], limits: Sequence[float]) -> list[float]:
    """Return y >= 0 with the largest sum such that every row . y <= its limit: the simplex method on a small table.

    Bland's rule, so that it ends; dimensions that no row limits stay 0.
    """
    width = len(rows[0])
    table = [
        [*row, *(1.0 if one == other else 0.0 for other in range(len(rows))), limits[one]]
        for one, row in enumerate(rows)
    ]
    goal = [-1.0] * width + [0.0] * (len(rows) + 1)
    for at in range(width):
        if not any(row[at] > 1e-12 for row in rows):
            goal[at] = 0.0
    basis = [width + one for one in range(len(rows))]
    for _ in range(PIVOTS_MOST):
        column = next((at for at, value in enumerate(goal[:-1]) if value < -1e-12), -1)
        if column < 0:
            break
        best, least = -1, 0.0
        for one, row in enumerate(table):
            if row[column] > 1e-12:
                ratio = row[-1] / row[column]
                if best < 0 or ratio < least - 1e-15 or (ratio <= least + 1e-15 and basis[one] < basis[best]):
                    best, least = one, ratio
        if best < 0:
            break
        pivot = table[best][column]
        table[best] = [value / pivot for value in table[best]]
        for one, row in enumerate(table):
            if one != best and row[column]:
                factor = row[column]
                table[one] = [value - factor * other for value, other in zip(row, table[best], strict=True)]
        factor = goal[column]
        goal = [value - factor * other for value, other in zip(goal, table[best], strict=True)]
        basis[best] = column
    found = [0.0] * width
    for one, at in enumerate(basis):
        if at < width:
            found[at] = max(0.0, table[one][-1])
    return found
