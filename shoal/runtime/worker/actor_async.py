"""Actors with an `async def` method: all calls on one uvloop event loop, many at once.

The loop watches the reactor's epoll descriptor, so that reading costs no thread switch. Sync methods of such a class
run on the loop as well, as they do in Ray.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from typing import Any

from shoal.runtime.client.context import ActorExit, Running, set_running
from shoal.runtime.client.reactor import Link
from shoal.runtime.worker.actor import CALL, ActorBase

perf_counter = time.perf_counter


class AsyncActor(ActorBase):
    """Runs calls as tasks of one loop, at most `max_concurrency` at once (and per concurrency group)."""

    runs_itself = True

    def __init__(self, executor: Any, actor_id: bytes, generation: int, class_name: str, options: Any) -> None:
        super().__init__(executor, actor_id, generation, class_name, options)
        import uvloop

        self.loop = uvloop.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self._limit = options["concurrency"]
        self._limits: dict[str, int] = dict(options["groups"] or {})
        self._under_way: dict[str, int] = {}
        self._waiting: dict[str, list[tuple[Link, list[Any]]]] = {}
        self._tasks: dict[tuple[bytes, int], asyncio.Task[None] | None] = {}
        """Calls that have started."""
        self._group_of: dict[str, str] = {}
        self._inbox: list[tuple[Link, list[Any]]] = []
        self._is_flush_due = False
        self._is_drain_due = False
        self._is_running = False
        self._thread = threading.get_ident()

    def construct(self, cls: type, creator: bytes, n: int, format: int, data: Any) -> None:
        """Construct inside the loop, so that `asyncio.get_running_loop()` works in `__init__` as it does in Ray."""

        async def inside() -> None:
            ActorBase.construct(self, cls, creator, n, format, data)

        self.loop.run_until_complete(inside())

    def take(self, link: Link, message: list[Any]) -> None:
        """Take one call off the reader, whichever thread that is."""
        if not self.is_new(link, message):
            return
        self._inbox.append((link, message))
        if self._is_running and not self._is_drain_due:
            self._is_drain_due = True
            if threading.get_ident() != self._thread:
                self.loop.call_soon_threadsafe(self._drain)

    def call_here(self, link: Link, message: list[Any]) -> None:
        """Calls that were queued before the actor was up."""
        self.take(link, message)

    def run_for_ever(self) -> None:
        """Run the loop for ever."""
        core = self.core
        core.is_loop_driven = True
        reactor = core.reactor
        self._is_running = True

        def readable() -> None:
            if reactor.lock.acquire(False):
                try:
                    reactor.poll(0)
                finally:
                    reactor.lock.release()
                if core._followers:
                    core._wake_followers()
            self._drain()

        self.loop.add_reader(reactor.fd, readable)
        self.loop.call_soon(readable)
        self.loop.run_forever()

    def _drain(self) -> None:
        """Start what has arrived."""
        self._is_drain_due = False
        inbox, self._inbox = self._inbox, []
        create = self.loop.create_task
        for link, message in inbox:
            group = self._group(message)
            count = self._under_way.get(group, 0)
            if count >= self._limits.get(group, self._limit):
                self._waiting.setdefault(group, []).append((link, message))
                continue
            self._under_way[group] = count + 1
            create(self._run(link, message, group))

    def _group(self, message: list[Any]) -> str:
        if not self._limits:
            return ""
        if message[0] != CALL and "group" in message[5]:
            return str(message[5]["group"])
        method = message[2]
        found = self._group_of.get(method)
        if found is None:
            options = getattr(getattr(type(self.instance), method, None), "__shoal_method__", {})
            found = self._group_of[method] = options.get("concurrency_group", "")
        return found

    async def _run(self, link: Link, message: list[Any], group: str) -> None:
        kind, n, name, format, data = message[:5]
        replies = self.replies
        running = Running(link, n, name)
        running.group = self.executor.binding.group
        set_running(running)
        started = perf_counter()
        key = link.peer, n
        replies.under_way[key] = (name, started)
        self._tasks[key] = asyncio.current_task()  # only now: one cancelled before its first step would never answer
        is_ok = True
        try:
            if self.executor.cancelled and key in self.executor.cancelled:
                raise asyncio.CancelledError
            method = self.methods.get(name) or self.method(name)
            if format == 0:
                value = method(*data)
                if inspect.iscoroutine(value):
                    value = await value
            else:
                holds = replies.holds_for(link, n, format, data)
                args, kwargs = replies.arguments(format, data, holds)
                value = method(*args, **(kwargs or {}))
                if inspect.iscoroutine(value):
                    value = await value
                del args, kwargs
                if holds:
                    replies.keep(link, n, holds)
            if kind == CALL:
                if type(value) is bytes and len(value) <= 1024:
                    format = 0
                else:
                    format, value = replies.written(value, link, n)
            elif inspect.isasyncgen(value):
                from shoal.runtime.worker.streams import run_async_stream

                format, value = await run_async_stream(replies, value, link, n, message[5])
            else:
                format, value = replies.special_result(value, link, n, message[5], name)
        except (ActorExit, SystemExit):
            self.answer_exit(link, n)
            return
        except asyncio.CancelledError:
            is_ok = False
            self.executor.note_cancelled(key)
            format, value = replies.failed(KeyboardInterrupt(), link, n, name, self)
        except BaseException as error:
            is_ok = False
            format, value = replies.failed(error, link, n, f"{self.class_name}.{name}", self)
        ended = perf_counter()
        if link.is_closed or link.is_lossy:
            self.answer(link, (7, n, format, value, int((ended - started) * 1e6)))
        else:
            link.out.append((7, n, format, value, int((ended - started) * 1e6)))
            self.core.dirty.add(link)
        if not self._is_flush_due:
            self._is_flush_due = True
            self.loop.call_soon(self._flush)
        replies.under_way.pop(key, None)
        if kind == CALL:
            replies.rows((link.peer, n, name, started, ended, is_ok))
        else:
            replies.rows((link.peer, n, name, started, ended, is_ok, "", message[5]))
        self._tasks.pop(key, None)
        self._under_way[group] -= 1
        waiting = self._waiting.get(group)
        if waiting:
            self._inbox.append(waiting.pop(0))
            if not self._is_drain_due:
                self._is_drain_due = True
                self.loop.call_soon(self._drain)

    def _flush(self) -> None:
        self._is_flush_due = False
        self.executor.prints.after_batch()
        self.core.flush()

    def cancel(self, link: Link, n: int) -> None:
        """Cancel a call: its task gets CancelledError; one that waits for its turn never starts."""
        key = (link.peer, n)

        def stop() -> None:
            task = self._tasks.get(key)
            if task is not None:
                task.cancel()
            else:
                self.executor.note_cancelled(key)

        self.loop.call_soon_threadsafe(stop)
