"""What can be bought: offers, markets, quotas; and what we have learned of an offer's health."""

from __future__ import annotations

import msgspec

from shoal.foundation.amounts import Amounts

ON_DEMAND = "on-demand"
SPOT = "spot"

MICRO = 1_000_000
"""Micro-dollars in a dollar: the planner compares and adds prices as whole numbers."""


class OfferKey(msgspec.Struct, frozen=True, order=True, gc=False):
    """The identity of an offer. Its text form is `provider/region/zone/machine_type/market`."""

    provider: str
    region: str
    zone: str
    machine_type: str
    market: str = ON_DEMAND

    def __str__(self) -> str:
        return f"{self.provider}/{self.region}/{self.zone}/{self.machine_type}/{self.market}"


def offer_key(text: str) -> OfferKey:
    """Return the key that `str(key)` wrote.

    Raises:
        ValueError: `text` has not five parts.
    """
    parts = text.split("/")
    if len(parts) != 5:
        raise ValueError(f"expected provider/region/zone/type/market, got `{text}`")
    return OfferKey(*parts)


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """Something that can be bought now, as its provider lists it.

    `resources` are what a node of it will offer (usable memory, once learned); `limit` is how many more of it
    can be had, if the provider says so; `price_usd_per_h` is None when unknown, which is never 0.
    """

    key: OfferKey
    resources: Amounts
    price_usd_per_h: float | None = None
    limit: int | None = None
    arch: str = "amd64"
    accelerator: str = ""
    topology: str = ""
    labels: dict[str, str] = {}
    boot_typical_s: float = 60.0
    is_named: bool = False
    """The YAML names this offer itself; only then may it be bought at an unknown price."""

    @property
    def price_micro(self) -> int | None:
        """Price in whole micro-dollars per hour, None when unknown."""
        return None if self.price_usd_per_h is None else round(self.price_usd_per_h * MICRO)


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """A ceiling of the account over a set of offers: `sum(weight * machines) <= limit - used`.

    `weights` maps machine types to what one machine takes of the quota, in the quota's own unit (`vCPU`, `IPs`).
    """

    name: str
    provider: str
    region: str
    market: str = ""
    limit: int = 0
    used: int = 0
    weights: dict[str, int] = {}


class Market(msgspec.Struct, frozen=True, kw_only=True):
    """All offers and quotas of one provider at one moment."""

    offers: tuple[Offer, ...] = ()
    quotas: tuple[Quota, ...] = ()


class OfferHealth(msgspec.Struct, frozen=True, kw_only=True):
    """What we have learned about buying at one scope (an offer's key, or a prefix of it such as a zone).

    `p_success` is the prior (0 to 1) that a launch works; until `unhealthy_for_s` has passed nothing is bought
    there except one probe. `code` and `error` are what the cloud said last.
    """

    scope: str
    p_success: float = 1.0
    unhealthy_for_s: float = 0.0
    failures: int = 0
    code: str = ""
    error: str = ""
    may_probe: bool = False
