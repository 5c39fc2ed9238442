"""Actors and their callers in storms, by seed: no two instances, no call run too often, every call answered."""

from __future__ import annotations

import pytest

from shoal.foundation.amounts import UNIT
from shoal.runtime.decide.actor_states import ActorState
from shoal.testing import sim_time
from tests.virtual.drivers import Driver
from tests.virtual.head import PLACE
from tests.virtual.nodes import SimAgent
from tests.virtual.world import CALM_STEP_S, DEAD_S, Faults, World

STORM = Faults(
    cut=1.0, worker_death=0.3, node_death=0.02, partition=0.15, head_away=0.1, head_crash=0.02, crash_at_commit=0.01
)
CABLES = Faults(cut=4.0, partition=0.3, head_away=0.3)
MODES = ((0, 0), (-1, 0), (-1, 2), (-1, -1), (1, 1))
"""(max_restarts, max_task_retries) of the actors."""


class Actors:
    """The actors of a storm: each is called by its creator and, once it exists, by the other driver."""

    def __init__(self, world: World, *, does_end: bool = False) -> None:
        self.world, self.does_end = world, does_end
        self.modes: dict[bytes, tuple[int, int, bool]] = {}
        self.ended: set[bytes] = set()
        """Actors that were killed for good or left by their own wish."""

    def create(self) -> None:
        world, number = self.world, len(self.modes)
        max_restarts, tries = MODES[number % len(MODES)]
        is_ordered = number % 3 != 2
        actor_id = number.to_bytes(16, "big")
        held = {"CPU": UNIT} if number % 2 else {}
        world.drivers[number % 2].create(actor_id, is_ordered=is_ordered, max_restarts=max_restarts, held=held)
        self.modes[actor_id] = (max_restarts, tries, is_ordered)

    def step(self) -> None:
        world, chance = self.world, self.world.chance
        if len(self.modes) < 6 and chance.random() < 0.05:
            self.create()
        for number, (actor_id, (_, tries, is_ordered)) in enumerate(self.modes.items()):
            creator = world.drivers[number % 2]
            for driver in world.drivers:
                if driver is not creator:
                    if actor_id.hex() not in creator.asked:
                        continue
                    driver.follow(actor_id, is_ordered=is_ordered)
                if self.does_end and chance.random() < 0.001:
                    self.end(driver, actor_id)
                if chance.random() < 0.02:
                    for _ in range(chance.choice([1, 1, 3, 10])):
                        after = None
                        if chance.random() < 0.1:
                            driver.submit()
                            after = driver.refs[max(driver.refs)]
                        fails = 1 if chance.random() < 0.05 else 0
                        driver.call(actor_id, tries=tries, after=after, fails=fails)

    def end(self, driver: Driver, actor_id: bytes) -> None:
        """Kill an actor or have it leave; its process alone, or for good."""
        way = self.world.chance.choice(["leave", "kill", "kill process"])
        if way != "kill process":
            self.ended.add(actor_id)
        if way == "leave":
            driver.leave(actor_id)
        else:
            driver.kill(actor_id, no_restart=way == "kill")


async def storm(
    seed: int, faults: Faults, monkeypatch: pytest.MonkeyPatch, storm_s: float, *, does_end: bool = False
) -> tuple[World, Actors]:
    world = World(seed, faults, monkeypatch)
    actors = Actors(world, does_end=does_end)
    await world.run_for(storm_s, actors.step)
    calls = [call for driver in world.drivers for call in driver.calls.values()]
    await world.settle(lambda: all(call.ref._ready for call in calls), within_s=300)
    await world.run_for(DEAD_S + 5, pace_s=CALM_STEP_S)
    return world, actors


def check(world: World, actors: Actors, *, is_calm: bool) -> None:
    for driver in world.drivers:
        last: dict[bytes, dict[bytes, int]] = {}
        for number, call in driver.calls.items():
            max_restarts, tries, is_ordered = actors.modes[call.actor_id]
            error = driver.error_of(call.ref)
            if error is None:
                assert call.ref._data[0] == number
                process, count = call.ran[-1]
                assert count == call.ref._data[1], "an answer of another run than the last"
                if is_ordered and len(call.ran) == 1:
                    former = last.setdefault(call.actor_id, {})
                    assert count > former.get(process, 0), "calls of one caller overtook each other"
                    former[process] = count
                continue
            kind = type(error).__name__
            if kind == "ValueError":
                assert tries >= 0, "a user's error that may be retried for ever"
                continue
            assert not is_calm, error
            assert kind in ("ActorDiedError", "ActorUnavailableError", "WorkerCrashedError", "NodeDiedError"), error
            if kind.startswith("Actor") and call.actor_id not in actors.ended:
                assert (max_restarts, tries) != (-1, -1), f"it restarts and is tried for ever: {error}"
    rows = world.head.core.actors.all
    for actor_id, instances in world.instances.items():
        living = [(worker.agent.node_id, generation) for worker, generation in instances if not worker.is_dead]
        row = rows[actor_id].row
        assert len(living) <= 1
        if living:
            assert row.state is ActorState.ALIVE, "an actor lives on that the head has written off"
            assert living[0] == (row.node_id, row.generation)
        else:
            assert row.state is not ActorState.ALIVE, "the head believes in an actor that is dead"
    assert any(call.ran for driver in world.drivers for call in driver.calls.values())


@pytest.mark.parametrize("faults", [STORM, CABLES], ids=["storm", "cables"])
@pytest.mark.parametrize("seed", range(10))
def test_after_any_storm_every_call_is_answered_and_no_actor_had_two_instances(
    seed: int, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        check(*await storm(seed, faults, monkeypatch, 20, does_end=True), is_calm=False)

    sim_time.run(main())


@pytest.mark.parametrize("seed", range(3))
def test_in_the_calm_every_call_runs_once_and_in_order(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        world, actors = await storm(seed, Faults(), monkeypatch, 10)
        check(world, actors, is_calm=True)
        for driver in world.drivers:
            for call in driver.calls.values():
                assert len(call.ran) <= 2
                assert len(call.ran) == 1 or call.tries

    sim_time.run(main())


def away(world: World) -> SimAgent:
    """Have an actor that may be restarted on a node which is not the drivers' own; return that node."""
    agents = world.head.core.actors.all.values()
    able = [one.row.node_id for one in agents if one.row.restarts_max and one.row.node_id != world.home.node_id]
    return world.agents[able[0]]


@pytest.mark.parametrize("seed", range(8))
def test_answers_that_lay_in_a_buffer_do_not_open_a_fence(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """First the way from the head breaks, then the way to it: what the head had said comes when it has given up."""

    async def main() -> None:
        world = World(seed, Faults(), monkeypatch, slow_s=2.0)
        actors = Actors(world)
        for _ in MODES:
            actors.create()
        await world.run_for(5, actors.step)
        agent = away(world)
        now_s = world.loop.time()
        world.wires.stall(PLACE, agent.node_id, now_s + 4 * DEAD_S)
        await world.run_for(0.8 * DEAD_S, actors.step)
        world.wires.stall(agent.node_id, PLACE, now_s + 9 * DEAD_S)
        world.wires.slow_share = 0.8  # what comes at last comes drop by drop
        await world.run_for(5 * DEAD_S, actors.step)

        assert agent.node_id in world.head.core.nodes.dead
        assert any(len(instances) > 1 for instances in world.instances.values())

    sim_time.run(main())


@pytest.mark.parametrize("seed", range(4))
def test_an_actor_that_the_head_does_not_know_to_be_up_is_fenced(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would not be restarted; but the head, which never heard that it had started, starts it elsewhere."""

    async def main() -> None:
        world = World(seed, Faults(), monkeypatch)
        await world.run_for(1)
        driver = world.drivers[0]
        for number in range(3):  # two fill the drivers' node
            driver.create(bytes([number]) * 16, is_ordered=True, max_restarts=0, held={"CPU": UNIT})
        while not (other := [one for one in world.agents.values() if one is not world.home and one.actors.by_id]):
            await world.run_for(0.001, pace_s=0.001)
        for way in ((other[0].node_id, PLACE), (PLACE, other[0].node_id)):
            world.wires.stall(*way, world.loop.time() + 3 * DEAD_S)
        await world.run_for(2 * DEAD_S)

        again = [[generation for _, generation in one] for one in world.instances.values() if len(one) > 1]
        assert again and all(one == [0, 1] for one in again)

    sim_time.run(main())
