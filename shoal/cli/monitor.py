"""`shoal monitor`: the cluster's events as they happen."""

from __future__ import annotations

import time
from typing import Any

import click


@click.command()
@click.argument("cluster", required=False)
@click.option("--lines", default=100, show_default=True, type=click.IntRange(0), help="How many old events first.")
@click.option("--no-follow", is_flag=True, help="Print the old events and stop.")
def monitor(cluster: str | None, lines: int, no_follow: bool) -> None:
    """Follow the events of CLUSTER's head and autoscaler: what joined, was bought, failed, and why. Ctrl-C ends it."""
    from shoal.cli.which import live, name_in
    from shoal.transport import discovery

    found = live(name_in(cluster) if cluster else None)
    state = discovery.state_dir(found.name)
    for at_s, kind, fields in _events(
        [state / "head-events.jsonl", state / "events.jsonl"], lines, not no_follow, found
    ):
        click.echo(f"{time.strftime('%H:%M:%S', time.localtime(at_s))}  {kind:<20} {_fields(fields)}")


def _events(paths: list[Any], lines: int, follow: bool, cluster: Any) -> Any:
    """Yield the newest events of both logs in the order of time, then what is added, while the cluster lives."""
    from shoal.foundation import eventlog
    from shoal.transport import discovery

    seen = dict.fromkeys(paths, 0)
    first = True
    while True:
        fresh = []
        for path in paths:
            events = list(eventlog.read(path))
            fresh += events[seen[path] :] if len(events) >= seen[path] else events
            seen[path] = len(events)
        fresh.sort(key=lambda event: event.at_s)
        if first:
            fresh = fresh[-lines:] if lines else []
        for event in fresh:
            yield event.at_s, event.kind, event.fields
        if not follow or not discovery.is_live(cluster):
            return
        first = False
        time.sleep(0.3)


def _fields(fields: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in fields.items() if value not in (None, "", [], {}))
