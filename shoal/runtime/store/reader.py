"""Reading sealed objects where they lie, and knowing when nobody reads them any more.

A value loaded here may be full of arrays that look straight at the segment. The segment must not be recycled before the
last of them is gone, which only their memory's exporter knows (`memory`). Its last act is to append a note to a queue;
`drain` turns these notes into "this process no longer pins that object", which the caller sends to its agent.
"""

from __future__ import annotations

import collections
import os
import threading
from pathlib import Path
from typing import Any

from shoal.runtime.store.memory import Mapping
from shoal.runtime.store.segments import Located
from shoal.runtime.store.values import load_view

_MAPPINGS_MAX = 512


class _Held:
    """One object that values of this process look at."""

    __slots__ = ("count", "located", "mapping", "pins")

    def __init__(self, located: Located, mapping: _Mapped) -> None:
        self.located, self.mapping, self.count = located, mapping, 0
        self.pins = 0
        """How often the agent has pinned it for this process: once for each `view`, of threads that asked at once."""


class _Mapped:
    """A read-only mapping and how many objects are held in it."""

    __slots__ = ("held", "mapping")

    def __init__(self, mapping: Mapping) -> None:
        self.mapping, self.held = mapping, 0


class Reader:
    """Loads values from shared memory without copying arrays. Safe to use from several threads."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._held: dict[bytes, _Held] = {}
        self._mappings: collections.OrderedDict[str, _Mapped] = collections.OrderedDict()
        self._notes: collections.deque[bytes] = collections.deque()
        self._unread: list[bytes] = []

    def load(self, object_id: bytes, located: Located) -> Any:
        """Return a new value of the object; it stays pinned until the value's last view is gone.

        The agent must already count this process as a reader of it.

        Raises:
            FileNotFoundError: the segment is gone: the object was freed, or its agent ended.
            BadLayout: there is no object there.
        """
        return load_view(self.view(object_id, located))

    def view(self, object_id: bytes, located: Located) -> memoryview:
        """Return the object's raw bytes, read-only; pinned like a value."""
        with self._lock:
            held = self._held.get(object_id)
            if held is None:
                try:
                    mapping = self._mapped(located)
                except BaseException:
                    self._unread.append(object_id)
                    raise
                mapping.held += 1
                held = self._held[object_id] = _Held(located, mapping)
            held.count += 1
            held.pins += 1
        return held.mapping.mapping.export(held.located.offset, held.located.size, self._notes, object_id)

    def held_view(self, object_id: bytes) -> memoryview | None:
        """Return the bytes of an object that this process pins already, pinned once more; None: ask the agent."""
        with self._lock:
            held = self._held.get(object_id)
            if held is None:
                return None
            held.count += 1
        return held.mapping.mapping.export(held.located.offset, held.located.size, self._notes, object_id)

    def pinned(self) -> list[bytes]:
        """Return the ids of all objects that values of this process look at."""
        with self._lock:
            self._settle()
            return list(self._held)

    def drain(self) -> list[bytes]:
        """Return the objects that this process has stopped looking at since the last call, or could not open.

        Each as often as it was pinned. Cheap if there are none.
        """
        if not self._notes and not self._unread:
            return []
        with self._lock:
            unread, self._unread = self._unread, []
            return self._settle() + unread

    def close(self) -> None:
        """Unmap what is not pinned."""
        with self._lock:
            self._settle()
            for name in [name for name, mapped in self._mappings.items() if not mapped.held]:
                self._mappings.pop(name).mapping.close()

    # ------------------------------------------------------------------------------------------------ inside

    def _settle(self) -> list[bytes]:
        notes, gone = self._notes, []
        while notes:
            object_id = notes.popleft()
            held = self._held[object_id]
            held.count -= 1
            if not held.count:
                del self._held[object_id]
                mapped = held.mapping
                mapped.held -= 1
                if not mapped.held and self._mappings.get(held.located.name) is not mapped:
                    mapped.mapping.close()  # the file has grown since, or the cache was full
                gone.extend([object_id] * held.pins)
        return gone

    def _mapped(self, located: Located) -> _Mapped:
        name = located.name
        mapped = self._mappings.get(name)
        if mapped is not None and mapped.mapping.size >= located.offset + located.size:
            self._mappings.move_to_end(name)
            return mapped
        descriptor = os.open(self._directory / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            size = os.fstat(descriptor).st_size
            if size < located.offset + located.size:
                raise FileNotFoundError(f"segment `{name}`: {size} bytes, expected {located.offset + located.size}")
            made = _Mapped(Mapping(descriptor, size, is_writable=False))
        finally:
            os.close(descriptor)
        if mapped is not None and not mapped.held:
            mapped.mapping.close()
        self._mappings[name] = made
        self._mappings.move_to_end(name)
        if len(self._mappings) > _MAPPINGS_MAX:
            oldest = self._mappings.pop(next(iter(self._mappings)))
            if not oldest.held:
                oldest.mapping.close()
        return made
