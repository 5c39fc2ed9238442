"""From leftover work to machines to buy: the packing problem of a snapshot, and what the limits let through.

`Market` turns work and wares into a `filling.Problem` (wares that hold the same and admit the same are one bin);
`spend` carries a packing out against the room that is left and says what stays unserved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from shoal.autoscaler.decide.coarse import coarsely
from shoal.autoscaler.decide.filling import Bin, Load, Problem, Sparse, first_packing, reservation_prices, undominated
from shoal.autoscaler.decide.room import Room
from shoal.autoscaler.decide.wares import Ware
from shoal.foundation.amounts import Amounts
from shoal.model.demand import Selector
from shoal.placement import selectors

Packer = Callable[[Problem], list[Load]]
FIRST: Packer = coarsely(first_packing)
"""The packer of the first plan, which needs no solver."""

WITHOUT_MOST = 4
"""How many offers a first plan that serves too little tries to do without, one at a time."""

ROUNDS_MOST = 50
"""How often a packing is made anew after a limit cut the last one short."""


class Want(msgspec.Struct, kw_only=True):
    """Work that is still to be placed: `count` units of one shape."""

    key: str
    amounts: Amounts
    selector: Selector
    count: int
    topology: str = ""


class Item(msgspec.Struct, frozen=True):
    """`copies` machines of a ware, each holding `content`: (want number, count) pairs."""

    ware: Ware
    content: tuple[tuple[int, int], ...]
    copies: int


class Basket(msgspec.Struct):
    """What a packing came to within the limits: machines, what is left unserved, and the room after it."""

    items: list[Item]
    left: list[int]
    expected_micro: int
    room: Room
    fee: int = 0
    is_short_of_machines: bool = False
    """Whether a limit on the number of machines stood in the way at least once."""

    def is_better_than(self, other: Basket, values: Sequence[float]) -> bool:
        """Say whether it serves work of more value, or as much for less."""
        mine = sum(count * value for count, value in zip(self.left, values, strict=True))
        theirs = sum(count * value for count, value in zip(other.left, values, strict=True))
        if abs(mine - theirs) > 1e-9 * max(1.0, mine, theirs):
            return mine < theirs
        return self.expected_micro < other.expected_micro


class Market:
    """The bins of one planning problem, and the wares behind each."""

    def __init__(self, wants: Sequence[Want], wares: Sequence[Ware]) -> None:
        self.wants = list(wants)
        self.names = sorted({name for want in wants for name in want.amounts})
        at = {name: place for place, name in enumerate(self.names)}
        self.shapes: list[Sparse] = [
            tuple((at[name], amount) for name, amount in sorted(want.amounts.items()) if amount) for want in wants
        ]
        self._groups: dict[tuple[tuple[int, ...], frozenset[int] | None], list[Ware]] = {}
        picky = [number for number, want in enumerate(wants) if want.selector or want.topology]
        everywhere = frozenset(range(len(wants))) - frozenset(picky)
        label_names = sorted(
            {
                name
                for number in picky
                for terms in (wants[number].selector.hard, *wants[number].selector.fallback)
                for name in terms
            }
        )
        admitted: dict[tuple[str | None, ...], frozenset[int]] = {}
        for ware in wares:
            if ware.word:
                continue
            capacity = tuple(ware.resources.get(name, 0) for name in self.names)
            allowed: frozenset[int] | None = None
            if picky:
                seen = (ware.offer.topology, *(ware.labels.get(name) for name in label_names))
                known = admitted.get(seen)
                if known is None:
                    known = everywhere | {number for number in picky if admits(wants[number], ware)}
                    admitted[seen] = known
                allowed = known
            self._groups.setdefault((capacity, allowed), []).append(ware)

    def problem(
        self, counts: Sequence[int], room: Room, *, fee: int = 0, without: Ware | None = None
    ) -> tuple[Problem, list[list[Ware]]]:
        """Return the packing problem with the wares that still have room; `fee` is added to each machine's price.

        A fee makes few large machines look better than many small ones: the way to go where machines are counted.
        """
        bins: list[Bin] = []
        behind: list[list[Ware]] = []
        for (capacity, allowed), group in self._groups.items():
            open_wares = [ware for ware in group if ware is not without and room.holds(ware, 1)[0]]
            if open_wares:
                bins.append(Bin(capacity, open_wares[0].expected_micro + fee, allowed))
                behind.append(open_wares)
        return Problem(len(self.names), self.shapes, list(counts), bins), behind

    def values(self, counts: Sequence[int], room: Room) -> list[float]:
        """Return what one unit of each want costs where it is held best; 0 where nothing holds it."""
        problem, _ = self.problem(counts, room)
        return [value or 0.0 for value in reservation_prices(problem, undominated(problem.bins))]


def admits(want: Want, ware: Ware) -> bool:
    """Say whether a machine of the ware may hold the work, by its labels and topology."""
    if want.topology and ware.offer.topology != want.topology:
        return False
    return not want.selector or selectors.admits(want.selector, "", ware.labels)


def spend(
    market: Market, counts: Sequence[int], room: Room, packer: Packer, *, fee: int = 0, without: Ware | None = None
) -> Basket:
    """Return what the packer's machines come to within the limits; what they leave is packed anew in the room left."""
    room = room.copy()
    left = list(counts)
    items: list[Item] = []
    expected = 0
    short = False
    for turn in range(ROUNDS_MOST):
        if not any(left):
            break
        problem, behind = market.problem(left, room, fee=fee, without=without)
        moved = cut = False
        for load in packer(problem) if turn == 0 else FIRST(problem):
            wanted = load.copies
            for ware in behind[load.bin]:
                count, word, _ = room.holds(ware, wanted)
                if count < wanted and word == "limit":
                    short = True
                if not count:
                    continue
                room.take(ware, count)
                items.append(Item(ware, load.content, count))
                expected += ware.expected_micro * count
                for number, each in load.content:
                    left[number] -= each * count
                wanted -= count
                moved = True
                if not wanted:
                    break
            cut = cut or wanted > 0
        if not moved or (not cut and (turn > 0 or packer is FIRST)):
            break
    return Basket(items, left, expected, room, fee, short)


def first_basket(market: Market, counts: Sequence[int], room: Room) -> Basket:
    """Return a good basket without any solver.

    Where machines are too few for all, larger ones are tried; where money, quotas or offers are, doing without each of
    the offers that were chosen first.
    """
    best = spend(market, counts, room, FIRST)
    if not any(best.left):
        return best
    values = market.values(counts, room)
    if best.is_short_of_machines:
        prices = sorted({item.ware.expected_micro for item in best.items}) or [1]
        for fee in fees(prices[-1]):
            other = spend(market, counts, room, FIRST, fee=fee)
            if other.is_better_than(best, values):
                best = other
            if not any(best.left):
                return best
    if any(left and value for left, value in zip(best.left, values, strict=True)):
        for ware in _chosen(best)[:WITHOUT_MOST]:
            other = spend(market, counts, room, FIRST, fee=best.fee, without=ware)
            if other.is_better_than(best, values):
                best = other
            if not any(best.left):
                return best
    return best


def _chosen(basket: Basket) -> list[Ware]:
    """Return the wares of a basket, each once, in the order in which they were chosen."""
    return list({(item.ware.node_type.name, item.ware.offer.key): item.ware for item in basket.items}.values())


def fees(price: int) -> tuple[int, ...]:
    """Return the fees per machine worth trying, in micro-dollars, from mild to prohibitive."""
    return (price // 4 + 1, price + 1, price * 4 + 1, price * 64 + 1)
