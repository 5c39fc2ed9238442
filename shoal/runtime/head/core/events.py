"""What goes into the head's core and what comes out: events with their time, commands as data.

A connection is a number that the shell gave out; `LOCAL` stands for callers inside the head's own process (the
control API), who speak the same requests. The shell carries commands out in order, and lets nothing leave that rests on
rows not yet committed (`Send` says which messages promise durability, for when the disk is full).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from shoal.foundation.amounts import Amounts

LOCAL = 0
"""The connection of callers in the head's own process."""


# ------------------------------------------------------------------------------------------------ events


class Heard(msgspec.Struct, frozen=True, gc=False):
    """A message of an agent (or of a local caller: only `Ask`) arrived."""

    now_s: float
    connection: int
    message: Any


class Closed(msgspec.Struct, frozen=True):
    """A connection ended. That is no death."""

    now_s: float
    connection: int


class Tick(msgspec.Struct, frozen=True):
    """Time has passed; at least every `HeadCore.tick_s`."""

    now_s: float


class JournalIs(msgspec.Struct, frozen=True):
    """The journal can (or cannot) take rows: the disk is full, or has room again."""

    now_s: float
    is_full: bool


Event = Heard | Closed | Tick | JournalIs


# ---------------------------------------------------------------------------------------------- commands


class Row(NamedTuple):
    """One change of the journal: the newest value of a key; None deletes it."""

    table: str
    key: str
    value: Any


class Send(msgspec.Struct, frozen=True, gc=False):
    """Give a message to a connection. A durable one may leave only after this turn's rows are committed."""

    connection: int
    message: Any
    is_durable: bool = False


class Journal(msgspec.Struct, frozen=True):
    """Commit these rows, before anything after it leaves."""

    rows: list[Row]


class Record(msgspec.Struct, frozen=True):
    """Note an event (`Kind` by its value) in the cluster's event log."""

    kind: str
    fields: dict[str, Any]


class Publish(msgspec.Struct, frozen=True):
    """Something that subscribers follow has changed; wake those who wait."""


class Hang(msgspec.Struct, frozen=True):
    """Close a connection once what was sent has left."""

    connection: int


class Shut(msgspec.Struct, frozen=True):
    """The cluster ends: every agent was told; stop the head."""

    why: str


Command = Send | Journal | Record | Publish | Hang | Shut


# ---------------------------------------------------------------------------------------------- settings


class HeadSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the head takes as given. Durations in seconds; docs/head.md says why each has its value."""

    cluster_uid: str
    epoch: int = 1
    cluster_name: str = "default"
    join_key: bytes = b""
    """The key of join secrets in this epoch; empty: a new one is made by the shell and journaled."""
    heartbeat_s: float = 1.0
    fence_s: float = 25.0
    node_dead_s: float = 40.0
    settle_s: float | None = None
    """No death verdict for so long after a restart; None: `node_dead_s`."""
    job_dead_s: float = 30.0
    request_ttl_s: float = 3600.0
    grant_ack_s: float = 5.0
    prepare_s: float = 30.0
    place_hold_s: float = 0.5
    place_round_s: float = 0.05
    """How often waiting work is tried again while room grows."""
    query_limit_s: float = 5.0
    rows_max: int = 10_000
    """Longest answer of the state API."""
    classes_max: int = 500
    dead_max: int = 10_000
    """How many dead actors, nodes and ended jobs are remembered for listings."""
    spec_bytes_max: int = 64 * 2**20
    """Largest actor: its class's arguments and handle, which are journaled. Larger ones belong in `put`."""
    keys_bytes_max: int = 64 * 2**20
    key_bytes_max: int = 8 * 2**20
    wall_at_zero_s: float = 0.0
    """Wall time at monotonic 0, for records only."""
    version: str = ""

    @property
    def settle_for_s(self) -> float:
        """How long a restarted head waits before it gives death verdicts."""
        return self.node_dead_s if self.settle_s is None else self.settle_s


class Rejected(Exception):
    """A request that cannot be granted: the error's name in the caller's API, and its text."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


class Outbox:
    """The commands of one turn, and the time of the event they answer. Shared by the core's parts."""

    def __init__(self, settings: HeadSettings) -> None:
        self.settings = settings
        self.now_s = 0.0
        self._commands: list[Command] = []
        self._rows: list[Row] = []

    def send(self, connection: int | None, message: Any, *, is_durable: bool = False) -> None:
        """Send to a connection; quiet for None (a node that is out of touch)."""
        if connection is not None:
            self._commands.append(Send(connection, message, is_durable))

    def journal(self, table: str, key: str, value: Any) -> None:
        """Commit the newest value of a row; None deletes it."""
        self._rows.append(Row(table, key, value))

    def record(self, kind: str, **fields: Any) -> None:
        """Note an event."""
        self._commands.append(Record(kind, fields))

    def add(self, command: Command) -> None:
        """Give any other command."""
        self._commands.append(command)

    def wall_s(self) -> float:
        """Return wall time, for records."""
        return self.settings.wall_at_zero_s + self.now_s

    def take(self) -> list[Command]:
        """Return the turn's commands, rows first, and start anew."""
        commands = self._commands
        self._commands = []
        if self._rows:
            commands.insert(0, Journal(self._rows))
            self._rows = []
        return commands


__all__ = [
    "LOCAL",
    "Amounts",
    "Closed",
    "Command",
    "Event",
    "Hang",
    "HeadSettings",
    "Heard",
    "Journal",
    "JournalIs",
    "Outbox",
    "Publish",
    "Record",
    "Rejected",
    "Row",
    "Send",
    "Shut",
    "Tick",
]
