"""Drain in its three forms on a node's books: refused at once when busy, by a deadline, and taken back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from shoal.runtime.agent.drain import Drain
from shoal.testing.sim_time import HandClock
from shoal.wire import messages as told


class Node:
    """As much of an agent as a drain sees."""

    def __init__(self) -> None:
        self.clock, self.work, self.reclaimed = HandClock(), list[told.BusyFor](), list[int]()
        self.said: list[Any] = []
        self.killed: list[Any] = []
        self.lease = SimpleNamespace(number=7)
        self.worker = SimpleNamespace(lease=self.lease, actor=None)
        self.leases = SimpleNamespace(idle_serial=3, is_open=True, by_number={}, schedule_soon=lambda: None)
        self.leases.reclaim = lambda lease: self.reclaimed.append(lease.number)
        self.actors = SimpleNamespace(is_open=True)
        self.pool = SimpleNamespace(workers={}, kill=lambda worker, why: self.killed.append(worker))
        self.objects = SimpleNamespace(drain=lambda: None)
        self.head = SimpleNamespace(send=self.said.append)
        self.state = SimpleNamespace(left_behind=lambda: "left")
        self.drain = Drain(self)  # type: ignore[arg-type]

    def busy(self) -> list[told.BusyFor]:
        return self.work

    def begin_work(self) -> None:
        self.work = [told.BusyFor("lease", 1)]
        self.leases.by_number, self.pool.workers = {7: self.lease}, {1: self.worker}

    @property
    def answers(self) -> list[tuple[str, str]]:
        return [(one.order, one.answer) for one in self.said if isinstance(one, told.DrainAnswer)]

    @property
    def is_open(self) -> bool:
        assert self.leases.is_open == self.actors.is_open
        return bool(self.leases.is_open)


def test_an_idle_node_is_emptied_in_the_very_turn_in_which_it_is_asked() -> None:
    node = Node()
    node.drain.cordon(told.Cordon("o", True))

    node.drain.begin(told.Drain("o", 3, None))

    assert node.answers == [("o", "emptied")]
    assert not node.is_open


def test_a_busy_node_and_one_where_work_came_and_went_refuse_and_take_work_again() -> None:
    for idle_serial, is_busy in ((3, True), (2, False)):
        node = Node()
        node.drain.cordon(told.Cordon("o", True))
        if is_busy:
            node.begin_work()

        node.drain.begin(told.Drain("o", idle_serial, None))

        assert node.answers == [("o", "busy")]
        assert not node.reclaimed
        node.drain.cordon(told.Cordon("o", False))
        assert node.is_open


def test_a_deadline_takes_leases_back_lets_work_finish_and_kills_what_is_left() -> None:
    node = Node()
    node.begin_work()
    node.drain.cordon(told.Cordon("o", True))
    node.drain.begin(told.Drain("o", None, 10.0))
    assert node.reclaimed == [7]
    assert not node.answers

    node.clock.pass_(9.9)
    node.drain.tick()
    assert not node.killed
    node.clock.pass_(0.2)
    node.drain.tick()
    assert node.killed == [node.worker]
    node.work = []
    node.drain.tick()

    assert node.answers == [("o", "emptied")]


def test_what_is_drained_again_by_its_deadline_is_taken_back() -> None:
    node = Node()
    node.begin_work()
    node.drain.cordon(told.Cordon("o", True))
    node.drain.begin(told.Drain("o", None, 10.0))

    node.drain.cordon(told.Cordon("", False))  # as an agent hears it that was out of touch
    node.clock.pass_(60)
    node.drain.tick()

    assert node.is_open
    assert not node.killed
    assert not node.answers


def test_the_newest_cordon_is_the_one_that_holds() -> None:
    node = Node()
    node.drain.cordon(told.Cordon("first", True))
    node.drain.cordon(told.Cordon("second", True))

    node.drain.cordon(told.Cordon("second", False))

    assert node.is_open
