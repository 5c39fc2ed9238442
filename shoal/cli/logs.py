"""`shoal logs`: what workers, actors, tasks and the cluster's own processes wrote."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from shoal.cli.output import say

if TYPE_CHECKING:
    from shoal.transport.control import ControlClient


@click.command()
@click.argument("kind", type=click.Choice(["cluster", "actor", "task", "worker", "job"]), default="cluster")
@click.argument("glob", required=False)
@click.option("--cluster", "-c", help="A YAML file or a name; default: the only live cluster.")
@click.option("--id", "id_", default="", help="The actor's, task's, worker's or job's id.")
@click.option("--pid", default=0, type=click.IntRange(0), help="The worker's process number.")
@click.option("--node-id", default="", help="Only this node.")
@click.option("--follow", "-f", is_flag=True, help="Go on printing what is added. Ctrl-C ends it.")
@click.option("--tail", default=100, show_default=True, type=click.IntRange(-1), help="Lines from the end; -1: all.")
@click.option("--err", is_flag=True, help="The standard error of the process.")
@click.option("--timeout", default=30.0, show_default=True, type=click.FloatRange(0.1, 600), help="Seconds to wait.")
def logs(
    kind: str,
    glob: str | None,
    cluster: str | None,
    id_: str,
    pid: int,
    node_id: str,
    follow: bool,
    tail: int,
    err: bool,
    timeout: float,
) -> None:
    """Print logs: `cluster [GLOB]` lists files and prints those that match; the others take --id (worker also --pid).

    Exits with 1 if there is no such log.
    """
    from shoal.cli.live import ask
    from shoal.cli.which import live, name_in
    from shoal.foundation.errors import BadInput, UserError

    if kind != "cluster" and not id_ and not pid:
        raise BadInput(f"logs {kind}: expected --id", hint=f"see `shoal list {kind}s`")
    wanted: dict[str, Any] = {
        "node_id": node_id,
        "pid": pid,
        "is_error_stream": err,
        "tail": tail,
        "follow": follow,
        "timeout_s": timeout,
    }
    field = {"cluster": "file", "actor": "actor_id", "task": "task_id", "worker": "worker_id", "job": "job"}[kind]
    wanted[field] = (glob or "") if kind == "cluster" else id_
    found = live(name_in(cluster) if cluster else None)
    if kind == "cluster" and not glob:
        rows = ask(found, lambda client: client.state("logs", limit=10_000))["rows"]
        for row in sorted(rows, key=lambda one: (one.get("node_id", ""), one.get("file", ""))):
            click.echo(f"{row.get('node_id', '')[:12]}  {row.get('file', '')}")
        return

    async def printed(client: ControlClient) -> int:
        count = 0
        async for node, file, data, warning in client.logs(**wanted):
            if warning:
                say(f"warning: {warning}")
            if data:
                count += 1
                if glob:
                    say(f"--- {node[:12]} {file}")
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
        return count

    if not ask(found, printed) and not follow:
        raise UserError("no such log", hint="`shoal logs cluster` lists what there is")
