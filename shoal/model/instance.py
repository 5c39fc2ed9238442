"""Our durable record of one machine that we wanted, and the words for its life."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from shoal.model.offer import OfferKey


class State(StrEnum):
    """Where an instance stands; only `autoscaler/decide/transitions.py` moves it."""

    QUEUED = "queued"  # wanted, no call made
    REQUESTED = "requested"  # the intent is durable, the call may have been made
    BOOTING = "booting"  # the provider lists a machine
    READY = "ready"  # its agent joined the head
    LOST = "lost"  # silent or halted; it may come back
    DRAINING = "draining"  # the head holds a cordon, the agent finishes
    DRAINED = "drained"  # empty and confirmed by the agent under its own lock
    RELEASING = "releasing"  # the point of no return is committed
    GONE = "gone"  # nothing of it exists any more
    STRAY = "stray"  # the provider shows a machine that we had written off


class Fact(StrEnum):
    """What we learn from outside; any fact may arrive in any state. Each is defined in docs/instance-states.md."""

    REFUSED = "refused"
    LISTED = "listed"
    HALTED = "halted"
    SILENT = "silent"
    JOINED = "joined"
    EMPTIED = "emptied"
    BUSY = "busy"
    ABSENT = "absent"


class Order(StrEnum):
    """What we decide; a forbidden order is our bug."""

    CREATE = "create"
    DRAIN = "drain"
    UNDRAIN = "undrain"
    RELEASE = "release"


COSTS = frozenset(State) - {State.QUEUED, State.GONE}
"""States in which a machine may exist and be billed."""

SERVES = frozenset({State.QUEUED, State.REQUESTED, State.BOOTING, State.READY})
"""States whose capacity a plan counts as there or coming."""


class Instance(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One row of the ledger.

    `token` names the launch attempt that made (or will make) it, `index` its place in that attempt's batch.
    Times are the autoscaler's own monotonic seconds. `price_micro` is the list price when it was bought.
    """

    instance_id: str
    node_type: str
    offer: OfferKey
    state: State
    since_s: float
    created_s: float
    token: str = ""
    index: int = 0
    attempt: int = 0
    machine_id: str = ""
    price_micro: int | None = None
    gang: str = ""
    hold_until_s: float | None = None
    drain_order: str = ""
    drain_deadline_s: float | None = None
    drain_serial: int | None = None
    ready_s: float | None = None
    why: str = ""
    error: str = ""
    epoch: int = 0
    planned: dict[str, int] = {}
    """Demand that it was bought for, with counts: while it is on its way, later plans keep that demand on it."""
