"""`shoal plan`: what would be bought for a demand, and why. Changes nothing."""

from __future__ import annotations

from pathlib import Path

import click

from shoal.cli.output import emit, format_option, say

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("config", type=_FILE)
@click.option("--demand", type=_FILE, help="CSV of what is waiting: cpu, memory_gib, gpu, gpu_model, count, gang, ...")
@click.option("--offers", type=_FILE, help="CSV of what can be bought, instead of the price tables.")
@format_option()
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed and effort give the same plan.")
@click.option("--think", "think_s", type=click.FloatRange(0, 3600), default=1.0, show_default=True, help="Seconds.")
@click.option("--effort", type=click.IntRange(1), help="Stop after this many plans instead of after a time.")
def plan(
    config: Path, demand: Path | None, offers: Path | None, form: str, seed: int, think_s: float, effort: int | None
) -> None:
    """Show what the autoscaler would do, the price and a proven lower bound.

    CONFIG is the cluster's YAML. With --demand nothing is there yet; without it, the live cluster of that name is
    looked at. Exits with 0 if every demand is served, 1 if one is not, 2 if a file is wrong.
    """
    from shoal.autoscaler.act import what_if
    from shoal.config.demand_csv import read_demand, read_offers
    from shoal.config.load import load
    from shoal.providers.prices.catalogue import Catalogue
    from shoal.providers.prices.market import market

    cluster = load(config)
    policy = cluster.policy
    for warning in cluster.warnings:
        say(str(warning))
    rows = read_demand(demand) if demand is not None else ()
    catalogue = Catalogue()
    if offers is not None:
        kinds = {use.name: use.kind for use in cluster.providers}
        listed = read_offers(offers)
        policy = what_if.at_listed_prices(policy, listed)
        stall = what_if.suited(policy, kinds, listed, catalogue)
    else:
        stall = market(policy, cluster.providers, catalogue, beside=config.parent)
    if demand is not None:
        snapshot = what_if.snapshot_of(rows, stall.offers, policy)
    else:
        from shoal.autoscaler.act.story import snapshot_of
        from shoal.cli.live_view import ask

        work, report = ask(policy.cluster_name)
        snapshot = snapshot_of(work, report, stall.offers)
    found = what_if.think(snapshot, policy, seed=seed, think_s=think_s, effort_max=effort)
    said = what_if.answer(found, snapshot, policy, rows, seed=seed, stall=stall)
    if form == "table":
        if said["machines"]:
            emit(what_if.table_rows(said), form)
        for line in what_if.words(said):
            say(line)
    else:
        emit(said, form)
    raise SystemExit(0 if said["is_served"] else 1)
