"""The head's process: sockets, clock and journal around `HeadCore`.

Agents connect to the frames listener (role `node`); everybody else uses the control API, which starts in the background
so that an embedded cluster's first result does not wait for it. Both run on one loop, so an agent may live in the same
process. Nothing leaves before the rows it rests on are committed; see docs/head.md.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import datetime
import importlib
import logging
import os
import ssl
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from shoal.foundation.amounts import quantities
from shoal.foundation.clock import Clock
from shoal.foundation.errors import JournalFull, LimitExceeded, StaleSession, UserError
from shoal.foundation.eventlog import EventLog, Kind
from shoal.model.snapshot import Work
from shoal.runtime.head.core.core import HeadCore
from shoal.runtime.head.core.events import (
    LOCAL,
    Closed,
    Command,
    Event,
    Hang,
    HeadSettings,
    Heard,
    Journal,
    JournalIs,
    Publish,
    Record,
    Send,
    Shut,
    Tick,
)
from shoal.runtime.head.core.view import Subscription
from shoal.runtime.head.journal import Journal as Store
from shoal.transport.address import Address
from shoal.transport.connection import Connection, Listener
from shoal.wire.hello import Credential, Role
from shoal.wire.messages import TO_HEAD, Ask, Reply
from shoal.wire.tasks import ELSEWHERE

_encode = msgspec.msgpack.Encoder().encode
_log = logging.getLogger(__name__)
EVENTS_KEPT_MAX = 10_000
ASK_LIMIT_S = 30.0
SHOWN_THE_WAY_S = 2.0
"""How long a driver that came here has to leave again."""
SHUT_LIMIT_S = 5.0
"""How long a head that was told to go down waits for its agents to leave."""


class HeadServer:
    """One running head. `settings.join_key` empty: a new one is made and journaled."""

    def __init__(
        self,
        clock: Clock,
        credential: Credential,
        ssl_context: ssl.SSLContext | None,
        journal: Store,
        event_log: EventLog,
        settings: HeadSettings,
    ) -> None:
        self._clock, self._ssl = clock, ssl_context
        self.credential = credential
        self._journal, self._event_log = journal, event_log
        wall_at_zero_s = clock.wall_s() - clock.monotonic_s()
        self.settings = msgspec.structs.replace(
            settings, wall_at_zero_s=wall_at_zero_s, join_key=settings.join_key or os.urandom(32)
        )
        self.core: HeadCore = None  # type: ignore[assignment]  # made by `start`, once the journal is read
        self.addresses: list[Address] = []
        self.is_down = asyncio.Event()
        """Set once somebody told the cluster to go down and the agents have left."""
        self._listeners: list[Listener] = []
        self._connections: dict[int, Connection] = {}
        self._serial = LOCAL
        self._rid = 0
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._held: collections.deque[tuple[int, Send | Hang]] = collections.deque()
        self._ticket = 0
        self._said_last: Any = None
        self._said_encoded: msgspec.Raw | None = None
        self._events: collections.deque[tuple[float, str, Mapping[str, Any]]] = collections.deque(
            maxlen=EVENTS_KEPT_MAX
        )
        self._watchers: dict[int, tuple[Subscription, asyncio.Event]] = {}
        self._ticker: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._control: Any = None
        self._is_stopped = False

    # ------------------------------------------------------------------------------------------- life

    async def start(
        self,
        frames: Address | Sequence[Address],
        grpc_address: Address | None = None,
        *,
        grpc_after_s: float = 0.0,
        grpc_credentials: Any = None,
    ) -> list[Address]:
        """Read the journal, listen for agents, and return the real addresses.

        `grpc_address` starts the control API as well, `grpc_after_s` later in the background if above 0;
        `grpc_credentials` (`shoal.runtime.head.control.server_credentials`) encrypts it.

        Raises:
            UserError: the journal is not this cluster's, or an address cannot be bound.
        """
        self.core = HeadCore(self.settings, self._clock.monotonic_s(), self._journal.load())
        self.core.events_seen = self._event_rows
        self._journal.start(self._committed, self._full)
        self._turn(Tick(self._clock.monotonic_s()))
        authenticator = _NoReaders(self.credential)
        for address in (frames,) if isinstance(frames, Address) else frames:
            listener = Listener(self._ssl, authenticator, self._serve, type=TO_HEAD)
            try:
                self.addresses.append(await listener.start(address))
            except OSError as error:
                await self.stop()
                raise UserError(f"head: cannot listen on {address}: {error.strerror or error}") from error
            self._listeners.append(listener)
        self._tick()
        if grpc_address is not None:
            if grpc_after_s > 0:
                self._spawn(self._start_later(grpc_address, grpc_after_s, grpc_credentials))
            else:
                try:
                    await self.start_control(grpc_address, grpc_credentials)
                except UserError:
                    await self.stop()
                    raise
        return list(self.addresses)

    async def stop(self) -> None:
        """Close everything; the journal commits what is queued. Agents stay alive and wait for a next head."""
        if self._is_stopped:
            return
        self._is_stopped = True
        if self._ticker is not None:
            self._ticker.cancel()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=2.0)
        for listener in self._listeners:
            await listener.close()
        if self._control is not None:
            await self._control.stop()
        for future in self._replies.values():
            future.cancel()
        await asyncio.get_running_loop().run_in_executor(None, self._journal.close)

    async def start_control(self, address: Address, server_credentials: Any = None) -> Address:
        """Start the control API there and return its real address; `server_credentials` (gRPC's) encrypts it."""

        # Imported in a thread: grpc takes a third of a second that agents on this loop should not feel.
        control = await asyncio.get_running_loop().run_in_executor(
            None, importlib.import_module, "shoal.runtime.head.control"
        )
        self._control = control.ControlServer(self, self.credential, server_credentials=server_credentials)
        started: Address = await self._control.start(address)
        return started

    @property
    def control_address(self) -> Address | None:
        """Where the control API listens, None while it does not."""
        return self._control.address if self._control is not None else None

    # ----------------------------------------------------------------------------- for callers in here

    async def ask(self, what: str, args: dict[str, Any], *, limit_s: float = ASK_LIMIT_S) -> Any:
        """Carry out a request (see `shoal.runtime.head.core.asks`) and return its value.

        Raises:
            UserError, StaleSession, JournalFull: it was refused.
            TimeoutError: an agent that was asked did not answer, or the disk is full.
        """
        self._rid += 1
        rid = self._rid
        future = self._replies[rid] = asyncio.get_running_loop().create_future()
        try:
            self._turn(Heard(self._clock.monotonic_s(), LOCAL, Ask(rid, b"", what, args)))
            async with asyncio.timeout(limit_s):
                reply: Reply = await future
        finally:
            self._replies.pop(rid, None)
        if reply.is_ok:
            return reply.value
        name, text = reply.value
        raise {"StaleSession": StaleSession, "JournalFull": JournalFull}.get(name, UserError)(text)

    def work(self) -> Work:
        """Return everything the autoscaler may know, now."""
        return self.core.work(self._clock.monotonic_s())

    def now_s(self) -> float:
        """Return the head's monotonic time."""
        return self._clock.monotonic_s()

    def follow(self) -> tuple[int, Subscription, asyncio.Event]:
        """Return a subscription and the event that is set whenever something changed for it."""
        self._serial += 1
        subscription, event = self.core.view.subscribe(), asyncio.Event()
        event.set()
        self._watchers[self._serial] = (subscription, event)
        return self._serial, subscription, event

    def unfollow(self, number: int) -> None:
        """End a subscription."""
        subscription, _ = self._watchers.pop(number)
        self.core.view.leave(subscription)

    def events(self) -> list[tuple[float, str, Mapping[str, Any]]]:
        """Return the newest events, oldest first: (wall time, kind, fields)."""
        return list(self._events)

    # ------------------------------------------------------------------------------------------ agents

    async def _serve(self, connection: Connection) -> None:
        if connection.role < Role.NODE:
            # A driver that knows only the head's address. Nothing that it says is looked at, but it must be taken in:
            # closed over unread bytes, a connection breaks before the answer is read.
            connection.send((ELSEWHERE, self.core.home_of_drivers()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SHOWN_THE_WAY_S):
                    while await connection.receive_bodies() is not None:
                        pass
            return
        self._serial += 1
        number = self._serial
        self._connections[number] = connection
        monotonic_s, react = self._clock.monotonic_s, self.core.react
        try:
            while (messages := await connection.receive()) is not None:
                now_s = monotonic_s()
                for message in messages:
                    try:
                        self._carry_out(react(Heard(now_s, number, message)))
                    except Exception as error:
                        # Our own bug. It must not end the head for everybody; this agent re-joins and says all again.
                        self._bug(type(message).__name__, error)
                        return
        finally:
            self._connections.pop(number, None)
            if not self._is_stopped:
                self._turn(Closed(monotonic_s(), number))

    def _turn(self, event: Event) -> None:
        self._carry_out(self.core.react(event))

    def _carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Send() | Hang():
                    if self._held or self._ticket > self._journal.committed:
                        self._held.append((self._ticket, command))
                    else:
                        self._leave(command)
                case Journal(rows=rows):
                    self._ticket = self._journal.write(rows)
                case Record(kind=kind, fields=fields):
                    self._record(kind, fields)
                case Publish():
                    for subscription, event in self._watchers.values():
                        if subscription.is_changed:
                            event.set()
                case Shut():
                    self._spawn(self._shut())

    def _leave(self, command: Send | Hang) -> None:
        if isinstance(command, Hang):
            connection = self._connections.get(command.connection)
            if connection is not None:
                self._spawn(connection.close())
        elif command.connection == LOCAL:
            future = self._replies.get(command.message.rid)
            if future is not None and not future.done():
                future.set_result(command.message)
        else:
            connection = self._connections.get(command.connection)
            if connection is not None:
                try:
                    connection.send(self._encoded_once(command.message))
                except LimitExceeded:
                    connection.abort()

    def _encoded_once(self, message: Any) -> Any:
        """Return the message, or from its second use in a row its encoding: news go to a thousand agents alike."""
        if message is not self._said_last:
            self._said_last, self._said_encoded = message, None
            return message
        if self._said_encoded is None:
            self._said_encoded = msgspec.Raw(_encode(message))
        return self._said_encoded

    def _committed(self) -> None:
        held, committed = self._held, self._journal.committed
        while held and held[0][0] <= committed:
            self._leave(held.popleft()[1])

    def _full(self, is_full: bool) -> None:
        """The disk is full: what promises nothing leaves all the same, so that running work goes on."""
        self._turn(JournalIs(self._clock.monotonic_s(), is_full))
        if not is_full:
            self._committed()
            return
        kept: collections.deque[tuple[int, Send | Hang]] = collections.deque()
        for ticket, command in self._held:
            if isinstance(command, Send) and command.is_durable:
                kept.append((ticket, command))
            else:
                self._leave(command)
        self._held = kept

    def _tick(self) -> None:
        try:
            self._turn(Tick(self._clock.monotonic_s()))
        except Exception as error:
            self._bug("Tick", error)
        if self.core.is_read_only:
            self._let_go()
        self._ticker = asyncio.get_running_loop().call_later(self.core.tick_s, self._tick)

    def _bug(self, what: str, error: Exception) -> None:
        self._record(Kind.ALARM, {"what": f"head: {what}", "why": f"{type(error).__name__}: {error}"})
        _log.exception("the core raised on %s", what)

    def _let_go(self) -> None:
        kept = collections.deque(one for one in self._held if isinstance(one[1], Send) and one[1].is_durable)
        free = [one[1] for one in self._held if not (isinstance(one[1], Send) and one[1].is_durable)]
        self._held = kept
        for command in free:
            self._leave(command)

    def _record(self, kind: str, fields: Mapping[str, Any]) -> None:
        try:
            known = Kind(kind)
        except ValueError:
            return  # an agent of another version; it must not end the head
        named = {("what" if name == "kind" else name): value for name, value in fields.items()}
        self._events.append((self._clock.wall_s(), kind, named))
        self._event_log.record(known, **named)

    def _event_rows(self) -> list[dict[str, Any]]:
        return [
            {
                "severity": _SEVERITY.get(kind, "INFO"),
                "time": datetime.datetime.fromtimestamp(at_s, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S.%f"),
                "source_type": kind.split("_")[0].upper(),
                "message": f"{kind} " + " ".join(f"{name}={_shown(name, value)}" for name, value in fields.items()),
                "event_id": f"{number:08x}",
            }
            for number, (at_s, kind, fields) in enumerate(self._events)
        ]

    async def _start_later(self, address: Address, after_s: float, server_credentials: Any) -> None:
        await asyncio.sleep(after_s)
        await self.start_control(address, server_credentials)

    async def _shut(self) -> None:
        loop = asyncio.get_running_loop()
        end_s = loop.time() + SHUT_LIMIT_S
        while self._connections and loop.time() < end_s:
            await asyncio.sleep(0.02)
        self.is_down.set()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            with contextlib.suppress(ValueError):
                self._event_log.record(Kind.ALARM, what="head", why=f"{type(error).__name__}: {error}")


def _shown(name: str, value: Any) -> Any:
    """Return an event's field as people read it: amounts in natural units."""
    return quantities(value) if name == "resources" and isinstance(value, Mapping) else value


class _NoReaders:
    """The head's credential, for a listener that takes agents and administrators, and shows drivers the way."""

    def __init__(self, credential: Credential) -> None:
        self._credential = credential
        self.uid, self.role = credential.uid, credential.role

    def secret(self, role: Role) -> bytes | None:
        return self._credential.secret(role)

    def admits(self, role: Role) -> bool:
        return role >= Role.DRIVER and self._credential.admits(role)


_SEVERITY: dict[str, str] = {
    Kind.NODE_DIED: "ERROR",
    Kind.WORKER_DIED: "WARNING",
    Kind.OUT_OF_MEMORY: "ERROR",
    Kind.JOIN_REFUSED: "WARNING",
    Kind.NODE_MISSING: "WARNING",
    Kind.FITS_BUT_WAITS: "WARNING",
    Kind.NOTICE: "WARNING",
    Kind.ALARM: "ERROR",
}
