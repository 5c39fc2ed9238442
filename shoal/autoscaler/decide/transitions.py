"""The life of an instance, as two tables. Nothing else in the project changes a state.

Facts come from outside and may arrive in any state, so the fact table has an answer everywhere (`.` means
stay). Orders are ours, so a forbidden one (`x`) is a bug and raises. `docs/instance-states.md` is drawn from
these strings, and `tests/unit/autoscaler/test_instance_model.py` walks every world they allow.
"""

from __future__ import annotations

from shoal.foundation.errors import ShoalError
from shoal.model.instance import Fact, Order, State

FACT_TABLE = """
            refused  listed   halted    silent   joined   emptied  busy   absent
queued      gone     booting  lost      .        .        .        .      .
requested   gone     booting  lost      .        ready    .        .      gone
booting     gone     .        lost      .        ready    .        .      gone
ready       .        .        lost      lost     .        .        .      gone
lost        .        .        .         .        ready    .        .      gone
draining    .        .        lost      lost     .        drained  ready  gone
drained     .        .        .         .        .        .        .      gone
releasing   .        .        .         .        .        .        .      gone
gone        .        stray    stray     .        stray    .        .      .
stray       .        .        .         .        draining .        .      gone
"""

ORDER_TABLE = """
            create     drain     undrain  release      needs
queued      requested  x         x        gone         -
requested   .          x         x        releasing    bar
booting     x          x         x        releasing    bar
ready       x          draining  x        x            -
lost        x          x         x        releasing    bar
draining    x          .         ready    releasing    deadline
drained     x          x         ready    releasing    cordon
releasing   x          x         x        .            -
gone        x          x         x        x            -
stray       x          x         x        releasing    bar
"""
"""`needs` is what must hold before a release: `bar` (the head commits that it may never join, or answers
`joined`), `deadline` (the drain's deadline has passed), `cordon` (the head still holds it for long enough)."""


class ForbiddenOrder(ShoalError):
    """An order that the table forbids: our own bug."""


def after_fact(state: State, fact: Fact) -> State:
    """Return the state once `fact` is known. Never raises: reality is not negotiable.

    >>> after_fact(State.GONE, Fact.LISTED)
    <State.STRAY: 'stray'>
    """
    cell = FACTS[state, fact]
    return state if cell == "." else State(cell)


def after_order(state: State, order: Order) -> State:
    """Return the state that an order leads to.

    Raises:
        ForbiddenOrder: the table forbids it.
    """
    cell = ORDERS[state, order]
    if cell == "x":
        raise ForbiddenOrder(f"order `{order}` is forbidden in state `{state}`")
    return state if cell == "." else State(cell)


def may(state: State, order: Order) -> bool:
    """Say whether the table allows the order in this state."""
    return ORDERS[state, order] != "x"


def release_needs(state: State) -> str:
    """Return what a release from this state needs first: `bar`, `deadline`, `cordon` or `` (nothing)."""
    return RELEASE_NEEDS[state]


def _rows(table: str) -> tuple[list[str], list[list[str]]]:
    head, *rows = (line.split() for line in table.strip().splitlines())
    return head, rows


def _facts() -> dict[tuple[State, Fact], str]:
    head, rows = _rows(FACT_TABLE)
    return {(State(row[0]), Fact(name)): cell for row in rows for name, cell in zip(head, row[1:], strict=True)}


def _orders() -> dict[tuple[State, Order], str]:
    head, rows = _rows(ORDER_TABLE)
    return {(State(row[0]), Order(name)): cell for row in rows for name, cell in zip(head[:-1], row[1:-1], strict=True)}


FACTS = _facts()
ORDERS = _orders()
RELEASE_NEEDS = {State(row[0]): "" if row[-1] == "-" else row[-1] for row in _rows(ORDER_TABLE)[1]}
