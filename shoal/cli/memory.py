"""`shoal memory`: what objects take, and who holds them."""

from __future__ import annotations

import click

from shoal.cli import states
from shoal.cli.output import emit, format_option

UNITS = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30}


@click.command()
@click.option("--cluster", "-c", help="A YAML file or a name; default: the only live cluster.")
@click.option("--group-by", type=click.Choice(["NODE_ADDRESS", "STACK_TRACE"]), default="NODE_ADDRESS")
@click.option("--sort-by", type=click.Choice(["PID", "OBJECT_SIZE", "REFERENCE_TYPE"]), default="OBJECT_SIZE")
@click.option("--units", type=click.Choice(list(UNITS)), default="B", show_default=True)
@click.option("--n", "count", type=click.IntRange(1), help="At most so many objects.")
@click.option("--stats-only", is_flag=True, help="Only the sums per node.")
@format_option()
def memory(
    cluster: str | None, group_by: str, sort_by: str, units: str, count: int | None, stats_only: bool, form: str
) -> None:
    """Show every object that the cluster's stores hold: its size, where it is, and what keeps it."""
    rows = states.rows_of(cluster, "objects", limit=count or 10_000, detail=True)["rows"]
    group = "node_id" if group_by == "NODE_ADDRESS" else "call_site"
    if stats_only:
        totals: dict[str, list[int]] = {}
        for row in rows:
            total = totals.setdefault(str(row.get(group) or ""), [0, 0])
            total[0] += 1
            total[1] += int(row.get("object_size") or 0)
        emit(
            [
                {group: one, "objects": n, f"size_{units}": size / UNITS[units]}
                for one, (n, size) in sorted(totals.items())
            ],
            form,
        )
        return
    key = sort_by.lower()
    rows.sort(key=lambda row: (str(row.get(group) or ""), -int(row.get(key) or 0) if key != "reference_type" else 0,
                               str(row.get(key) or "")))  # fmt: skip
    for row in rows:
        row["object_size"] = int(row.get("object_size") or 0) / UNITS[units]
    emit(rows, form, None if form != "table" else [group, "pid", "type", "object_size", "reference_type", "object_id"])
