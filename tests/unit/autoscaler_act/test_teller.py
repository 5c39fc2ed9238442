"""What a plan leaves in the event log: each thing once for as long as it holds."""

from __future__ import annotations

from shoal.autoscaler.act.report import Teller
from shoal.foundation.clock import SystemClock
from shoal.foundation.eventlog import Kind, MemoryLog
from shoal.model.plan import OfferReason, Plan, Unmet, Verdict

SPENT = OfferReason(offer="sim/r1/z1/s2/on-demand", word="budget", detail="$0.2/h of $0.25/h are committed")
SMALL = OfferReason(offer="sim/r1/z1/s1/on-demand", word="too-small")
FULL = OfferReason(offer="sim/r1/z1/s2/on-demand", word="full")


def plan(demand: str, *reasons: OfferReason, verdict: Verdict = Verdict.BLOCKED) -> Plan:
    unmet = Unmet(demand=demand, kind="class", amounts={}, count=1, verdict=verdict, why="", reasons=reasons)
    return Plan(unmet=(unmet,))


def told(*plans: Plan) -> list[str]:
    log = MemoryLog(SystemClock())
    teller = Teller(log)
    for one in plans:
        teller.tell(one, one.steps)
    return [event.fields["demand"] for event in log.events if event.kind is Kind.BUDGET_REACHED]


def test_a_budget_is_told_once_for_as_long_as_it_is_in_the_way() -> None:
    """Other demand that waits for the same money is no news; money that was enough in between makes it news again."""
    assert told(plan("a", SMALL, SPENT), plan("a", SPENT), plan("b", SPENT)) == ["a"]
    assert told(plan("a", SPENT), Plan(), plan("b", SPENT)) == ["a", "b"]
    assert told(plan("a", SPENT), plan("a", FULL), plan("a", SPENT)) == ["a", "a"]


def test_what_waits_for_something_else_reached_no_budget() -> None:
    assert told(Plan(), plan("a", SMALL, FULL), plan("a", SPENT, verdict=Verdict.DEFERRED)) == []


def test_the_event_names_offer_and_amounts() -> None:
    log = MemoryLog(SystemClock())
    Teller(log).tell(plan("a", SPENT), ())
    (event,) = (event for event in log.events if event.kind is Kind.BUDGET_REACHED)
    assert event.fields == {"demand": "a", "offer": SPENT.offer, "why": SPENT.detail}
