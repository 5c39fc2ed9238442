"""Reading a value without waiting for it, for event loops: its bytes are brought here, or made again, meanwhile."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from shoal.runtime.client.core import named_error
from shoal.runtime.client.large import REBUILDS_MAX, loaded, pin_arguments, told_why
from shoal.runtime.client.refs import ObjectRef, when_ready
from shoal.runtime.store.reader import Reader
from shoal.runtime.store.segments import Located
from shoal.wire import tasks as wire

if TYPE_CHECKING:
    from shoal.runtime.client.session import Session

Read = Callable[[], Any]
"""Returns a value, or raises its error; waits for nothing but its unpickling."""


def read_soon(
    session: Session, ref: ObjectRef[Any], call: Callable[[Read], None], rebuilds: int = REBUILDS_MAX
) -> None:
    """Call with what reads a ready ref, as soon as its value is in this node's store.

    With the core's lock held, now and in `call`. A value that is lost is made again, as often as `get` would have it.
    """
    from shoal.exceptions import ObjectLostError

    stored, values = session.stored, session.values
    reader = stored._reader
    if ref._format != wire.STORED or reader is None:
        call(lambda: values.value_of(ref))
        return
    if not isinstance(reader, Reader):  # of a driver elsewhere: it fetches piece by piece, and waits for each
        session.later(lambda: call(_outcome(lambda: values.value_of(ref))))
        return
    data, holds = ref._data, ref._hold
    place, size, nested = data
    view = reader.held_view(place[0])
    if view is not None:
        call(lambda: loaded(view, nested, holds))
        return

    def answered(is_ok: bool, value: Any) -> None:
        error: Exception
        if is_ok:
            try:
                pinned = reader.view(place[0], msgspec.convert(value, Located))
            except FileNotFoundError as gone:
                error = gone
            else:
                call(lambda: loaded(pinned, nested, holds))
                return
        else:
            error = named_error(value)
        if isinstance(error, (ObjectLostError, FileNotFoundError)):
            is_elsewhere = ref._ready and ref._data is not data  # it has moved, or been made again, meanwhile
            if rebuilds > 0 and (is_elsewhere or stored.rebuild(ref)):
                if not ref._ready and ref._owner != session.core.process:
                    values.fetch(ref)
                when_ready(ref, lambda: read_soon(session, ref, call, rebuilds - 1))
                return
            error = told_why(stored.loss_of(ref), error)
        call(functools.partial(_raise, error))

    session.core.request(wire.STORE, "pin", pin_arguments(place, size), answered)


def _outcome(read: Read) -> Read:
    """Read now; return what returns, or raises, the same."""
    try:
        value = read()
    except BaseException as error:  # whatever unpickling user code raises is for whoever asked
        return functools.partial(_raise, error)
    return lambda: value


def _raise(error: BaseException) -> Any:
    raise error
