"""Packing: feasible, complete, and between the proven bound and what an exact solver says is the optimum."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_builders import demand, kind, offer, policy, snapshot
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from shoal.autoscaler.decide.bound import lower_bound, resource_bound
from shoal.autoscaler.decide.coarse import coarsely, quantised, refilled
from shoal.autoscaler.decide.columns import Columns
from shoal.autoscaler.decide.filling import (
    Bin,
    Load,
    Problem,
    cost,
    first_packing,
    needed,
    served,
    undominated,
)
from shoal.autoscaler.decide.knapsack import knapsack
from shoal.autoscaler.decide.planner import improve
from shoal.autoscaler.decide.search import search


@st.composite
def problems(draw: st.DrawFn, shapes_most: int = 4, count_most: int = 4, is_picky: bool = True) -> Problem:
    dimensions = draw(st.integers(1, 3))
    capacities = st.tuples(*[st.integers(0, 20)] * dimensions)
    bins = [
        Bin(
            draw(capacities),
            draw(st.integers(1, 50)),
            draw(st.sampled_from([None, None, frozenset({0, 1})])) if is_picky else None,
        )
        for _ in range(draw(st.integers(1, 4)))
    ]
    shapes = []
    for _ in range(draw(st.integers(1, shapes_most))):
        row = draw(st.tuples(*[st.integers(0, 9)] * dimensions).filter(any))
        shapes.append(tuple((at, amount) for at, amount in enumerate(row) if amount))
    counts = [draw(st.integers(1, count_most)) for _ in shapes]
    return Problem(dimensions, shapes, counts, bins)


def check(problem: Problem, loads: list[Load]) -> None:
    """Every machine holds what it is said to hold, and no shape is served more often than wanted."""
    for load in loads:
        this = problem.bins[load.bin]
        assert load.copies > 0 and load.content
        assert all(need <= there for need, there in zip(needed(problem, load.content), this.capacity, strict=True))
        assert this.allowed is None or all(shape in this.allowed for shape, _ in load.content)
    assert all(held <= count for held, count in zip(served(loads, len(problem.shapes)), problem.counts, strict=True))


def placeable(problem: Problem) -> list[int]:
    """Return the counts that some bin can hold."""
    return [
        count
        if any(
            (one.allowed is None or shape in one.allowed)
            and all(one.capacity[at] >= amount for at, amount in problem.shapes[shape])
            for one in problem.bins
        )
        else 0
        for shape, count in enumerate(problem.counts)
    ]


def optimum(problem: Problem) -> int:
    """Return the least price of serving all that can be served: an exact integer program over every maximal fill."""
    counts = placeable(problem)
    columns: list[list[int]] = []
    prices: list[int] = []
    for one in problem.bins:
        ranges = [
            range(count + 1) if one.allowed is None or shape in one.allowed else range(1)
            for shape, count in enumerate(counts)
        ]
        for fill in itertools.product(*ranges):
            content = tuple((shape, count) for shape, count in enumerate(fill) if count)
            if content and all(
                need <= there for need, there in zip(needed(problem, content), one.capacity, strict=True)
            ):
                columns.append(list(fill))
                prices.append(one.price)
    if not columns:
        return 0
    found = milp(
        np.array(prices),
        constraints=LinearConstraint(np.array(columns).T, lb=np.array(counts)),
        integrality=np.ones(len(prices)),
        bounds=Bounds(0, sum(counts)),
    )
    assert found.success
    return round(found.fun)


@settings(max_examples=60, deadline=None)
@given(problems(3, 3))
def test_bound_optimum_and_plan_stand_in_this_order(problem: Problem) -> None:
    served_part = Problem(problem.dimensions, problem.shapes, placeable(problem), problem.bins)
    exact = optimum(problem)

    loads = first_packing(problem)
    best, bound = cost(problem, loads), lower_bound(served_part, undominated(problem.bins))
    if any(served_part.counts):
        for better, tighter in itertools.islice(search(served_part, loads, 0), 40):
            if better is not None:
                check(problem, better)
                assert served(better, len(problem.shapes)) == served_part.counts
                best = min(best, cost(problem, better))
            if tighter is not None:
                bound = max(bound, int(tighter))

    assert bound <= exact <= best


@settings(max_examples=200, deadline=None)
@given(problems(6, 30))
def test_the_first_packing_is_feasible_and_serves_all_that_fits(problem: Problem) -> None:
    loads = first_packing(problem)

    check(problem, loads)
    assert served(loads, len(problem.shapes)) == placeable(problem)


@settings(max_examples=100, deadline=None)
@given(problems(8, 20, is_picky=False), st.integers(2, 4))
def test_quantised_work_is_bought_for_at_its_true_size(problem: Problem, most: int) -> None:
    loads = coarsely(first_packing, most)(problem)

    check(problem, loads)
    assert served(loads, len(problem.shapes)) == placeable(problem)


@settings(max_examples=100, deadline=None)
@given(problems(8, 20))
def test_a_joint_shape_holds_each_of_its_members(problem: Problem) -> None:
    coarse, members = quantised(problem, 3)

    assert sorted(shape for part in members for shape in part) == list(range(len(problem.shapes)))
    for number, part in enumerate(members):
        joint = dict(coarse.shapes[number])
        assert all(joint[at] >= amount for shape in part for at, amount in problem.shapes[shape])
        assert coarse.counts[number] == sum(problem.counts[shape] for shape in part)
    check(problem, refilled(problem, members, first_packing(coarse)))


@settings(max_examples=150, deadline=None)
@given(problems(6, 50, is_picky=False))
def test_the_resource_bound_is_that_of_the_linear_program(problem: Problem) -> None:
    totals = [0] * problem.dimensions
    for needs, count in zip(problem.shapes, problem.counts, strict=True):
        for at, amount in needs:
            totals[at] += amount * count
    wanted = [at for at, amount in enumerate(totals) if amount]
    offered = np.array([[one.capacity[at] for at in wanted] for one in problem.bins], dtype=float)
    prices = np.array([one.price for one in problem.bins], dtype=float)

    exact = linprog(prices, A_ub=-offered.T, b_ub=-np.array([totals[at] for at in wanted], dtype=float))

    if exact.status == 0:
        found = resource_bound(totals, problem.bins)
        assert exact.fun - 1.01 <= found <= exact.fun + 1e-6


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 6), st.integers(0, 6), st.integers(1, 30), st.integers(1, 4)), min_size=1, max_size=5
    ),
    st.tuples(st.integers(1, 14), st.integers(1, 14)),
)
def test_the_knapsack_is_exact(items: list[tuple[int, int, int, int]], capacity: tuple[int, int]) -> None:
    needs = [(one, two) for one, two, _, _ in items]
    worth = [float(value) for _, _, value, _ in items]
    most = [count for _, _, _, count in items]

    found, is_proven = knapsack(capacity, needs, worth, most, (0.7, 0.7))

    best = max(
        sum(count * value for count, value in zip(counts, worth, strict=True))
        for counts in itertools.product(*[range(count + 1) for count in most])
        if all(
            sum(count * need[at] for count, need in zip(counts, needs, strict=True)) <= capacity[at] for at in range(2)
        )
    )
    assert is_proven
    assert sum(count * value for count, value in zip(found, worth, strict=True)) == pytest.approx(best)


def test_balanced_fills_and_pricing_keep_to_the_capacity() -> None:
    problem = Problem(
        2,
        [((0, 3), (1, 1)), ((0, 1), (1, 4)), ((1, 2),)],
        [40, 30, 20],
        [Bin((16, 16), 10), Bin((32, 20), 17), Bin((8, 30), 9, frozenset({1, 2}))],
    )
    columns = Columns(problem, 0)
    columns.add_loads(first_packing(problem))
    columns.solve()

    filled = columns.fill_balanced(columns.duals, 0.25, 1.0)

    assert (filled @ columns.needs <= columns.capacity).all()
    assert (filled * ~columns.allowed == 0).all()
    for bin_at in range(len(columns.useful)):
        bound, best = columns.price_exactly(bin_at)
        assert best is not None and (best @ columns.needs <= columns.capacity[bin_at]).all()
        assert bound >= max(float(best @ columns.duals), float(filled[bin_at] @ columns.duals)) - 1e-6


def test_the_search_improves_on_the_first_packing() -> None:
    """Four units of 7 and twelve of 3 fill machines of 16 exactly; by size or value alone they do not."""
    problem = Problem(1, [((0, 7),), ((0, 3),), ((0, 2),)], [14, 9, 15], [Bin((16,), 100), Bin((9,), 61)])
    first = first_packing(problem)

    best = min([cost(problem, loads) for loads, _ in search(problem, first, 0) if loads], default=cost(problem, first))

    assert optimum_by_bound(problem) <= best <= cost(problem, first)
    assert best <= 1.05 * optimum_by_bound(problem)


def optimum_by_bound(problem: Problem) -> int:
    return lower_bound(problem, undominated(problem.bins))


def test_plans_have_a_gap_and_thinking_closes_it() -> None:
    offers = tuple(
        offer(name, cpu, price, memory=gib * 2**30)
        for name, cpu, gib, price in (
            ("c", 8, 16, 0.34),
            ("m", 8, 32, 0.384),
            ("r", 8, 64, 0.504),
            ("m2", 16, 64, 0.768),
        )
    )
    classes = tuple(
        demand(f"d{number}", cpu, count, resources={"memory": gib * 2**30})
        for number, (cpu, gib, count) in enumerate([(1, 7, 23), (3, 2, 17), (2, 9, 11), (1, 1, 40), (5, 21, 6)])
    )
    kinds = policy(*(kind(one.key.machine_type) for one in offers), max_workers=1000)

    plans = list(itertools.islice(improve(snapshot(offers=offers, classes=classes), kinds, 0), 60))

    assert all(plan.gap is not None and plan.gap >= 0 for plan in plans)
    assert plans[-1].cost_micro < plans[0].cost_micro
    assert plans[-1].gap is not None and plans[-1].gap < 0.05
