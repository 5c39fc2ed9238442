"""`shoal logs`: what workers, actors, tasks and the cluster's own processes wrote."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from shoal.cli.output import say

if TYPE_CHECKING:
    from shoal.transport.control import ControlClient

FIELDS = {"cluster": "file", "actor": "actor_id", "task": "task_id", "worker": "worker_id", "job": "job"}
"""What each kind is found by, as the head's API names it."""


@click.command()
@click.argument("words", nargs=-1, metavar="[cluster|actor|task|worker|job] [FILE|GLOB]")
@click.option("--cluster", "-c", help="A YAML file or a name; default: the only live cluster.")
@click.option("--id", "id_", default="", help="The actor's, task's, worker's or job's id.")
@click.option("--actor-id", default="", help="What this actor's process wrote, now or in its last life.")
@click.option("--task-id", default="", help="What the process of this task wrote.")
@click.option("--worker-id", default="", help="What this worker process wrote.")
@click.option("--pid", default=0, type=click.IntRange(0), help="The worker's process number.")
@click.option("--node-id", default="", help="Only this node; the beginning of its id will do.")
@click.option("--follow", "-f", is_flag=True, help="Go on printing what is added. Ctrl-C ends it.")
@click.option("--tail", default=100, show_default=True, type=click.IntRange(-1), help="Lines from the end; -1: all.")
@click.option("--err", is_flag=True, help="The standard error of the process.")
@click.option("--timeout", default=30.0, show_default=True, type=click.FloatRange(0.1, 600), help="Seconds to wait.")
def logs(
    words: tuple[str, ...],
    cluster: str | None,
    id_: str,
    actor_id: str,
    task_id: str,
    worker_id: str,
    pid: int,
    node_id: str,
    follow: bool,
    tail: int,
    err: bool,
    timeout: float,
) -> None:
    """Print logs. Without a FILE the files of the cluster are listed: those of head, autoscaler, guards and agents too.

    FILE or GLOB names them (`logs head.log`, `logs cluster "*.err"`); `actor`, `task`, `worker` and `job` take --id,
    a worker also --pid. Exits with 1 if there is no such log.
    """
    from shoal.cli.live import ask
    from shoal.cli.which import live, name_in
    from shoal.foundation.errors import UserError

    given = {"actor": actor_id, "task": task_id, "worker": worker_id}
    kind, glob, wanted_id = _meant(words, id_, {one: value for one, value in given.items() if value}, pid)
    found = live(name_in(cluster) if cluster else None)
    if kind == "cluster" and not glob:
        rows = ask(found, lambda client: client.state("logs", limit=10_000))["rows"]
        for row in sorted(rows, key=lambda one: (one.get("node_id", ""), one.get("file", ""))):
            if str(row.get("node_id", "")).startswith(node_id.lower()):
                click.echo(f"{row.get('node_id', '')[:12]}  {row.get('size', 0):>10}  {row.get('file', '')}")
        return
    wanted: dict[str, Any] = {
        "node_id": node_id,
        "pid": pid,
        "is_error_stream": err,
        "tail": tail or -2,  # 0 is the API's word for its default
        "follow": follow,
        "timeout_s": timeout,
        FIELDS[kind]: glob or wanted_id,
    }

    async def printed(client: ControlClient) -> int:
        count = 0
        async for node, file, data, warning in client.logs(**wanted):
            if warning:
                say(f"warning: {warning}")
            if file:
                count += 1
            if data:
                if glob and glob != file:
                    say(f"--- {node[:12]} {file}")
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
        return count

    if not ask(found, printed) and not follow:
        raise UserError("no such log", hint="`shoal logs` lists what there is")


def _meant(words: tuple[str, ...], id_: str, given: dict[str, str], pid: int) -> tuple[str, str, str]:
    """Return (kind, glob, id) of what was typed: a kind may be named, or follow from the options.

    Raises:
        BadInput: it says several things, or not which one.
    """
    from shoal.foundation.errors import BadInput

    rest = list(words)
    kind = rest.pop(0) if rest and rest[0] in FIELDS else ""
    if len(given) > 1 or (id_ and given) or (given and kind and kind not in given):
        raise BadInput("logs: expected one actor, task or worker, got several")
    kind = kind or next(iter(given), "worker" if pid else "cluster")
    wanted_id = id_ or given.get(kind, "")
    if len(rest) > 1 or (rest and kind != "cluster"):
        raise BadInput(f"logs: expected one FILE, got `{' '.join(words)}`", hint="quote a GLOB: '*.err'")
    if kind == "cluster" and wanted_id:
        raise BadInput("logs --id: expected actor, task, worker or job before it")
    if kind != "cluster" and not wanted_id and not pid:
        raise BadInput(f"logs {kind}: expected --id", hint=f"see `shoal list {kind}s`")
    return kind, rest[0] if rest else "", wanted_id
