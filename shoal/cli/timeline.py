"""`shoal timeline`: what ran when and where, for chrome://tracing or Perfetto."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from shoal.cli import states


@click.command()
@click.option("--cluster", "-c", help="A YAML file or a name; default: the only live cluster.")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="Where; default: timeline-<time>.json."
)
def timeline(cluster: str | None, output: Path | None) -> None:
    """Write a Chrome trace of the tasks and actor calls that the cluster remembers."""
    import time

    rows = states.rows_of(cluster, "tasks", limit=10_000, detail=True)["rows"]
    path = output or Path(time.strftime("timeline-%Y%m%d-%H%M%S.json"))
    path.write_text(json.dumps(trace(rows)))
    click.echo(f"{path}: {len(rows)} tasks; open it in chrome://tracing or ui.perfetto.dev")


def trace(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of tasks as complete events (`ph: X`): a process per node, a thread per worker. Times in µs."""
    events: list[dict[str, Any]] = []
    named: set[tuple[str, int]] = set()
    for row in rows:
        began_s, ended_s = row.get("start_time_s"), row.get("end_time_s")
        if began_s is None:
            continue
        node, pid = str(row.get("node_id") or "")[:12], int(row.get("worker_pid") or row.get("pid") or 0)
        if (node, pid) not in named:
            named.add((node, pid))
            events.append({"ph": "M", "name": "process_name", "pid": node, "args": {"name": f"node {node}"}})
            events.append(
                {"ph": "M", "name": "thread_name", "pid": node, "tid": pid, "args": {"name": f"worker {pid}"}}
            )
        events.append(
            {
                "ph": "X",
                "cat": "task",
                "name": row.get("name") or row.get("func_or_class_name") or "",
                "pid": node,
                "tid": pid,
                "ts": began_s * 1e6,
                "dur": max(0.0, (ended_s or began_s) - began_s) * 1e6,
                "args": {"task_id": row.get("task_id"), "state": row.get("state"), "job_id": row.get("job_id")},
            }
        )
    return events
