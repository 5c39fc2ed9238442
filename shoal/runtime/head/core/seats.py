"""Which actor sits in which bundle of its placement group, as the head believes it.

Tasks use bundles as well, which only the agent knows: it refuses when the head was too hopeful, and the actor tries
another bundle or waits.
"""

from __future__ import annotations

from shoal.foundation.amounts import Amounts, minus
from shoal.placement.fits import fits
from shoal.runtime.head.core.rows import GroupRow


class Seats:
    """Every seat taken, by group and actor."""

    def __init__(self) -> None:
        self._taken: dict[str, dict[bytes, tuple[int, Amounts]]] = {}

    def give(
        self, row: GroupRow, actor_id: bytes, bundle: int, amounts: Amounts, away_from: str = ""
    ) -> tuple[str, int] | None:
        """Give an actor room in a bundle (-1: any); return (node, bundle), None if there is none now.

        `away_from` is a node that refused it: taken again only if there is no other.
        """
        order = range(len(row.nodes)) if bundle < 0 else (bundle,)
        able = [
            number
            for number in order
            if number < len(row.nodes) and row.nodes[number] and fits(amounts, self._free(row, number))
        ]
        if not able:
            return None
        number = next((one for one in able if row.nodes[one] != away_from), able[0])
        self.take(row.spec.group_id, actor_id, number, amounts)
        return row.nodes[number], number

    def take(self, group_id: str, actor_id: bytes, number: int, amounts: Amounts) -> None:
        """Note that an actor sits there with that much."""
        self._taken.setdefault(group_id, {})[actor_id] = (number, amounts)

    def of(self, group_id: str, actor_id: bytes) -> int | None:
        """Return the bundle that an actor sits in."""
        found = self._taken.get(group_id, {}).get(actor_id)
        return found[0] if found else None

    def shrink(self, group_id: str, actor_id: bytes, held: Amounts) -> bool:
        """The actor runs and holds less than its placement needed; return whether that makes room."""
        taken = self._taken.get(group_id, {})
        if actor_id not in taken:
            return False
        number, before = taken[actor_id]
        taken[actor_id] = (number, held)
        return held != before

    def leave(self, group_id: str, actor_id: bytes) -> bool:
        """The actor is gone; return whether it had a seat."""
        return self._taken.get(group_id, {}).pop(actor_id, None) is not None

    def forget(self, group_id: str) -> None:
        """The group is gone."""
        self._taken.pop(group_id, None)

    def _free(self, row: GroupRow, number: int) -> Amounts:
        free = row.spec.bundles[number].amounts
        for seated, held in self._taken.get(row.spec.group_id, {}).values():
            if seated == number:
                free = minus(free, held)
        return free
