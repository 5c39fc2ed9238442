"""What a guard is told, in one file: `machine.json` (0600) in the machine's own directory."""

from __future__ import annotations

from pathlib import Path

import msgspec

from shoal.foundation.errors import BadInput
from shoal.transport.discovery import ClusterFile
from shoal.transport.tls import TlsFiles


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """One process that the guard runs. Children start in the order given and end in the reverse order.

    With `after_file` it is first started once that file is there, but `after_limit_s` later at the latest. With
    `is_vital`, the machine ends when the child may not be restarted any more. `env` is added to the guard's own;
    `restarts_max` within `restart_window_s`, None for ever (with back-off).
    """

    name: str
    argv: list[str]
    env: dict[str, str] = {}
    restarts_max: int | None = None
    restart_window_s: float = 600.0
    is_vital: bool = False
    grace_s: float = 5.0
    after_file: str = ""
    after_limit_s: float = 5.0


class MachineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a guard needs. Durations in seconds.

    `head_addresses` is where contact is sought for the lease; empty on the head machine itself, which has none.
    `busy_file` exists while work runs here. `remove` are directories that go with the machine. `cluster_file`: the
    guard is the life of a cluster (or of a node started by hand) and writes, and removes, its discovery file.
    """

    name: str
    uid: str
    instance_id: str
    role: str  # "head" | "worker"
    children: list[Child]
    secret_file: str
    log_dir: str
    head_addresses: list[str] = []
    lease_s: float = 600.0
    lease_busy_s: float = 3600.0
    reject_s: float = 3600.0
    jitter_s: float = 0.0
    busy_file: str = ""
    boot_deadline_s: float = 600.0
    joined_file: str = ""
    remove: list[str] = []
    cluster_file: ClusterFile | None = None
    tls: TlsFiles | None = None


def load(directory: Path) -> MachineSpec:
    """Return the machine's spec.

    Raises:
        BadInput: there is none, or it is not one.
    """
    path = directory / "machine.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=MachineSpec)
    except (OSError, msgspec.DecodeError) as error:
        raise BadInput(f"{path}: expected a machine's spec, got {error}") from error
