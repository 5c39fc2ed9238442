"""A machine whose agent joined the head, as the head sees it."""

from __future__ import annotations

import msgspec

from shoal.foundation.amounts import Amounts


class Busy(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One reason why a node is not idle, with how many of it; `what` is lease, actor, bundle, object or driver."""

    what: str
    count: int = 1
    detail: str = ""


class Node(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the head knows of one node. `free` may be negative while a woken task takes its CPU back.

    `idle_serial` is bumped by every grant, bundle and new primary copy; a drain names the serial it was decided
    on. `is_missing`: alive in the journal, not back since the head restarted; its last capacity counts as full.
    """

    node_id: str
    instance_id: str
    node_type: str
    total: Amounts
    free: Amounts
    labels: dict[str, str] = {}
    is_head: bool = False
    is_cordoned: bool = False
    is_stale: bool = False
    is_missing: bool = False
    idle_s: float | None = None
    idle_serial: int = 0
    busy: tuple[Busy, ...] = ()
    drain_order: str = ""
    drain_answer: str = ""  # "" | "emptied" | "busy"
    notice: str = ""
    notice_deadline_s: float | None = None
    address: str = ""
