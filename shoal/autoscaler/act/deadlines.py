"""What `act` adds to and takes from a plan's steps because of time alone. Pure: rows and steps in, steps out.

The planner ends every wait by its deadline. Two things are not its business: after a restart or a jump of the clock
nothing may expire for a while, and a machine that was written off and joined after all must be asked whether it is
idle before anything else happens to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from shoal.model.instance import Instance, State
from shoal.model.plan import Drain, Release, Step

_EXPIRES = frozenset({State.REQUESTED, State.BOOTING, State.LOST, State.DRAINING})


def without_expiry(
    steps: Sequence[Step], rows: Mapping[str, Instance], *, is_halted: Callable[[str], bool]
) -> list[Step]:
    """Return the steps less the releases that only a deadline asks for; a halted machine waits for nothing."""
    return [
        step
        for step in steps
        if not (
            isinstance(step, Release)
            and (row := rows.get(step.instance_id)) is not None
            and row.state in _EXPIRES
            and not is_halted(step.instance_id)
        )
    ]


def returned(rows: Iterable[Instance], *, in_contact: Callable[[str], bool]) -> list[Step]:
    """Return a drain for each instance that joined after it was written off, by instance id."""
    return [
        Drain(instance_id=row.instance_id, why="it joined after it was written off")
        for row in sorted(rows, key=lambda one: one.instance_id)
        if row.state is State.DRAINING and not row.drain_order and in_contact(row.instance_id)
    ]
