"""What the planner's fleets cost, and how fast they are found, against proven bounds and against Ray's scheduler.

    python benchmarks/planner_cost.py                     all rows, about 15 minutes
    python benchmarks/planner_cost.py --seeds 2 --offline-s 3 --sizes 100,1000
    python benchmarks/planner_cost.py --only mixed/region/3000/5,cpu/27/100/14 --offline-s 600 --bound-s 60 \
        --out benchmarks/results/planner_cost_offline.json

`--only` measures the rows it names (kind/catalogue/units/seed), each with an offline search, and no times; the file is
written after each of them.

Each row is one demand and one catalogue: our price after the thinking budget, the proven lower bound, the best plan of
a longer offline search, and Ray's. Prices are compared with the larger of the bound and 0.99 x the offline plan.
Budgets are CPU seconds of one core, so that what else runs on the machine does not decide; wall time stands beside.
Ray's own scheduler runs in the same process where its run time allows (few types); elsewhere its re-implementation,
which must give the same fleet wherever both run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.demand_generator import curated, demand, full_region, openb, snapshot_of, unique_demand
from shoal.autoscaler.decide import peers, ray_policy
from shoal.autoscaler.decide.buying import Market
from shoal.autoscaler.decide.columns import Columns, quiet_program
from shoal.autoscaler.decide.commit import why_stop
from shoal.autoscaler.decide.drafting import drafted
from shoal.autoscaler.decide.filling import Load, cost, first_packing
from shoal.autoscaler.decide.plan_check import mistakes
from shoal.autoscaler.decide.planner import improve
from shoal.foundation.amounts import UNIT
from shoal.model.demand import DemandClass
from shoal.model.offer import Offer
from shoal.model.plan import Plan
from shoal.model.policy import Policy, Thinking
from shoal.model.snapshot import Snapshot

RESULTS = Path(__file__).parent / "results"
BUDGET_S = 1.0
REAL_RAY_UNITS_MOST = 1000
MASTER_S_LEAST = 60.0
"""Offline searches of this length or more also solve the integer program over the fills they know."""
CATALOGUES = {"27": curated, "region": full_region}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--sizes", default="100,1000,3000")
    parser.add_argument("--budget-s", type=float, default=BUDGET_S)
    parser.add_argument("--offline-s", type=float, default=10.0)
    parser.add_argument("--offline-seeds", type=int, default=3, help="seeds that get an offline search")
    parser.add_argument("--bound-s", type=float, help="seconds for the proven bound beside it; default: as many")
    parser.add_argument("--only", type=row_names, help="rows to measure, instead of all: mixed/region/3000/5,...")
    parser.add_argument("--skip-ray", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS / "planner_cost.json")
    words = parser.parse_args()
    if words.bound_s is None:
        words.bound_s = words.offline_s
    warm_up()
    rows = []
    for row in named_rows(words) if words.only else cost_rows(words):
        rows.append(row)
        print(line_of(row), flush=True)
        if words.only:
            keep(words, rows, [])
    speed = [] if words.only else list(speed_rows())
    for row in speed:
        print(json.dumps(row), flush=True)
    print(json.dumps(keep(words, rows, speed)["summary"], indent=1))


def keep(words: argparse.Namespace, rows: list[dict[str, Any]], speed: list[dict[str, Any]]) -> dict[str, Any]:
    """Write what is known by now and return it."""
    result = {
        "what": __doc__.split("\n")[0] if __doc__ else "",
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "load_1min": os.getloadavg()[0]},
        "settings": {
            "budget_cpu_s": words.budget_s,
            "offline_cpu_s": words.offline_s,
            "bound_cpu_s": words.bound_s,
            **({} if words.only else {"seeds": words.seeds}),
        },
        "summary": summary(rows),
        "rows": rows,
        "speed": speed,
    }
    words.out.parent.mkdir(parents=True, exist_ok=True)
    words.out.write_text(json.dumps(result, indent=1) + "\n")
    return result


def row_names(text: str) -> list[tuple[str, str, int, int]]:
    """Read `kind/catalogue/units/seed,...`."""
    found = []
    for word in text.split(","):
        kind, catalogue, units, seed = word.split("/")
        if kind not in ("cpu", "mixed") or catalogue not in CATALOGUES:
            raise ValueError(word)
        found.append((kind, catalogue, int(units), int(seed)))
    return found


def named_rows(words: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the rows of `--only`, each with an offline search."""
    for kind, catalogue, units, seed in words.only:
        classes, offers = demand(kind, units, seed), CATALOGUES[catalogue]()
        row = cost_row(kind, catalogue, classes, offers, words, is_offline=True, seed=seed)
        yield {**row, "units": units, "seed": seed}


def cost_rows(words: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row per demand and catalogue."""
    for catalogue, offers in ((name, make()) for name, make in CATALOGUES.items()):
        yield cost_row("openb", catalogue, openb(), offers, words, is_offline=True)
        for kind in ("cpu", "mixed"):
            for count in map(int, words.sizes.split(",")):
                for seed in range(words.seeds):
                    classes = demand(kind, count, seed)
                    row = cost_row(
                        kind, catalogue, classes, offers, words, is_offline=seed < words.offline_seeds, seed=seed
                    )
                    yield {**row, "units": count, "seed": seed}


def cost_row(
    kind: str,
    catalogue: str,
    classes: tuple[DemandClass, ...],
    offers: tuple[Offer, ...],
    words: argparse.Namespace,
    *,
    is_offline: bool,
    seed: int = 0,
) -> dict[str, Any]:
    what, how = snapshot_of(classes, offers)
    first, by_rule, last, first_ms = thought(what, how, words.budget_s)
    assert not mistakes(last, what, how) and not last.unmet
    row: dict[str, Any] = {
        "kind": kind,
        "catalogue": catalogue,
        "units": sum(one.waiting for one in classes),
        "shapes": len(classes),
        "usd_first": first.cost_micro / 1e6,
        "usd_commit_rule": by_rule.cost_micro / 1e6,
        "usd": last.cost_micro / 1e6,
        "effort": last.effort,
        "bound": (last.bound_micro or 0) / 1e6,
        "first_cpu_ms": round(first_ms, 1),
        "machines": sum(len(step.instance_ids) for step in last.steps if hasattr(step, "instance_ids")),
    }
    if is_offline:
        offline, bound = offline_plan(what, how, words.offline_s, words.bound_s, seed)
        row["bound"] = max(row["bound"], bound)
        row["usd_offline"] = min(offline, row["usd"])
    if not words.skip_ray:
        row |= ray_row(what, how, classes)
    base = max(row["bound"], 0.99 * row.get("usd_offline", 0.0))
    row["over"] = row["usd"] / base
    row["over_bound"] = row["usd"] / row["bound"]
    row["first_over"] = row["usd_first"] / base
    row["commit_rule_over"] = row["usd_commit_rule"] / base
    if "usd_ray" in row:
        row["ray_over"] = row["usd_ray"] / base
    return row


def thought(what: Snapshot, how: Policy, budget_s: float) -> tuple[Plan, Plan, Plan, float]:
    """Return the first plan, that of the commit rule at default settings, the last in the budget; ms to the first."""
    began = time.process_time()
    first = by_rule = last = None
    first_ms = 0.0
    for plan in improve(what, how, 0):
        used = time.process_time() - began
        last = plan
        if first is None:
            first, first_ms = plan, used * 1e3
        if by_rule is None and why_stop(plan, Thinking(), used, 60.0):
            by_rule = plan
        if used >= budget_s:
            break
    assert first is not None and last is not None
    return first, by_rule or last, last, first_ms


def offline_plan(what: Snapshot, how: Policy, seconds: float, bound_seconds: float, seed: int) -> tuple[float, float]:
    """Return the best price of a long search, and the best bound of exact pricing, in USD per hour.

    The search starts anew with another seed where one ended or had half of the time. Of `MASTER_S_LEAST` seconds or
    more the last third goes into the exact integer program over every fill that exact pricing and the searches found.
    """
    best, bound, number = float("inf"), 0.0, 0
    columns = pricing_columns(what, how)
    proven = exact_bound(columns, bound_seconds)
    is_long = seconds >= MASTER_S_LEAST
    began, searching = time.process_time(), seconds * (2 / 3 if is_long else 1)
    while (spent := time.process_time() - began) < searching:
        until = min(searching, spent + seconds / 2)
        for plan in improve(what, how, 1000 + 1000 * seed + number):
            best = min(best, plan.cost_micro / 1e6)
            bound = max(bound, (plan.bound_micro or 0) / 1e6)
            if time.process_time() - began > until:
                break
        number += 1
    if is_long:
        columns.add_loads(long_search(columns, seconds / 12))
        best = min(best, integer_master(columns, seconds / 3))
    return best, max(bound, proven)


def pricing_columns(what: Snapshot, how: Policy) -> Columns:
    """Return the column generation of the whole demand, with the first packing in it."""
    draft = drafted(what, how)
    market = Market(draft.wants, draft.wares)
    problem, _ = market.problem([want.count for want in draft.wants], draft.room)
    columns = Columns(problem, 0)
    columns.add_loads(first_packing(problem))
    return columns


def exact_bound(columns: Columns, seconds: float) -> float:
    """Return Farley's bound after column generation with exact knapsacks for the given time."""
    began, found = time.process_time(), 0.0
    while time.process_time() - began < seconds / 2:
        if not columns.grow():
            break
    while time.process_time() - began < seconds:
        columns.solve()
        duals, most, added = columns.duals.copy(), 1.0, 0
        for bin_at in range(len(columns.useful)):
            value, best = columns.price_exactly(bin_at)
            most = max(most, value / float(columns.prices[bin_at]))
            if best is not None and best @ duals > columns.prices[bin_at] * (1 + 1e-9):
                added += columns.add(bin_at, best)
        found = max(found, float(duals @ columns.counts) / most * (1 - 1e-9))
        if not added:
            break
    return found / 1e6


def long_search(columns: Columns, seconds: float) -> list[Load]:
    """Return the best packing of a search that starts from what column generation knows, rebuilt again and again."""
    columns.solve()
    best = columns.rounded()
    price, began = cost(columns.problem, best), time.process_time()
    while time.process_time() - began < seconds:
        other = columns.destroyed_and_rebuilt(best)
        columns.add_loads(other)
        if cost(columns.problem, other) < price:
            best, price = other, cost(columns.problem, other)
    return best


def integer_master(columns: Columns, seconds: float) -> float:
    """Return the price in USD per hour of the best whole numbers of the known fills that serve everything."""
    import highspy

    program = quiet_program()
    for name, value in (("solver", "choose"), ("time_limit", seconds), ("simplex_iteration_limit", 2**31 - 1)):
        program.setOptionValue(name, value)
    for count in columns.counts:
        program.addRow(float(count), highspy.kHighsInf, 0, [], [])
    for at, (bin_at, pattern) in enumerate(zip(columns.bins, columns.patterns, strict=True)):
        rows = [int(row) for row in pattern.nonzero()[0]]
        price = float(columns.prices[bin_at]) / 1e6
        program.addCol(price, 0.0, highspy.kHighsInf, len(rows), rows, [float(pattern[row]) for row in rows])
        program.changeColIntegrality(at, highspy.HighsVarType.kInteger)
    program.run()
    chosen = [round(amount) for amount in program.getSolution().col_value]
    if len(chosen) < len(columns.patterns) or not any(chosen):
        return float("inf")
    served = sum(pattern * copies for pattern, copies in zip(columns.patterns, chosen, strict=True) if copies)
    assert (served >= columns.counts).all(), "the integer program serves everything"
    return sum(int(columns.prices[bin_at]) * copies for bin_at, copies in zip(columns.bins, chosen, strict=True)) / 1e6


def ray_row(what: Snapshot, how: Policy, classes: Sequence[DemandClass]) -> dict[str, Any]:
    """Return the price of Ray's fleet: by its own scheduler where that is quick enough, else by ours of its rules."""
    types = peers.peer_types(what, how)
    price = {one.kind.name: one.offer.price_usd_per_h or 0.0 for one in types}
    ours = ray_policy.packing(classes, types)
    row: dict[str, Any] = {"usd_ray": sum(price[name] * count for name, count in ours.items()), "ray": "rules"}
    if len(types) <= 30 and sum(one.waiting for one in classes) <= REAL_RAY_UNITS_MOST:
        began = time.process_time()
        real = real_ray(classes, types)
        if real is not None:
            assert real == ours, "the re-implementation differs from Ray's scheduler"
            row |= {"ray": "real", "ray_cpu_ms": round((time.process_time() - began) * 1e3)}
    return row


def real_ray(classes: Sequence[DemandClass], types: Sequence[peers.PeerType]) -> Counter[str] | None:
    """Return the fleet of Ray's own v2 scheduler, None where ray is not installed."""
    try:
        from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
        from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
        from ray.autoscaler.v2.utils import ResourceRequestUtil
        from ray.core.generated.autoscaler_pb2 import ResourceRequestByCount
    except ImportError:
        return None
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs={
            one.kind.name: NodeTypeConfig(
                name=one.kind.name,
                min_worker_nodes=0,
                max_worker_nodes=1_000_000,
                resources={name: amount / UNIT for name, amount in one.resources.items()},
            )
            for one in types
        },
        max_num_nodes=1_000_000,
        resource_requests=[
            ResourceRequestByCount(
                request=ResourceRequestUtil.make({name: amount / UNIT for name, amount in one.amounts.items()}),
                count=one.waiting,
            )
            for one in classes
        ],
    )
    reply = ResourceDemandScheduler().schedule(request)
    return Counter({one.instance_type: one.count for one in reply.to_launch})


def speed_rows() -> Iterator[dict[str, Any]]:
    """Yield the time to the first complete plan, best of three, and how far it is from the bound."""
    for catalogue, make in CATALOGUES.items():
        offers = make()
        for count in (1_000, 10_000, 100_000, 1_000_000):
            # The same total work in ever smaller pieces: it is the number of tasks that must not matter.
            classes = demand("cpu", count, 0, 100, 1000 / count)
            yield {"what": f"{count} tasks of 100 shapes", "catalogue": catalogue, **first_plan(classes, offers)}
        whole = demand("cpu", 1_000_000, 0, 100)
        yield {"what": "1000000 whole-CPU tasks of 100 shapes", "catalogue": catalogue, **first_plan(whole, offers)}
        mixed = demand("mixed", 3000, 0)
        yield {"what": "3000 mixed tasks", "catalogue": catalogue, **first_plan(mixed, offers)}
        unique = unique_demand(5000, 0)
        yield {"what": "5000 tasks of 5000 shapes", "catalogue": catalogue, **first_plan(unique, offers)}


def first_plan(classes: tuple[DemandClass, ...], offers: tuple[Offer, ...]) -> dict[str, Any]:
    what, how = snapshot_of(classes, offers)
    cpu_ms, wall_ms = [], []
    for _ in range(3):
        cpu, wall = time.process_time(), time.perf_counter()
        plan = next(iter(improve(what, how, 0)))
        cpu_ms.append((time.process_time() - cpu) * 1e3)
        wall_ms.append((time.perf_counter() - wall) * 1e3)
    assert not plan.unmet
    return {
        "first_cpu_ms": round(min(cpu_ms), 1),
        "first_wall_ms": round(min(wall_ms), 1),
        "over_bound": round(plan.cost_micro / (plan.bound_micro or 1), 4),
        "machines": sum(len(step.instance_ids) for step in plan.steps if hasattr(step, "instance_ids")),
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return medians and worst cases per kind, over rows with an offline plan and over the proven bound alone."""
    found: dict[str, Any] = {}
    for kind in ("cpu", "mixed", "openb"):
        of_kind = [row for row in rows if row["kind"] == kind]
        offline = [row for row in of_kind if "usd_offline" in row]
        if not of_kind:
            continue
        found[kind] = {
            "rows": len(of_kind),
            "rows_with_offline": len(offline),
            "over_median": spread(offline, "over")[0],
            "over_worst": spread(offline, "over")[1],
            "over_bound_alone_median": spread(offline, "over_bound")[0],
            "over_bound_alone_worst": spread(offline, "over_bound")[1],
            "all_rows_over_quick_bound_median": spread(of_kind, "over_bound")[0],
            "commit_rule_over_median": spread(offline, "commit_rule_over")[0],
            "first_over_median": spread(offline, "first_over")[0],
            "first_over_worst": spread(offline, "first_over")[1],
            "first_cpu_ms_worst": max(row["first_cpu_ms"] for row in of_kind),
        }
        if any("ray_over" in row for row in offline):
            found[kind]["ray_over_median"], found[kind]["ray_over_worst"] = spread(offline, "ray_over")
    return found


def spread(rows: Sequence[dict[str, Any]], name: str) -> tuple[float, float]:
    values = [row[name] for row in rows if name in row]
    return (round(statistics.median(values), 4), round(max(values), 4)) if values else (0.0, 0.0)


def line_of(row: dict[str, Any]) -> str:
    ray = f" ray {row['ray_over']:.2f} ({row['ray']})" if "ray_over" in row else ""
    return (
        f"{row['kind']:6} {row['catalogue']:6} n={row['units']:<5} seed={row.get('seed', '-'):<3} "
        f"first {row['first_over']:.3f} in {row['first_cpu_ms']:.0f} ms, rule {row['commit_rule_over']:.3f}, "
        f"1 s {row['over']:.3f} (bound alone {row['over_bound']:.3f}, effort {row['effort']}){ray}"
    )


def warm_up() -> None:
    """Load numpy and the solver once, as a running autoscaler has."""
    what, how = snapshot_of(demand("cpu", 50, 0), curated())
    for number, _ in enumerate(improve(what, how, 0)):
        if number > 3:
            break


if __name__ == "__main__":
    main()
