"""`shoal simulate`: a day of work against a cluster file, in virtual time."""

from __future__ import annotations

from pathlib import Path

import click

from shoal.cli.output import emit, format_option, say

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("config", type=_FILE)
@click.option("--trace", type=_FILE, required=True, help="CSV of work: submit_s, duration_s, cpu, memory_gib, gpu, ...")
@click.option("--offers", type=_FILE, help="CSV of what can be bought, instead of the price tables.")
@click.option(
    "--policy",
    "policies",
    type=click.Choice(["ours", "ray", "static"]),
    multiple=True,
    default=("ours",),
    show_default=True,
    help="Who decides; may be given several times to compare.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed tells the same story.")
@click.option("--effort", type=click.IntRange(0), default=0, show_default=True, help="Improvements of each plan.")
@click.option("--until", "until_s", type=click.FloatRange(0), help="Stop at this time instead of when all is done.")
@click.option("--chart", "chart_file", type=_FILE, help="Draw it: FILE.png, FILE.svg, or both for another name.")
@format_option()
def simulate(
    config: Path,
    trace: Path,
    offers: Path | None,
    policies: tuple[str, ...],
    seed: int,
    effort: int,
    until_s: float | None,
    chart_file: Path | None,
    form: str,
) -> None:
    """Play a trace against a cluster file: cost, waiting times, utilisation, a chart.

    CONFIG is the cluster's YAML. Nothing is bought. A policy learns how long work takes only when it has finished.
    Exits with 0 if everything finished, 1 if something had not when it ended, 2 if a file
    is wrong.
    """
    from shoal.config.demand_csv import read_offers, read_trace
    from shoal.config.load import load
    from shoal.testing import sim_report, sim_time
    from shoal.testing.setting import improver, setting
    from shoal.testing.simulation import simulate as play

    loaded = load(config)
    if chart_file is not None:
        sim_report.check_chart(chart_file)
    for warning in loaded.warnings:
        say(str(warning))
    rows = read_trace(trace)
    listed = read_offers(offers) if offers is not None else None
    days = []
    for policy in policies:
        made = setting(loaded, policy, listed=listed, seed=seed, effort=effort, until_s=until_s)
        day = sim_time.run(play(rows, made.setting, improver(policy)))
        days.append(
            sim_report.told(day, cluster=loaded.policy.cluster_name, policy=policy, seed=seed, notes=made.notes)
        )
    if form == "table":
        emit([sim_report.table_row(day) for day in days], form)
        for line in dict.fromkeys(line for day in days for line in sim_report.words(day)):
            say(line)
    else:
        emit(days[0] if len(days) == 1 else days, form)
    if chart_file is not None:
        for file in sim_report.chart(days, chart_file):
            say(f"chart: {file}")
    raise SystemExit(0 if all(day["is_served"] for day in days) else 1)
