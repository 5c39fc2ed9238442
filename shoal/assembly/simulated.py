"""`provider: {type: sim}` in a live cluster: the market, the luck and the bill are simulated, the machines are real.

Whatever the simulated cloud boots comes up as a local machine (a process group with its own agent), and ends with its
simulated twin. The cloud's memory is the autoscaler's: if that process dies, the cloud is new, and its old twins are
released before anything else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from shoal.foundation.chance import Chance
from shoal.foundation.clock import Clock
from shoal.foundation.ids import launch_token
from shoal.model.launch import Answer, Launch, Listing
from shoal.model.offer import SPOT, Market, OfferKey
from shoal.model.policy import NodeType, Policy
from shoal.providers.local import translate
from shoal.providers.local.provider import LocalProvider, LocalSettings
from shoal.providers.protocol import Ticket
from shoal.providers.sim.cloud import SimCloud, SimMachine
from shoal.providers.sim.faults import Faults, SimOffer
from shoal.providers.sim.provider import SimProvider

SPOT_SHARE = 0.3
"""What a spot machine costs of its on-demand price, where the YAML names no price of its own for it."""
RELEASE_EVERY_S = 0.2


class SimulatedCloud:
    """A `Provider` whose machines are simulated for money and real for work."""

    def __init__(
        self, clock: Clock, policy: Policy, name: str, section: Mapping[str, Any], place: LocalSettings
    ) -> None:
        chance = Chance(f"{name}/{section.get('seed', 0)}")
        boot_s, spread = float(section.get("boot_s", 30.0)), float(section.get("boot_spread", 0.2))
        cloud = SimCloud(
            clock,
            chance.split("cloud"),
            name=name,
            region=str(section.get("region") or "sim-1"),
            offers=_offers(policy, name, section),
            faults=msgspec.convert(section.get("faults") or {}, Faults),
            boot_s=(boot_s * (1 - spread), boot_s * (1 + spread)),
            listing_lag_s=float(section.get("listing_lag_s", 0.0)),
        )
        self._sim = SimProvider(cloud, clock, chance.split("calls"), cluster_uid=place.uid, delay_s=(0.0, 0.05))
        self.traits = self._sim.traits
        twins = tuple(msgspec.structs.replace(kind, provider="local") for kind in policy.node_types)
        self._kinds = {kind.name: kind for kind in twins}
        self._twins = LocalProvider(clock, msgspec.structs.replace(place, node_types=twins))
        self._tickets: dict[str, Ticket] = {}
        self._ending: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_new = True
        cloud.on_running, cloud.on_ended = self._boot, self._end

    async def offers(self) -> Market:
        return await self._sim.offers()

    async def machines(self) -> Listing:
        if self._is_new:
            await self._release_orphans()
        return await self._sim.machines()

    async def launch(self, launches: Sequence[Launch]) -> Sequence[Answer]:
        return await self._sim.launch(launches)

    async def release(self, names: Sequence[str]) -> Sequence[Answer]:
        return await self._sim.release(names)

    def render(self, ticket: Ticket, node_type: NodeType, offer: OfferKey) -> bytes:
        """Return the simulated cloud's request; the ticket is kept for the twin, which boots in this process's time."""
        self._tickets[ticket.token] = ticket
        return self._sim.render(ticket, node_type, offer)

    def _boot(self, machine: SimMachine) -> None:
        """The simulated machine runs: bring its twin up, if it is one that ever joins."""
        ticket = self._tickets.get(machine.token)
        kind = self._kinds.get(machine.request.node_type)
        if ticket is None or kind is None or not machine.is_joining:
            return
        # A batch boots one by one, so each twin is a launch of its own, named after its simulated machine.
        own = msgspec.structs.replace(ticket, instance_ids=(machine.instance_id,))
        smaller = msgspec.structs.replace(kind, resources=machine.resources)
        key = translate.offer_key(kind.name)
        launch = Launch(
            token=_twin_token(machine),
            instance_ids=(machine.instance_id,),
            offer=key,
            request=self._twins.render(own, smaller, key),
        )
        self._do(self._twins.launch([launch]))

    def _end(self, machine: SimMachine) -> None:
        self._do(self._release_twin(translate.machine_name(_twin_token(machine), 0)))

    async def _release_twin(self, name: str) -> None:
        """Call until the twin is gone; each call does what can be done now."""
        while any(one.name == name for one in (await self._twins.machines()).machines):
            await self._twins.release([name])
            await asyncio.sleep(RELEASE_EVERY_S)

    async def _release_orphans(self) -> None:
        """A new cloud knows none of the machines that an earlier one booted: they go before it is asked anything."""
        for machine in (await self._twins.machines()).machines:
            await self._release_twin(machine.name)
        self._is_new = False

    def _do(self, deed: Any) -> None:
        task = asyncio.ensure_future(deed)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _twin_token(machine: SimMachine) -> str:
    return launch_token(machine.request.cluster_uid, (machine.instance_id,), machine.request.attempt)


def _offers(policy: Policy, name: str, section: Mapping[str, Any]) -> list[SimOffer]:
    """Return what the YAML's node types may be bought as: each in every zone and market that it names."""
    zones = section.get("availability_zone") or ("z1",)
    found = []
    for kind in policy.node_types:
        if kind.provider != name:
            continue
        for zone in kind.zones or tuple(zones):
            for market in kind.markets:
                price = kind.price_usd_per_h
                share = SPOT_SHARE if market == SPOT else 1.0
                found.append(
                    SimOffer(
                        machine_type=kind.name,
                        resources=dict(kind.resources),
                        price_usd_per_h=None if price is None else price * share,
                        zone=zone,
                        market=market,
                        limit=section.get("limit"),
                    )
                )
    return found
