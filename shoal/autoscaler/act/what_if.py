"""`shoal plan`: what would be bought, by the planner that would buy it.

For a written demand nothing is there and nothing is asked of a cloud: the offers are given, the snapshot holds only
demand. For a live cluster the snapshot is what its head and autoscaler say. docs/plan.md describes the answer's shape.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from shoal.autoscaler.decide.planner import improve
from shoal.autoscaler.decide.unmet import NEVER
from shoal.config.demand_csv import LABEL_ACCELERATOR, DemandRow, class_shape, demand_of
from shoal.foundation.amounts import UNIT, Amounts, shown, times
from shoal.foundation.errors import BadInput
from shoal.model.demand import Gang
from shoal.model.offer import MICRO, Offer, OfferKey
from shoal.model.plan import Buy, Plan, Unmet
from shoal.model.policy import Policy
from shoal.model.snapshot import Snapshot, Work
from shoal.placement.fits import Spot, fits
from shoal.placement.gangs import place_gang
from shoal.providers.prices.catalogue import Catalogue
from shoal.providers.prices.market import Stall

CLUSTER_UID = "91a7" * 8
"""Ids of machines that were never bought all begin alike, and like those of no real cluster."""

GAP_GOOD = 0.001
"""Within this of the bound, more thought is not worth its wait."""

SERVES_ANY = "sim"
"""A simulated provider sells whatever an offer file lists."""


def suited(policy: Policy, kinds: Mapping[str, str], offers: Iterable[Offer], catalogue: Catalogue) -> Stall:
    """Return an offer file's rows as the policy's node types see them.

    `kinds` maps providers' names to their kind; a row may say either. Rows of a provider that the cluster file does
    not use are sold by the simulated one, in its own region, if there is one, else left out. An accelerator that the
    file leaves out is taken from the catalogue; a row counts as named where a node type names its machine type.

    Raises:
        BadInput: no row is of a provider that any node type uses.
    """
    names = list(dict.fromkeys(kind.provider for kind in policy.node_types))
    by_kind: dict[str, str] = {}
    for name in names:
        by_kind.setdefault(kinds.get(name, name), name)
    simulated = by_kind.get(SERVES_ANY, "")
    named = {(kind.provider, name) for kind in policy.node_types for name in kind.machine_types}
    found, foreign = [], set()
    written: dict[OfferKey, OfferKey] = {}
    for offer in offers:
        key = offer.key
        cloud = kinds.get(key.provider, key.provider)
        accelerator = offer.accelerator
        if "GPU" in offer.resources and not accelerator and (spec := catalogue.spec(cloud, key.machine_type)):
            accelerator = spec.gpu_model
        provider = key.provider if key.provider in names else by_kind.get(key.provider, "")
        if not provider:
            provider = simulated or (names[0] if len(names) == 1 and not key.provider else "")
        if not provider:
            foreign.add(key.provider)
            continue
        sold = msgspec.structs.replace(key, provider=provider)
        if provider == simulated:
            sold = _at_home(sold, policy)
        if sold != key:
            written[sold] = key
        is_named = (provider, key.machine_type) in named
        found.append(msgspec.structs.replace(offer, key=sold, accelerator=accelerator, is_named=is_named))
    if not found:
        raise BadInput(
            f"offers: expected some of provider {_words(names)}, got only {_words(foreign)}",
            hint="the column `provider` must name a provider that a node type of the cluster file uses",
        )
    return Stall(offers=tuple(found), written=written)


def at_listed_prices(policy: Policy, offers: Iterable[Offer]) -> Policy:
    """Return the policy without prices of its own where an offer file names every price: the file's hold."""
    if any(offer.price_usd_per_h is None for offer in offers):
        return policy
    kinds = tuple(msgspec.structs.replace(kind, price_usd_per_h=None) for kind in policy.node_types)
    return msgspec.structs.replace(policy, node_types=kinds)


def _at_home(key: OfferKey, policy: Policy) -> OfferKey:
    """Return the key moved into the simulated provider's region, where its node types look only there.

    The place it comes from becomes the zone, so that rows of several regions stay apart.
    """
    regions = [kind.regions for kind in policy.node_types if kind.provider == key.provider]
    allowed = [region for some in regions for region in some]
    if not allowed or not all(regions) or key.region in allowed:
        return key
    return msgspec.structs.replace(key, region=allowed[0], zone=key.zone or key.region)


def snapshot_of(rows: Sequence[DemandRow], offers: Sequence[Offer], policy: Policy) -> Snapshot:
    """Return a snapshot in which only this demand, these offers and a head without work exist."""
    classes, gangs = demand_of(rows)
    return Snapshot(
        now_s=0.0,
        cluster_uid=CLUSTER_UID,
        work=Work(classes=classes, gangs=gangs),
        offers=tuple(offers),
        committed_micro=policy.head_micro,
    )


def think(snapshot: Snapshot, policy: Policy, *, seed: int, think_s: float, effort_max: int | None = None) -> Plan:
    """Return the best plan found: after `effort_max` improvements if given (repeatable), else within `think_s`."""
    ended_s = time.monotonic() + think_s
    best: Plan | None = None
    for pulled, plan in enumerate(improve(snapshot, policy, seed), start=1):
        best = plan
        if effort_max is not None:
            if pulled >= effort_max:
                break
        elif (plan.gap is not None and plan.gap <= GAP_GOOD) or time.monotonic() >= ended_s:
            break
    assert best is not None, "improve yields at least one plan"
    return best


def answer(
    plan: Plan, snapshot: Snapshot, policy: Policy, rows: Sequence[DemandRow], *, seed: int, stall: Stall
) -> dict[str, Any]:
    """Return the plan as plain values, every machine with what is placed on it. Cost: about machines x classes."""
    offers = {offer.key: offer for offer in snapshot.offers}
    placed: dict[str, dict[str, int]] = {}
    for one in plan.placed:
        held = placed.setdefault(one.instance_id, {})
        held[one.demand] = held.get(one.demand, 0) + one.count
    resources = {
        name: offers[step.offer].resources for step in plan.steps if isinstance(step, Buy) for name in step.instance_ids
    }
    members = _gang_members(snapshot, rows, placed, resources)
    lines = _Lines(rows)
    machines = []
    for step in plan.steps:
        if not isinstance(step, Buy):
            continue
        key = stall.written.get(step.offer, step.offer)
        for name in step.instance_ids:
            machines.append(
                {
                    "id": name,
                    "node_type": step.node_type,
                    "provider": key.provider,
                    "region": key.region,
                    "zone": key.zone,
                    "type": key.machine_type,
                    "market": key.market,
                    "usd_per_h": None if step.price_micro is None else step.price_micro / MICRO,
                    **_sized(resources[name]),
                    "gpu_model": offers[step.offer].accelerator,
                    "placed": [
                        {
                            "demand": demand,
                            "count": count,
                            "lines": members.get((name, demand)) or lines.taken(demand, count),
                        }
                        for demand, count in sorted(placed.get(name, {}).items())
                    ],
                    "why": step.why,
                }
            )
    is_priced = all(machine["usd_per_h"] is not None for machine in machines)
    return {
        "cluster": policy.cluster_name,
        "is_served": not plan.unmet,
        "usd_per_h": plan.cost_micro / MICRO,
        "is_price_complete": is_priced,
        "lower_bound_usd_per_h": None if plan.bound_micro is None else plan.bound_micro / MICRO,
        "gap": plan.gap,
        "machines": machines,
        "there": [
            {"id": name, "placed": [{"demand": demand, "count": count} for demand, count in sorted(held.items())]}
            for name, held in sorted(placed.items())
            if name not in resources
        ],
        "other_steps": [
            {"step": type(step).__name__.lower(), "id": step.instance_id, "why": step.why}
            for step in plan.steps
            if not isinstance(step, Buy)
        ],
        "unmet": [_unmet(one) for one in plan.unmet],
        "demand": [_demand(row) for row in rows],
        "notes": list(stall.notes),
        "seed": seed,
        "effort": plan.effort,
    }


def table_rows(said: dict[str, Any]) -> list[dict[str, Any]]:
    """Return an answer's machines as rows for people: equal machines with equal content in one row."""
    grouped: dict[tuple[Any, ...], dict[str, Any]] = {}
    for machine in said["machines"]:
        content = ", ".join(f"{one['count']} x {one['demand']}" for one in machine["placed"]) or machine["why"]
        names = ("node_type", "provider", "region", "zone", "type", "market", "usd_per_h")
        row = {name: machine[name] for name in names}
        key = (*row.values(), content)
        there = grouped.setdefault(key, {"count": 0, **row, "placed": content})
        there["count"] += 1
    return [{**row, "usd_per_h": "$?" if row["usd_per_h"] is None else row["usd_per_h"]} for row in grouped.values()]


def words(said: dict[str, Any]) -> list[str]:
    """Return what an answer says beside its table, a line each."""
    unknown = "" if said["is_price_complete"] else " and what the machines of unknown price cost"
    total = f"${said['usd_per_h']:.4f} per hour{unknown} for {len(said['machines'])} machines"
    if said["gap"] is not None:
        bound = said["lower_bound_usd_per_h"]
        total += f", at most {100 * said['gap']:.2f} % above the lower bound of ${bound:.4f}"
    lines = [total, *said["notes"]]
    lines += [f"{step['step']} {step['id']}: {step['why']}" for step in said["other_steps"]]
    for one in said["unmet"]:
        shape = f" ({one['shape']})" if one["kind"] != "min_workers" else " of `min_workers`"
        lines.append(f"unmet: {one['count']} x {one['demand']}{shape}: {one['verdict']}: {one['why']}")
        # What is in the way of offers that are large enough says more than those that never are.
        reasons = sorted(one["reasons"], key=lambda reason: reason["word"] in NEVER)
        lines += [f"  {reason['offer']}: {reason['word']} {reason['detail']}".rstrip() for reason in reasons[:5]]
        if len(reasons) > 5:
            lines.append(f"  and {len(reasons) - 5} more offers; `--format json` lists them")
    return lines


def _gang_members(
    snapshot: Snapshot,
    rows: Sequence[DemandRow],
    placed: dict[str, dict[str, int]],
    resources: dict[str, Amounts],
) -> dict[tuple[str, str], list[dict[str, int]]]:
    """Return which lines of each gang stand on which machine; a plan says only how many.

    Gangs share machines, so each takes what it needs from what classes and earlier gangs leave.
    """
    classes = {one.key: one.amounts for one in snapshot.work.classes}
    free = {name: dict(held) for name, held in resources.items()}
    for name, held in placed.items():
        for demand, count in held.items():
            if demand in classes and name in free:
                for resource, amount in times(classes[demand], count).items():
                    free[name][resource] = free[name].get(resource, 0) - amount
    lines: dict[str, list[int]] = {}
    for row in rows:
        if row.gang:
            lines.setdefault(row.gang, []).extend([row.line] * row.count)
    found: dict[tuple[str, str], list[dict[str, int]]] = {}
    for gang in snapshot.work.gangs:
        there = {name: held[gang.gang_id] for name, held in placed.items() if gang.gang_id in held}
        for bundle, name in enumerate(_spread_members(gang, there, free)):
            counted = found.setdefault((name, gang.gang_id), [])
            line = lines[gang.gang_id][bundle]
            if counted and counted[-1]["line"] == line:
                counted[-1]["count"] += 1
            else:
                counted.append({"line": line, "count": 1})
            for resource, amount in gang.bundles[bundle].amounts.items():
                free[name][resource] = free[name].get(resource, 0) - amount
    return found


def _spread_members(gang: Gang, there: dict[str, int], free: dict[str, Amounts]) -> list[str]:
    """Return the machine of each bundle, so that each machine has as many as the plan says; empty if not found."""
    slots = {name: count for name, count in there.items() if name in free}
    if sum(slots.values()) != len(gang.bundles):
        return []
    if len(slots) == len(gang.bundles):
        # One each: exact, by matching.
        spots = [Spot(spot_id=name, free=free[name]) for name in sorted(slots)]
        plain = [msgspec.structs.replace(bundle, selector=type(bundle.selector)()) for bundle in gang.bundles]
        return place_gang(plain, type(gang.strategy).STRICT_SPREAD, spots) or []
    left = {name: dict(free[name]) for name in slots}
    found = [""] * len(gang.bundles)
    order = sorted(range(len(gang.bundles)), key=lambda one: (-max(gang.bundles[one].amounts.values()), one))
    for one in order:
        wanted = gang.bundles[one].amounts
        able = [name for name in sorted(slots) if slots[name] and fits(wanted, left[name])]
        if not able:
            return []
        # The machine that needs big members most: the one with the most room for each that it still takes.
        name = max(able, key=lambda at: (sum(left[at].values()) / slots[at], at))
        found[one] = name
        slots[name] -= 1
        for resource, amount in wanted.items():
            left[name][resource] -= amount
    return found


class _Lines:
    """Which rows of the demand file the units of a class come from: rows of one shape are used up in their order."""

    def __init__(self, rows: Sequence[DemandRow]) -> None:
        first: dict[tuple[object, ...], str] = {}
        self._left: dict[str, collections.deque[list[int]]] = {}
        for row in rows:
            if not row.gang:
                key = first.setdefault(class_shape(row.amounts, row.selector), f"L{row.line}")
                self._left.setdefault(key, collections.deque()).append([row.line, row.count])

    def taken(self, demand: str, count: int) -> list[dict[str, int]]:
        """Return the next `count` units of a class as lines with counts; nothing for what is no class of the file."""
        found = []
        left = self._left.get(demand)
        while left and count:
            line, there = left[0]
            part = min(there, count)
            found.append({"line": line, "count": part})
            count -= part
            left[0][1] -= part
            if not left[0][1]:
                left.popleft()
        return found


def _sized(held: Amounts) -> dict[str, float]:
    return {
        "cpu": held.get("CPU", 0) / UNIT,
        "memory_gib": held.get("memory", 0) / UNIT / 2**30,
        "gpu": held.get("GPU", 0) / UNIT,
    }


def _unmet(one: Unmet) -> dict[str, Any]:
    return {
        "demand": one.demand,
        "kind": one.kind,
        "count": one.count,
        "shape": shown(one.amounts),
        "verdict": str(one.verdict),
        "why": one.why,
        "reasons": [{"offer": reason.offer, "word": reason.word, "detail": reason.detail} for reason in one.reasons],
    }


def _demand(row: DemandRow) -> dict[str, Any]:
    hard = dict(row.selector.hard)
    return {
        "line": row.line,
        **_sized(row.amounts),
        "gpu_model": hard.pop(LABEL_ACCELERATOR, ""),
        "count": row.count,
        "gang": row.gang,
        "strategy": str(row.strategy) if row.gang else "",
        "labels": hard,
    }


def _words(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names)) or "none"
