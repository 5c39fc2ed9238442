"""`shoal down`: the end of a cluster, and proof that nothing is left."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from shoal.cli.output import confirm, say


@click.command()
@click.argument("cluster", required=False)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("-n", "--cluster-name", help="The cluster's name, instead of CLUSTER.")
@click.option("--dry-run", is_flag=True, help="Say what would end, and change nothing.")
@click.option("-w", "--workers-only", is_flag=True, help="Give the workers back; the head and its work stay.")
def down(cluster: str | None, yes: bool, cluster_name: str | None, dry_run: bool, workers_only: bool) -> None:
    """End CLUSTER (a YAML file or a name): its machines, processes, sockets and files.

    Works from any state: head or autoscaler dead, ledger lost, another `down` interrupted. With --workers-only the
    cluster lives on: what ran on workers ends or is repeated, and what waits, or `min_workers`, buys new ones.

    Exits with 0 when nothing is left, also if there was nothing; 1 if something could not be released, the answer
    was no, or the cluster of --workers-only is not up; 3 if somebody else is at work on it.
    """
    from shoal.assembly import cluster as assembly
    from shoal.assembly.release import release_everything
    from shoal.cli.which import name_in

    began_s = time.monotonic()
    name = name_in(cluster, cluster_name)
    if workers_only:
        _release_workers(name, yes=yes, dry_run=dry_run)
        return
    if dry_run:
        click.echo(_would_end(name))
        return
    if not yes:
        confirm(f"end cluster `{name}`?")
    left: list[str] = []

    def release(identity: Any, state: Path, runtime: Path) -> None:
        left.extend(release_everything(identity, state, runtime, say))

    if not assembly.end(name, release):
        click.echo(f"cluster `{name}` is not up here; nothing to end")
        return
    if left:
        for one in left:
            say(f"left: {one}")
        raise SystemExit(1)
    click.echo(f"cluster `{name}` is down, nothing left ({time.monotonic() - began_s:.1f} s)")


def _would_end(name: str) -> str:
    from shoal.assembly.cluster import read_identity
    from shoal.transport import discovery

    if (live := discovery.find(name)) is not None:
        return f"would end cluster `{name}` (pid {live.pid})"
    if read_identity(discovery.state_path(name)) is not None:
        return f"would end what is left of cluster `{name}`, whose head machine's guard is gone"
    return f"cluster `{name}` is not up here"


def _release_workers(name: str, *, yes: bool, dry_run: bool) -> None:
    from shoal.assembly.workers import release_workers, workers_of
    from shoal.cli.which import live

    began_s = time.monotonic()
    cluster = live(name)
    if dry_run or not yes:
        workers = workers_of(cluster)
        click.echo(f"would release {', '.join(workers) or 'nothing: there is no worker'}", err=not dry_run)
        if dry_run:
            return
        confirm(f"release the workers of `{name}`?")
    if left := release_workers(cluster, say):
        for one in left:
            say(f"left: {one}")
        raise SystemExit(1)
    click.echo(f"the workers of `{name}` are released, its head stays ({time.monotonic() - began_s:.1f} s)")
