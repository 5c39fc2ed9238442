"""`Queue`: a first-in-first-out queue that tasks, actors and drivers share; it lives in an actor."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterable
from typing import Any

from shoal.runtime.client.api import get, kill, remote, wait


class Empty(queue.Empty):
    """There is no item, or none came in time."""


class Full(queue.Full):
    """There is no room, or none came in time."""


class Queue:
    """A queue of at most `maxsize` items (0: no limit). The handle may be passed around; all mean the same queue.

    `actor_options` are those of the actor that holds the items.
    """

    def __init__(self, maxsize: int = 0, actor_options: dict[str, Any] | None = None) -> None:
        self.maxsize = maxsize
        self.actor: Any = remote(_QueueActor).options(**(actor_options or {})).remote(maxsize)

    def __len__(self) -> int:
        return self.qsize()

    def size(self) -> int:
        """Return how many items wait."""
        return self.qsize()

    def qsize(self) -> int:
        """Return how many items wait."""
        return int(get(self.actor.qsize.remote()))

    def empty(self) -> bool:
        """Say whether no item waits."""
        return bool(get(self.actor.empty.remote()))

    def full(self) -> bool:
        """Say whether there is no room."""
        return bool(get(self.actor.full.remote()))

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add an item, waiting for room for at most `timeout` seconds.

        Raises:
            Full: there is no room (in time). ValueError: `timeout` is negative.
        """
        get(self._put(item, block, timeout))

    async def put_async(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add an item as `put` does, without blocking the event loop."""
        await self._put(item, block, timeout)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the oldest item, waiting for one for at most `timeout` seconds.

        Raises:
            Empty: there is none (in time). ValueError: `timeout` is negative.
        """
        return get(self._get(block, timeout))

    async def get_async(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take an item as `get` does, without blocking the event loop."""
        return await self._get(block, timeout)

    def put_nowait(self, item: Any) -> None:
        """Add an item, or raise `Full`."""
        self.put(item, block=False)

    def put_nowait_batch(self, items: Iterable[Any]) -> None:
        """Add all items in order, or none and raise `Full`."""
        if not isinstance(items, Iterable):
            raise TypeError(f"items: expected an iterable, got `{type(items).__name__}`")
        get(self.actor.put_nowait_batch.remote(list(items)))

    def get_nowait(self) -> Any:
        """Take an item, or raise `Empty`."""
        return self.get(block=False)

    def get_nowait_batch(self, num_items: int) -> list[Any]:
        """Take exactly `num_items` items, or none and raise `Empty`."""
        if not isinstance(num_items, int):
            raise TypeError(f"num_items: expected a whole number, got `{type(num_items).__name__}`")
        if num_items < 0:
            raise ValueError(f"num_items: expected at least 0, got `{num_items}`")
        return list(get(self.actor.get_nowait_batch.remote(num_items)))

    def shutdown(self, force: bool = False, grace_period_s: float = 5) -> None:
        """End the queue's actor: after the calls under way, for which `grace_period_s` is left, or at once."""
        if self.actor is None:
            return
        if not force:
            done = self.actor.__ray_terminate__.remote()
            force = not wait([done], timeout=grace_period_s)[0]
        if force:
            kill(self.actor, no_restart=True)
        self.actor = None

    def _put(self, item: Any, block: bool, timeout: float | None) -> Any:
        if not block:
            return self.actor.put_nowait.remote(item)
        return self.actor.put.remote(item, _checked(timeout))

    def _get(self, block: bool, timeout: float | None) -> Any:
        if not block:
            return self.actor.get_nowait.remote()
        return self.actor.get.remote(_checked(timeout))


def _checked(timeout: float | None) -> float | None:
    if timeout is not None and timeout < 0:
        raise ValueError("'timeout' must be a non-negative number")
    return timeout


class _QueueActor:
    """The items. Async, so that any number of callers may wait."""

    def __init__(self, maxsize: int) -> None:
        self._items: asyncio.Queue[Any] = asyncio.Queue(maxsize)

    async def qsize(self) -> int:
        return self._items.qsize()

    async def empty(self) -> bool:
        return self._items.empty()

    async def full(self) -> bool:
        return self._items.full()

    async def put(self, item: Any, timeout: float | None = None) -> None:
        try:
            await asyncio.wait_for(self._items.put(item), timeout)
        except TimeoutError:
            raise Full from None

    async def get(self, timeout: float | None = None) -> Any:
        try:
            return await asyncio.wait_for(self._items.get(), timeout)
        except TimeoutError:
            raise Empty from None

    async def put_nowait(self, item: Any) -> None:
        try:
            self._items.put_nowait(item)
        except asyncio.QueueFull:
            raise Full from None

    async def get_nowait(self) -> Any:
        try:
            return self._items.get_nowait()
        except asyncio.QueueEmpty:
            raise Empty from None

    async def put_nowait_batch(self, items: list[Any]) -> None:
        room = self._items.maxsize - self._items.qsize()
        if self._items.maxsize > 0 and len(items) > room:
            size, most = self._items.qsize(), self._items.maxsize
            raise Full(f"Cannot add {len(items)} items to queue of size {size} and maxsize {most}.")
        for item in items:
            self._items.put_nowait(item)

    async def get_nowait_batch(self, num_items: int) -> list[Any]:
        if num_items > self._items.qsize():
            raise Empty(f"Cannot get {num_items} items from queue of size {self._items.qsize()}.")
        return [self._items.get_nowait() for _ in range(num_items)]


__all__ = ["Empty", "Full", "Queue"]
