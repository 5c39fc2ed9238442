"""What can go wrong in the object store. Errors that user code sees have the API's own names (`shoal.exceptions`)."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.exceptions import ObjectStoreFullError, OutOfDiskError
from shoal.foundation.amounts import bytes_shown
from shoal.foundation.errors import ShoalError

NoRoom = ObjectStoreFullError | OutOfDiskError
"""No memory although we waited, because what is left is in use; or because the disk for spilling is full."""

UNTRUSTED = "Untrusted"
"""The name, in a failed answer, of a `TransferError` with `is_untrusted`."""


class StoreError(ShoalError):
    """The root of what the store tells the runtime, which turns it into an error of the API."""


class ObjectAbsent(StoreError):
    """The node holds no usable copy of an object: never sealed here, freed, or its spill file is damaged."""


class TransferError(StoreError):
    """No source could deliver an object whole.

    `is_verdict`: every source said that it does not have the object, or is known to be dead; else somebody was only out
    of reach, which a later attempt may find otherwise. `is_untrusted`: somebody answers there and could not prove to be
    of this cluster, such as with a certificate that does not fit; making the value again would change nothing.
    """

    def __init__(self, text: str, *, is_verdict: bool = False, is_untrusted: bool = False) -> None:
        super().__init__(text)
        self.is_verdict, self.is_untrusted = is_verdict, is_untrusted


class BadLayout(StoreError):
    """A segment or inline value does not hold what its header says."""


def store_full(
    *,
    wanted_bytes: int,
    limit_bytes: int,
    used_bytes: int,
    pinned_bytes: int,
    waited_s: float,
    why: str = "",
    holders: Sequence[tuple[str, int]] = (),
) -> ObjectStoreFullError:
    """Return the error that tells sizes, limits and what to do. `holders`: who pins or fills how many bytes."""
    cause = f" ({why})" if why else ""
    named = ", ".join(f"{name} {bytes_shown(size)}" for name, size in holders)
    return ObjectStoreFullError(
        f"object store: no room for {bytes_shown(wanted_bytes)} after {waited_s:.0f} s{cause}: "
        f"{bytes_shown(used_bytes)} of {bytes_shown(limit_bytes)} in use, {bytes_shown(pinned_bytes)} pinned by "
        f"readers{f' (held by {named})' if named else ''}; drop references you no longer need, or start with a larger "
        "`object_store_memory`"
    )


def no_memory(wanted_bytes: int, directory: object) -> ObjectStoreFullError:
    """Return the error for a file system that is full although our own limit is not reached."""
    return ObjectStoreFullError(
        f"object store: no memory left for {bytes_shown(wanted_bytes)} in `{directory}`: its file system is smaller "
        "than `object_store_memory`, or others use it, too; give it more room or lower the limit"
    )


__all__ = [
    "BadLayout",
    "NoRoom",
    "ObjectAbsent",
    "ObjectStoreFullError",
    "OutOfDiskError",
    "StoreError",
    "TransferError",
    "no_memory",
    "store_full",
]
