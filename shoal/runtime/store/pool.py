"""The node's stock of segments: who may have one, within a quota, recycled while their pages are still there.

A fresh page costs about 20 times its copy, so a segment that comes back keeps its memory and serves the next writer,
first of all the one whose page table already knows it. Small segments are slots of arenas, large ones files. The quota
counts the capacity of every file, free or not; free files are given up (smallest first) before anybody is refused.

One thread only; no waiting. It creates, grows, truncates and removes files and touches no other byte of them.
"""

from __future__ import annotations

import bisect
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from shoal.runtime.store.segments import ARENA_BYTES, SLOT_BYTES_MAX, Segment, class_bytes

_FIT_MOST = 2  # a free segment may be up to this many times larger than asked, as long as nothing is scarce
_GROW_LEAST = 16  # a free file is worth growing if it is at least 1/16 of what is asked
_CANDIDATES_MAX = 16


class _File(msgspec.Struct, eq=False):
    name: str
    size: int
    slot_bytes: int  # 0: one segment fills it
    pieces: list[_Piece]
    free: int = 0


class _Piece(msgspec.Struct, eq=False):
    id: int
    file: _File
    offset: int
    size: int
    populated: int = 0
    owner: bytes = b""  # who had it last
    is_free: bool = False
    is_retired: bool = False


class SegmentPool:
    """Segments in `directory`, at most `limit_bytes` of files in all."""

    def __init__(self, directory: Path, limit_bytes: int) -> None:
        self.directory = directory
        self.limit_bytes = limit_bytes
        self.total_bytes = 0
        """Capacity of all files, free ones and retired ones included. Never above the limit."""
        self.used_bytes = 0
        """Capacity of the segments that are out."""
        self.retired_bytes = 0
        self._pieces: dict[int, _Piece] = {}
        self._slots: dict[int, list[_Piece]] = {}  # free, by class
        self._files: list[tuple[int, int]] = []  # free, (size, id), sorted
        self._ids = itertools.count(1)
        self._names = itertools.count(1)
        # A small quota must not vanish into one arena.
        self._arena_bytes = max(SLOT_BYTES_MAX, min(ARENA_BYTES, class_bytes(max(1, limit_bytes // 32))))

    def allocate(self, size: int, owner: bytes = b"") -> Segment | None:
        """Return a segment of at least `size` bytes for `owner`, None if the quota has no room for it now."""
        piece = self._slot(size, owner) if size <= SLOT_BYTES_MAX else self._whole(size, owner)
        if piece is None:
            return None
        piece.is_free = False
        piece.file.free -= 1
        piece.owner = owner
        self.used_bytes += piece.size
        return _named(piece)

    def release(self, segment_id: int, *, populated: int = 0) -> None:
        """Take a segment back for the next writer. `populated`: how far it is known to have been written."""
        piece = self._pieces[segment_id]
        if piece.is_free or piece.is_retired:
            raise ValueError(f"segment {segment_id}: released twice")
        piece.populated = max(piece.populated, min(populated, piece.size))
        self.used_bytes -= piece.size
        self._freed(piece)

    def retire(self, segment_id: int) -> None:
        """Take a segment back and never hand it out again: a process that we cannot see may look at it.

        Its bytes stay counted until `forget`.
        """
        piece = self._pieces[segment_id]
        if piece.is_free or piece.is_retired:
            raise ValueError(f"segment {segment_id}: released twice")
        piece.is_retired = True
        self.used_bytes -= piece.size
        self.retired_bytes += piece.size
        if not piece.file.slot_bytes:
            self._path(piece.file).unlink(missing_ok=True)

    def forget(self, segment_id: int) -> None:
        """Stop counting a retired segment of its own file; a retired slot stays where it is."""
        piece = self._pieces[segment_id]
        if piece.is_retired and not piece.file.slot_bytes:
            del self._pieces[segment_id]
            self.retired_bytes -= piece.size
            self.total_bytes -= piece.size

    def populated(self, segment_id: int, size: int) -> None:
        """Note that the first `size` bytes of a segment have memory; quiet if it is gone."""
        piece = self._pieces.get(segment_id)
        if piece is not None:
            piece.populated = max(piece.populated, min(size, piece.size))

    def segment(self, segment_id: int) -> Segment:
        """Return a segment as it is now."""
        return _named(self._pieces[segment_id])

    def path(self, segment: Segment) -> Path:
        """Return the path of the segment's file."""
        return self.directory / segment.name

    def reserve(self, budget_bytes: int) -> list[Segment]:
        """Create free segments of common sizes, up to `budget_bytes`, and return them for somebody to populate."""
        made: list[Segment] = []
        size = self._arena_bytes
        if size <= min(budget_bytes, self.limit_bytes - self.total_bytes):
            self._new_arena(SLOT_BYTES_MAX // 4)
            made.extend(_named(piece) for piece in self._slots[SLOT_BYTES_MAX // 4])
            budget_bytes -= size
        wholes = []
        while size <= min(budget_bytes, self.limit_bytes - self.total_bytes):
            wholes.append(size)
            budget_bytes -= size
            piece = self._new_whole(size)
            self._freed(piece)
            made.append(_named(piece))
            size *= 2
        return made

    def trim(self, wanted_bytes: int) -> int:
        """Give up free files until `wanted_bytes` of the quota are unused; return how many are."""
        for size, segment_id in list(self._files):
            if self.limit_bytes - self.total_bytes >= wanted_bytes:
                break
            self._files.remove((size, segment_id))
            self._destroy(self._pieces[segment_id].file)
        if self.limit_bytes - self.total_bytes < wanted_bytes:
            for file in {id(p.file): p.file for slots in self._slots.values() for p in slots}.values():
                if file.free == len(file.pieces):
                    self._slots[file.slot_bytes] = [p for p in self._slots[file.slot_bytes] if p.file is not file]
                    self._destroy(file)
                if self.limit_bytes - self.total_bytes >= wanted_bytes:
                    break
        return self.limit_bytes - self.total_bytes

    def free_segments(self) -> Iterator[Segment]:
        """Yield what is free, for accounts and tests."""
        return (_named(piece) for piece in self._pieces.values() if piece.is_free)

    # ------------------------------------------------------------------------------------------------ slots

    def _slot(self, size: int, owner: bytes) -> _Piece | None:
        wanted = class_bytes(size)
        free = self._slots.get(wanted)
        if not free:
            # Half-used arenas of a neighbouring class are cheaper than new pages.
            free = next((s for c, s in sorted(self._slots.items()) if wanted < c <= _FIT_MOST * wanted and s), None)
        if not free and self._has_room(self._arena_bytes):
            self._new_arena(wanted)
            free = self._slots[wanted]
        if not free:
            free = next((s for c, s in sorted(self._slots.items()) if c >= wanted and s), None)
        if not free:
            return None
        for index in range(len(free) - 1, max(-1, len(free) - 1 - _CANDIDATES_MAX), -1):
            if free[index].owner == owner:
                return free.pop(index)
        return free.pop()

    def _new_arena(self, slot_bytes: int) -> None:
        size = self._arena_bytes // slot_bytes * slot_bytes
        file = _File(self._created(size), size, slot_bytes, [])
        for offset in range(0, size, slot_bytes):
            piece = _Piece(next(self._ids), file, offset, slot_bytes)
            file.pieces.append(piece)
            self._pieces[piece.id] = piece
        # The lowest offset is handed out first, so that a little-used arena stays small.
        for piece in reversed(file.pieces):
            self._freed(piece)

    # ------------------------------------------------------------------------------------------------ files

    def _whole(self, size: int, owner: bytes) -> _Piece | None:
        piece = self._fitting(size, _FIT_MOST * size, owner)
        if piece is not None:
            return piece
        wanted = class_bytes(size)
        piece = self._grown(size, wanted)
        if piece is not None:
            return piece
        if self._has_room(wanted):
            return self._new_whole(wanted)
        piece = self._fitting(size, self.limit_bytes, owner)
        if piece is not None:
            return piece
        # Without the class's slack: the last bytes of a quota are usable, too.
        exact = -(-size // 4096) * 4096
        return self._new_whole(exact) if self._has_room(exact) else None

    def _fitting(self, least: int, most: int, owner: bytes) -> _Piece | None:
        start = bisect.bisect_left(self._files, (least, 0))
        best = None
        for index in range(start, min(len(self._files), start + _CANDIDATES_MAX)):
            size, segment_id = self._files[index]
            if size > most:
                break
            if best is None:
                best = index
            if self._pieces[segment_id].owner == owner:
                best = index
                break
        return None if best is None else self._pieces[self._files.pop(best)[1]]

    def _grown(self, size: int, wanted: int) -> _Piece | None:
        """Return the largest free file, made `wanted` long, if that keeps a good part of its pages in use."""
        index = bisect.bisect_left(self._files, (size, 0)) - 1
        if index < 0:
            return None
        old, segment_id = self._files[index]
        piece = self._pieces[segment_id]
        if piece.populated * _GROW_LEAST < wanted:
            return None
        del self._files[index]  # not to be trimmed for its own growth
        if not self._has_room(wanted - old):
            bisect.insort(self._files, (old, segment_id))
            return None
        os.truncate(self._path(piece.file), wanted)
        self.total_bytes += wanted - old
        piece.size = piece.file.size = wanted
        return piece

    def _new_whole(self, size: int) -> _Piece:
        file = _File(self._created(size), size, 0, [])
        piece = _Piece(next(self._ids), file, 0, size)
        file.pieces.append(piece)
        file.free = 1
        self._pieces[piece.id] = piece
        return piece

    # ------------------------------------------------------------------------------------------------ both

    def _freed(self, piece: _Piece) -> None:
        file = piece.file
        if file.slot_bytes:
            file.free += 1
            self._slots.setdefault(file.slot_bytes, []).append(piece)
        else:
            file.free = 1
            bisect.insort(self._files, (piece.size, piece.id))
        piece.is_free = True

    def _has_room(self, size: int) -> bool:
        return self.limit_bytes - self.total_bytes >= size or self.trim(size) >= size

    def _created(self, size: int) -> str:
        name = f"s{next(self._names)}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.directory / name, flags, 0o600)
        try:
            os.ftruncate(descriptor, size)
        finally:
            os.close(descriptor)
        self.total_bytes += size
        return name

    def _destroy(self, file: _File) -> None:
        """Remove a file that nobody uses. Truncated first: old mappings must not keep its memory alive."""
        path = self._path(file)
        try:
            os.truncate(path, 0)
            path.unlink()
        except FileNotFoundError:
            pass
        for piece in file.pieces:
            del self._pieces[piece.id]
        self.total_bytes -= file.size

    def _path(self, file: _File) -> Path:
        return self.directory / file.name


def _named(piece: _Piece) -> Segment:
    return Segment(piece.id, piece.file.name, piece.offset, piece.size, piece.populated)
