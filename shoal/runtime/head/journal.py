"""The head's durable memory: rows by table and key, the newest value of each.

`SqliteJournal` has one database thread that commits whatever was queued during the previous commit (WAL,
`synchronous=FULL`), so a commit is shared by all who wait. `MemoryJournal` costs nothing and keeps nothing: embedded
clusters die with their driver. When the disk is full the journal says so, keeps the newest value of each row that
could not be written, and tries again; nothing that was promised durable leaves before it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from shoal.foundation.errors import UserError
from shoal.runtime.head.core.events import Row
from shoal.runtime.head.core.rows import SCHEMA, TABLES

RETRY_S = 1.0
"""How long the thread waits before it tries a full disk again."""
ROWS_PER_COMMIT_MAX = 20_000


class Journal(Protocol):
    """Where the core's rows go. `write` never blocks; `committed` follows."""

    committed: int

    def load(self) -> dict[str, dict[str, Any]]:
        """Return every row, decoded: table to key to row."""
        ...

    def start(self, on_committed: Callable[[], None], on_full: Callable[[bool], None]) -> None:
        """Call these on the running loop when `committed` rose, and when the disk became full or had room again."""
        ...

    def write(self, rows: Sequence[Row]) -> int:
        """Queue rows; return the number that `committed` reaches once they are durable."""
        ...

    def close(self) -> None:
        """Commit what is queued, if there is room, and end."""
        ...


class MemoryJournal:
    """Keeps nothing: for clusters that end with their driver."""

    committed = 0

    def load(self) -> dict[str, dict[str, Any]]:
        return {}

    def start(self, on_committed: Callable[[], None], on_full: Callable[[bool], None]) -> None:
        return

    def write(self, rows: Sequence[Row]) -> int:
        return 0

    def close(self) -> None:
        return


class SqliteJournal:
    """Rows in an SQLite file of mode 0600, written by one thread."""

    def __init__(self, path: Path, *, bytes_max: int | None = None) -> None:
        """Open or make the file. `bytes_max` limits its size (rounded to pages); None: the disk does.

        Raises:
            UserError: the file is no journal, or cannot be opened.
        """
        self.committed = 0
        self._path = path
        self._queued: list[tuple[str, str, bytes | None]] = []
        self._written = 0
        self._wake = threading.Condition()
        self._is_closing = False
        self._thread: threading.Thread | None = None
        self._encode = msgspec.msgpack.Encoder().encode
        try:
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"{path}: no journal can be kept there: {error}") from error
        try:
            self._prepare(bytes_max)
        except sqlite3.Error as error:
            self._database.close()
            raise UserError(f"{path}: no journal can be kept there: {error}") from error
        path.chmod(0o600)

    def load(self) -> dict[str, dict[str, Any]]:
        """Return every row.

        Raises:
            UserError: a row is not what this version writes.
        """
        found: dict[str, dict[str, Any]] = {}
        decoders: dict[str, Callable[[bytes], Any]] = {
            table: msgspec.msgpack.Decoder(struct).decode for table, struct in TABLES.items()
        }
        for table, key, value in self._database.execute("select kind, key, value from journal"):
            decode = decoders.get(table)
            try:
                if decode is None:
                    raise UserError(
                        f"{self._path}: unknown table `{table}`", hint=f"this version knows schema {SCHEMA}"
                    )
                found.setdefault(table, {})[key] = decode(value)
            except msgspec.DecodeError as error:
                raise UserError(f"{self._path}: row `{table} {key}`: {error}") from error
        return found

    def start(self, on_committed: Callable[[], None], on_full: Callable[[bool], None]) -> None:
        loop = asyncio.get_running_loop()

        def call(function: Callable[..., None], *args: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(function, *args)

        self._thread = threading.Thread(
            target=self._run, args=(lambda: call(on_committed), lambda full: call(on_full, full)), name="head-journal"
        )
        self._thread.daemon = True
        self._thread.start()

    def write(self, rows: Sequence[Row]) -> int:
        # Rows are the core's own mutable records, so they are encoded now; the thread only writes bytes.
        encode = self._encode
        encoded = [(row.table, row.key, None if row.value is None else encode(row.value)) for row in rows]
        with self._wake:
            self._queued.extend(encoded)
            self._written += len(encoded)
            self._wake.notify()
            return self._written

    def close(self) -> None:
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()
        self._database.close()

    def _prepare(self, bytes_max: int | None) -> None:
        database = self._database
        database.execute("pragma journal_mode=wal")
        database.execute("pragma synchronous=full")
        if bytes_max is not None:
            page = database.execute("pragma page_size").fetchone()[0]
            database.execute(f"pragma max_page_count={max(1, bytes_max // page)}")
        database.execute(
            "create table if not exists journal"
            " (kind text not null, key text not null, value blob not null, primary key (kind, key)) without rowid"
        )

    def _run(self, on_committed: Callable[[], None], on_full: Callable[[bool], None]) -> None:
        pending: dict[tuple[str, str], bytes | None] = {}
        is_full = False
        while True:
            with self._wake:
                if not self._queued and not self._is_closing:
                    self._wake.wait(RETRY_S if pending else None)
                taken, self._queued = self._queued[:ROWS_PER_COMMIT_MAX], self._queued[ROWS_PER_COMMIT_MAX:]
                target = self._written - len(self._queued)
                is_closing = self._is_closing
            for table, key, value in taken:
                pending[table, key] = value
            if pending:
                try:
                    self._commit(pending)
                except sqlite3.Error:
                    # Full, or the disk fails: either way nothing may be promised until a commit works again.
                    if not is_full:
                        is_full = True
                        on_full(True)
                    if is_closing:
                        return
                    with self._wake:
                        if not self._is_closing:
                            self._wake.wait_for(lambda: self._is_closing, RETRY_S)
                    continue
                pending.clear()
                if is_full:
                    is_full = False
                    on_full(False)
            if target != self.committed:
                self.committed = target
                on_committed()
            if is_closing and not self._queued:
                return

    def _commit(self, pending: dict[tuple[str, str], bytes | None]) -> None:
        database = self._database
        puts = [(table, key, value) for (table, key), value in pending.items() if value is not None]
        deletes = [one for one, value in pending.items() if value is None]
        database.execute("begin immediate")
        try:
            if puts:
                database.executemany("insert or replace into journal values (?, ?, ?)", puts)
            if deletes:
                database.executemany("delete from journal where kind = ? and key = ?", deletes)
            database.execute("commit")
        except sqlite3.Error:
            with contextlib.suppress(sqlite3.Error):
                database.execute("rollback")
            raise
