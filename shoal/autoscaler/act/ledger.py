"""The durable record of instances: written before the cloud is called, read back after any crash.

One SQLite file (WAL, `synchronous=FULL`, mode 0600) with one generic table of JSON rows, mirrored in memory.
A `Change` collects puts and drops; `commit` writes them in one transaction and only then lets the memory show
them, so memory never runs ahead of the disk. One process at a time: the lock file is held for life, a second
autoscaler gets `Held`. When the disk is full the ledger refuses commits (`JournalFull`) and nothing is ordered
until there is room.

Money is accrued here, by time, in whole micro-dollar milliseconds, over every instance that may be billed; it
survives restarts, and the time in which nobody ran is accrued on opening.

Times in rows are the autoscaler's monotonic clock. The ledger keeps that clock, wall time and the boot id with
each commit. On the same boot the clock has gone on; after another boot every time is moved so that what
remained then, less the wall time that has passed, remains now.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from shoal.autoscaler.act.history import History
from shoal.autoscaler.act.rows import (
    KIND_OF,
    KINDS,
    Attempt,
    BreakerRow,
    HealthRow,
    ListingRow,
    MachineRow,
    Meta,
    RecentRow,
    Row,
    key_of,
    moved,
)
from shoal.foundation.clock import Clock
from shoal.foundation.errors import Held, JournalFull, UserError
from shoal.model.instance import COSTS, Instance, State
from shoal.model.snapshot import Hold, Recent, UsableMemory

SCHEMA = 1
GRACE_S = 60.0
"""Nothing expires for so long after a restart or a jump of the wall clock."""
CLOSED_KEPT_S = 24 * 3600.0
RECENT_KEPT_S = 2 * 3600.0
_UNITS_PER_MICRO = 3_600_000  # milliseconds in an hour
_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}

Crash = Callable[[str], None]
"""Called at every boundary where a process can be killed, with the boundary's name; raising is dying there."""


def never(boundary: str) -> None:
    """Do not crash."""


class Change:
    """Rows to write and to drop, together or not at all."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Row | None] = {}
        self.meta: dict[str, Any] = {}

    def put(self, row: Row) -> None:
        """Write the row, replacing the one of the same kind and key."""
        self.rows[KIND_OF[type(row)], key_of(row)] = row

    def drop(self, row: Row) -> None:
        """Remove the row of that kind and key; it may be missing."""
        self.rows[KIND_OF[type(row)], key_of(row)] = None

    def note(self, **fields: Any) -> None:
        """Set fields of `Meta`."""
        self.meta.update(fields)

    def instance(self, instance_id: str) -> Instance | None:
        """Return the row as this change has it so far, None if the change does not touch it."""
        row = self.rows.get(("instance", instance_id))
        return row if isinstance(row, Instance) else None

    def __bool__(self) -> bool:
        return bool(self.rows or self.meta)


class Ledger:
    """The rows in memory, and the only way to change them.

    `instances` holds every row that is not gone; `closed` those that are, kept for a day so that a machine which
    the cloud shows again is known for ours. All mappings are to be read only.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        clock: Clock,
        *,
        crash: Crash = never,
        boot_id: str = "",
        path: Path | None = None,
    ) -> None:
        """Read everything from `connection`, whose transactions are ours alone."""
        self._connection, self._clock, self._crash, self.path = connection, clock, crash, path
        self._encode = msgspec.json.Encoder().encode
        self._lock_descriptor: int | None = None
        self.instances: dict[str, Instance] = {}
        self.closed: dict[str, Instance] = {}
        self.moving: dict[str, Instance] = {}
        """Those of `instances` that are not ready: the few that every round looks at."""
        self.by_provider: Counter[str] = Counter()
        """How many rows that are not gone each provider has."""
        self.attempts: dict[str, Attempt] = {}
        self.machines: dict[str, MachineRow] = {}
        self._machine_names: dict[str, dict[str, None]] = {}
        """Names of `machines` by instance id."""
        self.health: dict[str, HealthRow] = {}
        self.breakers: dict[str, BreakerRow] = {}
        self.holds: dict[str, Hold] = {}
        self.recent: dict[str, RecentRow] = {}
        self._history = History()
        self._ordered: tuple[Instance, ...] | None = None
        self._names: list[str] | None = None
        """The keys of `instances` in order; None after one came or went."""
        self.usable: dict[str, UsableMemory] = {}
        self.listings: dict[str, ListingRow] = {}
        self._rows: dict[str, dict[str, Any]] = {
            "attempt": self.attempts,
            "machine": self.machines,
            "health": self.health,
            "breaker": self.breakers,
            "hold": self.holds,
            "recent": self.recent,
            "usable": self.usable,
            "listing": self.listings,
        }
        self.meta = Meta()
        self.committed_micro = 0
        """Price per hour of everything that may be billed now, the head's machine too."""
        self.version = 0
        """Counts commits of this process: a changed number means changed rows."""
        self.full: str = ""
        """Why nothing can be committed; empty while all is well."""
        self.grace_until_s = 0.0
        self._read(boot_id)

    @classmethod
    def open(cls, path: Path, clock: Clock, *, crash: Crash = never, boot_id: str | None = None) -> Ledger:
        """Open or create the ledger file and take its lock for the life of this process.

        Raises:
            Held: another autoscaler holds it.
            UserError: the file is not a ledger, or of a newer version.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise Held(
                f"{path}: another autoscaler holds this ledger",
                hint="one autoscaler runs per cluster; `shoal status` shows it",
            ) from None
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            connection = sqlite3.connect(path, isolation_level=None, timeout=5.0)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            ledger = cls(
                connection,
                clock,
                crash=crash,
                boot_id=_boot_id() if boot_id is None else boot_id,
                path=path,
            )
        except (sqlite3.DatabaseError, OSError) as error:
            os.close(lock)
            raise UserError(
                f"{path}: expected a ledger, got `{error}`",
                hint="move the file away; the next start rebuilds it from the machines' tags",
            ) from error
        except BaseException:
            os.close(lock)
            raise
        ledger._lock_descriptor = lock
        return ledger

    def close(self) -> None:
        """Close the file and give the lock back."""
        self._connection.close()
        if self._lock_descriptor is not None:
            os.close(self._lock_descriptor)
            self._lock_descriptor = None

    @contextlib.contextmanager
    def changing(self) -> Iterator[Change]:
        """Collect a change and commit it on leaving, if there is anything in it and nothing was raised."""
        change = Change()
        yield change
        if change:
            self.commit(change)

    def commit(self, change: Change) -> None:
        """Make the change durable, then visible.

        Raises:
            JournalFull: there is no room, or the disk fails; nothing was changed.
        """
        self._crash("commit.before")
        now_s = self._clock.monotonic_s()
        meta = self._accrued(now_s, change.meta)
        try:
            self._write(change, meta)
        except sqlite3.OperationalError as error:
            self._undo()
            if (error.sqlite_errorcode & 0xFF) in _FULL:
                self.full = f"{self.path or 'ledger'}: {error}"
                raise JournalFull(f"{self.full}; nothing is bought or released until there is room") from error
            raise
        except BaseException:
            self._undo()
            raise
        self.full = ""
        self.committed_micro += meta.head_micro - self.meta.head_micro
        self.meta = meta
        self.version += 1
        for (kind, key), row in change.rows.items():
            self._show(kind, key, row)
        self._crash("commit.after")

    def instance(self, instance_id: str) -> Instance | None:
        """Return the row of that id, gone or not."""
        return self.instances.get(instance_id) or self.closed.get(instance_id)

    def machines_of(self, instance_id: str) -> list[MachineRow]:
        """Return the machines that were ever listed for the instance and are not dropped."""
        return [self.machines[name] for name in self._machine_names.get(instance_id, ())]

    def ordered(self) -> tuple[Instance, ...]:
        """Return every row that is not gone, by instance id; made anew only when one changed."""
        if self._ordered is None:
            if self._names is None:
                self._names = sorted(self.instances)
            self._ordered = tuple(map(self.instances.__getitem__, self._names))
        return self._ordered

    def spent_micro(self) -> int:
        """Return what was spent so far, up to now, in whole micro-dollars (rounded down)."""
        return self._accrued(self._clock.monotonic_s(), {}).spent_units // _UNITS_PER_MICRO

    @property
    def launches(self) -> tuple[Recent, ...]:
        """Launches and releases not long ago, as a plan wants them: what tells it the same, once."""
        return self._history.told()

    @property
    def is_fresh(self) -> bool:
        """No ledger was here before: what the cloud already holds must be adopted by its tags."""
        return not self.meta.is_adopted

    def is_price_complete(self) -> bool:
        """Say whether the price of everything that may be billed is known."""
        return all(one.price_micro is not None for one in self.instances.values() if one.state in COSTS)

    def save_time(self, every_s: float = 60.0) -> None:
        """Commit clock and spend if the last commit is longer ago than `every_s`."""
        if self._clock.monotonic_s() - self.meta.monotonic_s >= every_s:
            change = Change()
            change.note(cluster_uid=self.meta.cluster_uid)
            self.commit(change)

    def prune(self) -> None:
        """Drop rows that nobody asks for any more: closed for a day, launches of hours ago, healed offers."""
        now_s = self._clock.monotonic_s()
        old = [one for one in self.closed.values() if now_s - one.since_s > CLOSED_KEPT_S]
        dropped = {one.instance_id for one in old}
        with self.changing() as change:
            for one in old:
                change.drop(one)
            for attempt in self.attempts.values():
                if all(name in dropped or self.instance(name) is None for name in attempt.instance_ids):
                    change.drop(attempt)
            for machine in self.machines.values():
                if machine.instance_id in dropped or self.instance(machine.instance_id) is None:
                    change.drop(machine)
            for recent in self.recent.values():
                ended_s = recent.launched_s if recent.released_s is None else recent.released_s
                if now_s - ended_s > RECENT_KEPT_S and recent.instance_id not in self.instances:
                    change.drop(recent)
            for hold in self.holds.values():
                if hold.instance_id not in self.instances:
                    change.drop(hold)
            for health in self.health.values():
                if now_s - max(health.until_s, health.failed_s) > CLOSED_KEPT_S:
                    change.drop(health)

    # reading and writing

    def _read(self, boot_id: str) -> None:
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS rows (kind TEXT, key TEXT, body BLOB, PRIMARY KEY (kind, key)) WITHOUT ROWID"
        )
        now_s, wall_s = self._clock.monotonic_s(), self._clock.wall_s()
        shift_s = 0.0
        found = self._connection.execute("SELECT body FROM rows WHERE kind = 'meta'").fetchone()
        if found is None:
            self.meta = Meta(
                schema=SCHEMA,
                accrued_at_s=now_s,
                born_s=now_s,
                boot_id=boot_id,
                monotonic_s=now_s,
                wall_s=wall_s,
            )
            return
        try:
            meta = msgspec.json.decode(found[0], type=Meta)
        except msgspec.DecodeError as error:
            raise sqlite3.DatabaseError(str(error)) from error
        if meta.schema > SCHEMA:
            raise UserError(
                f"{self.path}: expected a ledger of version {SCHEMA} or older, got {meta.schema}",
                hint="a newer Shoal wrote it; use that one",
            )
        if meta.boot_id != boot_id:
            shift_s = now_s - meta.monotonic_s - max(0.0, wall_s - meta.wall_s)
            meta = moved(meta, shift_s)
        self.meta = msgspec.structs.replace(meta, boot_id=boot_id, monotonic_s=now_s, wall_s=wall_s)
        self.committed_micro = meta.head_micro
        decoders: dict[str, msgspec.json.Decoder[Any]] = {
            kind: msgspec.json.Decoder(row_type) for kind, row_type in KINDS.items()
        }
        try:
            for kind, key, body in self._connection.execute(
                "SELECT kind, key, body FROM rows WHERE kind != 'meta' ORDER BY kind, key"
            ):
                row = decoders[kind].decode(body)
                self._show(kind, key, moved(row, shift_s) if shift_s else row)
        except (msgspec.DecodeError, KeyError) as error:
            raise sqlite3.DatabaseError(f"damaged row: {error}") from error
        self.grace_until_s = now_s + GRACE_S

    def _write(self, change: Change, meta: Meta) -> None:
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        for (kind, key), row in change.rows.items():
            if row is None:
                execute("DELETE FROM rows WHERE kind = ? AND key = ?", (kind, key))
            else:
                execute("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", (kind, key, self._encode(row)))
        execute("INSERT OR REPLACE INTO rows VALUES ('meta', '', ?)", (self._encode(meta),))
        execute("COMMIT")

    def _undo(self) -> None:
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.OperationalError):
                self._connection.execute("ROLLBACK")

    def _show(self, kind: str, key: str, row: Any) -> None:
        if kind == "instance":
            self._show_instance(key, row)
            return
        rows = self._rows[kind]
        before = rows.pop(key, None) if row is None else rows.get(key)
        if row is not None:
            rows[key] = row
        if kind == "machine":
            if before is not None:
                names = self._machine_names[before.instance_id]
                names.pop(key, None)
                if not names:
                    del self._machine_names[before.instance_id]
            if row is not None:
                self._machine_names.setdefault(row.instance_id, {})[key] = None
        if kind == "recent":
            self._history.put(before, row)

    def _show_instance(self, key: str, row: Instance | None) -> None:
        before = self.instances.pop(key, None)
        self.closed.pop(key, None)
        self.moving.pop(key, None)
        self._ordered = None
        if (before is None) is not (row is None or row.state is State.GONE):
            self._names = None
        self.committed_micro += _cost(row) - _cost(before)
        if before is not None:
            self.by_provider[before.offer.provider] -= 1
        if row is None:
            return
        if row.state is State.GONE:
            self.closed[key] = row
            return
        self.instances[key] = row
        self.by_provider[row.offer.provider] += 1
        if row.state is not State.READY:
            self.moving[key] = row

    def _accrued(self, now_s: float, fields: dict[str, Any]) -> Meta:
        """Return `Meta` as of now: spend up to now at the rate in force until now."""
        elapsed_ms = max(0, round((now_s - self.meta.accrued_at_s) * 1000))
        return msgspec.structs.replace(
            self.meta,
            spent_units=self.meta.spent_units + elapsed_ms * self.committed_micro,
            # The accrued milliseconds are added, not `now_s`, so that no fraction is lost or counted twice.
            accrued_at_s=self.meta.accrued_at_s + elapsed_ms / 1000,
            monotonic_s=now_s,
            wall_s=self._clock.wall_s(),
            **fields,
        )


def _cost(row: Instance | None) -> int:
    return (row.price_micro or 0) if row is not None and row.state in COSTS else 0


def _boot_id() -> str:
    """Return what differs after every boot of this machine; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
