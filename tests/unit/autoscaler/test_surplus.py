"""What goes, what stays and why: idle nodes, deadlines, limits, flapping, repacking."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from planner_builders import NOW_S, demand, gang, instance, kind, node, offer, policy, snapshot

from shoal.autoscaler.decide.plan_check import mistakes
from shoal.autoscaler.decide.planner import improve
from shoal.autoscaler.decide.surplus import frozen_until
from shoal.model.instance import Instance, State
from shoal.model.node import Busy
from shoal.model.offer import OfferKey
from shoal.model.plan import Buy, Drain, Plan, Release, Undrain
from shoal.model.policy import Budget, Policy, Repack
from shoal.model.snapshot import Hold, Recent, Snapshot

SMALL = offer("small", 4, 0.1)
KEY = OfferKey("sim", "r1", "z1", "small")
POLICY = policy(kind("small"))


def plan_of(what: Snapshot, how: Policy = POLICY) -> Plan:
    plan = list(itertools.islice(improve(what, how, 0), 3))[-1]
    assert mistakes(plan, what, how) == []
    return plan


def drained(plan: Plan) -> list[str]:
    return [step.instance_id for step in plan.steps if isinstance(step, Drain)]


def released(plan: Plan) -> list[str]:
    return [step.instance_id for step in plan.steps if isinstance(step, Release)]


@pytest.mark.parametrize(
    ("state", "age_s", "fields", "goes"),
    [
        (State.REQUESTED, 119, {}, False),
        (State.REQUESTED, 121, {}, True),
        (State.BOOTING, 599, {}, False),
        (State.BOOTING, 601, {}, True),
        (State.LOST, 299, {}, False),
        (State.LOST, 301, {}, True),
        (State.LOST, 1, {"why": "halted: listed as halted"}, True),
        (State.DRAINING, 601, {}, True),
        (State.DRAINING, 5, {"drain_deadline_s": NOW_S - 1}, True),
        (State.DRAINING, 5, {"drain_deadline_s": NOW_S + 1}, False),
        (State.STRAY, 1, {}, True),
        (State.RELEASING, 5000, {}, False),
        (State.GONE, 5000, {}, False),
    ],
)
def test_every_waiting_state_has_a_deadline(state: State, age_s: float, fields: dict[str, Any], goes: bool) -> None:
    what = snapshot(instances=(instance(1, state=state, since_s=NOW_S - age_s, **fields),))

    assert released(plan_of(what)) == (["i-ababab-00001"] if goes else [])


def test_nothing_expires_right_after_a_restart() -> None:
    rows = tuple(
        instance(n, state=s, since_s=0.0) for n, s in enumerate((State.REQUESTED, State.BOOTING, State.LOST), 1)
    )

    assert released(plan_of(snapshot(instances=rows, may_expire=False))) == []
    assert len(released(plan_of(snapshot(instances=rows)))) == 3


def test_a_boot_that_expired_is_no_capacity() -> None:
    what = snapshot(
        offers=(SMALL,), classes=(demand("a", 4),), instances=(instance(1, state=State.BOOTING, since_s=NOW_S - 601),)
    )

    plan = plan_of(what)

    assert [type(step) for step in plan.steps] == [Buy, Release]


def test_a_busy_node_whose_drain_ends_unanswered_is_taken_back() -> None:
    row = instance(1, state=State.DRAINING, since_s=NOW_S - 601)
    busy = node(1, free=2, is_cordoned=True, busy=(Busy(what="lease"),))

    assert [type(step) for step in plan_of(snapshot(nodes=(busy,), instances=(row,))).steps] == [Undrain]


def test_lowered_limits_take_the_idle_and_dearest_first() -> None:
    rows = (
        instance(1, price_micro=100_000),
        instance(2, price_micro=300_000),
        instance(3, price_micro=200_000),
    )
    nodes = (node(1, idle_s=1.0), node(2, free=0), node(3, idle_s=1.0))

    assert drained(plan_of(snapshot(nodes=nodes, instances=rows), policy(kind("small", max_workers=2)))) == [
        "i-ababab-00003"
    ]
    everything = plan_of(snapshot(nodes=nodes, instances=rows), policy(kind("small", max_workers=0)))
    assert drained(everything) == ["i-ababab-00001", "i-ababab-00002", "i-ababab-00003"]
    busy_one = next(step for step in everything.steps if isinstance(step, Drain) and step.instance_id.endswith("2"))
    assert busy_one.deadline_s == 600.0 and busy_one.idle_serial is None


def test_a_type_gone_from_the_configuration_is_drained() -> None:
    what = snapshot(nodes=(node(1, type_name="old", idle_s=1.0),), instances=(instance(1, "old"),))

    assert drained(plan_of(what)) == ["i-ababab-00001"]


@pytest.mark.parametrize(("is_hard", "serials"), [(False, [1]), (True, [1, 2])])
def test_a_price_rise_over_the_cap_kills_work_only_if_told(is_hard: bool, serials: list[int]) -> None:
    rows = (instance(1, price_micro=500_000), instance(2, price_micro=500_000))
    what = snapshot(nodes=(node(1, idle_s=1.0), node(2, free=0)), instances=rows, committed_micro=1_000_000)
    how = policy(kind("small"), budget=Budget(usd_per_hour_max=0.4, is_hard=is_hard))

    assert drained(plan_of(what, how)) == [f"i-ababab-{serial:05d}" for serial in serials]


def test_an_announced_interruption_drains_by_its_deadline_and_buys_for_what_waits() -> None:
    what = snapshot(
        offers=(SMALL,),
        classes=(demand("a", 1),),
        nodes=(node(1, notice="spot interruption", notice_deadline_s=110.0),),
        instances=(instance(1),),
    )

    plan = plan_of(what)

    assert [type(step) for step in plan.steps] == [Buy, Drain]
    assert [step.deadline_s for step in plan.steps if isinstance(step, Drain)] == [110.0]


def recent(launched_s: float, released_s: float | None = None, why: str = "idle for 300 s") -> Recent:
    return Recent(node_type="small", offer=KEY, launched_s=launched_s, released_s=released_s, why=why)


def test_a_type_launched_a_moment_ago_keeps_its_idle_nodes() -> None:
    rows, nodes = (instance(1),), (node(1),)
    flapping = snapshot(offers=(SMALL,), nodes=nodes, instances=rows, recent=(recent(NOW_S - 30, why="for a"),))
    later = msgspec.structs.replace(flapping, recent=(recent(NOW_S - 130, why="for a"),))
    quick = msgspec.structs.replace(flapping, offers=(offer("small", 4, 0.1, boot_typical_s=10.0),))

    assert drained(plan_of(flapping)) == [] and "launched 30 s ago" in plan_of(flapping).kept[0].why
    assert drained(plan_of(later)) == ["i-ababab-00001"]
    # Keeping it for 90 s more costs more than two boots of 10 s.
    assert drained(plan_of(quick)) == ["i-ababab-00001"]


def frozen(rounds: list[Recent], flap_s: float = 120.0, boot_s: float = 60.0) -> dict[str, float]:
    return frozen_until(rounds, flap_s, lambda key: boot_s)


def test_three_flaps_within_an_hour_freeze_idle_drain() -> None:
    """Each time it was given back, it was wanted again a minute later."""
    rounds = [recent(NOW_S - 2000 + 560 * n, NOW_S - 1500 + 560 * n) for n in range(3)]
    again = recent(NOW_S - 340, why="for a")
    end_s = NOW_S - 1500 + 560 * 2 + 3600

    assert frozen([*rounds, again]) == {"small": end_s}
    assert frozen(rounds) == {}, "nobody has wanted the third one again yet"
    assert frozen([*rounds, again], flap_s=60.0) == {}
    assert frozen([*rounds, again], boot_s=20.0) == {}, "booting anew is cheaper than a minute of idling"
    plan = plan_of(snapshot(nodes=(node(1),), instances=(instance(1),), recent=(*rounds, again)))
    assert drained(plan) == [] and "frozen" in plan.kept[0].why
    assert plan.frozen == {"small": end_s - NOW_S}


def test_machines_given_back_right_after_their_launch_flap() -> None:
    rounds = [recent(NOW_S - 3000 + 900 * n, NOW_S - 2900 + 900 * n) for n in range(3)]
    assert frozen(rounds) == {"small": NOW_S - 1100 + 3600}


def test_work_that_comes_thrice_and_leaves_machines_idle_for_their_time_does_not_freeze_them() -> None:
    honest = [recent(NOW_S - 3000 + 900 * n, NOW_S - 2500 + 900 * n) for n in range(3)]
    together = [recent(NOW_S - 3000, NOW_S - 1000 + n) for n in range(10)]
    refused = [recent(NOW_S - 3000 + 560 * n, NOW_S - 2500 + 560 * n, why="refused later") for n in range(4)]

    assert frozen([*honest, recent(NOW_S - 300)]) == frozen(together) == frozen(refused) == {}
    plan = plan_of(snapshot(nodes=(node(1),), instances=(instance(1),), recent=(*honest, recent(NOW_S - 300))))
    assert drained(plan) == ["i-ababab-00001"] and plan.frozen == {}


def test_a_gang_keeps_what_arrived_until_its_hold_ends() -> None:
    waiting = gang("g", [4, 4, 4])
    rows = (instance(1, gang="g"), instance(2, gang="g"))
    nodes = (node(1), node(2))
    short = policy(kind("small", max_workers=2))  # the third cannot come
    held = tuple(Hold(gang="g", instance_id=row.instance_id, until_s=NOW_S + 60) for row in rows)
    what = snapshot(
        offers=(SMALL,), gangs=(waiting,), classes=(demand("a", 4),), nodes=nodes, instances=rows, holds=held
    )

    during = plan_of(what, short)
    after = plan_of(msgspec.structs.replace(what, now_s=NOW_S + 61), short)

    assert drained(during) == [] and all("gang g" in one.why for one in during.kept)
    assert [one.demand for one in during.placed] == []
    assert [one.demand for one in after.placed] == ["a"] and drained(after) == ["i-ababab-00002"]


def test_a_mass_loss_is_not_answered_by_mass_release() -> None:
    rows = tuple(
        instance(n, state=State.LOST if n <= 8 else State.READY, since_s=NOW_S - 30, why="halted: listed as halted")
        for n in range(1, 21)
    )
    nodes = tuple(node(n) for n in range(9, 21))

    plan = plan_of(snapshot(instances=rows, nodes=nodes))

    assert len(released(plan)) == 2 and drained(plan) == []


class TestRepacking:
    """Three large nodes, each used a little: their work fits two small ones."""

    LARGE = offer("large", 16, 0.8)
    HOW = policy(kind("small"), kind("large"), repack=Repack(is_on=True, disrupted_nodes_max=1.0))

    def cluster(self, **fields: Any) -> Snapshot:
        rows = tuple(instance(n, "large", price_micro=800_000) for n in (1, 2, 3))
        nodes = tuple(node(n, 16, 14.5, "large", busy=(Busy(what="lease"),)) for n in (1, 2, 3))
        return snapshot(
            **{"offers": (SMALL, self.LARGE), "instances": rows, "nodes": nodes, "serial_next": 4, **fields}
        )

    def test_off_by_default(self) -> None:
        assert plan_of(self.cluster(), policy(kind("small"), kind("large"))).steps == ()

    def test_what_fits_on_fewer_nodes_moves_there_without_buying(self) -> None:
        plan = plan_of(self.cluster(offers=(self.LARGE,)), self.HOW)

        assert [type(step) for step in plan.steps] == [Drain, Drain]
        assert all(step.deadline_s == 600.0 for step in plan.steps if isinstance(step, Drain))

    def test_new_machines_come_first_and_only_once(self) -> None:
        what = self.cluster()

        first = plan_of(what, self.HOW)
        buys = [step for step in first.steps if isinstance(step, Buy)]

        assert [(step.node_type, len(step.instance_ids)) for step in buys] == [("small", 2)]
        assert drained(first) == []
        booting = tuple(
            Instance(
                instance_id=name,
                node_type="small",
                offer=KEY,
                state=State.BOOTING,
                since_s=NOW_S,
                created_s=NOW_S,
                price_micro=100_000,
                why=buys[0].why,
            )
            for name in buys[0].instance_ids
        )
        second = plan_of(msgspec.structs.replace(what, instances=(*what.instances, *booting)), self.HOW)
        assert second.steps == ()
        ready = tuple(msgspec.structs.replace(row, state=State.READY, ready_s=NOW_S) for row in booting)
        nodes = tuple(
            node(0, 4, 4, "small", node_id=f"x{row.instance_id}", instance_id=row.instance_id, idle_s=1.0)
            for row in ready
        )
        work = msgspec.structs.replace(what.work, nodes=(*what.work.nodes, *nodes))
        third = plan_of(msgspec.structs.replace(what, instances=(*what.instances, *ready), work=work), self.HOW)
        assert drained(third) == ["i-ababab-00001", "i-ababab-00002", "i-ababab-00003"]

    def test_the_disruption_budget_is_kept(self) -> None:
        one_at_a_time = msgspec.structs.replace(self.HOW, repack=Repack(is_on=True, disrupted_nodes_max=0.1))

        assert len(drained(plan_of(self.cluster(offers=(self.LARGE,)), one_at_a_time))) == 1

    @pytest.mark.parametrize("what", ["actor", "driver", "bundle"])
    def test_what_cannot_move_stays(self, what: str) -> None:
        rows = tuple(instance(n, "large", price_micro=800_000) for n in (1, 2))
        nodes = tuple(node(n, 16, 15, "large", busy=(Busy(what=what),)) for n in (1, 2))

        assert plan_of(snapshot(offers=(SMALL, self.LARGE), instances=rows, nodes=nodes), self.HOW).steps == ()
