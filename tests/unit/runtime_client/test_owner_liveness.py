"""No task waits in a queue beside a lease that does nothing, and no lease is kept for what is no task of ours."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.runtime.client.owner import IDLE_LEASE_S, IDLE_WANTED_BY_OTHERS_S
from shoal.wire import tasks as wire
from tests.unit.runtime_client.desk import Desk, Link


def lease_comes(desk: Desk, key: int, number: int, link: Link | None = None) -> None:
    """Have the agent grant a lease; without a link its worker is still being dialled."""
    if link is not None:
        desk.core.with_peer = lambda address, call: call(link)
    desk.core.handlers[wire.LEASED](desk.agent, [wire.LEASED, key, number, b"w%d" % number, [], []])


def pushed(link: Link) -> int:
    return sum(message[0] == wire.TASK for message in link.out)


def test_what_a_dead_worker_had_not_started_goes_to_a_lease_that_does_nothing() -> None:
    """Its own CPU may be somebody else's by now, and a lease with a queue beside it would never be given back."""
    desk = Desk()
    work = desk.work(1)
    failed: list[int] = []
    desk.owner.fail = lambda ref, why, has_started: failed.append(ref._n)
    dying, idle = Link(), Link()
    desk.submit(work)
    lease_comes(desk, work.key, 1, dying)
    started = next(iter(dying.pending))
    lease_comes(desk, work.key, 2, idle)  # returned at once: nothing waits
    assert desk.returned() == [2]
    desk.submit(work)
    lease_comes(desk, work.key, 3, idle)
    unstarted = next(iter(idle.pending))
    dying.pending[unstarted] = idle.pending.pop(unstarted)  # as if it had been pushed ahead there

    desk.core.has_link = lambda link: False
    desk.core.lending = Forgetful()
    desk.core.handlers[wire.DIED](desk.agent, [wire.DIED, b"w1", "killed", started])

    assert failed == [started]
    assert list(idle.pending) == [unstarted]
    assert not work.queue


class Forgetful:
    def forget(self, process: bytes) -> None: ...


@pytest.mark.parametrize("more", [{"is_single_use": True}, {"spread": True}], ids=["single use", "spread"])
def test_work_that_always_asks_takes_a_lease_that_does_nothing(more: dict[str, Any]) -> None:
    desk = Desk()
    work = desk.work(1, **more)
    number = desk.lease(work)

    desk.submit(work)

    assert pushed(desk.owner.leases[desk.agent, number].link) == 1  # type: ignore[index]
    assert not work.queue


def test_an_answer_that_somebody_waits_for_does_not_make_a_lease_busy() -> None:
    desk = Desk()
    work = desk.work(1)
    number = desk.lease(work, unused_s=2 * IDLE_LEASE_S)
    desk.owner.leases[desk.agent, number].link.asked[7] = lambda format, data: None  # type: ignore[index]

    desk.owner._tick(desk.now())

    assert desk.returned() == [number]


def test_a_lease_that_is_asked_back_while_its_worker_is_dialled_is_given_back() -> None:
    """The agent asks once; a request that found nobody would be lost, and others would wait for as long as we work."""
    desk = Desk()
    work = desk.work(1)
    dialled: list[Any] = []
    desk.core.with_peer = lambda address, call: dialled.append(call)
    desk.submit(work)
    lease_comes(desk, work.key, 1)

    desk.core.handlers[wire.RECLAIM](desk.agent, [wire.RECLAIM, 1])
    link = Link()
    dialled[0](link)

    assert desk.returned() == [1]
    assert not link.pending
    assert (work.seen, len(work.queue)) == (1, 1)
    assert desk.agent.out[-1][:4] == (wire.NEED, work.key, 1, 1), "the agent counts the grant as absorbed"


def test_a_reclaim_that_crosses_the_return_of_its_lease_leaves_nothing() -> None:
    desk = Desk()
    desk.work(1)
    desk.core.handlers[wire.RECLAIM](desk.agent, [wire.RECLAIM, 1])
    assert not desk.owner._coming


def test_what_others_wait_for_is_not_kept_for_what_might_come() -> None:
    desk = Desk()
    work = desk.work(1)
    idle, new = desk.lease(work, unused_s=2 * IDLE_WANTED_BY_OTHERS_S), desk.lease(work, unused_s=0.0)
    desk.owner._tick(desk.now())
    assert not desk.returned()

    for number in (idle, new):
        desk.core.handlers[wire.RECLAIM](desk.agent, [wire.RECLAIM, number, True])
    desk.owner._tick(desk.now())
    assert desk.returned() == [idle], "the other has just been used and may be at once again"

    desk.owner._tick(desk.now() + 2 * IDLE_WANTED_BY_OTHERS_S)
    assert desk.returned() == [idle, new]


def test_what_others_wait_for_is_kept_while_it_works() -> None:
    desk = Desk()
    work = desk.work(1)
    number = desk.lease(work, unused_s=2 * IDLE_LEASE_S)
    lease = desk.owner.leases[desk.agent, number]  # type: ignore[index]
    desk.submit(work)
    assert lease.pending

    desk.core.handlers[wire.RECLAIM](desk.agent, [wire.RECLAIM, number, True])
    desk.owner._tick(desk.now() + IDLE_LEASE_S)
    assert not desk.returned()
    assert not lease.is_retiring, "it is ours as long as we use it"
