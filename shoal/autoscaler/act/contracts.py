"""What the autoscaler needs of others, declared by the one who uses it; `shoal.assembly` supplies it.

`Head` is the head's public API as far as the autoscaler goes: over gRPC in a real cluster, in memory in
`shoal.testing`. `Engine` is what runs on the machines. `Boot` says how a bought machine becomes a node.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import msgspec

from shoal.model.offer import OfferKey
from shoal.model.plan import Kept, Unmet
from shoal.model.policy import NodeType
from shoal.model.snapshot import Work


class InstanceReport(msgspec.Struct, frozen=True, kw_only=True):
    """One instance as `shoal status` shows it."""

    instance_id: str
    node_type: str
    offer: str
    state: str
    since_s: float
    price_usd_per_h: float | None
    step: str = ""
    why: str = ""
    error: str = ""
    machine_id: str = ""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A recent failure, with the cloud's word, what was tried instead and when it will be tried again."""

    at_s: float
    what: str
    code: str
    error: str
    retry_in_s: float | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What the autoscaler last did and why nothing happens; published at the head for everyone.

    Times are ages in seconds at the moment of publishing. Money in USD.
    """

    session: int
    ran_ago_s: float
    ran_wall_s: float
    rounds: int
    instances: tuple[InstanceReport, ...] = ()
    unmet: tuple[Unmet, ...] = ()
    kept: tuple[Kept, ...] = ()
    failures: tuple[Failure, ...] = ()
    usd_per_hour: float = 0.0
    usd_spent: float = 0.0
    is_price_complete: bool = True
    gap: float | None = None
    waiting_for: str = ""
    alarms: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()


class Head(Protocol):
    """The head as the autoscaler sees it. Every call raises `StaleSession` once a newer session is in charge."""

    async def open_session(self, owner: str) -> int:
        """Take charge; older sessions' orders are refused from now on. Journaled."""
        ...

    def watch(self) -> AsyncIterator[Work]:
        """Yield the newest `Work` whenever it changed, the full state first. Ends when the head is unreachable."""
        ...

    async def join_secret(self, token: str) -> str:
        """Return HMAC(join key of this epoch, launch token); the same for the same token, so replays are byte-equal."""
        ...

    async def cordon(self, instance_id: str, order: str, ttl_s: float) -> None:
        """Commit that nothing more is placed there; repeated calls with the same order extend the time."""
        ...

    async def drain(self, instance_id: str, order: str, idle_serial: int | None, deadline_s: float | None) -> None:
        """Forward a drain to the agent. The answer comes as a fact in `Work`: `drain_answer` of that order.

        With `idle_serial` the agent refuses (`busy`) if anything came since; with `deadline_s` it finishes
        or kills at the deadline and never answers busy.
        """
        ...

    async def undrain(self, instance_id: str, order: str) -> None:
        """Lift the cordon and let the agent take work again."""
        ...

    async def bar(self, instance_id: str) -> bool:
        """Commit that the instance may never join and return True; False: it has joined (a fact)."""
        ...

    async def forget(self, instance_id: str) -> None:
        """The machine is released: its node is dead at once, not after a time-out."""
        ...

    async def publish(self, report: Report) -> None:
        """Leave the report at the head, newest wins."""
        ...


class Boot(Protocol):
    """How a launch is written down before the call: pure, so that a replay has the same bytes."""

    def render(
        self,
        node_type: NodeType,
        offer: OfferKey,
        *,
        token: str,
        instance_ids: Sequence[str],
        attempt: int,
        epoch: int,
        join_secret: str,
    ) -> bytes:
        """Return the request bytes that the ledger commits and the provider sends."""
        ...


class Engine(Protocol):
    """What runs on the machines (`engine: builtin | ray | dask`), as far as the autoscaler goes.

    `builtin` is the head's own runtime: its work and drains go through `Head`. Another engine answers what
    waits, which of its nodes are idle, and how to drain one.
    """

    name: str

    async def work(self) -> Work:
        """Return what waits and what is there, as of one moment."""
        ...

    async def drain(self, instance_id: str, deadline_s: float | None) -> bool:
        """Ask the engine to empty the node; True once nothing runs there."""
        ...
