"""Giving every worker back while head and autoscaler go on: what `shoal down --workers-only` does.

Each worker's node gets a notice, as if its cloud took it away at once: the autoscaler drains and releases it like any
other, in order and in its ledger, and buys anew for what still waits. Machines on their way are let join first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shoal.foundation.errors import UserError
from shoal.transport import address, discovery
from shoal.transport.discovery import ClusterFile

WHY = "shoal down --workers-only"
LIMIT_S = 120.0
REPORT_LIMIT_S = 15.0
POLL_S = 0.1


def workers_of(cluster: ClusterFile) -> list[str]:
    """Return the instances that `release_workers` would give back.

    Raises:
        UserError: the head does not answer, or no autoscaler runs that could release anything.
    """

    async def asked() -> list[str]:
        async with _client(cluster) as client:
            return sorted(await _first(cluster, client))

    return asyncio.run(asked())


def release_workers(cluster: ClusterFile, say: Callable[[str], None], *, limit_s: float = LIMIT_S) -> list[str]:
    """Release every worker there is now; return those that are still there after `limit_s` (none, if all is well).

    Raises:
        UserError: the head does not answer, or no autoscaler runs that could release anything.
    """
    return asyncio.run(_released(cluster, say, limit_s))


async def _released(cluster: ClusterFile, say: Callable[[str], None], limit_s: float) -> list[str]:
    end_s = time.monotonic() + limit_s
    async with _client(cluster) as client:
        left = await _first(cluster, client)
        told: set[str] = set()
        while left and time.monotonic() < end_s:
            status = await client.status()
            there = _instances(status)
            left &= left if there is None else there
            nodes = [node for of_state in status["nodes"].values() for node in of_state]
            for node in nodes:
                name = node["instance_id"]
                if name in left and name not in told:
                    say(f"release {name}")
                    # At once: what runs there ends, and waits again if it may be repeated.
                    await client.notice(name, WHY, 0.0)
                    told.add(name)
            await asyncio.sleep(POLL_S)
    return sorted(left)


async def _first(cluster: ClusterFile, client: Any) -> set[str]:
    """Return the instances there are; an autoscaler that has just been started is given time to report them."""
    end_s = time.monotonic() + (REPORT_LIMIT_S if cluster.config else 0.0)
    while (found := _instances(await client.status())) is None:
        if time.monotonic() > end_s:
            raise UserError(
                f"cluster `{cluster.name}`: no autoscaler runs, so its workers are nobody's to release",
                hint=f"`shoal down {cluster.name}` ends everything",
            )
        await asyncio.sleep(POLL_S)
    return found


def _instances(status: dict[str, Any]) -> set[str] | None:
    """Return the instances that the autoscaler reports, None if none has reported."""
    report = status.get("autoscaler")
    return {one["instance_id"] for one in report["instances"]} if report else None


def _client(cluster: ClusterFile) -> Any:
    from shoal.transport.control import ControlClient

    credential = discovery.best_credential(Path(cluster.directory))
    return ControlClient(address.parse(cluster.grpc), credential)
