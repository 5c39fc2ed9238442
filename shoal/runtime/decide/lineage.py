"""How lost values are made again: what each owner remembers of its tasks, and the order in which to run them anew.

Only results of tasks have lineage. A recipe (the task as it was sent) stays while one of its results, or a recipe that
needs one of them, is in use. Recipes are counted in bytes; over the limit the oldest go, and a later loss says so.

The replay plan is found without recursion: a chain of 100,000 tasks is as good as one of ten.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any, Generic, TypeVar

import msgspec

LINEAGE_BYTES_MAX = 256 * 2**20
"""How many bytes of recipes an owner keeps. Ray: 1 GiB."""

Id = TypeVar("Id", bound=Hashable)


class Recipe(msgspec.Struct, Generic[Id]):
    """One task that can be run again. `needs` are the values among its arguments that this owner owns."""

    task: Id
    results: tuple[Id, ...]
    needs: tuple[Id, ...]
    held: tuple[Id, ...]
    """The tasks whose recipes this one keeps: the makers of `needs` that were known when it was remembered."""
    size: int
    retries: int
    """How many times it may still be run again, -1 for ever."""
    body: Any = None
    users: int = 0
    """How many of its results are in use, by refs or by other recipes."""


class Plan(msgspec.Struct, Generic[Id]):
    """What to run again, in an order that makes arguments first; and values that cannot come back, with the reason."""

    runs: list[Id]
    lost: dict[Id, str]


class Lineage(Generic[Id]):
    """The recipes of one owner."""

    def __init__(self, bytes_max: int = LINEAGE_BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        self.bytes_held = 0
        self.evicted = 0
        self._recipes: dict[Id, Recipe[Id]] = {}
        """By task, oldest first."""
        self._maker: dict[Id, Id] = {}
        """Result to task."""
        self._gone: dict[Id, None] = {}
        """Results in use whose recipe was evicted, so that a later loss can say why."""

    def __len__(self) -> int:
        return len(self._recipes)

    def remember(
        self, task: Id, results: Iterable[Id], needs: Iterable[Id], size: int, retries: int, body: Any = None
    ) -> list[Id]:
        """Keep a finished task's recipe while its results are in use; return tasks that had to go for it.

        A recipe larger than the limit is not kept at all.
        """
        made = tuple(results)
        if not made or not retries:
            return []
        if size > self.bytes_max:
            self._gone.update(dict.fromkeys(made))
            self.evicted += 1
            return [task]
        if task in self._recipes:
            return []  # it was run again; its place and its count stay
        needed = tuple(dict.fromkeys(needs))
        held = tuple(self._maker[one] for one in needed if one in self._maker)
        self._recipes[task] = Recipe(task, made, needed, held, size, retries, body, users=len(made))
        for one in made:
            self._maker[one] = task
        for maker in held:
            self._recipes[maker].users += 1
        self.bytes_held += size
        return self._evict(keep=task)

    def drop(self, result: Id) -> None:
        """Note, once, that nobody refers to a result any more; its recipe goes when nothing else needs it."""
        self._gone.pop(result, None)
        task = self._maker.get(result)
        if task is not None:
            self._let_go([task])

    def recipe(self, result: Id) -> Recipe[Id] | None:
        """Return the recipe that makes `result`."""
        task = self._maker.get(result)
        return None if task is None else self._recipes[task]

    def plan(self, lost: Iterable[Id], is_there: Callable[[Id], bool]) -> Plan[Id]:
        """Return what to run again so that the `lost` results are there.

        `is_there` says of an argument whether a copy of it exists; what does not is made first. A value that cannot be
        made again takes along all that needs it (`dependency-lost`). Cost: linear in the recipes looked at.
        """
        runs: list[Id] = []
        state: dict[Id, str] = {}  # task: "" on the way, "ok", or the reason why not
        failed: dict[Id, str] = {}
        for wanted in lost:
            top = self._maker.get(wanted)
            if top is None:
                failed[wanted] = "lineage-evicted" if wanted in self._gone else "put"
                continue
            self._walk(top, is_there, state, runs)
            if state[top] != "ok":
                failed[wanted] = state[top]
        return Plan(runs, failed)

    def ran_again(self, task: Id) -> None:
        """Count one run of the plan against the task's retries."""
        recipe = self._recipes.get(task)
        if recipe is not None and recipe.retries > 0:
            recipe.retries -= 1

    def _walk(self, top: Id, is_there: Callable[[Id], bool], state: dict[Id, str], runs: list[Id]) -> None:
        stack = [top]
        while stack:
            task = stack[-1]
            known = state.get(task)
            if known:
                stack.pop()
                continue
            recipe = self._recipes[task]
            missing = [one for one in recipe.needs if not is_there(one)]
            if known is None:
                state[task] = ""
                if not recipe.retries:
                    state[task] = "retries-used-up"
                    stack.pop()
                    continue
                stack += [self._maker[one] for one in missing if one in self._maker and self._maker[one] not in state]
                continue
            stack.pop()
            good = all(one in self._maker and state.get(self._maker[one]) == "ok" for one in missing)
            state[task] = "ok" if good else "dependency-lost"
            if good:
                runs.append(task)

    def _evict(self, keep: Id) -> list[Id]:
        victims: list[Id] = []
        while self.bytes_held > self.bytes_max:
            oldest = next(iter(self._recipes))
            if oldest == keep:
                break
            victims.append(oldest)
            self.evicted += 1
            self._forget(oldest, is_evicted=True)
        return victims

    def _let_go(self, tasks: list[Id]) -> None:
        """Take one user off each task; those without any go, and take one off what they need, and so on."""
        while tasks:
            task = tasks.pop()
            recipe = self._recipes.get(task)
            if recipe is None:
                continue
            recipe.users -= 1
            if recipe.users <= 0:
                self._forget(task, is_evicted=False)
                tasks += recipe.held

    def _forget(self, task: Id, *, is_evicted: bool) -> None:
        recipe = self._recipes.pop(task)
        self.bytes_held -= recipe.size
        for one in recipe.results:
            if self._maker.get(one) == task:
                del self._maker[one]
            if is_evicted:
                self._gone[one] = None
        if is_evicted:
            self._let_go(list(recipe.held))
