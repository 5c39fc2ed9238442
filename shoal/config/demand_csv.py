"""The three CSV files of `shoal plan` and `shoal simulate`: demand, offers, and a trace of a day.

docs/plan.md and docs/simulate.md list the columns. Rows become values of `model`; a class of demand is named after
the first line that has its shape (`L2`), a gang after its `gang` cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from shoal.config.accelerators import accelerator_name
from shoal.config.csv_rows import Row, Table, cell
from shoal.foundation.amounts import Amounts, shape_key
from shoal.model.demand import ANYWHERE, Bundle, DemandClass, Gang, Selector, Strategy
from shoal.model.offer import ON_DEMAND, SPOT, Offer, OfferKey
from shoal.placement.selectors import mistake

LABEL_ACCELERATOR = "ray.io/accelerator-type"
"""The label that a node of an offer with an accelerator carries; `gpu_model` selects by it."""

BUNDLES_MAX = 10_000
"""Members of one gang."""

DEMAND_COLUMNS = ("cpu", "memory_gib", "gpu", "gpu_model", "count", "gang", "strategy", "labels")
TRACE_COLUMNS = ("submit_s", "duration_s", *DEMAND_COLUMNS)
OFFER_COLUMNS = (
    "provider",
    "region",
    "zone",
    "type",
    "market",
    "cpu",
    "memory_gib",
    "gpu",
    "usd_per_h",
    "arch",
    "gpu_model",
    "limit",
)

_MARKETS = {"": ON_DEMAND, "on-demand": ON_DEMAND, "ondemand": ON_DEMAND, "on_demand": ON_DEMAND, "spot": SPOT}
_ARCHES = {"": "amd64", "amd64": "amd64", "x86_64": "amd64", "x64": "amd64", "arm64": "arm64", "aarch64": "arm64"}


class DemandRow(msgspec.Struct, frozen=True, kw_only=True):
    """Work of one line: `count` units of one shape, or members of a gang."""

    line: int
    amounts: Amounts
    count: int = 1
    selector: Selector = ANYWHERE
    gang: str = ""
    strategy: Strategy = Strategy.PACK


class TraceRow(msgspec.Struct, frozen=True, kw_only=True):
    """Work that somebody submits at `submit_s` and that runs for `duration_s` once started."""

    submit_s: float
    duration_s: float
    work: DemandRow


def read_demand(path: Path) -> tuple[DemandRow, ...]:
    """Return the file's rows.

    Raises:
        ConfigErrors: with all that is wrong, each with its line.
    """
    table = Table(path, DEMAND_COLUMNS)
    rows = [_work(row) for row in table.rows()]
    _check_gangs(table, rows)
    table.close()
    return tuple(rows)


def read_trace(path: Path) -> tuple[TraceRow, ...]:
    """Return the file's rows by time of submission; of equal times, the upper line first.

    Raises:
        ConfigErrors: with all that is wrong, each with its line.
    """
    table = Table(path, TRACE_COLUMNS, needed=("submit_s", "duration_s"))
    found = [
        TraceRow(
            submit_s=row.number("submit_s", None, most=366 * 86400.0),
            duration_s=row.number("duration_s", None, least=0.001, most=366 * 86400.0),
            work=_work(row),
        )
        for row in table.rows()
    ]
    _check_gangs(table, [one.work for one in found])
    times: dict[str, float] = {}
    for one in found:
        gang = one.work.gang
        if gang and times.setdefault(gang, one.submit_s) != one.submit_s:
            wanted = f"{times[gang]:g}, as for the rest of gang `{gang}`"
            table.wrong(one.work.line, "submit_s", wanted, f"{one.submit_s:g}")
    table.close()
    return tuple(sorted(found, key=lambda one: (one.submit_s, one.work.line)))


def read_offers(path: Path) -> tuple[Offer, ...]:
    """Return the file's offers; an empty price is unknown, which is never 0.

    Raises:
        ConfigErrors: with all that is wrong, each with its line.
    """
    table = Table(path, OFFER_COLUMNS, needed=("type",))
    found: dict[OfferKey, tuple[int, Offer]] = {}
    for row in table.rows():
        offer = _offer(row)
        if offer.key in found:
            row.wrong("", "each offer once", f"`{offer.key}` again, as in line {found[offer.key][0]}")
        found.setdefault(offer.key, (row.line, offer))
    table.close()
    return tuple(offer for _, offer in found.values())


def demand_of(rows: Sequence[DemandRow]) -> tuple[tuple[DemandClass, ...], tuple[Gang, ...]]:
    """Return the rows as classes of equal work and as gangs, in the file's order."""
    classes: dict[tuple[object, ...], DemandClass] = {}
    gangs: dict[str, list[DemandRow]] = {}
    for row in rows:
        if row.gang:
            gangs.setdefault(row.gang, []).append(row)
            continue
        key = class_shape(row.amounts, row.selector)
        there = classes.get(key)
        classes[key] = DemandClass(
            key=there.key if there else f"L{row.line}",
            amounts=row.amounts,
            selector=row.selector,
            waiting=row.count + (there.waiting if there else 0),
        )
    return tuple(classes.values()), tuple(gang_of(name, members) for name, members in gangs.items())


def class_shape(amounts: Amounts, selector: Selector) -> tuple[object, ...]:
    """Return what makes units one class: their amounts and which nodes may hold them."""
    return (shape_key(amounts), tuple(sorted(selector.hard.items())))


def gang_of(name: str, members: Sequence[DemandRow]) -> Gang:
    """Return the rows of one gang as one gang; each unit is a bundle."""
    bundles: list[Bundle] = []
    for row in members:
        bundles += [Bundle(amounts=row.amounts, selector=row.selector)] * row.count
    return Gang(gang_id=name, bundles=tuple(bundles), strategy=members[0].strategy)


def _work(row: Row) -> DemandRow:
    amounts: Amounts = {
        "CPU": row.amount("cpu", most=1e6),
        "GPU": row.amount("gpu", most=1e6),
        "memory": row.amount("memory_gib", 2**30, most=1e6),
    }
    held = {name: amount for name, amount in amounts.items() if amount}
    if not held:
        row.wrong("", "some `cpu`, `memory_gib` or `gpu`", "none")
    hard = _labels(row)
    if model := row.text("gpu_model"):
        if "GPU" not in held:
            row.wrong("gpu_model", "a `gpu` above 0 beside it", "none")
        hard[LABEL_ACCELERATOR] = accelerator_name(model)
    gang = row.text("gang")
    if len(gang) > 200:
        row.wrong("gang", "at most 200 characters", str(len(gang)))
    if row.text("strategy") and not gang:
        row.wrong("strategy", "a `gang` beside it", "none")
    strategy = row.one_of("strategy", [str(one) for one in Strategy], str(Strategy.PACK))
    return DemandRow(
        line=row.line,
        amounts=held,
        count=row.whole("count", 1, least=1, most=BUNDLES_MAX if gang else 10**7),
        selector=Selector(hard=hard) if hard else ANYWHERE,
        gang=gang,
        strategy=Strategy(strategy),
    )


def _labels(row: Row) -> dict[str, str]:
    """Return the terms of `name=term;name=term`."""
    terms: dict[str, str] = {}
    for part in row.text("labels").split(";"):
        if not part.strip():
            continue
        name, equals, term = (piece.strip() for piece in part.partition("="))
        if not equals:
            row.wrong("labels", "`name=value` or `name=in(a,b)`, separated by `;`", cell(part.strip()))
        elif name in terms:
            row.wrong("labels", f"`{name}` once", "it twice")
        elif wrong := mistake(name, term):
            row.wrong("labels", "a label selector", cell(f"{name}={term}"), wrong)
        else:
            terms[name] = term
    return terms


def _check_gangs(table: Table, rows: Sequence[DemandRow]) -> None:
    first: dict[str, DemandRow] = {}
    sizes: dict[str, int] = {}
    for row in rows:
        if not row.gang:
            continue
        head = first.setdefault(row.gang, row)
        if row.strategy is not head.strategy:
            wanted = f"`{head.strategy}`, as in line {head.line} of the gang"
            table.wrong(row.line, "strategy", wanted, f"`{row.strategy}`")
        sizes[row.gang] = sizes.get(row.gang, 0) + row.count
        if sizes[row.gang] > BUNDLES_MAX >= sizes[row.gang] - row.count:
            table.wrong(row.line, "count", f"at most {BUNDLES_MAX} members in a gang", str(sizes[row.gang]))


def _offer(row: Row) -> Offer:
    for column in ("provider", "region", "zone", "type"):
        if "/" in row.text(column):
            row.wrong(column, "a name without `/`", cell(row.text(column)))
    if not row.text("type"):
        row.wrong("type", "a machine type's name", "nothing")
    market, arch = row.text("market").lower(), row.text("arch").lower()
    if market not in _MARKETS:
        row.wrong("market", "`on-demand` or `spot`", cell(market))
    if arch not in _ARCHES:
        row.wrong("arch", "`amd64` or `arm64`", cell(arch))
    resources = {
        "CPU": row.amount("cpu", most=1e6),
        "GPU": row.amount("gpu", most=1e6),
        "memory": row.amount("memory_gib", 2**30, most=1e6),
    }
    if not any(resources.values()):
        row.wrong("", "some `cpu`, `memory_gib` or `gpu`", "none")
    price = row.number("usd_per_h", most=1e6) if row.text("usd_per_h") else None
    return Offer(
        key=OfferKey(
            row.text("provider"),
            row.text("region"),
            row.text("zone"),
            row.text("type"),
            _MARKETS.get(market, ON_DEMAND),
        ),
        resources={name: amount for name, amount in resources.items() if amount},
        price_usd_per_h=price,
        limit=row.whole("limit", 0) if row.text("limit") else None,
        arch=_ARCHES.get(arch, "amd64"),
        accelerator=accelerator_name(row.text("gpu_model")),
    )
