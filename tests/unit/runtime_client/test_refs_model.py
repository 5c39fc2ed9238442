"""The runtime's own tables of references (`Lending`, `Hold`, `Escaped`) do what the model says, event by event."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.runtime.client import refs
from shoal.runtime.client.codec import holds_of
from shoal.runtime.client.refs import Escaped, Home, Lending, ObjectRef
from shoal.runtime.decide import references as model

ME = b"owner"
BORROWERS = ("b1", "b2", "b3")
TOKENS = [("b1", 1), ("b1", 2), ("b2", 1)]


@pytest.fixture(autouse=True)
def at_home() -> Iterator[None]:
    """Be the process `owner` for the length of a test."""
    before = (Home.process, Home.address, Home.escaped)
    Home.process, Home.address, Home.escaped = ME, (ME, ("unix:/nowhere",)), None
    refs.drops.clear()
    yield
    Home.process, Home.address, Home.escaped = before
    refs.drops.clear()


class Both:
    """The model and the runtime's tables side by side, for a process that owns what it lends."""

    def __init__(self) -> None:
        self.state = model.References("owner")
        self.lending = Lending()
        self.escaped = Escaped()
        self.handles: dict[int, list[ObjectRef[Any]]] = {}
        self.count = 0

    def handle(self, number: int) -> model.Handle:
        return ("owner", number), (model.OWN, number)

    def make(self) -> None:
        self.count += 1
        model.react(self.state, model.Made(self.count))
        ref: ObjectRef[Any] = ObjectRef(self.count, ME, True)
        self.escaped.refs[self.count] = ref
        self.handles[self.count] = [ref]

    def lend(self, borrower: str, token: model.Token, numbers: list[int], *, by: str) -> None:
        """A message with refs leaves (`by` the owner), or a third party says that it lent them."""
        alive = [number for number in numbers if self.handles.get(number)]
        if not alive:
            return
        if by == "owner":
            handles = tuple(self.handle(number) for number in alive)
            model.react(self.state, model.Sending(borrower, token, handles))
        else:
            model.react(self.state, model.LendHeard(by, 1, borrower, token, tuple(alive)))
        self.lending.lend(borrower.encode(), (token[0].encode(), token[1]), [self.handles[n][0] for n in alive])

    def release(self, borrower: str, token: model.Token) -> None:
        model.react(self.state, model.ReleaseHeard(borrower, token))
        self.lending.release(borrower.encode(), (token[0].encode(), token[1]))

    def drop(self, number: int) -> None:
        if self.handles.get(number):
            self.handles[number].pop()
            model.react(self.state, model.Dropped(self.handle(number)))

    def forget(self, borrower: str) -> None:
        model.react(self.state, model.Died(borrower))
        self.lending.forget(borrower.encode())

    def check(self) -> None:
        self.escaped.sweep()
        real = set(self.escaped.refs)
        assert real == {which for owner, which in self.state.needs if owner == model.OWN}
        lent = {
            (borrower.decode(), (token[0].decode(), token[1])): sorted(ref._n for ref in held)
            for (borrower, token), held in self.lending.held.items()
        }
        assert lent == {key: sorted(numbers) for key, numbers in self.state.lent.items()}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_lending_is_the_models(data: st.DataObject) -> None:
    both = Both()
    dead: set[str] = set()
    tokens_used: set[tuple[str, model.Token]] = set()
    for _ in range(data.draw(st.integers(1, 25))):
        match data.draw(st.sampled_from(["make", "lend", "heard", "release", "drop", "die"])):
            case "make":
                both.make()
            case "lend" | "heard" as how:
                key = (data.draw(st.sampled_from(BORROWERS)), data.draw(st.sampled_from(TOKENS)))
                numbers = data.draw(st.lists(st.integers(1, max(1, both.count)), max_size=3, unique=True))
                if key not in tokens_used and key[0] not in dead:  # one message, one token
                    tokens_used.add(key)
                    both.lend(*key, numbers, by="owner" if how == "lend" else "third")
            case "release":
                both.release(data.draw(st.sampled_from(BORROWERS)), data.draw(st.sampled_from(TOKENS)))
            case "drop":
                both.drop(data.draw(st.integers(1, max(1, both.count))))
            case "die":
                borrower = data.draw(st.sampled_from(BORROWERS))
                if borrower not in dead:
                    dead.add(borrower)
                    both.forget(borrower)
        both.check()


def foreign(hold: refs.Hold) -> ObjectRef[Any]:
    return ObjectRef(1, b"far", False, 0, None, None, (b"far", ()), None, 0, None, hold)


@settings(max_examples=100, deadline=None)
@given(handles=st.integers(0, 4), is_implicit=st.booleans(), is_kept=st.booleans())
def test_hold_tells_the_owner_once_and_only_when_it_must(handles: int, is_implicit: bool, is_kept: bool) -> None:
    """The borrower's side: one message, some handles made of it, dropped one by one."""
    refs.drops.clear()
    token = (b"caller", 7)
    state = model.References("me")
    state_token = ("caller", 7)
    model.react(state, model.Received(state_token, (("far", 1),), is_implicit))
    holds = holds_of([[b"far", ["unix:/far"], [1]]], token, is_implicit=is_implicit)

    held = []
    for _ in range(handles):
        held.append(foreign(holds[b"far"]))
        model.react(state, model.Copied(model.handle_of(state, state_token, ("far", 1))))
    if not is_kept:
        while held:
            held.pop()
            model.react(state, model.Dropped(model.handle_of(state, state_token, ("far", 1))))
    if is_implicit and held:
        holds[b"far"].is_implicit = False  # what the worker does before it says KEPT
    holds.clear()
    said = model.react(state, model.Discarded(state_token, "caller" if is_implicit else ""))
    while held:
        held.pop()
        said += model.react(state, model.Dropped(model.handle_of(state, state_token, ("far", 1))))

    releases = [one for one in said if isinstance(one, model.Release)]
    assert [(address[0], one) for address, one in refs.drops] == [(b"far", token)] * len(releases)
    assert state.needs == {}
