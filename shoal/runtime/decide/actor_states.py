"""The life of an actor, as one table. Nothing else in the head moves an actor's state.

Facts arrive in any state (`.` means stay). The words are Ray's, so that listings read alike. `docs/head.md` shows
this table. Whether an actor that lost its process comes back is `comes_back`; which cause is final is `FINAL`.
"""

from __future__ import annotations

from enum import StrEnum


class ActorState(StrEnum):
    """Where an actor stands."""

    PENDING = "PENDING_CREATION"  # registered; waits for a place or its constructor runs
    ALIVE = "ALIVE"  # the constructor returned
    RESTARTING = "RESTARTING"  # its process was lost, the next one is on its way
    DEAD = "DEAD"


class ActorFact(StrEnum):
    """What is learned of an actor."""

    STARTED = "started"  # its constructor returned
    LOST = "lost"  # its process is gone and it may come back
    ENDED = "ended"  # its process is gone and it may not
    REFUSED = "refused"  # the node had no room after all


ACTOR_TABLE = """
            started  lost        ended  refused
PENDING     ALIVE    .           DEAD   .
ALIVE       .        RESTARTING  DEAD   .
RESTARTING  ALIVE    .           DEAD   .
DEAD        .        .           .      .
"""

FINAL = frozenset({"created-failed", "exited", "group-removed", "dropped"})
"""Causes after which an actor is never restarted: its own wish, its own error, or its ground was taken away."""


def after(state: ActorState, fact: ActorFact) -> ActorState:
    """Return the state once `fact` is known. Never raises.

    >>> after(ActorState.ALIVE, ActorFact.LOST)
    <ActorState.RESTARTING: 'RESTARTING'>
    """
    return TABLE[state, fact]


def comes_back(cause: str, *, restarts: int, restarts_max: int, is_ending: bool) -> bool:
    """Say whether an actor that ran and lost its process for `cause` is started again.

    `restarts` so far, of `restarts_max` (-1: for ever); `is_ending`: somebody killed it for good or dropped it.

    >>> comes_back("crashed", restarts=1, restarts_max=1, is_ending=False)
    False
    """
    if is_ending or cause in FINAL:
        return False
    return restarts_max < 0 or restarts < restarts_max


def _table() -> dict[tuple[ActorState, ActorFact], ActorState]:
    facts, *rows = (line.split() for line in ACTOR_TABLE.strip().splitlines())
    found = {}
    for name, *cells in rows:
        for fact, cell in zip(facts, cells, strict=True):
            found[ActorState[name], ActorFact(fact)] = ActorState[name] if cell == "." else ActorState[cell]
    return found


TABLE = _table()
