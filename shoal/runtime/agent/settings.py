"""What an agent is told when it starts."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from shoal.foundation.amounts import Amounts
from shoal.runtime.agent.zygotes import Zygote
from shoal.transport.tls import TlsFiles
from shoal.wire.hello import Credential


@dataclass(frozen=True, kw_only=True)
class AgentSettings:
    """Everything that differs between nodes. Times in seconds, sizes in bytes, amounts whole 1/10000.

    `head` is the address text of the head's frame listener. `listen` lists addresses for other hosts (`tcp:host:0`);
    the Unix socket in `session` is always there. `session` is a directory of this node alone, 0700, with a short path.
    `tls` is what the processes of this node make their contexts of; the two contexts are the agent's own.
    `fence_s`: without the head for so long, restartable actors are stopped until it is back. 0 turns it off.
    `job_dead_s`: a driver elsewhere whose host has been silent for so long is dead; whole seconds, at least 3.
    """

    node_id: str
    head: str
    credential: Credential
    session: Path
    resources: Amounts
    cluster_uid: str
    instance_id: str = ""
    node_type: str = ""
    token: str = ""
    join_secret: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    listen: tuple[str, ...] = ()
    tls: TlsFiles | None = None
    ssl_context: ssl.SSLContext | None = None
    server_ssl_context: ssl.SSLContext | None = None
    store_bytes: int = 0
    store_root: Path | None = None
    spill_dir: Path | None = None
    log_dir: Path | None = None
    other_logs: dict[str, Path] = field(default_factory=dict)
    """What the machine's other processes write, by name; a directory's files bear their own names."""
    epoch: int = 1
    is_head: bool = False
    warm_workers: int | None = None
    preload: tuple[str, ...] = ()
    zygote: Zygote | None = None
    """One that was started before this process made its imports."""
    memory_threshold: float = 0.95
    fence_s: float = 25.0
    job_dead_s: float = 30.0
    log_bytes_max: int = 64 * 2**20
    log_files_max: int = 3
