"""Check the answer of `shoal plan --format json` against its inputs, without any code of the planner or of Shoal.

    python tests/verify_plan.py PLAN.json --cluster CLUSTER.yaml --demand DEMAND.csv [--offers OFFERS.csv]

Checks that no machine holds more than it has, that every line of the demand is placed or answered, that gangs are
whole and stand as their strategy says, that labels and GPU models match, that limits and the hourly cap hold, and
that the price is the sum of its parts and not below the bound. Prints each mistake; exits with 1 if there is one.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

TINY = 1e-6
SIZES = ("cpu", "memory_gib", "gpu")


def mistakes(
    plan: dict[str, Any], cluster: dict[str, Any], demand: list[dict[str, Any]], offers: list[dict[str, Any]] | None
) -> list[str]:
    """Return everything that is wrong, each as one sentence."""
    return [
        *_capacity(plan, demand),
        *_coverage(plan, demand),
        *_gangs(plan, demand),
        *_labels(plan, cluster, demand),
        *_limits(plan, cluster),
        *_prices(plan, offers),
    ]


def read_demand(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a demand file, numbered as in the file, sizes as numbers."""
    found: list[dict[str, Any]] = []
    with path.open(newline="") as text:
        reader = csv.DictReader(text)
        for row in reader:
            cells = {name: (cell or "").strip() for name, cell in row.items() if name}
            if not any(cells.values()):
                continue
            found.append(
                {
                    **cells,
                    "line": reader.line_num,
                    "count": int(cells.get("count") or 1),
                    **{name: float(cells.get(name) or 0) for name in SIZES},
                }
            )
    return found


def read_offers(path: Path) -> list[dict[str, Any]]:
    """Return the lines of an offer file, with its numbers as numbers."""
    with path.open(newline="") as text:
        return [
            {
                **row,
                **{name: float(row.get(name) or 0) for name in SIZES},
                "usd_per_h": float(row["usd_per_h"]) if row.get("usd_per_h") else None,
            }
            for row in csv.DictReader(text)
        ]


def _placements(plan: dict[str, Any]) -> Iterator[tuple[dict[str, Any], int, int]]:
    """Yield (machine, line of the demand file, count) for all that is placed on machines to be bought."""
    for machine in plan["machines"]:
        for one in machine["placed"]:
            for part in one["lines"]:
                yield machine, part["line"], part["count"]


def _capacity(plan: dict[str, Any], demand: list[dict[str, Any]]) -> Iterator[str]:
    by_line = {row["line"]: row for row in demand}
    held: dict[str, Counter[str]] = defaultdict(Counter)
    for machine, line, count in _placements(plan):
        if line not in by_line:
            yield f"{machine['id']}: holds line {line}, which the demand has not"
            continue
        for name in SIZES:
            held[machine["id"]][name] += by_line[line][name] * count
    for machine in plan["machines"]:
        for name in SIZES:
            there = machine[name] or 0
            if held[machine["id"]][name] > there * (1 + TINY) + TINY:
                yield f"{machine['id']} ({machine['type']}): holds {held[machine['id']][name]:g} {name} of {there:g}"
        for one in machine["placed"]:
            if sum(part["count"] for part in one["lines"]) != one["count"]:
                yield f"{machine['id']}: {one['count']} x {one['demand']} is not the sum of its lines"


def _coverage(plan: dict[str, Any], demand: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of one shape are one demand, named after the first of them; a gang is one demand."""
    wanted: Counter[str] = Counter()
    for row in demand:
        wanted[_name(row, demand)] += row["count"]
    answered: Counter[str] = Counter()
    for machine, line, count in _placements(plan):
        row = next((row for row in demand if row["line"] == line), None)
        if row is not None:
            answered[_name(row, demand)] += count
        elif machine:
            continue
    for there in plan.get("there", []):
        for one in there["placed"]:
            answered[one["demand"]] += one["count"]
    for lack in plan["unmet"]:
        answered[lack["demand"]] += lack["count"]
        if lack["verdict"] not in ("infeasible", "blocked", "deferred"):
            yield f"{lack['demand']}: `{lack['verdict']}` is no verdict"
        if not lack["why"] and not lack["reasons"]:
            yield f"{lack['demand']}: unmet without a reason"
    for name, count in wanted.items():
        if answered[name] != count:
            yield f"{name}: {count} wanted, {answered[name]} placed or answered"
    if plan["is_served"] != (not plan["unmet"]):
        yield "is_served does not say what `unmet` says"


def _name(row: dict[str, Any], demand: list[dict[str, Any]]) -> str:
    if row.get("gang"):
        return str(row["gang"])
    alike = (*SIZES, "gpu_model", "labels")
    first = next(
        other
        for other in demand
        if not other.get("gang") and all((other.get(name) or "") == (row.get(name) or "") for name in alike)
    )
    return f"L{first['line']}"


def _gangs(plan: dict[str, Any], demand: list[dict[str, Any]]) -> Iterator[str]:
    members: Counter[str] = Counter()
    strategies: dict[str, str] = {}
    gang_of = {}
    for row in demand:
        if row.get("gang"):
            members[row["gang"]] += row["count"]
            strategies[row["gang"]] = (row.get("strategy") or "PACK").upper()
            gang_of[row["line"]] = row["gang"]
    holders: dict[str, Counter[str]] = defaultdict(Counter)
    for machine, line, count in _placements(plan):
        if line in gang_of:
            holders[gang_of[line]][machine["id"]] += count
    for gang, count in members.items():
        placed = sum(holders[gang].values())
        if placed not in (0, count):
            yield f"gang {gang}: {placed} of {count} placed"
        if strategies[gang] == "STRICT_SPREAD" and any(each > 1 for each in holders[gang].values()):
            yield f"gang {gang}: two members on one machine"
        if strategies[gang] == "STRICT_PACK" and len(holders[gang]) > 1:
            yield f"gang {gang}: on {len(holders[gang])} machines"


def _labels(plan: dict[str, Any], cluster: dict[str, Any], demand: list[dict[str, Any]]) -> Iterator[str]:
    by_line = {row["line"]: row for row in demand}
    types = cluster.get("available_node_types") or {}
    for machine, line, _ in _placements(plan):
        row = by_line.get(line)
        if row is None:
            continue
        model = row.get("gpu_model") or ""
        if model and model.lower() != (machine["gpu_model"] or "").lower():
            yield f"{machine['id']}: line {line} wants a {model}, it has `{machine['gpu_model']}`"
        labels = {
            "ray.io/node-group": machine["node_type"],
            "ray.io/market-type": machine["market"],
            "ray.io/region": machine["region"],
            "ray.io/availability-zone": machine["zone"],
            "ray.io/accelerator-type": machine["gpu_model"],
            **((types.get(machine["node_type"]) or {}).get("labels") or {}),
        }
        for name, term in _terms(row.get("labels") or ""):
            if not _matches(term, labels.get(name)):
                yield f"{machine['id']}: line {line} wants {name}={term}, it is `{labels.get(name)}`"


def _terms(text: str) -> Iterator[tuple[str, str]]:
    for part in re.split(r"[;]", text):
        if "=" in part:
            name, term = part.split("=", 1)
            yield name.strip(), term.strip()


def _matches(term: str, value: str | None) -> bool:
    """A label that is missing equals nothing, so only negative terms hold."""
    negative = term.startswith("!")
    inner = re.fullmatch(r"!?in\((.*)\)", term)
    wanted = [one.strip() for one in inner[1].split(",")] if inner else [term.lstrip("!")]
    return (value in wanted) != negative


def _limits(plan: dict[str, Any], cluster: dict[str, Any]) -> Iterator[str]:
    bought = Counter(machine["node_type"] for machine in plan["machines"])
    types = cluster.get("available_node_types") or {}
    for name, count in bought.items():
        if name not in types:
            yield f"node type `{name}` is not in the cluster file"
            continue
        most = (types[name] or {}).get("max_workers")
        if most is None:
            most = 0 if name == cluster.get("head_node_type") else cluster.get("max_workers", 2)
        if count > most:
            yield f"`{name}`: {count} machines, max_workers is {most}"
    for name, kind in types.items():
        least = (kind or {}).get("min_workers", 0)
        if bought[name] < least and not any(one["demand"] == name for one in plan["unmet"]):
            yield f"`{name}`: {bought[name]} machines, min_workers is {least}, and nothing says why"
    most = cluster.get("max_workers", 2)
    if len(plan["machines"]) > most:
        yield f"{len(plan['machines'])} machines, max_workers is {most}"
    cap = (cluster.get("budget") or {}).get("usd_per_hour_max")
    if cap is not None and plan["usd_per_h"] > float(cap) + TINY:
        yield f"${plan['usd_per_h']:.4f}/h, usd_per_hour_max is {cap}"
    if len({machine["id"] for machine in plan["machines"]}) < len(plan["machines"]):
        yield "two machines have one id"


def _prices(plan: dict[str, Any], offers: list[dict[str, Any]] | None) -> Iterator[str]:
    known = [machine["usd_per_h"] for machine in plan["machines"] if machine["usd_per_h"] is not None]
    if abs(sum(known) - plan["usd_per_h"]) > 1e-5 * max(1.0, plan["usd_per_h"]):
        yield f"usd_per_h is {plan['usd_per_h']}, its machines cost {sum(known)}"
    bound = plan["lower_bound_usd_per_h"]
    if bound is not None and bound > plan["usd_per_h"] + TINY:
        yield f"the lower bound {bound} is above the price {plan['usd_per_h']}"
    if offers is None:
        return
    for machine in plan["machines"]:
        rows = [
            row
            for row in offers
            if row["type"] == machine["type"]
            and (row.get("zone") or "") in ("", machine["zone"])
            and _market(row.get("market")) == machine["market"]
        ]
        if not rows:
            yield f"{machine['id']}: no offer `{machine['type']}` in {machine['zone']} on {machine['market']}"
        elif not any(
            (row["usd_per_h"] is None) == (machine["usd_per_h"] is None)
            and abs((row["usd_per_h"] or 0) - (machine["usd_per_h"] or 0)) < TINY
            and all(row[name] >= (machine[name] or 0) - TINY for name in SIZES)
            for row in rows
        ):
            yield f"{machine['id']}: neither price nor size of `{machine['type']}` is the offer's"


def _market(word: str | None) -> str:
    return "spot" if (word or "").lower() == "spot" else "on-demand"


def main() -> int:
    """Read the files of the command line, print every mistake and say whether there was one."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("plan", type=Path)
    parser.add_argument("--cluster", type=Path, required=True)
    parser.add_argument("--demand", type=Path, required=True)
    parser.add_argument("--offers", type=Path)
    words = parser.parse_args()
    plan = json.loads(words.plan.read_text())
    found = mistakes(
        plan,
        yaml.safe_load(words.cluster.read_text()),
        read_demand(words.demand),
        read_offers(words.offers) if words.offers else None,
    )
    for one in found:
        print(one)
    placed = sum(count for _, _, count in _placements(plan))
    print(f"{len(plan['machines'])} machines, {placed} placed, {len(plan['unmet'])} unmet, {len(found)} mistakes")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
