"""Runs tasks and calls on the worker's main thread, which also reads the sockets while it has nothing to do.

Results leave in batches: at the end of the queue, after half a millisecond, and before anything that is long or has
never run here. While a task is long or blocks, the tasks behind it go back to their owner unstarted.
"""

from __future__ import annotations

import collections
import os
import pickle
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from shoal.runtime.client import codec, context
from shoal.runtime.client.context import Running
from shoal.runtime.client.reactor import Link
from shoal.runtime.client.session import Session
from shoal.runtime.worker.binding import Binding
from shoal.runtime.worker.replies import Replies
from shoal.transport.marks import MARK
from shoal.wire import tasks as wire

if TYPE_CHECKING:
    import mmap

    from shoal.runtime.worker.logs import Prints

LONG_S = 0.1
"""A task that runs longer returns what waits behind it."""
BATCH_S = 0.0005
_LONG_US = 500.0
CANCELLED_MAX = 10_000
INTERRUPT_AGAIN_S = 0.05
INTERRUPT_RETRY_S = 0.001
TASK, SPECIAL, CALL, SPECIAL_CALL = wire.TASK, wire.SPECIAL, wire.CALL, wire.SPECIAL_CALL
perf_counter = time.perf_counter


class Executor:
    """The worker's queue and main loop."""

    def __init__(self, session: Session, mark: mmap.mmap, prints: Prints) -> None:
        self.session, self.core, self._mark, self.prints = session, session.core, mark, prints
        self.items: collections.deque[tuple[Link, list[Any]]] = collections.deque()
        self.blobs: dict[bytes, tuple[bytes, str]] = {}
        self.functions: dict[bytes, Any] = {}
        self.typical_us: dict[Any, float] = {}
        self.replies = Replies(self)
        self._unsure = self.replies.outflows.unsure
        self.binding = Binding(self)
        self.actor: Any = None
        """The actor that lives here, once it is built."""
        self.current: tuple[Link, list[Any]] | None = None
        self._latest: bytes | str = "worker"
        """The last function that ran, or its name: what its children print later bears it."""
        self._running: Running | None = None
        self.creator = b""
        """Who creates the actor here, while its constructor runs."""
        self._started_at = 0.0
        self.is_used_up = False
        self.cancelled: dict[tuple[bytes, int], None] = {}
        self.calls_done: dict[bytes, int] = {}
        self._main_thread = threading.get_ident()
        self._interrupted: tuple[bytes, int] | None = None
        """The task in which KeyboardInterrupt was raised last: once is enough."""
        self._is_retry_due = False
        handlers = self.core.handlers
        handlers[wire.FUNCTION] = self._on_function
        for kind in (TASK, SPECIAL, CALL, SPECIAL_CALL):
            handlers[kind] = self._on_work
        handlers[wire.BIND] = lambda link, message: self.items.append((link, message))
        handlers[wire.BUILD] = lambda link, message: self.items.append((link, message))
        handlers[wire.CANCEL] = self._on_cancel
        handlers[wire.STOP] = lambda link, message: os._exit(0)
        self.core.on_tick.append(self._tick)
        self.core.has_timers = self._has_timers
        session.values.before_block = self.before_block
        context.main_task = self.running_on_main
        session.origins.now, session.origins.name_of = self._current, self._id_of
        session.own_group = lambda: self.binding.group
        session.is_cancelled = lambda running: (running.owner, running.n) in self.cancelled
        prints.name_now = self._print_name
        signal.signal(signal.SIGINT, self._on_signal)

    # ---------------------------------------------------------------------------------------------- main loop

    def loop(self) -> None:
        """Work until the process ends."""
        core, items = self.core, self.items
        has_items = items.__len__
        while True:
            try:
                if not items:
                    # A thread that a task left behind may read for us meanwhile: what it reads must wake us.
                    core.wait(has_items)
                self.run_items()
                self.prints.after_batch()
                if core.dirty:
                    core.flush()
            except KeyboardInterrupt:
                continue  # a cancellation that came too late
            if self.actor is not None and self.actor.runs_itself:
                self.actor.run_for_ever()

    def run_items(self) -> None:
        """Run everything that is queued."""
        core, items, functions, dirty = self.core, self.items, self.functions, self.core.dirty
        scalars, typical = codec.SCALARS, self.typical_us
        pack_mark, mark, rows = MARK.pack_into, self._mark, self.replies.rows
        started = flushed = perf_counter()
        while True:
            try:
                link, message = items.popleft()
            except IndexError:
                break  # also where the helper has just given back what was left
            if message[0] != TASK:
                self._run_other(link, message)
                started = perf_counter()
                continue
            _, n, function_id, format, data = message
            usual_us = typical.get(function_id)
            if dirty and (usual_us is None or usual_us > _LONG_US):
                core.flush()  # what is done must not wait for what may be long
            pack_mark(mark, 0, n)
            self._started_at = started
            self.current, self._latest = (link, message), function_id
            is_ok = True
            try:
                function = functions.get(function_id)
                if function is None:
                    function = self._load(function_id)
                if self.cancelled and (link.peer, n) in self.cancelled:
                    raise KeyboardInterrupt
                value = function(*data) if format == 0 else self.replies.call(function, link, n, format, data)
                self.current = None
                if type(value) in scalars and (format == 0 or not self.replies.kept):
                    if (type(value) is bytes or type(value) is str) and len(value) > codec.INLINE_BYTES_MAX:
                        format, value = self.replies.written(value, link, n)
                    else:
                        format = 0
                else:
                    format, value = self.replies.written(value, link, n)
            except BaseException as error:
                self.current = None
                is_ok = False
                format, value = self.replies.failed(error, link, n, self.name_of(function_id))
            ended = perf_counter()
            duration_us = int((ended - started) * 1e6)
            typical[function_id] = duration_us if usual_us is None else usual_us + (duration_us - usual_us) * 0.3
            link.out.append((7, n, format, value, duration_us))
            dirty.add(link)
            rows((link.peer, n, function_id, started, ended, is_ok))
            if ended - flushed > BATCH_S or duration_us > _LONG_US:
                core.flush()
                if duration_us > _LONG_US:
                    self.prints.flush()
                ended = flushed = perf_counter()
            started = ended

    def _run_other(self, link: Link, message: list[Any]) -> None:
        kind = message[0]
        if kind in (CALL, SPECIAL_CALL):
            self.actor.call_here(link, message)
        elif kind == SPECIAL:
            self.core.flush()
            MARK.pack_into(self._mark, 0, message[1])
            self._started_at = perf_counter()
            self.current, self._latest = (link, message), self._name_of_work(message)
            try:
                self.replies.run_special(link, message)
            finally:
                self.current = None
        elif kind == wire.BIND:
            self.binding.bind(message[1])
        elif kind == wire.BUILD:
            self.core.flush()
            self.actor = self.binding.build(message)

    def _load(self, function_id: bytes) -> Any:
        blob, _ = self.blobs[function_id]
        function = self.functions[function_id] = pickle.loads(blob)
        return function

    def name_of(self, function_id: bytes) -> str:
        """Return the name of a function by its id."""
        entry = self.blobs.get(function_id)
        return entry[1] if entry is not None else "?"

    # ---------------------------------------------------------------------------------------------- arriving

    def _on_function(self, link: Link, message: list[Any]) -> None:
        self.blobs[message[1]] = (message[2], message[3])

    def _on_work(self, link: Link, message: list[Any]) -> None:
        if self._unsure and message[0] == SPECIAL_CALL:
            self.replies.outflows.send_again(link, message[1])  # now: its run may keep this thread until then
        if self.actor is not None and self.actor.runs_itself:
            self.actor.take(link, message)
        elif self.is_used_up and message[0] in (TASK, SPECIAL):
            link.out.append((wire.UNSTARTED, [message[1]], True))
            self.core.touch(link)
        else:
            self.items.append((link, message))

    # ---------------------------------------------------------------------------------------------- blocking

    def before_block(self) -> Any:
        """A thread here is about to wait for a value: give back the queue and the CPU; returns how to go on."""
        if threading.get_ident() != self._main_thread or self.current is None:
            return None
        if self.actor is None:
            self.return_queue()
        if not self.binding.holds_cpu:
            return None
        agent = self.core.agent
        agent.out.append((wire.BLOCKED,))
        agent.flush()
        return self._unblocked

    def _unblocked(self) -> None:
        agent = self.core.agent
        agent.out.append((wire.UNBLOCKED,))
        agent.flush()

    def use_up(self) -> None:
        """Run no further task: the agent ends this process once nobody holds refs of its objects."""
        self.is_used_up = True
        agent = self.core.agent
        agent.out.append((wire.USED_UP,))
        agent.flush()
        self.return_queue()

    def return_queue(self) -> None:
        """Give the tasks behind the running one back to their owners."""
        back: dict[Link, list[int]] = {}
        kept = []
        with self.core.lock:
            while True:
                try:
                    link, message = self.items.popleft()
                except IndexError:
                    break
                if message[0] == TASK or message[0] == SPECIAL:
                    back.setdefault(link, []).append(message[1])
                else:
                    kept.append((link, message))
            if kept:
                self.items.extend(kept)
                self.core.reactor.kick()  # the main thread may have seen none and gone to wait
            for link, numbers in back.items():
                link.out.append((wire.UNSTARTED, numbers, self.is_used_up))
                link.flush()

    def _tick(self, now: float) -> None:
        if self.current is not None and perf_counter() - self._started_at > LONG_S:
            if self.core.dirty:
                self.core.flush()
            if self.items and self.actor is None:
                self.return_queue()
        self.replies.tick(now)

    def _has_timers(self) -> bool:
        return self.current is not None or self.replies.telling.is_due or self.prints.is_watchful

    # ---------------------------------------------------------------------------------------------- about now

    def running_on_main(self) -> Running | None:
        """Return what the main thread runs."""
        current = self.current
        if current is None:
            return None
        link, message = current
        running = self._running
        if running is None or running.n != message[1] or running.link is not link:
            running = self._running = Running(link, message[1], self._name_of_work(message))
            running.group = self.binding.group
            running.attempt = message[5].get("attempt", 0) if message[0] in (SPECIAL, SPECIAL_CALL) else 0
        return running

    def _current(self) -> Any:
        return self.current

    def _id_of(self, running: Any) -> bytes:
        """Return the id of the task that the context, or the main thread, runs."""
        if type(running) is Running:
            return running.owner + running.n.to_bytes(6, "big")
        link, message = running
        owner = link.peer if link is not self.core.agent else self.creator
        return bytes(owner + message[1].to_bytes(6, "big"))

    def _name_of_work(self, message: list[Any]) -> str:
        named = message[5].get("name") if message[0] in (SPECIAL, SPECIAL_CALL) else None
        return named or (self.name_of(message[2]) if message[0] in (TASK, SPECIAL) else str(message[2]))

    def _print_name(self) -> str:
        if self.actor is not None:
            return str(self.actor.print_name())
        running = context.current_task()
        if running is not None:
            name = running.name
        else:
            name = self.name_of(self._latest) if type(self._latest) is bytes else str(self._latest)
        return name.rpartition(".")[2]  # as Ray: no `outer.<locals>.`

    # ---------------------------------------------------------------------------------------------- cancelling

    def _on_cancel(self, link: Link, message: list[Any]) -> None:
        """Cancel a task: queued ones never start, the running one gets KeyboardInterrupt. With the core's lock held."""
        _, n, is_forced, is_recursive = message
        key = (link.peer, n)
        if self.actor is not None:
            self.actor.cancel(link, n)
            return
        self.note_cancelled(key)
        current = self.current
        if current is not None and current[0].peer == link.peer and current[1][1] == n:
            if is_recursive:
                self.session.actors.cancel_children()
            if is_forced:
                self.replies.last_words()
                os._exit(1)
            self.interrupt(key)

    def note_cancelled(self, key: tuple[bytes, int]) -> None:
        """Remember a cancellation until its task starts or ends; those that came too late are forgotten in time."""
        self.cancelled[key] = None
        while len(self.cancelled) > CANCELLED_MAX:
            del self.cancelled[next(iter(self.cancelled))]

    def interrupt(self, key: tuple[bytes, int]) -> None:
        """Raise KeyboardInterrupt in the main thread as soon as it runs user code of that task."""
        signal.pthread_kill(self._main_thread, signal.SIGINT)
        again = threading.Timer(INTERRUPT_AGAIN_S, self._interrupt_again, (key,))
        again.daemon = True
        again.start()

    def _interrupt_again(self, key: tuple[bytes, int]) -> None:
        """A signal that comes just before a blocking call is seen only after it, unless it comes again."""
        if key == self._to_interrupt():
            self.interrupt(key)

    def _to_interrupt(self) -> tuple[bytes, int] | None:
        """Return the running task if it is cancelled and has not been interrupted."""
        current = self.current
        if current is None or self.actor is not None:
            return None
        key = current[0].peer, current[1][1]
        return key if key in self.cancelled and key != self._interrupted else None

    def _on_signal(self, number: int, frame: Any) -> None:
        """Only user code is interrupted: the runtime's own frames are let out first, by asking again."""
        key = self._to_interrupt()
        if key is None:
            return
        if frame is not None:
            module = frame.f_globals.get("__name__", "")
            if module.startswith("shoal.runtime.") and frame.f_code.co_name not in _INTERRUPTIBLE:
                if not self._is_retry_due:
                    self._is_retry_due = True
                    retry = threading.Timer(INTERRUPT_RETRY_S, self._retry)
                    retry.daemon = True
                    retry.start()
                return
        self._interrupted = key
        raise KeyboardInterrupt

    def _retry(self) -> None:
        self._is_retry_due = False
        if self._to_interrupt() is not None:
            signal.pthread_kill(self._main_thread, signal.SIGINT)


_INTERRUPTIBLE = frozenset(("poll", "_follow", "call", "run_items"))
assert sys.implementation.name == "cpython", "reference counts decide what is kept"
