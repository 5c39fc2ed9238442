"""What a simulated day is told as: numbers for JSON and tables, and a chart.

The chart needs matplotlib (extra `plots`); it is imported only when a chart is wanted.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shoal.foundation.errors import UserError
from shoal.testing.simulation import Day

PERCENTILES = (0.5, 0.9, 0.95, 0.99)


def told(day: Day, *, cluster: str, policy: str, seed: int, notes: Sequence[str] = ()) -> dict[str, Any]:
    """Return the day as plain values; durations in seconds, money in USD, shares from 0 to 1."""
    cpu_hours = day.cpu_used_s / 3600
    return {
        "cluster": cluster,
        "policy": policy,
        "seed": seed,
        "is_served": day.finished == day.submitted,
        "ended_s": day.ended_s,
        "usd": day.usd,
        "usd_per_used_cpu_hour": day.usd / cpu_hours if cpu_hours else None,
        "waiting_s": waiting_s(day),
        "utilisation_cpu": day.cpu_used_s / day.cpu_there_s if day.cpu_there_s else None,
        "machines": {
            "most": day.machines_most,
            "started": day.machines_started,
            "hours": day.machine_s / 3600,
            "by_type": list(day.by_type),
        },
        "work": {
            "submitted": day.submitted,
            "started": day.started,
            "finished": day.finished,
            "put_back": day.put_back,
        },
        "unmet": list(day.unmet),
        "over_time": [{name: getattr(sample, name) for name in sample.__struct_fields__} for sample in day.samples],
        "rounds": day.rounds,
        "alarms": list(day.alarms),
        "notes": list(notes),
        "took_s": day.took_s,
        "memory_bytes_most": day.memory_bytes_most,
    }


def waiting_s(day: Day) -> dict[str, float | None]:
    """Return how long units waited from submission to start: mean, percentiles and the most."""
    total = sum(count for _, count in day.waits)
    if not total:
        return dict.fromkeys(["mean", *(f"p{round(100 * share)}" for share in PERCENTILES), "most"])
    found: dict[str, float | None] = {"mean": sum(wait * count for wait, count in day.waits) / total}
    for share in PERCENTILES:
        found[f"p{round(100 * share)}"] = percentile(day.waits, share)
    return {**found, "most": day.waits[-1][0]}


def percentile(waits: Sequence[tuple[float, int]], share: float) -> float:
    """Return the least wait that at least `share` (0 to 1) of the units did not exceed; `waits` is sorted, not empty.

    >>> percentile([(0.0, 1), (5.0, 3)], 0.25), percentile([(0.0, 1), (5.0, 3)], 0.5)
    (0.0, 5.0)
    """
    total = sum(count for _, count in waits)
    seen = 0
    for wait_s, count in waits:
        seen += count
        if seen >= share * total - 1e-9:
            return wait_s
    return waits[-1][0]


def table_row(said: dict[str, Any]) -> dict[str, Any]:
    """Return one line for people."""
    waits = said["waiting_s"]
    return {
        "policy": said["policy"],
        "usd": said["usd"],
        "wait_p50_s": waits["p50"],
        "wait_p90_s": waits["p90"],
        "wait_p99_s": waits["p99"],
        "utilisation": said["utilisation_cpu"],
        "machines_most": said["machines"]["most"],
        "machine_hours": said["machines"]["hours"],
        "finished": said["work"]["finished"],
        "submitted": said["work"]["submitted"],
    }


def words(said: dict[str, Any]) -> list[str]:
    """Return what stands beside the table, a line each."""
    lines = list(said["notes"])
    lines.append(f"{said['policy']}: {said['ended_s'] / 3600:.2f} h simulated in {said['took_s']:.1f} s")
    work = said["work"]
    if (left := work["submitted"] - work["finished"]) > 0:
        lines.append(f"{said['policy']}: {left} of {work['submitted']} units had not finished when it ended")
    for one in said["unmet"]:
        lines.append(
            f"{said['policy']}: unmet at the end: {one['count']} x {one['demand']} ({one['shape']}): "
            f"{one['verdict']}: {one['why']}"
        )
    return lines + [f"alarm: {alarm}" for alarm in said["alarms"]]


def check_chart(into: Path) -> None:
    """Say before a long day what would keep its chart from being drawn.

    Raises:
        UserError: matplotlib is missing, or there is no such folder.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("chart: expected matplotlib, got none", hint="pip install 'shoal[plots]'")
    if not into.parent.is_dir():
        raise UserError(f"chart: {into}: expected a folder `{into.parent}`, got none")


def chart(days: Sequence[dict[str, Any]], into: Path) -> list[Path]:
    """Draw the days over time, one line each; return the files.

    A path that ends in `.png` or `.svg` gives that one; any other gives both with these endings.

    Raises:
        UserError: matplotlib is missing, or the file cannot be written.
    """
    check_chart(into)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    # The same day gives the same bytes: no date, no random ids.
    with matplotlib.rc_context({"svg.hashsalt": "shoal", "svg.fonttype": "none"}):
        figure = Figure(figsize=(10, 10), layout="constrained")
        axes = figure.subplots(4, 1, sharex=True)
        _draw(axes, days)
        figure.suptitle(f"{days[0]['cluster']}: a simulated day")
        is_named = into.suffix in (".png", ".svg")
        files = [into] if is_named else [into.with_name(into.name + ending) for ending in (".png", ".svg")]
        for file in files:
            metadata: dict[str, Any] = {"Date": None} if file.suffix == ".svg" else {"Software": None}
            try:
                figure.savefig(file, dpi=120, metadata=metadata)
            except OSError as error:
                why = (error.strerror or str(error)).lower()
                raise UserError(f"chart: {file}: expected a file that can be written, got {why}") from error
    return files


def _draw(axes: Any, days: Sequence[dict[str, Any]]) -> None:
    machines, cpus, waiting, cost = axes
    for place, day in enumerate(days):
        over, color, name = day["over_time"], f"C{place}", day["policy"]
        hours = [one["at_s"] / 3600 for one in over]
        machines.step(hours, [one["machines"] for one in over], where="post", color=color, label=f"{name}: machines")
        cpus.step(hours, [one["cpu_there"] for one in over], where="post", color=color, label=f"{name}: there")
        used = [one["cpu_used"] for one in over]
        cpus.fill_between(hours, used, step="post", color=color, alpha=0.3, label=f"{name}: used")
        waiting.step(hours, [one["waiting"] for one in over], where="post", color=color, label=f"{name}: waiting")
        cost.plot(hours, [one["usd"] for one in over], color=color, label=f"{name}: ${day['usd']:.2f}")
    for axis, text in zip(axes, ("machines", "CPUs", "units waiting", "USD"), strict=True):
        axis.set_ylabel(text)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(loc="upper left", fontsize="small")
    cost.set_xlabel("hours")
