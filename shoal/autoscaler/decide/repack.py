"""Moving work from N nodes to M cheaper ones: a policy, off by default, because moving restarts tasks.

A node's work counts as one lump that must fit on one machine: which tasks it is made of is not known here, so a move
that looks possible is possible. The worst nodes by value for money are tried, more and more of them at once. A move
pays only if it saves a share and an amount, and more within the horizon than restarting costs. New machines come
first; nodes are drained (until a deadline) only when all room for their work is ready. Actors, drivers and reserved
groups do not move.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shoal.autoscaler.decide.buying import Basket, Market, Want, first_basket
from shoal.autoscaler.decide.draft import Draft
from shoal.autoscaler.decide.stands import Rank, Stand
from shoal.foundation.amounts import Amounts, minus
from shoal.model.demand import ANYWHERE
from shoal.model.instance import State
from shoal.model.offer import MICRO
from shoal.model.plan import Drain
from shoal.model.policy import Deadlines
from shoal.placement.fits import Spot, fits, take

MOVABLE = frozenset({"lease", "object"})
WHY = "room for repacked work"


class Move(msgspec.Struct):
    """Nodes to be emptied, where their work goes, and the machines to be bought for it."""

    leaving: list[Stand]
    targets: list[Stand]
    basket: Basket | None
    saved_micro: int


def repack(draft: Draft) -> None:
    """Add the best move that pays to the draft, if any: new machines first, drains once all room is ready."""
    rules = draft.policy.repack
    if (
        not rules.is_on
        or draft.calm
        or draft.wants
        or draft.forced
        or any(lack.verdict is None for lack in draft.lacks)
    ):
        return
    ready = [stand for stand in draft.stands if stand.rank in (Rank.READY_BUSY, Rank.READY_IDLE) and stand.instance]
    draining = sum(
        1 for one in draft.snapshot.instances if one.state is State.DRAINING and one.drain_deadline_s is not None
    )
    most = max(1, int(rules.disrupted_nodes_max * len(ready))) - draining
    movable = sorted((stand for stand in ready if _is_movable(draft, stand)), key=_value_for_money)
    is_under_way = any(
        stand.rank is Rank.COMING and stand.instance is not None and stand.instance.why.startswith(WHY)
        for stand in draft.stands
    )
    best: Move | None = None
    for count in range(1, min(most, len(movable)) + 1):
        move = _move(draft, movable[:count])
        if move is not None and is_under_way and move.basket is not None:
            continue  # one move at a time: what was bought for the last one has not joined yet
        if move is not None and (best is None or move.saved_micro > best.saved_micro):
            best = move
    if best is None:
        return
    for target in best.targets:
        target.used = target.used or WHY
    if best.basket is not None:
        draft.room = best.basket.room
        for item in best.basket.items:
            for _ in range(item.copies):
                draft.add_machine(item.ware, f"{WHY}: saves ${best.saved_micro / MICRO:.3f}/h")
        for stand in best.leaving:
            stand.used = stand.used or "its work moves once the machines for it are ready"
        return
    if any(target.rank not in (Rank.READY_BUSY, Rank.READY_IDLE) for target in best.targets):
        for stand in best.leaving:
            stand.used = stand.used or "its work moves once the machines for it are ready"
        return
    for stand in best.leaving:
        assert stand.instance is not None, "only instances of ours move"
        kind = draft.policy.node_type(stand.node_type)
        draft.moves[stand.name] = Drain(
            instance_id=stand.name,
            why=f"repack: its work fits elsewhere, saves ${best.saved_micro / MICRO:.3f}/h",
            deadline_s=(kind.deadlines if kind else Deadlines()).draining_s,
        )


def _move(draft: Draft, leaving: Sequence[Stand]) -> Move | None:
    """Return the move that empties exactly these nodes, None if it is impossible or does not pay."""
    rules = draft.policy.repack
    gone = {stand.name for stand in leaving}
    others = [
        stand
        for stand in draft.stands
        if stand.name not in gone
        and not stand.held_for
        and stand.rank in (Rank.READY_BUSY, Rank.READY_IDLE, Rank.COMING)
    ]
    others.sort(key=lambda stand: (stand.rank, stand.name))
    free = {stand.name: Spot(spot_id=stand.name, free=stand.spot.free) for stand in others}
    targets: list[Stand] = []
    lumps: list[Amounts] = []
    for stand in sorted(leaving, key=lambda one: (-sum(_lump(one).values()), one.name)):
        lump = _lump(stand)
        place = next((other for other in others if fits(lump, free[other.name].free)), None)
        if place is None:
            lumps.append(lump)
        else:
            take(free[place.name], lump)
            targets.append(place)
    price = sum((stand.instance.price_micro or 0) for stand in leaving if stand.instance)
    basket: Basket | None = None
    if lumps:
        wants = [
            Want(key=f"lump{number}", amounts=lump, selector=ANYWHERE, count=1) for number, lump in enumerate(lumps)
        ]
        basket = first_basket(Market(wants, draft.wares), [1] * len(wants), draft.room)
        if any(basket.left) or any(item.ware.price_micro is None for item in basket.items):
            return None
    fresh = sum((item.ware.price_micro or 0) * item.copies for item in basket.items) if basket else 0
    saved = price - fresh
    restart = price * rules.restart_cost_s
    if saved < rules.saving_least * price or saved < rules.saving_least_usd_per_h * MICRO:
        return None
    if saved * rules.horizon_s <= restart:
        return None
    return Move(list(leaving), targets, basket, saved)


def _is_movable(draft: Draft, stand: Stand) -> bool:
    node, instance = stand.node, stand.instance
    if node is None or instance is None or node.is_head or node.is_missing or stand.held_for or stand.used:
        return False
    if not instance.price_micro or any(one.what not in MOVABLE for one in node.busy):
        return False
    kind = draft.policy.node_type(instance.node_type)
    up_s = draft.snapshot.now_s - (instance.ready_s or instance.created_s)
    if kind is None or up_s < kind.min_up_s:
        return False
    serving = sum(1 for other in draft.stands if other.node_type == kind.name and other.rank <= Rank.COMING)
    return serving > kind.min_workers and node.idle_s is None


def _lump(stand: Stand) -> Amounts:
    return {name: amount for name, amount in minus(stand.total, stand.spot.free).items() if amount > 0}


def _value_for_money(stand: Stand) -> tuple[float, str]:
    """Order nodes by how much of them is used for their price, worst first."""
    used = max(
        (1 - stand.spot.free.get(name, 0) / amount for name, amount in stand.total.items() if amount), default=0.0
    )
    price = stand.instance.price_micro or 1 if stand.instance else 1
    return used / price, stand.name
