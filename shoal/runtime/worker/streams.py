"""Running generators: each item goes to the caller as it is made, no more ahead than the caller allows."""

from __future__ import annotations

import asyncio
import collections
import os
from typing import TYPE_CHECKING, Any

from shoal.runtime.client.generators import DynamicObjectRefGenerator
from shoal.runtime.client.reactor import Link
from shoal.wire import tasks as wire

if TYPE_CHECKING:
    from shoal.runtime.worker.replies import Replies


STALLED_S = 0.1
"""How long a stream waits for its reader before it gives its CPU back."""
UNSURE_MAX = 1000
"""How many streams are kept that may have to be sent again, the newest."""
UNSURE_BYTES_MAX = 8 * 2**20
"""How much of one is kept: a run waits for its caller then, which is away or slow."""
ITEM_BYTES = 100
"""About what a small item takes."""


class Outflow:
    """One stream that runs here, or ran and may have to be sent again."""

    __slots__ = ("bytes", "consumed", "is_stopped", "key", "limit", "link", "unsure", "waiter")

    def __init__(self, key: tuple[bytes, int], link: Link, limit: int) -> None:
        self.key, self.link, self.limit = key, link, limit
        self.consumed = 0
        self.is_stopped = False
        self.waiter: Any = None
        self.unsure: collections.deque[tuple[Any, ...]] | None = None
        """Items that may not have arrived, where the connection can lose them and the run cannot be repeated."""
        self.bytes = 0

    @property
    def is_over(self) -> bool:
        """Whether nobody will take a further item."""
        return self.is_stopped or (self.link.is_closed and self.unsure is None)

    def may_go_on(self, count: int) -> bool:
        """Say whether the run need not wait, after `count` items."""
        has_room = self.limit <= 0 or count - self.consumed < self.limit
        return self.is_over or (has_room and self.bytes <= UNSURE_BYTES_MAX)


class Outflows:
    """The streams of this process."""

    def __init__(self, replies: Replies) -> None:
        self._replies = replies
        self.running: dict[tuple[bytes, int], Outflow] = {}
        self.unsure: dict[tuple[bytes, int], Outflow] = {}
        """Those whose items may have to be sent again, running or not."""
        core = self._core = replies._core
        core.handlers[wire.CONSUMED] = self._on_consumed
        core.handlers[wire.STOP_STREAM] = self._on_stop
        core.handlers[wire.ITEMS_HERE] = self._on_here
        core.on_link_closed.append(self._link_closed)
        replies._session.owner.on_died.append(self._process_died)
        alive = core.handlers[wire.ALIVE]

        def is_alive(link: Link, message: list[Any]) -> None:
            alive(link, message)
            self._ask_fate(message[1])

        core.handlers[wire.ALIVE] = is_alive

    def open(self, link: Link, n: int, limit: int) -> Outflow:
        """Return a new stream's record."""
        key = link.peer, n
        flow = self.running[key] = Outflow(key, link, limit)
        if link.is_lossy and self._replies._executor.actor is not None:
            flow.unsure = collections.deque()
            self.unsure[key] = flow
            while len(self.unsure) > UNSURE_MAX:
                del self.unsure[next(iter(self.unsure))]
        return flow

    def close(self, flow: Outflow) -> None:
        """The stream's run has ended."""
        self.running.pop(flow.key, None)
        if not flow.unsure:
            self.unsure.pop(flow.key, None)

    def send_again(self, link: Link, n: int) -> None:
        """The caller is back, on a new connection: it gets what may have been lost. With the core's lock held."""
        flow = self.unsure.get((link.peer, n))
        if flow is None or flow.unsure is None or flow.link is link:
            return
        flow.link = link
        link.out.extend((*message, True) for message in flow.unsure)
        self._core.touch(link)
        self._rouse(flow)

    def is_cancelled(self, flow: Outflow) -> bool:
        """Say whether its call was cancelled."""
        return flow.key in self._replies._executor.cancelled

    def _on_consumed(self, link: Link, message: list[Any]) -> None:
        flow = self.running.get((link.peer, message[1]))
        if flow is not None:
            flow.consumed = max(flow.consumed, message[2])
            self._rouse(flow)

    def _on_stop(self, link: Link, message: list[Any]) -> None:
        flow = self.running.get((link.peer, message[1]))
        if flow is not None:
            self._stop(flow)

    def _on_here(self, link: Link, message: list[Any]) -> None:
        _, n, count = message
        flow = self.unsure.get((link.peer, n))
        if flow is None or flow.unsure is None:
            return
        while flow.unsure and flow.unsure[0][2] < count:
            flow.bytes -= _size(flow.unsure.popleft())
        if flow.key not in self.running and not flow.unsure:
            del self.unsure[flow.key]
        self._rouse(flow)

    def _link_closed(self, link: Link) -> None:
        """A caller whose connection cannot break is gone; another one's fate is asked for."""
        for flow in tuple(self.running.values()):
            if flow.link is link:
                self._rouse(flow)
        self._ask_fate(link.peer)

    def _ask_fate(self, process: bytes) -> None:
        if any(flow.key[0] == process and flow.link.is_closed for flow in self.unsure.values()):
            agent = self._core.agent
            agent.out.append((wire.FATE, process))
            agent.flush()

    def _process_died(self, process: bytes, why: str) -> None:
        for flow in [flow for flow in self.unsure.values() if flow.key[0] == process]:
            del self.unsure[flow.key]
            self._stop(flow)

    def _stop(self, flow: Outflow) -> None:
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
    flow = flows.open(link, n, options.get("backpressure", -1))
    try:
        for index, item in enumerate(value):
            send_item(replies, flow, index, item)
            if not flow.may_go_on(index + 1):
                _wait_for_room(replies, flow, index + 1)
            if flows.is_cancelled(flow):
                raise KeyboardInterrupt
            if flow.is_over:
                close = getattr(value, "close", None)
                if close is not None:
                    close()
                break
    finally:
        flows.close(flow)
    return wire.NOTHING, None


def _wait_for_room(replies: Replies, flow: Outflow, count: int) -> None:
    """Wait until the next item may be made. Who takes none for a while does not keep our CPU from others."""
    core, flows = replies._core, replies.outflows

    def may_go_on() -> bool:
        return flow.may_go_on(count) or flows.is_cancelled(flow)

    if core.wait(may_go_on, STALLED_S):
        return
    resume = replies._session.values.before_block()
    try:
        core.wait(may_go_on)
    finally:
        if resume is not None:
            resume()


async def run_async_stream(
    replies: Replies, value: Any, link: Link, n: int, options: dict[str, Any]
) -> tuple[int, Any]:
    """Send every item of an async generator; return the call's own result."""
    flows = replies.outflows
    flow = flows.open(link, n, options.get("backpressure", -1))
    loop = asyncio.get_running_loop()
    room = asyncio.Event()
    flow.waiter = lambda: loop.call_soon_threadsafe(room.set)
    index = 0
    try:
        async for item in value:
            send_item(replies, flow, index, item)
            index += 1
            while not flow.may_go_on(index):
                room.clear()
                if not flow.may_go_on(index):  # else it was said between the question and this
                    await room.wait()
            if flow.is_over:
                await value.aclose()
                break
    finally:
        flows.close(flow)
    return wire.NOTHING, None


def send_item(replies: Replies, flow: Outflow, index: int, item: Any) -> None:
    """Send one item. Large ones go to the object store under an id that no number of the caller has."""
    peer, n = flow.key
    token: Any = f"{n}.{index}"
    object_id = peer + bytes([0x80 | os.urandom(1)[0]]) + os.urandom(5)
    format, data = replies.written(item, flow.link, n, token=token, object_id=object_id)
    message = (wire.ITEM, n, index, format, data)
    with replies._core.lock:  # either it goes out on a connection, or it is sent again on the next one
        link = flow.link
        if flow.unsure is not None:
            flow.unsure.append(message)
            flow.bytes += _size(message)
        if not link.is_closed:
            link.out.append(message)
    link.flush()


def _size(message: tuple[Any, ...]) -> int:
    data = message[4]
    return ITEM_BYTES + (len(data) if isinstance(data, (bytes, str)) else 0)
