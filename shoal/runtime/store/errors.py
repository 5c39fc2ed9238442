"""What can go wrong in the object store, as the user's code sees it."""

from __future__ import annotations

from shoal.foundation.amounts import bytes_shown
from shoal.foundation.errors import ShoalError


class StoreError(ShoalError):
    """The root of the object store's errors."""


class ObjectStoreFullError(StoreError):
    """No room for an object, although we waited: everything left is in use, or the disk for spilling is full."""


class ObjectLostError(StoreError):
    """The node holds no usable copy of an object: never sealed here, removed, or its spill file is damaged."""


class TransferError(StoreError):
    """No source could deliver an object whole."""


class BadLayout(StoreError):
    """A segment or inline value does not hold what its header says."""


def store_full(
    *, wanted_bytes: int, limit_bytes: int, used_bytes: int, pinned_bytes: int, waited_s: float, why: str = ""
) -> ObjectStoreFullError:
    """Return the error that tells sizes, limits and what to do."""
    cause = f"; {why}" if why else ""
    return ObjectStoreFullError(
        f"object store: no room for {bytes_shown(wanted_bytes)} after {waited_s:.0f} s: {bytes_shown(used_bytes)} of "
        f"{bytes_shown(limit_bytes)} in use, {bytes_shown(pinned_bytes)} pinned by readers{cause}\n"
        "hint: drop references you no longer need (`shoal memory` lists them), pass a larger `object_store_memory`, "
        "or give spilling a larger disk"
    )
