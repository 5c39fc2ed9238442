"""Drills: short lives in which one thing goes wrong, each at a moment that the seed chooses.

The wild part of a storm meets everything now and then; a drill meets one danger in every seed, in a world of its own
in which nothing else happens, so that exact promises can be held: how many machines were bought, what stayed, what
went and when. After each drill the world is calm, and what must hold of every calm world must hold of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec

from shoal.foundation.chance import Chance
from shoal.foundation.clock import LoopClock
from shoal.model.policy import Budget, Deadlines, NodeType, Policy
from shoal.providers.sim.cloud import SimMachine
from shoal.providers.sim.faults import CALM, Faults
from shoal.testing import builders, invariants, sim_time
from shoal.testing.mutations import CALLER_ERRORS
from shoal.testing.world import World

SERVED_WITHIN_S = 1800.0
EMPTY_WITHIN_S = 900.0
Play = Callable[["Stage"], Awaitable[None]]
DRILLS: dict[str, Play] = {}
"""By name, in the order in which a storm runs them."""


def drill(play: Play) -> Play:
    """Register a drill under its function's name."""
    DRILLS[play.__name__] = play
    return play


class Ended(msgspec.Struct, frozen=True):
    """How a drill ended: what was wrong, and in which world."""

    wrong: tuple[str, ...]
    injected: dict[str, int]
    story: str = ""


class Stage:
    """What a drill is given: chance, a way to build its world, and where to say what is wrong."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.seed = name, seed
        self.chance = Chance(f"drill/{name}/{seed}")
        self.clock = LoopClock()
        self.wrong: list[str] = []
        self.created: list[SimMachine] = []
        """Every machine that came to exist, oldest first."""
        self.ends_calm = True
        """The world is settled and held to the invariants of a calm one when the drill is over."""
        self._built: World | None = None

    @property
    def world(self) -> World:
        assert self._built is not None, "build the world first"
        return self._built

    def build(
        self,
        *,
        types: Iterable[str] = ("s2",),
        boot_s: tuple[float, float] = (20.0, 40.0),
        markets: tuple[str, ...] = ("on-demand",),
        deadlines: Deadlines | None = None,
        min_up_s: float = 0.0,
        type_max: int = 50,
        faults: Faults = CALM,
        world: dict[str, Any] | None = None,
        **fields: Any,
    ) -> World:
        """Build the drill's world; `fields` are the policy's, `world` more arguments of `World`."""
        kinds = tuple(
            NodeType(
                name=name,
                provider="sim",
                max_workers=type_max,
                min_up_s=min_up_s,
                markets=markets,
                deadlines=deadlines or Deadlines(),
            )
            for name in types
        )
        policy: Policy = builders.policy(
            **({"node_types": kinds, "idle_timeout_s": 10.0, "flap_s": 0.0, "gc_age_s": 30.0} | fields)
        )
        rules = msgspec.structs.replace(policy.health, ttl_most_s=300.0, breaker_most_s=300.0)
        policy = msgspec.structs.replace(policy, health=rules)
        self._built = World(self.seed, policy=policy, faults=faults, boot_s=boot_s, **(world or {}))
        told = self._built.cloud.on_created

        def created(machine: SimMachine) -> None:
            self.created.append(machine)
            told(machine)

        self._built.cloud.on_created = created
        return self._built

    def claim(self, holds: bool, otherwise: str) -> None:
        """Note what is wrong unless the claim holds."""
        if not holds:
            self.wrong.append(f"{self.name}: {otherwise}")

    def claim_bought(self, most: int, since: int = 0) -> None:
        """Claim that no more machines than this came to exist since the `since`th."""
        count = len(self.created) - since
        self.claim(count <= most, f"{count} machines were bought, {most} were enough")

    async def watched(self, for_s: float, is_well: Callable[[], bool], otherwise: str, *, every_s: float = 2.0) -> None:
        """Let time pass and claim that something holds all the time; stop at the first time that it does not."""
        end_s = self.clock.monotonic_s() + for_s
        while self.clock.monotonic_s() < end_s:
            await self.world.run_for(every_s)
            if not is_well():
                self.claim(False, otherwise)
                return

    async def happens(self, condition: Callable[[], bool], within_s: float, what: str, *, step_s: float = 1.0) -> bool:
        """Wait for a condition; claim that it comes within the time."""
        end_s = self.clock.monotonic_s() + within_s
        while not condition():
            if self.clock.monotonic_s() >= end_s:
                self.claim(False, f"not within {within_s:g} s: {what}")
                return False
            await self.world.run_for(step_s)
        return True

    async def is_busy(self, count: int, within_s: float = 300.0) -> None:
        """Wait until so many machines have work."""
        head = self.world.head
        await self.happens(
            lambda: sum(1 for node in head.nodes.values() if node.running) >= count, within_s, f"{count} nodes work"
        )


def run(name: str, seed: int, *, story: bool = False) -> Ended:
    """Run one drill in virtual time."""
    return sim_time.run(_play(name, seed, story))


async def _play(name: str, seed: int, with_story: bool) -> Ended:
    stage = Stage(name, seed)
    try:
        await DRILLS[name](stage)
        world = stage.world
        wrong = stage.wrong + invariants.while_stormy(world) * stage.ends_calm
        if not wrong and stage.ends_calm:
            await settle(world, SERVED_WITHIN_S, EMPTY_WITHIN_S)
            wrong = invariants.once_calm(world)
    except sim_time.Deadlock as error:
        wrong = [f"deadlock: {error}"]
    except CALLER_ERRORS as error:
        wrong = [f"{type(error).__name__}: {error}"]
    await stage.world.stop()
    stage.world.cloud.close()
    wrong = [one if one.startswith(name) else f"{name}: {one}" for one in wrong]
    return Ended(tuple(wrong), dict(stage.world.injected), stage.world.story if with_story else "")


async def settle(world: World, served_within_s: float, empty_within_s: float) -> None:
    """Give a calm world the time it needs: all work done, then all machines gone."""
    world.cloud.faults = CALM
    world.head.request("owner", [])
    end_s = world.clock.monotonic_s() + served_within_s
    while not world.head.is_idle and world.clock.monotonic_s() < end_s:
        await world.run_for(10.0)
    end_s = world.clock.monotonic_s() + empty_within_s
    while world.clock.monotonic_s() < end_s:
        await world.run_for(20.0)
        if not world.machines() and not world.cloud.debris and world.ledger and not world.ledger.instances:
            break


def budget(usd_per_hour: float | None = None, usd_total: float | None = None) -> Budget:
    """Return a budget."""
    return Budget(usd_per_hour_max=usd_per_hour, usd_total_max=usd_total)


__all__ = ["DRILLS", "Ended", "Stage", "budget", "drill", "run", "settle"]
