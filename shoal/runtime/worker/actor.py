"""An actor's process: construct it, then run its calls the way its class asks for.

Plain classes run on the main thread in the order of arrival (`actor.py`), classes with `max_concurrency` above 1 on a
pool of threads (`actor_threads.py`), classes with one `async def` on an event loop (`actor_async.py`).
"""

from __future__ import annotations

import os
import pickle
import time
from typing import TYPE_CHECKING, Any

import msgspec

from shoal.foundation.travel import shown_error
from shoal.runtime.client import codec
from shoal.runtime.client.context import ActorExit
from shoal.runtime.client.reactor import Link
from shoal.runtime.worker.kept import Kept
from shoal.wire import tasks as wire

if TYPE_CHECKING:
    from shoal.runtime.worker.execute import Executor

CALL = wire.CALL
perf_counter = time.perf_counter
LATE_MAX = 100_000
"""How many calls with late arguments are remembered of each caller; it sends again only what has no answer yet."""


class ActorBase:
    """What every kind of actor shares. `runs_itself`: it takes calls off the reader instead of from the queue."""

    runs_itself = False

    def __init__(self, executor: Executor, actor_id: bytes, generation: int, class_name: str, options: Any) -> None:
        self.executor, self.replies, self.core = executor, executor.replies, executor.core
        self.actor_id, self.generation, self.class_name, self.options = actor_id, generation, class_name, options
        self.instance: Any = None
        self.name = options.get("name", "")
        self.methods: dict[str, Any] = {}
        self._seen: dict[bytes, int] = {}
        """Highest number received from each caller: what comes again after a reconnect is dropped."""
        self._late: dict[bytes, dict[tuple[int, int], None]] = {}
        self._undelivered: dict[bytes, list[Any]] = {}
        self.kept = Kept()
        self.core.on_link_closed.append(self._link_closed)
        hello = self.core.handlers[wire.HELLO]

        def greeted(link: Link, message: list[Any]) -> None:
            hello(link, message)
            for one in self._undelivered.pop(link.peer, ()):
                link.out.append(one)
            self.core.touch(link)

        self.core.handlers[wire.HELLO] = greeted

    def own_handle(self) -> Any:
        """Return a handle of this actor; it does not keep it alive."""
        from shoal.runtime.client.actors import ActorHandle, methods_of

        meta, is_async = methods_of(type(self.instance))
        facts = {"is_ordered": not is_async and self.options["concurrency"] == 1, "name": self.name}
        return ActorHandle(self.actor_id, self.class_name, meta, facts, None)

    @property
    def restarts(self) -> int:
        """How often it was restarted before this process."""
        return int(self.options.get("restarts", 0))

    @property
    def shown(self) -> str:
        """Return the actor as its errors name it."""
        return repr(self.instance) if self.instance is not None else self.class_name

    def print_name(self) -> str:
        """Return the name its prints bear: its own repr if the class defines one."""
        instance = self.instance
        if instance is not None and type(instance).__repr__ is not object.__repr__:  # type: ignore[comparison-overlap]
            try:
                return repr(instance)
            except Exception:
                return self.class_name
        return self.class_name

    def construct(self, cls: type, creator: bytes, n: int, format: int, data: Any) -> None:
        """Make the instance. The references among its arguments stay valid for its life: the creator pins them."""
        nested = codec.nested_of(format, data)
        self._holds = codec.holds_of(nested, (creator, n), is_implicit=True)
        args, kwargs = self.replies.arguments(format, data, dict(self._holds))
        self.instance = cls(*args, **(kwargs or {}))

    def method(self, name: str) -> Any:
        """Return a bound method.

        Raises:
            AttributeError: the class has none of that name.
        """
        found = self.methods.get(name)
        if found is None:
            found = _BUILT_IN[name](self) if name in _BUILT_IN else getattr(self.instance, name)
            self.methods[name] = found
        return found

    def is_new(self, link: Link, message: list[Any]) -> bool:
        """Say whether a call was not received before, and remember it.

        Calls come in the order of their numbers; only those whose arguments were late may come after younger ones,
        and say so.
        """
        n, highest = message[1], self._seen.get(link.peer, 0)
        if message[0] != CALL and "is_late" in message[5]:
            late = self._late.setdefault(link.peer, {})
            attempt = n, int(message[5]["is_late"])  # a call that is retried after a user error comes again
            if attempt in late:
                return self._repeat(link, n)
            late[attempt] = None
            if len(late) > LATE_MAX:
                del late[next(iter(late))]
        elif n <= highest:
            return self._repeat(link, n)
        if n > highest:
            self._seen[link.peer] = n
        if link.is_lossy:
            self.kept.received(link, n)
        return True

    def _repeat(self, link: Link, n: int) -> bool:
        """Answer what came again and has been answered; it is not new."""
        if link.is_lossy:
            reply = self.kept.repeated(link, n)
            if reply is not None:
                link.out.append(reply)
                self.core.touch(link)
        return False

    def answer(self, link: Link, message: tuple[Any, ...]) -> None:
        """Queue a result; one whose caller is out of reach waits for it to come back."""
        if link.is_lossy:
            link = self.kept.way_back(link, message)
            if link.is_closed:
                return  # its caller will ask again
        if link.is_closed:
            again = self.core.peers.get(link.peer)
            if again is None or again.is_closed:
                self._undelivered.setdefault(link.peer, []).append(message)
                return
            link = again
        link.out.append(message)
        self.core.dirty.add(link)

    def answer_exit(self, link: Link, n: int) -> None:
        """Answer the call in which the actor chose to end (as in Ray, by an error), and end."""
        from shoal.exceptions import ActorDiedError

        error = ActorDiedError("exit_actor() was called", actor_id=self.actor_id.hex(), class_name=self.class_name)
        self.answer(link, (wire.RESULT, n, wire.ERROR, pickle.dumps(error), 0))
        self.exit()

    def exit(self) -> None:
        """End the process of the actor's own wish; results go out first."""
        self.replies.last_words()
        agent = self.core.agent
        agent.out.append((wire.ACTOR_FAILED, self.actor_id, self.generation, "exited", "the actor exited", b""))
        agent.flush()
        # The agent kills us once it has noted why; ending first would look like a crash.
        time.sleep(5.0)
        os._exit(0)

    def cancel(self, link: Link, n: int) -> None:
        """Cancel a call: only async actors can stop a running one."""
        self.executor.note_cancelled((link.peer, n))

    def _link_closed(self, link: Link) -> None:
        if link.is_lossy:
            return  # the caller asks again; told twice of one error, it would take that for two attempts
        if link.out and link.peer:
            waiting = [message for message in link.out if message[0] == wire.RESULT]
            if waiting:
                self._undelivered.setdefault(link.peer, []).extend(waiting)

    def call_here(self, link: Link, message: list[Any]) -> None:
        """Run one call now."""
        raise NotImplementedError

    def take(self, link: Link, message: list[Any]) -> None:
        """Take one call off the reader."""
        raise NotImplementedError

    def run_for_ever(self) -> None:
        """Serve calls; does not return."""
        raise NotImplementedError


class SyncActor(ActorBase):
    """Runs calls on the main thread, one after the other."""

    def call_here(self, link: Link, message: list[Any]) -> None:
        executor, core = self.executor, self.core
        kind, n, name, format, data = message[:5]
        if not self.is_new(link, message):
            return
        replies, typical = self.replies, executor.typical_us
        usual_us = typical.get(name)
        if core.dirty and (usual_us is None or usual_us > 500.0):
            core.flush()
        started = executor._started_at = perf_counter()
        executor.current = (link, message)
        is_ok = True
        try:
            method = self.methods.get(name) or self.method(name)
            if executor.cancelled and (link.peer, n) in executor.cancelled:
                raise KeyboardInterrupt
            value = method(*data) if format == 0 else replies.call(method, link, n, format, data)
            if kind == CALL:
                executor.current = None
                if type(value) is bytes and len(value) <= 1024:
                    format = 0
                else:
                    format, value = replies.written(value, link, n)
            else:
                format, value = replies.special_result(value, link, n, message[5], name)
                executor.current = None
        except ActorExit:
            executor.current = None
            self.answer_exit(link, n)
            return
        except BaseException as error:
            executor.current = None
            is_ok = False
            if isinstance(error, SystemExit):
                self.answer_exit(link, n)
                return
            format, value = replies.failed(error, link, n, f"{self.class_name}.{name}", self)
        ended = perf_counter()
        duration_us = int((ended - started) * 1e6)
        typical[name] = duration_us if usual_us is None else usual_us + (duration_us - usual_us) * 0.3
        if link.is_closed or link.is_lossy:
            self.answer(link, (7, n, format, value, duration_us))
        else:
            link.out.append((7, n, format, value, duration_us))
            core.dirty.add(link)
        if kind == CALL:
            replies.rows((link.peer, n, name, started, ended, is_ok))
        else:
            replies.rows((link.peer, n, name, started, ended, is_ok, "", message[5]))
        if duration_us > 500 or len(link.out) >= 64:
            core.flush()


def build(
    executor: Executor, actor_id: bytes, generation: int, spec: bytes, options: dict[str, Any]
) -> ActorBase | None:
    """Construct the actor that the head asked for, and tell the agent how it went."""
    blob, class_name, _, creator, n, concurrency, groups, is_async, format, data = msgspec.msgpack.decode(spec)
    binding = executor.binding
    binding.held_cpu = options.get("held_cpu", False)
    if options.get("group"):
        from shoal.runtime.client.strategies import GroupPlace

        binding.group = GroupPlace(*options["group"])
    kind: type[ActorBase] = SyncActor
    if is_async:
        from shoal.runtime.worker.actor_async import AsyncActor as kind
    elif concurrency > 1 or groups:
        from shoal.runtime.worker.actor_threads import ThreadedActor as kind
    agent = executor.core.agent
    actor = kind(executor, actor_id, generation, class_name, {**options, "concurrency": concurrency, "groups": groups})
    executor.actor = executor.session.this_actor = actor
    link = executor.core.agent
    executor.creator, executor.current = creator, (link, [CALL, n, "__init__", 0, []])
    replies, started = executor.replies, perf_counter()
    replies.under_way[creator, n] = ("__init__", started)
    try:
        cls = pickle.loads(blob)
        actor.construct(cls, creator, n, format, data)
    except BaseException as error:
        executor.current = None
        from shoal.exceptions import TaskError

        wrapped = TaskError.of(error, f"{class_name}.__init__", actor_repr=class_name, actor_id=actor_id.hex())
        replies.telling.failed((creator, n), "ACTOR_CREATION_FAILED", shown_error(error))
        replies.built(creator, n, started, options, is_ok=False)
        replies.last_words()
        agent.out.append(
            (
                wire.ACTOR_FAILED,
                actor_id,
                generation,
                "created-failed",
                f"its constructor raised {type(error).__name__}: {error}",
                pickle.dumps(wrapped),
            )
        )
        agent.flush()
        return actor
    executor.current = None
    replies.built(creator, n, started, options, is_ok=True)
    agent.out.append((wire.ACTOR_UP, actor_id, generation))
    agent.flush()
    return actor


def _ready(actor: ActorBase) -> Any:
    return lambda: True


def _terminate(actor: ActorBase) -> Any:
    def terminate() -> None:
        raise ActorExit

    return terminate


def _call(actor: ActorBase) -> Any:
    return lambda function, *args, **kwargs: function(actor.instance, *args, **kwargs)


_BUILT_IN = {
    "__ray_ready__": _ready,
    "__shoal_ready__": _ready,
    "__ray_terminate__": _terminate,
    "__ray_call__": _call,
}
