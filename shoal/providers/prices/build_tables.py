"""Make the tables that the wheel ships, from plain CSV files of public list prices.

    python -m shoal.providers.prices.build_tables --provider aws --prices prices_aws.csv.gz --types types_aws.csv \\
        --as-of 2026-07-20 --source "generated price table of aws/karpenter-provider-aws (Apache-2.0)"

Prices: columns `region,type,on_demand_usd_per_h,spot_usd_per_h`. Types (only where the name does not say it):
`type,arch,vcpus,memory_mib,gpus,gpu_name`. The same inputs give the same bytes.
"""

from __future__ import annotations

import argparse
import csv
import gzip
from collections.abc import Iterator
from pathlib import Path

from shoal.config.accelerators import accelerator_name
from shoal.model.offer import ON_DEMAND, SPOT
from shoal.providers.prices.machine_names import MachineSpec
from shoal.providers.prices.tables import Price, table_of, write_prices, write_specs

SHIPPED = Path(__file__).parent / "tables"


def main() -> None:
    """Write `<provider>_prices.csv.gz` and, with --types, `<provider>_types.csv.gz`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--provider", required=True, choices=["aws", "gcp", "azure"])
    parser.add_argument("--prices", required=True, type=Path)
    parser.add_argument("--types", type=Path)
    parser.add_argument("--as-of", required=True, help="date of the prices, as in 2026-07-20")
    parser.add_argument("--types-as-of", help="date of the types, if another")
    parser.add_argument("--source", required=True, help="whose table this is, and its licence")
    parser.add_argument("--into", type=Path, default=SHIPPED)
    chosen = parser.parse_args()
    table = table_of(_prices(chosen.prices), as_of=chosen.as_of, source=chosen.source)
    write_prices(chosen.into / f"{chosen.provider}_prices.csv.gz", table)
    if chosen.types:
        specs = _specs(chosen.types)
        as_of = chosen.types_as_of or chosen.as_of
        write_specs(chosen.into / f"{chosen.provider}_types.csv.gz", specs, as_of=as_of, source=chosen.source)


def _prices(path: Path) -> Iterator[Price]:
    for row in _rows(path):
        # Names without a vendor's pattern are place-holders and host rentals of Azure's list, not machines.
        if "PLACEHOLDER" in row["type"] or "_Type" in row["type"] or "-Type" in row["type"]:
            continue
        for market, column in ((ON_DEMAND, "on_demand_usd_per_h"), (SPOT, "spot_usd_per_h")):
            if row[column] and float(row[column]) > 0:
                yield Price(row["region"], row["type"], market, float(row[column]))


def _specs(path: Path) -> dict[str, MachineSpec]:
    return {
        row["type"]: MachineSpec(
            arch=row["arch"],
            vcpus=int(row["vcpus"]),
            memory_gib=int(row["memory_mib"]) / 1024,
            gpus=int(row["gpus"] or 0),
            gpu_model=accelerator_name(row["gpu_name"]) if int(row["gpus"] or 0) else "",
        )
        for row in _rows(path)
    }


def _rows(path: Path) -> Iterator[dict[str, str]]:
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    yield from csv.DictReader(text.splitlines())


if __name__ == "__main__":
    main()
