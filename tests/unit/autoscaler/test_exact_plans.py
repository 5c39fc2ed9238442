"""Whole plans against an exact integer program: bound <= optimum <= plan, with limits, labels, gangs and free nodes."""

from __future__ import annotations

import itertools

from exact import cheapest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from planner_builders import demand, gang, instance, kind, node, offer, policy, snapshot

from shoal.autoscaler.decide.planner import improve
from shoal.model.demand import Selector, Strategy
from shoal.model.offer import Quota
from shoal.model.plan import Verdict
from shoal.model.policy import Budget, Policy
from shoal.model.snapshot import Snapshot

SIZES = {"small": (2, 0.1), "large": (4, 0.17), "huge": (8, 0.5)}
ANYWHERE = Selector()
SELECTORS = [
    ANYWHERE,
    ANYWHERE,
    ANYWHERE,
    Selector(hard={"disk": "ssd"}),
    Selector(hard={"ray.io/availability-zone": "z1"}),
    Selector(hard={"ray.io/availability-zone": "!z1"}),
]
needs = st.sampled_from([1, 1, 2, 3, 4, 6])


@st.composite
def small_clusters(draw: st.DrawFn) -> tuple[Snapshot, Policy]:
    names = draw(st.lists(st.sampled_from(sorted(SIZES)), min_size=1, max_size=3, unique=True))
    offers = tuple(
        offer(
            name,
            SIZES[name][0],
            SIZES[name][1] * draw(st.sampled_from([1.0, 0.7, 1.5])),
            zone=zone,
            limit=draw(st.sampled_from([None, None, None, 1])),
            memory=draw(st.sampled_from([4, 8])) * 2**30,
        )
        for name in names
        for zone in draw(st.sampled_from([("z1",), ("z1",), ("z1", "z2")]))
    )
    there = draw(st.integers(0, 1))
    kinds = [
        kind(
            name,
            max_workers=draw(st.sampled_from([0, 1, 2, 4])) + (there if name == names[0] else 0),
            labels=draw(st.sampled_from([{}, {"disk": "ssd"}])),
        )
        for name in names
    ]
    rows = tuple(instance(serial, names[0]) for serial in range(1, there + 1))
    nodes = tuple(
        node(serial, 4, draw(st.sampled_from([1, 2])), names[0], labels=draw(st.sampled_from([{}, {"disk": "ssd"}])))
        for serial in range(1, there + 1)
    )
    how = policy(
        *kinds,
        max_workers=draw(st.integers(1, 4)) + there,
        budget=Budget(usd_per_hour_max=draw(st.sampled_from([None, None, None, 0.5]))),
    )
    classes = tuple(
        demand(
            f"c{number}",
            draw(needs),
            draw(st.integers(1, 4)),
            selector=draw(st.sampled_from(SELECTORS)),
            resources=draw(st.sampled_from([{}, {}, {"memory": 3 * 2**30}])),
        )
        for number in range(draw(st.integers(0, 2)))
    )
    gangs = tuple(
        gang(
            f"g{number}",
            [draw(needs) for _ in range(draw(st.integers(1, 3)))],
            draw(st.sampled_from(list(Strategy))),
            draw(st.sampled_from(SELECTORS)),
        )
        for number in range(draw(st.integers(0, 1 if classes else 2)))
    )
    quotas = (
        (Quota(name="vCPU", provider="sim", region="r1", limit=12, used=2, weights={n: SIZES[n][0] for n in names}),)
        if draw(st.integers(0, 3)) == 0
        else ()
    )
    what = snapshot(
        classes=classes,
        gangs=gangs,
        nodes=nodes,
        offers=offers,
        instances=rows,
        quotas=quotas,
        committed_micro=sum(row.price_micro or 0 for row in rows),
        serial_next=there + 1,
    )
    return what, how


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(small_clusters())
def test_bound_optimum_and_plan_stand_in_this_order(cluster: tuple[Snapshot, Policy]) -> None:
    what, how = cluster
    exact = cheapest(what, how)

    for plan in itertools.islice(improve(what, how, 0), 12):
        if plan.unmet:
            event("not served, and " + ("cannot be" if exact is None else "could be"))
            assert exact is None or not any(one.verdict is Verdict.INFEASIBLE for one in plan.unmet)
            continue
        event("served")
        assert exact is not None, "what the exact program calls impossible was planned"
        assert exact <= plan.cost_micro
        assert plan.bound_micro is None or plan.bound_micro <= exact
