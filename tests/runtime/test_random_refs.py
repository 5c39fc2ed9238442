"""Random programs over refs, against an oracle: nothing that can be reached is lost, nothing else is kept once calm.

Some actors put values, nest refs in values and in each other's hands, pass them on as arguments and results, and let
go. The oracle is a set of names per process. After each program every name that a process holds must still give its
value; when all have let go, no process may lend, pin or store anything.
"""

from __future__ import annotations

import gc
import random
from typing import Any

import numpy as np
import pytest

import shoal
from shoal.runtime.client.api import session
from tests.runtime.conftest import eventually

pytestmark = pytest.mark.usefixtures("cluster")

LARGE = 150_000


@shoal.remote
class Holder:
    def __init__(self) -> None:
        self.held: dict[int, Any] = {}

    def make(self, name: int, is_large: bool) -> None:
        self.held[name] = shoal.put(value_of(name, is_large))

    def take(self, name: int, box: list[Any]) -> None:
        self.held[name] = box[0]

    def wrap(self, name: int, inner: int) -> None:
        self.held[name] = shoal.put({"inner": self.held[inner]})

    def unwrap(self, name: int, outer: int) -> None:
        self.held[name] = shoal.get(self.held[outer])["inner"]

    def give(self, name: int) -> list[Any]:
        return [self.held[name]]

    def drop(self, name: int) -> None:
        del self.held[name]
        gc.collect()

    def check(self, name: int) -> Any:
        return shoal.get(self.held[name], timeout=20)

    def state(self) -> tuple[int, int]:
        core = session().core
        return len(core.lending.held), len(core.escaped.refs)


def value_of(name: int, is_large: bool) -> Any:
    return np.full(LARGE, name % 251, dtype=np.uint8) if is_large else f"value {name}"


class World:
    """Holders, what the oracle says they hold, and what each name stands for."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.holders = [Holder.remote() for _ in range(3)]
        self.held: list[set[int]] = [set() for _ in self.holders]
        self.meaning: dict[int, Any] = {}
        self.next = 0

    def step(self) -> None:
        chance = self.chance
        at = chance.randrange(len(self.holders))
        holder, held = self.holders[at], self.held[at]
        choice = chance.random()
        if choice < 0.25 or not held:
            name, is_large = self._name(), chance.random() < 0.4
            self.meaning[name] = ("value", is_large, name)
            shoal.get(holder.make.remote(name, is_large))
            held.add(name)
            return
        known = chance.choice(sorted(held))
        if choice < 0.5:
            to = chance.randrange(len(self.holders))
            name = self._name()
            self.meaning[name] = self.meaning[known]
            box = shoal.get(holder.give.remote(known))
            shoal.get(self.holders[to].take.remote(name, box))
            self.held[to].add(name)
        elif choice < 0.65:
            name = self._name()
            self.meaning[name] = ("box", self.meaning[known])
            shoal.get(holder.wrap.remote(name, known))
            held.add(name)
        elif choice < 0.8 and self.meaning[known][0] == "box":
            name = self._name()
            self.meaning[name] = self.meaning[known][1]
            shoal.get(holder.unwrap.remote(name, known))
            held.add(name)
        else:
            shoal.get(holder.drop.remote(known))
            held.discard(known)

    def check(self) -> None:
        for holder, held in zip(self.holders, self.held, strict=True):
            for name in sorted(held):
                found, meaning = shoal.get(holder.check.remote(name)), self.meaning[name]
                while meaning[0] == "box":
                    found, meaning = shoal.get(found["inner"], timeout=20), meaning[1]
                _, is_large, origin = meaning
                expected = value_of(origin, is_large)
                assert (found == expected).all() if is_large else found == expected

    def let_go(self) -> None:
        for holder, held in zip(self.holders, self.held, strict=True):
            for name in held:
                shoal.get(holder.drop.remote(name))
            held.clear()

    def _name(self) -> int:
        self.next += 1
        return self.next


@pytest.mark.parametrize("seed", range(4))
def test_what_can_be_reached_is_there_and_nothing_else_is_kept(seed: int) -> None:
    world = World(seed)
    for _ in range(40):
        world.step()
    world.check()
    world.let_go()
    gc.collect()
    for holder in world.holders:
        eventually(lambda holder=holder: shoal.get(holder.state.remote()) == (0, 0), 15)
    eventually(lambda: session().core.ask("objects", {}, kind=44)["rows"] == [], 15)
