"""Waiting for a started cluster, and saying which part it waits for."""

from __future__ import annotations

import time
from collections.abc import Callable

from shoal.foundation.errors import UserError
from shoal.transport import discovery
from shoal.transport.discovery import ClusterFile

READY_LIMIT_S = 60.0


def wait_until_ready(cluster: ClusterFile, say: Callable[[str], None], *, limit_s: float = READY_LIMIT_S) -> None:
    """Return once the head's node has joined, so that work can run.

    Raises:
        UserError: it did not in time, or the cluster ended meanwhile; the message says where the logs are.
    """
    from pathlib import Path

    deadline_s = time.monotonic() + limit_s
    logs = discovery.state_dir(cluster.name) / "logs"
    joined = Path(cluster.directory) / "n" / "joined"
    while time.monotonic() < deadline_s:
        if joined.exists():
            say("head and its node are ready")
            return
        if not discovery.is_live(cluster):
            raise UserError(f"cluster `{cluster.name}` ended while starting", hint=f"see {logs}")
        time.sleep(0.005)
    raise UserError(f"cluster `{cluster.name}` was not ready within {limit_s:.0f} s", hint=f"see {logs}")
