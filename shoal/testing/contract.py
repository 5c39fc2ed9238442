"""The provider contract as tests: one class to inherit, at least one test per rule R1 to R10.

    class TestMyCloud(ProviderContract):
        @asynccontextmanager
        async def bench(self):
            yield Bench(provider=..., offer=..., request=...)

Each test gets a fresh bench in a fresh event loop. What a bench cannot arrange (a full cloud, a lost answer) it leaves
out, and the test is skipped with the reason. `run` is `asyncio.run`; a provider in virtual time overrides it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import pytest

from shoal.foundation import ids
from shoal.foundation.errors import Outcome, ProviderError, Retry, Scope, TokenMismatch
from shoal.model.launch import Answer, Launch, Listing, Machine, Phase
from shoal.model.offer import OfferKey
from shoal.providers.protocol import Provider

UID = "c0ffee" + "0" * 26
RELEASE_TRIES = 40


class Bench(msgspec.Struct, kw_only=True):
    """What a provider's tests need. `request(token, instance_ids)` renders the bytes of a valid launch.

    `gone_within_s` is how long a released machine may stay listed beyond the listing lag. The optional parts:
    `other_offer` another offer that can be bought; `limit(n)` lets only `n` more machines of `offer` exist;
    `lose_answer()` makes the next launch's answer get lost; `refuse_late()` makes the next launch fail after it was
    accepted; `halt(name)` stops a machine from inside, as a crash or a person would; `fail_listing()` makes the next
    listing fail as the cloud's API does; `stranger` the same cloud seen by another cluster.
    """

    provider: Provider
    offer: OfferKey
    request: Callable[[str, tuple[str, ...]], bytes]
    other_offer: OfferKey | None = None
    gone_within_s: float = 30.0
    limit: Callable[[int], None] | None = None
    lose_answer: Callable[[], None] | None = None
    refuse_late: Callable[[], None] | None = None
    halt: Callable[[str], None] | None = None
    fail_listing: Callable[[], None] | None = None
    stranger: Provider | None = None
    serial: int = 0

    def launch(self, count: int = 1, *, offer: OfferKey | None = None, count_min: int = 1, **fields: Any) -> Launch:
        """Return a launch of new instances, under a new token."""
        names = tuple(ids.instance_id(UID, self.serial + number) for number in range(1, count + 1))
        self.serial += count
        token = ids.launch_token(UID, names, 1)
        given: dict[str, Any] = {"request": self.request(token, names)}
        return Launch(
            token=token, instance_ids=names, offer=offer or self.offer, count_min=count_min, **(given | fields)
        )

    async def launched(self, *launches: Launch) -> list[Answer]:
        """Make one call and return its answers."""
        return list(await self.provider.launch(launches))

    async def settled(self) -> Listing:
        """Return a complete listing begun after the listing lag has passed."""
        await asyncio.sleep(self.provider.traits.listing_lag_s)
        for _ in range(RELEASE_TRIES):
            listing = await self.provider.machines()
            if listing.complete:
                return listing
        raise AssertionError("no complete listing")

    async def listed(self, *tokens: str) -> list[Machine]:
        """Return the machines of these tokens that exist, by token and index."""
        listing = await self.settled()
        return sorted(
            (one for one in listing.machines if one.token in tokens and is_there(one)),
            key=lambda one: (tokens.index(one.token), one.index),
        )


def is_there(machine: Machine) -> bool:
    """Say whether the machine exists as far as money goes."""
    return machine.phase in (Phase.PENDING, Phase.RUNNING) or machine.is_billed


class ProviderContract:
    """Inherit, supply `bench`, and run. A provider that passes may be used by the autoscaler."""

    def bench(self) -> AbstractAsyncContextManager[Bench]:
        """Return a fresh bench; leaving it ends everything it started."""
        raise NotImplementedError("supply a bench")

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run one test's coroutine."""
        asyncio.run(main)

    # offers and traits

    def test_offers_can_be_bought(self) -> None:
        """Every offer names this provider, has resources, and a price that is unknown or at least 0."""

        async def check(bench: Bench) -> None:
            market = await _timed(bench, bench.provider.offers())
            assert bench.offer in {one.key for one in market.offers}
            for one in market.offers:
                assert one.key.provider == bench.provider.traits.name
                assert one.resources and all(amount > 0 for amount in one.resources.values())
                assert one.price_usd_per_h is None or one.price_usd_per_h >= 0

        self._check(check)

    def test_traits_are_sane(self) -> None:
        """Times are positive, and a token outlives the listing lag."""

        async def check(bench: Bench) -> None:
            traits = bench.provider.traits
            assert traits.name and traits.batch_max >= 1
            assert 0 <= traits.listing_lag_s < traits.token_ttl_s
            assert traits.call_limit_s > 0 and traits.boot_typical_s > 0

        self._check(check)

    # R1, R2

    def test_r1_the_same_launch_twice_gives_one_machine(self) -> None:
        async def check(bench: Bench) -> None:
            launch = bench.launch()
            (first,) = await bench.launched(launch)
            (again,) = await bench.launched(launch)
            assert first.outcome is Outcome.ACCEPTED, first.error
            assert again.outcome is Outcome.ACCEPTED, again.error
            assert len(await bench.listed(launch.token)) == 1

        self._check(check)

    def test_r1_the_same_launch_at_the_same_time_gives_one_machine(self) -> None:
        async def check(bench: Bench) -> None:
            launch = bench.launch()
            answers = await asyncio.gather(*(bench.launched(launch) for _ in range(4)))
            assert any(answer.outcome is Outcome.ACCEPTED for (answer,) in answers)
            assert len(await bench.listed(launch.token)) == 1

        self._check(check)

    def test_r1_a_batch_gives_no_more_machines_than_instances(self) -> None:
        async def check(bench: Bench) -> None:
            count = min(3, bench.provider.traits.batch_max)
            launch = bench.launch(count)
            for _ in range(2):
                await bench.launched(launch)
            machines = await bench.listed(launch.token)
            assert len(machines) == count
            assert [one.index for one in machines] == list(range(count))

        self._check(check)

    def test_r1_a_token_with_other_bytes_is_refused_and_starts_nothing(self) -> None:
        async def check(bench: Bench) -> None:
            launch = bench.launch()
            await bench.launched(launch)
            other = msgspec.structs.replace(launch, request=bench.launch().request)
            (answer,) = await bench.launched(other)
            assert answer.outcome is Outcome.REFUSED
            assert isinstance(answer.error, TokenMismatch)
            assert len(await bench.listed(launch.token)) == 1

        self._check(check)

    def test_r2_a_token_is_used_for_one_offer(self) -> None:
        async def check(bench: Bench) -> None:
            if bench.other_offer is None:
                pytest.skip("the bench has one offer only")
            launch = bench.launch()
            await bench.launched(launch)
            (answer,) = await bench.launched(msgspec.structs.replace(launch, offer=bench.other_offer))
            assert answer.outcome is Outcome.REFUSED
            (machine,) = await bench.listed(launch.token)
            assert machine.offer == bench.offer

        self._check(check)

    # R3, R4

    def test_r3_a_machine_is_listed_within_the_lag_with_its_tags(self) -> None:
        async def check(bench: Bench) -> None:
            launch = bench.launch()
            await bench.launched(launch)
            (machine,) = await bench.listed(launch.token)
            assert machine.name and machine.machine_id
            assert machine.instance_id == launch.instance_ids[0]
            assert machine.offer == launch.offer
            assert machine.role == "worker"
            assert machine.age_s >= 0

        self._check(check)

    def test_r3_a_lost_answer_hides_no_machine(self) -> None:
        async def check(bench: Bench) -> None:
            if bench.lose_answer is None:
                pytest.skip("the bench cannot lose an answer")
            bench.lose_answer()
            launch = bench.launch()
            (answer,) = await bench.launched(launch)
            assert answer.outcome is Outcome.UNKNOWN
            assert isinstance(answer.error, ProviderError) and answer.error.outcome is Outcome.UNKNOWN
            before = len(await bench.listed(launch.token))
            assert len(await bench.listed(launch.token)) == before, "it appeared after the lag"
            (again,) = await bench.launched(launch)
            assert again.outcome is Outcome.ACCEPTED
            assert len(await bench.listed(launch.token)) == 1

        self._check(check)

    def test_r4_a_complete_listing_shows_every_machine(self) -> None:
        async def check(bench: Bench) -> None:
            launches = [bench.launch() for _ in range(3)]
            await bench.launched(*launches)
            machines = await bench.listed(*(one.token for one in launches))
            assert [one.token for one in machines] == [one.token for one in launches]

        self._check(check)

    def test_r4_a_machine_that_stopped_stays_listed_until_it_is_released(self) -> None:
        async def check(bench: Bench) -> None:
            if bench.halt is None:
                pytest.skip("the bench cannot halt a machine")
            launch = bench.launch()
            await bench.launched(launch)
            (machine,) = await bench.listed(launch.token)
            bench.halt(machine.name)
            listing = await bench.settled()
            (found,) = [one for one in listing.machines if one.token == launch.token]
            assert found.phase in (Phase.HALTING, Phase.HALTED)
            await bench.provider.release([machine.name])
            await self._gone(bench, launch.token)

        self._check(check)

    def test_r4_a_listing_shows_this_cluster_only(self) -> None:
        async def check(bench: Bench) -> None:
            if bench.stranger is None:
                pytest.skip("the bench has no second cluster")
            launch = bench.launch()
            await bench.launched(launch)
            assert len(await bench.listed(launch.token)) == 1
            listing = await bench.stranger.machines()
            assert not listing.machines and not listing.debris

        self._check(check)

    # R5

    def test_r5_a_refusal_found_later_is_listed(self) -> None:
        async def check(bench: Bench) -> None:
            if bench.refuse_late is None:
                pytest.skip("the bench cannot refuse late")
            bench.refuse_late()
            launch = bench.launch()
            (answer,) = await bench.launched(launch)
            assert answer.outcome is Outcome.ACCEPTED
            listing = await bench.settled()
            found = [one for one in listing.refusals if one.token == launch.token]
            assert found and isinstance(found[0].error, ProviderError)
            assert not [one for one in listing.machines if one.token == launch.token and is_there(one)]

        self._check(check)

    # R6

    def test_r6_release_ends_a_machine(self) -> None:
        async def check(bench: Bench) -> None:
            launch = bench.launch()
            await bench.launched(launch)
            (machine,) = await bench.listed(launch.token)
            (answer,) = await bench.provider.release([machine.name])
            assert answer.outcome is Outcome.ACCEPTED and answer.name == machine.name
            await self._gone(bench, launch.token)

        self._check(check)

    def test_r6_release_twice_is_quiet(self) -> None:
        async def check(bench: Bench) -> None:
            launch = bench.launch()
            await bench.launched(launch)
            (machine,) = await bench.listed(launch.token)
            await bench.provider.release([machine.name])
            (answer,) = await bench.provider.release([machine.name])
            assert answer.outcome is Outcome.ACCEPTED, answer.error
            await self._gone(bench, launch.token)
            (answer,) = await bench.provider.release([machine.name])
            assert answer.outcome is Outcome.ACCEPTED, answer.error

        self._check(check)

    def test_r6_releasing_what_never_was_is_quiet(self) -> None:
        async def check(bench: Bench) -> None:
            (answer,) = await bench.provider.release(["never-was"])
            assert answer.outcome is Outcome.ACCEPTED and answer.error is None

        self._check(check)

    # R7, R8, R9

    def test_r7_an_offer_that_is_not_sold_is_refused_with_advice(self) -> None:
        async def check(bench: Bench) -> None:
            key = msgspec.structs.replace(bench.offer, machine_type="no-such-type")
            launch = bench.launch(offer=key)
            (answer,) = await bench.launched(launch)
            assert answer.outcome is Outcome.REFUSED
            assert isinstance(answer.error, ProviderError)
            assert answer.error.outcome is Outcome.REFUSED
            assert isinstance(answer.error.retry, Retry) and isinstance(answer.error.scope, Scope)
            assert answer.error.code and str(answer.error)
            assert not await bench.listed(launch.token)

        self._check(check)

    def test_r7_a_request_that_is_garbage_is_refused_for_good(self) -> None:
        async def check(bench: Bench) -> None:
            launch = bench.launch(request=b"\x00not a request")
            (answer,) = await bench.launched(launch)
            assert answer.outcome is Outcome.REFUSED
            assert answer.error is not None and answer.error.retry is Retry.NEVER
            assert not await bench.listed(launch.token)

        self._check(check)

    def test_r7_a_listing_that_fails_raises_a_provider_error(self) -> None:
        async def check(bench: Bench) -> None:
            if bench.fail_listing is None:
                pytest.skip("the bench cannot fail a listing")
            bench.fail_listing()
            with pytest.raises(ProviderError) as caught:
                await bench.provider.machines()
            assert caught.value.code and isinstance(caught.value.retry, Retry)
            assert (await bench.settled()).complete

        self._check(check)

    def test_r8_no_call_waits_for_the_machine(self) -> None:
        async def check(bench: Bench) -> None:
            launch = bench.launch()
            (answer,) = await _timed(bench, bench.provider.launch([launch]))
            assert answer.outcome is Outcome.ACCEPTED
            (machine,) = await bench.listed(launch.token)
            await _timed(bench, bench.provider.machines())
            await _timed(bench, bench.provider.release([machine.name]))

        self._check(check)

    def test_r9_one_bad_launch_spoils_no_other(self) -> None:
        async def check(bench: Bench) -> None:
            good, bad, fine = bench.launch(), bench.launch(request=b"\x00"), bench.launch()
            answers = await bench.launched(good, bad, fine)
            assert [one.name for one in answers] == [good.token, bad.token, fine.token]
            assert [one.outcome for one in answers] == [Outcome.ACCEPTED, Outcome.REFUSED, Outcome.ACCEPTED]
            assert len(await bench.listed(good.token, fine.token)) == 2

        self._check(check)

    def test_r9_one_bad_name_spoils_no_release(self) -> None:
        async def check(bench: Bench) -> None:
            launch = bench.launch()
            await bench.launched(launch)
            (machine,) = await bench.listed(launch.token)
            names = ["never-was", machine.name, "nor-this"]
            answers = await bench.provider.release(names)
            assert [one.name for one in answers] == names
            await self._gone(bench, launch.token)

        self._check(check)

    # R10

    def test_r10_a_batch_without_room_is_all_or_none_where_atomic(self) -> None:
        async def check(bench: Bench) -> None:
            count = min(3, bench.provider.traits.batch_max)
            if bench.limit is None or count < 2:
                pytest.skip("the bench has no batches, or cannot limit its room")
            bench.limit(count - 1)
            launch = bench.launch(count, count_min=count)
            (answer,) = await bench.launched(launch)
            machines = await bench.listed(launch.token)
            assert answer.error is not None and answer.error.outcome is Outcome.REFUSED
            if bench.provider.traits.is_atomic:
                assert answer.outcome is Outcome.REFUSED
                assert not machines
            else:
                assert answer.outcome is Outcome.ACCEPTED
                assert [one.index for one in machines] == [one.index for one in answer.machines] == [0, 1][: count - 1]

        self._check(check)

    # parts

    def _check(self, check: Callable[[Bench], Awaitable[None]]) -> None:
        async def main() -> None:
            async with self.bench() as bench:
                await check(bench)

        self.run(main())

    async def _gone(self, bench: Bench, token: str) -> None:
        """Wait until no machine of the token costs anything any more; releases may be called again meanwhile."""
        pause_s = max(0.05, bench.gone_within_s / RELEASE_TRIES)
        listing = Listing()
        for _ in range(RELEASE_TRIES):
            listing = await bench.settled()
            if not any(one.token == token and is_there(one) for one in listing.machines):
                break
            await asyncio.sleep(pause_s)
        else:
            raise AssertionError(f"still listed after {bench.gone_within_s:g} s: {listing.machines}")
        names = [one.name for one in listing.debris if one.token == token]
        if names:
            await bench.provider.release(names)


async def _timed(bench: Bench, call: Awaitable[Any]) -> Any:
    """Await a call and hold it to its limit."""
    async with asyncio.timeout(bench.provider.traits.call_limit_s):
        return await call


__all__ = ["UID", "Bench", "ProviderContract", "is_there"]
