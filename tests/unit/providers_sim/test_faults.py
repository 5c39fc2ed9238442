"""Each fault of the simulated cloud, alone and certain: what a caller sees of it, and that it is counted."""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import Awaitable, Callable

import pytest

from shoal.foundation.chance import Chance
from shoal.foundation.clock import LoopClock
from shoal.foundation.errors import CapacityError, Outcome, ProviderError, ThrottledError, UnknownOutcome
from shoal.model.launch import Launch, Phase
from shoal.model.offer import SPOT
from shoal.providers.protocol import Ticket
from shoal.providers.sim.cloud import NOTICE_S, SimCloud
from shoal.providers.sim.faults import CALM, Faults
from shoal.providers.sim.provider import SLOW_SHARE, SimProvider, render
from shoal.testing import builders, sim_time

KEY = builders.offer_key()
HOUR_S = 3600.0


class Stage:
    """One cloud with one fault, and a provider that sees it."""

    def __init__(self, boot_s: tuple[float, float] = (10.0, 10.0), seed: int = 1, **faults: float) -> None:
        self.cloud = SimCloud(LoopClock(), Chance(seed), boot_s=boot_s, faults=Faults(**faults))
        self.provider = SimProvider(self.cloud, LoopClock(), Chance(seed).split("calls"), cluster_uid="u")
        self.joined: list[str] = []
        self.cloud.on_running = lambda machine: self.joined.append(machine.name)
        self.serial = 0

    def launch(self, count: int = 1, market: str = KEY.market) -> Launch:
        self.serial += 1
        names = tuple(f"i-{self.serial}-{index}" for index in range(count))
        token = f"t{self.serial}"
        ticket = Ticket(
            cluster_uid="u",
            cluster_name="c",
            epoch=1,
            token=token,
            instance_ids=names,
            node_type="s2",
            attempt=1,
            head_address="",
            join_secret="",
        )
        offer = builders.offer_key(market=market)
        return Launch(token=token, instance_ids=names, offer=offer, request=render(ticket))

    async def launched(self, count: int = 1, market: str = KEY.market) -> tuple[Outcome, ProviderError | None, int]:
        (answer,) = await self.provider.launch([self.launch(count, market)])
        return answer.outcome, answer.error, len(answer.machines)

    @property
    def there(self) -> int:
        return len(self.cloud.existing("u"))


Check = Callable[[], Awaitable[None]]
CHECKS: dict[str, Check] = {}


def check(one: Check) -> Check:
    CHECKS[one.__name__] = one  # type: ignore[attr-defined]
    return one


@check
async def no_capacity() -> None:
    stage = Stage(no_capacity=1.0)
    outcome, error, _ = await stage.launched()
    assert outcome is Outcome.REFUSED and isinstance(error, CapacityError) and not stage.there
    assert stage.cloud.injected == {"no_capacity": 1}


@check
async def late_refusal() -> None:
    stage = Stage(late_refusal=1.0)
    outcome, error, shown = await stage.launched()
    assert (outcome, error, shown) == (Outcome.ACCEPTED, None, 0)
    await asyncio.sleep(30.0)
    listing = await stage.provider.machines()
    assert [one.token for one in listing.refusals] == ["t1"] and not stage.there
    assert stage.cloud.injected == {"late_refusal": 1}


@check
async def throttle() -> None:
    stage = Stage(throttle=1.0)
    outcome, error, _ = await stage.launched()
    assert outcome is Outcome.REFUSED and isinstance(error, ThrottledError) and error.retry_after_s
    (answer,) = await stage.provider.release(["any"])
    assert answer.outcome is Outcome.REFUSED and not stage.there
    assert stage.cloud.injected == {"throttle": 2}


@check
async def stuck_release() -> None:
    stage = Stage(stuck_release=1.0)
    await stage.launched()
    (machine,) = stage.cloud.existing("u")
    (answer,) = await stage.provider.release([machine.name])
    await asyncio.sleep(60.0)
    assert answer.outcome is Outcome.REFUSED and stage.there == 1
    assert stage.cloud.injected == {"stuck_release": 1}


@check
async def slow_launch() -> None:
    stage = Stage(slow_launch=1.0)
    began_s = asyncio.get_running_loop().time()
    outcome, _, _ = await stage.launched()
    took_s = asyncio.get_running_loop().time() - began_s
    least, most = (share * stage.cloud.traits.call_limit_s for share in SLOW_SHARE)
    assert outcome is Outcome.ACCEPTED and least <= took_s <= most + 1.0 <= stage.cloud.traits.call_limit_s
    assert stage.cloud.injected == {"slow_launch": 1}


@check
async def lost_reply() -> None:
    stage = Stage(lost_reply=1.0)
    outcome, error, _ = await stage.launched()
    await asyncio.sleep(5.0)
    assert outcome is Outcome.UNKNOWN and isinstance(error, UnknownOutcome) and stage.there == 1
    (machine,) = stage.cloud.existing("u")
    (answer,) = await stage.provider.release([machine.name])
    await asyncio.sleep(30.0)
    assert answer.outcome is Outcome.UNKNOWN and not stage.there
    assert stage.cloud.injected == {"lost_reply": 2}


@check
async def lost_request() -> None:
    stage = Stage(lost_request=1.0)
    outcome, error, _ = await stage.launched()
    await asyncio.sleep(60.0)
    assert outcome is Outcome.UNKNOWN and isinstance(error, UnknownOutcome) and not stage.there
    assert stage.cloud.injected == {"lost_request": 1}


@check
async def duplicate() -> None:
    stage = Stage(duplicate=1.0)
    looked_at: list[str] = []
    real = stage.cloud.launch
    stage.cloud.launch = lambda launch: looked_at.append(launch.token) or real(launch)  # type: ignore[assignment,func-returns-value]
    await stage.launched()
    await asyncio.sleep(10.0)
    assert looked_at == ["t1", "t1"] and stage.there == 1
    assert stage.cloud.injected == {"duplicate": 1}


@check
async def short_list() -> None:
    stage = Stage(short_list=1.0)
    for _ in range(20):
        await stage.launched()
    await asyncio.sleep(60.0)
    listing = await stage.provider.machines()
    assert not listing.complete and 0 < len(listing.machines) < 20
    assert stage.cloud.injected == {"short_list": 1}


@check
async def hidden() -> None:
    stage = Stage(hidden=1.0)
    await stage.launched()
    await asyncio.sleep(120.0)
    listing = await stage.provider.machines()
    assert listing.complete and not listing.machines and stage.there == 1
    await asyncio.sleep(200.0)
    assert len((await stage.provider.machines()).machines) == 1
    assert stage.cloud.injected == {"hidden": 1}


@check
async def list_error() -> None:
    stage = Stage(list_error=1.0)
    with pytest.raises(UnknownOutcome):
        await stage.provider.machines()
    assert stage.cloud.injected == {"list_error": 1}


@check
async def part_only() -> None:
    stage = Stage(part_only=1.0)
    outcome, error, shown = await stage.launched(5)
    assert outcome is Outcome.ACCEPTED and isinstance(error, CapacityError) and 1 <= shown < 5 and stage.there == shown
    assert stage.cloud.injected == {"part_only": 1}


@check
async def never_join() -> None:
    stage = Stage(never_join=1.0)
    await stage.launched()
    await asyncio.sleep(600.0)
    (machine,) = stage.cloud.existing("u")
    assert machine.phase is Phase.RUNNING and not stage.joined
    assert stage.cloud.injected == {"never_join": 1}


@check
async def smaller() -> None:
    stage = Stage(smaller=1.0)
    await stage.launched()
    (machine,) = stage.cloud.existing("u")
    assert machine.resources["memory"] < stage.cloud.offers[KEY].resources["memory"]
    assert stage.cloud.injected == {"smaller": 1}


@check
async def debris() -> None:
    stage = Stage(debris=1.0)
    await stage.launched()
    (machine,) = stage.cloud.existing("u")
    await stage.provider.release([machine.name])
    await asyncio.sleep(30.0)
    listing = await stage.provider.machines()
    assert [one.instance_id for one in listing.debris] == ["i-1-0"] and not stage.there
    await stage.provider.release([listing.debris[0].name])
    assert not (await stage.provider.machines()).debris
    assert stage.cloud.injected == {"debris": 1}


@check
async def halts_per_h() -> None:
    stage = Stage(halts_per_h=60.0)
    await stage.launched()
    await asyncio.sleep(HOUR_S)
    (machine,) = stage.cloud.existing("u")
    assert machine.phase is Phase.HALTED
    assert stage.cloud.injected == {"halts_per_h": 1}


@check
async def vanishes_per_h() -> None:
    stage = Stage(vanishes_per_h=60.0)
    await stage.launched()
    await asyncio.sleep(HOUR_S)
    assert not stage.there
    assert stage.cloud.injected == {"vanishes_per_h": 1}


@check
async def interruptions_per_h() -> None:
    stage = Stage(interruptions_per_h=60.0)
    noticed_s: list[float] = []
    ended_s: list[float] = []
    loop = asyncio.get_running_loop()
    stage.cloud.on_notice = lambda machine, in_s: noticed_s.append(loop.time())
    stage.cloud.on_ended = lambda machine: ended_s.append(loop.time())
    await stage.launched()
    await stage.launched(market=SPOT)
    await asyncio.sleep(HOUR_S)
    assert stage.there == 1, "only what is spot is taken back"
    assert ended_s == [noticed_s[0] + NOTICE_S]
    # The machine ends by vanishing, which is told apart: it was announced.
    assert stage.cloud.injected["interruptions_per_h"] == 1


@check
async def price_changes_per_h() -> None:
    stage = Stage(price_changes_per_h=60.0)
    await stage.launched()
    before = stage.cloud.offers[KEY].price_usd_per_h
    await asyncio.sleep(600.0)
    assert stage.cloud.offers[KEY].price_usd_per_h != before
    assert stage.cloud.injected["price_changes_per_h"] >= 5


@check
async def slow_boot() -> None:
    stage = Stage(slow_boot=1.0)
    await stage.launched()
    await asyncio.sleep(60.0)
    assert not stage.joined
    await asyncio.sleep(60.0)
    assert len(stage.joined) == 1
    assert stage.cloud.injected == {"slow_boot": 1}


@pytest.mark.parametrize("fault", Faults.__struct_fields__)
def test_the_fault_does_what_it_says(fault: str) -> None:
    assert fault in CHECKS, f"{sys.modules[__name__].__file__} has no check of `{fault}`"
    sim_time.run(CHECKS[fault]())  # type: ignore[arg-type]


def test_a_calm_cloud_does_nothing_of_it() -> None:
    async def main() -> None:
        stage = Stage()
        assert stage.cloud.faults == CALM
        for _ in range(30):
            outcome, error, shown = await stage.launched(2)
            assert (outcome, error, shown) == (Outcome.ACCEPTED, None, 2)
        await asyncio.sleep(HOUR_S)
        assert stage.there == 60 == len(stage.joined) and (await stage.provider.machines()).complete
        assert not stage.cloud.injected

    sim_time.run(main())


def test_boot_times_spread_between_their_ends_and_most_are_short() -> None:
    """The distribution of boots: between the two given times, with a long tail."""

    async def main() -> None:
        stage = Stage(boot_s=(20.0, 80.0))
        times: list[float] = []
        loop = asyncio.get_running_loop()
        stage.cloud.on_running = lambda machine: times.append(loop.time() - machine.created_s)
        for _ in range(100):
            await stage.launched(5)
        await asyncio.sleep(200.0)
        assert len(times) == 500 and 20.0 <= min(times) < 25.0 and 60.0 < max(times) <= 80.0
        assert 30.0 < statistics.median(times) < statistics.mean(times) < 50.0

    sim_time.run(main())


def test_a_new_machine_may_be_listed_late_and_a_gone_one_still() -> None:
    """Stale listings: within the lag of a change, listings show what was or what is, and say that they are complete."""

    async def main() -> None:
        seen: set[tuple[str, int]] = set()
        for seed in range(12):
            stage = Stage(seed=seed)
            await stage.launched()
            for _ in range(6):
                listing = await stage.provider.machines()
                assert listing.complete
                seen.add(("new", len(listing.machines)))
            await asyncio.sleep(stage.cloud.traits.listing_lag_s)
            assert len((await stage.provider.machines()).machines) == 1
            (machine,) = stage.cloud.existing("u")
            await stage.provider.release([machine.name])
            await asyncio.sleep(6.0)
            assert not stage.there
            for _ in range(6):
                listing = await stage.provider.machines()
                assert all(not one.is_billed for one in listing.machines)
                seen.add(("gone", len(listing.machines)))
            await asyncio.sleep(stage.cloud.traits.listing_lag_s)
            assert not (await stage.provider.machines()).machines
        assert seen == {("new", 0), ("new", 1), ("gone", 0), ("gone", 1)}

    sim_time.run(main())


def test_an_offer_may_be_dry_and_shown_all_the_same() -> None:
    async def main() -> None:
        stage = Stage()
        stage.cloud.dry.add(KEY)
        outcome, error, _ = await stage.launched()
        assert outcome is Outcome.REFUSED and isinstance(error, CapacityError)
        assert stage.cloud.injected == {"dry": 1}

    sim_time.run(main())
