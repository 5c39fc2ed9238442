"""What waits in the whole cluster, joined from reports of different ages so that no unit counts twice.

A task granted on node B leaves the backlog that node A reports one round trip later; adding both up would buy a
machine for work that already runs. So an owner's row carries `seen` (grants it has absorbed, cumulative), every agent
`granted` (cumulative), and the demand of one owner in one class is

    demand = max(0, waiting - max(0, sum(granted) - seen))

Soft state hangs on the stream that brought it: a closed stream freezes a node's rows (still counted) until the agent
resends everything or is declared dead. Source: docs/demand.md. Pure: `now_s` comes in, one clock.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Protocol

import msgspec

from shoal.foundation.amounts import Amounts
from shoal.model.demand import DemandClass, Selector

GRANT_ACK_S = 5.0
"""A grant that its owner has not absorbed for so long is void: agents revoke it, and it hides no demand any more."""
CLASSES_MAX = 500
"""How many classes a snapshot holds; beyond that shapes are rounded upwards until they are few enough."""


class BacklogRow(Protocol):
    """What an owner waits for in one class, as its home agent reports it (`shoal.wire.messages.Backlog`)."""

    @property
    def owner(self) -> bytes: ...
    @property
    def class_key(self) -> str: ...
    @property
    def job(self) -> str: ...
    @property
    def waiting(self) -> int: ...
    @property
    def seen(self) -> int: ...
    @property
    def amounts(self) -> Amounts: ...
    @property
    def running_slots(self) -> int: ...
    @property
    def duration_s(self) -> float | None: ...
    @property
    def selector(self) -> Selector: ...
    @property
    def spread(self) -> bool: ...
    @property
    def waiting_s(self) -> float: ...


class GrantRow(Protocol):
    """How many leases an agent has granted to an owner in a class, cumulative (`shoal.wire.messages.Grants`)."""

    @property
    def owner(self) -> bytes: ...
    @property
    def class_key(self) -> str: ...
    @property
    def granted(self) -> int: ...


class Entry(msgspec.Struct, kw_only=True):
    """One owner in one class: its backlog row and everybody's grants to it."""

    backlog: BacklogRow | None = None
    home: str = ""
    since_s: float = 0.0
    granted: dict[str, int] = {}
    granted_by_dead: int = 0
    forgiven: int = 0
    mark: int = 0
    mark_s: float = 0.0

    def total(self) -> int:
        """Return how many grants the owner was ever given."""
        return sum(self.granted.values()) + self.granted_by_dead

    def seen(self) -> int:
        """Return how many of them it has absorbed."""
        return self.backlog.seen if self.backlog is not None else 0

    def unseen(self) -> int:
        """Return the grants that the owner has yet to absorb, those that are void left out."""
        return max(0, self.total() - self.seen() - self.forgiven)

    def demand(self) -> int:
        """Return how many units wait for a grant."""
        return 0 if self.backlog is None else max(0, self.backlog.waiting - self.unseen())


Key = tuple[bytes, str]


class DemandLedger:
    """Every owner's backlog and every agent's grants; answers the demand per class."""

    def __init__(self, *, grant_ack_s: float = GRANT_ACK_S) -> None:
        self._grant_ack_s = grant_ack_s
        self._entries: dict[Key, Entry] = {}
        self._by_class: dict[str, dict[bytes, Entry]] = {}
        self._homes: dict[str, set[Key]] = {}
        self._granters: dict[str, set[Key]] = {}
        self._unsettled: set[Key] = set()
        self._frozen: set[str] = set()
        self.unplaceable: dict[str, tuple[str, ...]] = {}
        """Class key to the nodes that do not count for it (`fits_but_waits`)."""

    def newly_granted(self, node: str, granted: Iterable[GrantRow]) -> dict[Hashable, int]:
        """Return how many grants to each (owner, class) a report names beyond the node's last; before `report`."""
        found: dict[Hashable, int] = {}
        for grant in granted:
            entry = self._entries.get((grant.owner, grant.class_key))
            more = grant.granted - (entry.granted.get(node, 0) if entry is not None else 0)
            if more > 0:
                found[grant.owner, grant.class_key] = more
        return found

    def report(
        self,
        node: str,
        backlog: Iterable[BacklogRow],
        granted: Iterable[GrantRow],
        now_s: float,
        *,
        is_full: bool = False,
    ) -> set[str]:
        """Take one node's report and return the classes it touched. With `is_full` it replaces all it ever said."""
        touched: set[str] = set()
        homes = self._homes.setdefault(node, set())
        granters = self._granters.setdefault(node, set())
        gone_homes, gone_granters = (set(homes), set(granters)) if is_full else (set(), set())
        if is_full:
            self._frozen.discard(node)
        for row in backlog:
            key = (row.owner, row.class_key)
            touched.add(row.class_key)
            gone_homes.discard(key)
            if row.waiting <= 0 and key not in self._entries:
                continue
            entry = self._entry(key, now_s)
            if entry.home and entry.home != node:
                self._homes.get(entry.home, set()).discard(key)
            entry.home, entry.backlog, entry.since_s = node, row, now_s - row.waiting_s
            homes.add(key)
            self._settle(key, entry, now_s)
        for grant in granted:
            key = (grant.owner, grant.class_key)
            touched.add(grant.class_key)
            gone_granters.discard(key)
            granters.add(key)
            entry = self._entry(key, now_s)
            taken_back = entry.granted.get(node, 0) - grant.granted
            if taken_back > 0:
                # The agent revoked grants that were void here already.
                entry.forgiven = max(0, entry.forgiven - taken_back)
            entry.granted[node] = grant.granted
            self._settle(key, entry, now_s)
        for key in gone_homes:
            touched.add(key[1])
            self._leave_home(key, node)
        for key in gone_granters:
            touched.add(key[1])
            granters.discard(key)
            if (held := self._entries.get(key)) is not None:
                held.granted.pop(node, None)
                self._tidy(key, held)
        return touched

    def freeze(self, node: str) -> None:
        """The node's stream closed: what it said stays counted until it says everything again."""
        self._frozen.add(node)

    def drop_node(self, node: str) -> set[str]:
        """The node is dead: its owners are gone; its grants stay in the sums of owners elsewhere that saw them."""
        touched: set[str] = set()
        self._frozen.discard(node)
        for key in self._homes.pop(node, set()):
            touched.add(key[1])
            self._forget(key)
        for key in self._granters.pop(node, set()):
            entry = self._entries.get(key)
            if entry is not None:
                touched.add(key[1])
                entry.granted_by_dead += entry.granted.pop(node, 0)
        return touched

    def drop_owner(self, owner: bytes) -> set[str]:
        """The process is dead: nothing it waited for is wanted."""
        return self._drop(lambda key, _: key[0] == owner)

    def drop_job(self, job: str) -> set[str]:
        """The job ended: its rows go."""
        return self._drop(lambda _, entry: entry.backlog is not None and entry.backlog.job == job)

    def settle(self, now_s: float) -> set[str]:
        """Void grants that stayed unseen for too long; return the classes whose demand that changed."""
        touched: set[str] = set()
        for key in tuple(self._unsettled):
            entry = self._entries.get(key)
            if entry is None:
                self._unsettled.discard(key)
            elif self._settle(key, entry, now_s):
                touched.add(key[1])
        return touched

    def progress(self, class_key: str) -> int:
        """Return a number that changes whenever anybody is granted something in the class."""
        return sum(entry.total() for entry in self._by_class.get(class_key, {}).values())

    def waiting_keys(self) -> list[str]:
        """Return the keys of the classes in which somebody waits, in order of first sight."""
        return [key for key, owners in self._by_class.items() if any(entry.demand() > 0 for entry in owners.values())]

    def owners(self, class_key: str) -> list[tuple[bytes, str, int, BacklogRow]]:
        """Return (owner, home node, demand, row) of everybody who waits in the class."""
        return [
            (owner, entry.home, demand, entry.backlog)
            for owner, entry in self._by_class.get(class_key, {}).items()
            if entry.backlog is not None and (demand := entry.demand()) > 0
        ]

    def demand_of(self, class_key: str, now_s: float) -> DemandClass | None:
        """Return the class as the autoscaler sees it, None if nobody waits in it."""
        waiting, slots, known, known_work = 0, 0, 0, 0.0
        since_s, jobs, first = now_s, set(), None
        for entry in self._by_class.get(class_key, {}).values():
            row = entry.backlog
            if row is None:
                continue
            slots += row.running_slots
            demand = entry.demand()
            if demand <= 0:
                continue
            first = first or row
            waiting += demand
            since_s = min(since_s, entry.since_s)
            jobs.add(row.job)
            if row.duration_s is not None:
                known += demand
                known_work += demand * row.duration_s
        if first is None:
            return None
        return DemandClass(
            key=class_key,
            amounts=first.amounts,
            waiting=waiting,
            running_slots=slots,
            # A few owners without samples must not make the width of everybody's work unknown.
            duration_s=known_work / known if known * 2 >= waiting and known else None,
            selector=first.selector,
            spread=first.spread,
            jobs=tuple(sorted(jobs)),
            waiting_s=max(0.0, now_s - since_s),
            unplaceable_on=self.unplaceable.get(class_key, ()),
        )

    def classes(self, now_s: float) -> list[DemandClass]:
        """Return every class in which somebody waits, unbounded; `bounded` cuts it to what a snapshot holds."""
        found = (self.demand_of(key, now_s) for key in self._by_class)
        return [demand for demand in found if demand is not None]

    @property
    def count(self) -> int:
        """How many classes are known, waiting or not."""
        return len(self._by_class)

    def is_frozen(self, node: str) -> bool:
        """Say whether what the node said is from a stream that closed."""
        return node in self._frozen

    def _entry(self, key: Key, now_s: float) -> Entry:
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = Entry(since_s=now_s)
            self._by_class.setdefault(key[1], {})[key[0]] = entry
        return entry

    def _settle(self, key: Key, entry: Entry, now_s: float) -> bool:
        """Void the grants that existed `grant_ack_s` ago and are still unseen; return whether there were any.

        Counts are cumulative, so a steady stream of grants, each seen in time, never has one.
        """
        total, seen = entry.total(), entry.seen()
        # An owner that saw void ones after all must not have later ones hidden for them.
        entry.forgiven = max(0, min(entry.forgiven, total - seen))
        if total - seen - entry.forgiven <= 0:
            self._unsettled.discard(key)
            return False
        if key not in self._unsettled:
            self._unsettled.add(key)
            entry.mark, entry.mark_s = total, now_s
        if now_s - entry.mark_s < self._grant_ack_s:
            return False
        lost = entry.mark - seen - entry.forgiven
        entry.mark, entry.mark_s = total, now_s
        if lost <= 0:
            return False
        entry.forgiven += lost
        return True

    def _leave_home(self, key: Key, node: str) -> None:
        self._homes.get(node, set()).discard(key)
        entry = self._entries.get(key)
        if entry is not None and entry.home == node:
            entry.backlog, entry.home = None, ""
            self._tidy(key, entry)

    def _tidy(self, key: Key, entry: Entry) -> None:
        if entry.backlog is None and not entry.granted:
            self._forget(key)

    def _forget(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self._unsettled.discard(key)
        owners = self._by_class.get(key[1])
        if owners is not None:
            owners.pop(key[0], None)
            if not owners:
                del self._by_class[key[1]]
                self.unplaceable.pop(key[1], None)
        if entry.home:
            self._homes.get(entry.home, set()).discard(key)
        for node in entry.granted:
            self._granters.get(node, set()).discard(key)

    def _drop(self, is_gone: Callable[[Key, Entry], bool]) -> set[str]:
        gone = [key for key, entry in self._entries.items() if is_gone(key, entry)]
        for key in gone:
            self._forget(key)
        return {key[1] for key in gone}


def bounded(classes: list[DemandClass], most: int = CLASSES_MAX) -> list[DemandClass]:
    """Return at most `most` classes: the longest queues as they are, the rest rounded upwards and merged.

    Shapes are rounded to ever coarser powers of two and labelled `is_quantised`; a selector is never merged with
    another unless nothing else helps, and then only classes of one shape. The sum of `waiting` is kept.
    """
    if len(classes) <= most:
        return classes
    ranked = sorted(classes, key=lambda demand: (-demand.waiting, demand.key))
    exact, rest = ranked[: most // 2], ranked[most // 2 :]
    for power in (1, 2, 4, 8, 16):
        merged = _merged(rest, power)
        if len(merged) <= most - len(exact):
            return exact + merged
    merged = sorted(_merged(rest, 64), key=lambda demand: (-demand.waiting, demand.key))
    room = most - len(exact)
    if len(merged) <= room:
        return exact + merged
    # More constraints than rows: the smallest queues go under the next larger class's constraint.
    last = merged[room - 1]
    left_over = sum(demand.waiting for demand in merged[room:])
    return exact + merged[: room - 1] + [msgspec.structs.replace(last, waiting=last.waiting + left_over)]


def _merged(classes: list[DemandClass], power: int) -> list[DemandClass]:
    groups: dict[bytes, list[DemandClass]] = {}
    for demand in classes:
        shape = sorted((name, _rounded_up(amount, power)) for name, amount in demand.amounts.items())
        mark = msgspec.json.encode((shape, demand.selector, demand.spread, demand.kind))
        groups.setdefault(mark, []).append(demand)
    return [_one(members, mark) for mark, members in groups.items()]


def _one(members: list[DemandClass], mark: bytes) -> DemandClass:
    shape = dict(msgspec.json.decode(mark)[0])
    known = [demand for demand in members if demand.duration_s is not None]
    waiting = sum(demand.waiting for demand in members)
    known_waiting = sum(demand.waiting for demand in known)
    work_s = sum(demand.waiting * (demand.duration_s or 0.0) for demand in known)
    return msgspec.structs.replace(
        members[0],
        key=f"quantised {mark.decode()}",
        amounts=shape,
        waiting=waiting,
        running_slots=sum(demand.running_slots for demand in members),
        duration_s=work_s / known_waiting if known_waiting and known_waiting * 2 >= waiting else None,
        jobs=tuple(sorted({job for demand in members for job in demand.jobs})),
        waiting_s=max(demand.waiting_s for demand in members),
        is_quantised=True,
        unplaceable_on=(),
    )


def _rounded_up(amount: int, power: int) -> int:
    """Return the next power of two to the `power` at or above `amount`.

    >>> _rounded_up(30000, 1), _rounded_up(32768, 1)
    (32768, 32768)
    """
    if amount <= 0:
        return 0
    bits = (amount - 1).bit_length()
    return 1 << (-(-bits // power) * power)
