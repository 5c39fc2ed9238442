"""`shoal list`: rows of one kind."""

from __future__ import annotations

import click

from shoal.cli import states
from shoal.cli.output import emit
from shoal.util.state_tables import COLUMNS


@click.command("list")
@click.argument("kind", type=click.Choice(list(COLUMNS)))
@click.option("--cluster", "-c", help="A YAML file or a name; default: the only live cluster.")
@click.option("--filter", "-f", "filters", multiple=True, help="key=value or key!=value; may be given several times.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000), help="At most so many rows.")
@click.option("--detail", is_flag=True, help="Every column, as YAML documents.")
@click.option("--timeout", default=30.0, show_default=True, type=click.FloatRange(0.1, 600), help="Seconds to wait.")
@click.option("--format", "form", type=click.Choice(["default", "table", "json", "yaml"]), default="default")
def list_(
    kind: str, cluster: str | None, filters: tuple[str, ...], limit: int, detail: bool, timeout: float, form: str
) -> None:
    """List tasks, actors, objects, nodes, workers, placement groups, jobs or cluster events."""
    found = states.rows_of(cluster, kind, filters=filters, limit=limit, detail=detail, timeout_s=timeout)
    states.warn_if_cut(found, limit)
    if form in ("json", "yaml"):
        emit(found["rows"], form)
    elif detail and form == "default":
        click.echo(states.documents(found["rows"]))
    else:
        click.echo(states.ray_table(kind, found))


list = list_  # the command is called `list`
