"""What subscribers follow: the cluster's `Work`, as a version and, per subscriber, one set of changed keys.

A subscriber never has a queue. It gets the full state on open, then the newest value of each key that changed since
its last look, with the version it had then; whoever sees a gap asks for the full state. Values are made when they are
sent, so a key that changes a thousand times between two looks costs one set entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from shoal.model.demand import DemandClass, Gang, Standing
from shoal.model.node import Node
from shoal.model.snapshot import Work
from shoal.runtime.decide.demand_ledger import bounded

NODE, CLASS, GANG, STANDING, FLAGS = "node", "class", "gang", "standing", "flags"
KINDS = (NODE, CLASS, GANG, STANDING)


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """What changed for one subscriber. `previous_version` None: this is the full state. A value of None: gone.

    `is_all_classes`: `classes` replaces every class known so far (shapes were rounded together).
    """

    epoch: int
    version: int
    previous_version: int | None
    nodes: dict[str, Node | None] = {}
    classes: dict[str, DemandClass | None] = {}
    is_all_classes: bool = False
    gangs: dict[str, Gang | None] = {}
    standing: dict[str, Standing | None] = {}
    is_settling: bool = False
    idle_s: float | None = None


class Subscription:
    """One follower: what changed since it last took a delta."""

    def __init__(self) -> None:
        self.dirty: dict[str, set[str]] = {kind: set() for kind in (*KINDS, FLAGS)}
        self.version: int | None = None
        self.had_all_classes = False
        self.is_changed = True


class Source(msgspec.Struct):
    """Where one kind of value comes from: one key's value (None: gone), and every key."""

    value: Callable[[str, float], Any]
    all_keys: Callable[[], Iterable[str]]


class WorkView:
    """The version of the cluster's work, its followers, and the way from keys to values."""

    def __init__(self, *, epoch: int, starts: int, classes_max: int) -> None:
        self.epoch = epoch
        # Ordered by (epoch, version) across restarts as well: each start has its own range.
        self.version = (starts << 40) + 1
        self.sources: dict[str, Source] = {}
        self.flags: Callable[[float], tuple[bool, float | None]] = lambda now_s: (False, None)
        self.subscribers: list[Subscription] = []
        self.is_changed = False
        """Set by every change while somebody follows; the core clears it once it has given `Publish`."""
        self._classes_max = classes_max

    def touch(self, kind: str, key: str = "") -> None:
        """Note that a key's value may have changed."""
        self.version += 1
        for subscriber in self.subscribers:
            subscriber.dirty[kind].add(key)
            subscriber.is_changed = self.is_changed = True

    def subscribe(self) -> Subscription:
        """Return a new follower; its first delta is the full state."""
        subscriber = Subscription()
        self.subscribers.append(subscriber)
        return subscriber

    def leave(self, subscriber: Subscription) -> None:
        """Forget a follower."""
        if subscriber in self.subscribers:
            self.subscribers.remove(subscriber)

    def delta(self, subscriber: Subscription, now_s: float) -> Delta:
        """Return what the follower has not seen, and note that it has."""
        is_full = subscriber.version is None
        values: dict[str, dict[str, Any]] = {}
        for kind in KINDS:
            source = self.sources[kind]
            keys = source.all_keys() if is_full else subscriber.dirty[kind]
            values[kind] = {key: source.value(key, now_s) for key in keys}
        is_all = is_full
        if is_full or values[CLASS]:
            classes = list(self.sources[CLASS].all_keys()) if not is_full else list(values[CLASS])
            is_rounded = len(classes) > self._classes_max
            if is_rounded or subscriber.had_all_classes:
                is_all = True
                values[CLASS] = {demand.key: demand for demand in self._classes(now_s)}
            subscriber.had_all_classes = is_rounded
        is_settling, idle_s = self.flags(now_s)
        previous, subscriber.version = subscriber.version, self.version
        for dirty in subscriber.dirty.values():
            dirty.clear()
        subscriber.is_changed = False
        if is_full:
            for kind, found in values.items():
                values[kind] = {key: value for key, value in found.items() if value is not None}
        return Delta(
            epoch=self.epoch,
            version=self.version,
            previous_version=previous,
            nodes=values[NODE],
            classes=values[CLASS],
            is_all_classes=is_all,
            gangs=values[GANG],
            standing=values[STANDING],
            is_settling=is_settling,
            idle_s=idle_s,
        )

    def work(self, now_s: float) -> Work:
        """Return everything as one value. Cost: everything."""
        is_settling, idle_s = self.flags(now_s)
        return Work(
            epoch=self.epoch,
            version=self.version,
            nodes=tuple(self._all(NODE, now_s)),
            classes=tuple(self._classes(now_s)),
            gangs=tuple(self._all(GANG, now_s)),
            standing=tuple(self._all(STANDING, now_s)),
            is_settling=is_settling,
            idle_s=idle_s,
        )

    def _all(self, kind: str, now_s: float) -> list[Any]:
        source = self.sources[kind]
        found = (source.value(key, now_s) for key in source.all_keys())
        return [value for value in found if value is not None]

    def _classes(self, now_s: float) -> list[DemandClass]:
        return bounded(self._all(CLASS, now_s), self._classes_max)
