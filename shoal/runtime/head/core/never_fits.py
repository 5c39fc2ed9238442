"""Work that no node can ever hold: its owners hear it once, with the reason; work bound to a dead node fails.

What an autoscaler may still buy is its own to say (`HeadCore.take_report`). Where there is none, what the nodes could
hold if they were empty is all there will be. Waiting work stays demand either way: a node that joins may hold it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from shoal.foundation.amounts import shown
from shoal.model.demand import Bundle, Selector, Strategy
from shoal.placement import selectors
from shoal.placement.fits import Spot, fits
from shoal.placement.gangs import place_gang
from shoal.runtime.decide.demand_ledger import DemandLedger
from shoal.runtime.head.core.actors import Actors
from shoal.runtime.head.core.events import Outbox
from shoal.runtime.head.core.groups import Groups
from shoal.runtime.head.core.nodes import Nodes

SAID_S = 2.0
"""How long work waits before it is called infeasible: nodes of a young cluster may still be on their way."""
LOOK_S = 0.5
LOOKED_AT_MAX = 32
NODES_LOOKED_AT_MAX = 1000


class NeverFits:
    """Looks at some of what waits, in turn."""

    def __init__(self, out: Outbox, nodes: Nodes, demand: DemandLedger, groups: Groups, actors: Actors) -> None:
        self._out, self._nodes, self._demand, self._groups, self._actors = out, nodes, demand, groups, actors
        self._told: set[str] = set()
        self._looked_s = 0.0
        self._next = 0

    def look(self, *, may_grow: bool) -> None:
        """Look at what waits, if it is time. `may_grow`: an autoscaler decides what is infeasible."""
        now_s = self._out.now_s
        if now_s - self._looked_s < LOOK_S or self._nodes.is_settling():
            return
        self._looked_s = now_s
        waiting = [*self._demand.waiting_keys(), *self._actors.queue.keys(), *self._groups.waiting_ids()]
        self._told &= set(waiting)
        if not waiting:
            return
        start = self._next % len(waiting)
        self._next += LOOKED_AT_MAX
        spots: list[Spot] | None = None
        for key in (waiting[start:] + waiting[:start])[:LOOKED_AT_MAX]:
            if self._fail_if_bound(key) or may_grow or key in self._told:
                continue
            spots = self._empty_nodes() if spots is None else spots
            why = self._why_never(key, spots)
            if why:
                self._told.add(key)
                self._out.record("demand_unmet", demand=key, verdict="infeasible", reasons=why)
                self._tell(key, "infeasible", {"key": key, "why": why})

    def _fail_if_bound(self, key: str) -> bool:
        """Fail work that may run only on nodes that are dead or were never there; say whether it was such."""
        demand = self._demand.demand_of(key, self._out.now_s) or self._actors.queue.demand(key, self._out.now_s)
        selector = demand.selector if demand is not None else None
        if selector is None or not selector.node_ids or selector.is_soft_node:
            return False
        if any(node_id in self._nodes.alive for node_id in selector.node_ids):
            return False
        why = f"it may run only on node {', '.join(selector.node_ids)}, which is not alive"
        self._tell(key, "never-fits", {"key": key, "why": why})
        self._actors.never_fits(key, why)
        return True

    def _why_never(self, key: str, spots: list[Spot]) -> str:
        """Return why no node here could hold what waits under `key`; empty if one could, or if it is too early."""
        now_s = self._out.now_s
        gang = self._groups.gang(key, now_s)
        if gang is not None:
            if gang.waiting_s < SAID_S or place_gang(gang.bundles, gang.strategy, spots) is not None:
                return ""
            return why_no_gang(gang.bundles, gang.strategy, spots)
        demand = self._demand.demand_of(key, now_s) or self._actors.queue.demand(key, now_s)
        if demand is None or demand.waiting_s < SAID_S:
            return ""
        why = why_no_node(demand.amounts, demand.selector, spots)
        return f"{shown(demand.amounts)}: {why}" if why else ""

    def _tell(self, key: str, what: str, value: Mapping[str, str]) -> None:
        owners: Iterable[tuple[str, bytes]] = [(home, owner) for owner, home, _, _ in self._demand.owners(key)]
        for node_id, process in (*owners, *self._actors.queue.owners(key), *self._groups.waiting_owners(key)):
            self._nodes.tell(node_id, process, what, value)

    def _empty_nodes(self) -> list[Spot]:
        """Return the live nodes as if nothing ran on them."""
        members = [member for member, _ in zip(self._nodes.alive.values(), range(NODES_LOOKED_AT_MAX), strict=False)]
        return [
            Spot(spot_id=one.node_id, free=dict(one.row.total), labels=self._nodes.labels_of(one)) for one in members
        ]


def why_no_node(amounts: Mapping[str, int], selector: Selector, spots: Sequence[Spot]) -> str:
    """Return why work fits no empty node: the first thing that is lacking everywhere. Empty if it fits one."""
    if not spots:
        return "there is no node"
    admitted = [spot for spot in spots if not selector or selectors.admits(selector, spot.spot_id, spot.labels)]
    if not admitted:
        terms = ", ".join(f"{name}: {term}" for name, term in selector.hard.items())
        return f"no node has labels that match {{{terms}}}" if terms else "no node is one that it may run on"
    if any(fits(amounts, spot.free) for spot in admitted):
        return ""
    for name, amount in sorted(amounts.items()):
        most = max(spot.free.get(name, 0) for spot in admitted)
        if amount > most:
            return f"no node has more than {shown({name: most})}" if most else f"no node has any {name}"
    return "no node has all of it"


def why_no_gang(bundles: Sequence[Bundle], strategy: Strategy, spots: Sequence[Spot]) -> str:
    """Return why a placement group does not fit the nodes, were they empty."""
    for bundle in bundles:
        why = why_no_node(bundle.amounts, bundle.selector, spots)
        if why:
            return f"a placement group with a bundle of {shown(bundle.amounts)}: {why}"
    count = "1 node is" if len(spots) == 1 else f"{len(spots)} nodes are"
    return f"a placement group of {len(bundles)} bundles by {strategy}: {count} not enough for them all"
