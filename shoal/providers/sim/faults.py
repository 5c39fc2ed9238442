"""What a simulated cloud sells, and what goes wrong in it. Plain values; `cloud` acts on them."""

from __future__ import annotations

import msgspec

from shoal.foundation.amounts import Amounts, amounts
from shoal.model.offer import ON_DEMAND

GIB = 2**30


class SimOffer(msgspec.Struct, frozen=True, kw_only=True):
    """One machine type in one zone and market. `limit` is how many of it exist; None is no end."""

    machine_type: str
    resources: Amounts
    price_usd_per_h: float | None
    zone: str = "z1"
    market: str = ON_DEMAND
    limit: int | None = None
    arch: str = "amd64"
    accelerator: str = ""


class SimQuota(msgspec.Struct, frozen=True, kw_only=True):
    """A ceiling of the account; `weights` say what one machine of each type takes."""

    name: str
    limit: int
    weights: dict[str, int]
    market: str = ""


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """How often each thing goes wrong. Fields are chances (0 to 1) per event unless the name says otherwise."""

    no_capacity: float = 0.0
    """A launch is refused for want of capacity."""
    late_refusal: float = 0.0
    """A launch is accepted and fails some seconds later."""
    throttle: float = 0.0
    """A call is not looked at."""
    stuck_release: float = 0.0
    """A release is not looked at: the machine goes on existing, and costing."""
    slow_launch: float = 0.0
    """A launch is looked at only when most of `call_limit_s` has passed; the call lasts as long."""
    lost_reply: float = 0.0
    """A call works and its answer is lost; the effect may come a moment after the caller gave up."""
    lost_request: float = 0.0
    """A call never arrives; the caller cannot know."""
    duplicate: float = 0.0
    """The network delivers a launch twice."""
    short_list: float = 0.0
    """A listing shows only a part, and says so."""
    hidden: float = 0.0
    """A new machine is missing from complete listings for minutes: a breach of rule R4, as clouds commit it."""
    list_error: float = 0.0
    """A listing fails."""
    part_only: float = 0.0
    """A batch gives fewer machines than asked."""
    never_join: float = 0.0
    """A machine boots and its agent never reports."""
    smaller: float = 0.0
    """A machine joins with less memory than promised."""
    debris: float = 0.0
    """A release leaves a disk behind; a late refusal leaves a failed machine's disk."""
    halts_per_h: float = 0.0
    """How often a running machine stops by itself and stays listed as halted."""
    vanishes_per_h: float = 0.0
    """How often a running machine is gone without a word."""
    interruptions_per_h: float = 0.0
    """How often a spot machine is taken back, after a notice."""
    price_changes_per_h: float = 0.0
    """How often an offer's price moves."""
    slow_boot: float = 0.0
    """A boot takes ten times as long."""


CALM = Faults()


def default_offers() -> tuple[SimOffer, ...]:
    """Return a small catalogue with round prices: three sizes in two zones, on demand and spot, and one GPU type."""
    offers = []
    for zone in ("z1", "z2"):
        for name, cpu, memory_gib, price in (("s2", 2, 8, 0.10), ("s4", 4, 16, 0.20), ("s16", 16, 64, 0.76)):
            size = amounts({"CPU": cpu, "memory": memory_gib * GIB})
            offers.append(SimOffer(machine_type=name, resources=size, price_usd_per_h=price, zone=zone))
            offers.append(
                SimOffer(machine_type=name, resources=size, price_usd_per_h=price * 0.3, zone=zone, market="spot")
            )
        offers.append(
            SimOffer(
                machine_type="g8",
                resources=amounts({"CPU": 8, "memory": 32 * GIB, "GPU": 1}),
                price_usd_per_h=0.90,
                zone=zone,
                accelerator="L4",
            )
        )
    return tuple(offers)
