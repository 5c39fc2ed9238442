"""`shoal up`: from a YAML file to a live cluster, or to the difference with the one that lives."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shoal.cli.output import confirm, say

if TYPE_CHECKING:
    from shoal.transport.discovery import ClusterFile


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Say what would happen, and change nothing.")
@click.option("-n", "--cluster-name", help="Use this name instead of the file's.")
@click.option("--min-workers", type=click.IntRange(0), help="Start at least so many workers of the first worker type.")
@click.option("--max-workers", type=click.IntRange(0), help="Use this limit instead of the file's.")
@click.option("--no-restart", is_flag=True, help="Accepted for Ray users: `up` never restarts what runs.")
def up(
    config: Path,
    yes: bool,
    dry_run: bool,
    cluster_name: str | None,
    min_workers: int | None,
    max_workers: int | None,
    no_restart: bool,
) -> None:
    """Start the cluster that CONFIG describes, or bring a live one up to date.

    Twice is once: an unchanged file changes and restarts nothing. A changed one is shown as a difference first.

    Exits with 0 when the cluster is up, 1 if the answer was no, 2 if CONFIG is wrong, 3 if somebody else is at work on
    it.
    """
    from shoal.assembly import cluster as assembly
    from shoal.assembly.providers import check_launchable
    from shoal.assembly.ready import wait_until_ready

    began_s = time.monotonic()
    text, loaded = _loaded(config, cluster_name, min_workers, max_workers)
    check_launchable(loaded.providers)
    for warning in loaded.warnings:
        say(str(warning))
    name = loaded.policy.cluster_name
    live = assembly.live(name)
    if live is not None:
        _update(live, text, loaded, yes=yes, dry_run=dry_run)
        return
    head = loaded.policy.node_type(loaded.policy.head_node_type)
    if dry_run:
        workers = ", ".join(
            f"{kind.name} ({kind.min_workers} to {kind.max_workers})"
            for kind in loaded.policy.node_types
            if kind.name != loaded.policy.head_node_type
        )
        click.echo(
            f"would start cluster `{name}`: head `{loaded.policy.head_node_type}`, workers {workers or 'none'}, "
            f"at most {loaded.policy.max_workers} in all"
        )
        return
    wanted = assembly.Wanted(
        name=name,
        resources=dict(head.resources) if head else {},
        node_type=loaded.policy.head_node_type,
        labels=dict(head.labels) if head else {},
        config=text,
        config_path=str(config.resolve()),
        request_ttl_s=loaded.policy.request_ttl_s,
    )
    try:
        started = assembly.start(wanted, say=say)
    except assembly.AlreadyUp:
        # Another `up`, perhaps an interrupted one, was first.
        live = assembly.live(name)
        if live is None:
            raise
        _update(live, text, loaded, yes=yes, dry_run=dry_run)
        return
    wait_until_ready(started, say)
    click.echo(f"cluster `{name}` is up ({time.monotonic() - began_s:.1f} s)")
    say(f"use it:   python YOUR_SCRIPT.py   (shoal.init() finds it; or SHOAL_ADDRESS={name})")
    say(f"watch it: shoal status {name}")
    say(f"end it:   shoal down {name}")


def _loaded(path: Path, name: str | None, min_workers: int | None, max_workers: int | None) -> tuple[str, Any]:
    """Return the text that the cluster will run with (options written into it) and what it means."""
    from shoal.config.load import load, loaded
    from shoal.config.source import decode

    first = load(path)
    changed: dict[str, Any] = {}
    if name is not None:
        changed["cluster_name"] = name
    if max_workers is not None:
        changed["max_workers"] = max_workers
    worker = next((kind.name for kind in first.policy.node_types if kind.name != first.policy.head_node_type), None)
    if not changed and (min_workers is None or worker is None):
        return path.read_text(), first
    import yaml

    content = {**yaml.safe_load(path.read_text()), **changed}
    if min_workers is not None and worker is not None:
        kinds = content["available_node_types"]
        content["available_node_types"] = {**kinds, worker: {**kinds[worker], "min_workers": min_workers}}
    text = yaml.safe_dump(content, sort_keys=False)
    return text, loaded(decode(text.encode(), str(path)), path)


def _update(live: ClusterFile, text: str, loaded: Any, *, yes: bool, dry_run: bool) -> None:
    """Compare with what the live cluster runs; write the new text if wanted, for the autoscaler to pick up.

    It may still be starting, or a process of it may just be coming back: returns when work can run.
    """
    from shoal.assembly.cluster import CONFIG_IN_FORCE
    from shoal.assembly.ready import wait_until_ready
    from shoal.config.diagnostics import ConfigErrors
    from shoal.config.difference import Effect, difference
    from shoal.config.load import load
    from shoal.foundation.errors import BadInput
    from shoal.transport import discovery

    name = live.name
    path = discovery.state_dir(name) / "cluster.yaml"
    is_whole = True
    try:
        held = load(path)
    except ConfigErrors:
        # Somebody broke the cluster's own copy: it runs with the one in force, and a good file mends it.
        is_whole, held = False, load(path.with_name(CONFIG_IN_FORCE))
    changes = difference(held, loaded)
    if held.text_hash == loaded.text_hash or not changes:
        if not is_whole and not dry_run:
            discovery.write_private(path, text.encode())
            say(f"the cluster's own copy of its file was broken: {path} is written anew")
        wait_until_ready(live, lambda text: None)
        click.echo(f"cluster `{name}` is up; nothing to change")
        return
    for change in changes:
        click.echo(str(change))
    if any(change.effect is Effect.REBUILD for change in changes):
        raise BadInput(f"cluster `{name}`: these changes need a new cluster", hint=f"`shoal down {name}`, then `up`")
    if dry_run:
        return
    if not yes:
        confirm(f"apply to `{name}`?")
    discovery.write_private(path, text.encode())
    wait_until_ready(live, lambda text: None)
    click.echo(
        f"cluster `{name}`: {len(changes)} change{'s' * (len(changes) != 1)} applied; running work was not touched"
    )
