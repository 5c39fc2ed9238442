"""What every provider is wrapped in, so that no provider has to do it: limits of time and pace, errors, counts.

A wrapper is itself a `Provider` and keeps the ten rules. `Guarded` holds each call to `traits.call_limit_s` and turns
whatever escapes into what the rules allow; `Paced` refuses calls beyond a rate before the cloud does; `Counted` counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec

from shoal.foundation.clock import Clock
from shoal.foundation.errors import Outcome, ProviderError, ThrottledError, UnknownOutcome
from shoal.model.launch import Answer, Launch, Listing
from shoal.model.offer import Market
from shoal.providers.protocol import Provider, Traits

Result = TypeVar("Result")


class Guarded:
    """Ends each call by its limit, and lets nothing escape that is not a `ProviderError` (rules R7, R8, R9).

    A call that is given up is not cancelled: what it started goes on, its result is dropped, and its outcome is
    `unknown`. A launch or release never raises; offers and listings raise `ProviderError` only.
    """

    def __init__(self, inner: Provider) -> None:
        self.inner = inner
        self.traits: Traits = inner.traits
        self._given_up: set[asyncio.Future[Any]] = set()

    async def offers(self) -> Market:
        """Return the inner provider's offers.

        Raises:
            ProviderError: the call failed, or did not end in time.
        """
        return await self._within(self.inner.offers(), "offers")

    async def machines(self) -> Listing:
        """Return the inner provider's listing.

        Raises:
            ProviderError: the call failed, or did not end in time.
        """
        return await self._within(self.inner.machines(), "machines")

    async def launch(self, launches: Sequence[Launch]) -> Sequence[Answer]:
        """Start machines; exactly one answer per launch, in their order."""
        return await self._answers([one.token for one in launches], lambda: self.inner.launch(launches), "launch")

    async def release(self, names: Sequence[str]) -> Sequence[Answer]:
        """End machines and debris; exactly one answer per name, in their order."""
        return await self._answers(list(names), lambda: self.inner.release(names), "release")

    async def _answers(
        self, names: list[str], call: Callable[[], Awaitable[Sequence[Answer]]], what: str
    ) -> list[Answer]:
        try:
            given = list(await self._within(call(), what))
        except ProviderError as error:
            # Only answers can prove a refusal; a call that raised may have done anything.
            return [Answer(name=name, outcome=Outcome.UNKNOWN, error=_unknown(error)) for name in names]
        by_name = {answer.name: answer for answer in given}
        missing = UnknownOutcome(f"{what} gave no answer for it", code="NoAnswer")
        return [by_name.get(name) or Answer(name=name, outcome=Outcome.UNKNOWN, error=missing) for name in names]

    async def _within(self, call: Awaitable[Result], what: str) -> Result:
        task = asyncio.ensure_future(call)
        try:
            done, _ = await asyncio.wait({task}, timeout=self.traits.call_limit_s)
        except asyncio.CancelledError:
            task.cancel()  # we are ending ourselves: the next start lists and replays
            raise
        if not done:
            self._given_up.add(task)
            task.add_done_callback(self._forget)
            raise UnknownOutcome(f"{what} did not end within {self.traits.call_limit_s:g} s", code="CallLimit")
        try:
            return task.result()
        except ProviderError:
            raise
        except Exception as error:
            raise UnknownOutcome(f"{what}: {type(error).__name__}: {error}", code="Escaped") from error

    def _forget(self, task: asyncio.Future[Any]) -> None:
        self._given_up.discard(task)
        if not task.cancelled():
            task.exception()  # seen, so that asyncio does not complain about it


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How many launched machines per second an account bears, and how many at once after a pause."""

    per_s: float
    burst: float


class Paced:
    """Refuses launches beyond a pace with `retry_after_s`, before the cloud throttles everything we do.

    It never waits (rule R8): the refusal is one that the loop treats as any other throttling. Source of the idea and
    of EC2's numbers (a bucket of machines, refilled at 2 per second): Amazon EC2 API throttling guide.
    """

    def __init__(self, inner: Provider, clock: Clock, pace: Pace) -> None:
        self.inner, self._clock, self._pace = inner, clock, pace
        self.traits: Traits = inner.traits
        self._left = pace.burst
        self._filled_s = clock.monotonic_s()

    async def offers(self) -> Market:
        return await self.inner.offers()

    async def machines(self) -> Listing:
        return await self.inner.machines()

    async def launch(self, launches: Sequence[Launch]) -> Sequence[Answer]:
        """Start what the pace allows; refuse the rest."""
        self._fill()
        allowed: list[Launch] = []
        refused: dict[str, Answer] = {}
        for launch in launches:
            count = len(launch.instance_ids)
            # A batch larger than the whole bucket goes when the bucket is full, and leaves a debt.
            if self._left >= min(count, self._pace.burst):
                self._left -= count
                allowed.append(launch)
                continue
            wait_s = (min(count, self._pace.burst) - self._left) / self._pace.per_s
            error = ThrottledError("our own launch pace", code="OwnPace", retry_after_s=wait_s)
            refused[launch.token] = Answer(name=launch.token, outcome=Outcome.REFUSED, error=error)
        given = iter(await self.inner.launch(allowed) if allowed else ())
        return [refused.get(launch.token) or next(given) for launch in launches]

    async def release(self, names: Sequence[str]) -> Sequence[Answer]:
        return await self.inner.release(names)

    def _fill(self) -> None:
        now_s = self._clock.monotonic_s()
        self._left = min(self._pace.burst, self._left + (now_s - self._filled_s) * self._pace.per_s)
        self._filled_s = now_s


class Counts(msgspec.Struct, kw_only=True):
    """What the calls of one kind came to."""

    calls: int = 0
    failed: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    outcomes: dict[str, int] = {}


class Counted:
    """Counts calls, outcomes and times, for metrics."""

    def __init__(self, inner: Provider, clock: Clock) -> None:
        self.inner, self._clock = inner, clock
        self.traits: Traits = inner.traits
        self.counts: dict[str, Counts] = {}

    async def offers(self) -> Market:
        return await self._counted("offers", self.inner.offers())

    async def machines(self) -> Listing:
        return await self._counted("machines", self.inner.machines())

    async def launch(self, launches: Sequence[Launch]) -> Sequence[Answer]:
        return self._outcomes("launch", await self._counted("launch", self.inner.launch(launches)))

    async def release(self, names: Sequence[str]) -> Sequence[Answer]:
        return self._outcomes("release", await self._counted("release", self.inner.release(names)))

    async def _counted(self, kind: str, call: Awaitable[Result]) -> Result:
        counts = self.counts.setdefault(kind, Counts())
        began_s = self._clock.monotonic_s()
        counts.calls += 1
        try:
            return await call
        except BaseException:
            counts.failed += 1
            raise
        finally:
            took_s = self._clock.monotonic_s() - began_s
            counts.seconds += took_s
            counts.slowest_s = max(counts.slowest_s, took_s)

    def _outcomes(self, kind: str, answers: Sequence[Answer]) -> Sequence[Answer]:
        counts = self.counts[kind]
        for answer in answers:
            word = answer.outcome.value
            counts.outcomes[word] = counts.outcomes.get(word, 0) + 1
        return answers


def _unknown(error: ProviderError) -> ProviderError:
    """Return the error with the outcome that a raised call proves: none."""
    if error.outcome is Outcome.UNKNOWN:
        return error
    return UnknownOutcome(str(error), code=error.code, retry_after_s=error.retry_after_s)
