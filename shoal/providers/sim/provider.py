"""The provider of the simulated cloud: the calls, with their delays and lost answers.

A call's effect does not hang on the caller: a cancelled or lost call may have worked, as in every cloud.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from shoal.foundation.chance import Chance
from shoal.foundation.clock import Clock
from shoal.foundation.errors import (
    BadInput,
    Outcome,
    ProviderError,
    ThrottledError,
    UnknownOutcome,
)
from shoal.model.launch import Answer, Launch, Listing
from shoal.model.offer import Market, OfferKey
from shoal.model.policy import NodeType
from shoal.providers.protocol import Ticket, Traits
from shoal.providers.sim.cloud import SimCloud, SimRequest
from shoal.providers.sim.faults import Faults, SimOffer, default_offers

SLOW_SHARE = (0.5, 0.8)
"""How much of `call_limit_s` a slow launch takes before it is looked at."""


class SimProvider:
    """A `Provider` over a `SimCloud`, for one cluster."""

    def __init__(
        self,
        cloud: SimCloud,
        clock: Clock,
        chance: Chance,
        *,
        cluster_uid: str,
        delay_s: tuple[float, float] = (0.05, 0.5),
    ) -> None:
        """Answer each call after a time between the two of `delay_s`."""
        self.cloud, self._clock, self._chance, self._uid, self._delay_s = cloud, clock, chance, cluster_uid, delay_s
        self.traits: Traits = cloud.traits
        self.short_share = 0.3
        """How much of what exists a short listing shows."""
        self.calls: dict[str, int] = {"offers": 0, "machines": 0, "launch": 0, "release": 0}

    async def offers(self) -> Market:
        """Return what is sold now."""
        self.calls["offers"] += 1
        await self._delay()
        return self.cloud.market()

    async def machines(self) -> Listing:
        """Return the cluster's machines; a short listing says so.

        Raises:
            ProviderError: the call failed.
        """
        self.calls["machines"] += 1
        began_s = self._clock.monotonic_s()
        await self._delay()
        if self._strikes("list_error"):
            raise UnknownOutcome("the listing timed out", code="Timeout")
        machines, debris, refusals = self.cloud.shown(self._uid)
        is_complete = not self._strikes("short_list")
        if not is_complete:
            machines = tuple(one for one in machines if self._chance.random() < self.short_share)
        await self._delay()
        return Listing(
            machines=machines,
            debris=debris,
            refusals=refusals,
            complete=is_complete,
            began_s=began_s,
            ended_s=self._clock.monotonic_s(),
        )

    async def launch(self, launches: Sequence[Launch]) -> Sequence[Answer]:
        """Start machines; each answer stands alone (rule R9)."""
        self.calls["launch"] += 1
        await self._delay()
        if self.cloud.faults.slow_launch and self._strikes("slow_launch"):
            await asyncio.sleep(self._chance.uniform(*SLOW_SHARE) * self.traits.call_limit_s)
        answers = [self._launch(launch) for launch in launches]
        await self._delay()
        return answers

    async def release(self, names: Sequence[str]) -> Sequence[Answer]:
        """End machines and debris."""
        self.calls["release"] += 1
        await self._delay()
        answers = [self._release(name) for name in names]
        await self._delay()
        return answers

    def render(self, ticket: Ticket, node_type: NodeType, offer: OfferKey) -> bytes:
        """Return the request of this cloud: its machines' tags."""
        return render(ticket)

    def _launch(self, launch: Launch) -> Answer:
        wrong = self._not_looked_at()
        if wrong is not None:
            return Answer(name=launch.token, outcome=wrong.outcome, error=wrong)
        if self._strikes("lost_reply"):
            # The cloud may act only after the caller has given up, yet within the listing lag.
            wait_s = self._chance.uniform(0.0, 0.05) * self.traits.listing_lag_s
            self.cloud._later(wait_s, self.cloud.launch, launch)
            return Answer(name=launch.token, outcome=Outcome.UNKNOWN, error=UnknownOutcome("the connection was reset"))
        machines, error = self.cloud.launch(launch)
        if machines and self._strikes("duplicate"):
            self.cloud._later(self._chance.uniform(0.0, 3.0), self.cloud.launch, launch)
        if error is not None and not machines:
            return Answer(name=launch.token, outcome=error.outcome, error=error)
        return Answer(name=launch.token, outcome=Outcome.ACCEPTED, machines=machines, error=error)

    def _release(self, name: str) -> Answer:
        wrong = self._not_looked_at()
        if wrong is None and self.cloud.faults.stuck_release and self._strikes("stuck_release"):
            wrong = ThrottledError("releases are not taken now", retry_after_s=self._chance.uniform(1.0, 5.0))
        if wrong is not None:
            return Answer(name=name, outcome=wrong.outcome, error=wrong)
        self.cloud.release(name)
        if self._strikes("lost_reply"):
            return Answer(name=name, outcome=Outcome.UNKNOWN, error=UnknownOutcome("the connection was reset"))
        return Answer(name=name, outcome=Outcome.ACCEPTED)

    def _not_looked_at(self) -> ProviderError | None:
        if self._strikes("throttle"):
            return ThrottledError("request limit exceeded", retry_after_s=self._chance.uniform(1.0, 5.0))
        if self._strikes("lost_request"):
            return UnknownOutcome("the connection timed out", code="Timeout")
        return None

    def _strikes(self, fault: str) -> bool:
        return self.cloud.strikes(fault, self._chance)

    async def _delay(self) -> None:
        low_s, high_s = self._delay_s
        if high_s > 0:
            await asyncio.sleep(self._chance.uniform(low_s, high_s) / 2)


def render(ticket: Ticket) -> bytes:
    """Return the request bytes of a ticket; the same ticket gives the same bytes."""
    return msgspec.json.encode(
        SimRequest(
            cluster_uid=ticket.cluster_uid,
            node_type=ticket.node_type,
            instance_ids=ticket.instance_ids,
            attempt=ticket.attempt,
            epoch=ticket.epoch,
            role=ticket.role,
            join_secret=ticket.join_secret,
        )
    )


class SimSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys of a YAML's provider of `type: sim`, as the config hands them on."""

    type: str = "sim"
    seed: int = 0
    faults: Faults = Faults()
    catalogue: str | None = None
    offers: str | None = None
    region: str = "sim-1"
    availability_zone: str | tuple[str, ...] = ()
    boot_s: float = 30.0
    boot_spread: float = 0.2
    listing_lag_s: float = 0.0
    limit: int | None = None


def from_section(
    section: Mapping[str, Any],
    clock: Clock,
    *,
    cluster_uid: str,
    name: str = "sim",
    offers: Sequence[SimOffer] | None = None,
    delay_s: tuple[float, float] = (0.05, 0.5),
) -> SimProvider:
    """Return a simulated provider as a YAML describes it, on the running loop's time.

    `offers` are what `catalogue` or `offers` of the section name, read by the caller; None is the small built-in
    catalogue. The provider's `cloud` takes the hooks of whoever lives on its machines.

    Raises:
        BadInput: the section holds something that the simulation does not know.
    """
    try:
        wanted = msgspec.convert(dict(section), SimSection)
    except msgspec.ValidationError as error:
        raise BadInput(f"provider: {error}", hint="docs/provider-contract.md describes `type: sim`") from error
    zones = (wanted.availability_zone,) if isinstance(wanted.availability_zone, str) else wanted.availability_zone
    sold = [
        msgspec.structs.replace(one, limit=wanted.limit if one.limit is None else one.limit)
        for one in (default_offers() if offers is None else offers)
        if not zones or one.zone in zones
    ]
    chance = Chance(f"sim/{wanted.seed}")
    cloud = SimCloud(
        clock,
        chance.split("cloud"),
        name=name,
        region=wanted.region,
        offers=sold,
        faults=wanted.faults,
        boot_s=(wanted.boot_s * (1 - wanted.boot_spread), wanted.boot_s * (1 + wanted.boot_spread)),
        listing_lag_s=wanted.listing_lag_s,
    )
    return SimProvider(cloud, clock, chance.split("calls"), cluster_uid=cluster_uid, delay_s=delay_s)


__all__ = ["SimProvider", "SimSection", "from_section", "render"]
