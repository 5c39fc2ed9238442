"""All that a cluster file lets the planner buy, with the prices known without asking anyone.

`shoal plan` and `shoal simulate` start here. A running cluster asks its providers instead; they take prices from the
same catalogue.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from shoal.config.build import ProviderUse
from shoal.config.demand_csv import read_offers
from shoal.foundation.errors import BadInput
from shoal.model.offer import Offer, OfferKey
from shoal.model.policy import NodeType, Policy
from shoal.providers.prices.catalogue import CLOUDS, HEAD_ARCH, Catalogue, own_offers
from shoal.providers.sim.faults import default_offers

HOME_REGIONS = {"aws": "us-east-1", "gcp": "us-central1", "azure": "eastus"}
"""The region whose table a simulated cloud sells when its own region is none of the real cloud's."""


class Stall(msgspec.Struct, frozen=True, kw_only=True):
    """What can be bought, and what the user must know of it."""

    offers: tuple[Offer, ...]
    notes: tuple[str, ...] = ()
    written: dict[OfferKey, OfferKey] = {}
    """How an offer file names an offer that is sold under another key."""


def market(policy: Policy, uses: Sequence[ProviderUse], catalogue: Catalogue, *, beside: Path | None = None) -> Stall:
    """Return everything that the policy's node types could buy, each offer once, ordered by type.

    Relative paths in a provider's section are looked up in the folder `beside`.

    Raises:
        BadInput: of a node type neither a region nor a size can be told, or an offer file is wrong.
    """
    by_name = {use.name: use for use in uses}
    clouds = {use.name: use.kind for use in uses}
    buyers = [kind for kind in policy.node_types if kind.name != policy.head_node_type or kind.max_workers]
    arch = _head_arch(policy, clouds, catalogue)
    found: dict[OfferKey, Offer] = {}
    listed: set[OfferKey] = set()
    """Offers that some type buys at their list price; the others' prices are the YAML's."""
    said: list[str] = []
    for kind in buyers:
        # The planner sets the YAML's price over the offer's; another type may use the same offer at its list price.
        plain = msgspec.structs.replace(kind, price_usd_per_h=None)
        cloud = clouds.get(kind.provider, kind.provider)
        if cloud == "sim":
            own = _simulated(plain, by_name.get(kind.provider), catalogue, beside)
        else:
            own = catalogue.offers_for(plain, cloud=cloud, arch=arch)
        if not own:
            said.append(f"node type `{kind.name}` has no offers: {_why_none(kind, cloud, catalogue)}")
        for offer in own:
            there = found.get(offer.key)
            is_named = offer.is_named or (there is not None and there.is_named)
            found[offer.key] = msgspec.structs.replace(there or offer, is_named=is_named)
            if kind.price_usd_per_h is None:
                listed.add(offer.key)
    offers = tuple(found.values())
    own_prices = sum(1 for offer in offers if offer.key not in listed and clouds.get(offer.key.provider) in CLOUDS)
    if own_prices:
        said.append(f"{own_prices} price{'s are' if own_prices > 1 else ' is'} the cluster file's own")
    at_list = [offer for offer in offers if offer.key in listed]
    return Stall(offers=offers, notes=(*said, *catalogue.notes(at_list, clouds)))


def _why_none(kind: NodeType, cloud: str, catalogue: Catalogue) -> str:
    """Return why nothing is known that a node type could buy, and what to write."""
    if cloud not in CLOUDS:
        if kind.resources:
            return f"nothing that `{kind.provider}` sells suits it"
        return "its size is known only once a node has joined; write `resources: {CPU: ...}` to plan with it"
    if not kind.machine_types and kind.need is None:
        return "the file does not name its machine type; write `machine_types` beside the template"
    for region in kind.regions:
        if not any(catalogue.types(cloud, region, market) for market in kind.markets):
            return (
                f"no list prices of {cloud}/{region} are known; `shoal prices refresh --provider {cloud} "
                f"--region {region}` asks the cloud's public list"
            )
    return f"nothing that `{kind.provider}` sells suits it"


def _simulated(kind: NodeType, use: ProviderUse | None, catalogue: Catalogue, beside: Path | None) -> tuple[Offer, ...]:
    """Return what a simulated cloud sells: a file's offers, a real cloud's table, or machines as the types say."""
    said: dict[str, Any] = json.loads(use.settings) if use else {}
    region = str(said.get("region") or "sim-1")
    zones = tuple(kind.zones) or ("",)
    if said.get("offers"):
        listed = read_offers((beside or Path()) / str(said["offers"]))
    elif said.get("catalogue"):
        cloud = str(said["catalogue"])
        if cloud not in CLOUDS:
            raise BadInput(f"provider.catalogue: expected one of {', '.join(CLOUDS)}, got `{cloud}`")
        at = region if region in catalogue.regions(cloud) else HOME_REGIONS[cloud]
        listed = catalogue.whole(cloud, at)
    elif kind.resources:
        listed = own_offers(kind, "sim")
        if kind.price_usd_per_h is None:
            # A simulated machine costs nothing; its price counts only where the file writes one.
            listed = tuple(msgspec.structs.replace(offer, price_usd_per_h=0.0) for offer in listed)
    else:
        listed = tuple(
            Offer(
                key=OfferKey(kind.provider, region, one.zone, one.machine_type, one.market),
                resources=one.resources,
                price_usd_per_h=one.price_usd_per_h,
                accelerator=one.accelerator,
            )
            for one in default_offers()
        )
    limit = said.get("limit")
    named = set(kind.machine_types)
    return tuple(
        msgspec.structs.replace(
            offer,
            key=OfferKey(
                kind.provider,
                offer.key.region if said.get("offers") and offer.key.region else region,
                zone,
                offer.key.machine_type,
                offer.key.market,
            ),
            limit=offer.limit if limit is None else limit,
            is_named=offer.is_named or offer.key.machine_type in named,
            boot_typical_s=float(said.get("boot_s") or offer.boot_typical_s),
        )
        for offer in listed
        for zone in ((offer.key.zone,) if offer.key.zone else zones)
    )


def _head_arch(policy: Policy, clouds: dict[str, str], catalogue: Catalogue) -> str:
    """Return the head machine's architecture as far as its type is known, else the usual one."""
    head = policy.node_type(policy.head_node_type)
    for name in head.machine_types if head else ():
        if head and (spec := catalogue.spec(clouds.get(head.provider, head.provider), name)):
            return spec.arch
    return HEAD_ARCH
