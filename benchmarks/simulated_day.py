"""How long a simulated day takes, and how much memory: 1,000 and 10,000 nodes.

    python benchmarks/simulated_day.py [--nodes 1000 10000] [--hours 24] [--out FILE]

A day of batches of work whose sum follows the sun: 5 shapes, 1 to 36 minutes long, about 3,000 batches, so that the
fleet peaks near the number of machines of 16 CPUs that is named. The promise: 1,000 nodes in under 60 s; 10,000 in
under 10 min and 2 GiB. Each day runs in a process of its own. Beside wall time stands CPU time, for busy hosts.

`bound_usd` is what no fleet can serve the day's finished work for: its CPU and memory times seconds, at the best prices
of machines that were cut to size and rented for exactly as long. Boots, idle times and drains come on top of it.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

SHAPES = ((1, 2), (2, 8), (4, 16), (8, 16), (0.5, 1))
DURATIONS_S = (60, 120, 300, 600, 1200, 1800)
NODE_CPUS = 16
TYPES = ("m5.4xlarge", "c5.4xlarge", "r5.4xlarge")
LIMITS = {1_000: (60.0, None), 10_000: (600.0, 2 * 2**30)}
"""Nodes: seconds, bytes."""


def trace(nodes: int, hours: float, seed: int = 1) -> list[tuple[float, float, float, float, int]]:
    """Return (submit_s, duration_s, cpu, memory_gib, count) by time; the load is 45 % of the nodes' CPUs, +-60 %."""
    chance = random.Random(seed)
    rows = []
    at_s = 0.0
    while at_s < hours * 3600:
        sun = 1 + 0.6 * math.sin(2 * math.pi * (at_s - 21_600) / 86_400)
        load = nodes * NODE_CPUS * 0.45 * sun * min(1.0, (at_s + 60) / 600)
        cpu, gib = chance.choice(SHAPES)
        duration_s = chance.choice(DURATIONS_S) * chance.uniform(0.8, 1.2)
        count = max(1, int(nodes * chance.choice((0.02, 0.05, 0.1, 0.2)) * 4 / cpu))
        rows.append((round(at_s, 2), round(duration_s, 1), cpu, gib, count))
        at_s += chance.expovariate(1.0) * cpu * count * duration_s / load
    return rows


def measure(nodes: int, hours: float, into: Any) -> None:
    """Simulate one day and send its figures."""
    from shoal.autoscaler.decide.bound import resource_bound
    from shoal.autoscaler.decide.filling import Bin
    from shoal.autoscaler.decide.planner import improve
    from shoal.config.demand_csv import DemandRow, TraceRow
    from shoal.foundation.amounts import amounts
    from shoal.model.policy import NodeType, Policy, Thinking
    from shoal.providers.prices.catalogue import Catalogue
    from shoal.providers.prices.market import market
    from shoal.testing import sim_report, sim_time
    from shoal.testing.simulation import Setting, simulate

    kind = NodeType(name="any", provider="aws", regions=("us-east-1",), machine_types=TYPES, max_workers=3 * nodes)
    policy = Policy(
        cluster_name="day",
        node_types=(kind,),
        max_workers=3 * nodes,
        idle_timeout_s=120.0,
        thinking=Thinking(effort_fixed=0),
    )
    rows = [
        TraceRow(
            submit_s=submit_s,
            duration_s=duration_s,
            work=DemandRow(line=line, amounts=amounts({"CPU": cpu, "memory": int(gib * 2**30)}), count=count),
        )
        for line, (submit_s, duration_s, cpu, gib, count) in enumerate(trace(nodes, hours), start=2)
    ]
    setting = Setting(policy=policy, offers=market(policy, (), Catalogue()).offers, until_s=hours * 3600)
    cpu_s = time.process_time()
    day = sim_time.run(simulate(rows, setting, improve))
    said = sim_report.told(day, cluster="day", policy="ours", seed=0)
    # Every unit started within the longest wait of its submission, so these have certainly run to their end.
    latest_s = day.ended_s - said["waiting_s"]["most"]
    ended = [row for row in rows if not day.put_back and row.submit_s + row.duration_s <= latest_s]
    names = ("CPU", "memory")
    totals = [int(sum(row.work.amounts[name] * row.work.count * row.duration_s for row in ended)) for name in names]
    bins = [
        Bin(tuple(one.resources[name] for name in names), one.price_micro)
        for one in setting.offers
        if one.price_micro is not None
    ]
    bound_usd = resource_bound(totals, bins) / 3600 / 1e6
    into.put(
        {
            "nodes": nodes,
            "hours": hours,
            "batches": len(rows),
            "units": day.submitted,
            "took_s": day.took_s,
            "cpu_s": time.process_time() - cpu_s,
            "memory_bytes_most": day.memory_bytes_most,
            "machines_most": day.machines_most,
            "machines_started": day.machines_started,
            "rounds": day.rounds,
            "usd": day.usd,
            "bound_usd": bound_usd,
            "usd_over_bound": day.usd / bound_usd if bound_usd else None,
            "finished": day.finished,
            "put_back": day.put_back,
            "waiting_s": said["waiting_s"],
            "utilisation_cpu": said["utilisation_cpu"],
            "alarms": said["alarms"],
            "load_average": os.getloadavg(),
        }
    )


def main() -> None:
    """Measure each size, print a line, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "simulated_day.json")
    chosen = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    rows = []
    for nodes in chosen.nodes:
        queue = context.SimpleQueue()
        process = context.Process(target=measure, args=(nodes, chosen.hours, queue))
        process.start()
        row = queue.get()
        process.join()
        rows.append(row)
        most_s, most_bytes = LIMITS.get(nodes, (None, None))
        limit = (
            f" (limit {most_s:.0f} s" + (f", {most_bytes / 2**30:.0f} GiB)" if most_bytes else ")") if most_s else ""
        )
        print(
            f"{nodes:6} nodes, {chosen.hours:g} h: {row['took_s']:7.1f} s wall, {row['cpu_s']:7.1f} s CPU, "
            f"{row['memory_bytes_most'] / 2**30:.2f} GiB{limit}; peak {row['machines_most']} machines, "
            f"{row['units']} units, waiting p50 {row['waiting_s']['p50']:.0f} s p99 {row['waiting_s']['p99']:.0f} s, "
            f"{100 * row['utilisation_cpu']:.0f} % used, ${row['usd']:.0f}, "
            f"{row['usd_over_bound']:.3f} times the bound",
            flush=True,
        )
    chosen.out.write_text(json.dumps({"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
