"""Storms over owners and leases, by seed: nothing runs more often than it may, nothing is lost, all comes to rest."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from shoal.testing import sim_time
from shoal.wire import tasks as wire
from tests.virtual.drivers import Driver
from tests.virtual.world import CALM_STEP_S, Faults, World

STORM = Faults(
    cut=0.6, worker_death=0.5, dialled_death=0.1, node_death=0.05, head_crash=0.03, head_away=0.2, partition=0.03
)
BAD_CABLES = Faults(cut=6.0, head_away=0.1, partition=0.1)
NO_HEAD = Faults(head_away=0.5, away_s=3.0, head_crash=0.1)
FRESH_S = 10.0
"""Within which a new task has run once all is calm."""


async def storm(world: World, storm_s: float, *, cancels: float = 0.0) -> None:
    """Submit work while things go wrong; then let everything come to rest. `cancels`: chance of a burst per step."""
    chance = world.chance

    def submit() -> None:
        for driver in world.drivers:
            if chance.random() < 0.03:
                after = chance.choice(list(driver.refs.values())) if driver.refs and chance.random() < 0.3 else None
                for _ in range(chance.choice([1, 1, 2, 20])):
                    driver.submit(after=after)
            if chance.random() < cancels:
                driver.cancel_some()

    await world.run_for(storm_s, submit)
    refs = [ref for driver in world.drivers for ref in driver.refs.values()]
    await world.settle(
        lambda: all(ref._ready for ref in refs), within_s=600, what=lambda: [stuck(driver) for driver in world.drivers]
    )
    await world.run_for(5.0, pace_s=CALM_STEP_S)


async def check_fresh(world: World) -> None:
    """Whatever has been: a new task of every class of every driver runs soon."""
    for driver in world.drivers:
        driver.refs.clear()
        driver.open.clear()
        for spec in world.specs():
            driver.submit(spec=spec)
    await world.run_for(FRESH_S, pace_s=CALM_STEP_S)
    for driver in world.drivers:
        assert all(ref._ready for ref in driver.refs.values()), stuck(driver)
    await world.run_for(5.0, pace_s=CALM_STEP_S)


def stuck(driver: Driver) -> Any:
    owner = driver.owner
    left = [n for n, ref in driver.refs.items() if not ref._ready]
    queues = [(work.key, len(work.queue), work.told, work.seen, len(work.leases)) for work in owner.by_key.values()]
    return left[:5], queues, list(owner._orphans), owner._dying, list(owner.leases.values())


def check_rest(world: World, *, is_calm: bool) -> None:
    for driver in world.drivers:
        assert driver.refs
        assert not driver.waiting
        owner = driver.owner
        assert not (owner.leases or owner._orphans or owner._dying), "a lease was never given back"
        for n, ref in driver.refs.items():
            if ref._format == wire.ERROR:
                error = pickle.loads(ref._data)
                assert not is_calm
                if type(error).__name__ == "TaskCancelledError":
                    continue
                assert type(error).__name__ in ("WorkerCrashedError", "NodeDiedError"), error
                assert driver.tries[n] == 0 or driver.starts[n] <= 1 + driver.tries[n]
            else:
                assert ref._data == n
                assert driver.starts[n] >= 1, "a result of what never ran"
        assert any(ref._format != wire.ERROR for ref in driver.refs.values())
    for agent in world.agents.values():
        assert not agent.leases.by_number
        assert agent.stock.free == agent.total
        # An owner of another node says what it needs for two seconds only; then nobody looks at it any more.
        homely = [row for row in agent.leases.rows() if row.client.kind == "driver"]
        assert all(row.wanted == 0 for row in homely), "demand that nobody has is still counted"
    for driver in world.drivers:
        for work in driver.owner.by_key.values():
            row = driver.home._clients[driver.core.process].classes[work.key]
            assert row.granted == work.seen, "a grant that its owner never saw counts for ever"
            assert row.waiting == row.held == 0


@pytest.mark.parametrize("faults", [STORM, BAD_CABLES], ids=["storm", "cables"])
@pytest.mark.parametrize("seed", range(8))
def test_after_any_storm_every_task_has_ended_and_nothing_is_held(
    seed: int, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        world = World(seed, faults, monkeypatch)
        await storm(world, 20)
        check_rest(world, is_calm=False)

    sim_time.run(main())


@pytest.mark.parametrize("faults", [Faults(), STORM, BAD_CABLES], ids=["calm", "storm", "cables"])
@pytest.mark.parametrize("seed", range(8))
def test_after_bursts_of_cancellations_every_new_task_runs(
    seed: int, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        world = World(1000 + seed, faults, monkeypatch)
        await storm(world, 20, cancels=0.03)
        check_rest(world, is_calm=False)
        await check_fresh(world)
        check_rest(world, is_calm=False)

    sim_time.run(main())


@pytest.mark.parametrize("faults", [Faults(), NO_HEAD], ids=["calm", "no-head"])
@pytest.mark.parametrize("seed", range(3))
def test_without_a_death_every_task_runs_once(seed: int, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that is away, or out of an agent's reach, costs nothing of what runs."""

    async def main() -> None:
        world = World(seed, faults, monkeypatch)
        await storm(world, 10)
        check_rest(world, is_calm=True)
        for driver in world.drivers:
            assert set(driver.starts.values()) == {1}

    sim_time.run(main())
