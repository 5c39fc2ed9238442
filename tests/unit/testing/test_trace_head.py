"""The head of simulated days: nothing is lost, nothing is over-full, nothing waits that has room."""

from __future__ import annotations

import asyncio

import pytest

from shoal.foundation.amounts import amounts
from shoal.foundation.chance import Chance
from shoal.foundation.clock import LoopClock
from shoal.foundation.eventlog import MemoryLog
from shoal.model.demand import ANYWHERE, Bundle, Gang, Selector, Strategy
from shoal.placement.fits import fits
from shoal.testing import sim_time
from shoal.testing.trace_head import TraceHead

LABELS = ({"zone": "a"}, {"zone": "b"})


def _head() -> TraceHead:
    clock = LoopClock()
    head = TraceHead(clock, Chance("head"), MemoryLog(clock), cluster_uid="ab" * 16)
    head.prepare(lambda name: LABELS[int(name[1:]) % 2])
    return head


def _units(head: TraceHead) -> int:
    running = sum(one.count for one in head.running.values())
    return head.counts.finished + running + head.waiting


def _check(head: TraceHead) -> None:
    assert _units(head) == head.counts.submitted
    for node in head.nodes.values():
        assert all(amount >= 0 for amount in node.free.values())
    used = sum(one.amounts.get("CPU", 0) for one in head.running.values())
    assert head.cpu_used == used
    assert head.cpu_there == sum(node.total["CPU"] for node in head.nodes.values())
    for line in head.lines.values():
        if line.count:
            for name, node in head.nodes.items():
                has_room = node.takes_work and fits(line.amounts, node.free) and head._admits(line, name)
                assert not has_room, f"{line.key} waits although {name} has room"


@pytest.mark.parametrize("seed", range(20))
def test_units_are_conserved_and_room_is_used_whatever_joins_and_leaves(seed: int) -> None:
    async def play() -> None:
        head, chance = _head(), Chance(f"play/{seed}")
        joined = 0
        for step in range(120):
            match chance.randrange(6):
                case 0:
                    joined += 1
                    size = amounts({"CPU": chance.choice((2, 4, 16)), "memory": 2**33})
                    head.join(f"i{joined}", "t", size)
                case 1 if head.nodes:
                    head.lose(chance.choice(sorted(head.nodes)))
                case 2:
                    members = tuple(Bundle(amounts=amounts({"CPU": 1})) for _ in range(chance.randrange(1, 4)))
                    strategy = chance.choice(list(Strategy))
                    head.enter_gang(Gang(gang_id=f"g{step}", bundles=members, strategy=strategy), 20.0)
                case _:
                    cpu = chance.choice((0.5, 1, 2))
                    selector = chance.choice((ANYWHERE, Selector(hard={"zone": "a"})))
                    wanted = amounts({"CPU": cpu})
                    head.enter(wanted, selector, chance.randrange(1, 8), chance.uniform(1, 60), f"k{step}")
            await asyncio.sleep(chance.uniform(0, 5))
            _check(head)
        head.join("i9998", "t", amounts({"CPU": 500, "memory": 2**40}))
        for name in ("i10000", "i10002", "i10004"):
            head.join(name, "t", amounts({"CPU": 500, "memory": 2**40}))
        await asyncio.sleep(3000)
        _check(head)
        assert head.counts.finished == head.counts.submitted

    sim_time.run(play())


def test_older_work_of_a_class_starts_first_and_waits_are_counted_by_unit() -> None:
    async def play() -> None:
        head = _head()
        head.enter(amounts({"CPU": 1}), ANYWHERE, 2, 10.0, "k")
        await asyncio.sleep(5)
        head.enter(amounts({"CPU": 1}), ANYWHERE, 1, 10.0, "k")
        head.join("i0", "t", amounts({"CPU": 2}))
        await asyncio.sleep(30)

        assert [(round(wait_s), count) for wait_s, count in head.counts.waits] == [(5, 2), (10, 1)]

    sim_time.run(play())


def test_a_length_is_known_only_after_five_have_finished() -> None:
    async def play() -> None:
        head = _head()
        head.join("i0", "t", amounts({"CPU": 1}))
        head.enter(amounts({"CPU": 1}), ANYWHERE, 7, 10.0, "k")
        seen = []
        for _ in range(5):
            await asyncio.sleep(10.01)
            seen.append(head.work().classes[0].duration_s)

        assert seen[:4] == [None] * 4
        assert seen[4] == pytest.approx(10.0)

    sim_time.run(play())


def test_new_demand_is_told_at_once_and_usage_only_now_and_then() -> None:
    async def play() -> None:
        head = _head()
        told: list[float] = []

        async def follow() -> None:
            async for _ in head.watch():
                told.append(round(asyncio.get_running_loop().time(), 1))

        task = asyncio.ensure_future(follow())
        await asyncio.sleep(1)
        head.enter(amounts({"CPU": 1}), ANYWHERE, 1, 3.0, "k")
        await asyncio.sleep(1)
        head.join("i0", "t", amounts({"CPU": 1}))
        await asyncio.sleep(20)
        task.cancel()

        assert told[:2] == [0.0, 1.0]
        assert told[2] == 4.0, "the join is told after `usage_every_s`"

    sim_time.run(play())


def test_a_gang_that_loses_a_member_starts_anew_as_a_whole() -> None:
    async def play() -> None:
        head = _head()
        for name in ("i0", "i1"):
            head.join(name, "t", amounts({"CPU": 1}))
        bundles = (Bundle(amounts=amounts({"CPU": 1})),) * 2
        head.enter_gang(Gang(gang_id="g", bundles=bundles, strategy=Strategy.STRICT_SPREAD), 500.0)
        await asyncio.sleep(1)
        assert len(head.running) == 2

        head.lose("i1")
        await asyncio.sleep(60)
        assert (len(head.running), head.waiting, head.counts.put_back) == (0, 2, 2)

        head.join("i2", "t", amounts({"CPU": 1}))
        await asyncio.sleep(600)
        assert head.counts.finished == head.counts.submitted == 2

    sim_time.run(play())
