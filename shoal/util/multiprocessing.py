"""`Pool`: `multiprocessing.Pool` on the cluster. Each of its processes is an actor, anywhere.

As in the standard library: `chunksize` calls make one message, `initializer` runs once per process, and
`maxtasksperchild` chunks end a process. An error is of the cause's type, with the remote traceback in its text.
"""

from __future__ import annotations

import collections
import math
import threading
from collections.abc import Callable, Iterable
from multiprocessing import TimeoutError
from typing import Any

from shoal.exceptions import TaskError
from shoal.runtime.client.api import cluster_resources, init, is_initialized, kill, remote
from shoal.util.pool_results import CHUNKS_PER_PROCESS, AsyncResult, Chunk, ResultIterator

AHEAD = 2
"""Chunks that a process holds at once: one runs, one is there already when it is done."""


class Pool:
    """A pool of processes. Use it in a `with`, or end it with `close` and `join`, or `terminate`.

    `processes` defaults to the CPUs of the cluster; `ray_address` (or `address`) names the cluster;
    `ray_remote_args` are options of its actors.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
        ray_address: str | None = None,
        ray_remote_args: dict[str, Any] | None = None,
        *,
        address: str | None = None,
    ) -> None:
        if not is_initialized():
            init(address or ray_address)
        if processes is None:
            processes = max(1, int(cluster_resources().get("CPU", 1)))
        if processes <= 0:
            raise ValueError("Processes in the pool must be >0.")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if maxtasksperchild is not None and maxtasksperchild < 1:
            raise ValueError("maxtasksperchild must be a positive int or None")
        self._initializer, self._initargs = initializer, tuple(initargs)
        self._chunks_max = maxtasksperchild
        self._actor_class = remote(**ray_remote_args)(_Process) if ray_remote_args else remote(_Process)
        self._lock = threading.Condition(threading.RLock())
        self._waiting: collections.deque[Chunk] = collections.deque()
        self._is_closed = False
        self._is_terminated = False
        self._members = [self._member() for _ in range(processes)]
        self._under_way: set[Chunk] = set()

    # ---------------------------------------------------------------------------------------------- one call

    def apply(self, func: Callable[..., Any], args: Iterable[Any] = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Return `func(*args, **kwargs)`, run in one of the processes."""
        return self.apply_async(func, args, kwargs).get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwargs: dict[str, Any] | None = None,
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
    ) -> AsyncResult:
        """Start a call; `callback` gets its result, `error_callback` its error."""
        self._check_open()
        result = AsyncResult(1, callback, error_callback, is_single=True)
        self._submit(func, [(tuple(args), dict(kwargs or {}))], result, 0)
        return result

    # ---------------------------------------------------------------------------------------------- many calls

    def map(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None) -> list[Any]:
        """Return `[func(one) for one in iterable]`."""
        return list(self.map_async(func, iterable, chunksize).get())

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
    ) -> AsyncResult:
        """Start a `map`."""
        return self._map(func, [((one,), {}) for one in iterable], chunksize, callback, error_callback)

    def starmap(
        self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[Any]:
        """Return `[func(*args) for args in iterable]`."""
        return list(self.starmap_async(func, iterable, chunksize).get())

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
    ) -> AsyncResult:
        """Start a `starmap`."""
        return self._map(func, [(tuple(args), {}) for args in iterable], chunksize, callback, error_callback)

    def imap(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = 1) -> ResultIterator:
        """Return an iterator over the results in order; the iterable is read as results are taken."""
        return self._imap(func, iterable, chunksize, is_ordered=True)

    def imap_unordered(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = 1
    ) -> ResultIterator:
        """Return an iterator over the results as they come."""
        return self._imap(func, iterable, chunksize, is_ordered=False)

    # ---------------------------------------------------------------------------------------------- the end

    def close(self) -> None:
        """Take no more work; the processes end when what is there is done."""
        with self._lock:
            self._is_closed = True
            self._end_if_done()

    def terminate(self) -> None:
        """End the processes at once; what is not done fails."""
        with self._lock:
            self._is_closed = self._is_terminated = True
            lost = [*self._waiting, *self._under_way]
            self._waiting.clear()
            self._under_way.clear()
            for chunk in lost:
                chunk.result.fail(chunk, RuntimeError("the pool was terminated"))
            self._end_if_done()

    def join(self) -> None:
        """Wait until the processes have ended, after `close` or `terminate`."""
        with self._lock:
            if not self._is_closed:
                raise ValueError("Pool is still running")
            self._lock.wait_for(lambda: not self._members)

    def __enter__(self) -> Pool:
        self._check_open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.terminate()

    # ---------------------------------------------------------------------------------------------- inside

    def _check_open(self) -> None:
        if self._is_closed:
            raise ValueError("Pool not running")

    def _map(
        self,
        func: Callable[..., Any],
        calls: list[Any],
        chunksize: int | None,
        callback: Callable[[Any], Any] | None,
        error_callback: Callable[[BaseException], Any] | None,
    ) -> AsyncResult:
        self._check_open()
        size = chunksize or max(1, math.ceil(len(calls) / (max(1, len(self._members)) * CHUNKS_PER_PROCESS)))
        if size < 1:
            raise ValueError("Chunksize must be 1+")
        result = AsyncResult(len(calls), callback, error_callback)
        for place in range(0, len(calls), size):
            self._submit(func, calls[place : place + size], result, place)
        return result

    def _imap(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None, *, is_ordered: bool
    ) -> ResultIterator:
        self._check_open()
        if chunksize is None or chunksize < 1:
            raise ValueError("Chunksize must be 1+")

        def send(results: Any, calls: list[Any], place: int) -> None:
            self._submit(func, calls, results, place)

        ahead = max(1, len(self._members)) * CHUNKS_PER_PROCESS
        return ResultIterator(send, iter(iterable), chunksize, ahead, is_ordered=is_ordered)

    def _submit(self, func: Callable[..., Any], calls: list[Any], result: Any, place: int) -> None:
        with self._lock:
            self._waiting.append(Chunk(func, calls, result, place))
            self._hand_out()

    def _member(self) -> _Member:
        return _Member(self._actor_class.remote(self._initializer, self._initargs))

    def _hand_out(self) -> None:
        """Give waiting chunks to the processes with the least to do. With the lock held."""
        while self._waiting:
            member = min(self._members, key=lambda one: one.count, default=None)
            if member is None or member.count >= AHEAD:
                return
            chunk = self._waiting.popleft()
            member.count += 1
            member.given += 1
            if self._chunks_max is not None and member.given >= self._chunks_max:
                self._members[self._members.index(member)] = self._member()
                member.is_retiring = True
            self._under_way.add(chunk)
            future = member.actor.run.remote(chunk.func, chunk.calls).future()
            future.add_done_callback(lambda done, chunk=chunk, member=member: self._done(chunk, member, done))

    def _done(self, chunk: Chunk, member: _Member, done: Any) -> None:
        with self._lock:
            member.count -= 1
            if chunk in self._under_way:
                self._under_way.discard(chunk)
                error = done.exception()
                if error is not None:
                    chunk.result.fail(chunk, error)
                else:
                    chunk.result.take(chunk, done.result())
            if member.is_retiring and not member.count:
                _end(member.actor)
            self._hand_out()
            self._end_if_done()

    def _end_if_done(self) -> None:
        if self._is_closed and not self._waiting and not self._under_way:
            for member in self._members:
                _end(member.actor)
            self._members.clear()
            self._lock.notify_all()


class _Member:
    """One process of the pool: its actor and how many chunks it holds."""

    __slots__ = ("actor", "count", "given", "is_retiring")

    def __init__(self, actor: Any) -> None:
        self.actor, self.count, self.given, self.is_retiring = actor, 0, 0, False


class _Process:
    """What runs in the actor."""

    def __init__(self, initializer: Callable[..., Any] | None, initargs: tuple[Any, ...]) -> None:
        if initializer is not None:
            initializer(*initargs)

    def run(self, func: Callable[..., Any], calls: list[Any]) -> list[Any]:
        """Return (True, result) or (False, error) for each call."""
        done: list[Any] = []
        for args, kwargs in calls:
            try:
                done.append((True, func(*args, **kwargs)))
            except Exception as error:
                done.append((False, TaskError.of(error, getattr(func, "__qualname__", repr(func)))))
        return done


def _end(actor: Any) -> None:
    try:
        kill(actor)
    except Exception:
        pass  # the cluster is gone, and the actor with it


__all__ = ["AsyncResult", "Pool", "ResultIterator", "TimeoutError"]
