"""What `multiprocessing.Pool` on the cluster returns: one result, or an iterator over many."""

from __future__ import annotations

import collections
import queue
import threading
from collections.abc import Callable, Iterator
from multiprocessing import TimeoutError
from typing import Any

from shoal.exceptions import TaskError

CHUNKS_PER_PROCESS = 4
"""Into how many chunks per process a `map` is cut, unless `chunksize` is given (as in the standard library)."""


class Chunk:
    """Some calls of one function that travel together."""

    __slots__ = ("calls", "func", "place", "result")

    def __init__(self, func: Callable[..., Any], calls: list[Any], result: Any, place: int) -> None:
        self.func, self.calls, self.result, self.place = func, calls, result, place


class AsyncResult:
    """What `apply_async` and `map_async` return."""

    def __init__(
        self,
        count: int,
        callback: Callable[[Any], Any] | None,
        error_callback: Callable[[BaseException], Any] | None,
        *,
        is_single: bool = False,
    ) -> None:
        self._values: list[Any] = [None] * count
        self._left, self._is_single = count, is_single
        self._error: BaseException | None = None
        self._callback, self._error_callback = callback, error_callback
        self._event = threading.Event()
        if not count:
            self._finish()

    def get(self, timeout: float | None = None) -> Any:
        """Return the result.

        Raises:
            multiprocessing.TimeoutError: it is not there in time. The call's error.
        """
        if not self._event.wait(timeout):
            raise TimeoutError
        if self._error is not None:
            raise self._error
        return self._values[0] if self._is_single else self._values

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it is there, or for `timeout` seconds."""
        self._event.wait(timeout)

    def ready(self) -> bool:
        """Say whether it is there."""
        return self._event.is_set()

    def successful(self) -> bool:
        """Say whether it is a value. Raises ValueError if it is not there."""
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._error is None

    def take(self, chunk: Chunk, done: list[Any]) -> None:
        """Take the results of one chunk. With the pool's lock held."""
        for place, (is_ok, value) in enumerate(done, chunk.place):
            if is_ok:
                self._values[place] = value
            elif self._error is None:
                self._error = value.as_instanceof_cause()
        self._count(len(done))

    def fail(self, chunk: Chunk, error: BaseException) -> None:
        """Note that a chunk will never come back."""
        self._error = self._error or error
        self._count(len(chunk.calls))

    def _count(self, count: int) -> None:
        self._left -= count
        if self._left <= 0:
            self._finish()

    def _finish(self) -> None:
        self._event.set()
        if self._error is not None:
            if self._error_callback is not None:
                self._error_callback(self._error)
        elif self._callback is not None:
            self._callback(self._values[0] if self._is_single else self._values)


class ResultIterator:
    """What `imap` returns. A few chunks per process are under way ahead of what has been taken."""

    def __init__(
        self,
        submit: Callable[[Any, list[Any], int], None],
        source: Iterator[Any],
        chunksize: int,
        ahead: int,
        *,
        is_ordered: bool,
    ) -> None:
        self._submit, self._source, self._size = submit, source, chunksize
        self._is_ordered = is_ordered
        self._arrived: queue.SimpleQueue[tuple[int, list[Any]]] = queue.SimpleQueue()
        self._early: dict[int, list[Any]] = {}
        self._ready: collections.deque[Any] = collections.deque()
        self._next_sent = self._next_taken = self._open = 0
        self._is_drained = False
        for _ in range(ahead):
            self._send()

    def __iter__(self) -> ResultIterator:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """Return the next result.

        Raises:
            StopIteration: there are no more. multiprocessing.TimeoutError: none is there in time.
        """
        while not self._ready:
            if not self._open:
                raise StopIteration
            if self._is_ordered and self._next_taken in self._early:
                self._accept(self._early.pop(self._next_taken))
                continue
            try:
                place, done = self._arrived.get(timeout=timeout)
            except queue.Empty:
                raise TimeoutError from None
            if self._is_ordered and place != self._next_taken:
                self._early[place] = done
                continue
            self._accept(done)
        is_ok, value = self._ready.popleft()
        if not is_ok:
            raise value.as_instanceof_cause() if isinstance(value, TaskError) else value
        return value

    def take(self, chunk: Chunk, done: list[Any]) -> None:
        """Take the results of one chunk. With the pool's lock held."""
        self._arrived.put((chunk.place, done))

    def fail(self, chunk: Chunk, error: BaseException) -> None:
        """Note that a chunk will never come back."""
        self._arrived.put((chunk.place, [(False, error)] * len(chunk.calls)))

    def _accept(self, done: list[Any]) -> None:
        self._ready.extend(done)
        self._next_taken += 1
        self._open -= 1
        self._send()

    def _send(self) -> None:
        if self._is_drained:
            return
        calls: list[Any] = []
        for one in self._source:
            calls.append(((one,), {}))
            if len(calls) == self._size:
                break
        if not calls:
            self._is_drained = True
            return
        self._open += 1
        self._submit(self, calls, self._next_sent)
        self._next_sent += 1
