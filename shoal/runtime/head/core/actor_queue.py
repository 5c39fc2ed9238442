"""Actors that wait: for room (demand, by class), for their group (blocked), or after a refusal (by time)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from shoal.model.demand import DemandClass
from shoal.runtime.head.core.rows import ActorRow
from shoal.runtime.head.core.view import CLASS, WorkView

LOOKED_AT_MAX = 1000
"""How many actors of a class are looked at for its jobs and its age."""
REFUSED_FIRST_S, REFUSED_MOST_S = 0.02, 1.0


class Actor(msgspec.Struct, kw_only=True):
    """One actor: its journaled row, who follows it, and since when it waits."""

    row: ActorRow
    watchers: set[tuple[str, bytes]]
    since_s: float = 0.0
    class_key: str = ""
    refused_by: str = ""
    refusals: int = 0
    killed_generation: int = -1
    """The newest incarnation that somebody killed: its agent hears of it again after a reconnect."""


class ActorQueue:
    """Who waits for what. Places nobody itself."""

    def __init__(self, view: WorkView) -> None:
        self._view = view
        self._classes: dict[str, dict[bytes, Actor]] = {}
        self._seatless: dict[bytes, Actor] = {}
        self._refused: dict[bytes, tuple[Actor, float]] = {}

    def add(self, actor: Actor) -> None:
        """The actor waits. Inside a group it is never demand: the group is, or has no room."""
        row = actor.row
        if row.group_id:
            self._seatless[row.actor_id] = actor
            return
        actor.class_key = actor.class_key or _class_key(row)
        waiting = self._classes.setdefault(actor.class_key, {})
        if row.actor_id not in waiting:
            waiting[row.actor_id] = actor
            self._view.touch(CLASS, actor.class_key)

    def refuse(self, actor: Actor, now_s: float) -> None:
        """Its node had no room after all: it waits, to be tried again soon at first, then ever less often."""
        actor.refusals += 1
        self.add(actor)
        pause_s = min(REFUSED_MOST_S, REFUSED_FIRST_S * 2.0 ** min(actor.refusals - 1, 10))
        self._refused[actor.row.actor_id] = (actor, now_s + pause_s)

    def remove(self, actor: Actor) -> None:
        """It waits no more. Quiet if it did not."""
        actor_id = actor.row.actor_id
        self._seatless.pop(actor_id, None)
        self._refused.pop(actor_id, None)
        waiting = self._classes.get(actor.class_key) if actor.class_key else None
        if waiting is not None and waiting.pop(actor_id, None) is not None:
            if not waiting:
                del self._classes[actor.class_key]
            self._view.touch(CLASS, actor.class_key)

    def due(self, now_s: float) -> list[Actor]:
        """Return, once, the refused whose pause is over."""
        found = [actor for actor, due_s in self._refused.values() if due_s <= now_s]
        for actor in found:
            del self._refused[actor.row.actor_id]
        return found

    def by_class(self) -> Iterator[list[Actor]]:
        """Yield the waiting of each class, in order of arrival; all alike, so one failure answers for the rest."""
        for waiting in tuple(self._classes.values()):
            yield list(waiting.values())

    def of_class(self, class_key: str) -> list[Actor]:
        """Return the waiting of one class."""
        return list(self._classes.get(class_key, {}).values())

    def seatless(self) -> list[Actor]:
        """Return those who wait for a group, or for room in it, and are not in a pause."""
        return [actor for actor_id, actor in self._seatless.items() if actor_id not in self._refused]

    def owners(self, class_key: str) -> list[tuple[str, bytes]]:
        """Return who follows the waiting actors of a class."""
        return list({one for actor in self._classes.get(class_key, {}).values() for one in actor.watchers})

    def keys(self) -> Iterable[str]:
        """Return the keys of the classes of waiting actors."""
        return self._classes.keys()

    def demand(self, class_key: str, now_s: float) -> DemandClass | None:
        """Return the class of waiting actors as the autoscaler sees it, None if nobody waits in it."""
        waiting = self._classes.get(class_key)
        if not waiting:
            return None
        looked_at = [actor for actor, _ in zip(waiting.values(), range(LOOKED_AT_MAX), strict=False)]
        first = looked_at[0].row
        return DemandClass(
            key=class_key,
            amounts=first.amounts,
            waiting=len(waiting),
            selector=first.selector,
            spread=first.spread,
            kind="actor",
            jobs=tuple(sorted({actor.row.job for actor in looked_at})),
            waiting_s=max(0.0, now_s - min(actor.since_s for actor in looked_at)),
        )

    @property
    def is_empty(self) -> bool:
        """Whether nobody waits."""
        return not (self._classes or self._seatless)

    @property
    def has_refused(self) -> bool:
        """Whether anybody is in a pause after a refusal."""
        return bool(self._refused)


def _class_key(row: ActorRow) -> str:
    shape = ",".join(f"{name}={amount}" for name, amount in sorted(row.amounts.items()))
    constraint = msgspec.json.encode(row.selector).decode() if row.selector else ""
    return f"actor {shape}{' ' + constraint if constraint else ''}{' SPREAD' if row.spread else ''}"
