"""What nobody accounts for: adopted if it joined, released if it is ours, old, seen twice and barred; else reported."""

from __future__ import annotations

from typing import Any

import msgspec

from shoal.foundation.eventlog import Kind
from shoal.model.instance import State
from shoal.model.launch import Launch
from shoal.providers.protocol import Ticket
from shoal.providers.sim.faults import CALM, Faults
from shoal.providers.sim.provider import render
from shoal.testing import builders, sim_time
from shoal.testing.world import World

STRANGE = "i-strange-00007"


def world(**fields: Any) -> World:
    return World(1, policy=builders.policy(gc_age_s=60.0, **fields), boot_s=(10.0, 10.0))


async def stranger(here: World, *, instance_id: str = STRANGE, joins: bool = False, **fields: Any) -> str:
    """Start a machine of this cluster's uid that no row accounts for; return its name."""
    given: dict[str, Any] = {"role": "worker", "epoch": 1}
    ticket = Ticket(
        cluster_uid=here.uid,
        cluster_name="c",
        token=f"s-{instance_id}",
        instance_ids=(instance_id,),
        node_type="s2",
        attempt=1,
        head_address="",
        join_secret="",
        **(given | fields),
    )
    here.cloud.faults = CALM if joins else Faults(never_join=1.0)
    here._exempt.add(instance_id)
    here._lost_s = here.clock.monotonic_s()
    launch = Launch(token=ticket.token, instance_ids=(instance_id,), offer=builders.offer_key(), request=render(ticket))
    machines, error = here.cloud.launch(launch)
    assert error is None
    here.cloud.faults = CALM
    return machines[0].name


def exists(here: World, name: str) -> bool:
    return any(machine.name == name for machine in here.machines())


def test_a_machine_without_a_row_is_released_when_it_is_old_and_was_seen_twice() -> None:
    async def main() -> None:
        here = world()
        await here.run_for(5.0)
        name = await stranger(here)
        await here.run_for(58.0)
        assert exists(here, name)
        assert not here.events(Kind.RELEASE_CALLED)
        await here.run_until(lambda: not exists(here, name), within_s=700)
        assert STRANGE in here.head.barred
        assert here.autoscaler is not None and not here.autoscaler.alarms

    sim_time.run(main())


def test_a_stray_counts_as_spend_until_it_is_gone() -> None:
    async def main() -> None:
        here = world()
        await here.run_for(5.0)
        await stranger(here)
        assert here.ledger is not None
        ledger = here.ledger
        here.cloud.faults = Faults(throttle=1.0)
        await here.run_until(lambda: STRANGE in ledger.instances, within_s=700)
        assert ledger.committed_micro == 100_000
        here.cloud.faults = CALM
        await here.run_until(lambda: STRANGE not in ledger.instances, within_s=300)
        assert ledger.committed_micro == 0

    sim_time.run(main())


def test_a_machine_that_joined_is_adopted_and_then_treated_as_any_other() -> None:
    async def main() -> None:
        here = world()
        await here.run_for(5.0)
        name = await stranger(here, joins=True)
        await here.run_until(lambda: bool(here.events(Kind.INSTANCE_ADOPTED)), within_s=700)
        await here.run_for(5.0)
        assert here.ledger is not None and here.ledger.instances[STRANGE].state is State.READY
        await here.run_until(lambda: not exists(here, name), within_s=600)  # idle: drained like any other

    sim_time.run(main())


def test_a_head_machine_and_one_of_a_newer_owner_are_left_and_named() -> None:
    async def main() -> None:
        here = world()
        await here.run_for(5.0)
        head = await stranger(here, instance_id="i-head-00001", role="head")
        newer = await stranger(here, instance_id="i-newer-00002", epoch=2)
        await here.run_for(2000.0)
        assert exists(here, head) and exists(here, newer)
        assert here.autoscaler is not None
        assert set(here.autoscaler.report().leftovers) == {head, newer}

    sim_time.run(main())


def test_debris_is_released_once_its_instance_is_over() -> None:
    async def main() -> None:
        here = World(1, policy=builders.policy(gc_age_s=60.0, idle_timeout_s=5.0), faults=Faults(debris=1.0))
        here.submit({"cpu": 2}, 2, 10.0)
        await here.run_until(lambda: len(here.cloud.debris) == 2, within_s=200)
        await here.run_until(lambda: not here.cloud.debris, within_s=120)
        assert not here.machines()

    sim_time.run(main())


def test_debris_of_a_living_instance_stays() -> None:
    async def main() -> None:
        here = world()
        here.submit({"cpu": 2}, 1, 2000.0)
        await here.run_until(lambda: bool(here.head.nodes), within_s=100)
        (machine,) = here.machines()
        here.cloud._leave("data-disk", machine.token, machine.instance_id, here.uid)
        await here.run_for(1500.0)
        assert "data-disk" in here.cloud.debris

    sim_time.run(main())


def test_a_second_machine_of_an_instance_goes_and_the_first_stays() -> None:
    async def main() -> None:
        here = world()
        here.submit({"cpu": 2}, 1, 3000.0)
        await here.run_until(lambda: bool(here.head.nodes), within_s=100)
        (first,) = here.machines()
        here._names_created.clear()
        second = await stranger(here, instance_id=first.instance_id)
        await here.run_until(lambda: not exists(here, second), within_s=1500)
        assert exists(here, first.name) and first.instance_id not in here.head.barred
        assert here.head.running

    sim_time.run(main())


def test_a_rebuilt_ledger_never_reuses_ids_or_tokens_of_the_lost_one() -> None:
    async def main() -> None:
        here = world(idle_timeout_s=5.0)
        here.submit({"cpu": 2}, 3, 5.0)
        await here.run_until(lambda: here.head.is_idle and not here.machines(), within_s=300)
        used = set(here._names_created)
        await here.kill(None)
        here.lose_ledger()
        here.start()
        await here.run_for(100.0)
        here.submit({"cpu": 2}, 3, 5.0)
        await here.run_until(lambda: here.head.is_idle and not here.machines(), within_s=300)
        fresh = set(here._names_created) - used
        assert len(fresh) == 3 and not here.violations

    sim_time.run(main())


def test_a_ledger_lost_twice_before_it_was_rebuilt_is_still_a_lost_one() -> None:
    async def main() -> None:
        here = world()
        here.submit({"cpu": 2}, 2, 600.0)
        await here.run_until(lambda: len(here.head.nodes) == 2, within_s=100)
        here.cloud.faults = Faults(list_error=1.0)
        await here.kill(None)
        here.lose_ledger()
        here.start()
        await here.run_for(20.0)
        await here.kill(1.0)
        here.cloud.faults = CALM
        await here.run_for(60.0)
        assert here.ledger is not None
        assert {row.state for row in here.ledger.instances.values()} == {State.READY}
        assert len(here.ledger.instances) == len(here.machines()) == 2
        assert msgspec.structs.asdict(here.ledger.meta)["is_adopted"]

    sim_time.run(main())
