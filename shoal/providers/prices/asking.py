"""`shoal prices`: look through the tables for machine types, cheapest first."""

from __future__ import annotations

import difflib
import fnmatch
from pathlib import Path
from typing import Any

import msgspec

from shoal.providers.prices.catalogue import Catalogue


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked for. `name` may hold `*`; sizes are least values."""

    name: str = "*"
    providers: tuple[str, ...] = ()
    region: str = ""
    markets: tuple[str, ...] = ()
    cpu: float = 0.0
    memory_gib: float = 0.0
    gpu: int = 0
    usd_per_h_most: float | None = None


def found(wish: Wish, cache: Path | None = None) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows that suit, cheapest first then by name, and what the user must know beside them."""
    catalogue = Catalogue(cache)
    rows: list[dict[str, Any]] = []
    dates: set[str] = set()
    names: set[str] = set()
    for provider in wish.providers:
        for region in catalogue.regions(provider):
            if wish.region and region != wish.region:
                continue
            for market in wish.markets:
                types = catalogue.types(provider, region, market)
                names.update(types)
                for name in fnmatch.filter(types, wish.name):
                    if (row := _row(catalogue, wish, provider, region, market, name)) is not None:
                        rows.append(row)
                        dates.add(f"{provider}: {row['source']}, list prices as of {row['as_of']}")
    rows.sort(key=lambda row: (row["usd_per_h"], row["provider"], row["type"], row["region"], row["market"]))
    notes = sorted(dates)
    if not rows:
        notes.append(_nothing(wish, catalogue, names))
    return rows, notes


def _row(catalogue: Catalogue, wish: Wish, provider: str, region: str, market: str, name: str) -> dict[str, Any] | None:
    spec = catalogue.spec(provider, name)
    if (wish.cpu or wish.memory_gib or wish.gpu) and spec is None:
        return None
    if spec and (spec.vcpus < wish.cpu or spec.memory_gib < wish.memory_gib or spec.gpus < wish.gpu):
        return None
    quote = catalogue.quote(provider, region, name, market)
    if quote.usd_per_h is None or (wish.usd_per_h_most is not None and quote.usd_per_h > wish.usd_per_h_most):
        return None
    return {
        "provider": provider,
        "region": region,
        "type": name,
        "market": market,
        "usd_per_h": quote.usd_per_h,
        "cpu": spec.vcpus if spec else None,
        "memory_gib": spec.memory_gib if spec else None,
        "gpu": spec.gpus if spec else None,
        "gpu_model": spec.gpu_model if spec else "",
        "arch": spec.arch if spec else "",
        "source": quote.source,
        "as_of": quote.as_of,
    }


def _nothing(wish: Wish, catalogue: Catalogue, names: set[str]) -> str:
    regions = [region for provider in wish.providers for region in catalogue.regions(provider)]
    if wish.region and wish.region not in regions:
        near = difflib.get_close_matches(wish.region, regions, 3, 0.6)
        known = f"; did you mean {', '.join(f'`{one}`' for one in near)}?" if near else ""
        return f"no list knows the region `{wish.region}`{known} `shoal prices refresh` can add it"
    if "*" not in wish.name and wish.name not in names:
        near = difflib.get_close_matches(wish.name, sorted(names), 3, 0.6)
        known = f"; did you mean {', '.join(f'`{one}`' for one in near)}?" if near else ""
        return f"the price of `{wish.name}` is unknown{known}"
    return "no machine type in the lists suits all of that"
