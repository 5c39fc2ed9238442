"""One machine, filled for the most worth: an exact search with a limit on how long it looks."""

from __future__ import annotations

from collections.abc import Sequence

NODES_MOST = 4000


def knapsack(
    capacity: Sequence[int],
    needs: Sequence[tuple[int, ...]],
    worth: Sequence[float],
    most: Sequence[int],
    scarcity: Sequence[float],
) -> tuple[list[int], bool]:
    """Return how many of each item fill one machine with most worth, and whether that is proven.

    Depth first, items in the given order (best first), as many as fit before fewer. A branch is cut where what is
    free, at `scarcity` per unit, plus what items are worth beyond that, cannot beat the best. Looks at `NODES_MOST`
    branches at most.
    """
    items = len(needs)
    dimensions = range(len(capacity))
    beyond = [0.0] * (items + 1)
    for item in range(items - 1, -1, -1):
        price = sum(need * scarcity[at] for at, need in enumerate(needs[item]))
        beyond[item] = beyond[item + 1] + max(0.0, worth[item] - price) * most[item]
    sparse = [tuple((at, need) for at, need in enumerate(row) if need) for row in needs]
    free = list(capacity)
    taken = [0] * items
    best, best_value = [0] * items, 0.0
    value = 0.0
    nodes = 0
    item = 0
    while True:
        # Go down: take as many of each item as fit.
        while item < items:
            nodes += 1
            if value + beyond[item] + sum(free[at] * scarcity[at] for at in dimensions) <= best_value * (1 + 1e-9):
                break
            count = most[item]
            for at, need in sparse[item]:
                fits = free[at] // need
                if fits < count:
                    count = fits
            taken[item] = count
            if count:
                value += count * worth[item]
                for at, need in sparse[item]:
                    free[at] -= count * need
            item += 1
        if item == items and value > best_value:
            best, best_value = list(taken), value
        if nodes > NODES_MOST:
            return best, False
        # Go back up to the last item of which one less can be taken.
        item -= 1
        while item >= 0 and not taken[item]:
            item -= 1
        if item < 0:
            return best, True
        taken[item] -= 1
        value -= worth[item]
        for at, need in sparse[item]:
            free[at] += need
        item += 1
        for later in range(item, items):
            taken[later] = 0
