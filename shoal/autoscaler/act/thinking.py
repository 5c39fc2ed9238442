"""Pulling better plans out of the planner, for as long as it pays. The clock is here; the rule is `decide.commit`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec

from shoal.autoscaler.decide.commit import shared_buys, why_stop
from shoal.foundation.clock import Clock
from shoal.model.plan import Buy, Plan, Step
from shoal.model.policy import Thinking

EARLY_S = 0.1
"""After so long a thought, launches that every plan makes go ahead."""


async def think(
    clock: Clock,
    better_plans: Iterable[Plan],
    thinking: Thinking,
    boot_typical_s: float,
    *,
    spent_s: float = 0.0,
    coming_micro: int = 0,
) -> tuple[Plan, bool]:
    """Return the plan to carry out, and whether it is only what all plans so far have in common.

    `spent_s` of the time for thinking are used up already, by waiting for demand to be quiet or by earlier parts of
    the same thought; machines for `coming_micro` an hour are on their way. With `effort_fixed` exactly so many
    improvements are pulled, and the clock has no say.
    """
    plans: list[Plan] = []
    began_s = clock.monotonic_s()
    for better in better_plans:
        plans.append(better)
        if thinking.effort_fixed is not None:
            if len(plans) > thinking.effort_fixed:
                break
            continue
        thought_s = clock.monotonic_s() - began_s
        if why_stop(better, thinking, spent_s + thought_s, boot_typical_s, coming_micro=coming_micro):
            break
        if thought_s >= EARLY_S and (early := in_common(plans)):
            return early, True
        await asyncio.sleep(0)
    return (plans[-1] if plans else Plan()), False


def in_common(plans: list[Plan]) -> Plan | None:
    """Return the newest plan with only those launches that every plan so far makes; None if they share none.

    A gang launches whole or not at all. Everything but launches waits for the final plan.
    """
    left = {(one.node_type, one.offer, one.gang): one.count for one in shared_buys(plans)}
    steps: list[Step] = []
    newest = plans[-1]
    for step in newest.steps:
        if not isinstance(step, Buy):
            continue
        key = (step.node_type, step.offer, step.gang)
        count = min(len(step.instance_ids), left.get(key, 0))
        if not count or (count < len(step.instance_ids) and step.gang):
            continue
        left[key] -= count
        steps.append(
            msgspec.structs.replace(
                step,
                instance_ids=step.instance_ids[:count],
                planned=step.planned[:count],
                count_min=min(step.count_min, count),
            )
        )
    if len(plans) < 2 or not steps:
        return None
    return msgspec.structs.replace(newest, steps=tuple(steps))
