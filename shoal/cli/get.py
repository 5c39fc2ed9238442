"""`shoal get`: one row, whole."""

from __future__ import annotations

import click

from shoal.cli import states
from shoal.cli.output import emit
from shoal.foundation.errors import UserError
from shoal.util.state_tables import KEY


@click.command()
@click.argument("kind", type=click.Choice(list(KEY)))
@click.argument("id_", metavar="ID")
@click.option("--cluster", "-c", help="A YAML file or a name; default: the only live cluster.")
@click.option("--timeout", default=30.0, show_default=True, type=click.FloatRange(0.1, 600), help="Seconds to wait.")
@click.option("--format", "form", type=click.Choice(["default", "table", "json", "yaml"]), default="default")
def get(kind: str, id_: str, cluster: str | None, timeout: float, form: str) -> None:
    """Show everything known of one task, actor, object, node, worker, placement group or job.

    A task has a row for each attempt, an object one for each copy.

    Exits with 1 if there is none with this ID.
    """
    key = KEY[kind]
    found = states.rows_of(cluster, kind, filters=[f"{key}={id_}"], detail=True, timeout_s=timeout)
    if not found["rows"]:
        raise UserError(f"no {kind.rstrip('s').replace('-', ' ')} `{id_}`", hint=f"see `shoal list {kind}`")
    if form in ("json", "yaml"):
        emit(found["rows"] if len(found["rows"]) > 1 else found["rows"][0], form)
    elif form == "table":
        click.echo(states.ray_table(kind, found))
    else:
        click.echo(states.documents(found["rows"]))
