"""Streams: the refs of values that a running task yields, one by one, with back-pressure.

Items arrive as messages of their own and become refs of the caller at once; the task's result is the end of the stream,
or its error, which then is the last item. A retried task yields from the start: what is here already is dropped.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from shoal.runtime.client.core import Core, monotonic
from shoal.runtime.client.reactor import Link
from shoal.runtime.client.refs import ObjectRef, when_ready
from shoal.runtime.client.sources import Made, Source
from shoal.wire import tasks as wire

if TYPE_CHECKING:
    from shoal.runtime.client.session import Session

T = TypeVar("T")


class Stream:
    """The state of one stream in the caller's process."""

    __slots__ = (
        "backpressure",
        "consumed",
        "is_unwanted",
        "items",
        "link",
        "missing",
        "received",
        "repeated",
        "source",
        "task",
        "waiters",
        "waits_told",
    )

    def __init__(self, task: ObjectRef[Any], backpressure: int) -> None:
        self.task, self.backpressure = task, backpressure
        self.items: collections.deque[ObjectRef[Any]] = collections.deque()
        self.received = self.consumed = 0
        self.waits_told = 0
        self.link: Link | None = None
        self.source: Source | None = None
        """What makes its stored items again."""
        self.repeated = 0
        """How many items the present run of the task has brought, those included that were here already."""
        self.missing: dict[int, ObjectRef[Any]] = {}
        """Lost items, by index, that a run which begins anew is going to bring again."""
        self.is_unwanted = False
        self.waiters: list[Any] = []


class ObjectRefGenerator(Generic[T]):
    """Iterate over the refs of what a task yields; `async for` works as well.

    Each item can be read before the task ends. An error of the task is the value of the last ref.
    """

    def __init__(self, streams: Streams, task: ObjectRef[Any], stream: Stream) -> None:
        self._streams, self._task, self._stream = streams, task, stream
        self._is_over = False

    def __iter__(self) -> Iterator[ObjectRef[T]]:
        return self

    def __next__(self) -> ObjectRef[T]:
        return self._next(None)

    def _next_sync(self, timeout_s: float | None = None) -> ObjectRef[T] | None:
        """Return the next ref, None if none came in time."""
        try:
            return self._next(timeout_s)
        except TimeoutError:
            return None

    def __aiter__(self) -> ObjectRefGenerator[T]:
        return self

    async def __anext__(self) -> ObjectRef[T]:
        while True:
            ref = self._streams.take(self)
            if ref is not None:
                return ref
            if self._is_over:
                raise StopAsyncIteration
            await self._streams.arrival(self)

    def completed(self) -> ObjectRef[Any]:
        """Return the ref of the task itself: ready when it has ended."""
        return self._task

    def is_finished(self) -> bool:
        """Say whether the task has ended and every item was taken."""
        return self._task._ready and not self._stream.items and (self._is_over or self._task._format != wire.ERROR)

    def next_ready(self) -> bool:
        """Say whether the next item, or the end, is there."""
        return bool(self._stream.items) or self._task._ready

    def close(self) -> None:
        """Want no further items; the task is told to stop."""
        self._is_over = True
        self._streams.stop(self._task._n)

    async def aclose(self) -> None:
        """Want no further items, as `close` does."""
        self.close()

    def send(self, value: Any) -> Any:
        """Refuse: the task runs elsewhere and takes nothing in."""
        raise NotImplementedError("a stream of a task takes no values: `send` and `throw` are not supported")

    def throw(self, *error: Any) -> Any:
        """Refuse, as `send` does."""
        return self.send(error)

    async def asend(self, value: Any) -> Any:
        """Refuse, as `send` does."""
        return self.send(value)

    async def athrow(self, *error: Any) -> Any:
        """Refuse, as `send` does."""
        return self.send(error)

    def _next(self, limit_s: float | None) -> ObjectRef[T]:
        streams = self._streams
        while True:
            ref = streams.take(self)
            if ref is not None:
                return ref
            if self._is_over:
                raise StopIteration
            streams.await_next(self, limit_s)

    def __reduce__(self) -> Any:
        raise TypeError("an ObjectRefGenerator cannot be passed on; pass the refs that it yields")

    def __del__(self) -> None:
        self._streams.dropped.append(self._task._n)


class Streams:
    """Every stream of one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._core: Core = session.core
        self._open: dict[int, Stream] = {}
        self._stopped: dict[int, int] = {}
        """Streams that nobody wants, until they end: how many items had arrived."""
        self.dropped: collections.deque[int] = collections.deque()
        """Streams whose generators are gone, by number."""
        session.core.handlers[wire.ITEM] = self._on_item
        session.core.on_tick.append(self._tick)

    def open(self, ref: ObjectRef[Any], recipe: Any) -> ObjectRefGenerator[Any]:
        """Return the generator of a streaming task that is about to be submitted. With the core's lock held."""
        stream = Stream(ref, (recipe.options or {}).get("backpressure", -1))
        self._open[ref._n] = stream
        when_ready(ref, lambda: self._ended(ref._n, stream))
        return ObjectRefGenerator(self, ref, stream)

    # ---------------------------------------------------------------------------------------------- arriving

    def _on_item(self, link: Link, message: list[Any]) -> None:
        _, n, index, format, data, *again = message
        stream = self._open.get(n)
        replays, token = self._session.replays, (self._core.process, f"{n}.{index}")
        if link.is_lossy and link.state is not None:  # an actor, which sends it again
            link.out.append((wire.ITEMS_HERE, n, index + 1))
            self._core.touch(link)
        if again and index < (stream.repeated if stream is not None else self._stopped.get(n, index + 1)):
            return  # this very item is here, or was
        if stream is None:
            if n in self._stopped:
                self._stopped[n] = index + 1
            if not replays.item(link, n, index, format, data):
                replays.let_go(format, data, token)
                link.out.append((wire.STOP_STREAM, n))
                self._core.touch(link)
            return
        stream.link, stream.repeated = link, index + 1
        if index != stream.received:
            if index == 0 and stream.source is not None:
                # Lost ones that nobody has missed so far come again in passing, too.
                stream.missing = {**self._session.stored.lost_items(stream.source), **stream.missing}
            lost = stream.missing.pop(index, None)
            if lost is not None:
                lost._hold = None
                replays.keep(lost, format, data, token, Made(stream.source, index) if stream.source else None)
                if stream.is_unwanted and not stream.missing:
                    self.stop(n)
            else:
                replays.let_go(format, data, token)  # a retry yields again what is here already
            if index == 0:
                self._tell_consumed(n, stream)  # and must not wait for anybody to take that
            return
        stream.received += 1
        core = self._core
        made = None
        if format == wire.STORED:
            task = link.pending.get(n)
            if stream.source is None and type(task) is ObjectRef and task._recipe.work is not None:
                stream.source = self._session.stored.source_of(task, task._message, task._pins)
            made = Made(stream.source, index) if stream.source is not None else None
        ref: ObjectRef[Any] = ObjectRef(next(core.ids), core.process)
        replays.keep(ref, format, data, token, made)
        stream.items.append(ref)
        self._rouse(stream)

    def _ended(self, n: int, stream: Stream) -> None:
        self._stopped.pop(n, None)
        missing, stream.missing = stream.missing, {}
        for ref in missing.values():
            if not ref._ready:
                self._session.replays.never_came(ref, stream.task, stream.task._recipe.name)
        self._rouse(stream)

    def brings_again(self, ref: ObjectRef[Any]) -> bool:
        """Say whether a lost item comes again by itself, for its stream's own task begins anew. With the lock held.

        Another run only for its sake could wait for ever: for what the stream's task holds while its reader is here.
        """
        made: Made = ref._recipe
        stream = self._open.get(made.source.n)
        if stream is None or stream.source is not made.source or stream.task._ready:
            return False
        is_under_way = stream.link is not None and not stream.link.is_closed
        if is_under_way and stream.repeated > made.index:
            return False  # the present run has passed it
        stream.missing[made.index] = ref
        hold, ref._hold = ref._hold, None
        del hold
        ref._ready, ref._data = False, None
        return True

    def _rouse(self, stream: Stream) -> None:
        waiters, stream.waiters = stream.waiters, []
        for call in waiters:
            call()

    # ---------------------------------------------------------------------------------------------- taking

    def take(self, generator: ObjectRefGenerator[Any]) -> ObjectRef[Any] | None:
        """Return the next ref if it is there; notes the end."""
        stream, task = generator._stream, generator._task
        with self._core.lock:
            if stream.items:
                ref = stream.items.popleft()
                stream.consumed += 1
                self._tell_consumed(task._n, stream)
                return ref
            if task._ready and not generator._is_over:
                generator._is_over = True
                self._open.pop(task._n, None)
                if task._format == wire.ERROR:
                    return task  # its value is the error, raised by whoever gets it
            return None

    def sent_again(self, link: Link, n: int) -> None:
        """The call of an actor's stream goes out, maybe not for the first time: what was said of it may be lost."""
        stream = self._open.get(n)
        if stream is not None and stream.link is not None:
            stream.link = link
            self._tell_consumed(n, stream)
        elif n in self._stopped:
            link.out.append((wire.STOP_STREAM, n))

    def _tell_consumed(self, n: int, stream: Stream) -> None:
        if stream.backpressure > 0 and stream.link is not None and not stream.link.is_closed:
            stream.link.out.append((wire.CONSUMED, n, stream.consumed))
            stream.link.flush()

    def await_next(self, generator: ObjectRefGenerator[Any], limit_s: float | None) -> None:
        """Wait for the next item or the end.

        Raises:
            TimeoutError: neither came in time.
        """
        stream, task = generator._stream, generator._task
        resume = self._session.values.before_block()
        try:
            if not self._core.wait(lambda: bool(stream.items) or task._ready, limit_s):
                raise TimeoutError("the next item was not ready in time")
        finally:
            if resume is not None:
                resume()

    def arrival(self, generator: ObjectRefGenerator[Any]) -> asyncio.Future[None]:
        """Return a future of the next item or the end."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def there() -> None:
            if not future.done():
                future.set_result(None)

        with self._core.lock:
            if generator._stream.items or generator._task._ready:
                future.set_result(None)
            else:
                generator._stream.waiters.append(lambda: loop.call_soon_threadsafe(there))
        if self._core.dirty:
            self._core.flush()
        return future

    def stop(self, n: int) -> None:
        """Nobody wants further items of a stream."""
        with self._core.lock:
            stream = self._open.get(n)
            if stream is not None and stream.missing:
                stream.is_unwanted = True  # as soon as the lost ones are here
                return
            self._open.pop(n, None)
            if stream is None or stream.task._ready:
                return
            self._stopped[n] = stream.repeated
            if stream.link is not None and not stream.link.is_closed:
                stream.link.out.append((wire.STOP_STREAM, n))
                self._core.touch(stream.link)

    def _tick(self, now: float) -> None:
        while self.dropped:
            self.stop(self.dropped.popleft())

    # ---------------------------------------------------------------------------------------------- wait

    def wait(self, things: list[Any], count: int, limit_s: float | None) -> tuple[list[Any], list[Any]]:
        """Return (ready, not ready) of refs and streams; a stream is ready when its next item is."""
        core = self._core
        end = None if limit_s is None else monotonic() + limit_s

        def is_ready(thing: Any) -> bool:
            return thing._ready if type(thing) is ObjectRef else thing.next_ready()

        for thing in things:
            if type(thing) is ObjectRef and not thing._ready and thing._owner != core.process:
                self._session.values.fetch(thing)
        left = None if end is None else max(0.0, end - monotonic())
        core.wait(lambda: sum(map(is_ready, things)) >= count, left)
        ready = [thing for thing in things if is_ready(thing)][:count]
        chosen = set(map(id, ready))
        return ready, [thing for thing in things if id(thing) not in chosen]


class DynamicObjectRefGenerator:
    """The value of a task with `num_returns="dynamic"`: the refs of what it yielded."""

    def __init__(self, refs: list[ObjectRef[Any]]) -> None:
        self._refs = refs

    def __iter__(self) -> Iterator[ObjectRef[Any]]:
        return iter(self._refs)

    def __len__(self) -> int:
        return len(self._refs)

    def __getitem__(self, place: int) -> ObjectRef[Any]:
        return self._refs[place]
