"""Leases are asked back for those who have fewer, of what they lack, until they have their share; verdicts are kept."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from shoal.foundation.amounts import UNIT, Amounts
from shoal.runtime.agent.clients import ClassRow, Client
from shoal.runtime.agent.leases import LEASE_MIN_S, RECLAIM_AGAIN_S, Leases
from shoal.runtime.agent.stock import Stock
from shoal.testing import sim_time
from shoal.wire import tasks as wire

ONE: Amounts = {"CPU": UNIT}


class Pool:
    """Workers at once, as many as are asked for."""

    def __init__(self) -> None:
        self.count = 0
        self.killed: list[Any] = []

    def take(self, kind: Any, call: Any, *, is_fresh: bool) -> None:
        self.count += 1
        info = SimpleNamespace(info={"addresses": []})
        worker = SimpleNamespace(process=b"w%d" % self.count, client=info, lease=None, grip=None, is_dead=False)
        worker.kill_why, worker.is_reusable = "", True
        call(worker)

    def put_back(self, worker: Any) -> None: ...

    def kill(self, worker: Any, why: str) -> None:
        self.killed.append(worker)


class Desk:
    """Leases of one node with several owners, and what each owner was told."""

    def __init__(self, total: Amounts) -> None:
        self.clock = sim_time.HandClock()
        self.pool = Pool()
        self.stock = Stock(total)
        self.leases = Leases(
            self.clock,
            self.stock,
            self.pool,  # type: ignore[arg-type]
            "aa" * 14,
            {},
            bind=lambda *_: None,
            place=lambda row, count: None,
            changed=lambda: None,
        )
        self.told: dict[Client, list[Any]] = {}

    def owner(self, name: str, *classes: Amounts) -> Client:
        told: list[Any] = []
        client = Client(SimpleNamespace(send=told.append), "driver", name.encode(), 1, {})  # type: ignore[arg-type]
        self.told[client] = told
        for key, amounts in enumerate(classes, 1):
            client.classes[key] = ClassRow(client, key, {"amounts": amounts})
        return client

    async def need(self, client: Client, waiting: int, *, key: int = 1) -> None:
        self.leases.need(client, key, waiting, client.classes[key].granted, -1)
        await self.pause(0.0)

    async def pause(self, duration_s: float) -> None:
        """Let time pass, and the agent look again."""
        self.clock.now_s += duration_s
        self.leases.schedule_soon()
        for _ in range(3):
            await asyncio.sleep(0)

    def reclaimed(self, client: Client) -> list[int]:
        return [message[1] for message in self.told[client] if message[0] == wire.RECLAIM and len(message) == 2]

    def wanted(self, client: Client) -> list[int]:
        """Return the leases that it was asked not to keep while they are idle."""
        return [message[1] for message in self.told[client] if message[0] == wire.RECLAIM and message[2:] == (True,)]


def test_one_long_task_does_not_keep_others_from_their_share() -> None:
    async def check() -> None:
        desk = Desk({"CPU": 4 * UNIT})
        greedy, late = desk.owner("greedy", ONE), desk.owner("late", ONE)
        await desk.need(greedy, 100)
        await desk.pause(1.5 * LEASE_MIN_S)
        await desk.need(late, 100)
        assert len(desk.reclaimed(greedy)) == 1, "one at a time: it may be enough"
        await desk.pause(RECLAIM_AGAIN_S / 2)
        assert len(desk.reclaimed(greedy)) == 1

        for _ in range(10):
            await desk.pause(RECLAIM_AGAIN_S)
        asked = desk.reclaimed(greedy)
        assert len(set(asked)) == len(asked) == 4, "each once, and all: any may be the long one"

        desk.leases.give_back(asked[-1], is_reusable=True)
        await desk.pause(0.0)
        assert late.held == 1

    sim_time.run(check())


def test_nobody_is_asked_for_more_than_its_share() -> None:
    async def check() -> None:
        desk = Desk({"CPU": 4 * UNIT})
        greedy, late = desk.owner("greedy", ONE), desk.owner("late", ONE)
        await desk.need(greedy, 3)
        await desk.need(late, 1)
        assert (greedy.held, late.held) == (3, 1)
        await desk.pause(1.5 * LEASE_MIN_S)
        await desk.need(late, 100)

        for _ in range(10):
            await desk.pause(RECLAIM_AGAIN_S)
        assert len(desk.reclaimed(greedy)) == 2
        assert not desk.reclaimed(late)

    sim_time.run(check())


def test_who_has_its_share_is_asked_for_what_others_do_not_use_once() -> None:
    """It may be an idle lease that is kept for what might come; a busy one stays where it is."""

    async def check() -> None:
        desk = Desk({"CPU": 3 * UNIT, "GPU": UNIT})
        other, busy, late = desk.owner("other", ONE, {"GPU": UNIT}), desk.owner("busy", ONE), desk.owner("late", ONE)
        await desk.need(other, 1)
        await desk.need(other, 1, key=2)
        with_cpu = next(one.number for one in desk.leases.by_number.values() if "CPU" in one.grip.amounts)
        await desk.need(busy, 1)
        await desk.need(late, 1)
        assert not desk.wanted(other), "nobody waits"

        desk.leases.need(busy, 1, 1, 1, -1)  # more waits there: what it has is not idle
        await desk.need(late, 1)
        for _ in range(10):
            await desk.pause(RECLAIM_AGAIN_S)
        assert [desk.wanted(one) for one in (other, busy, late)] == [[with_cpu], [], []]
        desk.leases.give_back(with_cpu, is_reusable=True)
        await desk.pause(0.0)
        assert busy.held + late.held == 3

    sim_time.run(check())


def test_only_leases_of_what_is_lacking_are_asked_back() -> None:
    """Others would be given back for nothing, again and again, and the one that is needed never asked for."""

    async def check() -> None:
        gpu: Amounts = {"GPU": UNIT}
        desk = Desk({"CPU": 4 * UNIT, "GPU": UNIT})
        greedy, late = desk.owner("greedy", ONE, gpu), desk.owner("late", gpu)
        await desk.need(greedy, 4)
        await desk.need(greedy, 9, key=2)
        with_gpu = next(one.number for one in desk.leases.by_number.values() if "GPU" in one.grip.amounts)
        await desk.pause(1.5 * LEASE_MIN_S)
        await desk.need(late, 1)

        for _ in range(10):
            await desk.pause(RECLAIM_AGAIN_S)
        assert desk.reclaimed(greedy) == [with_gpu]

    sim_time.run(check())


def test_leases_of_the_node_are_not_asked_back_for_a_bundle() -> None:
    async def check() -> None:
        desk = Desk({"CPU": 4 * UNIT})
        assert desk.stock.prepare(("g", 0), ONE)
        greedy, late = desk.owner("greedy", ONE, ONE), desk.owner("late", ONE)
        greedy.classes[2].bundle = late.classes[1].bundle = ("g", 0)
        await desk.need(greedy, 3)
        await desk.need(greedy, 9, key=2)
        in_bundle = next(one.number for one in desk.leases.by_number.values() if one.grip.bundle is not None)
        await desk.pause(1.5 * LEASE_MIN_S)
        await desk.need(late, 1)

        for _ in range(10):
            await desk.pause(RECLAIM_AGAIN_S)
        assert desk.reclaimed(greedy) == [in_bundle]

    sim_time.run(check())


@pytest.mark.parametrize("is_told", [True, False], ids=["known", "on its way"])
def test_the_verdict_on_a_worker_comes_after_its_lease_and_again_for_who_asks(*, is_told: bool) -> None:
    """An owner may hear of both while it dials; it gives work to what is dead then, and asks once that breaks."""

    async def check() -> None:
        desk = Desk({"CPU": UNIT})
        owner, other = desk.owner("owner", ONE), desk.owner("other", ONE)
        desk.leases.need(owner, 1, 1, 0, -1)
        for _ in range(3 if is_told else 1):
            await asyncio.sleep(0)
        lease = next(iter(desk.leases.by_number.values()))
        assert lease.worker is not None
        desk.leases.worker_died(lease.worker, "killed", 7)
        for _ in range(3):
            await asyncio.sleep(0)
        verdict = (wire.DIED, b"w1", "killed", 7)
        kinds = [message[0] for message in desk.told[owner]]
        assert kinds[:2] == [wire.LEASED, wire.DIED]
        assert desk.told[owner][1] == verdict

        desk.leases.revoke(other, lease.number)
        assert not desk.told[other]
        desk.leases.revoke(owner, lease.number)
        assert desk.told[owner][-1] == verdict
        assert desk.told[owner].count(verdict) == 2

    sim_time.run(check())


def test_a_worker_that_starts_in_a_group_removed_meanwhile_is_killed() -> None:
    async def check() -> None:
        desk = Desk({"CPU": UNIT})
        assert desk.stock.prepare(("g", 0), ONE)
        owner = desk.owner("owner", ONE)
        owner.classes[1].bundle = ("g", 0)
        started: list[Any] = []
        take = desk.pool.take
        desk.pool.take = lambda kind, call, *, is_fresh: started.append(call)  # type: ignore[method-assign]
        desk.leases.need(owner, 1, 1, 0, -1)
        await asyncio.sleep(0)
        desk.leases.end_group("g", "removed")

        take(None, started[0], is_fresh=False)
        assert len(desk.pool.killed) == 1

    sim_time.run(check())


def test_a_lease_that_is_asked_back_before_its_worker_has_started_is_asked_back_then() -> None:
    async def check() -> None:
        desk = Desk({"CPU": UNIT})
        owner = desk.owner("owner", ONE)
        started: list[Any] = []
        take = desk.pool.take
        desk.pool.take = lambda kind, call, *, is_fresh: started.append(call)  # type: ignore[method-assign]
        desk.leases.need(owner, 1, 1, 0, -1)
        await asyncio.sleep(0)
        lease = next(iter(desk.leases.by_number.values()))
        desk.leases.reclaim(lease)
        await desk.pause(0.0)
        assert not desk.told[owner]

        take(None, started[0], is_fresh=False)
        await desk.pause(0.0)
        assert [message[0] for message in desk.told[owner]] == [wire.LEASED, wire.RECLAIM]

    sim_time.run(check())
