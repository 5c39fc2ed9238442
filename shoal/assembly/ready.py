"""Waiting until a started head or node can be worked with, and saying what it waits for when it takes too long."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

from shoal.assembly.specs import JOINED
from shoal.foundation.errors import UserError
from shoal.transport import address, discovery
from shoal.transport.discovery import ClusterFile

READY_LIMIT_S = 60.0


def wait_until_ready(cluster: ClusterFile, say: Callable[[str], None], *, limit_s: float = READY_LIMIT_S) -> None:
    """Return once its node has joined and (for a cluster) the head's API answers, so that work and commands run.

    Raises:
        UserError: it did not in time, or it ended meanwhile; the message says where the logs are.
    """
    deadline_s = time.monotonic() + limit_s
    has_api = cluster.kind == "cluster"
    logs = discovery.state_dir(cluster.name) / "logs" if has_api else Path(cluster.directory) / "logs"
    missing = "its node to join"
    while time.monotonic() < deadline_s:
        if _has_joined(Path(cluster.directory) / "n" / JOINED):
            if not has_api or _listens(cluster.grpc):
                say("head and its node are ready" if has_api else "the node has joined")
                return
            missing = f"the head to answer at {cluster.grpc}"
        if not discovery.is_live(cluster):
            raise UserError(f"`{cluster.name}` ended while starting", hint=f"see {logs}")
        time.sleep(0.005)
    raise UserError(f"`{cluster.name}` was not ready within {limit_s:.0f} s: waited for {missing}", hint=f"see {logs}")


def _has_joined(mark: Path) -> bool:
    """Say whether the agent that left this mark lives; an agent that died leaves it, and the next has yet to join."""
    try:
        pid, started = mark.read_text().split()
    except (OSError, ValueError):
        return False
    return discovery.process_started(int(pid)) == started


def _listens(text: str) -> bool:
    """Say whether somebody accepts connections there."""
    place = address.parse(text)
    is_unix = place.scheme == "unix"
    family = socket.AF_UNIX if is_unix else socket.AF_INET6 if ":" in place.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(place.host if is_unix else (place.host, place.port))
        except OSError:
            return False
    return True
