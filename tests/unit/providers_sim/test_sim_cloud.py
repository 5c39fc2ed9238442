"""The simulated cloud beyond the contract: its bill, its quotas, its faults, and the YAML section that makes one."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from shoal.foundation.chance import Chance
from shoal.foundation.clock import LoopClock
from shoal.foundation.errors import BadInput, CapacityError, QuotaError
from shoal.model.launch import Launch, Machine, Phase
from shoal.model.offer import OfferKey
from shoal.providers.protocol import Ticket
from shoal.providers.sim.cloud import SimCloud
from shoal.providers.sim.faults import Faults, SimQuota
from shoal.providers.sim.provider import from_section, render
from shoal.testing import builders, sim_time

KEY = builders.offer_key()


def launch(number: int = 1, count: int = 1, key: OfferKey = KEY) -> Launch:
    names = tuple(f"i-{number}-{index}" for index in range(count))
    ticket = Ticket(
        cluster_uid="u",
        cluster_name="c",
        epoch=1,
        token=f"t{number}",
        instance_ids=names,
        node_type="s2",
        attempt=1,
        head_address="",
        join_secret="",
    )
    return Launch(token=f"t{number}", instance_ids=names, offer=key, request=render(ticket))


def cloud(**fields: object) -> SimCloud:
    given: dict[str, object] = {"boot_s": (10.0, 10.0)}
    return SimCloud(LoopClock(), Chance(1), **(given | fields))  # type: ignore[arg-type]


def listed(here: SimCloud) -> list[Machine]:
    return list(here.shown("u")[0])


def test_the_bill_runs_from_launch_to_the_end_of_halting() -> None:
    async def main() -> None:
        here = cloud()
        here.launch(launch())
        await asyncio.sleep(3600.0)
        (machine,) = here.existing("u")
        here.release(machine.name)
        await asyncio.sleep(3600.0)
        assert machine.deleted_s is not None and machine.deleted_s > 3600.0
        assert here.bill_usd("u") == pytest.approx(machine.deleted_s / 3600 * 0.1)
        assert here.bill_usd("another") == 0.0

    sim_time.run(main())


def test_what_a_cluster_has_and_owes_is_the_sum_of_its_machines() -> None:
    """The cloud keeps a running bill; each machine keeps its own."""

    async def main() -> None:
        here, chance = cloud(), Chance("bill")
        for number in range(1, 60):
            here.launch(launch(number, count=1 + number % 3))
            await asyncio.sleep(chance.uniform(0.0, 200.0))
            here.set_price(KEY, round(chance.uniform(0.1, 0.5), 3))
            for machine in chance.sample(here.existing("u"), number % 3):
                here.release(machine.name)
            machines, now_s = [*here.buried, *here.machines.values()], asyncio.get_running_loop().time()
            lasting = [one for one in machines if one.deleted_s is None]
            owed = sum(one.billed_usd for one in machines)
            owed += sum((now_s - one.billed_from_s) * one.price_usd_per_h / 3600 for one in lasting)
            assert here.bill_usd("u") == here.bill_usd() == pytest.approx(owed)
            assert here.rate("u") == (len(lasting), pytest.approx(sum(one.price_usd_per_h for one in lasting)))
        for machine in here.existing("u"):
            here.release(machine.name)
        await asyncio.sleep(60.0)
        assert here.rate("u") == (0, 0.0)

    sim_time.run(main())


def test_a_price_change_holds_from_its_moment_on() -> None:
    async def main() -> None:
        here = cloud()
        here.launch(launch())
        await asyncio.sleep(1800.0)
        here.set_price(KEY, 0.3)
        await asyncio.sleep(1800.0)
        assert here.bill_usd() == pytest.approx(0.05 + 0.15)

    sim_time.run(main())


def test_a_halted_machine_is_listed_and_billed_until_it_is_released() -> None:
    async def main() -> None:
        here = cloud()
        here.launch(launch())
        await asyncio.sleep(20.0)
        (machine,) = here.existing()
        here.halt(machine.name)
        await asyncio.sleep(3580.0)
        (shown,) = listed(here)
        assert (shown.phase, shown.is_billed) == (Phase.HALTED, True)
        assert here.bill_usd() == pytest.approx(0.1)
        here.release(machine.name)
        await asyncio.sleep(60.0)
        assert not listed(here) and not here.existing()

    sim_time.run(main())


def test_quotas_count_by_weight_and_refuse_what_is_above() -> None:
    async def main() -> None:
        here = cloud(quotas=(SimQuota(name="cpus", limit=5, weights={"s2": 2}),))
        machines, error = here.launch(launch(count=4))
        assert len(machines) == 2 and isinstance(error, QuotaError)
        (quota,) = here.market().quotas
        assert (quota.used, quota.limit) == (4, 5)
        machines, error = here.launch(launch(2))
        assert not machines and isinstance(error, QuotaError)

    sim_time.run(main())


def test_an_interruption_is_announced_then_comes() -> None:
    async def main() -> None:
        here = cloud()
        here.launch(launch())
        await asyncio.sleep(20.0)
        (machine,) = here.existing()
        warned: list[float] = []
        here.on_notice = lambda one, in_s: warned.append(in_s)
        here.interrupt(machine.name, 120.0)
        await asyncio.sleep(60.0)
        (shown,) = listed(here)
        assert warned == [120.0]
        assert shown.notice is not None and shown.notice.deadline_s == pytest.approx(60.0)
        await asyncio.sleep(61.0)
        assert not here.existing()

    sim_time.run(main())


def test_after_its_time_to_live_a_token_is_forgotten() -> None:
    """The trap behind `token_ttl_s`: a repetition that comes too late buys a second machine."""

    async def main() -> None:
        here = cloud()
        here.launch(launch())
        await asyncio.sleep(here.traits.token_ttl_s - 1)
        here.launch(launch())
        assert len(here.existing()) == 1
        await asyncio.sleep(2)
        here.launch(launch())
        assert len(here.existing()) == 2

    sim_time.run(main())


def test_faults_that_are_certain_happen() -> None:
    async def main() -> None:
        refused, error = cloud(faults=Faults(no_capacity=1.0)).launch(launch())
        assert not refused and isinstance(error, CapacityError)

        here = cloud(faults=Faults(never_join=1.0, smaller=1.0))
        joined: list[str] = []
        here.on_running = lambda machine: joined.append(machine.name)
        here.launch(launch())
        await asyncio.sleep(60.0)
        (machine,) = here.existing()
        assert machine.phase is Phase.RUNNING and not joined
        assert machine.resources["memory"] == here.offers[KEY].resources["memory"] * 9 // 10

        here = cloud(faults=Faults(late_refusal=1.0, debris=1.0))
        machines, error = here.launch(launch())
        assert (machines, error) == ((), None)
        await asyncio.sleep(30.0)
        _, debris, refusals = here.shown("u")
        assert [one.token for one in refusals] == ["t1"] and len(debris) == 1 and not here.existing()
        here.release(debris[0].name)
        assert not here.debris

    sim_time.run(main())


def test_one_seed_gives_one_history() -> None:
    async def history(seed: int) -> list[tuple[float, str]]:
        faults = Faults(halts_per_h=5.0, vanishes_per_h=5.0, slow_boot=0.3, no_capacity=0.3)
        here = SimCloud(LoopClock(), Chance(seed), faults=faults)
        told: list[tuple[float, str]] = []
        loop = asyncio.get_running_loop()
        here.on_running = lambda machine: told.append((loop.time(), f"runs {machine.name}"))
        here.on_ended = lambda machine: told.append((loop.time(), f"ends {machine.name}"))
        for number in range(20):
            here.launch(launch(number))
        await asyncio.sleep(7200.0)
        return told

    first, again, other = (sim_time.run(history(seed)) for seed in (1, 1, 2))
    assert first == again and len(first) > 10
    assert first != other


def test_a_yaml_section_makes_a_provider() -> None:
    section = {
        "type": "sim",
        "seed": 3,
        "region": "mars-1",
        "availability_zone": "z2",
        "boot_s": 10.0,
        "boot_spread": 0.0,
        "listing_lag_s": 2.0,
        "limit": 5,
        "faults": {"no_capacity": 0.25},
    }
    made = from_section(section, LoopClock(), cluster_uid="u", name="toy")
    keys = set(made.cloud.offers)
    assert {(key.provider, key.region, key.zone) for key in keys} == {("toy", "mars-1", "z2")}
    assert {one.limit for one in made.cloud.offers.values()} == {5}
    assert made.cloud.boot_s == (10.0, 10.0)
    assert (made.traits.name, made.traits.listing_lag_s) == ("toy", 2.0)
    assert msgspec.structs.asdict(made.cloud.faults)["no_capacity"] == 0.25


def test_a_section_with_an_unknown_key_is_bad_input() -> None:
    with pytest.raises(BadInput, match="gravity"):
        from_section({"type": "sim", "gravity": 9.81}, LoopClock(), cluster_uid="u")
