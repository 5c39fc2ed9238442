"""The planner's promises, each by a small table."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from planner_builders import (
    NOW_S,
    UID,
    demand,
    gang,
    instance,
    kind,
    node,
    offer,
    policy,
    shape,
    snapshot,
)

from shoal.autoscaler.decide.planner import improve
from shoal.model.demand import Bundle, Selector, Standing, Strategy
from shoal.model.instance import State
from shoal.model.offer import OfferHealth, Quota
from shoal.model.plan import Buy, Drain, Forget, Plan, Release, Undrain, Verdict
from shoal.model.policy import Budget, Policy
from shoal.model.snapshot import Snapshot

SMALL = offer("small", 4, 0.1)
LARGE = offer("large", 16, 0.3)
BOTH = (SMALL, LARGE)
POLICY = policy(kind("small"), kind("large"))


def best(what: Snapshot, how: Policy = POLICY, steps: int = 50) -> Plan:
    """Return the last plan of at most `steps` improvements."""
    return list(itertools.islice(improve(what, how, seed=0), steps))[-1]


def bought(plan: Plan) -> dict[str, int]:
    found: dict[str, int] = {}
    for step in plan.steps:
        if isinstance(step, Buy):
            found[step.node_type] = found.get(step.node_type, 0) + len(step.instance_ids)
    return found


def test_nothing_wanted_nothing_done() -> None:
    plan = best(snapshot(offers=BOTH))

    assert plan.steps == () and plan.unmet == () and plan.cost_micro == 0


def test_the_cheapest_machines_that_fit_are_bought() -> None:
    plan = best(snapshot(offers=BOTH, classes=(demand("a", 1, 16),)))

    assert bought(plan) == {"large": 1}
    assert plan.cost_micro == 300_000


def test_small_demand_takes_the_small_machine() -> None:
    plan = best(snapshot(offers=BOTH, classes=(demand("a", 1, 3),)))

    assert bought(plan) == {"small": 1}


def test_ids_are_named_from_the_next_serial() -> None:
    plan = best(snapshot(offers=BOTH, classes=(demand("a", 4, 2),), serial_next=41))

    assert [step.instance_ids for step in plan.steps if isinstance(step, Buy)] == [("i-ababab-00041", "i-ababab-00042")]
    assert plan.serial_next == 43
    assert UID.startswith("ababab")


def test_a_head_that_nobody_bought_has_room_too_beside_a_machine_on_its_way() -> None:
    head = node(9, instance_id="", is_head=True)
    what = snapshot(
        offers=BOTH, classes=(demand("a", 4),), nodes=(head,), instances=(instance(1, state=State.BOOTING),)
    )
    plan = best(what)

    assert not bought(plan) and [(one.demand, one.instance_id) for one in plan.placed] == [("a", head.node_id)]


def test_free_room_is_used_before_anything_is_bought() -> None:
    what = snapshot(offers=BOTH, classes=(demand("a", 1, 4),), nodes=(node(1, 4, free=4),), instances=(instance(1),))

    plan = best(what)

    assert plan.steps == ()
    assert [(one.instance_id, one.count) for one in plan.placed] == [("i-ababab-00001", 4)]


@pytest.mark.parametrize("state", [State.REQUESTED, State.BOOTING])
def test_a_machine_on_its_way_counts(state: State) -> None:
    what = snapshot(
        offers=BOTH,
        classes=(demand("a", 1, 4),),
        instances=(instance(1, state=state, since_s=NOW_S - 5),),
    )

    assert best(what).steps == ()


@pytest.mark.parametrize("state", [State.DRAINING, State.DRAINED])
def test_taking_a_node_back_beats_a_launch(state: State) -> None:
    what = snapshot(
        offers=BOTH,
        classes=(demand("a", 1, 4),),
        nodes=(node(1, is_cordoned=True),),
        instances=(instance(1, state=state, since_s=NOW_S - 5),),
    )

    plan = best(what)

    assert [type(step) for step in plan.steps] == [Undrain]


def test_a_drained_node_nobody_wants_is_released() -> None:
    what = snapshot(nodes=(node(1, is_cordoned=True),), instances=(instance(1, state=State.DRAINED),))

    assert [type(step) for step in best(what).steps] == [Release]


def test_a_wish_no_longer_wanted_is_forgotten_and_a_wanted_one_stays() -> None:
    wish = (instance(1, state=State.QUEUED),)

    assert [type(step) for step in best(snapshot(offers=BOTH, instances=wish)).steps] == [Forget]
    assert best(snapshot(offers=BOTH, instances=wish, classes=(demand("a", 1, 4),))).steps == ()


def test_infeasible_and_blocked_are_different_words() -> None:
    too_large = best(snapshot(offers=BOTH, classes=(demand("a", 17),))).unmet[0]
    no_room = best(
        snapshot(offers=BOTH, classes=(demand("a", 16),)), policy(kind("small"), kind("large", max_workers=0))
    )
    capped = best(
        snapshot(offers=BOTH, classes=(demand("a", 16),)),
        policy(kind("small"), kind("large"), budget=Budget(usd_per_hour_max=0.2)),
    )

    assert too_large.verdict is Verdict.INFEASIBLE
    assert {reason.word for reason in too_large.reasons} == {"too-small"}
    assert no_room.unmet[0].verdict is Verdict.INFEASIBLE
    assert capped.unmet[0].verdict is Verdict.BLOCKED
    assert {reason.word for reason in capped.unmet[0].reasons} == {"too-small", "budget"}


def test_long_queues_of_short_work_are_deferred() -> None:
    plan = best(snapshot(offers=BOTH, classes=(demand("a", 1, 100_000, duration_s=0.001),)))

    assert bought(plan) == {"small": 1}
    assert [one.verdict for one in plan.unmet] == [Verdict.DEFERRED]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [(Strategy.PACK, {"large": 1}), (Strategy.STRICT_PACK, {"large": 1}), (Strategy.STRICT_SPREAD, {"small": 4})],
)
def test_gangs_are_bought_whole(strategy: Strategy, expected: dict[str, int]) -> None:
    plan = best(snapshot(offers=BOTH, gangs=(gang("g", [4, 4, 4, 4], strategy),)))

    assert bought(plan) == expected
    assert all(step.gang == "g" and step.hold_s for step in plan.steps if isinstance(step, Buy))


def test_a_gang_that_cannot_be_whole_buys_nothing() -> None:
    plan = best(
        snapshot(offers=BOTH, gangs=(gang("g", [4] * 4, Strategy.STRICT_SPREAD),)),
        policy(kind("small"), kind("large"), max_workers=3),
    )

    assert plan.steps == ()
    assert [(one.demand, one.verdict) for one in plan.unmet] == [("g", Verdict.BLOCKED)]


def test_standing_demand_is_a_total_not_an_extra() -> None:
    request = Standing(owner="o", bundles=(Bundle(amounts=shape(4)),) * 2)
    busy = snapshot(offers=BOTH, nodes=(node(1, 4, free=0),), instances=(instance(1),), work={"standing": (request,)})

    assert bought(best(busy)) == {"small": 1}


def test_standing_demand_is_the_maximum_over_owners() -> None:
    two = Standing(owner="a", bundles=(Bundle(amounts=shape(4)),) * 2)
    three = Standing(owner="b", bundles=(Bundle(amounts=shape(4)),) * 3)

    plan = best(snapshot(offers=(SMALL,), work={"standing": (two, three)}), policy(kind("small")))

    assert bought(plan) == {"small": 3}


def test_min_workers_are_bought_without_demand() -> None:
    assert bought(best(snapshot(offers=BOTH), policy(kind("small", min_workers=2)))) == {"small": 2}


def test_a_quota_is_kept() -> None:
    quota = Quota(name="vCPU", provider="sim", region="r1", limit=9, used=1, weights={"small": 4, "large": 16})

    plan = best(snapshot(offers=BOTH, classes=(demand("a", 1, 16),), quotas=(quota,)))

    assert bought(plan) == {"small": 2}
    assert plan.unmet[0].verdict is Verdict.BLOCKED
    assert "quota" in {reason.word for reason in plan.unmet[0].reasons}


def test_a_sick_offer_is_passed_over_for_the_next_best() -> None:
    sick = OfferHealth(scope="sim/r1/z1/large", p_success=0.3, unhealthy_for_s=60, error="no capacity")

    plan = best(snapshot(offers=BOTH, classes=(demand("a", 1, 16),), health=(sick,)))

    assert bought(plan) == {"small": 4}


def test_an_offer_that_often_fails_costs_more() -> None:
    flaky = OfferHealth(scope="sim/r1/z1/large", p_success=0.5)

    plan = best(snapshot(offers=BOTH, classes=(demand("a", 1, 16),), health=(flaky,)))

    assert bought(plan) == {"small": 4}


def test_a_probe_is_one_machine() -> None:
    sick = OfferHealth(scope="sim/r1/z1/small", p_success=0.9, unhealthy_for_s=60, may_probe=True)

    plan = best(snapshot(offers=(SMALL,), classes=(demand("a", 4, 5),), health=(sick,)))

    assert bought(plan) == {"small": 1}
    assert [step.is_probe for step in plan.steps if isinstance(step, Buy)] == [True]


def test_an_unknown_price_comes_last_and_only_by_name() -> None:
    unknown = offer("mystery", 32, None)
    named = offer("mystery", 32, None, is_named=True)
    kinds = policy(kind("small"), kind("mystery"))

    assert bought(best(snapshot(offers=(SMALL, unknown), classes=(demand("a", 8),)), kinds)) == {}
    assert bought(best(snapshot(offers=(SMALL, named), classes=(demand("a", 8),)), kinds)) == {"mystery": 1}
    assert bought(best(snapshot(offers=(SMALL, named), classes=(demand("a", 4),)), kinds)) == {"small": 1}


def test_few_machines_allowed_are_large_ones() -> None:
    cheap_small = offer("small", 4, 0.05)

    plan = best(
        snapshot(offers=(cheap_small, LARGE), classes=(demand("a", 4, 8),)),
        policy(kind("small"), kind("large"), max_workers=2),
    )

    assert bought(plan) == {"large": 2}
    assert plan.unmet == ()


def test_an_idle_node_goes_and_says_which_serial() -> None:
    what = snapshot(nodes=(node(1),), instances=(instance(1),))

    assert best(what).steps == (Drain(instance_id="i-ababab-00001", why="idle for 1000 s", idle_serial=7),)


@pytest.mark.parametrize(
    ("how", "fields", "said"),
    [
        (policy(kind("small", min_workers=1)), {}, "min_workers"),
        (policy(kind("small", idle_timeout_s=2000.0)), {}, "idle for 1000 s of 2000 s"),
        (policy(kind("small", min_up_s=5000.0)), {}, "min_up"),
        (POLICY, {"work": {"is_settling": True}}, "settling"),
        (POLICY, {"work": {"standing": (Standing(owner="o", bundles=(Bundle(amounts=shape(4)),)),)}}, "standing"),
        (POLICY, {"classes": (demand("a", 1),)}, "work of a"),
    ],
)
def test_every_idle_node_that_stays_says_why(how: Policy, fields: dict, said: str) -> None:
    plan = best(snapshot(nodes=(node(1),), instances=(instance(1),), **fields), how)

    assert not any(isinstance(step, Drain) for step in plan.steps)
    assert [one.instance_id for one in plan.kept] == ["i-ababab-00001"]
    assert said in plan.kept[0].why


def test_selectors_choose_the_zone() -> None:
    near, far = offer("small", 4, 0.1, zone="z1"), offer("small", 4, 0.05, zone="z2")
    bound = demand("a", 1, selector=Selector(hard={"ray.io/availability-zone": "z1"}))

    plan = best(snapshot(offers=(near, far), classes=(bound,)))

    assert [step.offer.zone for step in plan.steps if isinstance(step, Buy)] == ["z1"]


def test_the_same_input_gives_the_same_bytes() -> None:
    what = snapshot(offers=BOTH, classes=tuple(demand(f"c{n}", 0.5 + n / 4, 3 + n) for n in range(9)))

    first, second = (msgspec.json.encode(list(improve(what, POLICY, seed=3))) for _ in range(2))

    assert first == second


def test_before_the_first_listing_nothing_is_bought() -> None:
    plan = best(snapshot(offers=BOTH, classes=(demand("a", 1),), is_listed=False))

    assert plan.steps == ()
    assert plan.unmet[0].verdict is Verdict.BLOCKED


def test_work_stays_on_the_machines_on_their_way_that_were_bought_for_it() -> None:
    """5+3+2 and 4+3+3 fill two machines of 10 exactly; found anew by first fit, the 2 is left over and bought for."""
    ten = offer("ten", 10, 0.2)
    classes = tuple(demand(f"c{cpu}", cpu, count) for cpu, count in ((5, 1), (4, 1), (3, 3), (2, 1)))
    rows = tuple(
        instance(serial, "ten", State.BOOTING, since_s=NOW_S - 5, planned=planned)
        for serial, planned in enumerate(({"c5": 1, "c3": 1, "c2": 1}, {"c4": 1, "c3": 2}), 1)
    )
    how = policy(kind("ten"))

    kept = best(snapshot(offers=(ten,), classes=classes, instances=rows, serial_next=3), how)
    forgotten = tuple(msgspec.structs.replace(row, planned={}) for row in rows)
    anew = best(snapshot(offers=(ten,), classes=classes, instances=forgotten, serial_next=3), how)

    assert kept.steps == ()
    assert bought(anew) == {"ten": 1}


def test_a_spread_gang_does_not_wander_onto_machines_planned_for_others() -> None:
    """The gang's machine and the class's are both on their way; spreading it anew would push work off the other."""
    ten = offer("ten", 10, 0.2)
    rows = (
        instance(1, "ten", State.BOOTING, since_s=NOW_S - 5, planned={"g": 4}),
        instance(2, "ten", State.BOOTING, since_s=NOW_S - 5, planned={"a": 5}),
    )
    what = snapshot(
        offers=(ten,),
        classes=(demand("a", 2, 5),),
        gangs=(gang("g", [2, 2, 2, 2], Strategy.SPREAD),),
        instances=rows,
        serial_next=3,
    )

    assert best(what, policy(kind("ten"))).steps == ()
