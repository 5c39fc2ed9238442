"""An independent check of a plan: does it hold what it says, cross no limit, and give only orders that are allowed?

Shares no code with the planner beyond the model and the one answer to "does it fit". `act` may run it before a plan
is carried out, and every property test runs it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from shoal.autoscaler.decide.transitions import may
from shoal.foundation.amounts import Amounts, covers, plus, shown, times, total
from shoal.foundation.ids import instance_id
from shoal.model.demand import Selector
from shoal.model.instance import Instance, Order, State
from shoal.model.offer import MICRO, SPOT, Offer, OfferKey
from shoal.model.plan import Buy, Drain, Forget, Plan, Release, Undrain, Verdict
from shoal.model.policy import NodeType, Policy
from shoal.model.snapshot import Snapshot
from shoal.placement import selectors

_TO_COME = (State.REQUESTED, State.BOOTING, State.QUEUED, State.READY)


def mistakes(plan: Plan, snapshot: Snapshot, policy: Policy) -> list[str]:
    """Return everything that is wrong with the plan, each as one sentence; empty for a good one."""
    if not snapshot.is_listed:
        return ["steps before the first complete listing"] if plan.steps else []
    return [
        *_names(plan, snapshot),
        *_orders(plan, snapshot),
        *_offers(plan, snapshot, policy),
        *_limits(plan, snapshot, policy),
        *_money(plan, snapshot, policy),
        *_quotas(plan, snapshot),
        *_capacity(plan, snapshot, policy),
        *_coverage(plan, snapshot),
        *_idle_nodes(plan, snapshot),
    ]


def _buys(plan: Plan) -> list[Buy]:
    return [step for step in plan.steps if isinstance(step, Buy)]


def _names(plan: Plan, snapshot: Snapshot) -> Iterator[str]:
    names = [name for buy in _buys(plan) for name in buy.instance_ids]
    fresh = [instance_id(snapshot.cluster_uid, snapshot.serial_next + number) for number in range(len(names))]
    if sorted(names) != sorted(fresh):
        yield "new instances are not named from the next serial on, each once"
    if plan.serial_next != snapshot.serial_next + len(names):
        yield f"serial_next is {plan.serial_next}, expected {snapshot.serial_next + len(names)}"
    for name, count in Counter(step.instance_id for step in plan.steps if not isinstance(step, Buy)).items():
        if count > 1:
            yield f"{name}: {count} steps at once"
    for buy in _buys(plan):
        if not buy.why:
            yield f"{buy.offer}: a launch without a reason"


def _orders(plan: Plan, snapshot: Snapshot) -> Iterator[str]:
    states = {one.instance_id: one.state for one in snapshot.instances}
    for step in plan.steps:
        if isinstance(step, Buy):
            continue
        state = states.get(step.instance_id)
        if state is None:
            yield f"{step.instance_id}: an order for an instance that is not there"
            continue
        order = {Drain: Order.DRAIN, Undrain: Order.UNDRAIN, Release: Order.RELEASE, Forget: Order.RELEASE}[type(step)]
        if not may(state, order):
            yield f"{step.instance_id}: {order} is forbidden in state {state}"
        if isinstance(step, Forget) and state is not State.QUEUED:
            yield f"{step.instance_id}: only a wish can be forgotten, not `{state}`"


def _offers(plan: Plan, snapshot: Snapshot, policy: Policy) -> Iterator[str]:
    offers = {offer.key: offer for offer in snapshot.offers}
    probes: Counter[str] = Counter()
    for buy in _buys(plan):
        kind, offer = policy.node_type(buy.node_type), offers.get(buy.offer)
        if kind is None or offer is None:
            yield f"{buy.node_type} on {buy.offer}: no such node type or offer"
            continue
        key = buy.offer
        if (
            key.provider != kind.provider
            or (kind.zones and key.zone not in kind.zones)
            or (kind.regions and key.region not in kind.regions)
            or (kind.markets and key.market not in kind.markets)
            or (kind.machine_types and key.machine_type not in kind.machine_types)
        ):
            yield f"{buy.node_type}: may not use {key}"
        price = _price_micro(kind, offer)
        if buy.price_micro != price:
            yield f"{buy.offer}: bought at {buy.price_micro}, listed at {price}"
        if price is None and not offer.is_named:
            yield f"{buy.offer}: bought at an unknown price without being named"
        if offer.limit is not None and len(buy.instance_ids) > offer.limit:
            yield f"{buy.offer}: {len(buy.instance_ids)} bought, {offer.limit} left"
        for one in snapshot.health:
            if not (str(key) == one.scope or str(key).startswith((one.scope + "/", one.scope + "."))):
                continue
            if one.may_probe:
                probes[one.scope] += len(buy.instance_ids)
            elif one.unhealthy_for_s > 0:
                yield f"{buy.offer}: unhealthy for {one.unhealthy_for_s:.0f} s more"
        for breaker in snapshot.breakers:
            if breaker.node_type in ("", buy.node_type) and breaker.open_for_s > 0 and not breaker.is_half_open:
                yield f"{buy.node_type}: its launch breaker is open"
    for scope, count in probes.items():
        if count > 1:
            yield f"{scope}: {count} probes at once"


def _limits(plan: Plan, snapshot: Snapshot, policy: Policy) -> Iterator[str]:
    forgotten = {step.instance_id for step in plan.steps if isinstance(step, Forget)}
    there = [one for one in snapshot.instances if one.state is not State.GONE and one.instance_id not in forgotten]
    by_type = Counter(one.node_type for one in there)
    bought: Counter[str] = Counter()
    spots = 0
    for buy in _buys(plan):
        bought[buy.node_type] += len(buy.instance_ids)
        spots += len(buy.instance_ids) if buy.offer.market == SPOT else 0
    for name, count in bought.items():
        kind = policy.node_type(name)
        if kind is not None and by_type[name] + count > kind.max_workers:
            yield f"{name}: {by_type[name]} are there and {count} bought, max_workers is {kind.max_workers}"
    everything = len(there) + sum(bought.values())
    if bought and everything > policy.max_workers:
        yield f"{everything} workers in all, max_workers is {policy.max_workers}"
    if spots and policy.spot_share_most < 1:
        spots += sum(1 for one in there if one.offer.market == SPOT)
        if spots > policy.spot_share_most * everything + 1e-9:
            yield f"{spots} of {everything} workers are spot, spot_share_most is {policy.spot_share_most:g}"


def _money(plan: Plan, snapshot: Snapshot, policy: Policy) -> Iterator[str]:
    price = sum((buy.price_micro or 0) * len(buy.instance_ids) for buy in _buys(plan))
    if plan.cost_micro != price:
        yield f"cost_micro is {plan.cost_micro}, the steps cost {price}"
    if plan.bound_micro is not None and plan.bound_micro > plan.cost_micro:
        yield f"the bound {plan.bound_micro} is above the cost {plan.cost_micro}"
    if not _buys(plan):
        return
    forgotten = {step.instance_id for step in plan.steps if isinstance(step, Forget)}
    queued = sum(
        one.price_micro or 0
        for one in snapshot.instances
        if one.state is State.QUEUED and one.instance_id not in forgotten
    )
    committed = snapshot.committed_micro + queued + price
    budget = policy.budget
    if budget.usd_per_hour_max is not None and committed > budget.usd_per_hour_max * MICRO + 1:
        yield f"${committed / MICRO:.4f}/h committed, usd_per_hour_max is {budget.usd_per_hour_max}"
    if budget.usd_total_max is not None:
        ahead_s = max((max(kind.min_up_s, kind.deadlines.draining_s) for kind in policy.node_types), default=0.0)
        if snapshot.spent_micro + committed * ahead_s / 3600 > budget.usd_total_max * MICRO + 1:
            yield f"what is committed for {ahead_s:.0f} s crosses usd_total_max {budget.usd_total_max}"
    if (budget.usd_per_hour_max is not None or budget.usd_total_max is not None) and any(
        buy.price_micro is None for buy in _buys(plan)
    ):
        yield "an unknown price was bought under a cap"


def _quotas(plan: Plan, snapshot: Snapshot) -> Iterator[str]:
    for quota in snapshot.quotas:
        taken = 0
        for buy in _buys(plan):
            key = buy.offer
            if key.provider == quota.provider and quota.region in ("", key.region) and quota.market in ("", key.market):
                taken += quota.weights.get(key.machine_type, 0) * len(buy.instance_ids)
        if taken and taken > quota.limit - quota.used:
            yield f"quota {quota.name}: {taken} taken of {quota.limit - quota.used} left"


def _capacity(plan: Plan, snapshot: Snapshot, policy: Policy) -> Iterator[str]:
    classes = {one.key: (one.amounts, one.selector) for one in snapshot.work.classes}
    gangs = {one.gang_id: one for one in snapshot.work.gangs}
    room = _room(plan, snapshot, policy)
    held: dict[str, Amounts] = defaultdict(dict)
    of_gang: dict[str, list[str]] = defaultdict(list)
    for one in plan.placed:
        if one.instance_id not in room:
            yield f"{one.demand}: placed on {one.instance_id}, which has no room to give"
            continue
        _, labels, node_id = room[one.instance_id]
        if one.demand in classes:
            amounts, selector = classes[one.demand]
            held[one.instance_id] = plus(held[one.instance_id], times(amounts, one.count))
            if not _admits(selector, node_id, labels):
                yield f"{one.demand}: placed on {one.instance_id} against its selector"
        elif one.demand in gangs:
            of_gang[one.demand].extend([one.instance_id] * one.count)
        else:
            yield f"{one.demand}: placed, and nobody asked for it"
    for name, amounts in held.items():
        if not covers(room[name][0], amounts):
            yield f"{name}: holds {shown(amounts)}, has room for {shown(room[name][0])}"
    for gang_id, names in of_gang.items():
        gang = gangs[gang_id]
        if len(names) != len(gang.bundles):
            yield f"gang {gang_id}: {len(names)} of {len(gang.bundles)} bundles placed"
        elif gang.strategy == "STRICT_SPREAD" and len(set(names)) < len(names):
            yield f"gang {gang_id}: two bundles on one machine"
        elif gang.strategy == "STRICT_PACK" and len(set(names)) > 1:
            yield f"gang {gang_id}: on more than one machine"
        everything = total(room[name][0] for name in set(names))
        if not covers(everything, total(bundle.amounts for bundle in gang.bundles)):
            yield f"gang {gang_id}: its machines are too small for it"


def _coverage(plan: Plan, snapshot: Snapshot) -> Iterator[str]:
    placed = Counter[str]()
    for one in plan.placed:
        placed[one.demand] += one.count
    lacking = Counter[str]()
    for lack in plan.unmet:
        if lack.kind in ("class", "gang"):
            lacking[lack.demand] += lack.count
        if not lack.why and not lack.reasons:
            yield f"{lack.demand}: unmet without a reason"
        if lack.verdict is not Verdict.DEFERRED and lack.count <= 0:
            yield f"{lack.demand}: unmet by {lack.count}"
    for demand in snapshot.work.classes:
        if placed[demand.key] + lacking[demand.key] != demand.waiting:
            yield (f"{demand.key}: {demand.waiting} wait, {placed[demand.key]} placed and {lacking[demand.key]} unmet")
    for gang in snapshot.work.gangs:
        if placed[gang.gang_id] + lacking[gang.gang_id] != len(gang.bundles):
            yield f"gang {gang.gang_id}: neither placed nor answered"


def _idle_nodes(plan: Plan, snapshot: Snapshot) -> Iterator[str]:
    answered = {one.instance_id for one in plan.kept}
    answered |= {step.instance_id for step in plan.steps if isinstance(step, Drain)}
    states = {one.instance_id: one.state for one in snapshot.instances}
    for node in snapshot.work.nodes:
        is_ours = states.get(node.instance_id) is State.READY and not node.is_head
        if is_ours and node.idle_s is not None and not node.is_cordoned and node.instance_id not in answered:
            yield f"{node.instance_id}: idle, and neither drained nor kept for a reason"
    used = {one.instance_id for one in plan.placed}
    for step in plan.steps:
        if isinstance(step, Drain) and step.deadline_s is None and step.instance_id in used:
            yield f"{step.instance_id}: drained although work is planned on it"


def _room(plan: Plan, snapshot: Snapshot, policy: Policy) -> dict[str, tuple[Amounts, dict[str, str] | None, str]]:
    """Return per instance what it can still take, its labels (None: not known here) and its node's id."""
    nodes = {node.instance_id: node for node in snapshot.work.nodes if node.instance_id}
    undrained = {step.instance_id for step in plan.steps if isinstance(step, Undrain)}
    forgotten = {step.instance_id for step in plan.steps if isinstance(step, Forget)}
    offers = {offer.key: offer for offer in snapshot.offers}
    found: dict[str, tuple[Amounts, dict[str, str] | None, str]] = {}
    for node in snapshot.work.nodes:
        if not node.instance_id or all(one.instance_id != node.instance_id for one in snapshot.instances):
            name = node.node_id
            found[name] = (node.total if node.is_missing else node.free, node.labels, node.node_id)
    for one in snapshot.instances:
        node_of = nodes.get(one.instance_id)
        is_back = one.state is State.READY or one.instance_id in undrained
        if is_back and node_of is not None:
            free = node_of.total if node_of.is_missing else node_of.free
            found[one.instance_id] = (free, node_of.labels, node_of.node_id)
        elif one.state in _TO_COME and one.instance_id not in forgotten:
            found[one.instance_id] = (_size(snapshot, policy, one, offers), None, one.instance_id)
    for buy in _buys(plan):
        kind, offer = policy.node_type(buy.node_type), offers.get(buy.offer)
        if kind is None or offer is None:
            continue
        for name in buy.instance_ids:
            found[name] = (_usable(snapshot, kind, offer), None, name)
    return found


def _size(snapshot: Snapshot, policy: Policy, one: Instance, offers: dict[OfferKey, Offer]) -> Amounts:
    kind, offer = policy.node_type(one.node_type), offers.get(one.offer)
    if kind is None:
        return {}
    return kind.resources if offer is None else _usable(snapshot, kind, offer)


def _usable(snapshot: Snapshot, kind: NodeType, offer: Offer) -> Amounts:
    for one in snapshot.usable:
        if (one.node_type, one.machine_type) == (kind.name, offer.key.machine_type):
            return one.resources
    return kind.on(offer.resources)


def _price_micro(kind: NodeType, offer: Offer) -> int | None:
    return offer.price_micro if kind.price_usd_per_h is None else round(kind.price_usd_per_h * MICRO)


def _admits(selector: Selector, node_id: str, labels: dict[str, str] | None) -> bool:
    if labels is None:
        return not selector.node_ids or selector.is_soft_node
    return not selector or selectors.admits(selector, node_id, labels)
