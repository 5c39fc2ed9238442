"""When to stop thinking, and what launches teach: tables of pure rules."""

from __future__ import annotations

import pytest
from planner_builders import demand, kind, offer, policy, snapshot

from shoal.autoscaler.decide import health
from shoal.autoscaler.decide.commit import quiet_left_s, shared_buys, think_most_s, why_stop
from shoal.autoscaler.decide.planner import improve
from shoal.foundation.errors import (
    CapacityError,
    CredentialError,
    ProviderError,
    QuotaError,
    Scope,
    ThrottledError,
)
from shoal.model.offer import OfferHealth, OfferKey
from shoal.model.plan import Buy, Plan
from shoal.model.policy import Health, Thinking

KEY = OfferKey("aws", "eu-west-1", "eu-west-1a", "m5.large", "spot")
THINKING = Thinking()


def plan(cost: float, bound: float | None) -> Plan:
    buy = Buy(instance_ids=("i-1",), node_type="a", offer=KEY, why="x", price_micro=round(cost * 1e6))
    return Plan(steps=(buy,), cost_micro=round(cost * 1e6), bound_micro=None if bound is None else round(bound * 1e6))


@pytest.mark.parametrize(
    ("one", "thought_s", "stops"),
    [
        (Plan(), 0.0, True),
        (plan(1.0, 0.96), 0.0, True),
        (plan(1.0, 0.90), 0.0, False),
        (plan(0.5, 0.46), 0.0, True),  # less than $0.05 at stake
        (plan(1.0, None), 0.0, False),
        (plan(0.04, None), 0.0, True),
        (plan(1.0, None), 0.99, False),
        (plan(1.0, None), 1.0, True),
    ],
)
def test_thinking_stops_where_it_cannot_pay(one: Plan, thought_s: float, stops: bool) -> None:
    assert bool(why_stop(one, THINKING, thought_s, boot_typical_s=60.0)) == stops


def test_the_last_part_of_a_burst_is_not_worth_more_thought_than_its_share() -> None:
    """$0.40 an hour at stake: much of $1, less than 5 % of the $10 that are bought with it."""
    part = plan(1.0, 0.60)

    assert not why_stop(part, THINKING, 0.0, 60.0)
    assert not why_stop(part, THINKING, 0.0, 60.0, coming_micro=7_000_000)
    assert "on its way" in why_stop(part, THINKING, 0.0, 60.0, coming_micro=10_000_000)
    assert not why_stop(plan(1.0, None), THINKING, 0.0, 60.0, coming_micro=10**9), "nothing is proven"


def test_thinking_never_takes_long_against_a_short_boot() -> None:
    assert think_most_s(THINKING, 10.0) == pytest.approx(0.2)
    assert why_stop(plan(1.0, None), THINKING, 0.2, boot_typical_s=10.0)


@pytest.mark.parametrize(
    ("growth_s", "unmet_s", "left_s"),
    [(None, None, 0.0), (0.0, 0.0, 0.05), (0.03, 0.1, 0.02), (0.0, 0.48, 0.02), (0.0, 0.7, 0.0), (0.05, 0.05, 0.0)],
)
def test_planning_waits_for_quiet_but_not_for_long(
    growth_s: float | None, unmet_s: float | None, left_s: float
) -> None:
    assert quiet_left_s(THINKING, growth_s, unmet_s) == pytest.approx(left_s)


def test_only_what_all_plans_buy_may_go_ahead() -> None:
    what = snapshot(offers=(offer("small", 4, 0.1), offer("large", 16, 0.3)), classes=(demand("a", 1, 20),))
    one = next(iter(improve(what, policy(kind("small"), kind("large")), 0)))
    other = next(iter(improve(what, policy(kind("small")), 0)))

    assert [(it.node_type, it.count) for it in shared_buys([one, one])] == [("large", 1), ("small", 1)]
    assert [(it.node_type, it.count) for it in shared_buys([one, other])] == [("small", 1)]
    assert shared_buys([one, Plan()]) == () == shared_buys([])


@pytest.mark.parametrize(
    ("error", "scope"),
    [
        (CapacityError("none left"), str(KEY)),
        (CapacityError("none left", scope=Scope.TYPE), "aws/eu-west-1/eu-west-1a/m5.large"),
        (CapacityError("none left", scope=Scope.FAMILY), "aws/eu-west-1/eu-west-1a/m5"),
        (QuotaError("vCPU"), "aws/eu-west-1"),
        (CredentialError("expired"), "aws"),
    ],
)
def test_an_error_is_remembered_as_far_as_it_reaches(error: ProviderError, scope: str) -> None:
    assert health.scope_of(KEY, error) == scope


def test_refusals_shut_an_offer_for_ever_longer_up_to_a_limit() -> None:
    rules = Health()
    known: OfferHealth | None = None
    waits, chances = [], []
    for _ in range(9):
        known = health.after_failure(known, KEY, CapacityError("none left", code="ICE"), rules, jitter=0.0)
        waits.append(known.unhealthy_for_s)
        chances.append(known.p_success)

    assert waits == [30, 60, 120, 240, 480, 960, 1800, 1800, 1800]
    assert chances[:3] == [0.5, 0.25, 0.125] and chances[-1] == rules.p_least
    assert known is not None and (known.code, known.error, known.failures) == ("ICE", "none left", 9)
    shortened = health.after_failure(None, KEY, CapacityError("none left"), rules, jitter=1.0)
    assert shortened.unhealthy_for_s == 15


def test_a_wait_ends_in_one_probe_and_a_success_opens() -> None:
    shut = health.after_failure(None, KEY, CapacityError("none left"), Health(), jitter=0.0)

    assert not health.after_time(shut, 29).may_probe
    probing = health.after_time(shut, 31)
    assert probing.may_probe and probing.unhealthy_for_s == 0
    opened = health.after_success(probing)
    assert opened is not None and (opened.p_success, opened.failures, opened.may_probe) == (0.75, 0, False)
    while opened is not None and opened.p_success < 0.98:
        opened = health.after_success(opened)
    assert opened is not None and health.after_success(opened) is None


def test_throttling_says_nothing_about_capacity_and_the_clouds_own_time_holds() -> None:
    slow = health.after_failure(None, KEY, ThrottledError("slow down"), Health(), jitter=0.0)
    named = health.after_failure(None, KEY, ThrottledError("slow down", retry_after_s=7.0), Health(), jitter=0.0)
    never = health.after_failure(None, KEY, CredentialError("expired"), Health(), jitter=0.0)

    assert (slow.p_success, slow.unhealthy_for_s) == (1.0, 1.0)
    assert named.unhealthy_for_s == 7.0
    assert never.unhealthy_for_s == health.NEVER_S


def test_a_breaker_opens_after_three_and_lets_one_canary_through() -> None:
    rules = Health()
    known = None
    for _ in range(2):
        known = health.breaker_after_failure(known, "never joined", "small", "setup failed", rules)
    assert known is not None and known.open_for_s == 0

    opened = health.breaker_after_failure(known, "never joined", "small", "setup failed", rules)
    assert opened.open_for_s == 60 and not opened.is_half_open
    waiting = health.breaker_after_time(opened, 59)
    assert waiting.open_for_s == 1 and not waiting.is_half_open
    canary = health.breaker_after_time(opened, 60)
    assert canary.is_half_open
    assert health.breaker_after_failure(canary, "never joined", "small", "again", rules).open_for_s == 120


def test_an_open_breaker_stops_launches_and_a_half_open_one_lets_one_through() -> None:
    rules = Health()
    opened = None
    for _ in range(3):
        opened = health.breaker_after_failure(opened, "never joined", "small", "setup failed", rules)
    assert opened is not None
    what = snapshot(offers=(offer("small", 4, 0.1),), classes=(demand("a", 4, 3),), breakers=(opened,))

    shut = next(iter(improve(what, policy(kind("small")), 0)))
    half = snapshot(
        offers=(offer("small", 4, 0.1),),
        classes=(demand("a", 4, 3),),
        breakers=(health.breaker_after_time(opened, 60),),
    )
    canary = next(iter(improve(half, policy(kind("small")), 0)))

    assert shut.steps == () and "setup failed" in shut.unmet[0].why
    assert [len(step.instance_ids) for step in canary.steps if isinstance(step, Buy)] == [1]
