"""`shoal stop`: end what `shoal start` started here, and nothing else."""

from __future__ import annotations

import click


@click.command()
@click.argument("name", required=False)
@click.option("--all", "everything", is_flag=True, help="Every head and node that this user started by hand here.")
def stop(name: str | None, everything: bool) -> None:
    """End the node or head NAME that `shoal start` started on this machine (see `shoal clusters`).

    Without NAME: the only one there is. Clusters that `shoal up` started are ended by `shoal down`.
    """
    from shoal.assembly import byhand

    ended = byhand.stop(name, everything=everything)
    for one in ended:
        click.echo(f"stopped {one}")
    if not ended:
        click.echo("nothing to stop")
