"""`shoal explain`: the story of one instance, node or demand, and why it is as it is."""

from __future__ import annotations

from pathlib import Path

import click

from shoal.cli.output import emit, format_option


@click.command()
@click.argument("name", metavar="ID|NODE|DEMAND")
@click.option(
    "--cluster", "-c", "--cluster-name", "cluster", help="A YAML file or a name; default: the only live cluster."
)
@click.option(
    "--events",
    "events_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read this event log instead of asking a live cluster.",
)
@format_option()
def explain(name: str, cluster: str | None, events_file: Path | None, form: str) -> None:
    """Tell the story of one instance, node, machine, demand or gang: why it waits, why it is there, why it is still up.

    A clear beginning of the name will do. Exits with 1 if nothing known is called so.
    """
    from shoal.autoscaler.act.story import Evidence, story, words
    from shoal.foundation.errors import UserError
    from shoal.foundation.eventlog import read

    if events_file is not None:
        evidence = Evidence(events=tuple(read(events_file)))
        if not evidence.events:
            raise UserError(
                f"{events_file}: expected an event log, got no event",
                hint="a cluster writes its own to `events.jsonl` in its state folder",
            )
    else:
        from shoal.cli.live_view import look, solved
        from shoal.cli.which import name_in

        view = look(name_in(cluster) if cluster else None)
        _, plan = solved(view)
        evidence = Evidence(events=view.events, report=view.report, work=view.work, plan=plan)
    told = story(name, evidence)
    if form == "table":
        click.echo("\n".join(words(told)))
    else:
        emit(told, form)
