"""Refs as futures: for asyncio, and for threads."""

from __future__ import annotations

import asyncio
import concurrent.futures
from typing import Any

from shoal.runtime.client.api import session
from shoal.runtime.client.refs import ObjectRef, when_ready


def as_asyncio(ref: ObjectRef[Any]) -> asyncio.Future[Any]:
    """Return a future of the value on the running loop. Cancelling it leaves the task alone."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    here = session()

    def deliver() -> None:
        if not future.done():
            _deliver(future, ref, here)

    with here.core.lock:
        if not ref._ready:
            if ref._owner != here.core.process:
                here.values.fetch(ref)
            when_ready(ref, lambda: _from_any_thread(loop, deliver))
            if here.core.dirty:
                here.core.flush()
            return future
    deliver()
    return future


def as_future(ref: ObjectRef[Any]) -> concurrent.futures.Future[Any]:
    """Return a `concurrent.futures.Future` of the value."""
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()
    future.set_running_or_notify_cancel()
    here = session()

    with here.core.lock:
        if not ref._ready and ref._owner != here.core.process:
            here.values.fetch(ref)
        when_ready(ref, lambda: here.later(lambda: _deliver(future, ref, here)))
    return future


def _from_any_thread(loop: asyncio.AbstractEventLoop, call: Any) -> None:
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        pass  # the loop is closed: nobody waits any more


def _deliver(future: Any, ref: ObjectRef[Any], here: Any) -> None:
    try:
        value = here.values.value_of(ref)
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(value)
