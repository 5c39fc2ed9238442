"""kill -9 at every commit and call of a whole life: three machines and a gang come, work, and go. Every one of them.

The boundaries of one undisturbed life are counted, then that life is lived again once for each, dying there.
"""

from __future__ import annotations

import pytest

from shoal.foundation.eventlog import Kind
from shoal.providers.sim.faults import CALM, Faults
from shoal.testing import builders, invariants, mutations, planted_orders, sim_time
from shoal.testing.world import World

CALLS = {"dies_in_calls": True, "publish_every_s": (30.0, 60.0)}
UNKIND = Faults(lost_reply=0.5, short_list=0.3, part_only=0.5, debris=0.5)


async def life(crash_at: int, faults: Faults) -> World:
    """Run the story with the process dying at the given boundary; return the world when everything should be over."""
    policy = builders.policy(idle_timeout_s=15.0, flap_s=0.0, gc_age_s=30.0)
    world = World(11, policy=policy, faults=faults, crash_at=crash_at, boot_s=(10.0, 20.0), **CALLS)
    world.submit({"cpu": 2}, 3, 40.0)
    world.submit_gang("g", [{"cpu": 1}] * 2, 30.0)
    await world.run_for(120.0)
    world.cloud.faults = CALM
    for _ in range(120):
        await world.run_for(10.0)
        rows = world.ledger.instances if world.ledger else {}
        if world.head.is_idle and not world.machines() and not rows and not world.cloud.debris:
            break
    await world.stop()
    world.start()  # so that the invariant of a living autoscaler can hold
    wrong = invariants.once_calm(world)
    assert not wrong, f"killed at boundary {crash_at}: {wrong}\n{world.story}"
    await world.stop()
    world.cloud.close()
    return world


def boundaries(faults: Faults) -> int:
    """Return how many commits and calls an undisturbed life has."""
    return sim_time.run(life(0, faults)).boundaries


@pytest.mark.parametrize("faults", [CALM, UNKIND], ids=["kind", "unkind"])
def test_a_kill_at_any_boundary_leaves_nothing_wrong(faults: Faults) -> None:
    count = boundaries(faults)
    died_at: set[str] = set()
    for number in range(1, count + 1):
        world = sim_time.run(life(number, faults))
        assert world.kills == 1, f"boundary {number} was not reached"
        died_at |= {event.fields["at"] for event in world.events(Kind.PROCESS_DIED) if "at" in event.fields}
    calls = ("commit", "launch", "release", "machines", "offers", "open_session", "join_secret", "cordon", "drain")
    assert {f"{call}.{side}" for call in (*calls, "forget", "bar") for side in ("before", "after")} <= died_at


def test_a_life_in_which_the_intent_comes_late_does_not_survive_every_kill() -> None:
    """The test can fail: dying between the call and an intent that is written after it leaves something wrong."""
    assert planted_orders.intent_is_written_after_the_call
    with mutations.planted("intent_is_written_after_the_call"):
        for number in range(1, 60):
            try:
                sim_time.run(life(number, CALM))
            except AssertionError as error:
                assert f"killed at boundary {number}" in str(error)
                return
    raise AssertionError("no kill found it")
