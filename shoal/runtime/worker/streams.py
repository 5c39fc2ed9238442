"""Running generators: each item goes to the caller as it is made, no more ahead than the caller allows."""

from __future__ import annotations

import asyncio
import functools
import os
from typing import TYPE_CHECKING, Any

from shoal.runtime.client.generators import DynamicObjectRefGenerator
from shoal.runtime.client.reactor import Link
from shoal.wire import tasks as wire

if TYPE_CHECKING:
    from shoal.runtime.worker.replies import Replies


class Outflow:
    """What the caller has said about one stream."""

    __slots__ = ("consumed", "is_stopped", "limit", "waiter")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.consumed = 0
        self.is_stopped = False
        self.waiter: Any = None


class Outflows:
    """The streams that run in this process."""

    def __init__(self, replies: Replies) -> None:
        self._replies = replies
        self.running: dict[tuple[bytes, int], Outflow] = {}
        core = replies._core
        core.handlers[wire.CONSUMED] = self._on_consumed
        core.handlers[wire.STOP_STREAM] = self._on_stop

    def _on_consumed(self, link: Link, message: list[Any]) -> None:
        flow = self.running.get((link.peer, message[1]))
        if flow is not None:
            flow.consumed = max(flow.consumed, message[2])
            self._rouse(flow)

    def _on_stop(self, link: Link, message: list[Any]) -> None:
        flow = self.running.get((link.peer, message[1]))
        if flow is not None:
            flow.is_stopped = True
            self._rouse(flow)

    @staticmethod
    def _rouse(flow: Outflow) -> None:
        if flow.waiter is not None:
            flow.waiter()


def run_stream(
    replies: Replies, value: Any, link: Link, n: int, options: dict[str, Any], *, is_dynamic: bool
) -> tuple[int, Any]:
    """Send every item of a generator; return the task's own result.

    Raises:
        ValueError: the value is no generator; whatever it raises.
    """
    if not hasattr(value, "__iter__"):
        raise ValueError(f"a streaming task must be a generator; it returned a `{type(value).__name__}`")
    if is_dynamic:
        put = replies._session.values.put
        return replies.written(DynamicObjectRefGenerator([put(one) for one in value]), link, n)
    flows = replies.outflows
    flow = flows.running[link.peer, n] = Outflow(options.get("backpressure", -1))
    core = replies._core
    try:
        for index, item in enumerate(value):
            send_item(replies, link, n, index, item)
            if flow.limit > 0:
                core.wait(functools.partial(_has_room, flow, link, index))
            if flow.is_stopped or (link.peer, n) in replies._executor.cancelled:
                if (link.peer, n) in replies._executor.cancelled:
                    raise KeyboardInterrupt
                close = getattr(value, "close", None)
                if close is not None:
                    close()
                break
    finally:
        del flows.running[link.peer, n]
    return wire.NOTHING, None


async def run_async_stream(
    replies: Replies, value: Any, link: Link, n: int, options: dict[str, Any]
) -> tuple[int, Any]:
    """Send every item of an async generator; return the call's own result."""
    flows = replies.outflows
    flow = flows.running[link.peer, n] = Outflow(options.get("backpressure", -1))
    loop = asyncio.get_running_loop()
    room = asyncio.Event()
    flow.waiter = lambda: loop.call_soon_threadsafe(room.set)
    index = 0
    try:
        async for item in value:
            send_item(replies, link, n, index, item)
            index += 1
            while flow.limit > 0 and not flow.is_stopped and index - flow.consumed >= flow.limit:
                room.clear()
                await room.wait()
            if flow.is_stopped:
                await value.aclose()
                break
    finally:
        del flows.running[link.peer, n]
    return wire.NOTHING, None


def _has_room(flow: Outflow, link: Link, index: int) -> bool:
    return flow.is_stopped or link.is_closed or index + 1 - flow.consumed < flow.limit


def send_item(replies: Replies, link: Link, n: int, index: int, item: Any) -> None:
    """Send one item. Large ones go to the object store under an id that no number of the caller has."""
    token: Any = f"{n}.{index}"
    object_id = link.peer + bytes([0x80 | os.urandom(1)[0]]) + os.urandom(5)
    format, data = replies.written(item, link, n, token=token, object_id=object_id)
    link.out.append((wire.ITEM, n, index, format, data))
    link.flush()
