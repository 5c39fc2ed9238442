"""Price tables on disk: one row per machine type and market, one column per region; and the types' hardware.

Both are gzipped CSV whose first lines are `# name: value` remarks (date and source at least), so that a table can
never be read without its date. `build_tables.py` writes those in the wheel, `refresh.py` those in the user's cache.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from shoal.config.accelerators import accelerator_name
from shoal.providers.prices.machine_names import MachineSpec

TABLE_BYTES_MAX = 64 * 2**20
"""No table is near this once unpacked; what is larger is not one of ours."""

_SPEC_COLUMNS = ["type", "arch", "vcpus", "memory_mib", "gpus", "gpu_model"]


class PriceTable(msgspec.Struct, frozen=True, kw_only=True):
    """Prices in USD per hour by (region, machine type, market), as of one day."""

    as_of: str
    source: str
    regions: tuple[str, ...]
    rows: dict[tuple[str, str], tuple[float | None, ...]]
    """(machine type, market) to one price per region, in the order of `regions`."""

    def price(self, region: str, machine_type: str, market: str) -> float | None:
        """Return the price, None if the table has none."""
        row = self.rows.get((machine_type, market))
        if row is None or region not in self.regions:
            return None
        return row[self.regions.index(region)]

    def types(self, region: str, market: str) -> list[str]:
        """Return the machine types sold there, in the table's order."""
        if region not in self.regions:
            return []
        place = self.regions.index(region)
        return [name for (name, kind), row in self.rows.items() if kind == market and row[place] is not None]


class Price(msgspec.Struct, frozen=True):
    """One price as a reader found it."""

    region: str
    machine_type: str
    market: str
    usd_per_h: float


def table_of(prices: Iterable[Price], *, as_of: str, source: str) -> PriceTable:
    """Return the prices as a table, ordered by name; of two prices for one thing the lower counts."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    regions = set()
    for one in prices:
        regions.add(one.region)
        row = found.setdefault((one.machine_type, one.market), {})
        row[one.region] = min(one.usd_per_h, row.get(one.region, one.usd_per_h))
    ordered = tuple(sorted(regions))
    rows = {key: tuple(row.get(region) for region in ordered) for key, row in sorted(found.items())}
    return PriceTable(as_of=as_of, source=source, regions=ordered, rows=rows)


def write_prices(path: Path, table: PriceTable) -> None:
    """Write a table; the same table gives the same bytes."""
    text = io.StringIO()
    text.write(f"# as of: {table.as_of}\n# source: {table.source}\n# unit: USD per hour, list price\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["type", "market", *table.regions])
    for (name, market), row in table.rows.items():
        writer.writerow([name, market, *("" if price is None else f"{price:.10g}" for price in row)])
    _write(path, text.getvalue())


def read_prices(path: Path) -> PriceTable:
    """Return the table at `path`.

    Raises:
        ValueError: it is not a price table.
        OSError: it cannot be read.
    """
    remarks, rows = _read(path)
    header = next(rows, [])
    if header[:2] != ["type", "market"]:
        raise ValueError(f"{path}: expected columns `type,market,...`, got `{','.join(header[:2])}`")
    found: dict[tuple[str, str], tuple[float | None, ...]] = {}
    width = len(header)
    for row in rows:
        if len(row) != width:
            raise ValueError(f"{path}: expected {width} columns, got {len(row)}")
        found[row[0], row[1]] = tuple([float(cell) if cell else None for cell in row[2:]])
    return PriceTable(
        as_of=remarks.get("as of", "unknown date"),
        source=remarks.get("source", "unknown source"),
        regions=tuple(header[2:]),
        rows=found,
    )


def write_specs(path: Path, specs: Mapping[str, MachineSpec], *, as_of: str, source: str) -> None:
    """Write machine types' hardware; the same types give the same bytes."""
    text = io.StringIO()
    text.write(f"# as of: {as_of}\n# source: {source}\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_SPEC_COLUMNS)
    for name in sorted(specs):
        one = specs[name]
        memory_mib = f"{one.memory_gib * 1024:.10g}"
        writer.writerow([name, one.arch, one.vcpus, memory_mib, one.gpus or "", one.gpu_model])
    _write(path, text.getvalue())


def read_specs(path: Path) -> dict[str, MachineSpec]:
    """Return machine types' hardware by name.

    Raises:
        ValueError: it is not such a table.
        OSError: it cannot be read.
    """
    _, rows = _read(path)
    header = next(rows, [])
    if header != _SPEC_COLUMNS:
        raise ValueError(f"{path}: expected columns `{','.join(_SPEC_COLUMNS)}`, got `{','.join(header)}`")
    return {
        name: MachineSpec(
            arch=arch,
            vcpus=int(vcpus),
            memory_gib=float(memory_mib) / 1024,
            gpus=int(gpus or 0),
            gpu_model=accelerator_name(gpu_model),
        )
        for name, arch, vcpus, memory_mib, gpus, gpu_model in rows
    }


def _write(path: Path, text: str) -> None:
    """Replace the file in one step, so that a reader never sees half a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    part.replace(path)


def _read(path: Path) -> tuple[dict[str, str], Iterator[list[str]]]:
    with gzip.open(path, "rb") as stream:
        try:
            raw = stream.read(TABLE_BYTES_MAX + 1)
        except (EOFError, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}: expected a gzipped table") from error
    if len(raw) > TABLE_BYTES_MAX:
        raise ValueError(f"{path}: expected at most {TABLE_BYTES_MAX} bytes")
    lines = raw.decode().splitlines()
    remarks: dict[str, str] = {}
    place = 0
    while place < len(lines) and lines[place].startswith("# "):
        name, _, value = lines[place][2:].partition(": ")
        remarks[name] = value
        place += 1
    return remarks, csv.reader(lines[place:])
