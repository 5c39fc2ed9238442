"""A plan's reasons in words for people: why something waits, why a node stays, and what would change it.

Pure: text comes out, nothing is printed. `shoal status` and `shoal explain` use it.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from shoal.autoscaler.decide.buying import Want
from shoal.autoscaler.decide.drafting import drafted
from shoal.autoscaler.decide.planner import improve
from shoal.autoscaler.decide.unmet import reasons_for
from shoal.foundation.amounts import shown
from shoal.model.demand import ANYWHERE
from shoal.model.offer import MICRO
from shoal.model.plan import Buy, Drain, Forget, OfferReason, Plan, Release, Undrain, Unmet, Verdict
from shoal.model.policy import Budget, Policy
from shoal.model.snapshot import Snapshot

MEANING = {
    Verdict.INFEASIBLE: "can never run: nothing that the configuration allows could hold it",
    Verdict.BLOCKED: "waits: something could hold it, and this is in the way",
    Verdict.DEFERRED: "waits its turn: what is there will do it soon enough",
}


def unmet_lines(one: Unmet, reasons_most: int = 5) -> list[str]:
    """Return an unmet demand in words: what, the verdict and why, then the offers' reasons, commonest word first."""
    lines = [
        f"{one.count} x {one.demand} ({shown(one.amounts)}) {MEANING[one.verdict]}: {one.why}"
        if one.why
        else f"{one.count} x {one.demand} ({shown(one.amounts)}) {MEANING[one.verdict]}"
    ]
    by_word: dict[str, list[OfferReason]] = {}
    for reason in one.reasons:
        by_word.setdefault(reason.word, []).append(reason)
    for word in sorted(by_word, key=lambda it: (it in ("too-small", "label", "arch"), -len(by_word[it]), it)):
        group = by_word[word]
        for reason in group[:reasons_most]:
            lines.append(f"  {word}: {reason.offer}" + (f": {reason.detail}" if reason.detail else ""))
        if len(group) > reasons_most:
            lines.append(f"  {word}: {len(group) - reasons_most} more offers")
    return lines


def step_lines(plan: Plan) -> list[str]:
    """Return what the plan does, a line per step."""
    lines: list[str] = []
    for step in plan.steps:
        match step:
            case Buy():
                lines.append(f"launch {len(step.instance_ids)} x {step.node_type} on {step.offer}: {step.why}")
            case Drain():
                lines.append(f"drain {step.instance_id}: {step.why}")
            case Undrain():
                lines.append(f"keep {step.instance_id} after all: {step.why}")
            case Release():
                lines.append(f"release {step.instance_id}: {step.why}")
            case Forget():
                lines.append(f"forget the wish {step.instance_id}: {step.why}")
    return lines


def price_line(plan: Plan) -> str:
    """Return what the plan's machines cost, and how far that is from the best there can be."""
    if not any(isinstance(step, Buy) for step in plan.steps):
        return "nothing to buy"
    unknown = any(isinstance(step, Buy) and step.price_micro is None for step in plan.steps)
    line = f"${plan.cost_micro / MICRO:.4f}/h" + (" and $?" if unknown else "")
    if plan.gap is not None and plan.bound_micro is not None:
        line += f", at most {100 * plan.gap:.1f} % above the least possible (${plan.bound_micro / MICRO:.4f}/h)"
    return line


def why_node_stays(plan: Plan, instance_id: str) -> str:
    """Return why the instance is still there, `` if the plan does not say."""
    for one in plan.kept:
        if one.instance_id == instance_id:
            return one.why
    work = [one for one in plan.placed if one.instance_id == instance_id]
    if work:
        return "work is planned on it: " + ", ".join(f"{one.count} x {one.demand}" for one in work[:5])
    return ""


def offers_for_demand(snapshot: Snapshot, policy: Policy, demand: str) -> tuple[OfferReason, ...]:
    """Return for a demand class, served or not, what speaks against each offer now; the one that serves is left out.

    Empty where no class is called so.
    """
    found = next((one for one in snapshot.work.classes if one.key == demand), None)
    if found is None:
        return ()
    empty = msgspec.structs.replace(snapshot.work, classes=(), gangs=(), standing=())
    draft = drafted(msgspec.structs.replace(snapshot, work=empty), policy)
    want = Want(key=demand, amounts=found.amounts, selector=found.selector, count=1)
    return reasons_for(draft, want)


def what_would_help(snapshot: Snapshot, policy: Policy, demand: str) -> list[str]:
    """Return which single change would serve an unmet demand, by planning anew with it; most likely ones first."""
    if demand not in _unmet(snapshot, policy):
        return []
    return [text for text, what, how in _relaxed(snapshot, policy, demand) if demand not in _unmet(what, how)]


def _relaxed(snapshot: Snapshot, policy: Policy, demand: str) -> Iterator[tuple[str, Snapshot, Policy]]:
    replace = msgspec.structs.replace
    plenty = 10_000
    if policy.budget != Budget():
        yield "a higher budget", snapshot, replace(policy, budget=Budget())
    yield "a higher max_workers of the cluster", snapshot, replace(policy, max_workers=plenty)
    for kind in policy.node_types:
        kinds = tuple(replace(one, max_workers=plenty) if one.name == kind.name else one for one in policy.node_types)
        yield f"a higher max_workers of `{kind.name}`", snapshot, replace(policy, node_types=kinds)
    kinds = tuple(replace(one, max_workers=plenty) for one in policy.node_types)
    yield (
        "higher max_workers of the cluster and its node types",
        snapshot,
        replace(policy, node_types=kinds, max_workers=plenty),
    )
    for quota in snapshot.quotas:
        others = tuple(one for one in snapshot.quotas if one is not quota)
        yield f"a higher quota {quota.name} in {quota.region}", replace(snapshot, quotas=others), policy
    if snapshot.health or snapshot.breakers:
        yield "offers becoming available again", replace(snapshot, health=(), breakers=()), policy
    free = tuple(replace(one, selector=ANYWHERE) if one.key == demand else one for one in snapshot.work.classes)
    if free != snapshot.work.classes:
        yield "no label selector", replace(snapshot, work=replace(snapshot.work, classes=free)), policy


def _unmet(snapshot: Snapshot, policy: Policy) -> set[str]:
    plan = next(iter(improve(snapshot, policy, 0)))
    return {one.demand for one in plan.unmet if one.verdict is not Verdict.DEFERRED}
