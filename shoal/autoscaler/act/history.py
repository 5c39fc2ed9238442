"""The launches and releases of the last hours as plans hear of them: what tells a plan the same is told once.

Hysteresis asks when machines of a type were launched, and from when to when those that were given back for idleness
were there. A thousand machines of one launch say of that no more than one that is there, the first and the last that
were given back; so a plan's memory costs by how many launches there were, not by how many machines.
"""

from __future__ import annotations

from shoal.autoscaler.act.rows import RecentRow
from shoal.autoscaler.decide.surplus import was_given_back
from shoal.model.snapshot import Recent

_Key = tuple[str, float]
"""Node type and moment of launch."""


class _Launch:
    """The machines of one node type that were launched at one moment."""

    def __init__(self) -> None:
        self.others: dict[str, dict[str, RecentRow]] = {}
        """Those that are there, or ended for another reason than idleness, by reason and instance."""
        self.idle: dict[str, RecentRow] = {}
        self._ends: tuple[RecentRow, ...] | None = ()
        """The first and the last of `idle`; None: to be looked for."""

    def add(self, row: RecentRow) -> None:
        if not was_given_back(row.released_s, row.why):
            self.others.setdefault(row.why, {})[row.instance_id] = row
            return
        self.idle[row.instance_id] = row
        if self._ends:
            first, last = self._ends[0], self._ends[-1]
            self._ends = (min(first, row, key=_end), max(last, row, key=_end))
        elif self._ends is not None:
            self._ends = (row,)

    def remove(self, row: RecentRow) -> None:
        if self.idle.pop(row.instance_id, None) is not None:
            if self._ends is not None and row in self._ends:
                self._ends = None
            return
        rows = self.others[row.why]
        del rows[row.instance_id]
        if not rows:
            del self.others[row.why]

    def told(self) -> list[Recent]:
        if self._ends is None:
            rows = self.idle.values()
            self._ends = (min(rows, key=_end), max(rows, key=_end)) if rows else ()
        heard = [next(iter(rows.values())) for _, rows in sorted(self.others.items())]
        heard += self._ends[:1]
        if self._ends and self._ends[-1].released_s != self._ends[0].released_s:
            heard.append(self._ends[-1])
        return [
            Recent(
                node_type=row.node_type,
                offer=row.offer,
                launched_s=row.launched_s,
                released_s=row.released_s,
                why=row.why,
            )
            for row in heard
        ]

    def __bool__(self) -> bool:
        return bool(self.others or self.idle)


class History:
    """What `Snapshot.recent` is made of; made anew only where a launch changed."""

    def __init__(self) -> None:
        self._launches: dict[_Key, _Launch] = {}
        self._heard: dict[_Key, list[Recent]] = {}
        self._told: tuple[Recent, ...] | None = ()

    def put(self, before: RecentRow | None, row: RecentRow | None) -> None:
        """Take in that a row came, changed or went."""
        self._told = None
        if before is not None:
            key = (before.node_type, before.launched_s)
            launch = self._launches[key]
            launch.remove(before)
            self._heard.pop(key, None)
            if not launch:
                del self._launches[key]
        if row is not None:
            key = (row.node_type, row.launched_s)
            self._launches.setdefault(key, _Launch()).add(row)
            self._heard.pop(key, None)

    def told(self) -> tuple[Recent, ...]:
        """Return the launches by node type and time: of each, one machine per reason and the ends of those idle."""
        if self._told is None:
            found: list[Recent] = []
            for key in sorted(self._launches):
                heard = self._heard.get(key)
                if heard is None:
                    heard = self._heard[key] = self._launches[key].told()
                found += heard
            self._told = tuple(found)
        return self._told


def _end(row: RecentRow) -> tuple[float, str]:
    return row.released_s or 0.0, row.instance_id
