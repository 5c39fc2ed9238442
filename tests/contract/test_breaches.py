"""A provider as a third party would write one, and a wrong one for each rule: the kit passes one and finds the others.

`Tiny` uses nothing but what docs/provider-contract.md names. Each breach changes one thing about it.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from shoal.foundation.amounts import amounts
from shoal.foundation.errors import (
    CapacityError,
    NotOffered,
    Outcome,
    ProviderError,
    RequestError,
    Retry,
    TokenMismatch,
    UnknownOutcome,
)
from shoal.model.launch import Answer, Launch, Listing, Machine, Phase, Refusal
from shoal.model.offer import Market, Offer, OfferKey
from shoal.providers.protocol import Provider, Traits
from shoal.testing import Bench, ProviderContract, run

SMALL, LARGE = (OfferKey("tiny", "here", "a", name) for name in ("small", "large"))
PRICES = {SMALL: 0.1, LARGE: 0.2}


class Tiny:
    """A cloud of two machine types, in memory: a provider of one page."""

    traits = Traits(name="tiny", listing_lag_s=1.0, call_limit_s=10.0, batch_max=5, is_atomic=True)

    def __init__(self, uid: str, cloud: dict[str, tuple[str, Machine]]) -> None:
        """See the machines of `uid` in a cloud that others share."""
        self.uid, self.cloud = uid, cloud
        self.tokens: dict[str, Launch] = {}
        self.refusals: list[Refusal] = []
        self.left: int | None = None
        self.loses_answer = self.refuses_late = self.fails_listing = False

    async def offers(self) -> Market:
        size = amounts({"CPU": 2, "memory": 4 * 2**30})
        return Market(offers=tuple(Offer(key=key, resources=size, price_usd_per_h=usd) for key, usd in PRICES.items()))

    async def machines(self) -> Listing:
        if self.fails_listing:
            self.fails_listing = False
            raise UnknownOutcome("the API is down", code="Down")
        return Listing(machines=tuple(self.own()), refusals=tuple(self.refusals), complete=True)

    def own(self) -> list[Machine]:
        return [machine for uid, machine in self.cloud.values() if uid == self.uid]

    async def launch(self, launches: Sequence[Launch]) -> Sequence[Answer]:
        return [self.launched(launch) for launch in launches]

    def launched(self, launch: Launch) -> Answer:
        try:
            machines = self.bought(launch)
        except ProviderError as error:
            return Answer(name=launch.token, outcome=error.outcome, error=error)
        if self.loses_answer:
            self.loses_answer = False
            return Answer(name=launch.token, outcome=Outcome.UNKNOWN, error=UnknownOutcome("reset", code="Reset"))
        if self.refuses_late:
            self.refuses_late = False
            self.fail_late(launch)
        return Answer(name=launch.token, outcome=Outcome.ACCEPTED, machines=tuple(machines))

    def bought(self, launch: Launch) -> list[Machine]:
        known = self.tokens.get(launch.token)
        if known is not None:
            if (known.request, known.offer) != (launch.request, launch.offer):
                raise TokenMismatch("the token was used for another request")
            return [one for one in self.own() if one.token == launch.token]
        if launch.offer not in PRICES:
            raise NotOffered(f"{launch.offer} is not sold")
        try:
            json.loads(launch.request)
        except ValueError as error:
            raise RequestError("the request is no JSON") from error
        if self.left is not None and self.left < len(launch.instance_ids):
            raise CapacityError("full")
        self.tokens[launch.token] = launch
        return [self.start(launch, index) for index in range(len(launch.instance_ids))]

    def start(self, launch: Launch, index: int) -> Machine:
        name = f"vm-{len(self.cloud) + 1}"
        machine = Machine(
            name=name,
            machine_id=f"id-{name}",
            token=launch.token,
            index=index,
            offer=launch.offer,
            instance_id=launch.instance_ids[index],
            role="worker",
        )
        self.cloud[name] = (self.uid, machine)
        return machine

    def fail_late(self, launch: Launch) -> None:
        self.refusals.append(Refusal(launch.token, CapacityError("none left after all")))
        for machine in self.own():
            if machine.token == launch.token:
                self.end(machine.name)

    async def release(self, names: Sequence[str]) -> Sequence[Answer]:
        return [self.released(name) for name in names]

    def released(self, name: str) -> Answer:
        if name in self.cloud:
            self.end(name)
        return Answer(name=name, outcome=Outcome.ACCEPTED)

    def end(self, name: str) -> None:
        uid, machine = self.cloud[name]
        self.cloud[name] = (uid, msgspec.structs.replace(machine, phase=Phase.HALTED, is_billed=False))

    def halt(self, name: str) -> None:
        uid, machine = self.cloud[name]
        self.cloud[name] = (uid, msgspec.structs.replace(machine, phase=Phase.HALTED))


class TestTiny(ProviderContract):
    """What a third party's test file is: a bench."""

    kind: type[Tiny] = Tiny

    @asynccontextmanager
    async def bench(self) -> AsyncIterator[Bench]:
        cloud: dict[str, tuple[str, Machine]] = {}
        provider: Provider = self.kind("ours", cloud)
        assert isinstance(provider, Tiny)

        def arranged(name: str, value: object) -> Callable[[], None]:
            return lambda: setattr(provider, name, value)

        yield Bench(
            provider=provider,
            offer=SMALL,
            request=lambda token, names: json.dumps([token, names]).encode(),
            other_offer=LARGE,
            limit=lambda count: setattr(provider, "left", count),
            lose_answer=arranged("loses_answer", True),
            refuse_late=arranged("refuses_late", True),
            halt=provider.halt,
            fail_listing=arranged("fails_listing", True),
            stranger=self.kind("theirs", cloud),
        )

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        run(main)


BREACHES: list[type[Tiny]] = []


def breach(kind: type[Tiny]) -> type[Tiny]:
    BREACHES.append(kind)
    return kind


@breach
class R1ForgetsTokens(Tiny):
    def bought(self, launch: Launch) -> list[Machine]:
        self.tokens.clear()
        return super().bought(launch)


@breach
class R1TakesOtherBytes(Tiny):
    def bought(self, launch: Launch) -> list[Machine]:
        known = self.tokens.get(launch.token)
        return super().bought(launch if known is None else msgspec.structs.replace(launch, request=known.request))


@breach
class R1GivesOneTooMany(Tiny):
    def bought(self, launch: Launch) -> list[Machine]:
        is_new = launch.token not in self.tokens
        machines = super().bought(launch)
        return [*machines, self.start(launch, 0)] if is_new else machines


@breach
class R2BuysInEachZone(Tiny):
    def bought(self, launch: Launch) -> list[Machine]:
        known = self.tokens.get(launch.token)
        if known is not None and known.offer != launch.offer:
            return [self.start(launch, 0)]
        return super().bought(launch)


@breach
class R3ForgetsTheTags(Tiny):
    def start(self, launch: Launch, index: int) -> Machine:
        machine = msgspec.structs.replace(super().start(launch, index), instance_id="")
        self.cloud[machine.name] = (self.uid, machine)
        return machine


@breach
class R3ListsTooLate(Tiny):
    def __init__(self, uid: str, cloud: dict[str, tuple[str, Machine]]) -> None:
        super().__init__(uid, cloud)
        self.born_s: dict[str, float] = {}

    def start(self, launch: Launch, index: int) -> Machine:
        machine = super().start(launch, index)
        self.born_s[machine.name] = asyncio.get_running_loop().time()
        return machine

    def own(self) -> list[Machine]:
        now_s = asyncio.get_running_loop().time()
        return [one for one in super().own() if now_s - self.born_s[one.name] > 2 * self.traits.listing_lag_s]


@breach
class R4IsShortAndSaysComplete(Tiny):
    async def machines(self) -> Listing:
        listing = await super().machines()
        return msgspec.structs.replace(listing, machines=listing.machines[:1])


@breach
class R4ListsEverybodys(Tiny):
    def own(self) -> list[Machine]:
        return [machine for _, machine in self.cloud.values()]


@breach
class R4ListsOnlyWhatRuns(Tiny):
    async def machines(self) -> Listing:
        listing = await super().machines()
        return msgspec.structs.replace(
            listing, machines=tuple(one for one in listing.machines if one.phase is not Phase.HALTED)
        )


@breach
class R5DropsLateRefusals(Tiny):
    async def machines(self) -> Listing:
        return msgspec.structs.replace(await super().machines(), refusals=())


@breach
class R6RefusesWhatIsGone(Tiny):
    def released(self, name: str) -> Answer:
        if name not in self.cloud or not self.cloud[name][1].is_billed:
            error = NotOffered("no such machine", code="NotFound")
            return Answer(name=name, outcome=Outcome.REFUSED, error=error)
        return super().released(name)


@breach
class R6EndsNothing(Tiny):
    def released(self, name: str) -> Answer:
        return Answer(name=name, outcome=Outcome.ACCEPTED)


@breach
class R7LetsItsSdkEscape(Tiny):
    async def machines(self) -> Listing:
        if self.fails_listing:
            raise ConnectionResetError("the SDK's own error")
        return await super().machines()


@breach
class R7SaysUnknownForARefusal(Tiny):
    def bought(self, launch: Launch) -> list[Machine]:
        try:
            return super().bought(launch)
        except NotOffered as error:
            raise UnknownOutcome(str(error)) from error


@breach
class R7SaysTryAgainForGarbage(Tiny):
    def bought(self, launch: Launch) -> list[Machine]:
        try:
            return super().bought(launch)
        except TokenMismatch:
            raise
        except RequestError as error:
            raise RequestError(str(error), retry=Retry.LATER) from error


@breach
class R8WaitsForTheMachine(Tiny):
    async def launch(self, launches: Sequence[Launch]) -> Sequence[Answer]:
        await asyncio.sleep(self.traits.call_limit_s + 1)
        return await super().launch(launches)


@breach
class R9RefusesAllForOne(Tiny):
    async def launch(self, launches: Sequence[Launch]) -> Sequence[Answer]:
        answers = await super().launch(launches)
        bad = next((one for one in answers if one.outcome is Outcome.REFUSED), None)
        return answers if bad is None else [msgspec.structs.replace(bad, name=one.name) for one in answers]


@breach
class R9AnswersInItsOwnOrder(Tiny):
    async def release(self, names: Sequence[str]) -> Sequence[Answer]:
        return [self.released(name) for name in sorted(names)]


@breach
class R10GivesAPart(Tiny):
    def bought(self, launch: Launch) -> list[Machine]:
        if self.left is not None and launch.token not in self.tokens:
            self.tokens[launch.token] = launch
            return [self.start(launch, index) for index in range(min(self.left, len(launch.instance_ids)))]
        return super().bought(launch)


def failed_rules(kind: type[Tiny]) -> set[str]:
    """Run the whole contract on a provider and return the rules of which a test failed; none may be skipped."""
    contract = TestTiny()
    contract.kind = kind  # type: ignore[misc]
    failed: set[str] = set()
    for name, check in inspect.getmembers(contract, inspect.ismethod):
        if name.startswith("test_"):
            try:
                check()
            except pytest.skip.Exception as skipped:
                raise AssertionError(f"{name} was skipped: {skipped}") from skipped
            except Exception:  # whatever a wrong provider makes a test raise is the test's failure
                failed.add(name.removeprefix("test_").split("_")[0].upper())
    return failed


@pytest.mark.parametrize("kind", BREACHES, ids=lambda kind: kind.__name__)
def test_the_kit_finds_the_breach(kind: type[Tiny]) -> None:
    rule = kind.__name__[:3] if kind.__name__[2].isdigit() else kind.__name__[:2]
    assert rule in failed_rules(kind)


def test_every_rule_has_a_breach_and_a_test() -> None:
    rules = {f"R{number}" for number in range(1, 11)}
    assert failed_rules(Tiny) == set()
    assert {kind.__name__[:3] if kind.__name__[2].isdigit() else kind.__name__[:2] for kind in BREACHES} == rules
    tested = {name.split("_")[1].upper() for name in dir(ProviderContract) if name.startswith("test_r")}
    assert tested >= rules
