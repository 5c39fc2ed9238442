"""Where the head believes there is room: each node's reported free amounts, less what the head has just given away.

A report is older than the orders the head has sent since. So every order leaves a *hold* on its node, which goes when
a report arrives that must already contain it: one that counts the leases it was kept for, any after the agent's
acknowledgement, or one that comes `ABSORB_S` after the order where there is neither. A bundle handed back is credited
until the next report. Both errors are harmless: too little room waits for the next report, too much is refused by the
agent, who alone decides.

Nothing here costs as much as the number of nodes unless nothing fits; a scan that found nothing is remembered until
some node's room grows.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence

import msgspec

from shoal.foundation.amounts import Amounts, minus, shape_key
from shoal.model.demand import ANYWHERE, Bundle, Selector, Strategy
from shoal.placement import selectors
from shoal.placement.fits import Spot, fits, how_many
from shoal.placement.gangs import place_gang

ABSORB_S = 0.1
"""After so long an order without acknowledgement is certainly inside the agent's next report."""
WINDOW = 64
"""How many candidate nodes a gang is tried on before all of them are."""


class Hold(msgspec.Struct, kw_only=True):
    """Room given away that no report shows yet. Negative amounts are a credit."""

    amounts: Amounts
    absorbed_from_s: float
    until_s: float = math.inf
    claim: Hashable = None
    """Who is about to take it, in `units` equal parts: reports say who took how many."""
    units: int = 0


class Spots:
    """Every node that may take work, in order of joining, with its room."""

    def __init__(self) -> None:
        self._spots: dict[str, Spot] = {}
        self._reported: dict[str, Amounts] = {}
        self._holds: dict[str, dict[Hashable, Hold]] = {}
        self._closed: set[str] = set()
        self._open: list[Spot] | None = None
        self._cursor = 0
        self._growth = 0
        self._full: dict[Hashable, int] = {}
        self._expiring: dict[Hashable, tuple[str, float]] = {}
        self.grown: set[str] = set()
        """Nodes whose room grew since somebody last looked and cleared it."""

    def __contains__(self, node: str) -> bool:
        return node in self._spots

    def join(self, node: str, free: Amounts, labels: dict[str, str]) -> None:
        """A node is there, with that much free."""
        if node in self._spots:
            self.leave(node)
        self._spots[node] = Spot(spot_id=node, free=free, labels=labels)
        self._reported[node] = free
        self._holds[node] = {}
        self._open = None
        self._grew(node)

    def leave(self, node: str) -> None:
        """The node is gone, and every hold on it."""
        self._spots.pop(node, None)
        self._reported.pop(node, None)
        self._closed.discard(node)
        self.grown.discard(node)
        for key in self._holds.pop(node, {}):
            self._expiring.pop(key, None)
        self._open = None

    def allow(self, node: str, is_open: bool) -> None:
        """Say whether work may be placed there: not while cordoned or out of touch."""
        if node not in self._spots or is_open == (node not in self._closed):
            return
        if is_open:
            self._closed.discard(node)
            self._grew(node)
        else:
            self._closed.add(node)
        self._open = None

    def report(
        self, node: str, free: Amounts | None, now_s: float, taken: Mapping[Hashable, int] | None = None
    ) -> None:
        """Take a report: new free amounts (None: as before) and with it every hold that it must contain.

        `taken` says how many units of each claim are in it for the first time.
        """
        spot = self._spots.get(node)
        if spot is None:
            return
        holds = self._holds[node]
        if holds:
            for claim, units in (taken or {}).items():
                self._absorb(holds, claim, units)
            for key in [key for key, hold in holds.items() if hold.absorbed_from_s <= now_s]:
                del holds[key]
                self._expiring.pop(key, None)
            if free is None:
                self._refresh(node, spot)
                return
        elif free is None:
            return
        self._reported[node] = free
        self._refresh(node, spot)

    def hold(
        self,
        node: str,
        key: Hashable,
        amounts: Amounts,
        now_s: float,
        *,
        absorbed_after_s: float = ABSORB_S,
        until_s: float = math.inf,
        claim: Hashable = None,
        units: int = 0,
    ) -> None:
        """Take `amounts` from the node's room until a report contains them (`absorbed_after_s` inf: after `ack`)."""
        spot = self._spots.get(node)
        if spot is None:
            return
        if key in self._holds[node]:
            self.release(node, key)
        self._holds[node][key] = Hold(
            amounts=amounts, absorbed_from_s=now_s + absorbed_after_s, until_s=until_s, claim=claim, units=units
        )
        if until_s != math.inf:
            self._expiring[key] = (node, until_s)
        self._change(node, spot, amounts, -1)

    def _absorb(self, holds: dict[Hashable, Hold], claim: Hashable, units: int) -> None:
        """Shorten the claim's holds by what was taken, the oldest first."""
        for key in [key for key, hold in holds.items() if hold.units and hold.claim == claim]:
            hold = holds[key]
            part = min(units, hold.units)
            units -= part
            if part == hold.units:
                del holds[key]
                self._expiring.pop(key, None)
            else:
                share = {name: amount // hold.units * part for name, amount in hold.amounts.items()}
                hold.amounts, hold.units = minus(hold.amounts, share), hold.units - part
            if not units:
                return

    def ack(self, node: str, key: Hashable, now_s: float, amounts: Amounts | None = None) -> None:
        """The agent has done it: the next report contains the hold, which now is `amounts` (None: as before)."""
        hold = self._holds.get(node, {}).get(key)
        if hold is None:
            return
        hold.absorbed_from_s = now_s
        if amounts is not None and amounts != hold.amounts:
            self._change(node, self._spots[node], minus(hold.amounts, amounts), 1)
            hold.amounts = amounts

    def release(self, node: str, key: Hashable) -> bool:
        """Undo a hold; return whether it was still there."""
        hold = self._holds.get(node, {}).pop(key, None)
        if hold is None:
            return False
        self._expiring.pop(key, None)
        self._change(node, self._spots[node], hold.amounts, 1)
        return True

    def hand_back(self, node: str, key: Hashable, amounts: Amounts, now_s: float) -> None:
        """What stood under `key` is being returned there: undo its hold, or credit it until the next report."""
        if self.release(node, key) or node not in self._spots:
            return
        credit = {name: -amount for name, amount in amounts.items()}
        self._holds[node][("back", key)] = Hold(amounts=credit, absorbed_from_s=now_s)
        self._change(node, self._spots[node], amounts, 1)

    def expire(self, now_s: float) -> None:
        """Drop holds whose time is over."""
        for key, (node, until_s) in tuple(self._expiring.items()):
            if until_s <= now_s:
                self.release(node, key)

    def free(self, node: str) -> Amounts:
        """Return the node's room as believed; empty for an unknown node."""
        spot = self._spots.get(node)
        return spot.free if spot else {}

    def may_take(self, node: str, amounts: Mapping[str, int], selector: Selector = ANYWHERE) -> bool:
        """Say whether the node is open and the work fits there now."""
        spot = self._spots.get(node)
        return (
            spot is not None
            and node not in self._closed
            and fits(amounts, spot.free)
            and (not selector or selectors.admits(selector, node, spot.labels))
        )

    def pick(
        self,
        amounts: Amounts,
        selector: Selector = ANYWHERE,
        *,
        spread: bool = False,
        home: str = "",
        among: Collection[str] | None = None,
        away_from: Collection[str] = (),
    ) -> str | None:
        """Return the node for one unit: `home` if it fits there, else the first that fits, None if none does.

        `spread` goes round the nodes instead. A selector's better ranks come first. `among` limits the search.
        """
        if (
            home
            and not spread
            and home not in away_from
            and self.may_take(home, amounts, selector)
            and (not selector or self._rank(selector, home) == 0)
        ):
            return home
        if among is not None:
            nodes = [self._spots[node] for node in among if node in self._spots and node not in self._closed]
        else:
            mark = None if away_from else (shape_key(amounts), msgspec.json.encode(selector) if selector else b"")
            if mark is not None and self._full.get(mark) == self._growth:
                return None
            nodes = self.open_spots()
        found = self._scan(nodes, amounts, selector, spread, away_from)
        if found is None and among is None and mark is not None:
            if len(self._full) > 1000:
                self._full.clear()
            self._full[mark] = self._growth
        return found

    def pick_many(
        self, amounts: Amounts, selector: Selector, count: int, *, spread: bool, away_from: Collection[str] = ()
    ) -> list[tuple[str, int]]:
        """Return nodes and how many units each takes, together at most `count`; packed, or one each if `spread`."""
        mark = None if away_from else (shape_key(amounts), msgspec.json.encode(selector) if selector else b"")
        if count <= 0 or (mark is not None and self._full.get(mark) == self._growth):
            return []
        ranked: list[tuple[int, int, Spot]] = []
        spots = self.open_spots()
        for place, spot in enumerate(spots):
            if spot.spot_id in away_from or not fits(amounts, spot.free):
                continue
            rank = 0 if not selector else selectors.rank(selector, spot.spot_id, spot.labels)
            if rank is not None:
                ranked.append((rank, place, spot))
                if not selector and not spread and len(ranked) >= count:
                    break
        if selector:
            ranked.sort(key=lambda one: one[:2])
        if not ranked:
            if mark is not None:
                self._full[mark] = self._growth
            return []
        if spread:
            return self._dealt(ranked, amounts, count)
        found = []
        for _, _, spot in ranked:
            taken = how_many(amounts, spot.free, count)
            if taken:
                found.append((spot.spot_id, taken))
                count -= taken
            if count <= 0:
                break
        return found

    def fitting(self, amounts: Amounts, selector: Selector, most: int) -> list[str]:
        """Return up to `most` open nodes on which one unit fits now, in order of joining."""
        mark = (shape_key(amounts), msgspec.json.encode(selector) if selector else b"")
        if self._full.get(mark) == self._growth:
            return []
        found: list[str] = []
        for spot in self.open_spots():
            if fits(amounts, spot.free) and (not selector or selectors.admits(selector, spot.spot_id, spot.labels)):
                found.append(spot.spot_id)
                if len(found) >= most:
                    break
        return found

    def place(self, bundles: Sequence[Bundle], strategy: Strategy, away_from: Collection[str] = ()) -> list[str] | None:
        """Return the node of each bundle, None if they do not all fit now. Tries a window of candidates first."""
        spots = self.open_spots()
        if away_from:
            spots = [spot for spot in spots if spot.spot_id not in away_from]
        if strategy in (Strategy.PACK, Strategy.STRICT_PACK) and len(spots) > 1:
            # The usual case: one node holds it all, and it is found without a look at the others.
            found = place_gang(bundles, Strategy.STRICT_PACK, spots)
            if found is not None or strategy is Strategy.STRICT_PACK:
                return found
        most = WINDOW + 4 * len(bundles)
        if len(spots) > most:
            found = place_gang(bundles, strategy, self._window(spots, bundles, most))
            if found is not None:
                return found
        return place_gang(bundles, strategy, spots)

    def open_spots(self) -> list[Spot]:
        """Return the spots that may take work, in order of joining."""
        if self._open is None:
            self._open = [spot for node, spot in self._spots.items() if node not in self._closed]
        return self._open

    @property
    def growth(self) -> int:
        """A number that rises whenever some node's room grows."""
        return self._growth

    def _scan(
        self,
        spots: Sequence[Spot],
        amounts: Amounts,
        selector: Selector,
        spread: bool,
        away_from: Collection[str],
    ) -> str | None:
        start = self._cursor % len(spots) if spread and spots else 0
        best: str | None = None
        best_rank = math.inf
        for step in range(len(spots)):
            place = (start + step) % len(spots)
            spot = spots[place]
            if spot.spot_id in away_from or not fits(amounts, spot.free):
                continue
            rank = 0 if not selector else selectors.rank(selector, spot.spot_id, spot.labels)
            if rank is None or rank >= best_rank:
                continue
            best, best_rank = spot.spot_id, rank
            if rank == 0:
                if spread:
                    self._cursor = place + 1
                break
        return best

    def _dealt(self, ranked: Sequence[tuple[int, int, Spot]], amounts: Amounts, count: int) -> list[tuple[str, int]]:
        """Deal units one by one round the nodes, starting where the last round ended."""
        start = self._cursor % len(self.open_spots())  # a place among all of them: who is full now keeps its turn
        order = sorted(ranked, key=lambda one: one[1] < start)
        room = {spot.spot_id: how_many(amounts, spot.free, count) for _, _, spot in order}
        places = {spot.spot_id: place for _, place, spot in order}
        given = dict.fromkeys(room, 0)
        while count > 0 and any(given[node] < room[node] for node in room):
            for node in room:
                if count > 0 and given[node] < room[node]:
                    given[node] += 1
                    count -= 1
                    self._cursor = places[node] + 1
        return [(node, units) for node, units in given.items() if units]

    def _window(self, spots: Sequence[Spot], bundles: Sequence[Bundle], most: int) -> list[Spot]:
        found: list[Spot] = []
        shapes = {shape_key(bundle.amounts): bundle for bundle in bundles}.values()
        for spot in spots:
            if any(fits(bundle.amounts, spot.free) for bundle in shapes):
                found.append(spot)
                if len(found) >= most:
                    break
        return found

    def _rank(self, selector: Selector, node: str) -> int | None:
        return selectors.rank(selector, node, self._spots[node].labels)

    def _change(self, node: str, spot: Spot, amounts: Mapping[str, int], sign: int) -> None:
        free = dict(spot.free)
        has_grown = False
        for name, amount in amounts.items():
            free[name] = free.get(name, 0) + sign * amount
            has_grown = has_grown or sign * amount > 0
        spot.free = free
        if has_grown:
            self._grew(node)

    def _refresh(self, node: str, spot: Spot) -> None:
        free = self._reported[node]
        for hold in self._holds[node].values():
            free = minus(free, hold.amounts)
        before = spot.free
        spot.free = free
        for name, amount in free.items():
            if amount > before.get(name, 0):
                self._grew(node)
                return
        # A name may also have left a negative value behind.
        if any(amount < 0 and name not in free for name, amount in before.items()):
            self._grew(node)

    def _grew(self, node: str) -> None:
        if node not in self._closed:
            self._growth += 1
            self.grown.add(node)


def total_of(bundles: Iterable[Bundle]) -> Amounts:
    """Return what bundles need together."""
    found: Amounts = {}
    for bundle in bundles:
        for name, amount in bundle.amounts.items():
            found[name] = found.get(name, 0) + amount
    return found
