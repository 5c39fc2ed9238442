"""The life of a placement group, as one table. Nothing else in the head moves a group's state.

Two phases: every bundle is prepared on its node, the whole is journaled, then committed; else all of it is undone.
Facts arrive in any state (`.` means stay). The words are Ray's. `docs/head.md` shows this table.
"""

from __future__ import annotations

from enum import StrEnum


class GroupState(StrEnum):
    """Where a placement group stands."""

    PENDING = "PENDING"  # waits for room; counts as a gang
    PREPARED = "PREPARED"  # every bundle is reserved and the decision is being committed
    CREATED = "CREATED"  # usable
    RESCHEDULING = "RESCHEDULING"  # it lost bundles with a node and waits for room for those
    REMOVED = "REMOVED"


class GroupFact(StrEnum):
    """What is learned of a group."""

    READY = "ready"  # every missing bundle is prepared
    COMMITTED = "committed"  # every node has confirmed
    BROKEN = "broken"  # a node with bundles of it died
    REMOVED = "removed"  # somebody removed it, or its creator is gone


GROUP_TABLE = """
              ready     committed  broken        removed
PENDING       PREPARED  .          .             REMOVED
PREPARED      .         CREATED    RESCHEDULING  REMOVED
CREATED       .         .          RESCHEDULING  REMOVED
RESCHEDULING  PREPARED  .          .             REMOVED
REMOVED       .         .          .             .
"""

WAITS = frozenset({GroupState.PENDING, GroupState.RESCHEDULING})
"""States in which the group's missing bundles are demand."""


def after(state: GroupState, fact: GroupFact) -> GroupState:
    """Return the state once `fact` is known. Never raises.

    >>> after(GroupState.CREATED, GroupFact.BROKEN)
    <GroupState.RESCHEDULING: 'RESCHEDULING'>
    """
    return TABLE[state, fact]


def _table() -> dict[tuple[GroupState, GroupFact], GroupState]:
    facts, *rows = (line.split() for line in GROUP_TABLE.strip().splitlines())
    found = {}
    for name, *cells in rows:
        for fact, cell in zip(facts, cells, strict=True):
            found[GroupState[name], GroupFact(fact)] = GroupState[name] if cell == "." else GroupState[cell]
    return found


TABLE = _table()
