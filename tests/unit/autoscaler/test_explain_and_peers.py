"""Reasons in words, and the policies that we compare with."""

from __future__ import annotations

from typing import Any

import pytest
from planner_builders import NOW_S, demand, gang, instance, kind, node, offer, policy, snapshot

from shoal.autoscaler.decide import explain, peers, ray_policy, static_policy
from shoal.autoscaler.decide.planner import improve
from shoal.model.demand import Selector, Strategy
from shoal.model.instance import State
from shoal.model.offer import OfferHealth, OfferKey, Quota
from shoal.model.plan import Buy, Drain, Plan, Release, Verdict
from shoal.model.policy import Budget, MachineNeed, Policy
from shoal.model.snapshot import Recent, Snapshot

SMALL, LARGE = offer("small", 4, 0.1), offer("large", 16, 0.3)
POLICY = policy(kind("small"), kind("large"))


def first(what: Snapshot, how: Policy = POLICY) -> Plan:
    return next(iter(improve(what, how, 0)))


def bought(plan: Plan) -> dict[str, int]:
    return {step.node_type: len(step.instance_ids) for step in plan.steps if isinstance(step, Buy)}


@pytest.mark.parametrize(
    ("classes", "how", "fields", "word", "said"),
    [
        ((demand("a", 64),), POLICY, {}, "too-small", "more than any machine has (most CPU: 16)"),
        ((demand("a", 1, resources={"TPU": 1}),), POLICY, {}, "too-small", "none has TPU"),
        ((demand("a", 16),), policy(kind("large", max_workers=0)), {}, "limit", "no node type may ever hold it"),
        ((demand("a", 16, 2),), policy(kind("large", max_workers=1)), {}, "limit", "max_workers of `large` is 1"),
        (
            (demand("a", 1, selector=Selector(hard={"disk": "ssd"})),),
            POLICY,
            {},
            "label",
            "has the labels",
        ),
        (
            (demand("a", 16),),
            POLICY,
            {"health": (OfferHealth(scope="sim", unhealthy_for_s=42, error="no capacity in r1"),)},
            "unhealthy",
            "no capacity in r1",
        ),
        (
            (demand("a", 16),),
            POLICY,
            {"quotas": (Quota(name="vCPU", provider="sim", region="r1", limit=8, weights={"small": 4, "large": 16}),)},
            "quota",
            "vCPU: 8 left of 8",
        ),
        ((demand("a", 16),), policy(kind("large"), budget=Budget(usd_per_hour_max=0.2)), {}, "budget", "$0.2/h"),
        ((demand("a", 16),), POLICY, {"offers": (offer("large", 16, None),)}, "unknown-price", "no price is known"),
        ((demand("a", 16),), POLICY, {"offers": (offer("large", 16, 0.3, limit=0),)}, "full", "0 more"),
    ],
)
def test_each_reason_is_named_by_its_word(
    classes: Any, how: Policy, fields: dict[str, Any], word: str, said: str
) -> None:
    plan = first(snapshot(**{"offers": (SMALL, LARGE), "classes": classes, **fields}), how)

    lines = explain.unmet_lines(plan.unmet[0])
    assert word in {reason.word for reason in plan.unmet[0].reasons}
    assert said in "\n".join(lines)


@pytest.mark.parametrize(
    ("how", "fields", "said"),
    [
        (
            policy(kind("small", max_workers=9), max_workers=2),
            {},
            "max_workers is 2: 0 are there and 2 come with this plan",
        ),
        (
            policy(kind("small", max_workers=2)),
            {"instances": (instance(1),)},
            "max_workers of `small` is 2: 1 are there and 1 come with this plan",
        ),
        (
            policy(kind("small"), upscaling_speed=1.0),
            {},
            "upscaling_speed is 1 and 0 of `small` are on their way, 5 come with this plan",
        ),
        (
            policy(kind("small")),
            {"offers": (offer("small", 4, 0.1, limit=2),)},
            "the provider has 2 of it, and 2 go to this plan",
        ),
        (
            policy(kind("small")),
            {"quotas": (Quota(name="vCPU", provider="sim", region="r1", limit=9, used=1, weights={"small": 4}),)},
            "vCPU: 0 left of 9 after 8 for this plan",
        ),
        (
            policy(kind("small"), budget=Budget(usd_per_hour_max=0.25)),
            {},
            "$0.2/h of $0.25/h are committed with the $0.2/h of this plan, one costs $0.1/h",
        ),
        (
            policy(kind("small"), budget=Budget(usd_total_max=0.04)),
            {},
            "$0 of $0.04 are spent and 600 s of what runs, with this plan, must still be paid",
        ),
    ],
)
def test_a_limit_that_the_plan_itself_fills_says_how_much_of_it_is_the_plans(
    how: Policy, fields: dict[str, Any], said: str
) -> None:
    plan = first(snapshot(**{"offers": (SMALL,), "classes": (demand("a", 4, 40),), **fields}), how)

    assert bought(plan)
    (reason,) = [one for one in plan.unmet[0].reasons if one.word != "full" or "provider" in one.detail]
    assert reason.detail == said
    assert said in plan.unmet[0].why


@pytest.mark.parametrize("strategy", [Strategy.STRICT_SPREAD, Strategy.PACK])
def test_a_gangs_reason_is_what_stopped_it_and_not_what_the_rest_of_the_plan_uses_up(strategy: Strategy) -> None:
    """Raising the cluster's limit, which the other work fills, would not help it."""
    how = policy(kind("small"), kind("large", max_workers=2), max_workers=20)
    what = snapshot(offers=(SMALL, LARGE), classes=(demand("a", 4, 80),), gangs=(gang("g", [1, 9, 9, 9, 9], strategy),))

    plan = first(what, how)

    (lack,) = [one for one in plan.unmet if one.kind == "gang"]
    assert bought(plan)["small"] + bought(plan).get("large", 0) == 20
    assert lack.verdict is Verdict.BLOCKED
    assert lack.why.endswith("max_workers of `large` is 2: 0 are there and 2 come with this plan and the gang")
    assert [reason.word for reason in lack.reasons] == ["too-small", "limit"]


def test_the_most_that_machines_have_is_told_as_people_write_it() -> None:
    offers = (offer("small", 4, 0.1, memory=2 * 2**30),)
    what = snapshot(offers=offers, classes=(demand("a", 1, resources={"memory": 16 * 2**30}),))

    assert "(most memory: 2 GiB)" in first(what, policy(kind("small"))).unmet[0].why


def test_money_that_is_too_short_for_the_first_choice_goes_where_it_serves_more() -> None:
    """The cheapest by the unit leaves too little for another; one larger machine serves both units."""
    offers = (offer("small", 4, 0.119, limit=1), offer("large", 8, 0.35))
    what = snapshot(offers=offers, classes=(demand("a", 4, 2),))
    plan = first(what, policy(kind("small"), kind("large"), budget=Budget(usd_per_hour_max=0.4)))

    assert (bought(plan), plan.unmet) == ({"large": 1}, ())


def test_an_offer_of_another_architecture_says_so() -> None:
    how = policy(kind("any", machine_types=(), need=MachineNeed(arch="amd64")))
    arm = offer("big", 64, 0.5, arch="arm64")

    plan = first(snapshot(offers=(SMALL, arm), classes=(demand("a", 32),)), how)

    assert {(reason.offer.split("/")[3], reason.word) for reason in plan.unmet[0].reasons} == {
        ("small", "too-small"),
        ("big", "arch"),
    }
    assert plan.unmet[0].verdict == "infeasible"


def test_offers_for_demand_leave_out_the_one_that_serves() -> None:
    what = snapshot(offers=(SMALL, LARGE), classes=(demand("a", 4),))

    found = explain.offers_for_demand(what, POLICY, "a")

    assert [(reason.offer, reason.word) for reason in found] == [("sim/r1/z1/large/on-demand", "price-dominated")]
    assert explain.offers_for_demand(what, POLICY, "nobody") == ()


@pytest.mark.parametrize(
    ("how", "fields", "helps"),
    [
        (policy(kind("large", max_workers=1), max_workers=50), {}, "a higher max_workers of `large`"),
        (policy(kind("large"), budget=Budget(usd_per_hour_max=0.4)), {}, "a higher budget"),
        (
            policy(kind("large")),
            {"health": (OfferHealth(scope="sim", unhealthy_for_s=60),)},
            "offers becoming available again",
        ),
    ],
)
def test_the_one_change_that_would_help_is_found_by_planning_with_it(
    how: Policy, fields: dict[str, Any], helps: str
) -> None:
    what = snapshot(offers=(LARGE,), classes=(demand("a", 16, 2),), **fields)

    found = explain.what_would_help(what, how, "a")

    assert helps in found
    assert "no label selector" not in found


def test_words_for_steps_prices_and_nodes() -> None:
    what = snapshot(
        offers=(SMALL,), classes=(demand("a", 4, 2),), nodes=(node(9, idle_s=1.0),), instances=(instance(9),)
    )
    plan = first(what)

    assert explain.step_lines(plan) == [
        "launch 1 x small on sim/r1/z1/small/on-demand: for 1 x a (1 x $0.1/h)",
    ]
    assert explain.price_line(plan) == "$0.1000/h, at most 0.0 % above the least possible ($0.1000/h)"
    assert "work of a" in explain.why_node_stays(plan, "i-ababab-00009")
    assert explain.price_line(Plan()) == "nothing to buy"


class TestRayPolicy:
    """Golden numbers are those of ray 2.60's own `ResourceDemandScheduler.schedule` for the same input."""

    TYPES = policy(kind("c"), kind("m"), kind("r"), max_workers=1000)
    OFFERS = tuple(
        offer(name, cpu, price, memory=gib * 2**30)
        for name, cpu, gib, price in (("c", 8, 16, 0.34), ("m", 8, 32, 0.384), ("r", 8, 64, 0.504))
    )

    def test_the_fleet_is_rays_own(self) -> None:
        classes = tuple(
            demand(f"d{number}", cpu, count, resources={"memory": gib * 2**30})
            for number, (cpu, gib, count) in enumerate([(1, 7, 23), (3, 2, 17), (2, 9, 11), (1, 1, 40), (5, 21, 6)])
        )
        types = peers.peer_types(snapshot(offers=self.OFFERS, classes=classes), self.TYPES)

        assert dict(ray_policy.packing(classes, types)) == RAY_FLEET

    def test_launches_are_paced_by_ticks_and_speed(self) -> None:
        what = snapshot(offers=(SMALL,), classes=(demand("a", 4, 50),))
        how = policy(kind("small"))
        key = OfferKey("sim", "r1", "z1", "small")

        assert bought(next(iter(ray_policy.improve(what, how, 0)))) == {"small": 1}
        busy = tuple(node(n, free=0) for n in range(1, 9))
        rows = tuple(instance(n) for n in range(1, 9))
        grown = snapshot(offers=(SMALL,), classes=(demand("a", 4, 50),), nodes=busy, instances=rows, serial_next=9)
        assert bought(next(iter(ray_policy.improve(grown, how, 0)))) == {"small": 8}
        just = (Recent(node_type="small", offer=key, launched_s=NOW_S - 2),)
        soon = snapshot(offers=(SMALL,), classes=(demand("a", 4, 50),), recent=just)
        assert bought(next(iter(ray_policy.improve(soon, how, 0)))) == {}

    def test_idle_nodes_go_unless_something_needs_them(self) -> None:
        rows, nodes = (instance(1), instance(2)), (node(1), node(2, idle_s=1.0))

        idle = next(iter(ray_policy.improve(snapshot(nodes=nodes, instances=rows), POLICY, 0)))
        needed = next(
            iter(ray_policy.improve(snapshot(nodes=nodes, instances=rows, classes=(demand("a", 3, 2),)), POLICY, 0))
        )

        assert [step.instance_id for step in idle.steps if isinstance(step, Drain)] == ["i-ababab-00001"]
        assert needed.steps == ()

    @pytest.mark.parametrize(("strategy", "count"), [(Strategy.STRICT_SPREAD, 3), (Strategy.PACK, 2)])
    def test_gangs_are_all_or_nothing(self, strategy: Strategy, count: int) -> None:
        what = snapshot(offers=(SMALL,), gangs=(gang("g", [2, 2, 2], strategy),))
        types = peers.peer_types(what, policy(kind("small")))
        room = ray_policy.Room(what, policy(kind("small")), types)

        assert len(ray_policy._place_gang(what.work.gangs[0], [], types, room)) == count
        tight = policy(kind("small", max_workers=1))
        types = peers.peer_types(what, tight)
        room = ray_policy.Room(what, tight, types)
        assert ray_policy._place_gang(what.work.gangs[0], [], types, room) == []
        assert (room.total, room.of) == (100, {"small": 1})


RAY_FLEET = {"c": 10, "m": 8, "r": 3}


def test_a_fixed_fleet_is_kept_complete_and_never_shrinks() -> None:
    how = policy(kind("small", max_workers=3), kind("large", max_workers=9), max_workers=5)
    rows = (instance(1), instance(2, state=State.STRAY))

    plan = next(iter(static_policy.improve(snapshot(offers=(SMALL, LARGE), instances=rows, nodes=(node(1),)), how, 0)))

    assert bought(plan) == {"small": 1, "large": 2}
    assert [type(step) for step in plan.steps if not isinstance(step, Buy)] == [Release]
    minimums = policy(kind("small", min_workers=2), kind("large"))
    assert bought(next(iter(static_policy.improve(snapshot(offers=(SMALL, LARGE)), minimums, 0)))) == {"small": 2}
