"""Demand and catalogues for the planner's measures: written generators, and facts from `benchmarks/data`.

`demand(kind, count, seed)` draws shapes from a fixed menu with popularity by a power law, as clusters show: most work
asks for a few shapes. `cpu` asks for CPUs and memory; in `mixed` one unit of five also asks for GPUs or parts of one.
"""

from __future__ import annotations

import csv
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from shoal.foundation.amounts import Amounts, amounts
from shoal.model.demand import DemandClass
from shoal.model.offer import Offer, OfferKey
from shoal.model.policy import NodeType, Policy
from shoal.model.snapshot import Snapshot, Work

DATA = Path(__file__).parent / "data"
GIB = 2**30
MIB = 2**20

CPUS = (0.25, 0.5, 1, 1, 1, 2, 2, 4, 4, 8, 12, 16)
GIB_PER_CPU = (0.5, 1, 2, 2, 4, 4, 8, 16)
GPUS = (0.25, 0.5, 1, 1, 1, 2, 4)

CURATED = tuple(
    f"{family}.{size}"
    for family in ("c6i", "m6i", "r6i")
    for size in ("large", "xlarge", "2xlarge", "4xlarge", "8xlarge", "12xlarge", "16xlarge")
) + ("g5.xlarge", "g5.2xlarge", "g5.4xlarge", "g5.12xlarge", "g5.24xlarge", "g5.48xlarge")
"""27 types as somebody would write them into a YAML by hand."""


def rows(name: str) -> Iterator[dict[str, str]]:
    """Yield the rows of a data file, its comment lines left out."""
    with (DATA / name).open() as lines:
        yield from csv.DictReader(line for line in lines if not line.startswith("#"))


def offers(keep: Callable[[dict[str, str]], bool]) -> tuple[Offer, ...]:
    """Return the EC2 offers of us-east-1 that `keep` lets through, with all of their memory."""
    return tuple(
        Offer(
            key=OfferKey("aws", "us-east-1", "us-east-1a", row["type"]),
            resources=amounts(
                {"CPU": int(row["vcpus"]), "memory": int(row["memory_mib"]) * MIB, "GPU": int(row["gpus"] or 0)}
            ),
            price_usd_per_h=float(row["usd_per_h"]),
            arch=row["arch"],
            accelerator=row["gpu_name"],
        )
        for row in rows("aws_us_east_1.csv")
        if keep(row)
    )


def curated() -> tuple[Offer, ...]:
    """Return the 27 types of `CURATED`."""
    return offers(lambda row: row["type"] in CURATED)


def full_region() -> tuple[Offer, ...]:
    """Return every amd64 type of the region, no bare metal, of the c, m, r, g and p families from generation 3."""

    def keep(row: dict[str, str]) -> bool:
        family = row["type"].split(".")[0]
        letters = family.rstrip("abcdefghijklmnopqrstuvwxyz-0123456789") or family
        head = "".join(iter_letters(letters))
        digits = "".join(char for char in family if char.isdigit())
        return (
            row["arch"] == "amd64"
            and "metal" not in row["type"]
            and head in ("c", "m", "r", "g", "p", "gr")
            and digits != ""
            and int(digits[0]) > 2
        )

    return offers(keep)


def iter_letters(family: str) -> Iterator[str]:
    """Yield the letters before the first digit: the family's own name."""
    for char in family:
        if char.isdigit():
            return
        yield char


def demand(kind: str, count: int, seed: int, shapes: int = 62, scale: float = 1.0) -> tuple[DemandClass, ...]:
    """Return `count` units of at most `shapes` shapes; `kind` is `cpu` or `mixed`. `scale` makes all shapes smaller."""
    chance = random.Random(f"{kind}/{count}/{seed}/{shapes}")
    menu: list[Amounts] = []
    while len(menu) < shapes:
        cpu = chance.choice(CPUS)
        gib = min(192.0, max(0.25, round(4 * cpu * chance.choice(GIB_PER_CPU) * chance.uniform(0.75, 1.3)) / 4))
        wanted: dict[str, float] = {"CPU": cpu, "memory": int(gib * GIB)}
        if kind == "mixed" and len(menu) % 5 == 0:
            wanted = {"CPU": min(cpu, 8), "memory": int(min(gib, 32) * GIB), "GPU": chance.choice(GPUS)}
        shape = amounts(wanted)
        if scale != 1.0:
            shape = {name: max(1, int(amount * scale)) for name, amount in shape.items()}
        if shape not in menu:
            menu.append(shape)
    weights = [1 / (rank + 1) ** 0.8 for rank in range(shapes)]
    drawn = Counter(chance.choices(range(shapes), weights, k=count))
    return classes_of([(menu[one], drawn[one]) for one in range(shapes)])


def unique_demand(count: int, seed: int) -> tuple[DemandClass, ...]:
    """Return `count` units, each of a shape of its own (log-normal CPUs and memory): what breaks class grouping."""
    chance = random.Random(f"unique/{count}/{seed}")
    found = []
    for _ in range(count):
        cpu = min(32.0, max(0.05, round(chance.lognormvariate(0.0, 0.9), 3)))
        mib = min(128 * 1024, max(64, int(cpu * 1024 * chance.lognormvariate(1.0, 0.7))))
        found.append((amounts({"CPU": cpu, "memory": mib * MIB}), 1))
    return classes_of(found)


def openb() -> tuple[DemandClass, ...]:
    """Return 1,088 real CPU-only pods in 25 shapes."""
    return classes_of(
        [
            (
                amounts({"CPU": int(row["cpu_milli"]) / 1000, "memory": int(row["memory_mib"]) * MIB}),
                int(row["count"]),
            )
            for row in rows("demand_openb_cpu.csv")
        ]
    )


def classes_of(shapes: list[tuple[Amounts, int]]) -> tuple[DemandClass, ...]:
    """Return demand classes of the shapes and counts."""
    return tuple(
        DemandClass(key=f"c{number:04d}", amounts=shape, waiting=count)
        for number, (shape, count) in enumerate(shapes)
        if count
    )


def snapshot_of(classes: tuple[DemandClass, ...], offered: tuple[Offer, ...]) -> tuple[Snapshot, Policy]:
    """Return an empty cluster that may buy anything of what is offered, and the demand."""
    most = 10 * sum(one.waiting for one in classes) + 10
    kinds = []
    for offer in offered:
        name = offer.key.machine_type
        kinds.append(NodeType(name=name, provider="aws", machine_types=(name,), max_workers=most))
    policy = Policy(cluster_name="bench", node_types=tuple(kinds), max_workers=most)
    snapshot = Snapshot(now_s=1000.0, cluster_uid="ab" * 16, work=Work(classes=classes), offers=offered)
    return snapshot, policy
