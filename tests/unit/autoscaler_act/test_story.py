"""The story of a thing, from events, report and a plan solved anew."""

from __future__ import annotations

import pytest

from shoal.autoscaler.act.contracts import InstanceReport, Report
from shoal.autoscaler.act.story import Evidence, sentence, snapshot_of, story, words
from shoal.autoscaler.decide.planner import improve
from shoal.foundation.amounts import amounts
from shoal.foundation.errors import UserError
from shoal.foundation.eventlog import Event, Kind
from shoal.model.demand import Bundle, DemandClass, Gang
from shoal.model.node import Busy
from shoal.model.plan import Kept, OfferReason, Unmet, Verdict
from shoal.model.snapshot import Work
from shoal.testing import sim_time
from shoal.testing.builders import node, offer, policy
from shoal.testing.world import World

ID = "i-ab12cd-00007"


def _event(at_s: float, kind: Kind, **fields: object) -> Event:
    return Event(at_s=at_s, kind=kind, fields=dict(fields))


EVENTS = (
    _event(1, Kind.INSTANCE_WANTED, instance=ID, node_type="s2", offer="sim/r1/z1/s2/on-demand", why="for 3 x L2"),
    _event(2, Kind.LAUNCH_CALLED, token="tok", instances=(ID, "i-ab12cd-00008"), offer="sim/r1/z1/s2/on-demand"),
    _event(3, Kind.LAUNCH_ANSWERED, token="tok", outcome="accepted"),
    _event(3, Kind.LAUNCH_ANSWERED, token="other", outcome="refused", code="X", error="no"),
    _event(40, Kind.NODE_JOINED, instance=ID, node="n0007", node_type="s2"),
    _event(41, Kind.NODE_DIED, node="n0009", instance="i-ab12cd-00009", why="silent"),
    _event(50, Kind.WORKER_DIED, node="n0007", worker="w", why="killed"),
    _event(60, Kind.DEMAND_UNMET, demand="train", verdict="blocked", why="max_workers is 2"),
)


def _row(**fields: object) -> InstanceReport:
    given: dict[str, object] = {
        "instance_id": ID,
        "node_type": "s2",
        "offer": "sim/r1/z1/s2/on-demand",
        "state": "ready",
        "since_s": 12.0,
        "price_usd_per_h": 0.1,
        "why": "for 3 x L2",
        "machine_id": "m-17",
    }
    return InstanceReport(**(given | fields))  # type: ignore[arg-type]


def _report(**fields: object) -> Report:
    given: dict[str, object] = {"session": 1, "ran_ago_s": 0.0, "ran_wall_s": 0.0, "rounds": 1, "instances": (_row(),)}
    return Report(**(given | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [ID, "n0007", "m-17", "n0007"[:4] + "7", "i-ab12cd-00007"])
def test_an_instance_is_known_by_every_name_it_has(name: str) -> None:
    told = story(name, Evidence(events=EVENTS, report=_report()))

    assert (told.kind, told.subject) == ("instance", ID)


def test_the_past_holds_what_concerns_it_and_nothing_else() -> None:
    told = story(ID, Evidence(events=EVENTS))

    assert [line.text for line in told.past] == [
        "wanted as `s2` on sim/r1/z1/s2/on-demand: for 3 x L2",
        "the provider was asked for sim/r1/z1/s2/on-demand",
        "the provider answered: accepted",
        "its node n0007 joined the head",
        "a worker died: killed",
    ]


def test_why_it_is_up_is_what_keeps_it_busy() -> None:
    there = node(ID, node_id="n0007", idle_s=None, busy=(Busy(what="actor", count=2, detail="Model"),))

    told = story(ID, Evidence(report=_report(), work=Work(nodes=(there,))))

    assert "why it is up: busy with 2 actor (Model)" in told.now
    assert told.now[0].startswith("ready for 12 s: `s2` on sim/r1/z1/s2/on-demand at $0.1/h")


def test_why_it_is_up_is_the_autoscalers_reason_when_it_is_idle() -> None:
    report = _report(kept=(Kept(instance_id=ID, why="min_workers of `s2` is 1"),))

    told = story(ID, Evidence(report=report, work=Work(nodes=(node(ID),))))

    assert "why it is up: min_workers of `s2` is 1" in told.now


def test_why_demand_waits_is_told_offer_by_offer() -> None:
    unmet = Unmet(
        demand="train",
        kind="gang",
        amounts={},
        count=4,
        verdict=Verdict.BLOCKED,
        why="max_workers is 2",
        reasons=(OfferReason(offer="s2", word="limit", detail="2 are there"),),
    )

    told = story("train", Evidence(events=EVENTS, report=_report(unmet=(unmet,))))

    assert told.kind == "gang"
    assert told.now == ("why it waits: 4 are blocked: max_workers is 2",)
    assert told.reasons == ({"offer": "s2", "word": "limit", "detail": "2 are there"},)
    assert [line.text for line in told.past] == ["not served: blocked: max_workers is 2"]
    assert any("s2: limit 2 are there" in line for line in words(told))


def test_a_gang_is_known_by_what_its_maker_called_it() -> None:
    """While it waits the head's word says so, afterwards the event log; the newest of a name holds."""
    waits = Gang(gang_id="ab" * 16, bundles=(Bundle(amounts=amounts({"CPU": 1})),) * 3, name="trainers")
    told = story("trainers", Evidence(events=EVENTS, work=Work(gangs=(waits,))))
    assert (told.kind, told.subject) == ("gang", waits.gang_id)
    assert told.now == ("3 members of `trainers` (PACK) wait for 0 s",)

    events = (
        _event(70, Kind.GROUP_STATE, group="cd" * 16, name="trainers", before="CREATED", after="REMOVED", why="old"),
        _event(80, Kind.DEMAND_UNMET, demand="ab" * 16, verdict="blocked", why="max_workers is 2"),
        _event(90, Kind.GROUP_STATE, group="ab" * 16, name="trainers", before="PENDING", after="CREATED", why=""),
    )
    told = story("train", Evidence(events=events))
    assert (told.kind, told.subject) == ("gang", "ab" * 16)
    assert [line.text for line in told.past] == ["not served: blocked: max_workers is 2", "PENDING -> CREATED"]


def test_a_plan_solved_anew_says_where_waiting_demand_goes() -> None:
    waits = DemandClass(key="shape-a", amounts=amounts({"CPU": 2}), waiting=2)
    work = Work(nodes=(node(ID, cpu=2, node_id="n0007"),), classes=(waits,))
    snapshot = snapshot_of(work, _report(), [offer("s2", 2, 0.1)])
    plan = next(iter(improve(snapshot, policy(), 0)))

    told = story("shape-a", Evidence(report=_report(), work=work, plan=plan))

    assert f"a plan made now uses what is there or coming: 1 on {ID}" in told.now
    assert told.now[-1].startswith("a plan made now buys `")
    assert told.now[-1].endswith("on sim/r1/z1/s2/on-demand for 1 of it")


def test_a_name_that_means_several_things_lists_them() -> None:
    with pytest.raises(UserError, match=r"got 3 that begin with `i-ab`"):
        story("i-ab", Evidence(events=EVENTS))


def test_an_unknown_name_is_told_the_near_ones() -> None:
    with pytest.raises(UserError, match="nothing known is called") as caught:
        story("i-ab12cd-00017", Evidence(events=EVENTS))

    assert f"`{ID}`" in caught.value.hint


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_of_event_is_a_sentence(kind: Kind) -> None:
    assert sentence(_event(0, kind)).strip()
    assert "{" not in sentence(_event(0, kind, why="w", node="n", instance="i"))


def test_a_machine_of_a_simulated_world_tells_its_life_from_wish_to_release() -> None:
    async def play() -> tuple[Event, ...]:
        world = World(seed=3)
        world.submit({"cpu": 2}, count=1)
        await world.run_until(lambda: not world.waiting and not world.head.running and not world.machines(), 900)
        await world.run_for(60)
        await world.stop()
        return tuple(world.log.events)

    events = sim_time.run(play())
    name = next(event.fields["instance"] for event in events if event.kind is Kind.INSTANCE_WANTED)

    told = [line.text for line in story(name, Evidence(events=events)).past]

    asked = "the provider was asked to end it"
    steps = ["wanted as", "the provider was asked for", "its node", "ready -> draining", asked, "releasing -> gone"]
    places = [next(place for place, text in enumerate(told) if text.startswith(step)) for step in steps]
    assert places == sorted(places)
