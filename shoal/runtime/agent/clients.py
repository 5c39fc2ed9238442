"""Who is attached to the agent: drivers and workers whose home this is, and owners from other nodes that lease here."""

from __future__ import annotations

from typing import Any

from shoal.foundation.amounts import Amounts
from shoal.model.demand import ANYWHERE, Selector
from shoal.transport.connection import Connection


class ClassRow:
    """One class of work of one client: what waits, what was granted."""

    __slots__ = (
        "allowed_here",
        "amounts",
        "asked_at",
        "awaited_away",
        "awaited_from",
        "awaited_until",
        "bundle",
        "class_key",
        "client",
        "duration_us",
        "environment",
        "environment_key",
        "expires_at",
        "granted",
        "held",
        "is_placing",
        "is_single_use",
        "job",
        "key",
        "near",
        "near_until",
        "pause_s",
        "reported",
        "running",
        "seen",
        "seen_anywhere",
        "selector",
        "spec",
        "spread",
        "turn",
        "waiting",
        "waiting_since",
        "warned",
    )

    def __init__(self, client: Client, key: int, spec: dict[str, Any]) -> None:
        self.client, self.key, self.spec = client, key, spec
        self.amounts: Amounts = spec.get("amounts", {})
        self.class_key: str = spec.get("class_key", "")
        self.selector: Selector = selector_of(spec.get("selector"))
        self.spread: bool = spec.get("spread", False)
        self.near: str = spec.get("near", "")
        """The node that holds most of its arguments, if that is another one."""
        self.near_until: float | None = None
        """Until when what waits now is left to that node; None: it was not asked yet."""
        self.job: str = spec.get("job", client.job)
        group = spec.get("group")
        self.bundle: tuple[str, int] | None = (group[0], group[1]) if group else None
        self.environment: dict[str, Any] = spec.get("environment") or {}
        self.environment_key: str = spec.get("environment_key", "")
        self.is_single_use: bool = spec.get("is_single_use", False)
        self.waiting = self.seen = self.granted = self.held = 0
        self.running = self.seen_anywhere = 0
        """What the owner says of all nodes: leases in use, and grants absorbed; for the head's sums."""
        self.duration_us = -1
        self.waiting_since: float | None = None
        self.is_placing = False
        self.allowed_here = 0
        """How many leases of what need not run here the head has placed here, beyond those granted since."""
        self.awaited_away = self.awaited_from = 0
        self.awaited_until = 0.0
        """Leases that the head placed on other nodes, since the owner had `awaited_from` of there; and until when."""
        self.asked_at, self.pause_s = 0.0, 0.0
        self.expires_at: float | None = None
        self.turn = 0
        self.warned = ""
        self.reported: tuple[Any, ...] | None = None

    @property
    def wanted(self) -> int:
        """How many more leases it could use: what waits, less the grants that its owner has not seen yet."""
        return max(0, self.waiting - (self.granted - self.seen))

    def awaited(self, now: float) -> int:
        """How many leases on other nodes the owner still waits for; asking for them again would reserve them twice."""
        if now >= self.awaited_until:
            return 0
        return max(0, self.awaited_away - (self.seen_anywhere - self.seen - self.awaited_from))

    def await_more(self, count: int, now: float, until: float) -> None:
        """Note that the head has placed `count` more leases on other nodes."""
        if count > 0:
            self.awaited_away = self.awaited(now) + count
            self.awaited_from, self.awaited_until = self.seen_anywhere - self.seen, until


class Client:
    """One attached process."""

    __slots__ = (
        "classes",
        "connection",
        "held",
        "info",
        "is_local",
        "job",
        "kind",
        "pid",
        "pidfd",
        "process",
        "relay",
        "worker",
    )

    def __init__(self, connection: Connection, kind: str, process: bytes, pid: int, info: dict[str, Any]) -> None:
        self.connection, self.kind, self.process, self.pid, self.info = connection, kind, process, pid, info
        self.classes: dict[int, ClassRow] = {}
        self.held = 0
        """Leases it holds."""
        self.job = ""
        self.worker: Any = None
        self.relay: Any = None
        """The links of a driver that nobody can dial."""
        self.pidfd = -1
        self.is_local = True

    def tell(self, *message: Any) -> None:
        """Queue one message to it."""
        self.connection.send(message)


def selector_of(value: Any) -> Selector:
    """Return the selector that a class's spec carries as plain values."""
    if not value:
        return ANYWHERE
    hard, fallback, node_ids, is_soft_node = value
    return Selector(hard=hard, fallback=tuple(fallback), node_ids=tuple(node_ids), is_soft_node=is_soft_node)
