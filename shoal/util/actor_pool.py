"""`ActorPool`: share work out among a fixed set of actors."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from shoal.exceptions import ActorDiedError
from shoal.runtime.client.api import get, wait

V = TypeVar("V")


class ActorPool:
    """A pool of actors; each gets a new piece of work when it has done its last.

    `fn(actor, value)` must return the ref of a call: `lambda actor, value: actor.double.remote(value)`.
    """

    def __init__(self, actors: Iterable[Any]) -> None:
        self._idle: list[Any] = list(actors)
        self._actor_of: dict[Any, tuple[int, Any]] = {}
        """Ref under way to its place in the order and its actor."""
        self._ref_of: dict[int, Any] = {}
        """Place in the order to ref under way, in order."""
        self._next_task = 0
        self._waiting: deque[tuple[Callable[[Any, Any], Any], Any]] = deque()

    def map(self, fn: Callable[[Any, V], Any], values: Iterable[V]) -> Iterator[Any]:
        """Return an iterator over the results, in the order of `values`. Earlier results are dropped."""
        self._drop_results()
        for value in values:
            self.submit(fn, value)
        return self._all(self.get_next)

    def map_unordered(self, fn: Callable[[Any, V], Any], values: Iterable[V]) -> Iterator[Any]:
        """Return an iterator over the results as they come."""
        self._drop_results()
        for value in values:
            self.submit(fn, value)
        return self._all(self.get_next_unordered)

    def submit(self, fn: Callable[[Any, V], Any], value: V) -> None:
        """Start a piece of work on an idle actor, or once one is idle."""
        if not self._idle:
            self._waiting.append((fn, value))
            return
        actor = self._idle.pop()
        ref = fn(actor, value)
        self._actor_of[ref] = (self._next_task, actor)
        self._ref_of[self._next_task] = ref
        self._next_task += 1

    def has_next(self) -> bool:
        """Say whether there are results to take."""
        return bool(self._actor_of)

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """Return the result of what was submitted first, of those that were not taken yet.

        Raises:
            StopIteration: there are none left. TimeoutError: it is not there in time; with `ignore_if_timedout` it is
                given up.
        """
        if not self.has_next():
            raise StopIteration("No more results to get")
        ref = next(iter(self._ref_of.values()))
        if timeout is not None and not wait([ref], timeout=timeout)[0]:
            message = "Timed out waiting for result"
            if not ignore_if_timedout:
                raise TimeoutError(message)
            self._give_up(ref)
            raise TimeoutError(f"{message}. The task {ref} has been ignored.")
        return self._taken(ref)

    def get_next_unordered(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """Return any result that is there, waiting for one.

        Raises:
            StopIteration: there are none left. TimeoutError: none is there in time.
        """
        if not self.has_next():
            raise StopIteration("No more results to get")
        ready, _ = wait(list(self._actor_of), num_returns=1, timeout=timeout)
        if not ready:
            message = "Timed out waiting for result"
            if not ignore_if_timedout:
                raise TimeoutError(message)
            ref = next(iter(self._actor_of))
            self._give_up(ref)
            raise TimeoutError(f"{message}. The task {ref} has been ignored.")
        return self._taken(ready[0])

    def has_free(self) -> bool:
        """Say whether an actor is idle and nothing waits for it."""
        return bool(self._idle) and not self._waiting

    def pop_idle(self) -> Any:
        """Take an idle actor out of the pool and return it; None if there is none."""
        return self._idle.pop() if self.has_free() else None

    def push(self, actor: Any) -> None:
        """Add an idle actor.

        Raises:
            ValueError: it is in the pool.
        """
        if actor in self._idle or any(actor == one for _, one in self._actor_of.values()):
            raise ValueError("Actor already belongs to current ActorPool")
        self._return(actor)

    def _all(self, take: Callable[[], Any]) -> Iterator[Any]:
        while self.has_next():
            yield take()

    def _taken(self, ref: Any) -> Any:
        """Return a result; its actor goes on, unless it is dead."""
        actor = self._take_out(ref)
        try:
            return get(ref)
        except ActorDiedError:
            actor = None
            raise
        finally:
            if actor is not None:
                self._return(actor)

    def _give_up(self, ref: Any) -> None:
        """Forget a call and have its actor go on."""
        self._return(self._take_out(ref))

    def _take_out(self, ref: Any) -> Any:
        place, actor = self._actor_of.pop(ref)
        del self._ref_of[place]
        return actor

    def _return(self, actor: Any) -> None:
        self._idle.append(actor)
        if self._waiting:
            self.submit(*self._waiting.popleft())

    def _drop_results(self) -> None:
        """Forget everything submitted before: a new `map` starts its own count."""
        self._waiting.clear()
        for ref in list(self._actor_of):
            self._give_up(ref)


__all__ = ["ActorPool"]
