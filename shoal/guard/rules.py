"""The guard's decisions, pure: when to restart a child, and when the dead man's lease has run out."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from shoal.foundation.backoff import backoff_s
from shoal.guard.machine import Child, MachineSpec

QUICK_DEATH_S = 10.0
"""A child that lived longer than this has its back-off forgotten."""


class Ending(StrEnum):
    """Why a guard ends its machine; `` is not yet."""

    NOT_YET = ""
    LEASE = "no contact with the head for lease_s"
    LEASE_BUSY = "no contact with the head for lease_busy_s, although work runs here"
    REJECTED = "the head has rejected this machine for reject_s"
    BOOT = "it did not join before its boot deadline"


class Contact(msgspec.Struct, kw_only=True):
    """When the head last answered, on the guard's own monotonic clock; a rejection is an answer of its own kind."""

    started_s: float
    answered_s: float
    rejected_s: float | None = None
    has_joined: bool = False


def restart_in_s(child: Child, deaths_s: Sequence[float], lived_s: float) -> float | None:
    """Return how long to wait before a restart, None if the child has died too often.

    `deaths_s` are the times of its deaths within the window, this one included; `lived_s` is how long it ran.
    """
    if child.restarts_max is not None and len(deaths_s) > child.restarts_max:
        return None
    if lived_s > QUICK_DEATH_S:
        return 0.0
    return backoff_s(len(deaths_s), first_s=0.1, most_s=10.0)


def ending(spec: MachineSpec, contact: Contact, now_s: float, *, is_busy: bool) -> Ending:
    """Return why the machine must end now, or `Ending.NOT_YET`.

    A machine that never joined ends at its boot deadline. One that is rejected (old epoch, expired certificate)
    is not unreachable: it waits `reject_s`. An idle one ends `lease_s` after the last answer, a working one
    after `lease_busy_s`. The head machine has no lease: its end is the cluster's.
    """
    if spec.role == "head":
        return Ending.NOT_YET
    if not contact.has_joined and now_s - contact.started_s > spec.boot_deadline_s:
        return Ending.BOOT
    if contact.rejected_s is not None:
        return Ending.REJECTED if now_s - contact.rejected_s > spec.reject_s else Ending.NOT_YET
    silent_s = now_s - contact.answered_s - spec.jitter_s
    if is_busy:
        return Ending.LEASE_BUSY if silent_s > spec.lease_busy_s else Ending.NOT_YET
    return Ending.LEASE if silent_s > spec.lease_s else Ending.NOT_YET
