"""Demand as the loop hears it: growth, quiet, and what is new to the newest plan."""

from __future__ import annotations

from shoal.autoscaler.act.demand import Demand
from shoal.model.demand import Bundle, DemandClass, Gang
from shoal.model.policy import Thinking
from shoal.model.snapshot import Work

THINKING = Thinking(quiet_s=0.05, quiet_s_max=0.5)


def waiting(count: int, *unplaceable_on: str, gangs: tuple[str, ...] = ()) -> Work:
    one = DemandClass(key="a", amounts={"CPU": 1}, waiting=count, unplaceable_on=unplaceable_on)
    return Work(
        classes=(one,), gangs=tuple(Gang(gang_id=name, bundles=(Bundle(amounts={"CPU": 1}),) * 2) for name in gangs)
    )


def test_growth_is_waited_out_from_its_newest_step_but_not_for_ever() -> None:
    demand = Demand()
    assert demand.quiet_s(THINKING, 9.0) == 9.0
    demand.hear(waiting(1), 10.0)
    assert demand.quiet_s(THINKING, 10.0) == 10.05
    demand.hear(waiting(2), 10.04)
    assert round(demand.quiet_s(THINKING, 10.05), 6) == 10.09
    demand.hear(waiting(2), 10.06)
    assert round(demand.quiet_s(THINKING, 10.06), 6) == 10.09, "the same demand is no growth"
    demand.hear(waiting(3), 10.49)
    assert round(demand.quiet_s(THINKING, 10.49), 6) == 10.5, "the first unit has waited half a second"


def test_what_ends_before_it_is_planned_for_has_not_grown() -> None:
    demand = Demand()
    demand.hear(waiting(1), 10.0)
    demand.hear(waiting(0), 10.01)
    assert demand.quiet_s(THINKING, 10.02) == 10.02 and demand.answer(waiting(0)) is None and demand.waiting == 0


def test_a_plan_answers_what_it_was_made_for_and_nothing_more() -> None:
    demand = Demand()
    assert demand.hear(waiting(3, gangs=("g",)), 10.0) and demand.waiting == 5
    assert demand.answer(waiting(3, gangs=("g",))) == 10.0
    assert demand.answer(waiting(3, gangs=("g",))) is None, "nothing has grown since"

    assert not demand.hear(waiting(2, gangs=("g",)), 11.0), "some of it runs"
    assert not demand.hear(waiting(3, gangs=("g",)), 12.0), "as many wait as then"
    assert demand.hear(waiting(4, gangs=("g",)), 13.0), "one more"
    assert demand.hear(waiting(3, gangs=("h",)), 14.0), "another gang"
    assert demand.hear(waiting(3, "n1", gangs=("g",)), 15.0), "it fits a node and waits there"
    assert not demand.hear(Work(), 16.0)
