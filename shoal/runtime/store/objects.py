"""The node's objects as data: what is known of each, which may give way, and in which order."""

from __future__ import annotations

import collections
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

import msgspec

from shoal.runtime.store.errors import NoRoom, ObjectAbsent
from shoal.runtime.store.segments import Located

Pinned = Located | ObjectAbsent | NoRoom
"""What a reader is answered."""


class State(StrEnum):
    """Where an object is."""

    MEMORY = "in_memory"
    SPILLING = "spilling"
    SPILLED = "spilled"
    RESTORING = "restoring"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One object, for `shoal memory` and `shoal list objects`."""

    object_id: bytes
    size: int
    state: State
    is_primary: bool
    owner: bytes
    writer: bytes
    """Who sealed it here: its owner by `put`, a worker as a task's result, or the puller as a copy."""
    pins: dict[bytes, int]
    """How often each process pins it."""
    created_s: float


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """The store in numbers, bytes each."""

    limit: int
    total: int
    """All files, free ones included; what shared memory may hold of ours."""
    used: int
    """Segments that are out: leased or sealed."""
    leased: int
    sealed: int
    pinned: int
    spilled: int
    objects: int
    primaries: int
    waiting: int


class StoredObject(msgspec.Struct, eq=False):
    """One object of the node."""

    id: bytes
    size: int
    owner: bytes
    is_primary: bool
    created_s: float
    segment_id: int = 0
    writer: bytes = b""
    located: Located | None = None  # None: not in memory
    spill_path: Path | None = None  # a whole copy is on disk
    pins: dict[bytes, int] = {}
    is_spilling: bool = False
    is_restoring: bool = False
    has_shed: bool = False  # what was only kept for later has made room for its restoring
    is_freed: bool = False
    forked_by: bytes = b""  # a process that forked while it pinned this
    waiters: list[tuple[bytes, Callable[[Pinned], None]]] = []

    @property
    def state(self) -> State:
        """Where it is now."""
        if self.is_restoring:
            return State.RESTORING
        if self.is_spilling:
            return State.SPILLING
        return State.MEMORY if self.located is not None else State.SPILLED

    def row(self) -> Row:
        """Return it for people."""
        return Row(
            object_id=self.id,
            size=self.size,
            state=self.state,
            is_primary=self.is_primary,
            owner=self.owner,
            writer=self.writer,
            pins=dict(self.pins),
            created_s=self.created_s,
        )


class Idle:
    """Objects in memory that nobody reads, least recently used first.

    Some may be dropped at once (another node or the disk has them), the others must be spilled before.
    """

    def __init__(self) -> None:
        self._droppable: collections.OrderedDict[bytes, StoredObject] = collections.OrderedDict()
        self._spillable: collections.OrderedDict[bytes, StoredObject] = collections.OrderedDict()

    def add(self, idle: StoredObject) -> None:
        """Note that nobody reads it any more."""
        self.discard(idle)
        is_elsewhere = not idle.is_primary or idle.spill_path is not None
        (self._droppable if is_elsewhere else self._spillable)[idle.id] = idle

    def discard(self, taken: StoredObject) -> None:
        """Note that it is read, busy or gone; quiet if it was not idle."""
        if self._droppable.pop(taken.id, None) is None:
            self._spillable.pop(taken.id, None)

    def __contains__(self, wanted: StoredObject) -> bool:
        return wanted.id in self._droppable or wanted.id in self._spillable

    def to_drop(self) -> StoredObject | None:
        """Return the first that costs nothing to drop."""
        return next(iter(self._droppable.values()), None)

    def to_spill(self) -> StoredObject | None:
        """Return the first that must be written before its memory can be used."""
        return next(iter(self._spillable.values()), None)
