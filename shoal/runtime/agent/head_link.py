"""The agent's connection to its head: join, report, pass requests through, come back after a restart.

Usage and backlog travel in one cut, at most 50 times a second; an empty report is the heartbeat. Everything that
hangs on the stream is sent again in full after each join.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from shoal.foundation.errors import ShoalError
from shoal.runtime.agent.clients import ClassRow
from shoal.runtime.decide.contact import Contact
from shoal.transport.address import parse
from shoal.transport.connection import Connection, dial
from shoal.wire import messages as told
from shoal.wire.hello import Role

if TYPE_CHECKING:
    from shoal.runtime.agent.main import Agent

REPORT_PAUSE_S = 0.02
"""Least time between two reports of changes."""
REPORT_FIRST_S = 0.005
"""How long the first change after a quiet time waits for others: what is granted here at once is no news."""
REJOIN_S = (0.05, 2.0)
"""Pause before another attempt to reach the head: doubles between these, with jitter."""


class HeadLink:
    """Keeps one authenticated connection to the head while the agent lives."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.connection: Connection | None = None
        self.is_joined = False
        self.is_refused = ""
        self.joined = asyncio.Event()
        self._sequence = 0
        self._reported_s = 0.0
        self._is_report_due = False
        self._is_full = True
        self._reported_version = -1
        self._reported: dict[tuple[bytes, str], told.Backlog] = {}
        self._granted: dict[tuple[bytes, str], int] = {}
        self._last: dict[str, Any] = {}
        self._rid = 0
        self._asks: dict[int, tuple[told.Ask, Callable[[bool, Any], None]]] = {}
        """Requests without an answer so far, oldest first."""
        self._asked_s: dict[int, float] = {}
        """When each was asked over the present connection: no answer comes over another one. 0: the `Join`."""
        self._sent_at = 0.0
        self._heartbeat_s = 1.0
        self.contact = Contact(agent.settings.fence_s)
        self._outbox: list[Any] = []

    async def run(self) -> None:
        """Connect, join, serve; again and again until the agent ends or is refused for good."""
        agent = self._agent
        pause_s = REJOIN_S[0]
        while not agent.is_ending:
            try:
                connection = await self._dial()
            except (OSError, TimeoutError, ShoalError):
                pass
            else:
                pause_s = REJOIN_S[0]
                await self._serve(connection)
            if agent.is_ending or self.is_refused:
                return
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))
            pause_s = min(REJOIN_S[1], pause_s * 2)

    async def _dial(self) -> Connection:
        """Connect; a test's link does it in virtual time."""
        settings = self._agent.settings
        address, context = parse(settings.head), settings.ssl_context
        return await dial(address, context, settings.credential, role=Role.NODE, type=told.TO_AGENT)

    async def _serve(self, connection: Connection) -> None:
        agent = self._agent
        self.connection = connection
        self._asked_s = {0: agent.clock.monotonic_s()}
        connection.send(agent.join_message())
        heart = asyncio.get_running_loop().create_task(self._beat())
        try:
            while (messages := await connection.receive()) is not None:
                for message in messages:
                    self._handle(message)
        except ShoalError as error:
            agent.note(f"head: {error}")
        finally:
            self.is_joined, self.connection = False, None
            self.joined.clear()
            heart.cancel()
            connection.abort()

    def _handle(self, message: Any) -> None:
        match message:
            case told.Joined():
                self.is_joined = True
                self.contact.answered(self._asked_s[0])
                if self.contact.fence_s:
                    self.contact.fence_s = message.fence_s  # it must be less than the head's own patience
                self._heartbeat_s = message.heartbeat_s
                self._is_full = True
                self._agent.on_joined(message)
                # What the old connection, or the head that crashed, took with it is asked again: requests name what
                # they make, so a head that did carry one out does it once.
                waiting, self._outbox = self._outbox, []
                for one in waiting:
                    self.send(one)
                now_s = self._agent.clock.monotonic_s()
                for ask, _ in tuple(self._asks.values()):
                    self._asked_s[ask.rid] = now_s
                    self.send(ask)
                self.joined.set()
                self.report_now()
            case told.Refused():
                self.is_refused = message.why
                self._agent.on_refused(message)
            case told.Reply():
                asked = self._asks.pop(message.rid, None)
                if asked is not None:
                    self.contact.answered(self._asked_s.pop(message.rid, 0.0))
                    asked[1](message.is_ok, message.value)
            case _:
                self._agent.on_head(message)

    # ---------------------------------------------------------------------------------------------- requests

    def send(self, message: Any) -> None:
        """Send to the head, now or after the next join."""
        if self.is_joined and self.connection is not None:
            self.connection.send(message)
        else:
            self._outbox.append(message)

    def mention(self, message: Any) -> None:
        """Send what nobody will miss, if the head is in touch."""
        if self.is_joined and self.connection is not None:
            self.connection.send(message)

    def ask(self, process: bytes, what: str, args: dict[str, Any], call: Callable[[bool, Any], None]) -> None:
        """Ask the head something for a process of ours (or for ourselves: empty)."""
        self._rid += 1
        ask = told.Ask(self._rid, process, what, args)
        self._asks[self._rid] = (ask, call)
        if self.is_joined and self.connection is not None:
            self._asked_s[self._rid] = self._agent.clock.monotonic_s()
            self.connection.send(ask)  # else it is sent with all that are open, after the next join

    # ---------------------------------------------------------------------------------------------- reports

    def report_soon(self) -> None:
        """Report what has changed within 20 ms; sooner after a quiet time."""
        if not self._is_report_due:
            self._is_report_due = True
            loop = asyncio.get_running_loop()
            loop.call_at(max(loop.time() + REPORT_FIRST_S, self._reported_s + REPORT_PAUSE_S), self.report_now)

    def report_now(self) -> None:
        """Report what has changed since the last report."""
        self._is_report_due = False
        if not self.is_joined or self.connection is None:
            return
        self._reported_s = asyncio.get_running_loop().time()
        is_full, self._is_full = self._is_full, False
        if is_full:
            self._reported.clear()
            self._granted.clear()
            self._last.clear()
        now = self._agent.usage()
        changed = {name: value for name, value in now.items() if self._last.get(name, _NEVER) != value}
        self._last = now
        backlog, granted = self._backlog()
        self._sequence += 1
        self.connection.send(
            told.Report(
                sequence=self._sequence,
                is_full=is_full,
                free=changed.get("free"),
                total=changed.get("total"),
                idle_serial=changed.get("idle_serial"),
                idle_s=now["idle_s"],
                busy=changed.get("busy"),
                backlog=backlog,
                granted=granted,
                store_used_bytes=changed.get("store_used_bytes"),
                stats=changed.get("stats"),
            )
        )
        self._sent_at = self._agent.clock.monotonic_s()

    def _backlog(self) -> tuple[list[told.Backlog], list[told.Grants]]:
        """Return what changed of who waits for what, and of what was granted: one row for each owner and class.

        An owner has a row here for each function; those of one shape and constraints are one class to the head.
        """
        now = self._agent.clock.monotonic_s()
        backlog, granted = [], []
        seen_keys = set()
        for client in self._agent.clients():
            classes: dict[str, list[ClassRow]] = {}
            for row in client.classes.values():
                classes.setdefault(row.class_key, []).append(row)
            for class_key, rows in classes.items():
                key = (client.process, class_key)
                if client.kind != "owner":
                    entry = _entry(client.process, class_key, rows, now)
                    if entry.waiting:
                        seen_keys.add(key)
                        if self._reported.get(key) != entry:
                            self._reported[key] = entry
                            backlog.append(entry)
                    elif key in self._reported:
                        del self._reported[key]
                        backlog.append(entry)
                count = sum(row.granted for row in rows)
                if count and self._granted.get(key) != count:
                    self._granted[key] = count
                    granted.append(told.Grants(client.process, class_key, count))
        for key in [key for key in self._reported if key not in seen_keys]:
            gone = self._reported.pop(key)
            backlog.append(told.Backlog(gone.owner, gone.class_key, gone.job, 0, gone.seen, gone.amounts))
        return backlog, granted

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_s)
            if self._agent.clock.monotonic_s() - self._sent_at >= self._heartbeat_s * 0.9:
                self.report_now()

    async def leave(self, why: str) -> None:
        """Say goodbye, so that nobody waits for a verdict."""
        if self.connection is not None and self.is_joined:
            self.connection.send(self._agent.state.left_behind())
            self.connection.send(told.Leaving(why))
            with contextlib.suppress(OSError, ShoalError):
                await self.connection.close()


def _entry(owner: bytes, class_key: str, rows: Sequence[ClassRow], now: float) -> told.Backlog:
    """Return an owner's rows of one class as one."""
    first = rows[0]
    waiting = [row for row in rows if row.waiting and row.bundle is None]
    count = sum(row.waiting for row in waiting)
    known = all(row.duration_us >= 0 for row in waiting)
    since = [row.waiting_since for row in waiting if row.waiting_since is not None]
    return told.Backlog(
        owner=owner,
        class_key=class_key,
        job=(waiting or rows)[0].job,
        waiting=count,
        seen=sum(row.seen_anywhere for row in rows),
        amounts=first.amounts,
        running_slots=sum(row.running for row in rows),
        # Of several functions, what all their tasks take together; unknown as long as that of one is.
        duration_s=sum(row.waiting * row.duration_us for row in waiting) / count / 1e6 if count and known else None,
        selector=first.selector,
        spread=first.spread,
        waiting_s=round(now - min(since), 1) if since else 0.0,
    )


_NEVER = object()
