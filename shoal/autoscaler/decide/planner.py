"""The planner: what to do next, ever better, as a pure function of what is known.

`improve` yields plans. The first needs no solver and is complete: every demand is served by a step, placed on what
is there, or answered with a reason. Each later one costs a fixed amount of work, never of time, and is never worse;
where a step found nothing better, the same plan comes again with its effort counted up. The same snapshot, policy,
seed and number of plans pulled give the same plan, to the byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from shoal.autoscaler.decide.bound import lower_bound, resource_bound
from shoal.autoscaler.decide.buying import FIRST, Basket, Market, Packer, first_basket, spend
from shoal.autoscaler.decide.coarse import SHAPES_MOST, quantised, refilled
from shoal.autoscaler.decide.draft import WORK, Draft, Lack
from shoal.autoscaler.decide.drafting import drafted
from shoal.autoscaler.decide.filling import Bin, Load, undominated
from shoal.autoscaler.decide.repack import repack
from shoal.autoscaler.decide.surplus import Surplus, surplus
from shoal.autoscaler.decide.unmet import unmet
from shoal.autoscaler.decide.wares import Ware
from shoal.foundation.amounts import minus, times, total
from shoal.foundation.ids import instance_id
from shoal.model.offer import MICRO, OfferKey
from shoal.model.plan import Buy, Placed, Plan, Step, Unmet, Verdict
from shoal.model.policy import Policy
from shoal.model.snapshot import Snapshot


class Machines(msgspec.Struct, frozen=True):
    """`copies` machines to be bought that are alike in everything."""

    ware: Ware
    gang: str
    why: str
    content: dict[str, int]
    copies: int
    promised: dict[str, int] = {}


def improve(snapshot: Snapshot, policy: Policy, seed: int) -> Iterator[Plan]:
    """Yield ever better plans; stop pulling when the time for thinking is over. There is at least one.

    `Plan.effort` counts the steps of work done so far. Ties are decided by name.
    """
    if not snapshot.is_listed:
        yield _waiting_plan(snapshot)
        return
    draft = drafted(snapshot, policy)
    if (draft.wants or draft.lacks) and (unused := draft.unused_wishes):
        draft = drafted(snapshot, policy, unused)
    repack(draft)
    gone = surplus(draft)
    market = Market(draft.wants, draft.wares)
    counts = [want.count for want in draft.wants]
    basket = first_basket(market, counts, draft.room)
    bound = proven_bound(draft, market, basket)
    plan = written(draft, gone, basket, effort=0, bound_micro=bound)
    yield plan
    if sum(item.copies for item in basket.items) < 2:
        return  # one machine, and the first plan already chose the cheapest that holds it all

    # numpy and the solver are loaded only here: the first plan of a process does not wait for them.
    from shoal.autoscaler.decide.search import search

    values = market.values(counts, draft.room)
    wanted = [count - left for count, left in zip(counts, basket.left, strict=True)]
    problem, _ = market.problem(wanted, draft.room, fee=basket.fee)
    coarse, members = quantised(problem) if sum(map(bool, wanted)) > SHAPES_MOST else (problem, None)
    for effort, (loads, tighter) in enumerate(search(coarse, FIRST(coarse), seed), start=1):
        is_new = False
        if tighter is not None and bound is not None and members is None and not basket.fee and draft.is_bare:
            tighter_micro = _without_odds(draft, int(tighter))
            is_new = tighter_micro > bound
            bound = max(bound, tighter_micro)
        if loads is not None:
            exact = loads if members is None else refilled(problem, members, loads)
            better = spend(market, counts, draft.room, _always(exact), fee=basket.fee)
            if better.is_better_than(basket, values):
                basket, is_new = better, True
        if is_new:
            plan = written(draft, gone, basket, effort=effort, bound_micro=bound)
        else:
            plan = msgspec.structs.replace(plan, effort=effort)
        yield plan


def _always(loads: list[Load]) -> Packer:
    """Return a packer that has its answer already."""
    return lambda problem: loads


def proven_bound(draft: Draft, market: Market, basket: Basket) -> int | None:
    """Return what serving the same demand must cost at least, in micro-dollars per hour; None where nothing is known.

    Counts all that the plan serves by buying against all that is free or could be taken back: whoever shares that
    room out differently still buys at least this much.
    """
    if any(item.ware.price_micro is None for item in basket.items):
        return None
    bought = [stand for stand in draft.stands if stand.ware is not None]
    if any(stand.ware is not None and stand.ware.price_micro is None for stand in bought):
        return None
    served = [want.count - left for want, left in zip(draft.wants, basket.left, strict=True)]
    if not bought and not any(served):
        return 0
    problem, _ = market.problem(served, draft.room)
    useful = undominated(problem.bins)
    if draft.is_bare:
        return _without_odds(draft, lower_bound(problem, useful))
    # Room that is there may be shared out differently, so only totals count: all that is served, less all room.
    needed = total(
        [
            *(times(want.amounts, count) for want, count in zip(draft.wants, served, strict=True)),
            *(minus(stand.total, stand.spot.free) for stand in bought),
        ]
    )
    if not needed:
        return 0
    there = dict.fromkeys(needed, 0)
    for stand in draft.stands:
        if stand.ware is None:
            free = stand.spot.free
            for name in there:
                if (amount := free.get(name, 0)) > 0:
                    there[name] += amount
    names = sorted(needed)
    totals = [max(0, needed[name] - there.get(name, 0)) for name in names]
    bins = [
        Bin(tuple(ware.resources.get(name, 0) for name in names), ware.expected_micro)
        for ware in draft.wares
        if not ware.word
    ]
    useful_bins = [bins[one] for one in undominated(bins)]
    return _without_odds(draft, resource_bound(totals, useful_bins))


def _without_odds(draft: Draft, expected_micro: int) -> int:
    """Return a bound on list prices from one on expected prices, which also count launches that fail."""
    least = min(
        (
            ware.price_micro / ware.expected_micro
            for ware in draft.wares
            if not ware.word and ware.price_micro is not None and ware.expected_micro > ware.price_micro
        ),
        default=1.0,
    )
    return expected_micro if least >= 1.0 else int(expected_micro * least * (1 - 1e-9))


def written(draft: Draft, gone: Surplus, basket: Basket, *, effort: int, bound_micro: int | None = None) -> Plan:
    """Return the plan: every new machine named, every demand placed or answered."""
    machines: list[Machines] = []
    placed: list[Placed] = []
    for stand in draft.stands:
        if stand.ware is not None:
            why = "" if stand.used.startswith(WORK) else stand.used
            machines.append(Machines(stand.ware, stand.gang, why, dict(stand.placed), 1, stand.promised))
        elif stand.placed:
            placed.extend(
                Placed(demand=key, instance_id=stand.name, count=count) for key, count in sorted(stand.placed.items())
            )
    for item in basket.items:
        content: dict[str, int] = {}
        for number, count in item.content:
            key = draft.wants[number].key
            content[key] = content.get(key, 0) + count
        machines.append(Machines(item.ware, "", "", content, item.copies))

    buys, named, serial = _buys(draft, machines)
    placed.extend(named)
    lacks = [
        *draft.lacks,
        *(
            Lack(
                demand=want.key,
                kind="class",
                amounts=want.amounts,
                count=left,
                selector=want.selector,
                jobs=draft.jobs.get(want.key, ()),
            )
            for want, left in zip(draft.wants, basket.left, strict=True)
            if left
        ),
    ]
    steps: tuple[Step, ...] = (*buys, *gone.steps)
    return Plan(
        steps=steps,
        unmet=tuple(unmet(draft, lack, basket.room) for lack in lacks),
        placed=tuple(placed),
        kept=tuple(gone.kept),
        frozen=gone.frozen,
        cost_micro=sum((buy.price_micro or 0) * len(buy.instance_ids) for buy in buys),
        bound_micro=bound_micro,
        effort=effort,
        version=(draft.snapshot.work.epoch, draft.snapshot.work.version),
        serial_next=serial,
    )


def _buys(draft: Draft, machines: Sequence[Machines]) -> tuple[list[Buy], list[Placed], int]:
    """Return one launch per node type, offer and gang; ids are given in the order of the launches."""
    grouped: dict[tuple[str, OfferKey, str], list[Machines]] = {}
    for some in machines:
        grouped.setdefault((some.ware.node_type.name, some.ware.offer.key, some.gang), []).append(some)
    buys: list[Buy] = []
    placed: list[Placed] = []
    uid, serial = draft.snapshot.cluster_uid, draft.snapshot.serial_next
    for (_, _, gang), group in grouped.items():
        ware = group[0].ware
        ids: list[str] = []
        held: dict[str, int] = {}
        planned: list[dict[str, int]] = []
        for some in group:
            planned.extend([{**some.content, **some.promised}] * some.copies)
            fresh = [instance_id(uid, serial + number) for number in range(some.copies)]
            serial += some.copies
            ids.extend(fresh)
            for key, count in sorted(some.content.items()):
                placed.extend([Placed(demand=key, instance_id=name, count=count) for name in fresh])
                held[key] = held.get(key, 0) + count * some.copies
        reasons = sorted({some.why for some in group if some.why})
        buys.append(
            Buy(
                instance_ids=tuple(ids),
                node_type=ware.node_type.name,
                offer=ware.offer.key,
                why=_why(ware, len(ids), reasons, held),
                price_micro=ware.price_micro,
                gang=gang,
                hold_s=draft.policy.gang_hold_s if gang else None,
                count_min=len(ids) if gang else 1,
                is_probe=bool(ware.probe_scopes),
                holds=tuple(sorted(held)),
                planned=tuple(planned),
            )
        )
    return buys, placed, serial


def _why(ware: Ware, count: int, reasons: Sequence[str], held: dict[str, int]) -> str:
    price = "$?" if ware.price_micro is None else f"${ware.price_micro / MICRO:.4g}"
    parts = [*reasons]
    if held:
        shown = sorted(held.items(), key=lambda pair: (-pair[1], pair[0]))
        text = ", ".join(f"{number} x {key}" for key, number in shown[:4])
        parts.append(f"for {text}" + (f" and {len(shown) - 4} more" if len(shown) > 4 else ""))
    return f"{'; '.join(parts)} ({count} x {price}/h)"


def _waiting_plan(snapshot: Snapshot) -> Plan:
    """Return the plan before every provider was listed once: nothing is bought, and everything says why."""
    why = "the first complete listing of the providers is still under way"
    found = [
        Unmet(
            demand=one.key,
            kind="class",
            amounts=one.amounts,
            count=one.waiting,
            verdict=Verdict.BLOCKED,
            why=why,
            jobs=one.jobs,
        )
        for one in snapshot.work.classes
        if one.waiting
    ]
    found += [
        Unmet(demand=one.gang_id, kind="gang", amounts={}, count=len(one.bundles), verdict=Verdict.BLOCKED, why=why)
        for one in snapshot.work.gangs
    ]
    found += [
        Unmet(demand=one.owner, kind="standing", amounts={}, count=len(one.bundles), verdict=Verdict.BLOCKED, why=why)
        for one in snapshot.work.standing
    ]
    return Plan(
        unmet=tuple(found),
        version=(snapshot.work.epoch, snapshot.work.version),
        serial_next=snapshot.serial_next,
    )


__all__ = ["improve", "written"]
