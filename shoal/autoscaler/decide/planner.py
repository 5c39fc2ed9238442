"""The planner: what to do next, ever better, as a pure function of what is known.

`improve` yields plans. The first needs no solver and is complete: every demand is served by a step, placed on what
is there, or answered with a reason. Each later one costs a fixed amount of work, never of time, and is yielded only
if it is better. The same snapshot, policy, seed and number of plans pulled give the same plan, to the byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shoal.autoscaler.decide.buying import Basket, Market, first_basket
from shoal.autoscaler.decide.draft import Draft, Lack
from shoal.autoscaler.decide.surplus import Surplus, surplus
from shoal.autoscaler.decide.unmet import unmet
from shoal.autoscaler.decide.wares import Ware
from shoal.foundation.ids import instance_id
from shoal.model.offer import MICRO
from shoal.model.plan import Buy, Placed, Plan, Step, Unmet, Verdict
from shoal.model.policy import Policy
from shoal.model.snapshot import Snapshot


def improve(snapshot: Snapshot, policy: Policy, seed: int) -> Iterator[Plan]:
    """Yield ever better plans; stop pulling when the time for thinking is over. There is at least one.

    `Plan.effort` counts the steps of work done so far. Ties are decided by name.
    """
    if not snapshot.is_listed:
        yield _waiting_plan(snapshot)
        return
    draft = Draft(snapshot, policy)
    gone = surplus(draft)
    market = Market(draft.wants, draft.wares)
    counts = [want.count for want in draft.wants]
    basket = first_basket(market, counts, draft.room)
    yield written(draft, gone, basket, effort=0)


def written(draft: Draft, gone: Surplus, basket: Basket, *, effort: int, bound_micro: int | None = None) -> Plan:
    """Return the plan: every new machine named, every demand placed or answered."""
    machines: list[tuple[Ware, str, str, dict[str, int]]] = []
    placed: list[Placed] = []
    for stand in draft.stands:
        if stand.ware is not None:
            machines.append((stand.ware, stand.gang, "" if stand.placed else stand.used, dict(stand.placed)))
            if stand.placed and not stand.used.startswith("work of"):
                machines[-1] = (stand.ware, stand.gang, stand.used, dict(stand.placed))
        else:
            placed.extend(
                Placed(demand=key, instance_id=stand.name, count=count) for key, count in sorted(stand.placed.items())
            )
    for item in basket.items:
        content: dict[str, int] = {}
        for number, count in item.content:
            key = draft.wants[number].key
            content[key] = content.get(key, 0) + count
        machines.extend((item.ware, "", "", content) for _ in range(item.copies))

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
                jobs=draft.jobs_of(want.key),
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
        cost_micro=sum((buy.price_micro or 0) * len(buy.instance_ids) for buy in buys),
        bound_micro=bound_micro,
        effort=effort,
        version=(draft.snapshot.work.epoch, draft.snapshot.work.version),
        serial_next=serial,
    )


def _buys(
    draft: Draft, machines: Sequence[tuple[Ware, str, str, dict[str, int]]]
) -> tuple[list[Buy], list[Placed], int]:
    """Return one launch per node type, offer and gang; ids are given in the order of the launches."""
    grouped: dict[tuple[str, str, str], list[tuple[Ware, str, str, dict[str, int]]]] = {}
    for machine in machines:
        grouped.setdefault((machine[0].node_type.name, str(machine[0].offer.key), machine[1]), []).append(machine)
    buys: list[Buy] = []
    placed: list[Placed] = []
    serial = draft.snapshot.serial_next
    for (_, _, gang), group in grouped.items():
        ware = group[0][0]
        ids = tuple(instance_id(draft.snapshot.cluster_uid, serial + number) for number in range(len(group)))
        serial += len(group)
        held: dict[str, int] = {}
        for name, (_, _, _, content) in zip(ids, group, strict=True):
            for key, count in sorted(content.items()):
                placed.append(Placed(demand=key, instance_id=name, count=count))
                held[key] = held.get(key, 0) + count
        reasons = sorted({why for _, _, why, _ in group if why})
        buys.append(
            Buy(
                instance_ids=ids,
                node_type=ware.node_type.name,
                offer=ware.offer.key,
                why=_why(ware, len(group), reasons, held),
                price_micro=ware.price_micro,
                gang=gang,
                hold_s=draft.policy.gang_hold_s if gang else None,
                count_min=len(ids) if gang else 1,
                is_probe=bool(ware.probe_scope),
                holds=tuple(sorted(held)),
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
