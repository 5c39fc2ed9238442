"""Values to bytes and back: native scalars, pickles, pickles with buffers beside them, plain bytes.

`dump` chooses among four formats:

  NATIVE   None, bool, int (64 bit), float, str and bytes of exactly these types, small: the caller puts the value
  itself
           into its msgpack message; nothing is pickled
  PICKLE   one pickle
  BUFFERS  a pickle, and the memory of arrays beside it, uncopied until it is written (pickle protocol 5)
  BYTES    one large `bytes`, as it is

The pickler is always cloudpickle's: plain pickle sends functions and classes of `__main__` by reference, which only
fails at the other end. Arrays come back read-only at any size, because their buffers are never pickled in-band.

Refs inside a value are found while it is pickled: types registered with `register_ref_type` are given to `on_ref`.
How a ref registers itself on arrival is the business of its own `__reduce__`.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterable
from typing import Any

import cloudpickle
import msgspec

from shoal.runtime.store.errors import BadLayout
from shoal.runtime.store.layout import Plan, packed, parts

INLINE_BYTES_MAX = 100 * 1024
"""Values up to here travel inside messages; larger ones go through shared memory."""

NATIVE, PICKLE, BUFFERS, BYTES = range(4)
"""The formats. Callers may use numbers from 16 on for kinds of their own (errors, for example)."""

_INT_LEAST, _INT_MOST = -(2**63), 2**63 - 1
_NO_BUFFERS: list[memoryview] = []
_KEPT_BYTES_MAX, _KEPT_MAX = 64 * 1024, 4


class Dumped(msgspec.Struct, gc=False):
    """A value taken apart. The buffers still look at the caller's memory: write or pack them before it changes."""

    format: int
    pickle: bytes
    buffers: list[memoryview]
    size: int
    """Bytes in all, without header and padding."""

    @property
    def is_inline(self) -> bool:
        """Whether it is small enough for a message."""
        return self.size <= INLINE_BYTES_MAX

    def packed(self) -> bytes:
        """Return it as one `bytes` for a message: `load_inline(format, these)` gives the value back."""
        if self.format == PICKLE:
            return self.pickle
        if self.format == BYTES:
            return bytes(self.buffers[0])
        return packed(self.plan(), self.pickle, self.buffers)

    def plan(self) -> Plan:
        """Return where its parts go in shared memory."""
        return Plan(self.format, self.pickle, self.buffers)


def is_native(value: Any) -> bool:
    """Say whether `value` may stand in a msgpack message as it is and comes back equal and of the same type."""
    kind = type(value)
    if kind is int:
        return bool(_INT_LEAST <= value <= _INT_MOST)
    if kind is str:
        return len(value) <= INLINE_BYTES_MAX // 4 and (value.isascii() or _is_utf8(value))
    if kind is bytes:
        return len(value) <= INLINE_BYTES_MAX
    return kind is float or value is None or kind is bool


def dump(value: Any, on_ref: Callable[[Any], None] | None = None) -> Dumped:
    """Take `value` apart. Natives are not special here: ask `is_native` first.

    Raises:
        Exception: whatever the value's own `__reduce__` raises; TypeError or PicklingError if it cannot be pickled.
    """
    if type(value) is bytes and len(value) > INLINE_BYTES_MAX:
        return Dumped(BYTES, b"", [memoryview(value)], len(value))
    # Making a pickler costs more than a small pickle, so one is kept for the next value, unless values nest or threads
    # meet. One that failed, or holds large things, is not used again.
    try:
        pickler = _idle.pop()
    except IndexError:
        pickler = _Pickler()
    if on_ref is not None:
        pickler.on_ref = on_ref
    pickler.dump(value)
    file, buffers = pickler.file, pickler.buffers
    pickled = file.getvalue()
    if not buffers:
        is_clean = on_ref is None and not pickler.globals_ref  # a function's globals are shared within one pickle only
        if is_clean and len(pickled) <= _KEPT_BYTES_MAX and len(_idle) < _KEPT_MAX:
            pickler.clear_memo()
            file.seek(0)
            file.truncate()
            _idle.append(pickler)
        return Dumped(PICKLE, pickled, _NO_BUFFERS, len(pickled))
    views = [buffer.raw() for buffer in buffers]
    return Dumped(BUFFERS, pickled, views, len(pickled) + sum([view.nbytes for view in views]))


def load(format: int, pickled: bytes | memoryview, buffers: Iterable[memoryview]) -> Any:
    """Return the value of one format and its parts; arrays look at `buffers` without a copy.

    Raises:
        BadLayout: an unknown format.
        Exception: whatever the value's own reconstruction raises (ImportError for a missing module).
    """
    if format == PICKLE:
        return pickle.loads(pickled)
    if format == BUFFERS:
        return pickle.loads(pickled, buffers=buffers)
    if format == BYTES:
        return bytes(next(iter(buffers)))
    raise BadLayout(f"value: unknown format {format}")


def load_inline(format: int, data: bytes | memoryview) -> Any:
    """Return the value whose `Dumped.packed()` was `data`. Arrays are read-only and keep `data` alive.

    `data` must not change afterwards: give `bytes`, or a view of something that nobody writes to.
    """
    if format == PICKLE:
        return pickle.loads(data)
    if format == BYTES:
        return bytes(data)
    format, pickled, buffers = parts(memoryview(data).toreadonly())
    return load(format, pickled, buffers)


def load_view(view: memoryview) -> Any:
    """Return the value that lies in shared memory at `view`, without copying its buffers."""
    format, pickled, buffers = parts(view)
    return load(format, pickled, buffers)


def register_ref_type(kind: type) -> None:
    """Make `dump` report every instance of exactly this type to `on_ref`."""
    _ref_types.add(kind)


def register_serializer(kind: type, *, serializer: Callable[[Any], Any], deserializer: Callable[[Any], Any]) -> None:
    """Send instances of exactly `kind` as `serializer(it)`; the other side builds them with `deserializer`.

    Only the sending process must know it: the deserializer travels with the value.
    """
    _serializers[kind] = (serializer, deserializer)


def deregister_serializer(kind: type) -> None:
    """Forget a registered serializer; quiet if there is none."""
    _serializers.pop(kind, None)


_idle: list[_Pickler] = []
_ref_types: set[type] = set()
_serializers: dict[type, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {}


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """cloudpickle's pickler, with a shorter start and three additions before its own rules."""

    def __init__(self) -> None:
        self.file = io.BytesIO()
        self.buffers: list[pickle.PickleBuffer] = []
        # Past cloudpickle's own __init__, which costs as much as a small pickle; its two attributes follow.
        pickle.Pickler.__init__(self, self.file, protocol=5, buffer_callback=self.buffers.append)
        self.globals_ref: dict[int, dict[str, Any]] = {}
        self.proto = 5
        self.on_ref: Callable[[Any], None] | None = None

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind in _ref_types:
            if self.on_ref is not None:
                self.on_ref(obj)
            return obj.__reduce__()
        if kind in _serializers:
            serializer, deserializer = _serializers[kind]
            return deserializer, (serializer(obj),)
        if kind.__name__ == "ndarray" and kind.__module__ == "numpy":
            return _array_reduced(obj)
        return super().reducer_override(obj)


def _array_reduced(array: Any) -> Any:
    """Reduce a numpy array so that its data goes out-of-band even if it is a strided view.

    numpy pickles strided arrays in-band, and they would come back writable.
    """
    flags = array.flags
    if flags.c_contiguous or flags.f_contiguous or array.dtype.hasobject:
        return NotImplemented
    return array.copy(order="C").__reduce_ex__(5)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate: pickle can carry it, msgpack cannot
        return False
    return True
