"""The search for better packings: in which order columns grow, are rounded, taken apart and proven.

numpy and the solver are behind this module; it is imported only after the first plan.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

from shoal.autoscaler.decide.columns import Columns
from shoal.autoscaler.decide.filling import Load, Problem, cost

KNAPSACKS_A_STEP = 3
STEPS_MOST = 1000
STALE_MOST = 80


def search(problem: Problem, loads: Sequence[Load], seed: int) -> Iterator[tuple[list[Load] | None, float | None]]:
    """Yield after each step of work a better packing, or None; and a better lower bound in micro-dollars, or None.

    Begins with `loads`, a complete packing of what can be served. Ends when nothing more can be gained.
    """
    columns = Columns(problem, seed)
    columns.add_loads(loads)
    best = list(loads)
    best_cost = cost(problem, best)
    bound = 0.0
    stale = 0
    for step in range(STEPS_MOST):
        tighter: float | None = None
        candidate = best
        if stale > STALE_MOST:
            proven = yield from _prove(columns)
            if proven <= bound:
                return
            bound, stale = proven, STALE_MOST // 2
            tighter = proven
        elif step % 4 < 2:
            if not columns.grow():
                columns.grow_exactly()
        elif step % 4 == 2:
            columns.solve()
            candidate = columns.rounded()
        else:
            candidate = columns.destroyed_and_rebuilt(best)
        price = cost(problem, candidate)
        if price < best_cost:
            best, best_cost, stale = candidate, price, 0
            columns.add_loads(best)
            yield best, tighter
        else:
            stale += 1
            yield None, tighter


def _prove(columns: Columns) -> Generator[tuple[None, None], None, float]:
    """Price every bin exactly at the present worths, a few a step; return Farley's bound in micro-dollars."""
    columns.solve()
    duals = columns.duals.copy()
    most = 1.0
    for bin_at in range(len(columns.useful)):
        value, best = columns.price_exactly(bin_at)
        most = max(most, value / float(columns.prices[bin_at]))
        if best is not None and best @ duals > columns.prices[bin_at] * (1 + 1e-9):
            columns.add(bin_at, best)
        if bin_at % KNAPSACKS_A_STEP == KNAPSACKS_A_STEP - 1:
            yield None, None
    return float(duals @ columns.counts) / most * (1 - 1e-9)
