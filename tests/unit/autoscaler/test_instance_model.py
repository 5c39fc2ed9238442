"""Every world that the instance tables allow: the cloud, the agent and an adversarial planner move freely.

A world is what is true outside (does the machine exist, is a create call in flight, is the agent in contact, does
work run) beside what the ledger believes. The walk visits all of them. Two things must hold everywhere: a busy node in
contact is never released before its drain's deadline, and once things are calm every world ends with nothing left.
"""

from __future__ import annotations

import collections
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from shoal.autoscaler.decide import transitions
from shoal.autoscaler.decide.transitions import ForbiddenOrder, after_fact, after_order, may
from shoal.model.instance import COSTS, Fact, Order, State

NOTHING, RUNNING, HALTED = range(3)
Cells = dict[tuple[State, Fact], str]


class World(msgspec.Struct, frozen=True):
    state: State = State.QUEUED
    machine: int = NOTHING
    is_create_in_flight: bool = False
    is_in_contact: bool = False
    is_busy: bool = False
    is_cordoned: bool = False
    is_deadline_passed: bool = False
    is_barred: bool = False

    def but(self, **changes: object) -> World:
        return msgspec.structs.replace(self, **changes)


def moves(world: World, facts: Cells) -> Iterator[tuple[str, World]]:
    """Yield everything that can happen next: outside, as a fact, as an order."""
    yield from _outside(world)
    for fact in _true_facts(world):
        cell = facts[world.state, fact]
        after = world if cell == "." else world.but(state=State(cell))
        yield str(fact), after.but(is_cordoned=True) if fact is Fact.EMPTIED else after
    yield from _orders(world)


def _outside(world: World) -> Iterator[tuple[str, World]]:
    if world.is_create_in_flight:
        yield "the create call takes effect", world.but(is_create_in_flight=False, machine=RUNNING)
        yield "the create call fails for sure", world.but(is_create_in_flight=False)
    if world.machine == RUNNING:
        if not world.is_in_contact and not world.is_barred:
            yield "the agent gets in contact", world.but(is_in_contact=True)
        yield "the machine halts", world.but(machine=HALTED, is_in_contact=False, is_busy=False)
        yield "the machine vanishes", world.but(machine=NOTHING, is_in_contact=False, is_busy=False)
        if world.is_in_contact and not world.is_busy and not world.is_cordoned:
            yield "work arrives", world.but(is_busy=True)
    if world.machine == HALTED:
        yield "the machine comes back", world.but(machine=RUNNING)
    if world.is_in_contact:
        yield "the network is cut", world.but(is_in_contact=False)
    if world.is_busy:
        yield "work ends", world.but(is_busy=False)
    if world.state is State.DRAINING:
        yield "the deadline passes", world.but(is_deadline_passed=True)


def _true_facts(world: World) -> Iterator[Fact]:
    if world.machine == RUNNING:
        yield Fact.LISTED
    if world.machine == HALTED:
        yield Fact.HALTED
    if not world.is_in_contact:
        yield Fact.SILENT
        if not world.is_create_in_flight:
            yield Fact.ABSENT  # a listing may lie; contact is what overrules it
    if world.is_in_contact:
        yield Fact.JOINED
        if world.state is State.DRAINING:
            yield Fact.BUSY if world.is_busy else Fact.EMPTIED
    if not world.is_create_in_flight and world.machine == NOTHING and world.state in EARLY:
        yield Fact.REFUSED


EARLY = (State.QUEUED, State.REQUESTED, State.BOOTING)
BARRED_FIRST = (State.REQUESTED, State.BOOTING, State.LOST, State.STRAY)


def _orders(world: World) -> Iterator[tuple[str, World]]:
    for order in Order:
        if not may(world.state, order):
            continue
        after = world.but(state=after_order(world.state, order))
        if order is Order.CREATE:
            yield "create", after.but(is_create_in_flight=True) if world.machine == NOTHING else after
        elif order is Order.DRAIN:
            yield "drain", after.but(is_deadline_passed=False)
        elif order is Order.UNDRAIN:
            yield "undrain", after.but(is_cordoned=False, is_deadline_passed=False)
        elif transitions.release_needs(world.state) == "deadline" and not world.is_deadline_passed:
            continue
        elif transitions.release_needs(world.state) == "bar" and world.is_in_contact:
            continue  # the head answers `joined`: a fact, no release
        else:
            if transitions.release_needs(world.state) == "bar":
                after = after.but(is_barred=True)
            yield "release", after
            if world.machine:
                yield "release works", after.but(machine=NOTHING, is_in_contact=False, is_busy=False, is_cordoned=False)


def reachable(facts: Cells) -> dict[World, tuple[World, str] | None]:
    seen: dict[World, tuple[World, str] | None] = {World(): None}
    queue = collections.deque([World()])
    while queue:
        world = queue.popleft()
        for name, after in moves(world, facts):
            if after not in seen:
                seen[after] = (world, name)
                queue.append(after)
    return seen


def releases_of_busy_nodes(facts: Cells) -> list[World]:
    return [
        world
        for world in reachable(facts)
        for name, _ in moves(world, facts)
        if name == "release works" and world.is_in_contact and world.is_busy and not world.is_deadline_passed
    ]


def ends_when_calm(world: World, facts: Cells) -> bool:
    """Play on with a truthful cloud, no new work and a planner that wants nothing; say whether nothing is left."""
    for _ in range(60):
        if world.state is State.GONE and world.machine == NOTHING and not world.is_create_in_flight:
            return True
        if world.is_create_in_flight:
            world = world.but(is_create_in_flight=False, machine=RUNNING)
            continue
        told = [{RUNNING: Fact.LISTED, HALTED: Fact.HALTED}.get(world.machine)]
        if world.machine == NOTHING and not world.is_in_contact:
            told = [Fact.ABSENT]
        world = world.but(is_busy=False)
        if world.machine == RUNNING and not world.is_barred:
            world = world.but(is_in_contact=True)
        told.append(Fact.JOINED if world.is_in_contact else Fact.SILENT)
        if world.state is State.DRAINING and world.is_in_contact:
            told.append(Fact.EMPTIED)
        for fact in told:
            if fact is not None and facts[world.state, fact] != ".":
                world = world.but(state=State(facts[world.state, fact]))
        world = _wind_down(world)
    return False


def _wind_down(world: World) -> World:
    match world.state:
        case State.QUEUED:
            return world.but(state=State.GONE)
        case State.READY:
            return world.but(state=State.DRAINING)
        case State.RELEASING:
            return world.but(machine=NOTHING, is_in_contact=False)
        case State.GONE:
            return world
    if world.is_in_contact and world.state in (*BARRED_FIRST, State.DRAINING):
        return world
    return world.but(state=State.RELEASING, is_barred=world.state in BARRED_FIRST or world.is_barred)


def broken(facts: Cells) -> bool:
    return bool(releases_of_busy_nodes(facts)) or any(not ends_when_calm(world, facts) for world in reachable(facts))


def test_no_busy_node_in_contact_is_released_before_its_deadline() -> None:
    assert releases_of_busy_nodes(transitions.FACTS) == []


def test_every_world_ends_with_nothing_left_once_things_are_calm() -> None:
    worlds = reachable(transitions.FACTS)

    assert len(worlds) > 150
    assert [world for world in worlds if not ends_when_calm(world, transitions.FACTS)] == []


VITAL = [
    (State.BOOTING, Fact.JOINED),
    (State.LOST, Fact.JOINED),
    (State.DRAINING, Fact.EMPTIED),
    (State.RELEASING, Fact.ABSENT),
    (State.GONE, Fact.LISTED),
    (State.GONE, Fact.HALTED),
    (State.STRAY, Fact.JOINED),
]
"""The cells whose loss leaves a machine for ever, or kills work; the others have a second way round."""


@pytest.mark.parametrize("cell", VITAL, ids=lambda cell: f"{cell[0]}+{cell[1]}")
def test_a_deleted_cell_is_found(cell: tuple[State, Fact]) -> None:
    assert broken({**transitions.FACTS, cell: "."})


def test_a_busy_answer_returns_the_node_to_work() -> None:
    """This cell escapes the walk: without it a drain merely waits for its deadline, while work starves."""
    assert after_fact(State.DRAINING, Fact.BUSY) is State.READY


class TestTables:
    def test_every_cell_is_there(self) -> None:
        assert set(transitions.FACTS) == {(state, fact) for state in State for fact in Fact}
        assert set(transitions.ORDERS) == {(state, order) for state in State for order in Order}

    def test_absence_ends_every_state_that_the_cloud_confirmed(self) -> None:
        confirmed = COSTS - {State.QUEUED}
        assert {state for state in State if after_fact(state, Fact.ABSENT) is State.GONE} >= confirmed

    def test_every_state_that_costs_can_be_released_or_drained(self) -> None:
        assert all(may(state, Order.RELEASE) or may(state, Order.DRAIN) for state in COSTS)

    def test_a_forbidden_order_raises(self) -> None:
        with pytest.raises(ForbiddenOrder, match="`release` is forbidden in state `ready`"):
            after_order(State.READY, Order.RELEASE)

    def test_the_page_is_drawn_from_the_tables(self) -> None:
        docs = Path(__file__).parents[3] / "docs"
        spec = importlib.util.spec_from_file_location("instance_states", docs / "instance_states.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)

        assert (docs / "instance-states.md").read_text() == module.text(), "run `make docs`"
