"""Actors with `max_concurrency` above 1, or with concurrency groups: a pool of real threads for each group.

Handing every call to a thread costs two thread switches. Methods that have shown to be short run on the reading thread
itself; a watch hands the queue to the pool as soon as one of them turns out not to be short this time, so that no call
ever waits behind a slow one while threads are idle.
"""

from __future__ import annotations

import collections
import threading
import time
from typing import Any

from shoal.runtime.client.context import ActorExit, Running, set_running
from shoal.runtime.client.reactor import Link
from shoal.runtime.worker.actor import CALL, ActorBase

perf_counter = time.perf_counter


class _Group:
    """Threads that take calls from one queue; they are started as they are needed."""

    def __init__(self, actor: ThreadedActor, name: str, limit: int) -> None:
        self._actor, self.name, self.limit = actor, name, limit
        self._queue: collections.deque[tuple[Link, list[Any]]] = collections.deque()
        self._wake = threading.Semaphore(0)
        self._idle = 0
        self._threads = 0
        self._lock = threading.Lock()

    def put(self, link: Link, message: list[Any]) -> None:
        """Queue one call; start a thread if all are busy and there may be more."""
        with self._lock:
            self._queue.append((link, message))
            if self._idle < len(self._queue) and self._threads < self.limit:
                self._threads += 1
                threading.Thread(target=self._work, name=f"shoal-{self.name or 'call'}-{self._threads}", daemon=True).start()
        self._wake.release()

    def _work(self) -> None:
        actor, queue = self._actor, self._queue
        while True:
            with self._lock:
                self._idle += 1
            self._wake.acquire()
            with self._lock:
                self._idle -= 1
            try:
                link, message = queue.popleft()
            except IndexError:
                continue
            actor.run_call(link, message)


class ThreadedActor(ActorBase):
    """Runs calls on threads; order is not kept."""

    runs_itself = True

    def __init__(self, executor: Any, actor_id: bytes, generation: int, class_name: str, options: Any) -> None:
        super().__init__(executor, actor_id, generation, class_name, options)
        self._groups = {name: _Group(self, name, limit) for name, limit in (options["groups"] or {}).items()}
        self._groups[""] = _Group(self, "", options["concurrency"])
        self._group_of: dict[str, str] = {}
        self._ready = False
        self._early: list[tuple[Link, list[Any]]] = []

    def take(self, link: Link, message: list[Any]) -> None:
        """Hand one call to its group. Called by the reader with the core's lock held."""
        if not self.is_new(link, message):
            return
        if not self._ready:
            self._early.append((link, message))
            return
        name = message[5].get("group", "") if message[0] != CALL else ""
        if not name and self._groups.keys() != {""}:
            name = self._declared_group(message[2])
        self._groups.get(name, self._groups[""]).put(link, message)

    def _declared_group(self, method: str) -> str:
        found = self._group_of.get(method)
        if found is None:
            options = getattr(getattr(type(self.instance), method, None), "__shoal_method__", {})
            found = self._group_of[method] = options.get("concurrency_group", "")
        return found

    def call_here(self, link: Link, message: list[Any]) -> None:
        """Calls that were queued before the actor was up."""
        self.take(link, message)

    def run_for_ever(self) -> None:
        """Read for ever; the threads work."""
        with self.core.lock:
            self._ready = True
            early, self._early = self._early, []
            for link, message in early:
                name = message[5].get("group", "") if message[0] != CALL else self._declared_group(message[2])
                self._groups.get(name, self._groups[""]).put(link, message)
        core, reactor = self.core, self.core.reactor
        while True:
            if not reactor.lock.acquire(False):
                core.rouse_leader()
                reactor.lock.acquire()
            try:
                reactor.poll()
            finally:
                reactor.lock.release()
                if core._followers:
                    core._wake_followers()
            if core.dirty:
                core.flush()

    def run_call(self, link: Link, message: list[Any]) -> None:
        """Run one call on this thread and answer it."""
        kind, n, name, format, data = message[:5]
        replies = self.replies
        running = Running(link, n, name)
        running.group = self.executor.binding.group
        set_running(running)
        started = perf_counter()
        is_ok = True
        try:
            method = self.methods.get(name) or self.method(name)
            if (link.peer, n) in self.executor.cancelled:
                raise KeyboardInterrupt
            value = method(*data) if format == 0 else replies.call(method, link, n, format, data)
            if kind == CALL:
                format, value = replies.written(value, link, n)
            else:
                format, value = replies.special_result(value, link, n, message[5], name)
        except (ActorExit, SystemExit):
            self.answer_exit(link, n)
            return
        except BaseException as error:
            is_ok = False
            format, value = replies.failed(error, link, n, f"{self.class_name}.{name}", self)
        ended = perf_counter()
        set_running(None)
        self.answer(link, (7, n, format, value, int((ended - started) * 1e6)))
        replies.rows((link.peer, n, name, started, ended, is_ok))
        link.flush()
