"""Why demand is not served: a verdict, and a true reason for every offer.

*Infeasible*: nothing that the configuration allows could ever hold it. *Blocked*: something could, and a limit, a
budget, a quota or a sick offer is in the way. *Deferred*: what is there will do it soon enough.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shoal.autoscaler.decide.buying import Want, admits
from shoal.autoscaler.decide.draft import Draft, Lack
from shoal.autoscaler.decide.room import Room
from shoal.autoscaler.decide.wares import Ware, offers_for
from shoal.foundation.amounts import Amounts, shown
from shoal.model.demand import Bundle, Selector
from shoal.model.plan import OfferReason, Unmet, Verdict
from shoal.placement import selectors
from shoal.placement.fits import fits

REASONS_MOST = 200
NEVER = frozenset({"too-small", "label", "arch"})
"""Words that no passing of time changes."""


def unmet(draft: Draft, lack: Lack, room: Room) -> Unmet:
    """Return the answer to one demand that no step serves.

    Its reasons are as of the room that the plan leaves; those of a gang as of the room in which it failed.
    """
    room = lack.room or room
    parts = lack.parts or (Bundle(amounts=lack.amounts, selector=lack.selector),)
    if lack.verdict is Verdict.DEFERRED:
        return _answer(lack, Verdict.DEFERRED, lack.why, ())
    if lack.kind == "min_workers":
        reasons = _collapsed([_ware_reason(ware, room) for ware in draft.wares if ware.node_type.name == lack.demand])
        verdict = Verdict.BLOCKED if reasons else Verdict.INFEASIBLE
        return _answer(lack, verdict, lack.why, reasons)
    worst: tuple[int, Verdict, list[tuple[Ware, str, str]], list[OfferReason], Bundle] | None = None
    for part in _distinct(parts):
        want = Want(key=lack.demand, amounts=part.amounts, selector=part.selector, count=1, topology=lack.topology)
        found = [(ware, *why_not(want, ware, room)) for ware in draft.wares]
        nodes = _full_nodes(draft, part)
        can = nodes or any(word not in NEVER and not _is_closed(ware) for ware, word, _ in found)
        verdict = Verdict.BLOCKED if can else Verdict.INFEASIBLE
        # Of a gang, the member that can never be held speaks first, then one that finds nothing now.
        ease = 2 if any(word == "price-dominated" for _, word, _ in found) else 1
        if worst is None or (ease := ease if can else 0) < worst[0]:
            worst = (ease if can else 0, verdict, found, nodes, part)
    assert worst is not None, "there is at least one part"
    _, verdict, found, nodes, part = worst
    reasons = (*nodes, *_collapsed([*found, *_other_arches(draft, part)]))
    why = _sentence(lack, verdict, part, found, nodes)
    return _answer(lack, verdict, why, reasons)


def why_not(want: Want, ware: Ware, room: Room) -> tuple[str, str]:
    """Return the word and detail of why the ware does not serve one more unit now; what can never change comes first.

    Where nothing stands against it the word is `price-dominated`: a cheaper one serves.
    """
    for name, amount in sorted(want.amounts.items()):
        there = ware.resources.get(name, 0)
        if amount > there:
            return "too-small", f"needs {shown({name: amount})}, has {shown({name: there}) if there else 'none'}"
    if not admits(want, ware):
        if want.topology and ware.offer.topology != want.topology:
            return "label", f"topology is `{ware.offer.topology}`, not `{want.topology}`"
        return "label", _label_detail(want.selector, ware)
    count, word, detail = room.holds(ware, 1)
    if not count:
        return word, detail
    return "price-dominated", "a cheaper offer serves it"


def reasons_for(draft: Draft, want: Want) -> tuple[OfferReason, ...]:
    """Return what speaks against each offer for one unit; the cheapest that serves it is left out."""
    found = [(ware, *why_not(want, ware, draft.room)) for ware in draft.wares]
    serving = next((at for at, (_, word, _) in enumerate(found) if word == "price-dominated"), None)
    if serving is not None:
        del found[serving]
    return _collapsed(found)


def _other_arches(draft: Draft, part: Bundle) -> list[tuple[Ware, str, str]]:
    """Return the offers that would be large enough and are of an architecture that their node type does not take."""
    found: list[tuple[Ware, str, str]] = []
    for kind in draft.policy.node_types:
        if kind.need is None or not kind.need.arch:
            continue
        any_arch = msgspec.structs.replace(kind, need=msgspec.structs.replace(kind.need, arch=""))
        for offer in offers_for(any_arch, draft.snapshot.offers):
            if offer.arch != kind.need.arch and fits(part.amounts, kind.on(offer.resources)):
                ware = Ware(
                    node_type=kind,
                    offer=offer,
                    resources=offer.resources,
                    labels={},
                    price_micro=offer.price_micro,
                    expected_micro=0,
                )
                found.append((ware, "arch", f"it is {offer.arch}, `{kind.name}` takes {kind.need.arch}"))
    return found


def _ware_reason(ware: Ware, room: Room) -> tuple[Ware, str, str]:
    count, word, detail = room.holds(ware, 1)
    return (ware, word, detail) if not count else (ware, "price-dominated", "a cheaper offer serves it")


def _label_detail(selector: Selector, ware: Ware) -> str:
    if selector.node_ids and not selector.is_soft_node:
        return f"only nodes {', '.join(selector.node_ids[:3])} may run it"
    for name, term in sorted(selector.hard.items()):
        value = ware.labels.get(name)
        if not selectors.matches(term, value):
            return f"`{name}` is {'missing' if value is None else f'`{value}`'}, wanted `{term}`"
    return "no label selector matches"


def _is_closed(ware: Ware) -> bool:
    """Say whether the configuration itself never allows a machine of the type."""
    return ware.node_type.max_workers <= 0


def _full_nodes(draft: Draft, part: Bundle) -> list[OfferReason]:
    """Return the nodes that could hold it were they empty."""
    found: list[OfferReason] = []
    for stand in draft.stands:
        if stand.ware is not None or not fits(part.amounts, stand.total):
            continue
        if part.selector and not selectors.admits(part.selector, stand.spot.spot_id, stand.spot.labels):
            continue
        if len(found) >= 20:
            break
        detail = f"{stand.node_type or 'node'}: {shown(stand.spot.free)} free"
        if stand.held_for:
            detail = f"held for gang {stand.held_for}"
        found.append(OfferReason(offer=stand.name, word="full", detail=detail))
    return found


def _collapsed(found: Sequence[tuple[Ware, str, str]]) -> tuple[OfferReason, ...]:
    """Return a reason per ware; wares that differ in their zone or region only, with the same reason, are joined."""
    joined: dict[tuple[str, str, str, str, str, str], list[Ware]] = {}
    for ware, word, detail in found:
        key = ware.offer.key
        joined.setdefault((ware.node_type.name, key.provider, key.machine_type, key.market, word, detail), []).append(
            ware
        )
    reasons: list[OfferReason] = []
    for (_, provider, machine_type, market, word, detail), group in joined.items():
        regions = {ware.offer.key.region for ware in group}
        zones = {ware.offer.key.zone for ware in group}
        region = next(iter(regions)) if len(regions) == 1 else "*"
        zone = next(iter(zones)) if len(zones) == 1 else "*"
        reasons.append(
            OfferReason(offer=f"{provider}/{region}/{zone}/{machine_type}/{market}", word=word, detail=detail)
        )
    if len(reasons) <= REASONS_MOST:
        return tuple(reasons)
    # What is in the way of offers that fit says more than another thousand that are too small.
    reasons.sort(key=lambda reason: reason.word in NEVER)
    rest = len(reasons) - REASONS_MOST
    more = OfferReason(offer="*", word=reasons[REASONS_MOST].word, detail=f"and {rest} more offers like this")
    return (*reasons[:REASONS_MOST], more)


def _sentence(
    lack: Lack,
    verdict: Verdict,
    part: Bundle,
    found: Sequence[tuple[Ware, str, str]],
    nodes: Sequence[OfferReason],
) -> str:
    said = f"{lack.why}: " if lack.why else ""
    if verdict is Verdict.INFEASIBLE:
        if not found:
            return said + "no offer of any node type is known"
        words = {word for _, word, _ in found}
        if words == {"too-small"}:
            return said + f"{shown(part.amounts)} is more than any machine has{_nearest(part.amounts, found)}"
        if "label" in words and words <= {"label", "too-small"}:
            return said + "no machine that is large enough has the labels it asks for"
        return said + "no node type may ever hold it"
    fitting = [(word, detail) for ware, word, detail in found if word not in NEVER and not _is_closed(ware)]
    if not fitting:
        return said + (f"the nodes that could hold it are full ({len(nodes)})" if nodes else "nothing may hold it now")
    counts: dict[str, int] = {}
    for word, _ in fitting:
        counts[word] = counts.get(word, 0) + 1
    word = min(counts, key=lambda it: (-counts[it], it))
    detail = next(detail for its, detail in fitting if its == word)
    if word == "price-dominated":
        return said + "not all of it fits within the limits"
    return said + f"{word}: {detail}"


def _nearest(amounts: Amounts, found: Sequence[tuple[Ware, str, str]]) -> str:
    """Return the most that any machine has of the first resource that is too small everywhere."""
    for name in sorted(amounts):
        most = max(ware.resources.get(name, 0) for ware, _, _ in found)
        if most < amounts[name]:
            return f" (most {name}: {_size(name, most)})" if most else f" (none has {name})"
    return ""


def _size(name: str, amount: int) -> str:
    """Return an amount as people write it, without its name where that would stand twice."""
    return shown({name: amount}).removesuffix(f" {name}")


def _distinct(parts: Sequence[Bundle]) -> list[Bundle]:
    found: list[Bundle] = []
    for part in parts:
        if part not in found:
            found.append(part)
    return found


def _answer(lack: Lack, verdict: Verdict, why: str, reasons: tuple[OfferReason, ...]) -> Unmet:
    return Unmet(
        demand=lack.demand,
        kind=lack.kind,
        amounts=lack.amounts,
        count=lack.count,
        verdict=verdict,
        why=why,
        reasons=reasons,
        jobs=lack.jobs,
    )
