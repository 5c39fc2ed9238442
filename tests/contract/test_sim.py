"""The simulated cloud keeps the ten rules, calm and under faults, with and without atomic batches."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from shoal.foundation.chance import Chance
from shoal.foundation.clock import LoopClock
from shoal.model.offer import OfferKey
from shoal.providers.protocol import Ticket, Traits
from shoal.providers.sim.cloud import SimCloud
from shoal.providers.sim.faults import Faults
from shoal.providers.sim.provider import SimProvider, render
from shoal.testing import sim_time
from shoal.testing.contract import UID, Bench, ProviderContract

KEY = OfferKey("sim", "r1", "z1", "s2")


def request(token: str, names: tuple[str, ...]) -> bytes:
    return render(
        Ticket(
            cluster_uid=UID,
            cluster_name="contract",
            epoch=1,
            token=token,
            instance_ids=names,
            node_type="s2",
            attempt=1,
            head_address="",
            join_secret=f"secret of {token}",
        )
    )


class TestSim(ProviderContract):
    is_atomic = False
    background = Faults()

    @asynccontextmanager
    async def bench(self) -> AsyncIterator[Bench]:
        clock, chance = LoopClock(), Chance(7)
        traits = Traits(name="sim", listing_lag_s=10.0, call_limit_s=30.0, batch_max=10, is_atomic=self.is_atomic)
        cloud = SimCloud(clock, chance.split("cloud"), traits=traits, faults=self.background)
        provider = SimProvider(cloud, clock, chance.split("calls"), cluster_uid=UID)

        def once(**faults: float) -> None:
            cloud.faults = Faults(**faults)

        def limit(count: int) -> None:
            cloud.offers[KEY] = msgspec.structs.replace(cloud.offers[KEY], limit=count)

        async def calm_again(call: Any) -> Any:
            try:
                return await original(call)
            finally:
                cloud.faults = self.background

        async def listed_again() -> Any:
            try:
                return await listing()
            finally:
                cloud.faults = self.background

        original, listing = provider.launch, provider.machines
        provider.launch = calm_again  # type: ignore[method-assign]  # a bench arranges one fault for one call
        provider.machines = listed_again  # type: ignore[method-assign]
        yield Bench(
            provider=provider,
            offer=KEY,
            request=request,
            other_offer=msgspec.structs.replace(KEY, machine_type="s4"),
            limit=limit,
            lose_answer=lambda: once(lost_reply=1.0),
            refuse_late=lambda: once(late_refusal=1.0),
            halt=cloud.halt,
            fail_listing=lambda: once(list_error=1.0),
            stranger=SimProvider(cloud, clock, chance.split("stranger"), cluster_uid="other"),
        )
        cloud.close()

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        sim_time.run(main)


class TestAtomicSim(TestSim):
    is_atomic = True


class TestUnkindSim(TestSim):
    """Duplicated deliveries, short listings and debris break no promise."""

    background = Faults(duplicate=0.5, short_list=0.5, debris=1.0)
