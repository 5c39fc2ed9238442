"""What goes to a provider and what comes back."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from shoal.foundation.errors import Outcome, ProviderError
from shoal.model.offer import OfferKey


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt: one offer, one zone, one rendered request, `len(instance_ids)` machines.

    `request` is what the ledger committed and is replayed verbatim. With `count_min` equal to the number of
    instances the batch is all or none where the provider is atomic.
    """

    token: str
    instance_ids: tuple[str, ...]
    offer: OfferKey
    request: bytes
    count_min: int = 1
    gang: str | None = None


class Phase(StrEnum):
    """What a provider says a machine is doing."""

    PENDING = "pending"
    RUNNING = "running"
    HALTING = "halting"
    HALTED = "halted"


class MachineNotice(msgspec.Struct, frozen=True, kw_only=True):
    """The provider's warning that it will take a machine away in `deadline_s`."""

    what: str
    deadline_s: float | None = None


class Machine(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One machine of this cluster as its provider lists it. `name` is what `release` takes."""

    name: str
    machine_id: str
    token: str
    offer: OfferKey
    index: int = 0
    phase: Phase = Phase.RUNNING
    is_billed: bool = True
    addresses: tuple[str, ...] = ()
    role: str = "worker"
    instance_id: str = ""
    node_type: str = ""
    attempt: int = 0
    epoch: int = 0
    age_s: float = 0.0
    notice: MachineNotice | None = None


class Debris(msgspec.Struct, frozen=True, kw_only=True):
    """A billed remainder that is no machine: a disk, an address, a network card, a failed VM."""

    name: str
    kind: str
    token: str = ""
    instance_id: str = ""
    age_s: float = 0.0


class Refusal(msgspec.Struct, frozen=True):
    """A launch that was accepted and failed later (rule R5)."""

    token: str
    error: ProviderError
    instance_id: str = ""


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """All machines and debris of this cluster at one provider; `complete` is False when any may be missing.

    `began_s` and `ended_s` are the caller's monotonic clock around the call.
    """

    machines: tuple[Machine, ...] = ()
    debris: tuple[Debris, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    complete: bool = True
    began_s: float = 0.0
    ended_s: float = 0.0


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """How one launch or release ended. `name` is the launch's token or the released name."""

    name: str
    outcome: Outcome
    machines: tuple[Machine, ...] = ()
    error: ProviderError | None = None
