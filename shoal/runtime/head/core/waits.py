"""Demand that fits free room and waits all the same: said after 2 s, no longer counted on after 10 s.

It happens when the numbers lie: a broken interpreter on a node, a port that is taken, an agent that refuses. The
planner would wait for ever for room that is there, so after `UNPLACEABLE_S` those nodes do not count for that class.
A class in which anybody is granted anything is not stuck.
"""

from __future__ import annotations

import msgspec

from shoal.foundation.amounts import shown
from shoal.runtime.decide.demand_ledger import DemandLedger
from shoal.runtime.decide.head_spots import Spots
from shoal.runtime.head.core.events import Outbox
from shoal.runtime.head.core.view import CLASS, WorkView

SAID_S = 2.0
UNPLACEABLE_S = 10.0
LOOK_S = 0.5
CLASSES_A_LOOK = 32
NODES_NAMED = 16


class Stuck(msgspec.Struct):
    """A class that fits somewhere and waits: since when, on which nodes all that time."""

    since_s: float
    progress: int
    nodes: set[str]
    is_said: bool = False


class FitsButWaits:
    """Looks at a few classes at a time, in turn."""

    def __init__(self, out: Outbox, demand: DemandLedger, spots: Spots, view: WorkView) -> None:
        self._out, self._demand, self._spots, self._view = out, demand, spots, view
        self._stuck: dict[str, Stuck] = {}
        self._looked_s = 0.0
        self._next = 0

    def look(self) -> None:
        """Look at the next classes, if it is time."""
        now_s = self._out.now_s
        if now_s - self._looked_s < LOOK_S:
            return
        self._looked_s = now_s
        keys = self._demand.waiting_keys()
        for gone in self._stuck.keys() - set(keys):
            self._clear(gone)
        if not keys:
            return
        start = self._next % len(keys)
        self._next += CLASSES_A_LOOK
        for class_key in (keys[start:] + keys[:start])[:CLASSES_A_LOOK]:
            self._one(class_key)

    def _one(self, class_key: str) -> None:
        now_s = self._out.now_s
        demand = self._demand.demand_of(class_key, now_s)
        if demand is None:
            return
        nodes = set(self._spots.fitting(demand.amounts, demand.selector, NODES_NAMED))
        progress = self._demand.progress(class_key)
        stuck = self._stuck.get(class_key)
        if stuck is None or stuck.progress != progress or not stuck.nodes & nodes:
            self._clear(class_key)
            if nodes:
                self._stuck[class_key] = Stuck(now_s, progress, nodes)
            return
        stuck.nodes &= nodes
        age_s = now_s - stuck.since_s
        if age_s >= SAID_S and not stuck.is_said:
            stuck.is_said = True
            self._out.record("fits_but_waits", demand=class_key, shape=shown(demand.amounts), nodes=sorted(stuck.nodes))
        if age_s >= UNPLACEABLE_S:
            found = tuple(sorted(stuck.nodes))
            if self._demand.unplaceable.get(class_key) != found:
                self._demand.unplaceable[class_key] = found
                self._view.touch(CLASS, class_key)

    def _clear(self, class_key: str) -> None:
        self._stuck.pop(class_key, None)
        if self._demand.unplaceable.pop(class_key, None) is not None:
            self._view.touch(CLASS, class_key)
