"""`Executor`: the cluster as a `concurrent.futures.Executor`, for all that take one (Dask, joblib, asyncio, ...)."""

from __future__ import annotations

import concurrent.futures
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from shoal.runtime.client.api import cancel, remote
from shoal.runtime.client.refs import ObjectRef

T = TypeVar("T")


class Executor(concurrent.futures.Executor):
    """Runs calls as tasks of the cluster.

    At most `max_workers` run or wait in the cluster at once; None leaves that to the cluster, so that all of them are
    demand. `options` are those of the tasks: `Executor(num_cpus=2)`. A future can be cancelled until its
    result is there; its task is then cancelled as well.
    """

    def __init__(self, max_workers: int | None = None, **options: Any) -> None:
        if max_workers is not None and max_workers < 1:
            raise ValueError(f"max_workers: expected at least 1 or None, got `{max_workers}`")
        self._max_workers = max_workers
        self._call = remote(**options)(_call) if options else remote(_call)
        self._lock = threading.Lock()
        self._waiting: deque[tuple[_Future, Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = deque()
        self._running: set[_Future] = set()
        self._is_shut = False
        self._is_over = threading.Condition(self._lock)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[T]:
        """Run `fn(*args, **kwargs)` in the cluster. Raises RuntimeError after `shutdown`."""
        future = _Future()
        with self._lock:
            if self._is_shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if self._max_workers is not None and len(self._running) >= self._max_workers:
                self._waiting.append((future, fn, args, kwargs))
                return future
            self._running.add(future)
        self._start(future, fn, args, kwargs)
        return future

    def map(
        self, fn: Callable[..., T], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[T]:
        """Return the results of `fn` over the iterables, in order; `chunksize` calls make one task.

        Raises:
            TimeoutError: a result is not there `timeout` seconds after this call.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout)
        calls = list(zip(*iterables, strict=False))
        chunks = [calls[place : place + chunksize] for place in range(0, len(calls), chunksize)]
        return _flat(super().map(_call_each, [fn] * len(chunks), chunks, timeout=timeout))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work. `cancel_futures` cancels what has no result yet; `wait` waits for the rest."""
        with self._lock:
            self._is_shut = True
            dropped = [entry[0] for entry in self._waiting] + list(self._running) if cancel_futures else []
        for future in dropped:
            future.cancel()
        if wait:
            with self._is_over:
                self._is_over.wait_for(lambda: not self._running and not self._waiting)

    def _start(self, future: _Future, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Hand a call to the cluster."""
        try:
            ref = self._call.remote(fn, *args, **kwargs)
        except BaseException as error:
            future.set_running_or_notify_cancel()
            self._done(future)
            future.set_exception(error)
            return
        future.ref = ref
        ref.future().add_done_callback(lambda done: self._deliver(future, done))

    def _deliver(self, future: _Future, done: concurrent.futures.Future[Any]) -> None:
        self._done(future)
        if not future.set_running_or_notify_cancel():
            return
        error = done.exception()
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(done.result())

    def _done(self, future: _Future) -> None:
        """One is over: start the next that waits."""
        while True:
            with self._lock:
                self._running.discard(future)
                entry = None
                while self._waiting and entry is None:
                    entry = self._waiting.popleft()
                    if not entry[0].is_wanted():
                        entry = None
                if entry is not None:
                    self._running.add(entry[0])
                elif not self._running:
                    self._is_over.notify_all()
            if entry is None:
                return
            self._start(*entry)
            return


class _Future(concurrent.futures.Future[Any]):
    """A future that stays pending until its result is there, so that `cancel` works until then."""

    ref: ObjectRef[Any] | None = None

    def cancel(self) -> bool:
        """Cancel: the caller gets CancelledError, and the task is taken out of the cluster if it has not begun."""
        if not super().cancel():
            return False
        if self.ref is not None:
            cancel(self.ref)
        return True

    def is_wanted(self) -> bool:
        """Say whether it has not been cancelled; a cancelled one is told to its waiters."""
        if self.cancelled():
            self.set_running_or_notify_cancel()
            return False
        return True


def _call(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    return fn(*args, **kwargs)


def _call_each(fn: Callable[..., Any], calls: list[tuple[Any, ...]]) -> list[Any]:
    return [fn(*args) for args in calls]


def _flat(chunks: Iterator[list[T]]) -> Iterator[T]:
    for chunk in chunks:
        yield from chunk


__all__ = ["Executor"]
