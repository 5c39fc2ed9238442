"""Resource amounts: whole numbers of 1/10000, so that sums are exact and comparisons are true.

`Amounts` maps a resource's name to its amount; a name that is absent counts as 0. Values are treated as
frozen: every function here returns a new dict. Names are Ray's: `CPU`, `GPU`, `memory` (bytes),
`object_store_memory` (bytes) and any custom name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

Amounts = dict[str, int]
UNIT = 10_000
"""One whole CPU, GPU or byte."""


def amounts(quantities: Mapping[str, float]) -> Amounts:
    """Return `quantities` (natural units: CPUs, bytes) as exact amounts; zeros are dropped.

    >>> amounts({"CPU": 0.5, "GPU": 0})
    {'CPU': 5000}

    Raises:
        ValueError: a quantity is negative, not finite, or finer than 1/10000.
    """
    result: Amounts = {}
    for name in sorted(quantities):
        amount = amount_of(quantities[name], name)
        if amount:
            result[name] = amount
    return result


def amount_of(quantity: float, name: str = "resource") -> int:
    """Return one quantity as an exact amount.

    Raises:
        ValueError: it is negative, not finite, or finer than 1/10000.
    """
    if type(quantity) is int:
        if quantity < 0:
            raise ValueError(f"{name}: expected at least 0, got `{quantity}`")
        return quantity * UNIT
    if not 0 <= quantity < 1e18:
        raise ValueError(f"{name}: expected a finite quantity of at least 0, got `{quantity}`")
    amount = round(quantity * UNIT)
    if abs(amount - quantity * UNIT) > 1e-6 * max(1.0, amount):
        raise ValueError(f"{name}: expected a multiple of 0.0001, got `{quantity}`")
    return amount


def quantities(held: Mapping[str, int]) -> dict[str, float]:
    """Return amounts in natural units, as the API shows them (whole numbers stay whole floats)."""
    return {name: amount / UNIT for name, amount in held.items()}


def plus(left: Mapping[str, int], right: Mapping[str, int]) -> Amounts:
    """Return the sum; zeros are dropped."""
    result = dict(left)
    for name, amount in right.items():
        result[name] = result.get(name, 0) + amount
    return {name: amount for name, amount in result.items() if amount}


def minus(left: Mapping[str, int], right: Mapping[str, int]) -> Amounts:
    """Return the difference, which may be negative (a woken task takes its CPU back); zeros are dropped."""
    result = dict(left)
    for name, amount in right.items():
        result[name] = result.get(name, 0) - amount
    return {name: amount for name, amount in result.items() if amount}


def total(parts: Iterable[Mapping[str, int]]) -> Amounts:
    """Return the sum of all parts."""
    result: Amounts = {}
    for part in parts:
        for name, amount in part.items():
            result[name] = result.get(name, 0) + amount
    return {name: amount for name, amount in result.items() if amount}


def highest(parts: Iterable[Mapping[str, int]]) -> Amounts:
    """Return the element-wise maximum of all parts."""
    result: Amounts = {}
    for part in parts:
        for name, amount in part.items():
            result[name] = max(result.get(name, 0), amount)
    return result


def lowest(parts: Sequence[Mapping[str, int]]) -> Amounts:
    """Return the element-wise minimum of all parts; what one lacks is left out."""
    if not parts:
        return {}
    names = set(parts[0]).intersection(*parts[1:])
    return {name: min(part[name] for part in parts) for name in sorted(names)}


def times(held: Mapping[str, int], count: int) -> Amounts:
    """Return `count` copies of `held`."""
    return {name: amount * count for name, amount in held.items() if amount * count}


def covers(there: Mapping[str, int], wanted: Mapping[str, int]) -> bool:
    """Say whether `wanted` fits into `there`."""
    return all(there.get(name, 0) >= amount for name, amount in wanted.items())


def shape_key(held: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """Return `held` as a hashable, ordered key."""
    return tuple(sorted(held.items()))


def shown(held: Mapping[str, int]) -> str:
    """Return `held` for people.

    >>> shown({"CPU": 15000, "memory": 4 * 2**30 * UNIT})
    '1.5 CPU, 4 GiB memory'
    """
    return ", ".join(_one_shown(name, amount) for name, amount in sorted(held.items())) or "nothing"


def bytes_shown(count: float) -> str:
    """Return a number of bytes for people.

    >>> bytes_shown(1536 * 2**20)
    '1.5 GiB'
    """
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(count) >= size:
            return f"{count / size:.2f}".rstrip("0").rstrip(".") + f" {unit}"
    return f"{count:.0f} B"


def _one_shown(name: str, amount: int) -> str:
    if name in ("memory", "object_store_memory"):
        return f"{bytes_shown(amount / UNIT)} {name}"
    return f"{amount / UNIT:g} {name}"
