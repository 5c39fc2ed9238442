"""What could be bought and for how much, before any cloud is asked: offers for a node type, price by price.

A price comes from the first layer that has it: the YAML (`price_usd_per_h`), the user's cache (`shoal prices
refresh`), the table shipped with Shoal. No layer has it: the price is None, never 0, and `notes` says so. A table is
list prices as of its date; nothing here presents it as current. docs/prices.md explains the layers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from shoal.autoscaler.decide.wares import satisfies
from shoal.foundation.amounts import Amounts, amounts
from shoal.foundation.errors import BadInput
from shoal.model.offer import ON_DEMAND, SPOT, Offer, OfferKey
from shoal.model.policy import NodeType
from shoal.providers.prices.machine_names import MachineSpec, azure_spec, gcp_spec
from shoal.providers.prices.tables import PriceTable, read_prices, read_specs

CLOUDS = ("aws", "azure", "gcp")
"""Providers that sell machines by price list."""

OWN_MACHINES = ("local", "ssh")
"""Providers whose machines are there already: they cost nothing more unless the YAML says otherwise."""

USABLE_MEMORY = 0.925
"""Share of a machine type's memory that a node offers, until the first node of the type has told. The rest is the
kernel's and the firmware's; the value is Karpenter's default for the same purpose (`vmMemoryOverheadPercent` 0.075,
karpenter.sh/docs/reference/settings, read 2026-08)."""

HEAD_ARCH = "amd64"

_SHIPPED = Path(__file__).parent / "tables"


class Quote(msgspec.Struct, frozen=True, kw_only=True):
    """One price with its origin: `source` is `yaml`, `cache`, `shipped` or `unknown`; `as_of` the table's date."""

    provider: str
    region: str
    machine_type: str
    market: str
    usd_per_h: float | None
    source: str
    as_of: str = ""


class Catalogue:
    """The layers of price tables. Reads each table once, when it is first asked for."""

    def __init__(self, cache: Path | None = None) -> None:
        """Look in `cache` (default: `cache_folder()`) before the shipped tables."""
        self._cache = cache_folder() if cache is None else cache
        self._layers: dict[str, list[tuple[str, PriceTable]]] = {}
        self._specs: dict[str, dict[str, MachineSpec]] = {}
        self._warnings: list[str] = []

    def quote(self, provider: str, region: str, machine_type: str, market: str = ON_DEMAND) -> Quote:
        """Return the price from the first layer below the YAML that has it, else a quote without one."""
        for source, table in self._tables(provider):
            price = table.price(region, machine_type, market)
            if price is not None:
                return Quote(
                    provider=provider,
                    region=region,
                    machine_type=machine_type,
                    market=market,
                    usd_per_h=price,
                    source=source,
                    as_of=table.as_of,
                )
        return Quote(
            provider=provider,
            region=region,
            machine_type=machine_type,
            market=market,
            usd_per_h=None,
            source="unknown",
        )

    def spec(self, provider: str, machine_type: str) -> MachineSpec | None:
        """Return the machine type's hardware, None where neither a table nor its name tells."""
        if provider not in self._specs:
            self._specs[provider] = self._read_specs(provider)
        if (found := self._specs[provider].get(machine_type)) is not None:
            return found
        if provider == "gcp":
            return gcp_spec(machine_type)
        return azure_spec(machine_type) if provider == "azure" else None

    def regions(self, provider: str) -> list[str]:
        """Return the regions that any table knows."""
        return sorted({region for _, table in self._tables(provider) for region in table.regions})

    def types(self, provider: str, region: str, market: str = ON_DEMAND) -> list[str]:
        """Return the machine types sold in the region, as far as any table knows, by name."""
        return sorted({name for _, table in self._tables(provider) for name in table.types(region, market)})

    def offers_for(self, node_type: NodeType, *, cloud: str = "", arch: str = HEAD_ARCH) -> tuple[Offer, ...]:
        """Return what the node type could buy, by name.

        `cloud` is what kind of provider the type's provider is, where its name does not say so. Types named in the
        YAML come whether a price is known or not; types found by requirement come only with one. `arch` is the
        head's: a type found by requirement has it, unless the requirement names another.

        Raises:
            BadInput: the type's provider sells by region, and no region is given.
        """
        cloud = cloud or node_type.provider
        if cloud not in CLOUDS:
            return own_offers(node_type, cloud)
        regions = node_type.regions or _regions_of(cloud, node_type.zones)
        if not regions:
            raise BadInput(
                f"node type `{node_type.name}`: expected a region for provider `{node_type.provider}`, got none",
                hint="write `regions: [...]` in the node type or `region:` under `provider`",
            )
        named = node_type.machine_types
        found: list[Offer] = []
        for region in regions:
            for market in node_type.markets:
                if named:
                    found += self._named_offers(node_type, cloud, region, market, named)
                elif node_type.need is not None:
                    wanted_arch = node_type.need.arch or arch
                    for offer in self._known_offers(node_type, cloud, region, market):
                        if offer.arch == wanted_arch and satisfies(offer, node_type.need):
                            found.append(offer)
        return tuple(found)

    def whole(self, cloud: str, region: str) -> tuple[Offer, ...]:
        """Return everything that a cloud sells in a region, as far as its price and size are known."""
        kind = NodeType(name="", provider=cloud, regions=(region,), markets=(ON_DEMAND, SPOT))
        return tuple(offer for market in kind.markets for offer in self._known_offers(kind, cloud, region, market))

    def notes(self, offers: Iterable[Offer], clouds: Mapping[str, str]) -> list[str]:
        """Return what the user must know of these offers' list prices: their dates, and which are missing.

        `clouds` maps providers' names to their kind.
        """
        said = list(self._warnings)
        by_table: dict[tuple[str, str, str], int] = {}
        missing: dict[tuple[str, str], set[str]] = {}
        for offer in offers:
            key = offer.key
            cloud = clouds.get(key.provider, key.provider)
            if cloud not in CLOUDS:
                continue
            quote = self.quote(cloud, key.region, key.machine_type, key.market)
            if quote.usd_per_h is not None:
                place = (cloud, quote.source, quote.as_of)
                by_table[place] = by_table.get(place, 0) + 1
            else:
                missing.setdefault((cloud, key.region), set()).add(key.machine_type)
        for (cloud, source, as_of), count in sorted(by_table.items()):
            words = "from the cache" if source == "cache" else "from the shipped table"
            many = "prices" if count > 1 else "price"
            said.append(f"{count} {many} of {cloud} {'are' if count > 1 else 'is'} {words}, list prices as of {as_of}")
        for (cloud, region), names in sorted(missing.items()):
            shown = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
            said.append(
                f"no price is known for {shown} in {cloud}/{region}; "
                f"`shoal prices refresh --provider {cloud} --region {region}` asks the cloud's public list"
            )
        return said

    def _named_offers(
        self, node_type: NodeType, cloud: str, region: str, market: str, named: Sequence[str]
    ) -> list[Offer]:
        found = []
        for name in named:
            spec = self.spec(cloud, name)
            resources = node_type.on(_resources(spec) if spec else {})
            if not resources:
                raise BadInput(
                    f"node type `{node_type.name}`: expected `resources`, because the size of `{name}` is not known",
                    hint=f"write what a node of `{name}` offers, as in `resources: {{CPU: 4, memory: 16000000000}}`",
                )
            found += self._zoned(node_type, cloud, region, market, name, spec, resources, is_named=True)
        return found

    def _known_offers(self, node_type: NodeType, cloud: str, region: str, market: str) -> Iterable[Offer]:
        for name in self.types(cloud, region, market):
            if (spec := self.spec(cloud, name)) is not None:
                yield from self._zoned(node_type, cloud, region, market, name, spec, _resources(spec), is_named=False)

    def _zoned(
        self,
        node_type: NodeType,
        cloud: str,
        region: str,
        market: str,
        name: str,
        spec: MachineSpec | None,
        resources: Amounts,
        *,
        is_named: bool,
    ) -> list[Offer]:
        price = node_type.price_usd_per_h
        if price is None:
            price = self.quote(cloud, region, name, market).usd_per_h
        zones = [zone for zone in node_type.zones if _lies_in(cloud, zone, region)] or [""]
        return [
            Offer(
                key=OfferKey(node_type.provider, region, zone, name, market),
                resources=resources,
                price_usd_per_h=price,
                arch=spec.arch if spec else HEAD_ARCH,
                accelerator=spec.gpu_model if spec else "",
                is_named=is_named,
            )
            for zone in zones
        ]

    def _tables(self, provider: str) -> list[tuple[str, PriceTable]]:
        if provider not in self._layers:
            self._layers[provider] = [*self._cached(provider), *self._shipped(provider)]
        return self._layers[provider]

    def _cached(self, provider: str) -> list[tuple[str, PriceTable]]:
        found = []
        for path in sorted(self._cache.glob(f"{provider}/*_prices.csv.gz")) if provider in CLOUDS else ():
            try:
                found.append(("cache", read_prices(path)))
            except (OSError, ValueError) as error:
                # A spoilt cache must not stop anyone from planning; the next layer answers.
                self._warnings.append(f"{path} was left out: {error}; delete it or refresh")
        return found

    def _shipped(self, provider: str) -> list[tuple[str, PriceTable]]:
        path = _SHIPPED / f"{provider}_prices.csv.gz"
        return [("shipped", read_prices(path))] if provider in CLOUDS and path.exists() else []

    def _read_specs(self, provider: str) -> dict[str, MachineSpec]:
        found: dict[str, MachineSpec] = {}
        shipped = _SHIPPED / f"{provider}_types.csv.gz"
        if provider in CLOUDS and shipped.exists():
            found.update(read_specs(shipped))
        for path in sorted(self._cache.glob(f"{provider}/*_types.csv.gz")) if provider in CLOUDS else ():
            try:
                found.update(read_specs(path))
            except (OSError, ValueError) as error:
                self._warnings.append(f"{path} was left out: {error}; delete it or refresh")
        return found


def cache_folder() -> Path:
    """Return the user's own folder of refreshed tables (it need not exist)."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "shoal" / "prices"


def own_offers(node_type: NodeType, cloud: str = "") -> tuple[Offer, ...]:
    """Return the offers of a provider without a price list: as big as the YAML says, at the YAML's price."""
    if not node_type.resources:
        return ()
    price = node_type.price_usd_per_h
    if price is None and (cloud or node_type.provider) in OWN_MACHINES:
        price = 0.0
    here = "this-host" if (cloud or node_type.provider) == "local" else ""
    return tuple(
        Offer(
            key=OfferKey(node_type.provider, region, zone, name, market),
            resources=node_type.resources,
            price_usd_per_h=price,
            is_named=True,
        )
        for region in node_type.regions or (here,)
        for zone in node_type.zones or (here,)
        for name in node_type.machine_types or (node_type.name,)
        for market in node_type.markets
    )


def _resources(spec: MachineSpec) -> Amounts:
    """Return what a node of the type will probably offer, until one has joined."""
    memory_mib = int(spec.memory_gib * 1024 * USABLE_MEMORY)
    return amounts({"CPU": spec.vcpus, "GPU": spec.gpus, "memory": memory_mib * 2**20})


def _regions_of(provider: str, zones: Sequence[str]) -> tuple[str, ...]:
    """Return the regions that the zones lie in; Azure's zones are bare numbers and say nothing."""
    if provider == "aws":
        return tuple(dict.fromkeys(zone.rstrip("abcdefghijklmnopqrstuvwxyz") for zone in zones))
    if provider == "gcp":
        return tuple(dict.fromkeys(zone.rpartition("-")[0] for zone in zones))
    return ()


def _lies_in(provider: str, zone: str, region: str) -> bool:
    return provider == "azure" or zone.startswith(region)


__all__ = [
    "CLOUDS",
    "Catalogue",
    "Quote",
    "cache_folder",
    "own_offers",
]
