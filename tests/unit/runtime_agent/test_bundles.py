"""Two phases with what gets lost, comes late and comes again: no bundle leaks, none is confirmed that is not held."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from shoal.foundation.amounts import Amounts
from shoal.runtime.agent.bundles import PREPARED_LIMIT_S, Bundles
from shoal.runtime.agent.stock import Stock
from shoal.testing.sim_time import HandClock
from shoal.wire import messages as told

CPU = 10_000


class Node:
    """Bundles on a node of 8 CPUs, and what it says to the head."""

    def __init__(self) -> None:
        self.clock, self.stock, self.said = HandClock(), Stock({"CPU": 8 * CPU}), list[Any]()
        self.leases = SimpleNamespace(
            is_open=True, idle_serial=0, schedule_soon=lambda: None, end_group=lambda *_: None
        )
        actors = SimpleNamespace(end_group=lambda *_: None)
        self.bundles = Bundles(self.clock, self.stock, self.leases, actors, self.said.append, lambda: None)  # type: ignore[arg-type]

    def prepare(self, serial: int, *numbers: int, group: str = "g") -> bool:
        parts: dict[int, Amounts] = {number: {"CPU": 2 * CPU} for number in numbers}
        self.bundles.prepare(told.Prepare(group, serial, parts))
        answer = self.said.pop()
        assert (answer.group_id, answer.serial) == (group, serial)
        return bool(answer.is_ready)

    def commit(self, serial: int, group: str = "g") -> bool:
        self.bundles.commit(told.Commit(group, serial))
        return isinstance(self.said.pop(), told.Committed)

    @property
    def free(self) -> int:
        return self.stock.free.get("CPU", 0) // CPU


def test_a_newer_attempt_takes_the_place_of_what_an_older_one_reserved() -> None:
    node = Node()
    assert node.prepare(1, 0, 1, 2)

    assert node.prepare(2, 1)

    assert node.free == 6
    assert node.commit(2)
    node.bundles.give_back(told.ReturnBundles("g", "removed"))
    assert node.free == 8


def test_a_commit_after_the_bundles_were_dropped_is_not_confirmed() -> None:
    node = Node()
    assert node.prepare(1, 0)
    node.clock.pass_(PREPARED_LIMIT_S + 1)
    node.bundles.expire()
    assert node.free == 8

    assert not node.commit(1)

    assert node.bundles.committed() == {}


def test_a_commit_of_another_attempt_commits_nothing() -> None:
    node = Node()
    assert node.prepare(1, 0)
    assert node.prepare(2, 1)

    assert not node.commit(1)
    assert node.commit(2)

    assert node.bundles.committed() == {"g": [1]}


def test_committed_bundles_stay_when_more_of_the_group_is_prepared_and_given_up() -> None:
    node = Node()
    assert node.prepare(1, 0)
    assert node.commit(1)
    assert node.prepare(2, 0, 1)
    assert node.free == 4

    node.clock.pass_(PREPARED_LIMIT_S + 1)
    node.bundles.expire()

    assert node.free == 6
    assert node.bundles.committed() == {"g": [0]}


@pytest.mark.parametrize("seed", range(200))
def test_whatever_gets_lost_or_comes_again_no_bundle_leaks(seed: int) -> None:
    chance, node = random.Random(seed), Node()
    past: list[Any] = []
    for serial in range(60):
        group = chance.choice("gh")
        parts: dict[int, Amounts] = {n: {"CPU": chance.choice([1, 2]) * CPU} for n in range(3) if chance.random() < 0.6}
        message: Any = chance.choice(
            [
                told.Prepare(group, serial, parts),
                told.Commit(group, serial - chance.choice([1, 1, 2])),
                told.ReturnBundles(group, "removed"),
                *past[-3:],  # again, or late
            ]
        )
        past.append(message)
        match message:
            case told.Prepare():
                node.bundles.prepare(message)
            case told.Commit():
                before = node.bundles.committed()
                node.bundles.commit(message)
                if isinstance(node.said[-1], told.Prepared):
                    assert node.bundles.committed() == before
            case _:
                node.bundles.give_back(message)
        if chance.random() < 0.2:
            node.clock.pass_(chance.uniform(0, PREPARED_LIMIT_S))
            node.bundles.expire()
        held = {(one, number) for one, numbers in node.bundles.committed().items() for number in numbers}
        held |= {(one, number) for one, entry in node.bundles._prepared.items() for number in entry[1]}
        assert node.stock.bundles.keys() == held, "a bundle that no attempt and no group knows"
        assert node.free + sum(one["CPU"] for one in node.stock.bundles.values()) // CPU == 8
    node.clock.pass_(PREPARED_LIMIT_S + 1)
    node.bundles.expire()
    for group in "gh":
        node.bundles.give_back(told.ReturnBundles(group, "removed"))
    assert node.free == 8
