"""Planted bugs of what is counted and remembered: money, limits, health, hysteresis, and the planner's view of them."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from shoal.autoscaler.act import learn, ledger, loop, observe
from shoal.autoscaler.act.learn import Learned
from shoal.autoscaler.act.ledger import Ledger
from shoal.autoscaler.act.loop import Autoscaler
from shoal.autoscaler.act.tend import Tender
from shoal.autoscaler.decide import draft, due, health, surplus
from shoal.model.instance import COSTS, State
from shoal.testing.mutations import Changes, bug


def _seen_as(change: Any) -> Changes:
    """Return the change of what the planner is shown."""
    real = observe.snapshot

    def snapshot(*args: Any) -> Any:
        seen = real(*args)
        return msgspec.structs.replace(seen, **change(seen))

    return [(loop, "snapshot", snapshot)]


@bug
def spend_is_forgotten_at_restart() -> Changes:
    """Money spent before a restart is not counted after it."""
    real = Ledger._read

    def read(self: Ledger, boot_id: str) -> None:
        real(self, boot_id)
        self.meta = msgspec.structs.replace(self.meta, spent_units=0, accrued_at_s=self._clock.monotonic_s())

    return [(Ledger, "_read", read)]


@bug
def what_is_committed_is_not_counted() -> Changes:
    """The planner is told that nothing costs anything now."""
    real = observe.snapshot

    def snapshot(*args: Any) -> Any:
        return msgspec.structs.replace(real(*args), committed_micro=0)

    return [(loop, "snapshot", snapshot)]


@bug
def what_is_asked_for_is_not_counted() -> Changes:
    """Machines that are requested or booting are left out of the snapshot."""
    real = observe.snapshot

    def snapshot(*args: Any) -> Any:
        seen = real(*args)
        asked = (State.REQUESTED, State.BOOTING)
        rows = tuple(row for row in seen.instances if row.state not in asked)
        return msgspec.structs.replace(seen, instances=rows)

    return [(loop, "snapshot", snapshot)]


@bug
def what_is_lost_or_going_is_not_counted() -> Changes:
    """Lost machines, and those whose release is under way, take no place under the limits."""
    left_out = (State.LOST, State.RELEASING)
    return _seen_as(lambda seen: {"instances": tuple(row for row in seen.instances if row.state not in left_out)})


@bug
def what_is_pending_costs_nothing() -> Changes:
    """A machine counts against the budget from when it has joined."""
    return [(ledger, "COSTS", COSTS - {State.REQUESTED, State.BOOTING})]


@bug
def what_is_lost_or_going_costs_nothing() -> Changes:
    """A machine counts against the budget until it is lost or its release is ordered."""
    return [(ledger, "COSTS", COSTS - {State.LOST, State.RELEASING})]


@bug
def the_total_is_not_looked_at() -> Changes:
    """Only the price per hour is capped."""
    return _seen_as(lambda seen: {"spent_micro": 0})


@bug
def an_unknown_price_is_free() -> Changes:
    """An offer without a price costs nothing."""

    def priced(offer: Any) -> Any:
        return msgspec.structs.replace(offer, price_usd_per_h=offer.price_usd_per_h or 0.0)

    return _seen_as(lambda seen: {"offers": tuple(map(priced, seen.offers))})


@bug
def prices_of_what_runs_stay_as_bought() -> Changes:
    """A price rise counts for new machines only."""

    def take_market(self: Autoscaler, provider: str, market: Any, began_s: float) -> None:
        self._witnesses.hear_market(provider, market, began_s)

    return [(Autoscaler, "_take_market", take_market)]


@bug
def a_dry_offer_is_asked_again_at_once() -> Changes:
    """Nothing is learned from a refusal."""
    return [(Learned, "failed", lambda self, *args: None)]


@bug
def a_dry_offer_is_never_asked_again() -> Changes:
    """A refusal shuts an offer for good."""
    real = health.after_failure

    def after_failure(*args: Any) -> Any:
        return msgspec.structs.replace(real(*args), unhealthy_for_s=1e9)

    return [(learn, "after_failure", after_failure)]


@bug
def the_breaker_never_opens() -> Changes:
    """Machines that never join are bought for ever."""
    return [(Learned, "_strike", lambda self, *args: None)]


@bug
def the_breaker_never_closes() -> Changes:
    """A type that failed three times is never bought again."""
    real = health.breaker_after_failure

    def breaker_after_failure(*args: Any) -> Any:
        now = real(*args)
        return msgspec.structs.replace(now, open_for_s=1e9) if now.open_for_s > 0 else now

    return [(learn, "breaker_after_failure", breaker_after_failure)]


@bug
def launches_are_not_remembered() -> Changes:
    """Hysteresis has no memory."""
    return [(Ledger, "launches", ())]


@bug
def holds_of_gangs_are_forgotten() -> Changes:
    """Members that have come do not wait for the rest of their gang."""
    return [
        *_seen_as(lambda seen: {"holds": ()}),
        (Tender, "_lift_holds", lambda self, now_s: None),
    ]


@bug
def half_a_gang_is_bought() -> Changes:
    """A gang is served in part."""

    def halved(gang: Any) -> Any:
        return msgspec.structs.replace(gang, bundles=gang.bundles[: max(1, len(gang.bundles) // 2)])

    return _seen_as(
        lambda seen: {"work": msgspec.structs.replace(seen.work, gangs=tuple(map(halved, seen.work.gangs)))}
    )


@bug
def standing_demand_is_an_extra() -> Changes:
    """`request_resources` is bought beside what is there, not as a total."""

    def doubled(one: Any) -> Any:
        return msgspec.structs.replace(one, bundles=one.bundles * 2)

    return _seen_as(
        lambda seen: {"work": msgspec.structs.replace(seen.work, standing=tuple(map(doubled, seen.work.standing)))}
    )


@bug
def nodes_go_before_their_idle_time() -> Changes:
    """Idle time is counted wrong."""

    def idle(node: Any) -> Any:
        return node if node.idle_s is None else msgspec.structs.replace(node, idle_s=node.idle_s + 1000.0)

    return _seen_as(lambda seen: {"work": msgspec.structs.replace(seen.work, nodes=tuple(map(idle, seen.work.nodes)))})


@bug
def nodes_never_go_for_being_idle() -> Changes:
    """Idle nodes stay."""
    return [(surplus, "_why_it_stays", lambda *args: "planted")]


@bug
def many_silent_nodes_are_all_replaced() -> Changes:
    """A cut network is taken for the death of all nodes behind it."""
    return [(owner, "is_mass_loss", lambda snapshot: False) for owner in (draft, due)]


@bug
def a_restart_gives_no_grace() -> Changes:
    """What became due while nobody ran is given up at once."""
    return [(ledger, "GRACE_S", -math.inf)]


@bug
def nothing_is_taken_back() -> Changes:
    """Nodes on their way out are no capacity, and a launch is made beside them."""
    left_out = (State.DRAINING, State.DRAINED)
    return _seen_as(lambda seen: {"instances": tuple(row for row in seen.instances if row.state not in left_out)})


@bug
def quotas_are_found_out_by_asking() -> Changes:
    """The account's quotas are no limit of the plan."""
    return _seen_as(lambda seen: {"quotas": ()})


@bug
def limits_of_offers_are_found_out_by_asking() -> Changes:
    """How many the cloud has left of an offer is no limit of the plan."""
    return _seen_as(lambda seen: {"offers": tuple(msgspec.structs.replace(offer, limit=None) for offer in seen.offers)})
