"""Giving room that grew to those who wait: gangs first, then actors, then tasks.

Runs at once when room grows after a quiet time, else at most every `place_round_s`, so a burst of reports is one round.
Tasks are not placed here: their owners' home agents are told where leases may be asked for, and that room is kept
reserved for a moment.
"""

from __future__ import annotations

from shoal.foundation.amounts import Amounts
from shoal.placement.fits import how_many
from shoal.runtime.decide.demand_ledger import DemandLedger
from shoal.runtime.decide.head_spots import Spots
from shoal.runtime.head.core.actors import Actors
from shoal.runtime.head.core.events import Outbox
from shoal.runtime.head.core.groups import Groups
from shoal.runtime.head.core.nodes import Nodes
from shoal.wire.messages import Granted

PUSHED_CLASSES_MAX = 64
"""How many classes of waiting tasks are looked at in one round."""


class Rounds:
    """The placing rounds, and reservations for leases."""

    def __init__(
        self, out: Outbox, nodes: Nodes, spots: Spots, demand: DemandLedger, groups: Groups, actors: Actors
    ) -> None:
        self._out, self._nodes, self._spots, self._demand = out, nodes, spots, demand
        self._groups, self._actors = groups, actors
        self._ran_s = out.now_s - 1.0
        self._reservations = 0
        self._pushed_from = 0

    @property
    def is_due(self) -> bool:
        """Whether anything happened that somebody may be waiting for."""
        return bool(self._spots.grown) or self._groups.has_news

    def run(self) -> None:
        """Try those who wait on the nodes whose room grew, unless the last round was a moment ago."""
        now_s = self._out.now_s
        if now_s - self._ran_s < self._out.settings.place_round_s:
            return
        self._ran_s = now_s
        grown = self._spots.grown
        self._spots.grown, self._groups.has_news = set(), False
        if grown and self._groups.has_waiting:
            self._groups.try_waiting()
        if not self._actors.queue.is_empty:
            self._actors.try_waiting(grown)
        if grown and self._demand.count:
            self._push(grown)

    def try_refused(self) -> None:
        """Try those anew that some agent had no room for after all, once their pause is over."""
        self._groups.try_refused()
        self._actors.try_refused()

    def reserve(self, node_id: str, amounts: Amounts, count: int, owner: bytes, class_key: str) -> None:
        """Keep room for leases that an owner is about to ask for, for a moment."""
        self._reservations += 1
        now_s, part = self._out.now_s, {name: amount * count for name, amount in amounts.items()}
        until_s = now_s + self._out.settings.place_hold_s
        claim = (owner, class_key)
        self._spots.hold(node_id, ("lease", self._reservations), part, now_s, until_s=until_s, claim=claim, units=count)

    def _push(self, grown: set[str]) -> None:
        keys = self._demand.waiting_keys()
        if not keys:
            return
        start = self._pushed_from % len(keys)
        self._pushed_from += PUSHED_CLASSES_MAX
        for class_key in (keys[start:] + keys[:start])[:PUSHED_CLASSES_MAX]:
            owners = self._demand.owners(class_key)
            first = owners[0][3]
            able = sorted(node for node in grown if self._spots.may_take(node, first.amounts, first.selector))
            for owner, home, waiting, row in owners if able else ():
                found: list[tuple[str, int]] = []
                for node_id in able:
                    if node_id == home or waiting <= 0:
                        continue
                    count = how_many(row.amounts, self._spots.free(node_id), waiting)
                    if count:
                        self.reserve(node_id, row.amounts, count, owner, class_key)
                        found.append((node_id, count))
                        waiting -= count
                if found:
                    self._nodes.send(home, Granted(owner, class_key, found))
