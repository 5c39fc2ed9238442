"""The one event log: kinds in one enum, records as data; the dashboard, `shoal explain` and stories are views of it.

Only `act` floors record. A record is `(at_s wall, kind, fields)`; fields are plain values. `MemoryLog` keeps the
newest `events_max`; `FileLog` appends JSON lines and turns the file over at `bytes_max`.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import msgspec

from shoal.foundation.clock import Clock


class Kind(StrEnum):
    """Every kind of event, with the fields it carries beside `instance`, `node` or `job` where they apply."""

    # instances: the story of one machine
    INSTANCE_WANTED = "instance_wanted"  # instance, node_type, offer, price, why
    LAUNCH_CALLED = "launch_called"  # token, instances, offer
    LAUNCH_ANSWERED = "launch_answered"  # token, outcome, code, retry, error
    INSTANCE_STATE = "instance_state"  # instance, before, after, cause (fact or order)
    LAUNCH_REFUSED_LATE = "launch_refused_late"  # token, code, error
    INSTANCE_ADOPTED = "instance_adopted"  # instance, token
    RELEASE_CALLED = "release_called"  # instance, why
    RELEASE_ANSWERED = "release_answered"  # instance, outcome, error
    DEBRIS_FOUND = "debris_found"  # name, kind
    STRAY_FOUND = "stray_found"  # name, token
    # offers and planning
    OFFER_HEALTH = "offer_health"  # offer, scope, until_s, code
    PLAN_MADE = "plan_made"  # steps, unmet, effort, bound, gap, version
    PLAN_STEP = "plan_step"  # step, why
    DEMAND_UNMET = "demand_unmet"  # demand, verdict, reasons
    FITS_BUT_WAITS = "fits_but_waits"  # demand, nodes
    BUDGET_REACHED = "budget_reached"  # demand, offer, why: once for as long as money is in the way
    PRICE_CHANGED = "price_changed"  # offer, before, after
    BREAKER_OPENED = "breaker_opened"  # cause, failures, until_s
    BREAKER_CLOSED = "breaker_closed"  # cause
    FLAP_FROZEN = "flap_frozen"  # node_type, until_s
    ALARM = "alarm"  # what, why
    SKIPPED = "skipped"  # what, why: a round that did nothing, and the reason
    CONFIG_CHANGED = "config_changed"  # difference
    CONFIG_REFUSED = "config_refused"  # error
    # nodes and the head
    HEAD_STARTED = "head_started"  # epoch, restored
    HEAD_SETTLED = "head_settled"  # missing
    SESSION_OPENED = "session_opened"  # session, owner
    NODE_JOINED = "node_joined"  # node, instance, node_type, resources
    NODE_LEFT = "node_left"  # node, instance, why
    NODE_DIED = "node_died"  # node, instance, why
    NODE_MISSING = "node_missing"  # node
    NODE_RETURNED = "node_returned"  # node
    NODE_CORDONED = "node_cordoned"  # instance, order, until_s
    NODE_UNCORDONED = "node_uncordoned"  # instance, order
    INSTANCE_BARRED = "instance_barred"  # instance
    JOIN_REFUSED = "join_refused"  # instance, why
    DRAIN_ANSWERED = "drain_answered"  # instance, order, answer
    NOTICE = "notice"  # instance, what, deadline_s
    STANDING_REQUESTED = "standing_requested"  # owner, job, bundles, ttl_s
    CLUSTER_IDLE = "cluster_idle"  # for_s
    CLUSTER_ENDING = "cluster_ending"  # why
    # work
    JOB_STARTED = "job_started"  # job, entrypoint
    JOB_ENDED = "job_ended"  # job, why
    ACTOR_STATE = "actor_state"  # actor, before, after, why
    GROUP_STATE = "group_state"  # group, name, before, after, why
    WORKER_DIED = "worker_died"  # worker, node, why
    OUT_OF_MEMORY = "out_of_memory"  # node, worker, task
    SPILLED = "spilled"  # node, bytes: at once, then the sum of every ten seconds
    # processes that we supervise
    PROCESS_STARTED = "process_started"  # process, pid
    PROCESS_DIED = "process_died"  # process, pid, code, restart_in_s


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened. `at_s` is wall time, for people."""

    at_s: float
    kind: Kind
    fields: dict[str, Any]


class EventLog(Protocol):
    """Where events go."""

    def record(self, kind: Kind, **fields: Any) -> None:
        """Note one event. Never raises for want of room; old events go first."""
        ...


class MemoryLog:
    """The newest events, in memory: for tests, `sim` and views."""

    def __init__(self, clock: Clock, *, events_max: int = 100_000) -> None:
        self._clock = clock
        self.events: collections.deque[Event] = collections.deque(maxlen=events_max)

    def record(self, kind: Kind, **fields: Any) -> None:
        self.events.append(Event(at_s=self._clock.wall_s(), kind=kind, fields=fields))


class FileLog:
    """Events as JSON lines in a file of mode 0600; at `bytes_max` it becomes `<name>.1` and a new one starts."""

    def __init__(self, path: Path, clock: Clock, *, bytes_max: int = 16 * 2**20) -> None:
        self._path, self._clock, self._bytes_max = path, clock, bytes_max
        self._encode = msgspec.json.Encoder(enc_hook=str).encode
        self._file_descriptor = self._open()
        self._bytes = os.fstat(self._file_descriptor).st_size

    def record(self, kind: Kind, **fields: Any) -> None:
        line = self._encode(Event(at_s=self._clock.wall_s(), kind=kind, fields=fields)) + b"\n"
        try:
            if self._bytes + len(line) > self._bytes_max:
                self._turn_over()
            self._bytes += os.write(self._file_descriptor, line)
        except OSError:
            # A full disk must not stop the loop that only wanted to tell us something.
            return

    def close(self) -> None:
        os.close(self._file_descriptor)

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _turn_over(self) -> None:
        os.close(self._file_descriptor)
        self._path.replace(self._path.with_name(self._path.name + ".1"))
        self._file_descriptor = self._open()
        self._bytes = 0


def read(path: Path) -> Iterator[Event]:
    """Yield the events of a file log, oldest first, the turned-over file included; a torn last line is left out."""
    decode = msgspec.json.Decoder(Event).decode
    for part in (path.with_name(path.name + ".1"), path):
        if not part.exists():
            continue
        with part.open("rb") as lines:
            for line in lines:
                try:
                    yield decode(line)
                except msgspec.DecodeError:
                    continue
