"""Refs as futures: for asyncio, and for threads."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from typing import Any

from shoal.runtime.client.api import session
from shoal.runtime.client.refs import ObjectRef, when_ready
from shoal.runtime.client.soon import read_soon
from shoal.wire.tasks import STORED


def as_asyncio(ref: ObjectRef[Any]) -> asyncio.Future[Any]:
    """Return a future of the value on the running loop. Cancelling it leaves the task alone."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    here = session()

    def deliver(read: Callable[[], Any]) -> None:
        if not future.done():
            _deliver(future, read)

    def there() -> None:
        read_soon(here, ref, lambda read: _from_any_thread(loop, lambda: deliver(read)))

    with here.core.lock:
        if not ref._ready:
            if ref._owner != here.core.process:
                here.values.fetch(ref)
            when_ready(ref, there)
        elif ref._format == STORED:
            there()
        is_here = ref._ready and ref._format != STORED
    if here.core.dirty:
        here.core.flush()
    if is_here and not future.done():
        deliver(lambda: here.values.value_of(ref))
    return future


def as_future(ref: ObjectRef[Any]) -> concurrent.futures.Future[Any]:
    """Return a `concurrent.futures.Future` of the value."""
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()
    future.set_running_or_notify_cancel()
    here = session()

    with here.core.lock:
        if not ref._ready and ref._owner != here.core.process:
            here.values.fetch(ref)
        # What it takes to read it may be long, and holds up nobody; to unpickle it may run user code.
        when_ready(ref, lambda: read_soon(here, ref, lambda read: here.later(lambda: _deliver(future, read))))
    return future


def _from_any_thread(loop: asyncio.AbstractEventLoop, call: Any) -> None:
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        pass  # the loop is closed: nobody waits any more


def _deliver(future: Any, read: Callable[[], Any]) -> None:
    try:
        value = read()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(value)
