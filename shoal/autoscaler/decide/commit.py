"""When to stop thinking and act: the commit rule, the quiet rule, and the steps that may go ahead early.

Pure: every duration comes from the caller, who holds the clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from shoal.model.offer import MICRO, OfferKey
from shoal.model.plan import Buy, Plan
from shoal.model.policy import Thinking


def think_most_s(thinking: Thinking, boot_typical_s: float) -> float:
    """Return how long thinking may take at most: it should never be what the user waits for.

    >>> think_most_s(Thinking(), 20.0), think_most_s(Thinking(), 300.0)
    (0.4, 1.0)
    """
    return min(thinking.think_s_max, thinking.think_boot_share * boot_typical_s)


def why_stop(plan: Plan, thinking: Thinking, thought_s: float, boot_typical_s: float, *, coming_micro: int = 0) -> str:
    """Return why to carry out this plan now, `` to think on.

    Better plans only pay where there is money at stake: at once when the plan is proven to be within `act_gap` of
    the best, or costs less than `think_floor_usd` an hour, or buys nothing; else when the time is used up. What is
    on its way already, for `coming_micro` an hour, counts with it: of a burst that is bought in parts, the last
    part is not worth more thought than its share of all.
    """
    if not any(isinstance(step, Buy) for step in plan.steps):
        return "nothing to buy"
    if plan.gap is not None and plan.gap <= thinking.act_gap:
        return f"within {plan.gap:.1%} of the best there can be"
    at_stake = plan.cost_micro - (plan.bound_micro or 0)
    if plan.bound_micro is not None and at_stake <= thinking.act_gap * (plan.bound_micro + coming_micro):
        return f"within {at_stake / (plan.bound_micro + coming_micro):.1%} with what is on its way"
    if at_stake < thinking.think_floor_usd * MICRO:
        return f"less than ${thinking.think_floor_usd:g}/h at stake"
    most_s = think_most_s(thinking, boot_typical_s)
    if thought_s >= most_s:
        return f"{most_s:.2g} s of thought are used up"
    return ""


def quiet_left_s(thinking: Thinking, since_growth_s: float | None, since_unmet_s: float | None) -> float:
    """Return for how long to wait yet for demand to be complete; 0: plan now.

    `since_growth_s` is the time since demand last grew, `since_unmet_s` since its first unit was unmet; None: never.

    >>> quiet_left_s(Thinking(), 0.01, 0.2), quiet_left_s(Thinking(), 0.0, 0.6)
    (0.04, 0.0)
    """
    if since_growth_s is None or since_unmet_s is None:
        return 0.0
    left_s = min(thinking.quiet_s - since_growth_s, thinking.quiet_s_max - since_unmet_s)
    return max(0.0, round(left_s, 9))


class SharedBuy(msgspec.Struct, frozen=True):
    """Machines that every plan of a row of plans buys."""

    node_type: str
    offer: OfferKey
    gang: str
    count: int


def shared_buys(plans: Sequence[Plan]) -> tuple[SharedBuy, ...]:
    """Return what all the plans buy in common: safe to launch before thinking is over."""
    if not plans:
        return ()
    least: Counter[tuple[str, OfferKey, str]] | None = None
    for plan in plans:
        bought: Counter[tuple[str, OfferKey, str]] = Counter()
        for step in plan.steps:
            if isinstance(step, Buy):
                bought[step.node_type, step.offer, step.gang] += len(step.instance_ids)
        least = bought if least is None else least & bought
    assert least is not None, "there is at least one plan"
    return tuple(
        SharedBuy(node_type, offer, gang, count) for (node_type, offer, gang), count in sorted(least.items()) if count
    )
