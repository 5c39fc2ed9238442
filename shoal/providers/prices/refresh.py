"""`shoal prices refresh`: read the clouds' public price lists into the user's cache.

One reader per cloud turns its list into prices (and hardware, where the list has it); `refresh` fetches, reads and
replaces the cached table of one provider and region in one step. A list that is broken, too large or too slow is an
error, and the table that was there stays. No account is needed but for Compute Engine, whose list wants an API key.
"""

from __future__ import annotations

import csv
import datetime
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from shoal.config.accelerators import accelerator_name
from shoal.foundation.amounts import bytes_shown
from shoal.foundation.errors import BadInput, UserError
from shoal.model.offer import ON_DEMAND, SPOT
from shoal.providers.prices.catalogue import Catalogue, cache_folder
from shoal.providers.prices.machine_names import MachineSpec, gcp_spec
from shoal.providers.prices.tables import Price, table_of, write_prices, write_specs

BASES = {
    "aws": "https://pricing.us-east-1.amazonaws.com",
    "azure": "https://prices.azure.com",
    "gcp": "https://cloudbilling.googleapis.com",
}
"""Where each cloud publishes its list; docs/prices.md links the vendors' descriptions."""

LIST_BYTES_MAX = 1024 * 2**20
"""EC2's list of a large region is about 300 MiB."""
PAGE_BYTES_MAX = 32 * 2**20
PAGES_MAX = 500
LINE_BYTES_MAX = 64 * 1024
CONNECT_S = 20.0
DEADLINE_S = 900.0

_COMPUTE_ENGINE = "6F81-5844-456A"
"""Compute Engine's id in the billing catalogue."""


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """What a list said of one region."""

    prices: tuple[Price, ...]
    specs: dict[str, MachineSpec] = {}


class Refreshed(msgspec.Struct, frozen=True, kw_only=True):
    """What a refresh wrote."""

    provider: str
    region: str
    prices: int
    path: str


def refresh(
    provider: str,
    region: str,
    *,
    cache: Path | None = None,
    base: str = "",
    key: str = "",
    deadline_s: float = DEADLINE_S,
) -> Refreshed:
    """Fetch the provider's list of one region and write it to the cache.

    Raises:
        BadInput: an unknown provider, a strange region, or no key where one is needed.
        UserError: the list could not be fetched or read; the message says what came instead.
    """
    if provider not in BASES:
        raise BadInput(f"prices: expected one of {', '.join(BASES)}, got `{provider}`")
    if not re.fullmatch(r"[a-z][a-z0-9-]{1,40}", region):
        raise BadInput(f"prices: expected a region such as `us-east-1`, got `{region[:60]}`")
    source = Source(base or BASES[provider], deadline_s=deadline_s)
    if provider == "aws":
        fetched = aws_list(source.lines(f"/offers/v1.0/aws/AmazonEC2/current/{region}/index.csv"), region)
    elif provider == "azure":
        fetched = azure_list(source.pages(_azure_path(region)), region)
    else:
        if not key:
            raise BadInput(
                "prices: expected an API key for Compute Engine's price list, got none",
                hint="give `--key` or set SHOAL_GCP_API_KEY; any project's key with the Cloud Billing API will do",
            )
        fetched = gcp_list(_gcp_items(source, key), region, Catalogue(cache).types("gcp", region))
    if not fetched.prices:
        raise UserError(
            f"prices: the list of {provider} has no machine in `{region}`",
            hint=f"known regions: {', '.join(Catalogue(cache).regions(provider)[:8])}, ...",
        )
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    folder = (cache or cache_folder()) / provider
    said = f"public price list of {provider}, {source.base}"
    path = folder / f"{region}_prices.csv.gz"
    try:
        if fetched.specs:
            write_specs(folder / f"{region}_types.csv.gz", fetched.specs, as_of=today, source=said)
        write_prices(path, table_of(fetched.prices, as_of=today, source=said))
    except OSError as error:
        raise UserError(f"prices: {folder}: expected a folder to write to, got {error.strerror}") from error
    return Refreshed(provider=provider, region=region, prices=len(fetched.prices), path=str(path))


class Source:
    """One cloud's price list over HTTP, with a limit on bytes and one deadline for everything."""

    def __init__(self, base: str, *, deadline_s: float = DEADLINE_S) -> None:
        parts = urllib.parse.urlsplit(base)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadInput(f"prices: expected an address such as `https://...`, got `{base[:100]}`")
        self.base = base.rstrip("/")
        self._ends_s = time.monotonic() + deadline_s

    def lines(self, path: str) -> Iterator[str]:
        """Yield the lines of a text, as they arrive."""
        read = 0
        with self._open(path) as answer:
            while True:
                line = self._guarded(answer.readline, LINE_BYTES_MAX)
                if not line:
                    return
                read += len(line)
                if read > LIST_BYTES_MAX:
                    raise self._broken(f"at most {bytes_shown(LIST_BYTES_MAX)}", "more")
                if len(line) >= LINE_BYTES_MAX:
                    raise self._broken("lines of a price list", f"one of more than {bytes_shown(LINE_BYTES_MAX)}")
                yield line.decode("utf-8", "replace")

    def pages(self, path: str) -> Iterator[dict[str, Any]]:
        """Yield the JSON pages that start at `path`, following `NextPageLink` on the same host only."""
        for _ in range(PAGES_MAX):
            page = self.page(path)
            yield page
            following = page.get("NextPageLink")
            if not following:
                return
            path = self._same_host(str(following))
        raise self._broken(f"at most {PAGES_MAX} pages", "more")

    def page(self, path: str) -> dict[str, Any]:
        """Return one JSON page."""
        with self._open(path) as answer:
            raw = self._guarded(answer.read, PAGE_BYTES_MAX + 1)
        if len(raw) > PAGE_BYTES_MAX:
            raise self._broken(f"a page of at most {bytes_shown(PAGE_BYTES_MAX)}", "more")
        try:
            page = json.loads(raw)
        except (ValueError, RecursionError):
            raise self._broken("JSON", f"`{raw[:40].decode('utf-8', 'replace')}`") from None
        if not isinstance(page, dict):
            raise self._broken("a JSON object", type(page).__name__)
        return page

    def _open(self, path: str) -> Any:
        left_s = self._ends_s - time.monotonic()
        if left_s <= 0:
            raise self._broken("an answer within the deadline", "none")
        request = urllib.request.Request(self.base + path, headers={"User-Agent": "shoal-prices", "Accept": "*/*"})
        try:
            return _OPENER.open(request, timeout=min(CONNECT_S, left_s))
        except urllib.error.HTTPError as error:
            error.close()
            raise self._broken("the price list", f"HTTP status {error.code}") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise self._broken("an answer within the deadline", "none") from None
            raise self._broken("the price list", str(reason) or type(error).__name__) from None

    def _guarded(self, read: Any, count: int) -> bytes:
        if time.monotonic() > self._ends_s:
            raise self._broken("the whole list within the deadline", "a part of it")
        try:
            return bytes(read(count))
        except (OSError, ValueError, EOFError) as error:
            raise self._broken("the whole list", str(error) or type(error).__name__) from None
        except Exception as error:  # http.client.IncompleteRead is no OSError
            raise self._broken("the whole list", type(error).__name__) from error

    def _same_host(self, address: str) -> str:
        parts, own = urllib.parse.urlsplit(address), urllib.parse.urlsplit(self.base)
        default = {"http": 80, "https": 443}
        if (parts.scheme, parts.hostname, parts.port or default.get(parts.scheme)) != (
            own.scheme,
            own.hostname,
            own.port or default[own.scheme],
        ):
            raise self._broken("the next page on the same host", f"`{address[:80]}`")
        return f"{parts.path}?{parts.query}" if parts.query else parts.path

    def _broken(self, expected: str, got: str) -> UserError:
        return UserError(
            f"prices: {self.base}: expected {expected}, got {got}",
            hint="the prices known so far are unchanged; try again later, or write `price_usd_per_h` in the YAML",
        )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **named: Any) -> None:
        """Follow no redirect: a price list that moved is for a person to look at."""
        return


_OPENER = urllib.request.build_opener(_NoRedirect)


def aws_list(lines: Iterable[str], region: str) -> Fetched:
    """Read EC2's bulk list of a region: on-demand Linux prices on shared hardware, and the machines' sizes.

    Five lines of remarks, then one with the columns' names. Source:
    https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/using-the-aws-price-list-bulk-api.html
    """
    reader = csv.reader(iter(lines))
    columns: dict[str, int] = {}
    try:
        for number, cells in enumerate(reader):
            if "Instance Type" in cells:
                columns = {name: place for place, name in enumerate(cells)}
                break
            if number > 20:
                break
        missing = [name for name in _AWS_COLUMNS if name not in columns]
        if missing:
            raise UserError(f"prices: aws: expected a column `{missing[0]}` in the price list, got none")
        prices, specs = [], {}
        for cells in reader:
            if len(cells) < len(columns):
                continue
            row = {name: cells[columns[name]] for name in _AWS_COLUMNS}
            if not _is_plain_ec2(row) or (usd_per_h := _positive(row["PricePerUnit"])) is None:
                continue
            prices.append(Price(region, row["Instance Type"], ON_DEMAND, usd_per_h))
            gpus = cells[columns["GPU"]] if "GPU" in columns else ""
            if (spec := _aws_spec(row, gpus)) is not None:
                specs[row["Instance Type"]] = spec
    except csv.Error as error:
        raise UserError(f"prices: aws: expected a CSV, got {error}") from None
    return Fetched(prices=tuple(prices), specs=specs)


_AWS_COLUMNS = (
    "TermType",
    "Unit",
    "PricePerUnit",
    "Currency",
    "Instance Type",
    "vCPU",
    "Physical Processor",
    "Memory",
    "Operating System",
    "Tenancy",
    "CapacityStatus",
    "Pre Installed S/W",
)


def _is_plain_ec2(row: dict[str, str]) -> bool:
    return (
        row["TermType"] == "OnDemand"
        and row["Unit"] == "Hrs"
        and row["Currency"] == "USD"
        and row["Operating System"] == "Linux"
        and row["Tenancy"] == "Shared"
        and row["CapacityStatus"] == "Used"
        and row["Pre Installed S/W"] in ("NA", "")
        and bool(row["Instance Type"])
    )


def _aws_spec(row: dict[str, str], gpus: str) -> MachineSpec | None:
    memory = re.fullmatch(r"([\d,.]+) GiB", row["Memory"])
    if memory is None or not row["vCPU"].isdigit() or gpus.strip().isdigit():
        # The list counts GPUs but does not name them; those types keep the shipped table's hardware.
        return None
    arm = "Graviton" in row["Physical Processor"]
    return MachineSpec(
        arch="arm64" if arm else "amd64",
        vcpus=int(row["vCPU"]),
        memory_gib=float(memory[1].replace(",", "")),
    )


def azure_list(pages: Iterable[dict[str, Any]], region: str) -> Fetched:
    """Read the Retail Prices API: Linux prices of virtual machines in the region, on demand and spot.

    Source: https://learn.microsoft.com/rest/api/cost-management/retail-prices/azure-retail-prices
    """
    prices = []
    for page in pages:
        items = page.get("Items")
        if not isinstance(items, list):
            raise UserError("prices: azure: expected a list `Items` in the page, got none")
        for item in items:
            if not isinstance(item, dict) or item.get("armRegionName") != region or item.get("currencyCode") != "USD":
                continue
            name, product, sku = (str(item.get(at) or "") for at in ("armSkuName", "productName", "skuName"))
            if not name or "Windows" in product or "Cloud Services" in product or "Low Priority" in sku:
                continue
            if item.get("type") != "Consumption" or item.get("unitOfMeasure") != "1 Hour":
                continue
            if (usd_per_h := _positive(item.get("retailPrice"))) is not None:
                prices.append(Price(region, name, SPOT if "Spot" in sku else ON_DEMAND, usd_per_h))
    return Fetched(prices=tuple(prices))


def _azure_path(region: str) -> str:
    wanted = f"serviceName eq 'Virtual Machines' and armRegionName eq '{region}' and priceType eq 'Consumption'"
    return "/api/retail/prices?" + urllib.parse.urlencode({"$filter": wanted, "currencyCode": "'USD'"})


def gcp_list(items: Iterable[dict[str, Any]], region: str, types: Iterable[str]) -> Fetched:
    """Read the billing catalogue: Compute Engine bills cores, memory and accelerators; a type's price is their sum.

    Priced are those of `types` whose family's parts are all listed and whose size their name tells.
    Source: https://cloud.google.com/billing/v1/how-tos/catalog-api
    """
    parts: dict[tuple[str, str, str], float] = {}
    for item in items:
        if region not in (item.get("serviceRegions") or ()):
            continue
        category = item.get("category")
        usage = category.get("usageType") if isinstance(category, dict) else None
        market = {"OnDemand": ON_DEMAND, "Preemptible": SPOT}.get(str(usage))
        named = _gcp_part(str(item.get("description") or ""))
        usd_per_h = _gcp_unit_price(item)
        if market is None or named is None or usd_per_h is None:
            continue
        family, part = named
        place = (family, part, market)
        parts[place] = min(usd_per_h, parts.get(place, usd_per_h))
    prices = []
    for name in sorted(set(types)):
        family = name.partition("-")[0]
        spec = gcp_spec(name)
        # Shared-core types pay for fractions of a core, local disks and bare metal have parts of their own.
        if spec is None or name.endswith(("-lssd", "-metal")) or name in _GCP_SHARED_CORE:
            continue
        for market in (ON_DEMAND, SPOT):
            core, memory = parts.get((family, "core", market)), parts.get((family, "ram", market))
            gpu = parts.get((spec.gpu_model, "gpu", market)) if spec.gpus else 0.0
            if core is not None and memory is not None and gpu is not None:
                total = spec.vcpus * core + spec.memory_gib * memory + spec.gpus * gpu
                prices.append(Price(region, name, market, round(total, 6)))
    return Fetched(prices=tuple(prices))


_GCP_SHARED_CORE = frozenset({"e2-micro", "e2-small", "e2-medium", "f1-micro", "g1-small"})
_GCP_PART = re.compile(
    r"(?:Spot Preemptible )?(?P<family>[A-Z]\d[A-Za-z]?)(?: Predefined| AMD| Arm)* Instance (?P<part>Core|Ram)"
    r" running in .*"
)
_GCP_COMPUTE = re.compile(r"(?:Spot Preemptible )?Compute optimized (?P<part>Core|Ram) running in .*")
_GCP_GPU = re.compile(r"(?P<model>Nvidia .*?) GPU(?: attached to Spot Preemptible VMs)? running in .*")


def _gcp_part(description: str) -> tuple[str, str] | None:
    """Return what a line of the catalogue is a price of: (family or accelerator, `core`, `ram` or `gpu`)."""
    if found := _GCP_PART.fullmatch(description):
        return found["family"].lower(), found["part"].lower()
    if found := _GCP_COMPUTE.fullmatch(description):
        return "c2", found["part"].lower()
    if found := _GCP_GPU.fullmatch(description):
        return accelerator_name(found["model"]), "gpu"
    return None


def _gcp_unit_price(item: dict[str, Any]) -> float | None:
    """Return the price of one core, GiB or accelerator for an hour, beyond any free tier."""
    try:
        expression = item["pricingInfo"][-1]["pricingExpression"]
        if expression["usageUnit"] not in ("h", "GiBy.h"):
            return None
        price = expression["tieredRates"][-1]["unitPrice"]
        if price.get("currencyCode") != "USD":
            return None
        return _positive(int(price.get("units") or 0) + int(price.get("nanos") or 0) / 1e9)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return None


def _gcp_items(source: Source, key: str) -> Iterator[dict[str, Any]]:
    token = ""
    for _ in range(PAGES_MAX):
        query = {"key": key, "pageSize": "5000", "currencyCode": "USD"}
        if token:
            query["pageToken"] = token
        page = source.page(f"/v1/services/{_COMPUTE_ENGINE}/skus?{urllib.parse.urlencode(query)}")
        items = page.get("skus")
        if not isinstance(items, list):
            raise UserError("prices: gcp: expected a list `skus` in the page, got none")
        yield from (item for item in items if isinstance(item, dict))
        token = str(page.get("nextPageToken") or "")
        if not token:
            return
    raise UserError(f"prices: gcp: expected at most {PAGES_MAX} pages, got more")


def _positive(value: object) -> float | None:
    """Return a price above 0 and below a million, None for anything else: a price of 0 in a list is no price."""
    try:
        number = float(value)  # type: ignore[arg-type]  # whatever the list holds; what is no number is refused here
    except (TypeError, ValueError):
        return None
    return number if 0 < number < 1e6 else None


__all__ = ["BASES", "Refreshed", "Source", "aws_list", "azure_list", "gcp_list", "refresh"]
