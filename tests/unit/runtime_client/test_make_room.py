"""Unused leases make room at once for other work of ours; what is used, or of use to nobody, stays."""

from __future__ import annotations

import pytest

from shoal.foundation.amounts import UNIT
from shoal.runtime.client import owner
from shoal.wire import tasks as wire
from tests.unit.runtime_client.desk import Desk


def test_work_without_a_lease_takes_the_place_of_unused_leases_before_it_asks() -> None:
    desk = Desk()
    first, second = desk.work(1), desk.work(1)
    busy, unused, _ = desk.lease(first, is_busy=True), desk.lease(first), desk.lease(first)

    desk.submit(second)

    assert busy not in desk.returned()
    assert [message[0] for message in desk.agent.out] == [wire.CLASS, wire.RETURN, wire.NEED]
    assert desk.returned() == [unused], "one is enough: the others stay warm"


def test_large_work_takes_as_many_as_it_needs() -> None:
    desk = Desk()
    first, second = desk.work(1), desk.work(2.5)
    unused = [desk.lease(first) for _ in range(4)]

    desk.submit(second)

    assert desk.returned() == unused[:3]


def test_work_that_has_leases_takes_only_what_was_unused_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "IDLE_WANTED_S", 60.0)  # so that no slow machine makes it pass
    desk = Desk()
    first, second = desk.work(1), desk.work(1)
    desk.lease(second, is_busy=True)
    desk.lease(first)
    unused = desk.lease(first, unused_s=61.0)

    desk.submit(second)

    assert desk.returned() == [unused]


def test_leases_of_other_bundles_and_of_work_that_waits_stay() -> None:
    desk = Desk()
    grouped, waiting, mine = desk.work(1, group=["g", 0, False]), desk.work(1), desk.work(1)
    in_group = desk.lease(grouped)
    desk.lease(waiting)
    waiting.queue.append(object())  # type: ignore[arg-type]

    desk.submit(mine)
    assert desk.returned() == []

    desk.owner.make_room({"CPU": UNIT}, group_id="g")
    assert desk.returned() == [in_group]


def test_what_needs_nothing_takes_nothing() -> None:
    desk = Desk()
    first = desk.work(1)
    desk.lease(first)

    desk.owner.make_room({})
    desk.owner.make_room({"GPU": UNIT})

    assert desk.returned() == []
