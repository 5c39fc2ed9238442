"""Better packings by column generation: a linear program chooses among ways of filling one machine.

The program only proposes: what a machine holds comes from whole-number fills, and every packing that leaves this
module is whole, feasible and priced in micro-dollars. Each step costs a fixed amount of work: one simplex run with
one thread and a fixed seed, some fills, some rebuilds; never a time limit, under which equal inputs gave unequal
answers. numpy and highspy are imported here only, so the first plan of a process does not wait for them.

The method is Gilmore and Gomory's; the bound is Farley's ("A note on bounding a class of linear programming
problems, including cutting stock problems", 1990).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import highspy
import numpy as np
from numpy.typing import NDArray

from shoal.autoscaler.decide.filling import Content, Load, Problem, right_sized, undominated
from shoal.autoscaler.decide.knapsack import knapsack

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

FILL_ORDERS = 4
BALANCED_FILLS = 3
PICKS_MOST = 400
COLUMNS_A_STEP = 25
KNAPSACKS_A_STEP = 3
LNS_REBUILDS = 24
SIMPLEX_ITERATIONS_MOST = 20_000


class Columns:
    """Ways of filling one machine, and the linear program over them."""

    def __init__(self, problem: Problem, seed: int) -> None:
        """Prepare the arrays; only shapes that are wanted and fit somewhere take part."""
        self.problem = problem
        self.useful = undominated(problem.bins)
        capacity = np.array([problem.bins[one].capacity for one in self.useful], dtype=np.int64)
        fits = [
            any(
                (problem.bins[one].allowed is None or shape in (problem.bins[one].allowed or ()))
                and all(problem.bins[one].capacity[at] >= amount for at, amount in needs)
                for one in self.useful
            )
            for shape, needs in enumerate(problem.shapes)
        ]
        self.shapes = [shape for shape, count in enumerate(problem.counts) if count and fits[shape]]
        self.place = {shape: at for at, shape in enumerate(self.shapes)}
        self.needs = np.zeros((len(self.shapes), problem.dimensions), dtype=np.int64)
        for at, shape in enumerate(self.shapes):
            for dimension, amount in problem.shapes[shape]:
                self.needs[at, dimension] = amount
        self.counts = np.array([problem.counts[shape] for shape in self.shapes], dtype=np.int64)
        self.capacity = capacity
        self.prices = np.array([max(1, problem.bins[one].price) for one in self.useful], dtype=np.int64)
        self.allowed = np.array(
            [
                [
                    problem.bins[one].allowed is None or shape in (problem.bins[one].allowed or ())
                    for shape in self.shapes
                ]
                for one in self.useful
            ],
            dtype=bool,
        ).reshape(len(self.useful), len(self.shapes))
        most = np.maximum(capacity.max(axis=0), 1)
        self.shares = self.needs / most
        self._extent = np.maximum(capacity, 1).astype(np.float64)
        self._share_of_bin = self.needs[None, :, :] / self._extent[:, None, :]
        self._divisor = np.maximum(self.needs, 1)
        self._untouched = self.needs == 0
        self._dimensions = [[int(at) for at in np.flatnonzero(row)] for row in self.needs]
        self._chance = np.random.Generator(np.random.PCG64(seed))
        self._seen: set[tuple[int, bytes]] = set()
        self.patterns: list[Counts] = []
        self.bins: list[int] = []
        self.duals: Floats = np.zeros(len(self.shapes))
        self.amounts: Floats = np.zeros(0)
        self.value = 0.0
        self.is_done = False
        self._lp = self._empty_program()
        self._seed_columns()

    # --- the linear program ------------------------------------------------------------------------------------

    def _empty_program(self) -> Any:
        program = quiet_program()
        empty_index, empty_value = np.zeros(0, dtype=np.int32), np.zeros(0)
        for count in self.counts:
            program.addRow(float(count), highspy.kHighsInf, 0, empty_index, empty_value)
        return program

    def add(self, bin_at: int, pattern: Counts) -> bool:
        """Add a way of filling bin number `bin_at` (of the useful ones); False if it is known."""
        key = (bin_at, pattern.tobytes())
        if key in self._seen:
            return False
        self._seen.add(key)
        self.patterns.append(pattern.copy())
        self.bins.append(bin_at)
        rows = np.flatnonzero(pattern).astype(np.int32)
        self._lp.addCol(
            float(self.prices[bin_at]) / 1e6, 0.0, highspy.kHighsInf, len(rows), rows, pattern[rows].astype(np.float64)
        )
        return True

    def add_loads(self, loads: Sequence[Load]) -> None:
        """Add the fills of a packing."""
        at_of = {one: at for at, one in enumerate(self.useful)}
        for load in loads:
            pattern = np.zeros(len(self.shapes), dtype=np.int64)
            for shape, count in load.content:
                pattern[self.place[shape]] = count
            if load.bin in at_of:
                self.add(at_of[load.bin], pattern)

    def _seed_columns(self) -> None:
        """Start with machines of one shape each, on the bin where that is cheapest, so that all can be served."""
        for at in range(len(self.shapes)):
            only = np.zeros(len(self.shapes), dtype=np.int64)
            only[at] = self.counts[at]
            filled = self.fill_all([at], only)
            worth = filled[:, at] / self.prices
            best = int(np.argmax(worth))
            self.add(best, filled[best])

    def solve(self) -> None:
        """Solve the program over the known fills; sets `duals`, `amounts` and `value` (micro-dollars)."""
        self._lp.run()
        solution = self._lp.getSolution()
        self.duals = np.maximum(np.array(solution.row_dual, dtype=np.float64), 0.0) * 1e6
        self.amounts = np.maximum(np.array(solution.col_value, dtype=np.float64), 0.0)
        self.value = float(self._lp.getInfo().objective_function_value) * 1e6

    # --- pricing -----------------------------------------------------------------------------------------------

    def fill_all(self, order: Sequence[int] | NDArray[np.intp], left: Counts) -> Counts:
        """Return what one machine of every useful bin holds when shapes go in in this order: bins x shapes."""
        free = self.capacity.copy()
        filled = np.zeros((len(self.useful), len(self.shapes)), dtype=np.int64)
        for at in order:
            wanted = left[at]
            if not wanted:
                continue
            dimensions = self._dimensions[at]
            count = np.full(len(self.useful), wanted, dtype=np.int64)
            for dimension in dimensions:
                np.minimum(count, free[:, dimension] // self.needs[at, dimension], out=count)
            count *= self.allowed[:, at]
            if count.any():
                filled[:, at] = count
                for dimension in dimensions:
                    free[:, dimension] -= count * self.needs[at, dimension]
        return filled

    def grow(self) -> int:
        """Solve, then add fills that the solution says are worth more than their price; return how many."""
        self.solve()
        added = 0
        for number in range(FILL_ORDERS):
            weights = self._chance.dirichlet(np.ones(self.needs.shape[1]))
            key = self.duals / np.maximum(self.shares @ weights, 1e-12)
            if number >= FILL_ORDERS // 2:
                key = key * self._chance.uniform(0.7, 1.3, len(key))
            order = np.argsort(-key, kind="stable")
            order = order[self.duals[order] > 1e-9]
            filled = self.fill_all(order, self.counts)
            gain = filled @ self.duals - self.prices
            for at in np.argsort(-gain, kind="stable")[:COLUMNS_A_STEP]:
                if gain[at] > 1e-6 * self.prices[at]:
                    added += self.add(int(at), filled[at])
        for number in range(BALANCED_FILLS):
            tilt = self._chance.uniform(0.8, 1.25, len(self.shapes)) if number else np.ones(len(self.shapes))
            bite = (0.1, 0.25, 0.5)[int(self._chance.integers(3))]
            power = (0.5, 1.0, 2.0)[int(self._chance.integers(3))]
            filled = self.fill_balanced(self.duals * tilt, bite, power)
            gain = filled @ self.duals - self.prices
            for at in np.flatnonzero(gain > 1e-6 * self.prices):
                added += self.add(int(at), filled[at])
        return added

    def fill_balanced(self, worth: Floats, bite: float, power: float) -> Counts:
        """Return what one machine of every useful bin holds when it is filled evenly: bins x shapes.

        Again and again the shape of most worth for what it takes goes in, where a dimension counts the more the
        less of it is left (to the `power`); each time a `bite` (0 to 1) of as many as fit.
        """
        bins = np.arange(len(self.useful))
        free = self.capacity.copy()
        filled = np.zeros((len(self.useful), len(self.shapes)), dtype=np.int64)
        left = self.counts[None, :] * self.allowed
        left[:, worth <= 1e-9] = 0
        for _ in range(PICKS_MOST):
            fits = left.copy()
            for dimension in range(self.needs.shape[1]):
                count = free[:, dimension][:, None] // self._divisor[:, dimension][None, :]
                np.minimum(fits, np.where(self._untouched[:, dimension][None, :], fits, count), out=fits)
            is_able = fits > 0
            is_live = is_able.any(axis=1)
            if not is_live.any():
                break
            scarcity = 1.0 / np.maximum(free / self._extent, 1e-3) ** power
            taken = np.einsum("bsd,bd->bs", self._share_of_bin, scarcity)
            picked = np.argmax(np.where(is_able, worth[None, :] / np.maximum(taken, 1e-12), -1.0), axis=1)
            count = np.maximum(1, (fits[bins, picked] * bite).astype(np.int64)) * is_live
            filled[bins, picked] += count
            left[bins, picked] -= count
            free -= count[:, None] * self.needs[picked]
        return filled

    def grow_exactly(self) -> int:
        """Add the best fills of the bins that look most promising, by whole-number knapsacks; return how many."""
        filled = self.fill_balanced(self.duals, 0.25, 1.0)
        ratio = (filled @ self.duals) / self.prices * self._chance.uniform(0.9, 1.0, len(self.useful))
        added = 0
        for at in np.argsort(-ratio, kind="stable")[:KNAPSACKS_A_STEP]:
            _, best = self.price_exactly(int(at))
            if best is not None and best @ self.duals > self.prices[at] * (1 + 1e-6):
                added += self.add(int(at), best)
        return added

    def price_exactly(self, bin_at: int) -> tuple[float, Counts | None]:
        """Return an upper bound on what one machine of the bin can be worth, and the best fill found.

        The bound holds even where the search met its limit; then it is that of the relaxation.
        """
        fitting = (self.needs <= self.capacity[bin_at]).all(axis=1) & self.allowed[bin_at] & (self.duals > 1e-9)
        active = np.flatnonzero(fitting)
        if not len(active):
            return 0.0, None
        needs = self.needs[active]
        most = np.minimum(
            self.counts[active],
            np.where(needs > 0, self.capacity[bin_at] // np.maximum(needs, 1), self.counts.max()).min(axis=1),
        )
        worth = self.duals[active]
        scarcity = self._scarcity(bin_at, needs, most, worth)
        spare = np.maximum(0.0, worth - needs @ scarcity) * most
        relaxed = float(scarcity @ self.capacity[bin_at] + spare.sum())
        order = np.argsort(-worth / np.maximum(needs @ scarcity, 1e-12), kind="stable")
        found, is_proven = knapsack(
            [int(one) for one in self.capacity[bin_at]],
            [tuple(int(one) for one in needs[at]) for at in order],
            [float(worth[at]) for at in order],
            [int(most[at]) for at in order],
            [float(one) for one in scarcity],
        )
        best = np.zeros(len(self.shapes), dtype=np.int64)
        best[active[order]] = found
        value = float(best @ self.duals)
        return (value if is_proven else max(value, relaxed)) * (1 + 1e-9), best

    def _scarcity(self, bin_at: int, needs: Counts, most: Counts, worth: Floats) -> Floats:
        """Return what each dimension of the machine is worth at the margin: the relaxed knapsack's duals."""
        extent = self._extent[bin_at]
        program = quiet_program()
        empty_index, empty_value = np.zeros(0, dtype=np.int32), np.zeros(0)
        for _ in extent:
            program.addRow(-highspy.kHighsInf, 1.0, 0, empty_index, empty_value)
        for number in range(len(worth)):
            rows = np.flatnonzero(needs[number]).astype(np.int32)
            values = needs[number][rows] / extent[rows]
            program.addCol(-worth[number] / 1e6, 0.0, float(most[number]), len(rows), rows, values)
        program.run()
        duals = np.maximum(-np.array(program.getSolution().row_dual, dtype=np.float64), 0.0)
        scarcity: Floats = duals * 1e6 / extent
        return scarcity

    # --- whole packings ----------------------------------------------------------------------------------------

    def rounded(self) -> list[Load]:
        """Return the program's solution, rounded down, and the rest built anew."""
        left = self.counts.copy()
        machines: list[tuple[int, Counts]] = []
        for at in np.argsort(-self.amounts, kind="stable"):
            copies = int(self.amounts[at] + 1e-6)
            if not copies:
                continue
            pattern = self.patterns[at]
            held = np.flatnonzero(pattern)
            copies = min(copies, int((left[held] // pattern[held]).min()))
            if copies > 0:
                left -= pattern * copies
                machines.extend([(self.bins[at], pattern)] * copies)
        machines.extend(self.rebuild(left, np.ones(len(self.shapes))))
        return self.as_loads(machines)

    def rebuild(self, left: Counts, tilt: Floats) -> list[tuple[int, Counts]]:
        """Return machines for what is left: again and again the known fill of most value for its price, cut short.

        `tilt` scales the value of each shape, so that different rebuilds differ. Changes `left`.
        """
        machines: list[tuple[int, Counts]] = []
        if not self.patterns:
            return machines
        table = np.array(self.patterns)
        bins = np.array(self.bins)
        prices = self.prices[bins].astype(np.float64)
        values = np.maximum(self.duals, 1e-3 * self.prices.min() * self.shares.max(axis=1)) * tilt
        while left.any():
            cut = np.minimum(table, left)
            worth = (cut @ values) / prices
            best = int(np.argmax(worth))
            pattern = cut[best].copy()
            if not pattern.any():
                break
            bin_at = int(bins[best])
            pattern = self._topped_up(bin_at, pattern, left, values)
            held = np.flatnonzero(pattern)
            copies = int((left[held] // pattern[held]).min())
            left -= pattern * copies
            machines.extend([(bin_at, pattern)] * copies)
        return machines

    def _topped_up(self, bin_at: int, pattern: Counts, left: Counts, values: Floats) -> Counts:
        """Return the fill with what else still fits of what is left, most value for its size first."""
        free = self.capacity[bin_at] - pattern @ self.needs
        rest = left - pattern
        able = np.flatnonzero((rest > 0) & self.allowed[bin_at] & (self.needs <= free).all(axis=1))
        if not len(able):
            return pattern
        pattern = pattern.copy()
        for at in able[np.argsort(-(values[able] / np.maximum(self.shares[able].sum(axis=1), 1e-12)), kind="stable")]:
            count = int(rest[at])
            for dimension in self._dimensions[at]:
                count = min(count, int(free[dimension] // self.needs[at, dimension]))
            if count > 0:
                pattern[at] += count
                free = free - count * self.needs[at]
        return pattern

    def as_loads(self, machines: Sequence[tuple[int, Counts]]) -> list[Load]:
        """Return machines as loads, each on the cheapest bin that holds it."""
        joined: dict[tuple[int, bytes], int] = {}
        patterns: dict[bytes, Counts] = {}
        for bin_at, pattern in machines:
            key = pattern.tobytes()
            patterns[key] = pattern
            joined[bin_at, key] = joined.get((bin_at, key), 0) + 1
        loads = [
            Load(self.useful[bin_at], self._content(patterns[key]), copies) for (bin_at, key), copies in joined.items()
        ]
        return right_sized(self.problem, loads, self.useful)

    def _content(self, pattern: Counts) -> Content:
        return tuple((self.shapes[at], int(pattern[at])) for at in np.flatnonzero(pattern))

    def destroyed_and_rebuilt(self, loads: Sequence[Load]) -> list[Load]:
        """Return the packing after many rounds of taking its worst machines apart and building them anew."""
        at_of = {one: at for at, one in enumerate(self.useful)}
        machines: list[tuple[int, Counts]] = []
        for load in loads:
            pattern = np.zeros(len(self.shapes), dtype=np.int64)
            for shape, count in load.content:
                pattern[self.place[shape]] = count
            machines.extend([(at_of[load.bin], pattern)] * load.copies)
        if len(machines) < 2:
            return list(loads)
        worth = np.maximum(self.duals, 1e-9)
        for _ in range(LNS_REBUILDS):
            prices = np.array([self.prices[bin_at] for bin_at, _ in machines], dtype=np.float64)
            value = np.array([pattern @ worth for _, pattern in machines]) / prices
            share = float(self._chance.uniform(0.02, 0.3))
            number = min(len(machines), max(2, int(len(machines) * share)), 40)
            key = value + self._chance.normal(0.0, 0.15, len(value))
            taken = np.argsort(key, kind="stable")[:number]
            before = int(sum(self.prices[machines[one][0]] for one in taken))
            left = np.zeros(len(self.shapes), dtype=np.int64)
            for one in taken:
                left += machines[one][1]
            tilt = self._chance.uniform(0.8, 1.25, len(self.shapes))
            fresh = [self._sized(bin_at, pattern) for bin_at, pattern in self.rebuild(left, tilt)]
            after = int(sum(self.prices[bin_at] for bin_at, _ in fresh))
            if after <= before and not left.any():
                gone = {int(one) for one in taken}
                machines = [machine for at, machine in enumerate(machines) if at not in gone] + fresh
        return self.as_loads(machines)

    def _sized(self, bin_at: int, pattern: Counts) -> tuple[int, Counts]:
        """Return the fill on the cheapest bin that holds it."""
        needs = pattern @ self.needs
        able = (self.capacity >= needs).all(axis=1)
        held = pattern > 0
        able &= self.allowed[:, held].all(axis=1)
        best = int(np.argmin(np.where(able, self.prices, np.iinfo(np.int64).max)))
        return (best, pattern) if self.prices[best] < self.prices[bin_at] else (bin_at, pattern)


class _QuietProgram(highspy.Highs):
    """HiGHS 1.16 prints a banner to the process's stdout while it is made, unless it is told before that."""

    def enableCallbacks(self) -> None:
        """Called by the constructor: the first thing of it that prints."""
        self.setOptionValue("output_flag", False)
        super().enableCallbacks()  # type: ignore[no-untyped-call]  # highspy ships no types for its class


def quiet_program() -> Any:
    """Return an empty linear program of HiGHS that prints nothing and repeats itself to the bit."""
    program = _QuietProgram()  # type: ignore[no-untyped-call]  # as above
    for name, value in (
        ("output_flag", False),
        ("threads", 1),
        ("random_seed", 0),
        ("solver", "simplex"),
        ("parallel", "off"),
        ("simplex_iteration_limit", SIMPLEX_ITERATIONS_MOST),
    ):
        program.setOptionValue(name, value)
    return program
