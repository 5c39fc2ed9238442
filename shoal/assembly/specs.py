"""What each process is told, as files of mode 0600 that its guard names on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from shoal.foundation.errors import BadInput
from shoal.transport.tls import TlsFiles

T = TypeVar("T")
JOINED = "joined"
"""In a node's directory: pid and start time of the agent that has joined the head."""


class HeadSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The head: where it listens, where its journal lies, how patient it is. Durations in seconds."""

    uid: str
    cluster_name: str
    epoch: int
    directory: str
    secret_file: str
    frames: list[str]
    grpc: str
    journal: str
    events: str
    node_dead_s: float = 40.0
    fence_s: float = 25.0
    request_ttl_s: float = 3600.0
    tls: TlsFiles | None = None


class NodeSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One node's agent. `resources` are whole 1/10000."""

    instance_id: str
    node_type: str
    token: str
    join_secret: str
    resources: dict[str, int]
    labels: dict[str, str]
    head_address: str
    epoch: int
    uid: str
    cluster_name: str
    directory: str
    log_dir: str
    secret_file: str
    is_head: bool
    listen: list[str] = []
    object_store_bytes: int = 0
    fence_s: float = 25.0
    job_dead_s: float = 30.0
    tls: TlsFiles | None = None
    other_logs: dict[str, str] = {}
    """Logs of the machine's other processes, for listings: name to file, or to a directory of such files."""


class AutoscalerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The autoscaler: which config it follows, its ledger, the head's API, and where local machines live."""

    uid: str
    cluster_name: str
    epoch: int
    config: str
    secret_file: str
    grpc: str
    head_address: str
    ledger: str
    events: str
    directory: str
    log_dir: str
    sockets: str
    node_secret_file: str


def read(path: Path, kind: type[T]) -> T:
    """Return the spec in a file.

    Raises:
        BadInput: it is missing or is no such spec.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise BadInput(f"{path}: expected a {kind.__name__}, got {error}") from error
