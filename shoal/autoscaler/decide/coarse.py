"""Thousands of shapes made few: quantised upwards for planning, put back to their true size for buying.

Planning costs with the number of shapes, so beyond `SHAPES_MOST` shapes that are near to each other are planned as
one, as large as the largest of them in every dimension. The machines that come out are then filled anew with the
true shapes, largest first, and what is not needed any more is left out; so rounding up costs little in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import ge

from shoal.autoscaler.decide.filling import Load, Problem, fill, needed, right_sized, undominated

SHAPES_MOST = 500


def coarsely(packer: Callable[[Problem], list[Load]], most: int = SHAPES_MOST) -> Callable[[Problem], list[Load]]:
    """Return the packer, made to plan at most `most` shapes at a time."""

    def pack(problem: Problem) -> list[Load]:
        if sum(1 for count in problem.counts if count) <= most:
            return packer(problem)
        coarse, members = quantised(problem, most)
        return refilled(problem, members, packer(coarse))

    return pack


def quantised(problem: Problem, most: int = SHAPES_MOST) -> tuple[Problem, list[list[int]]]:
    """Return the problem with at most about `most` shapes, and which shapes each stands for, largest first.

    Shapes are joined only where the same bins admit them and hold the joint shape as well. First by their first
    dimension into strips, then within a strip by the next ones.
    """
    families: dict[tuple[object, ...], list[int]] = {}
    for shape, needs in enumerate(problem.shapes):
        if problem.counts[shape]:
            admitted = tuple(one.allowed is None or shape in one.allowed for one in problem.bins)
            families.setdefault((tuple(at for at, _ in needs), admitted), []).append(shape)
    total = sum(len(family) for family in families.values())
    groups: list[list[int]] = []
    for family in families.values():
        share = max(1, most * len(family) // total)
        groups.extend(_cells(problem, family, share))
    shapes: list[tuple[tuple[int, int], ...]] = []
    counts: list[int] = []
    members: list[list[int]] = []
    bins_of = {shape: _fitting(problem, problem.shapes[shape]) for group in groups for shape in group}
    for group in groups:
        # A joint shape that fits fewer bins than a member would make that member dearer, or impossible.
        for part in _alike(problem, group, bins_of):
            most_of = {at: max(dict(problem.shapes[shape])[at] for shape in part) for at, _ in problem.shapes[part[0]]}
            shapes.append(tuple(sorted(most_of.items())))
            counts.append(sum(problem.counts[shape] for shape in part))
            members.append(
                sorted(part, key=lambda shape: (tuple(-amount for _, amount in problem.shapes[shape]), shape))
            )
    old_to_new = {shape: number for number, part in enumerate(members) for shape in part}
    bins = [
        one
        if one.allowed is None
        else type(one)(
            one.capacity, one.price, frozenset(old_to_new[shape] for shape in one.allowed if shape in old_to_new)
        )
        for one in problem.bins
    ]
    return Problem(problem.dimensions, shapes, counts, bins), members


def refilled(problem: Problem, members: Sequence[Sequence[int]], loads: Sequence[Load]) -> list[Load]:
    """Return the coarse packing's machines, filled with true shapes by first fit; machines left empty are dropped."""
    left = [[shape for shape in part for _ in range(problem.counts[shape])] for part in members]
    given: list[tuple[int, list[int]]] = []
    for load in loads:
        for _ in range(load.copies):
            held: list[int] = []
            for number, count in load.content:
                held.extend(left[number].pop(0) for _ in range(min(count, len(left[number]))))
            given.append((load.bin, held))
    # The best used machines first: each keeps what it was planned to hold and takes from the worse ones what still
    # fits, so that those end up smaller or empty.
    given.sort(key=lambda pair: -_use(problem, pair[0], pair[1]))
    rest = [0] * len(problem.shapes)
    for _, held in given:
        for shape in held:
            rest[shape] += 1
    order = sorted(
        (shape for shape, count in enumerate(rest) if count), key=lambda shape: (-_size(problem, shape), shape)
    )
    found: list[Load] = []
    for turn, (number, held) in enumerate(given):
        this = problem.bins[number]
        own = [0] * len(rest)
        for shape in held:
            if own[shape] < rest[shape]:
                own[shape] += 1
        planned = fill(this.capacity, problem.shapes, sorted(set(held)), own)
        free = [there - need for there, need in zip(this.capacity, needed(problem, planned), strict=True)]
        for shape, count in planned:
            rest[shape] -= count
        allowed = this.allowed
        more = fill(free, problem.shapes, order if allowed is None else [one for one in order if one in allowed], rest)
        for shape, count in more:
            rest[shape] -= count
        content: dict[int, int] = dict(planned)
        for shape, count in more:
            content[shape] = content.get(shape, 0) + count
        if content:
            found.append(Load(number, tuple(sorted(content.items())), 1))
        if turn % 16 == 15:
            order = [shape for shape in order if rest[shape]]
    return right_sized(problem, found, undominated(problem.bins))


def _cells(problem: Problem, family: Sequence[int], share: int) -> list[list[int]]:
    """Cut a family into at most about `share` cells of equal counts: strips by one dimension, cells by the next."""
    dimensions = [at for at, _ in problem.shapes[family[0]]]
    parts = [list(family)]
    for number, at in enumerate(dimensions):
        cuts = max(1, round((share / len(parts)) ** (1 / (len(dimensions) - number))))
        finer: list[list[int]] = []
        for part in parts:
            part.sort(key=lambda shape: (dict(problem.shapes[shape])[at], shape))
            size = -(-len(part) // cuts)
            finer.extend(part[start : start + size] for start in range(0, len(part), size))
        parts = finer
    return parts


def _alike(problem: Problem, group: Sequence[int], bins_of: dict[int, frozenset[int]]) -> list[list[int]]:
    """Cut a cell so that each part's joint shape fits every bin that its members fit."""
    parts: dict[frozenset[int], list[int]] = {}
    for shape in group:
        parts.setdefault(bins_of[shape], []).append(shape)
    found: list[list[int]] = []
    for bins, part in parts.items():
        joint: dict[int, int] = {}
        for shape in part:
            for at, amount in problem.shapes[shape]:
                joint[at] = max(joint.get(at, 0), amount)
        if _fitting(problem, tuple(sorted(joint.items()))) == bins:
            found.append(part)
        else:
            found.extend([shape] for shape in part)
    return found


def _fitting(problem: Problem, needs: Sequence[tuple[int, int]]) -> frozenset[int]:
    return frozenset(
        number for number, one in enumerate(problem.bins) if all(amount <= one.capacity[at] for at, amount in needs)
    )


def _size(problem: Problem, shape: int) -> float:
    most = [max((one.capacity[at] for one in problem.bins), default=0) or 1 for at, _ in problem.shapes[shape]]
    return max(amount / there for (_, amount), there in zip(problem.shapes[shape], most, strict=True))


def _use(problem: Problem, number: int, held: Sequence[int]) -> float:
    """Return how full a machine is in its fullest dimension, 0 to 1."""
    counts: dict[int, int] = {}
    for shape in held:
        counts[shape] = counts.get(shape, 0) + 1
    needs = needed(problem, tuple(counts.items()))
    capacity = problem.bins[number].capacity
    assert all(map(ge, capacity, needs)), "a true shape is never larger than the one it was planned as"
    return max((need / there for need, there in zip(needs, capacity, strict=True) if there), default=0.0)
