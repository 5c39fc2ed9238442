"""`shoal clusters`: what of ours lives on this machine."""

from __future__ import annotations

import time

import click

from shoal.cli.output import emit, format_option


@click.command()
@format_option()
def clusters(form: str) -> None:
    """List this user's live clusters and hand-started nodes on this machine."""
    from shoal.transport import discovery

    rows = [
        {
            "name": one.name,
            "kind": one.kind,
            "uid": one.uid,
            "pid": one.pid,
            "up_s": round(time.time() - one.started_wall_s),
            "address": one.frames,
            "config": one.config or None,
        }
        for one in discovery.live_clusters(kinds=("cluster", "embedded", "node"))
    ]
    emit(rows, form, ["name", "kind", "uid", "pid", "up_s", "address", "config"])
