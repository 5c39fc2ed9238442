"""`shoal summary`: counts by kind and state."""

from __future__ import annotations

import click

from shoal.cli import states
from shoal.cli.output import emit, format_option
from shoal.util.state_tables import summarized, summary_of


@click.command()
@click.argument("kind", type=click.Choice(["tasks", "actors", "objects"]))
@click.option("--cluster", "-c", help="A YAML file or a name; default: the only live cluster.")
@click.option("--timeout", default=30.0, show_default=True, type=click.FloatRange(0.1, 600), help="Seconds to wait.")
@format_option()
def summary(kind: str, cluster: str | None, timeout: float, form: str) -> None:
    """Count tasks by function and state, actors by class and state, objects by node."""
    found = states.rows_of(cluster, summarized(kind), limit=10_000, detail=True, timeout_s=timeout)
    if kind != "tasks":
        states.warn_if_cut(found, 10_000)
    counted = summary_of(kind, found["rows"])
    if form == "table":
        click.echo(states.ray_summary(kind, counted))
    else:
        emit(counted, form)
