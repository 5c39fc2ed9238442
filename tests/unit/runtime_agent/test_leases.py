"""What the head has placed here is granted here, and no more of what is better off elsewhere."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from shoal.foundation.amounts import UNIT
from shoal.runtime.agent.clients import ClassRow, Client
from shoal.runtime.agent.leases import NEAR_S, Leases
from shoal.runtime.agent.stock import Stock
from shoal.testing import sim_time
from shoal.wire import tasks as wire

HERE, THERE = "aa" * 14, "bb" * 14


class Pool:
    """Workers at once, as many as are asked for."""

    def __init__(self) -> None:
        self.count = 0

    def take(self, kind: Any, call: Any, *, is_fresh: bool) -> None:
        self.count += 1
        info = SimpleNamespace(info={"addresses": []})
        call(SimpleNamespace(process=b"w%d" % self.count, client=info, lease=None, grip=None, is_dead=False))


class Desk:
    """Leases of one node with one owner; what was asked of the head, and what the owner was told."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.asked: list[int] = []
        self.near: list[int] = []
        self.told: list[Any] = []
        self.is_near_known = True
        self.clock = sim_time.HandClock()
        self.leases = Leases(
            self.clock,
            Stock({"CPU": 8 * UNIT}),
            Pool(),  # type: ignore[arg-type]
            HERE,
            {},
            bind=lambda *_: self.told.append(["bind"]),
            place=lambda row, count: self.asked.append(count),
            place_near=self._near,
            changed=lambda: None,
        )
        self.client = Client(SimpleNamespace(send=self.told.append), "driver", b"owner", 1, {})  # type: ignore[arg-type]
        self.row = self.client.classes[1] = ClassRow(self.client, 1, {"amounts": {"CPU": UNIT}, **spec})

    def _near(self, row: ClassRow, count: int) -> bool:
        self.near.append(count)
        return self.is_near_known

    async def need(self, waiting: int, seen: int = 0, seen_anywhere: int = 0) -> None:
        self.leases.need(self.client, 1, waiting, seen, -1, 0, max(seen, seen_anywhere))
        await _two_turns()

    async def placed(self, count: int, here: int) -> None:
        self.leases.placed(self.row, count, here)
        await _two_turns()

    @property
    def granted(self) -> int:
        return sum(message[0] == wire.LEASED for message in self.told)


async def _two_turns() -> None:
    """One to grant, and one until the owner is told."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def _an_owner_hears_of_a_lease_a_turn_after_its_worker() -> None:
    desk = Desk({})
    desk.leases.need(desk.client, 1, 1, 0, -1, 0, 0)
    await asyncio.sleep(0)
    assert [message[0] for message in desk.told] == ["bind"]
    await asyncio.sleep(0)
    assert [message[0] for message in desk.told] == ["bind", wire.LEASED]


def test_an_owner_hears_of_a_lease_a_turn_after_its_worker() -> None:
    """Else its first task can overtake what the worker must know of it: whose it is, and in which group."""
    sim_time.run(_an_owner_hears_of_a_lease_a_turn_after_its_worker())


async def _a_preference_holds_for_later_work_too(spec: dict[str, Any]) -> None:
    desk = Desk(spec)
    await desk.need(3)
    assert (desk.granted, desk.asked) == (0, [3]), "the head knows where it belongs"
    await desk.need(1)  # less is left by the time of the answer
    await desk.placed(3, here=2)
    assert desk.granted == 1
    await desk.need(0, seen=1)

    await desk.need(2, seen=1)
    assert desk.granted == 1, "what was said of earlier work says nothing about this"
    desk.leases.placed(desk.row, 2, 2)
    await _two_turns()
    assert desk.granted == 3


def test_work_with_a_soft_affinity_to_another_node_runs_here_only_as_the_head_says() -> None:
    sim_time.run(_a_preference_holds_for_later_work_too({"selector": [{}, [], [THERE], True]}))


def test_spread_work_runs_here_only_as_the_head_says() -> None:
    sim_time.run(_a_preference_holds_for_later_work_too({"spread": True}))


def test_work_without_a_preference_runs_here_at_once() -> None:
    async def check() -> None:
        desk = Desk({})
        await desk.need(3)
        assert (desk.granted, desk.asked) == (3, [])

    sim_time.run(check())


def test_what_was_placed_elsewhere_is_not_asked_for_again_while_its_workers_start() -> None:
    async def check() -> None:
        desk = Desk({"selector": [{}, [], [THERE], True]})
        await desk.need(3)
        await desk.placed(3, here=0)
        for _ in range(10):
            desk.clock.pass_(0.1)
            await desk.need(3)
        assert desk.asked == [3], "each time the head would reserve three more, until its node is full"
        desk.clock.pass_(0.1)
        await desk.need(4, seen_anywhere=2)  # two have come, one is awaited, and there is more work
        assert desk.asked == [3, 3]
        await desk.placed(1, here=0)
        desk.clock.pass_(2.1)
        await desk.need(4, seen_anywhere=2)
        assert desk.asked == [3, 3, 4], "what never came is asked for again"

    sim_time.run(check())


async def _is_left_to_the_node_of_its_arguments_for_a_moment() -> None:
    desk = Desk({"near": THERE})
    await desk.need(3)
    assert (desk.granted, desk.near, desk.asked) == (0, [3], [])
    desk.clock.pass_(NEAR_S * 0.9)
    await desk.need(2)
    assert (desk.granted, desk.near) == (0, [3]), "one has gone there; the others have a little time left"
    desk.clock.pass_(NEAR_S * 0.2)
    await desk.need(1)
    assert (desk.granted, desk.near) == (1, [3]), "what is left runs where there is room"
    await desk.need(0, seen=1)
    await desk.need(2, seen=1)
    assert (desk.granted, desk.near) == (1, [3, 2]), "later work is left to that node anew"

    desk = Desk({"near": THERE})
    await desk.need(12)
    desk.clock.pass_(NEAR_S * 1.1)
    await desk.need(12)
    assert (desk.granted, desk.asked) == (8, [4]), "the head places what has no room here either"


def test_work_is_left_to_the_node_of_its_arguments_for_a_moment() -> None:
    sim_time.run(_is_left_to_the_node_of_its_arguments_for_a_moment())


async def _runs_here_if_the_node_of_its_arguments_is_unknown() -> None:
    desk = Desk({"near": THERE})
    desk.is_near_known = False
    await desk.need(3)
    await asyncio.sleep(0)
    assert (desk.granted, desk.asked) == (3, [])


def test_work_runs_here_if_the_node_of_its_arguments_is_unknown() -> None:
    sim_time.run(_runs_here_if_the_node_of_its_arguments_is_unknown())
