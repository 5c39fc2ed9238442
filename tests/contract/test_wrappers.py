"""A wrapped provider keeps the ten rules; each wrapper does what it is for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shoal.foundation.chance import Chance
from shoal.foundation.clock import LoopClock
from shoal.foundation.errors import Outcome, ProviderError, UnknownOutcome
from shoal.providers.sim.cloud import SimCloud
from shoal.providers.sim.provider import SimProvider
from shoal.providers.wrappers import Counted, Guarded, Pace, Paced
from shoal.testing import builders, sim_time
from shoal.testing.contract import UID, Bench
from tests.contract import test_sim


class TestWrapped(test_sim.TestSim):
    @asynccontextmanager
    async def bench(self) -> AsyncIterator[Bench]:
        async with super().bench() as bench:
            clock = LoopClock()
            paced = Paced(bench.provider, clock, Pace(per_s=10.0, burst=100.0))
            bench.provider = Guarded(Counted(paced, clock))
            yield bench


def provider() -> SimProvider:
    cloud = SimCloud(LoopClock(), Chance(1))
    return SimProvider(cloud, LoopClock(), Chance(2), cluster_uid=UID, delay_s=(0.0, 0.0))


def launches(count: int, size: int = 1) -> list[Any]:
    return [
        builders.launch(
            f"s{number:030d}",
            size,
            request=test_sim.request("t", tuple(f"i-a-{number}-{index}" for index in range(size))),
        )
        for number in range(count)
    ]


def test_a_call_that_hangs_is_given_up_and_its_effect_stays() -> None:
    async def main() -> None:
        inner = provider()
        real, ended = inner.launch, asyncio.Event()

        async def slow(given: Any) -> Any:
            await asyncio.sleep(500.0)
            answers = await real(given)
            ended.set()
            return answers

        inner.launch = slow  # type: ignore[method-assign]
        (answer,) = await Guarded(inner).launch(launches(1))
        assert asyncio.get_running_loop().time() == inner.traits.call_limit_s
        assert answer.outcome is Outcome.UNKNOWN and answer.error is not None and answer.error.code == "CallLimit"
        await ended.wait()
        assert len(inner.cloud.machines) == 1

    sim_time.run(main())


def test_what_escapes_a_call_becomes_unknown() -> None:
    async def main() -> None:
        inner = provider()

        async def broken(*_: Any) -> Any:
            raise KeyError("botocore was here")

        inner.launch = inner.release = inner.machines = broken  # type: ignore[method-assign, assignment]
        guarded = Guarded(inner)
        (answer,) = await guarded.launch(launches(1))
        assert answer.outcome is Outcome.UNKNOWN and isinstance(answer.error, UnknownOutcome)
        (answer,) = await guarded.release(["m"])
        assert answer.outcome is Outcome.UNKNOWN
        with pytest.raises(ProviderError, match="botocore was here"):
            await guarded.machines()

    sim_time.run(main())


def test_answers_come_in_the_order_of_the_launches_and_none_is_missing() -> None:
    async def main() -> None:
        inner = provider()
        real = inner.launch

        async def careless(given: Any) -> Any:
            return list(reversed(await real(given)))[:-1]

        inner.launch = careless  # type: ignore[method-assign]
        asked = launches(3)
        answers = await Guarded(inner).launch(asked)
        assert [one.name for one in answers] == [one.token for one in asked]
        assert [one.outcome for one in answers] == [Outcome.UNKNOWN, Outcome.ACCEPTED, Outcome.ACCEPTED]

    sim_time.run(main())


def test_launches_beyond_the_pace_are_refused_with_the_time_to_wait() -> None:
    async def main() -> None:
        inner = provider()
        paced = Paced(inner, LoopClock(), Pace(per_s=2.0, burst=5.0))
        answers = await paced.launch(launches(4, size=2))
        assert [one.outcome for one in answers] == [Outcome.ACCEPTED] * 2 + [Outcome.REFUSED] * 2
        error = answers[2].error
        assert error is not None and error.retry_after_s == pytest.approx(0.5)
        assert len(inner.cloud.machines) == 4
        await asyncio.sleep(0.5)
        (again,) = await paced.launch(launches(4, size=2)[2:3])
        assert again.outcome is Outcome.ACCEPTED

    sim_time.run(main())


def test_a_batch_larger_than_the_bucket_goes_when_the_bucket_is_full() -> None:
    async def main() -> None:
        paced = Paced(provider(), LoopClock(), Pace(per_s=1.0, burst=2.0))
        big, small = launches(2, size=6)
        (first,) = await paced.launch([big])
        (second,) = await paced.launch([small])
        assert (first.outcome, second.outcome) == (Outcome.ACCEPTED, Outcome.REFUSED)
        assert second.error is not None and second.error.retry_after_s == pytest.approx(6.0)

    sim_time.run(main())


def test_calls_are_counted_with_their_outcomes() -> None:
    async def main() -> None:
        counted = Counted(provider(), LoopClock())
        await counted.launch([*launches(2), builders.launch("s" + "z" * 30)])
        await counted.machines()
        assert counted.counts["launch"].calls == 1
        assert counted.counts["launch"].outcomes == {"accepted": 2, "refused": 1}
        assert counted.counts["machines"].calls == 1 and not counted.counts["machines"].failed

    sim_time.run(main())
