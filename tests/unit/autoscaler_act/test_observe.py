"""Facts by definition: absent, silent, halted, refused; whose a machine is; what a snapshot says."""

from __future__ import annotations

import msgspec
import pytest

from shoal.autoscaler.act.ledger import Ledger
from shoal.autoscaler.act.observe import Witnesses, owner_of, snapshot
from shoal.autoscaler.act.rows import Attempt, HealthRow, MachineRow
from shoal.foundation.errors import CapacityError
from shoal.model.demand import Bundle, Standing
from shoal.model.instance import Fact, State
from shoal.model.launch import Listing, Machine, MachineNotice, Phase, Refusal
from shoal.model.offer import Market, Quota
from shoal.model.snapshot import Work
from shoal.providers.protocol import Traits
from shoal.testing.builders import instance, node, offer, offer_key
from shoal.testing.memory_disk import MemoryDisk
from shoal.testing.sim_time import HandClock

NAME = "i-aaaaaa-00001"
LAG_S = 10.0


class Stage:
    def __init__(self, state: State, **fields: object) -> None:
        self.clock = HandClock(100.0)
        self.ledger = Ledger(MemoryDisk(), self.clock)
        given: dict[str, object] = {"token": "t", "created_s": 0.0}
        with self.ledger.changing() as change:
            change.put(instance(NAME, state, **(given | fields)))
            change.put(Attempt(token="t", instance_ids=(NAME,), node_type="s2", offer=offer_key(), request=b""))
        self.seen = Witnesses({"sim": Traits(name="sim", listing_lag_s=LAG_S)})
        self.ended_s = {"t": 0.0}

    def listed(self, began_s: float, *machines: Machine, **fields: object) -> list[Fact]:
        listing = Listing(machines=machines, began_s=began_s, ended_s=began_s + 1, **fields)  # type: ignore[arg-type]
        return [one.fact for one in self.seen.facts_of_listing("sim", listing, self.ledger, self.ended_s)]

    def heard(self, work: Work) -> list[Fact]:
        self.seen.hear_work(work, self.clock.now_s)
        return [one.fact for one in self.seen.facts_of_work(self.ledger)]


def machine(**fields: object) -> Machine:
    given: dict[str, object] = {
        "name": "m1",
        "machine_id": "m1",
        "token": "t",
        "offer": offer_key(),
        "instance_id": NAME,
        "epoch": 1,
    }
    return Machine(**(given | fields))  # type: ignore[arg-type]


def test_absent_needs_two_complete_listings_a_lag_apart() -> None:
    stage = Stage(State.BOOTING)
    assert stage.listed(20.0) == []
    assert stage.listed(25.0) == []
    assert stage.listed(30.0) == [Fact.ABSENT]


def test_one_sighting_begins_the_proof_of_absence_anew() -> None:
    stage = Stage(State.BOOTING)
    assert stage.listed(20.0) == []
    assert stage.listed(25.0, machine()) == [Fact.LISTED]
    assert stage.listed(30.0) == []
    assert stage.listed(41.0) == [Fact.ABSENT]


def test_a_short_listing_proves_presence_and_never_absence() -> None:
    stage = Stage(State.BOOTING)
    for began_s in (20.0, 31.0, 42.0):
        assert stage.listed(began_s, complete=False) == []
    assert stage.listed(50.0) == []
    assert stage.listed(55.0, machine(), complete=False) == [Fact.LISTED]
    assert stage.listed(61.0) == []


def test_absence_counts_from_the_end_of_the_last_create_call() -> None:
    stage = Stage(State.REQUESTED)
    stage.ended_s["t"] = 15.0
    assert stage.listed(20.0) == []  # begun too early to have to show it
    assert stage.listed(26.0) == []
    stage.ended_s["t"] = 30.0  # a repetition: what was seen before it proves nothing about it
    assert stage.listed(37.0) == []
    assert stage.listed(41.0) == []
    assert stage.listed(52.0) == [Fact.ABSENT]


def test_nothing_is_absent_while_its_create_call_is_under_way() -> None:
    stage = Stage(State.REQUESTED)
    stage.ended_s["t"] = float("inf")
    assert [stage.listed(began_s) for began_s in (20.0, 40.0, 60.0)] == [[], [], []]


def test_nothing_is_absent_while_its_agent_is_in_contact() -> None:
    stage = Stage(State.READY)
    stage.heard(Work(nodes=(node(NAME),)))
    assert [stage.listed(began_s) for began_s in (20.0, 40.0)] == [[], []]
    stage.heard(Work(version=1, nodes=(node(NAME, is_stale=True),)))
    assert stage.listed(60.0) == [Fact.ABSENT]


@pytest.mark.parametrize("phase", [Phase.HALTED, Phase.HALTING])
def test_a_stopped_machine_is_halted(phase: Phase) -> None:
    assert Stage(State.READY).listed(20.0, machine(phase=phase)) == [Fact.HALTED]


def test_the_obituary_of_a_machine_that_nobody_pays_for_is_no_stray() -> None:
    stage = Stage(State.GONE, since_s=10.0)
    assert stage.listed(20.0, machine(phase=Phase.HALTED, is_billed=False)) == []
    assert stage.listed(21.0, machine(phase=Phase.RUNNING)) == [Fact.LISTED]


def test_a_listing_begun_before_a_row_was_closed_says_nothing_about_it() -> None:
    assert Stage(State.GONE, since_s=30.0).listed(29.0, machine()) == []


def test_a_late_refusal_is_a_fact_unless_the_machine_stands_beside_it() -> None:
    refusal = Refusal("t", CapacityError("none left"))
    assert Stage(State.REQUESTED).listed(20.0, refusals=(refusal,)) == [Fact.REFUSED]
    assert Stage(State.REQUESTED).listed(20.0, machine(), refusals=(refusal,)) == [Fact.LISTED]
    assert Stage(State.READY).listed(20.0, refusals=(refusal,)) == []


def test_silence_is_the_heads_verdict_and_not_while_it_settles() -> None:
    stage = Stage(State.READY)
    assert stage.heard(Work(is_settling=True)) == []
    assert stage.heard(Work(version=1, nodes=(node(NAME, is_missing=True),))) == []
    assert stage.heard(Work(version=2)) == [Fact.SILENT]


def test_a_halted_machine_is_not_brought_back_by_a_head_that_does_not_know_yet() -> None:
    stage = Stage(State.LOST)
    stage.listed(20.0, machine(phase=Phase.HALTED))
    assert stage.heard(Work(nodes=(node(NAME),))) == []
    stage.listed(25.0, machine())
    assert stage.heard(Work(version=1, nodes=(node(NAME),))) == [Fact.JOINED]


def test_a_drains_answer_counts_for_its_own_order_only() -> None:
    stage = Stage(State.DRAINING, drain_order="d-2")
    assert stage.heard(Work(nodes=(node(NAME, drain_order="d-1", drain_answer="emptied"),))) == []
    assert stage.heard(Work(version=1, nodes=(node(NAME, drain_order="d-2", drain_answer="busy"),))) == [Fact.BUSY]
    answer = node(NAME, drain_order="d-2", drain_answer="emptied")
    assert stage.heard(Work(version=2, nodes=(answer,))) == [Fact.EMPTIED]


def test_an_older_word_of_the_head_is_left_out_but_a_new_stream_begins_anew() -> None:
    stage = Stage(State.READY)
    stage.heard(Work(epoch=1, version=5, nodes=(node(NAME),)))
    assert stage.heard(Work(epoch=1, version=4)) == []
    stage.seen.hear_work(Work(epoch=1, version=1), 100.0, is_first=True)
    assert [one.fact for one in stage.seen.facts_of_work(stage.ledger)] == [Fact.SILENT]


def test_a_second_machine_of_one_intent_is_an_extra() -> None:
    stage = Stage(State.READY)
    assert stage.listed(20.0, machine(), machine(name="m2", machine_id="m2")) == [Fact.LISTED]
    assert list(stage.seen.extras) == ["m2"]
    stage.listed(31.0, machine(), machine(name="m2", machine_id="m2"))
    assert stage.seen.extras["m2"].sightings == 2


def test_a_ready_machine_is_a_fact_again_only_when_it_is_listed_otherwise_than_before() -> None:
    stage = Stage(State.READY, machine_id="m1")
    row = MachineRow(name="m1", instance_id=NAME, provider="sim", machine_id="m1", token="t")
    with stage.ledger.changing() as change:
        change.put(row)
    warned = machine(notice=MachineNotice(what="interruption", deadline_s=60.0))

    assert stage.listed(20.0, machine()) == stage.listed(21.0, machine(age_s=5.0)) == []
    assert stage.listed(22.0, warned) == [Fact.LISTED] and stage.seen.notice_of(NAME) == warned
    assert stage.listed(23.0, machine()) == [Fact.LISTED] and stage.seen.notice_of(NAME) is None
    assert stage.listed(24.0, machine(phase=Phase.HALTED)) == [Fact.HALTED] and stage.seen.is_halted(NAME)
    assert stage.listed(25.0, machine()) == [Fact.LISTED] and not stage.seen.is_halted(NAME)
    assert stage.listed(26.0, machine(machine_id="m9")) == [Fact.LISTED], "the name was given to another machine"
    assert stage.listed(27.0, machine(token="another")) == [] and list(stage.seen.extras) == ["m1"]


def test_a_machine_is_known_by_its_tag_or_by_token_and_index() -> None:
    stage = Stage(State.READY)
    rows = stage.ledger
    assert owner_of(machine(instance_id=""), rows) is not None
    assert owner_of(machine(instance_id="", index=1), rows) is None
    assert owner_of(machine(token="another"), rows) is None
    assert owner_of(machine(instance_id="i-aaaaaa-00099", token="none"), rows) is None


def test_a_snapshot_lets_the_heads_durations_go_on() -> None:
    """The head speaks of changes only: a node that was idle for 5 s a minute ago is idle for 65 s."""
    stage = Stage(State.READY)
    stage.heard(
        Work(
            nodes=(node(NAME, idle_s=5.0),),
            idle_s=5.0,
            standing=(Standing(owner="o", bundles=(Bundle(amounts={}),), ttl_s=30.0),),
        )
    )
    stage.clock.pass_(60.0)
    seen = snapshot(stage.seen, stage.ledger, stage.clock.now_s)
    assert seen.work.nodes[0].idle_s == 65.0
    assert seen.work.idle_s == 65.0
    assert seen.work.standing == ()


def test_a_snapshot_counts_what_was_started_since_the_market_was_read() -> None:
    stage = Stage(State.BOOTING, created_s=50.0)
    quota = Quota(name="q", provider="sim", region="r1", limit=10, used=1, weights={"s2": 2})
    market = Market(offers=(offer(limit=3),), quotas=(quota,))
    stage.seen.hear_market("sim", market, 40.0)
    seen = snapshot(stage.seen, stage.ledger, 100.0)
    assert (seen.offers[0].limit, seen.quotas[0].used) == (2, 3)
    stage.seen.hear_market("sim", market, 60.0)
    seen = snapshot(stage.seen, stage.ledger, 100.0)
    assert (seen.offers[0].limit, seen.quotas[0].used) == (3, 1)


def test_a_sick_offer_may_be_probed_for_a_while_and_is_then_free_again() -> None:
    stage = Stage(State.READY)
    row = HealthRow(scope="sim", p_success=0.5, until_s=110.0, probe_s=30.0, failures=1)

    def health(now_s: float, **fields: object) -> tuple[float, bool]:
        with stage.ledger.changing() as change:
            change.put(msgspec.structs.replace(row, **fields))
        (one,) = snapshot(stage.seen, stage.ledger, now_s).health
        return one.unhealthy_for_s, one.may_probe

    assert health(100.0) == (10.0, False)
    assert health(110.0) == (0.0, True)
    assert health(110.0, probing="t")[0] > 0
    assert health(140.0) == (0.0, False)
