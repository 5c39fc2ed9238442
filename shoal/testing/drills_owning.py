"""Drills of whose a machine is: a lost ledger, strangers, two of one name, two autoscalers, two `up`, and `down`."""

from __future__ import annotations

import asyncio

from shoal.autoscaler.act.down import take_down
from shoal.foundation import ids
from shoal.model.launch import Launch
from shoal.model.offer import OfferKey
from shoal.providers.protocol import Ticket
from shoal.providers.sim.cloud import SimMachine
from shoal.providers.sim.faults import CALM, Faults
from shoal.providers.sim.provider import SimProvider, render
from shoal.testing import invariants
from shoal.testing.drills import Stage, budget, drill
from shoal.testing.world import World


@drill
async def a_lost_ledger_is_rebuilt_from_tags(stage: Stage) -> None:
    """With the ledger deleted, working and booting machines are found again before anything is bought."""
    world = stage.build(boot_s=(50.0, 70.0), budget=budget(0.65))
    world.submit({"cpu": 2}, 3, 400.0)
    await stage.is_busy(3)
    world.submit({"cpu": 2}, 3, 400.0)
    await stage.happens(lambda: len(stage.created) == 6, 20.0, "three more machines are bought", step_s=0.2)
    await world.run_for(stage.chance.uniform(11.0, 15.0))
    await world.kill(None)
    world.lose_ledger()
    world.cloud.faults = Faults(list_error=1.0)
    world.start()
    await world.run_for(stage.chance.uniform(2.0, 8.0))
    world.cloud.faults = CALM
    await world.run_for(15.0)
    rows = set(world.ledger.instances) if world.ledger is not None else set()
    missing = sorted({one.instance_id for one in world.machines()} - rows)
    stage.claim(not missing, f"{missing} have no row in the rebuilt ledger")
    stage.claim_bought(6)
    world.submit({"cpu": 2}, 3, 30.0)
    await world.run_for(60.0)
    stage.claim_bought(6)
    await stage.happens(lambda: world.head.is_idle, 900.0, "the work is done")
    # Ids of the lost ledger never come again: an agent of before would be taken for a new machine.
    for _ in range(2):
        world.submit({"cpu": 2}, 2, 20.0)
        await stage.happens(lambda: world.head.is_idle, 300.0, "more work is done")
        await world.run_for(60.0)


@drill
async def strangers_are_left_alone(stage: Stage) -> None:
    """The head's machine, another cluster's, and a newer owner's are neither adopted nor released."""
    world = stage.build()
    other = ids.cluster_uid(stage.chance.split("other"))
    for uid, name, role, epoch in (
        (world.uid, "head", "head", 1),
        (other, "i-bbbbbb-00001", "worker", 1),
        (world.uid, "i-cccccc-00001", "worker", 9),
    ):
        world.disregard(name)
        _made(world, uid, name, role=role, epoch=epoch)
    strangers = list(stage.created)
    world.submit({"cpu": 2}, 1, 20.0)
    await world.run_for(stage.chance.uniform(150.0, 250.0))
    gone = [one.instance_id for one in strangers if one.ended_s is not None]
    stage.claim(not gone, f"{gone} were released, and are not ours")
    adopted = {one.instance_id for one in strangers} & set(world.ledger.instances if world.ledger is not None else ())
    stage.claim(not adopted, f"{sorted(adopted)} were adopted, and are not ours")
    stage.ends_calm = False  # they stay


@drill
async def a_second_machine_of_one_intent_goes(stage: Stage) -> None:
    """A machine that bears the name of an instance which has its own is released, and the first one is not."""
    world = stage.build()
    world.submit({"cpu": 2}, 1, 1500.0)
    await stage.is_busy(1)
    name = stage.created[0].instance_id
    world.disregard(name)
    told, world.cloud.on_created = world.cloud.on_created, stage.created.append
    _made(world, world.uid, name, token="other", dead=True)
    world.cloud.on_created = told
    first, second = stage.created
    await stage.happens(lambda: second.deleted_s is not None, 900.0, "the second machine goes")
    stage.claim(first.ended_s is None, "the first machine was released")
    stage.wrong.extend(invariants.while_stormy(world))
    stage.ends_calm = False  # the cloud billed for a machine that nobody ever ordered


@drill
async def a_machine_that_was_written_off_is_found(stage: Stage) -> None:
    """A cloud that hides new machines for minutes (against rule R4): whatever shows up again is found, and goes."""
    world = stage.build(boot_s=(80.0, 100.0))
    joins = stage.chance.choice((0, 1))
    for number in range(2):
        world.cloud.faults = Faults(hidden=1.0, never_join=float(number == joins))
        world.submit({"cpu": 2}, 1, 30.0)
        await stage.happens(lambda number=number: len(stage.created) > number, 30.0, "it is bought", step_s=0.05)  # type: ignore[misc]
        world.cloud.faults = CALM
        await world.run_for(2.0)
    hidden = {one.instance_id for one in stage.created if one.hidden_until_s > 0}
    stage.claim(len(hidden) >= 2, "nothing was hidden")
    await world.run_for(stage.chance.uniform(110.0, 140.0))
    rows = set(world.ledger.instances) if world.ledger is not None else set()
    lost = sorted((hidden & set(world.head.nodes)) - rows)
    stage.claim(not lost, f"{lost} joined and have no row")


@drill
async def a_second_autoscaler_takes_over(stage: Stage) -> None:
    """Of two autoscalers the older one ends, and nothing is bought twice."""
    world = stage.build(boot_s=(30.0, 50.0))
    count = stage.chance.choice((2, 3))
    world.submit({"cpu": 2}, count, 100.0)
    await world.run_for(stage.chance.uniform(0.0, 40.0))
    first = world.autoscaler
    assert first is not None
    world.start()
    await world.run_for(20.0)
    stage.claim(world.has_ended(first), "the older autoscaler goes on")
    stage.claim_bought(count)


@drill
async def two_up_at_once_make_one_head(stage: Stage) -> None:
    """Both laptops derive the token from uid, role and epoch, so they meet in one machine."""
    world = stage.build(faults=Faults(lost_reply=0.3, duplicate=0.5))
    laptops = [
        SimProvider(world.cloud, world.clock, stage.chance.split(name), cluster_uid=world.uid)
        for name in ("one", "two")
    ]
    world.disregard("head")
    told, world.cloud.on_created = world.cloud.on_created, stage.created.append
    await asyncio.gather(*(laptop.launch([_launch(world.uid, "head", role="head")]) for laptop in laptops))
    await asyncio.sleep(30.0)
    world.cloud.on_created = told
    stage.claim(len(stage.created) == 1, f"{len(stage.created)} head machines exist")
    stage.ends_calm = False  # the head stays


@drill
async def down_while_machines_come_leaves_nothing(stage: Stage) -> None:
    """`down` in the middle of a scale-up, with answers lost that work only after it has begun, and short listings."""
    world = stage.build(faults=Faults(debris=1.0), world={"listing_lag_s": 60.0})
    world.submit({"cpu": 2}, stage.chance.choice((2, 6)), 300.0)
    await world.run_for(stage.chance.uniform(1.0, 70.0))
    world.cloud.faults = Faults(lost_reply=1.0, debris=1.0, short_list=1.0)
    world.provider.short_share = 0.0
    world.submit({"cpu": 2}, 1, 300.0)
    calls = world.provider.calls["launch"]
    await stage.happens(lambda: world.provider.calls["launch"] > calls, 30.0, "one more is called for", step_s=0.05)
    asyncio.get_running_loop().call_later(130.0, _be_calm, world)
    left = await take_down(
        world.clock, {"sim": world.provider}, world.log, epoch=1, limit_s=900.0, head=world.head.of_session()
    )
    stage.claim(left == (), f"down says that {left} are left")
    await asyncio.sleep(300.0)
    there = [*(one.name for one in world.machines()), *world.cloud.debris]
    stage.claim(not there, f"{there} are left after down")
    stage.claim(not world.is_running, "the autoscaler goes on after down")
    stage.ends_calm = False  # the cluster is over


def _be_calm(world: World) -> None:
    world.cloud.faults = Faults(debris=1.0)


@drill
async def down_while_an_answer_is_lost_leaves_nothing(stage: Stage) -> None:
    """A launch whose answer was lost works a moment after `down` began: it waits until nothing can appear any more."""
    world = stage.build(world={"listing_lag_s": 1200.0})
    world.cloud.faults = Faults(lost_reply=1.0)
    world.submit({"cpu": 2}, stage.chance.choice((1, 2)), 300.0)
    await stage.happens(lambda: world.cloud.injected["lost_reply"] > 0, 30.0, "an answer is lost", step_s=0.01)
    left = await take_down(
        world.clock, {"sim": world.provider}, world.log, epoch=1, limit_s=4000.0, head=world.head.of_session()
    )
    await asyncio.sleep(100.0)
    there = [one.name for one in world.machines()]
    stage.claim(not there and left == (), f"{there} are left after down, which says {left}")
    stage.ends_calm = False  # the cluster is over


def _launch(uid: str, name: str, *, role: str = "worker", epoch: int = 1, token: str = "") -> Launch:
    chosen = token or ids.launch_token(uid, (name, str(epoch)), 1)
    ticket = Ticket(
        cluster_uid=uid,
        cluster_name="world",
        epoch=epoch,
        token=chosen,
        instance_ids=(name,),
        node_type="s2",
        attempt=1,
        head_address="sim",
        join_secret="same",
        role=role,
    )
    return Launch(token=chosen, instance_ids=(name,), offer=OfferKey("sim", "r1", "z1", "s2"), request=render(ticket))


def _made(
    world: World,
    uid: str,
    name: str,
    *,
    role: str = "worker",
    epoch: int = 1,
    token: str = "",
    dead: bool = False,
) -> SimMachine:
    """Let somebody else make a machine; a `dead` one never joins."""
    faults, world.cloud.faults = world.cloud.faults, Faults(never_join=float(dead))
    (machine,), _ = world.cloud.launch(_launch(uid, name, role=role, epoch=epoch, token=token))
    world.cloud.faults = faults
    return world.cloud.machines[machine.name]
