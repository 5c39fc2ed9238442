"""Worker processes in virtual time: tasks that only take their time, and the real `ActorBase` and `SyncActor`.

A worker can be killed between any two of its messages, and stopped by the fence: then it neither hears nor does
anything until it goes on.
"""

from __future__ import annotations

import collections
import functools
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec

from shoal.exceptions import TaskCancelledError
from shoal.runtime.agent.pool import Worker
from shoal.runtime.client.context import ActorExit
from shoal.runtime.worker.actor import ActorBase, SyncActor
from shoal.wire import tasks as wire
from tests.virtual.drivers import Link, SimCore

if TYPE_CHECKING:
    from tests.virtual.nodes import Conversation, SimAgent

CANCELLED = pickle.dumps(TaskCancelledError(""))
LONG_S = 0.1
"""A worker gives back what waits behind a task that runs longer, as the real one does."""


class WorkerCore(SimCore):
    """The core of a worker's process, which may be stopped."""

    worker: SimWorker

    def heard(self, link: Link, data: bytes) -> None:
        self.worker.now_or_later(lambda: SimCore.heard(self, link, data))


class Instance:
    """What a user's class would be: it counts its calls and tells the world of each."""

    def __init__(self, worker: SimWorker) -> None:
        self._worker, self.count = worker, 0

    def add(self, driver: int, number: int, fails: int, _: Any = None) -> list[int]:
        self.count += 1
        if self._worker.world.ran(self._worker, driver, number, fails, self.count) <= fails:
            raise ValueError("not yet")
        return [number, self.count]

    def leave(self, *_: Any) -> None:
        raise ActorExit


class EndingActor(ActorBase):
    """Ends by its own wish as real ones do, but for the process, which is the agent's to end."""

    def exit(self) -> None:
        worker: SimWorker = self.instance._worker
        self.core.is_held = False
        self.core.flush()
        worker.is_leaving = True
        verdict = (wire.ACTOR_FAILED, self.actor_id, self.generation, "exited", "the actor exited", b"")
        worker.to_agent.send(msgspec.msgpack.encode([verdict]))


class OrderlyActor(EndingActor, SyncActor):
    """Runs calls one after the other: the real `SyncActor`."""


class CrowdedActor(EndingActor):
    """Runs calls side by side, as async and threaded actors do, with `ActorBase`'s books."""

    runs_itself = True

    def take(self, link: Any, message: list[Any]) -> None:
        if self.is_new(link, message):
            worker: SimWorker = self.instance._worker
            worker.later(worker.world.chance.choice([0.0, 0.001, 0.05]), lambda: self._run(link, message))

    call_here = take

    def _run(self, link: Any, message: list[Any]) -> None:
        worker: SimWorker = self.instance._worker
        n, name, format, data = message[1:5]
        try:
            made = self.method(name)
            result = (
                wire.NATIVE,
                made(*data) if format == wire.NATIVE else self.replies.call(made, link, n, format, data),
            )
        except ActorExit:
            self.answer_exit(link, n)
            return
        except ValueError as error:
            result = self.replies.failed(error, link, n, name)
        worker.later(worker.world.call_s(), lambda: self._answer(link, (wire.RESULT, n, *result, 0)))

    def _answer(self, link: Any, message: tuple[Any, ...]) -> None:
        self.answer(link, message)
        self.core.flush()


class SimWorker:
    """One worker's process."""

    def __init__(self, agent: SimAgent, worker: Worker, to_agent: Conversation) -> None:
        self.world, self.agent, self.worker = agent.world, agent, worker
        self.core = WorkerCore(self.world, agent.node_id, worker.process)
        self.core.worker = self
        for kind in (wire.TASK, wire.SPECIAL, wire.CALL, wire.SPECIAL_CALL):
            self.core.handlers[kind] = self._on_work
        self.core.handlers[wire.CANCEL] = self._on_cancel
        self.to_agent = self.world.end(agent.node_id, self._from_agent, lambda: None).joined(to_agent.end)
        self.queue: collections.deque[tuple[Link, list[Any]]] = collections.deque()
        self.is_busy = self.is_dead = self.is_stopped = self.is_leaving = False
        self.running: tuple[Link, int] | None = None
        self._cancelled: set[tuple[Link, int]] = set()
        self.actor: ActorBase | None = None
        self._frozen: list[Callable[[], None]] = []

    # ------------------------------------------------------------------------------------------- being stopped

    def now_or_later(self, call: Callable[[], None]) -> None:
        """Do something now, or when the process goes on; never if it is dead."""
        if self.is_stopped:
            self._frozen.append(call)
        elif not (self.is_dead or self.is_leaving):
            call()

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Do something after so long, if the process runs then."""
        self.world.loop.call_later(delay_s, self.now_or_later, call)

    def halt(self) -> None:
        """SIGSTOP."""
        self.is_stopped = True

    def go_on(self) -> None:
        """SIGCONT."""
        self.is_stopped = False
        frozen, self._frozen = self._frozen, []
        for call in frozen:
            self.now_or_later(call)

    def die(self, *, is_silent: bool = False) -> None:
        """End; its peers see the end of file, but for a grandchild that holds a socket, or a host without power."""
        self.is_dead = True
        self._frozen.clear()
        for link in tuple(self.core.reactor.links.values()):
            end: Any = link.end  # type: ignore[attr-defined]
            if is_silent:
                end.silence()
            else:
                self.world.loop.call_later(self.world.chance.choice([0.0, 0.0, 2.0]), end.end)

    # ------------------------------------------------------------------------------------------- hearing

    def accept(self, dialler: bytes) -> Link:
        """Return our end of a connection that a process has dialled."""
        link = Link(self.core, dialler)
        self.core.take(link)
        link.out.append((wire.HELLO, self.worker.process, []))
        link.flush()
        return link

    def _from_agent(self, data: bytes) -> None:
        for message in msgspec.msgpack.decode(data):
            if message[0] == wire.BUILD:
                self.later(self.world.chance.uniform(0.0, 0.3), functools.partial(self._build, *message[1:]))

    def _on_work(self, link: Any, message: list[Any]) -> None:
        if self.actor is not None and self.actor.runs_itself:
            self.actor.take(link, message)
        else:
            self.queue.append((link, message))
            self._next()

    def _next(self) -> None:
        if self.is_busy or not self.queue:
            return
        link, message = self.queue[0]
        if message[0] in (wire.TASK, wire.SPECIAL):  # a retry says which attempt it is
            self.queue.popleft()
            self._begin(link, message)
        elif self.actor is not None:
            self.queue.popleft()
            self.is_busy = self.core.is_held = True
            former = self.actor.instance.count
            self.actor.call_here(link, message)
            if self.is_leaving:
                return
            is_new = self.actor.instance.count > former
            self.later(self.world.call_s() if is_new else 0.0, self._called)

    # ------------------------------------------------------------------------------------------- tasks

    def _on_cancel(self, link: Link, message: list[Any]) -> None:
        _, n, is_forced, _ = message
        self._cancelled.add((link, n))
        if self.running == (link, n):
            if is_forced:
                self.world.kill(self)
            else:  # somewhen soon: user code sees the interrupt when it next runs
                self.later(self.world.wires.delay_s(), lambda: self._done(link, n, 0.0))

    def _begin(self, link: Link, message: list[Any]) -> None:
        owner, duration_s = message[4]
        n = message[1]
        self.is_busy, self.running = True, (link, n)
        self.worker.mark = n
        if (link, n) in self._cancelled:
            duration_s = 0.0
        else:
            self.world.started(owner, n)
        self.later(duration_s, lambda: self._done(link, n, duration_s))
        if duration_s > LONG_S:
            self.later(LONG_S, self._give_back)

    def _give_back(self) -> None:
        back: dict[int, tuple[Link, list[int]]] = {}
        while self.queue:
            link, message = self.queue.popleft()
            back.setdefault(link.fd, (link, []))[1].append(message[1])
        for link, numbers in back.values():
            link.out.append((wire.UNSTARTED, numbers, False))
            link.flush()

    def _done(self, link: Link, n: int, duration_s: float) -> None:
        if self.running != (link, n):
            return
        self.is_busy, self.running = False, None
        result = (wire.ERROR, CANCELLED) if (link, n) in self._cancelled else (wire.NATIVE, n)
        link.out.append((wire.RESULT, n, *result, int(duration_s * 1e6)))
        link.flush()
        self._next()

    # ------------------------------------------------------------------------------------------- actors

    def _build(self, actor_id: bytes, generation: int, spec: bytes, options: dict[str, Any]) -> None:
        (is_ordered,) = msgspec.msgpack.decode(spec)
        self.world.built(self, actor_id, generation)
        replies = SimpleNamespace(
            written=lambda value, link, n: (wire.NATIVE, value),
            rows=lambda row: None,
            call=_call,
            failed=lambda error, link, n, name, actor=None: (wire.ERROR, pickle.dumps(error)),
        )
        replies.special_result = lambda value, *_: (wire.NATIVE, value)
        executor: Any = SimpleNamespace(core=self.core, replies=replies, typical_us={}, cancelled={}, current=None)
        kind = OrderlyActor if is_ordered else CrowdedActor
        made = kind(executor, actor_id, generation, "A", {**options, "concurrency": 1, "groups": None})
        made.instance = Instance(self)
        self.actor = made
        self.to_agent.send(msgspec.msgpack.encode([(wire.ACTOR_UP, actor_id, generation)]))
        waiting, self.queue = self.queue, collections.deque()
        for link, message in waiting:
            self._on_work(link, message)

    def _called(self) -> None:
        self.is_busy = self.core.is_held = False
        self.core.flush()
        self._next()


def _call(function: Any, link: Any, n: int, format: int, data: Any) -> Any:
    """Call with arguments of which some were refs."""
    assert format == wire.PARTS
    return function(*(part[1] for part in data[0]))
