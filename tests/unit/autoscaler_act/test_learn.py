"""Health of offers and launch breakers: how far a cause reaches, for how long, and what heals it."""

from __future__ import annotations

import itertools

import pytest

from shoal.autoscaler.act.deadlines import returned, without_expiry
from shoal.autoscaler.act.learn import PROBE_S, Learned, may_probe
from shoal.autoscaler.act.ledger import Ledger
from shoal.autoscaler.act.rows import HealthRow
from shoal.autoscaler.decide.health import scope_of
from shoal.autoscaler.decide.wares import in_scope
from shoal.foundation.chance import Chance
from shoal.foundation.errors import (
    CapacityError,
    CredentialError,
    ProviderError,
    QuotaError,
    Scope,
    ThrottledError,
)
from shoal.foundation.eventlog import Kind, MemoryLog
from shoal.model.instance import State
from shoal.model.plan import Buy, Drain, Release
from shoal.model.policy import Health
from shoal.testing.builders import instance, offer_key
from shoal.testing.memory_disk import MemoryDisk
from shoal.testing.sim_time import HandClock


class Stage:
    def __init__(self) -> None:
        self.clock = HandClock()
        self.ledger = Ledger(MemoryDisk(), self.clock)
        self.log = MemoryLog(self.clock)
        self.learned = Learned(self.clock, Chance(1), self.ledger, self.log, Health())

    def fail(self, error: ProviderError) -> HealthRow:
        with self.ledger.changing() as change:
            self.learned.failed(change, offer_key(), "s2", error)
        return self.ledger.health[scope_of(offer_key(), error)]

    def boot_fails(self, times: int = 1) -> None:
        for _ in range(times):
            with self.ledger.changing() as change:
                self.learned.never_joined(change, instance(), "silent")

    def joins(self) -> None:
        with self.ledger.changing() as change:
            self.learned.joined(change, instance())


@pytest.mark.parametrize(
    ("error", "scope"),
    [
        (CapacityError(""), "sim/r1/z1/s2/on-demand"),
        (CapacityError("", scope=Scope.MARKET), "sim/r1/z1/s2/on-demand"),
        (QuotaError(""), "sim/r1"),
        (ThrottledError(""), "sim"),
        (CredentialError(""), "sim"),
    ],
)
def test_an_error_reaches_as_far_as_its_scope(error: ProviderError, scope: str) -> None:
    assert scope_of(offer_key(), error) == scope
    assert in_scope(scope, str(offer_key()))


def test_capacity_failures_rest_longer_each_time_and_lower_the_chance() -> None:
    stage = Stage()
    waits = []
    for _ in range(9):
        row = stage.fail(CapacityError("none"))
        waits.append(row.until_s - stage.clock.now_s)
    rules = Health()
    assert rules.ttl_first_s / 2 <= waits[0] <= rules.ttl_first_s
    assert all(later > sooner * 0.9 for sooner, later in itertools.pairwise(waits[:6]))
    assert max(waits) <= rules.ttl_most_s
    assert row.p_success == rules.p_least


def test_throttling_rests_as_long_as_the_cloud_says_and_says_nothing_about_capacity() -> None:
    row = Stage().fail(ThrottledError("slow", retry_after_s=7.0))
    assert (row.until_s, row.p_success, row.probe_s) == (1007.0, 1.0, 0.0)


def test_what_only_a_person_can_mend_rests_for_half_an_hour_and_opens_the_breaker() -> None:
    stage = Stage()
    assert stage.fail(CredentialError("denied", code="AccessDenied")).until_s == 2800.0
    stage.fail(CredentialError("denied", code="AccessDenied"))
    stage.fail(CredentialError("denied", code="AccessDenied"))
    (breaker,) = stage.ledger.breakers.values()
    assert (breaker.cause, breaker.until_s) == ("AccessDenied", stage.clock.now_s + 60.0)


def test_a_healed_scope_is_probed_by_one_machine_at_a_time_and_then_free() -> None:
    stage = Stage()
    row = stage.fail(CapacityError("none"))
    assert not may_probe(row, row.until_s - 1)
    assert may_probe(row, row.until_s)
    assert not may_probe(row, row.until_s + max(PROBE_S, row.probe_s))

    stage.clock.now_s = row.until_s
    step = Buy(instance_ids=("i",), node_type="s2", offer=offer_key(), why="", is_probe=True)
    with stage.ledger.changing() as change:
        change.put(instance("i", State.REQUESTED, token="probe"))
        stage.learned.probing(change, step, "probe")
    (row,) = stage.ledger.health.values()
    assert row.probing == "probe" and not may_probe(row, row.until_s)

    with stage.ledger.changing() as change:
        stage.learned.settled(change)
    assert next(iter(stage.ledger.health.values())).probing == "probe", "it is still on its way"
    with stage.ledger.changing() as change:
        change.put(instance("i", State.GONE, token="probe"))
    with stage.ledger.changing() as change:
        stage.learned.settled(change)
    assert not next(iter(stage.ledger.health.values())).probing


def test_a_node_that_joins_heals_its_offer_step_by_step() -> None:
    stage = Stage()
    stage.fail(CapacityError("none"))
    stage.fail(CapacityError("none"))
    stage.joins()
    (row,) = stage.ledger.health.values()
    assert (row.p_success, row.failures, row.until_s) == (0.625, 0, 0.0)
    for _ in range(8):
        stage.joins()
    assert not stage.ledger.health


def test_three_machines_that_never_joined_open_the_breaker_and_one_that_joins_closes_it() -> None:
    stage = Stage()
    stage.boot_fails(2)
    assert all(breaker.until_s is None for breaker in stage.ledger.breakers.values())
    stage.boot_fails()
    (breaker,) = stage.ledger.breakers.values()
    assert breaker.until_s == stage.clock.now_s + 60.0
    stage.boot_fails()
    (breaker,) = stage.ledger.breakers.values()
    assert breaker.until_s == stage.clock.now_s + 120.0
    stage.joins()
    assert not stage.ledger.breakers
    kinds = [event.kind for event in stage.log.events]
    assert kinds.count(Kind.BREAKER_OPENED) == 2 and kinds[-1] is Kind.BREAKER_CLOSED


def test_a_join_closes_no_other_types_breaker() -> None:
    stage = Stage()
    stage.boot_fails(3)
    with stage.ledger.changing() as change:
        stage.learned.joined(change, instance(node_type="s4"))
    assert stage.ledger.breakers


def test_in_the_grace_nothing_expires_but_a_halted_machine_waits_for_nothing() -> None:
    rows = {
        name: instance(name, state)
        for name, state in (
            ("a", State.BOOTING),
            ("b", State.LOST),
            ("c", State.LOST),
            ("d", State.DRAINED),
            ("e", State.STRAY),
        )
    }
    steps = [Release(instance_id=name, why="") for name in rows]
    left = without_expiry(steps, rows, is_halted=lambda name: name == "c")
    assert [step.instance_id for step in left if isinstance(step, Release)] == ["c", "d", "e"]


def test_what_joined_after_it_was_written_off_is_asked_whether_it_is_idle() -> None:
    rows = [
        instance("a", State.DRAINING),
        instance("b", State.DRAINING, drain_order="d-1"),
        instance("c", State.DRAINING),
        instance("d", State.READY),
    ]
    steps = returned(rows, in_contact=lambda name: name != "c")
    assert steps == [Drain(instance_id="a", why="it joined after it was written off")]
