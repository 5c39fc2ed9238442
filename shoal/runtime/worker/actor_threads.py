"""Actors with `max_concurrency` above 1, or with concurrency groups: a pool of real threads for each group.

A thread takes the next call without letting go of the interpreter's lock while there is one, and results leave in
batches: when the queue is empty, after half a millisecond, and before anything that is long or has never run here.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

from shoal.runtime.client.context import ActorExit, Running, set_running
from shoal.runtime.client.reactor import Link
from shoal.runtime.worker.actor import CALL, ActorBase

perf_counter = time.perf_counter
BATCH_S = 0.0005
LONG_US = 500.0


class _Group:
    """Threads that take calls from one queue; they are started as they are needed."""

    def __init__(self, actor: ThreadedActor, name: str, limit: int) -> None:
        self._actor, self.name, self.limit = actor, name, limit
        self.queue: queue.SimpleQueue[tuple[Link, list[Any]]] = queue.SimpleQueue()
        self._given = 0
        self._done: list[list[int]] = []
        """How many calls each thread has finished: written by that thread alone."""

    def put(self, link: Link, message: list[Any]) -> None:
        """Queue one call; start a thread if all threads are busy. By one thread at a time."""
        threads = len(self._done)
        if threads < self.limit and self._given - sum(done[0] for done in self._done) >= threads:
            done = [0]
            self._done.append(done)
            name = f"shoal-{self.name or 'call'}-{threads + 1}"
            threading.Thread(target=self._work, args=(done,), name=name, daemon=True).start()
        self._given += 1
        self.queue.put((link, message))

    def _work(self, done: list[int]) -> None:
        take, run = self.queue.get, self._actor.run_call
        while True:
            link, message = take()
            run(link, message, self)
            done[0] += 1


class ThreadedActor(ActorBase):
    """Runs calls on threads; order is not kept."""

    runs_itself = True

    def __init__(self, executor: Any, actor_id: bytes, generation: int, class_name: str, options: Any) -> None:
        super().__init__(executor, actor_id, generation, class_name, options)
        self._groups = {name: _Group(self, name, limit) for name, limit in (options["groups"] or {}).items()}
        self._groups[""] = _Group(self, "", options["concurrency"])
        self._group_of: dict[str, str] = {}
        self._flushed_at = 0.0
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
        while True:
            self.core.wait(_never)

    def run_call(self, link: Link, message: list[Any], group: _Group) -> None:
        """Run one call on this thread and answer it."""
        kind, n, name, format, data = message[:5]
        replies, core, typical = self.replies, self.core, self.executor.typical_us
        usual_us = typical.get(name)
        if core.dirty and (usual_us is None or usual_us > LONG_US):
            core.flush()  # what is done must not wait for what may be long
        running = Running(link, n, name)
        running.group = self.executor.binding.group
        set_running(running)
        started = perf_counter()
        replies.under_way[link.peer, n] = (name, started)
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
        duration_us = int((ended - started) * 1e6)
        typical[name] = duration_us if usual_us is None else usual_us + (duration_us - usual_us) * 0.3
        self.answer(link, (7, n, format, value, duration_us))
        replies.under_way.pop((link.peer, n), None)
        if kind == CALL:
            replies.rows((link.peer, n, name, started, ended, is_ok))
        else:
            replies.rows((link.peer, n, name, started, ended, is_ok, "", message[5]))
        if duration_us > LONG_US or group.queue.empty() or ended - self._flushed_at > BATCH_S:
            self._flushed_at = ended
            self.executor.prints.after_batch()
            core.flush()
        else:
            core.touch(link)  # whoever takes the next call may be stopped in it: then the helper sends this


def _never() -> bool:
    return False
