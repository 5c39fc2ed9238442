"""Arguments of tasks and calls: written at once, or as soon as the refs among them are ready.

A ref at the top level stands for its value: the owner of the *task* waits for it and sends the value along (or where it
lies, if it is large). Refs inside other objects travel as refs. While the task is under way everything that its
arguments refer to is pinned by the task's own ref.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any

from shoal.runtime.client import codec
from shoal.runtime.client.refs import ObjectRef, when_ready
from shoal.wire import tasks as wire


class Waiting:
    """Arguments with refs that are not ready yet. `go` is called once with (format, data) or with an error."""

    __slots__ = ("_left", "go", "names", "parts")

    def __init__(self, parts: list[Any], names: list[str]) -> None:
        self.parts, self.names = parts, names
        self._left = 0
        self.go: Callable[[int, Any], None] | None = None

    def start(self, fetch: Callable[[ObjectRef[Any]], None], process: bytes, go: Callable[[int, Any], None]) -> None:
        """Wait for every ref; with the core's lock held. May call `go` at once."""
        self.go = go
        late = [part for part in self.parts if type(part) is ObjectRef and not part._ready]
        self._left = len(late) + 1
        for ref in late:
            if ref._owner != process:
                fetch(ref)
            when_ready(ref, self._one_less)
        self._one_less()

    def _one_less(self) -> None:
        self._left -= 1
        if self._left == 0 and self.go is not None:
            go, self.go = self.go, None
            go(*self.finished())

    def finished(self) -> tuple[int, Any]:
        """Return format and data once every ref is ready; a failed one's error stands for all."""
        parts = []
        for part in self.parts:
            if type(part) is ObjectRef:
                if part._format == wire.ERROR:
                    return wire.ERROR, part._data
                part = [part._format, part._data]
            parts.append(part)
        return wire.PARTS, [parts, self.names]


Prepared = tuple[int, Any, "list[ObjectRef[Any]] | None", "Waiting | None"]


def prepare(args: tuple[Any, ...], kwargs: Mapping[str, Any], put_large: Callable[..., Any] | None) -> Prepared:
    """Return (format, data, pins, waiting): `waiting` if some ref is not ready, else format and data hold.

    Values over the inline limit go to the object store by `put_large` and travel as what they are there.
    """
    if not kwargs:
        scalars, int_min, int_max = codec.SCALARS, codec.INT_MIN, codec.INT_MAX
        for one in args:
            kind = type(one)
            if kind in scalars or (kind is int and int_min <= one <= int_max):
                continue
            break
        else:
            if (
                not args
                or sum(len(one) for one in args if type(one) is bytes or type(one) is str) <= codec.INLINE_BYTES_MAX
            ):
                return wire.NATIVE, args, None, None
    every = (*args, *kwargs.values()) if kwargs else args
    for one in every:
        if type(one) is ObjectRef:
            return _in_parts(every, list(kwargs), put_large)
    if len(args) == 1 and not kwargs and codec.is_plain(args[0]):
        data = pickle.dumps((args, None), 5)
        if len(data) <= codec.INLINE_BYTES_MAX:
            return wire.PICKLED, data, None, None
    dumped, refs = codec.pickled((args, kwargs or None))
    if dumped.size > codec.INLINE_BYTES_MAX and put_large is not None:
        return _in_parts(every, list(kwargs), put_large)
    format, data, pins = codec.packed(dumped, refs)
    return format, data, pins, None


def _in_parts(every: tuple[Any, ...], names: list[str], put_large: Callable[..., Any] | None) -> Prepared:
    """Write each argument by itself; refs stand for their values."""
    parts: list[Any] = []
    pins: list[ObjectRef[Any]] = []
    is_waiting = False
    for one in every:
        if type(one) is ObjectRef:
            pins.append(one)
            if one._ready and one._format != wire.ERROR:
                parts.append([one._format, one._data])
            else:
                parts.append(one)
                is_waiting = True
            continue
        kind = type(one)
        if kind in codec.SCALARS or kind is int or put_large is None:
            format, data, inner = codec.written(one)
            if codec.size_of(format, data) <= codec.INLINE_BYTES_MAX or put_large is None:
                if inner:
                    pins.extend(inner)
                parts.append([format, data])
                continue
        dumped, refs = codec.pickled(one)
        if dumped.size > codec.INLINE_BYTES_MAX and put_large is not None:
            ref = put_large(dumped, refs)
            pins.append(ref)
            parts.append([ref._format, ref._data])
        else:
            format, data, inner = codec.packed(dumped, refs)
            if inner:
                pins.extend(inner)
            parts.append([format, data])
    if is_waiting:
        return wire.PARTS, None, pins, Waiting(parts, names)
    return wire.PARTS, [parts, names], pins or None, None
