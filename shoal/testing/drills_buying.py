"""Drills of buying: what is bought once, what is never bought, what is asked for again and when."""

from __future__ import annotations

import msgspec

from shoal.foundation.amounts import amounts
from shoal.model.instance import State
from shoal.model.offer import OfferKey
from shoal.model.policy import Deadlines, MachineNeed, NodeType
from shoal.providers.sim.faults import CALM, GIB, Faults, SimOffer, SimQuota
from shoal.testing.drills import Stage, budget, drill


@drill
async def a_dry_offer_rests(stage: Stage) -> None:
    """Where every offer is dry, each is asked ever more rarely, and is asked again once there is some."""
    world = stage.build(faults=Faults(no_capacity=1.0))
    world.submit({"cpu": 2}, stage.chance.choice((1, 2, 3)), 20.0)
    await stage.watched(600.0, lambda: world.cloud.launches <= 24, "a dry offer was asked again and again")
    world.cloud.faults = CALM
    await stage.happens(lambda: world.head.is_idle, 500.0, "work is done once the offer is not dry any more")


@drill
async def a_refused_offer_is_left_at_once(stage: Stage) -> None:
    """Where the best offer has no room, the next best is asked in the same moment."""
    world = stage.build(types=("s2", "s4"))
    for key in [key for key in world.cloud.offers if key.machine_type == "s2"]:
        # The cloud learns of it only when it is asked: the market still shows room.
        world.cloud.dry.add(key)
    world.submit({"cpu": 2}, stage.chance.choice((1, 2)), 30.0)
    await stage.happens(lambda: world.cloud.injected["dry"] > 0, 10.0, "the best offer is asked", step_s=0.05)
    await stage.happens(lambda: bool(stage.created), 4.0, "the next best offer is taken", step_s=0.1)


@drill
async def quotas_and_limits_are_known_before(stage: Stage) -> None:
    """What the account or the offer has no room for is not even asked for, and comes when there is room again."""
    count = stage.chance.choice((2, 3))
    quota = SimQuota(name="cpus", limit=2 * count, weights={"s2": 2})
    world = stage.build(types=("s2", "g8"), world={"quotas": (quota,)})
    for zone in ("z1", "z2"):
        key = OfferKey("sim", "r1", zone, "g8")
        world.cloud.offers[key] = msgspec.structs.replace(world.cloud.offers[key], limit=0)
    world.submit({"gpu": 1}, 1, 60.0)
    world.submit({"cpu": 2}, count + 2, 60.0)
    await world.run_for(stage.chance.uniform(30.0, 60.0))
    refused = world.cloud.injected["quota"] + world.cloud.injected["limit"]
    stage.claim(refused == 0, f"{refused} launches were refused for a quota or limit that was known")
    stage.claim_bought(count)
    for zone in ("z1", "z2"):
        key = OfferKey("sim", "r1", zone, "g8")
        world.cloud.offers[key] = msgspec.structs.replace(world.cloud.offers[key], limit=None)


@drill
async def machines_that_never_join_stop_the_type(stage: Stage) -> None:
    """Boots that never join are not bought for ever, and one canary finds out that they do again."""
    world = stage.build(faults=Faults(never_join=1.0), deadlines=Deadlines(booting_s=60.0))
    world.submit({"cpu": 2}, 1, 20.0)
    most = 9
    await stage.watched(700.0, lambda: len(stage.created) <= most, f"more than {most} machines that never joined")
    world.cloud.faults = CALM
    await stage.happens(lambda: world.head.is_idle, 700.0, "work is done once machines join again")


@drill
async def work_is_counted_once(stage: Stage) -> None:
    """Work that comes while machines are on their way, or while other work runs, is bought for once only."""
    world = stage.build(boot_s=(40.0, 60.0))
    first, second = stage.chance.choice((2, 3, 4)), stage.chance.choice((1, 2))
    for _ in range(first):
        world.submit({"cpu": 2}, 1, 150.0, known=True)
        await world.run_for(stage.chance.uniform(2.0, 8.0))
    await stage.is_busy(first)
    stage.claim_bought(first)
    world.submit({"cpu": 2}, second, 150.0, known=True)
    await stage.is_busy(first + second)
    stage.claim_bought(first + second)


@drill
async def the_hourly_cap_holds_while_everything_is_pending(stage: Stage) -> None:
    """Machines asked for, booting, lost and on their way out all count against the budget."""
    count = stage.chance.choice((2, 3, 4))
    stage.build(
        boot_s=(40.0, 60.0), budget=budget(0.1 * count + 0.05), deadlines=Deadlines(lost_s=100.0), idle_timeout_s=5.0
    )
    await _crowd(stage, count)


@drill
async def the_limit_of_all_holds_while_everything_is_pending(stage: Stage) -> None:
    """The same for `max_workers` of the cluster."""
    count = stage.chance.choice((2, 3, 4))
    stage.build(boot_s=(40.0, 60.0), max_workers=count, deadlines=Deadlines(lost_s=100.0), idle_timeout_s=5.0)
    await _crowd(stage, count)


@drill
async def the_limit_of_a_type_holds_while_everything_is_pending(stage: Stage) -> None:
    """The same for `max_workers` of a node type."""
    count = stage.chance.choice((2, 3, 4))
    stage.build(boot_s=(40.0, 60.0), type_max=count, deadlines=Deadlines(lost_s=100.0), idle_timeout_s=5.0)
    await _crowd(stage, count)


async def _crowd(stage: Stage, count: int) -> None:
    """Let more work come than `count` machines do, while they boot, while one is lost, and while they go."""
    world = stage.world
    for _ in range(count + 3):
        world.submit({"cpu": 2}, 1, 100.0)
        await world.run_for(stage.chance.uniform(1.0, 3.0))
    await stage.is_busy(count)
    world.cut(stage.chance.choice(sorted(world.head.nodes)), 90.0)
    await stage.happens(lambda: world.head.is_idle, 900.0, "the work is done")
    world.cloud.faults = Faults(stuck_release=1.0)
    ledger = world.ledger
    assert ledger is not None
    await stage.happens(
        lambda: all(row.state is State.RELEASING for row in ledger.instances.values()), 120.0, "every machine is to go"
    )
    world.submit({"cpu": 2}, count, 20.0)
    await world.run_for(stage.chance.uniform(20.0, 40.0))
    world.cloud.faults = CALM


@drill
async def the_total_is_never_passed(stage: Stage) -> None:
    """Nothing is bought that could not be paid until it can be given back, over kills and restarts."""
    most_usd = stage.chance.choice((0.014, 0.018))
    world = stage.build(budget=budget(usd_total=most_usd), deadlines=Deadlines(draining_s=120.0), idle_timeout_s=5.0)
    for turn in range(8):
        world.submit({"cpu": 2}, 1, 60.0)
        await world.run_for(stage.chance.uniform(100.0, 140.0))
        if turn % 3 == 2:
            await world.kill(1.0)
    bill_usd = world.cloud.bill_usd(world.uid)
    stage.claim(bill_usd <= most_usd, f"${bill_usd:.4g} were billed, usd_total_max is ${most_usd:g}")
    stage.claim(world.head.waiting > 0, "the budget was never reached")
    _without_budget(stage)


def _without_budget(stage: Stage) -> None:
    world = stage.world
    world.policy = msgspec.structs.replace(world.policy, budget=budget())
    if world.autoscaler is not None:
        world.autoscaler.set_policy(world.policy)


@drill
async def a_price_that_rises_counts_for_what_runs(stage: Stage) -> None:
    """After a price rise the cap is held at the new price."""
    count = stage.chance.choice((2, 3))
    world = stage.build(budget=budget(0.1 * count + 0.2), idle_timeout_s=30.0)
    world.submit({"cpu": 2}, count, 1500.0)
    await stage.is_busy(count)
    # Offers are read with a listing, and one of a few quiet machines comes every ten minutes.
    for key in list(world.cloud.offers):
        if key.machine_type == "s2":
            world.cloud.set_price(key, 0.15)
    await world.run_for(stage.chance.uniform(650.0, 750.0))
    world.submit({"cpu": 2}, 3, 60.0)
    await world.run_for(60.0)
    rate = sum(one.price_usd_per_h for one in world.machines())
    cap = world.policy.budget.usd_per_hour_max or 0.0
    stage.claim(rate <= cap + 1e-9, f"machines of ${rate:.4g}/h exist, the cap is ${cap:.4g}/h")


@drill
async def an_unknown_price_is_not_free(stage: Stage) -> None:
    """A machine whose price nobody knows is not bought unless it is named."""
    sold = [
        SimOffer(machine_type=name, resources=amounts({"CPU": 4, "memory": 8 * GIB}), price_usd_per_h=price)
        for name, price in (("known", stage.chance.choice((0.1, 0.5))), ("unknown", None))
    ]
    kind = NodeType(
        name="any",
        provider="sim",
        max_workers=9,
        need=MachineNeed(at_least=amounts({"CPU": 2})),
        markets=("on-demand",),
    )
    world = stage.build(node_types=(kind,), world={"offers": sold})
    world.submit({"cpu": 2}, stage.chance.choice((2, 5)), 30.0)
    await world.run_for(60.0)
    bought = {one.offer.machine_type for one in stage.created}
    stage.claim(bought == {"known"}, f"{sorted(bought)} were bought, the price of one is unknown")


@drill
async def a_smaller_machine_than_promised_is_learned(stage: Stage) -> None:
    """Machines that join with less memory than promised are not bought again for what does not fit them."""
    world = stage.build(types=("s2", "s4"), faults=Faults(smaller=1.0), idle_timeout_s=60.0)
    count = stage.chance.choice((1, 2))
    world.submit({"cpu": 1, "memory": 8 * GIB}, count, 60.0)
    await stage.happens(lambda: world.head.is_idle, 600.0, "the work is done on a larger machine")
    stage.claim_bought(2 * count)


@drill
async def a_lost_answer_is_no_refusal(stage: Stage) -> None:
    """A launch that worked and whose answer was lost has one machine, whatever its repetitions are answered."""
    count = stage.chance.choice((1, 2, 3))
    world = stage.build(
        boot_s=(100.0, 140.0), faults=Faults(lost_reply=1.0, hidden=1.0), world={"listing_lag_s": 200.0}
    )
    world.submit({"cpu": 2}, count, 60.0)
    await stage.happens(lambda: len(stage.created) == count, 20.0, "the launch works", step_s=0.1)
    # No listing shows it yet, so it is sent again, and what is answered then says nothing about the first time.
    world.cloud.faults = Faults(throttle=1.0)
    await world.run_for(stage.chance.uniform(50.0, 70.0))
    world.cloud.faults = CALM
    await world.run_for(20.0)
    stage.claim_bought(count)


@drill
async def a_request_that_got_lost_is_sent_again(stage: Stage) -> None:
    """A launch that never arrived is sent again under its token as soon as a listing does not show it."""
    world = stage.build(faults=Faults(lost_request=1.0))
    world.submit({"cpu": 2}, 1, 30.0)
    await stage.happens(lambda: world.cloud.injected["lost_request"] > 0, 10.0, "a request is lost", step_s=0.01)
    token = next(iter(world.ledger.attempts)) if world.ledger is not None else ""
    await world.run_for(stage.chance.uniform(0.0, 1.0))
    world.cloud.faults = CALM
    await stage.happens(lambda: bool(stage.created), 40.0, "the lost request is sent again")
    stage.claim(all(one.token == token for one in stage.created), "it was sent again under another token")
    stage.claim_bought(1)


@drill
async def a_call_under_way_proves_no_absence(stage: Stage) -> None:
    """Listings say nothing about a launch whose call has not ended."""
    world = stage.build(faults=Faults(slow_launch=1.0), world={"listing_lag_s": 3.0})
    count = stage.chance.choice((1, 2))
    world.submit({"cpu": 2}, count, 30.0)
    await world.run_for(30.0)
    world.cloud.faults = CALM
    await world.run_for(10.0)
    stage.claim_bought(count)


@drill
async def a_machine_not_listed_yet_is_not_absent(stage: Stage) -> None:
    """Within the listing lag a new machine may be missing from one listing after another, and is there."""
    world = stage.build(boot_s=(100.0, 140.0), world={"listing_lag_s": 200.0})
    count = stage.chance.choice((8, 9))
    world.submit({"cpu": 2}, count, 30.0)
    await stage.is_busy(count)
    stage.claim_bought(count)


@drill
async def a_refusal_that_comes_late_is_heard(stage: Stage) -> None:
    """A launch that fails after it was accepted is replaced as soon as the listing says so."""
    world = stage.build(faults=Faults(late_refusal=1.0), world={"listing_lag_s": 60.0})
    world.submit({"cpu": 2}, 1, 30.0)
    await world.run_for(stage.chance.uniform(1.0, 3.0))
    world.cloud.faults = CALM
    await stage.happens(lambda: len(stage.created) > 1, 60.0, "a late refusal is replaced")


@drill
async def the_rest_of_a_batch_is_bought_at_once(stage: Stage) -> None:
    """Where a batch gave fewer machines than asked, the rest is asked for in the same minute."""
    count = stage.chance.choice((3, 4))
    world = stage.build(faults=Faults(part_only=1.0), world={"listing_lag_s": 60.0})
    world.submit({"cpu": 2}, count, 30.0)
    await stage.happens(lambda: bool(stage.created), 10.0, "a part of the batch comes", step_s=0.1)
    world.cloud.faults = CALM
    await stage.happens(lambda: len(stage.created) == count, 60.0, "the rest of the batch comes")


@drill
async def a_machine_on_its_way_is_waited_for_after_a_restart(stage: Stage) -> None:
    """A boot that outlasts its deadline while the autoscaler is dead has its time after the restart."""
    boot_s = stage.chance.uniform(75.0, 85.0)
    world = stage.build(boot_s=(boot_s, boot_s), deadlines=Deadlines(booting_s=60.0))
    world.submit({"cpu": 2}, 1, 60.0)
    await world.run_for(stage.chance.uniform(5.0, 10.0))
    await world.kill(60.0)
    await stage.happens(lambda: world.head.is_idle, 300.0, "the work is done on the machine that was on its way")
    stage.claim_bought(1)


@drill
async def a_gang_is_bought_whole_or_not_at_all(stage: Stage) -> None:
    """Where the limits let a gang never be whole, nothing is bought for it."""
    members = stage.chance.choice((3, 4))
    world = stage.build(max_workers=members - 1)
    world.submit_gang("g", [{"cpu": 2}] * members, 30.0)
    await world.run_for(stage.chance.uniform(100.0, 200.0))
    stage.claim_bought(0)
    world.head.remove_gang("g")


@drill
async def a_gang_keeps_what_has_arrived(stage: Stage) -> None:
    """Members that came stay, beyond their idle time, until the rest can be had."""
    world = stage.build(gang_hold_s=600.0, idle_timeout_s=10.0)
    members = stage.chance.choice((3, 4))
    for zone in ("z1", "z2"):
        key = OfferKey("sim", "r1", zone, "s2")
        world.cloud.offers[key] = msgspec.structs.replace(world.cloud.offers[key], limit=None)
    world.cloud.faults = Faults(part_only=1.0)
    world.submit_gang("g", [{"cpu": 2}] * members, 60.0)
    await stage.happens(lambda: bool(stage.created), 30.0, "the gang's first members are bought", step_s=0.1)
    world.cloud.faults = Faults(no_capacity=1.0)
    first = {one.name for one in stage.created}
    await world.run_for(stage.chance.uniform(90.0, 150.0))
    there = {one.name for one in world.machines()}
    stage.claim(first <= there, f"{sorted(first - there)} were given back while their gang waits")
    world.cloud.faults = CALM
    await stage.happens(lambda: world.head.gangs_placed == 1, 500.0, "the gang starts")
    stage.claim_bought(members)


@drill
async def what_flaps_is_frozen(stage: Stage) -> None:
    """Work that comes back just after its machine went: after the third time the machine stays."""
    world = stage.build(idle_timeout_s=60.0, flap_s=120.0, boot_s=(50.0, 60.0))
    duration_s = stage.chance.uniform(20.0, 60.0)
    for _ in range(7):
        world.submit({"cpu": 1}, 1, duration_s)
        await stage.happens(lambda: world.head.is_idle, 300.0, "the work is done")
        await stage.world.run_for(stage.chance.uniform(125.0, 140.0))
    stage.claim_bought(4)
    stage.ends_calm = False  # its idle drain is frozen for an hour


@drill
async def constant_demand_moves_nothing(stage: Stage) -> None:
    """Demand that does not change buys once, and gives nothing back."""
    count = stage.chance.choice((2, 3))
    world = stage.build(types=("s2", "s16"), idle_timeout_s=30.0)
    world.request("owner", [{"cpu": 2}] * count)
    world.submit({"cpu": 2}, 1, 700.0)
    await world.run_for(900.0)
    stage.claim_bought(count)
    stage.claim(len(world.machines()) == count, f"{len(world.machines())} of {count} machines are there")
