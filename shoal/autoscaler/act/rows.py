"""The rows of the ledger that are not already values of `shoal.model`, and the key of each kind.

Every time in a row is the autoscaler's own monotonic clock in seconds; `TIMES` names those fields, so that the
ledger can move them when the machine was booted again and that clock began anew.
"""

from __future__ import annotations

from typing import Any

import msgspec

from shoal.model.instance import Instance
from shoal.model.offer import OfferKey
from shoal.model.snapshot import Hold, UsableMemory


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """What there is once per ledger. `spent_units` are micro-dollar milliseconds per hour: exact and whole."""

    schema: int = 1
    cluster_uid: str = ""
    epoch: int = 0
    session: int = 0
    serial_next: int = 1
    spent_units: int = 0
    head_micro: int = 0
    """What the head machine costs per hour: it is none of the instances and is paid for all the same."""
    accrued_at_s: float = 0.0
    born_s: float = 0.0
    boot_id: str = ""
    monotonic_s: float = 0.0
    wall_s: float = 0.0
    is_ending: bool = False
    is_adopted: bool = False
    """What the cloud held when this ledger was new has been taken over; until then it counts as lost."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One launch intent, durable before the call: its token and the very bytes that are (re)sent.

    `outcome` is empty until the call was answered; `unknown` stays so until a listing proves what happened.
    `calls` counts the calls made, `ended_s` is when the last one ended; both None/0 before the first.
    """

    token: str
    instance_ids: tuple[str, ...]
    node_type: str
    offer: OfferKey
    request: bytes
    count_min: int = 1
    gang: str = ""
    number: int = 1
    price_micro: int | None = None
    created_s: float = 0.0
    calls: int = 0
    called_s: float | None = None
    ended_s: float | None = None
    outcome: str = ""
    code: str = ""
    error: str = ""

    @property
    def is_open(self) -> bool:
        """Whether it is not known yet what became of it."""
        return self.outcome in ("", "unknown")


class MachineRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A machine that a provider showed or promised for one of our instances; `name` is what `release` takes."""

    name: str
    instance_id: str
    provider: str
    machine_id: str = ""
    token: str = ""
    seen_s: float = 0.0


class HealthRow(msgspec.Struct, frozen=True, kw_only=True):
    """What was learned about buying at one scope.

    Nothing is bought there until `until_s`; then, for `probe_s`, one machine at a time; after that freely again, at
    the expected price that `p_success` makes. `probing` is the token of the probe that is out.
    """

    scope: str
    p_success: float = 1.0
    until_s: float = 0.0
    probe_s: float = 0.0
    failures: int = 0
    failed_s: float = 0.0
    code: str = ""
    error: str = ""
    probing: str = ""


class BreakerRow(msgspec.Struct, frozen=True, kw_only=True):
    """A launch circuit of one node type: how often in a row one cause struck, and until when it is open."""

    cause: str
    node_type: str
    failures: int = 0
    until_s: float | None = None
    probing: str = ""
    error: str = ""


class RecentRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A launch of the last hours, for hysteresis."""

    instance_id: str
    node_type: str
    offer: OfferKey
    launched_s: float
    released_s: float | None = None
    why: str = ""


class ListingRow(msgspec.Struct, frozen=True, kw_only=True):
    """When a provider was last listed completely, and how much it showed."""

    provider: str
    began_s: float
    ended_s: float
    machines: int = 0
    debris: int = 0


Row = Instance | Attempt | MachineRow | HealthRow | BreakerRow | Hold | RecentRow | UsableMemory | ListingRow

KINDS: dict[str, type] = {
    "instance": Instance,
    "attempt": Attempt,
    "machine": MachineRow,
    "health": HealthRow,
    "breaker": BreakerRow,
    "hold": Hold,
    "recent": RecentRow,
    "usable": UsableMemory,
    "listing": ListingRow,
}
KIND_OF = {row_type: kind for kind, row_type in KINDS.items()}

TIMES: dict[type, tuple[str, ...]] = {
    Instance: ("since_s", "created_s", "hold_until_s", "drain_deadline_s", "ready_s"),
    Attempt: ("created_s", "called_s", "ended_s"),
    MachineRow: ("seen_s",),
    HealthRow: ("until_s", "failed_s"),
    BreakerRow: ("until_s",),
    Hold: ("until_s",),
    RecentRow: ("launched_s", "released_s"),
    UsableMemory: (),
    ListingRow: ("began_s", "ended_s"),
    Meta: ("accrued_at_s", "born_s"),
}


def key_of(row: Any) -> str:
    """Return what identifies the row among its kind."""
    match row:
        case Instance(instance_id=key) | Attempt(token=key) | MachineRow(name=key) | HealthRow(scope=key):
            return key
        case BreakerRow(cause=cause, node_type=node_type):
            return f"{node_type}|{cause}"
        case RecentRow(instance_id=key) | Hold(instance_id=key) | ListingRow(provider=key):
            return key
        case UsableMemory():
            return f"{row.node_type}|{row.machine_type}"
    raise TypeError(f"no row of the ledger: {type(row).__name__}")


def moved(row: Any, by_s: float) -> Any:
    """Return the row with every time moved by `by_s`; durations stay."""
    changed = {name: value + by_s for name in TIMES[type(row)] if (value := getattr(row, name)) is not None}
    return msgspec.structs.replace(row, **changed) if changed else row
