"""How arguments and values are written: natively where msgpack can, else by cloudpickle with out-of-band buffers.

Never by plain pickle of unknown objects: it writes functions and classes of `__main__` by reference, which fails in
the worker. Containers of builtin scalars are safe and go through the C pickler, several times faster.

Out-of-band buffers are kept apart at every size, so that arrays come out as read-only views, whatever their size.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

from shoal.runtime.client.refs import Hold, Home, ObjectRef, OwnerAddress, Token, context, groups
from shoal.runtime.store.values import BYTES, Dumped, dump
from shoal.wire.tasks import BUFFERED, CALL, NATIVE, NESTED, PARTS, PICKLED, RESULT, TASK

SCALARS = frozenset((bytes, str, float, bool, type(None)))
INT_MIN, INT_MAX = -(1 << 63), (1 << 63) - 1
INLINE_BYTES_MAX = 100 * 1024
"""Larger values lie in the object store (Ray's limit)."""
_SMALL_CONTAINER = 64
_ATOMS = frozenset((bytes, str, float, bool, type(None), int, complex))

Written = tuple[int, Any, "list[ObjectRef[Any]] | None"]
"""Format, data, and the refs inside (None: there are none)."""


def is_native(value: Any) -> bool:
    """Whether msgpack writes the value itself, exactly."""
    kind = type(value)
    return kind in SCALARS or (kind is int and INT_MIN <= value <= INT_MAX)


def is_plain(value: Any) -> bool:
    """Whether the value is a small builtin container of builtin scalars: plain pickle writes it safely and fast."""
    kind = type(value)
    if kind is dict:
        return (
            len(value) <= _SMALL_CONTAINER
            and _ATOMS.issuperset(map(type, value))
            and (_ATOMS.issuperset(map(type, value.values())))
        )
    if kind is list or kind is tuple:
        return len(value) <= _SMALL_CONTAINER and _ATOMS.issuperset(map(type, value))
    return kind is int


def written(value: Any) -> Written:
    """Return a value of any size as it travels inline."""
    kind = type(value)
    if kind in SCALARS or (kind is int and INT_MIN <= value <= INT_MAX):
        return NATIVE, value, None
    if is_plain(value):
        return PICKLED, pickle.dumps(value, 5), None
    return packed(*pickled(value))


def pickled(value: Any) -> tuple[Dumped, list[ObjectRef[Any]]]:
    """Return the value taken apart, and the refs inside.

    Raises:
        TypeError, pickle.PicklingError, ...: whatever the value's own pickling raises.
    """
    outer, context.leaving = context.leaving, []
    try:
        dumped = dump(value)
        return dumped, context.leaving
    finally:
        context.leaving = outer


def packed(dumped: Dumped, refs: list[ObjectRef[Any]]) -> Written:
    """Return a pickled value as it travels inline."""
    if dumped.format == BYTES:
        return NATIVE, bytes(dumped.buffers[0]), None
    if refs:
        return NESTED, [dumped.pickle, [one.tobytes() for one in dumped.buffers], groups(refs)], refs
    if dumped.buffers:
        return BUFFERED, [dumped.pickle, [one.tobytes() for one in dumped.buffers]], None
    return PICKLED, dumped.pickle, None


def size_of(format: int, data: Any) -> int:
    """Return about how many bytes a written value takes."""
    if format == PICKLED:
        return len(data)
    if format == NATIVE:
        return len(data) if type(data) in (bytes, str) else 8
    if format in (BUFFERED, NESTED):
        return len(data[0]) + sum(len(one) for one in data[1])
    return 64


def read(format: int, data: Any, holds: dict[bytes, Hold] | None = None) -> Any:
    """Return the value that was written inline.

    `holds` are those of the message that brought it, by owner, where it holds refs.
    """
    if format == NATIVE:
        return data
    if format == PICKLED:
        return pickle.loads(data)
    if format == BUFFERED:
        return pickle.loads(data[0], buffers=data[1])
    if format == NESTED:
        outer, context.holds = context.holds, holds
        try:
            return pickle.loads(data[0], buffers=data[1])
        finally:
            context.holds = outer
    raise AssertionError(f"format {format} is not an inline one")


def holds_of(nested: Sequence[Sequence[Any]], token: Token, *, is_implicit: bool = False) -> dict[bytes, Hold]:
    """Return a hold for each foreign owner of refs that a message brought."""
    holds: dict[bytes, Hold] = {}
    for owner, addresses, _ in nested:
        if owner != Home.process and owner not in holds:  # one for each: its end lets go of all that it stands for
            Home.has_foreign = True
            address: OwnerAddress = (owner, tuple(addresses))
            holds[owner] = Hold(address, token, is_implicit=is_implicit)
    return holds


def nested_of(format: int, data: Any) -> Sequence[Sequence[Any]]:
    """Return the groups of refs inside a written value or arguments."""
    if format == NESTED:
        groups_inside: Sequence[Sequence[Any]] = data[2]
        return groups_inside
    if format == PARTS:
        return [group for one, part in data[0] for group in nested_of(one, part)]
    if format == 5:  # STORED
        return data[2] or ()
    return ()


def mended(message: Any) -> Any:
    """Return a message whose native value msgpack refused (a str with a lone surrogate) with that value pickled."""
    kind = message[0]
    place = {TASK: 3, CALL: 3, RESULT: 2}.get(kind)
    if place is None or message[place] != NATIVE:
        return message
    value = message[place + 1]
    body = pickle.dumps((tuple(value), None) if kind != RESULT else value, 5)
    return (*message[:place], PICKLED, body, *message[place + 2 :])
