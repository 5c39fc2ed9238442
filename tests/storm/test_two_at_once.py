"""Two at once: two `up` make one head machine; a second autoscaler takes over; `down` comes while machines do."""

from __future__ import annotations

import asyncio

from shoal.autoscaler.act.down import take_down
from shoal.foundation import ids
from shoal.foundation.errors import Outcome
from shoal.model.launch import Launch
from shoal.model.offer import OfferKey
from shoal.providers.protocol import Ticket
from shoal.providers.sim.faults import Faults
from shoal.providers.sim.provider import SimProvider, render
from shoal.testing import sim_time
from shoal.testing.world import World


def test_two_up_at_once_make_one_head_machine() -> None:
    """Both derive the token from (uid, "head", epoch), so the second call gets the first one's machine."""

    async def main() -> None:
        world = World(seed=5, faults=Faults(lost_reply=0.5, duplicate=0.5))
        token = ids.launch_token(world.uid, ("head", "1"), 1)
        ticket = Ticket(
            cluster_uid=world.uid,
            cluster_name="c",
            epoch=1,
            token=token,
            instance_ids=("head",),
            node_type="s2",
            attempt=1,
            head_address="",
            join_secret="same",
            role="head",
        )
        launch = Launch(
            token=token, instance_ids=("head",), offer=OfferKey("sim", "r1", "z1", "s2"), request=render(ticket)
        )
        laptops = [
            SimProvider(world.cloud, world.clock, world.chance.split(name), cluster_uid=world.uid)
            for name in ("one", "two")
        ]

        answers = await asyncio.gather(*(laptop.launch([launch]) for laptop in laptops))
        await asyncio.sleep(30.0)

        assert all(answer.outcome is not Outcome.REFUSED for (answer,) in answers)
        assert [machine.request.role for machine in world.machines()] == ["head"]
        world.cloud.close()

    sim_time.run(main())


def test_a_second_autoscaler_ends_the_first_and_keeps_its_machines() -> None:
    async def main() -> None:
        world = World(seed=6)
        world.submit({"cpu": 2}, 3, 200.0)
        await world.run_until(lambda: not world.waiting, within_s=120)
        first = world._task
        assert first is not None and world.ledger is not None
        before = {machine.name for machine in world.machines()}

        world.start()
        await world.run_for(60.0)

        assert first.done() and first.result() == "superseded"
        assert world.is_running
        assert {machine.name for machine in world.machines()} == before
        await world.stop()
        world.cloud.close()

    sim_time.run(main())


def test_down_during_scale_up_leaves_nothing() -> None:
    """At any moment of a scale-up, with answers lost and the autoscaler alive: down ends with nothing, and stays so."""

    async def main(after_s: float) -> None:
        world = World(seed=7, faults=Faults(lost_reply=0.3, lost_request=0.2, throttle=0.2, short_list=0.3, debris=0.5))
        world.submit({"cpu": 2}, 30, 300.0)
        await world.run_for(after_s)

        left = await take_down(
            world.clock, {"sim": world.provider}, world.log, epoch=1, limit_s=900.0, head=world.head.of_session()
        )

        assert left == ()
        assert not world.machines() and not world.cloud.debris
        await asyncio.sleep(600.0)
        assert not world.machines(), world.story
        assert not world.is_running
        world.cloud.close()

    for after_s in (0.1, 0.45, 0.55, 0.7, 1.5, 20.0, 35.0, 70.0):
        sim_time.run(main(after_s))


def test_down_names_what_it_could_not_release() -> None:
    async def main() -> None:
        world = World(seed=8)
        world.submit({"cpu": 2}, 1, 300.0)
        await world.run_until(lambda: not world.waiting, within_s=120)
        world.cloud.faults = Faults(throttle=1.0)

        left = await take_down(
            world.clock, {"sim": world.provider}, world.log, epoch=1, limit_s=60.0, head=world.head.of_session()
        )

        assert len(left) == 1 and "request limit exceeded" in left[0]
        world.cloud.close()

    sim_time.run(main())


def test_down_leaves_a_newer_owners_machines_and_names_them() -> None:
    async def main() -> None:
        world = World(seed=9)
        world.head.epoch = 2
        world.submit({"cpu": 2}, 1, 300.0)
        await world.run_until(lambda: not world.waiting, within_s=120)

        left = await take_down(world.clock, {"sim": world.provider}, world.log, epoch=1, limit_s=60.0)

        assert len(left) == 1 and "newer epoch" in left[0]
        assert len(world.machines()) == 1
        await world.stop()
        world.cloud.close()

    sim_time.run(main())
