"""How an error travels: any exception as bytes and back, and its traceback as text.

An error is its class, its arguments and its attributes. Its constructor is not called again: it may want other
arguments than it left in `args`, or change them. Nothing here raises, whatever the error is made of.
"""

from __future__ import annotations

import os
import pickle
import traceback
from typing import Any

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep  # noqa: PTH100, PTH120 - pathlib is slow
_HIDDEN_FRAMES = tuple(_PACKAGE + part for part in ("runtime" + os.sep, "wire" + os.sep, "transport" + os.sep))
_IS_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE of CPython's object.h: the class was made at run time, not in C


def remote_traceback(error: BaseException) -> str:
    """Return the traceback of `error` as text, without the frames of the runtime that called the user's code."""
    shown = traceback.TracebackException.from_exception(error)
    seen: set[int] = set()
    parts: list[traceback.TracebackException | None] = [shown]
    while parts:
        part = parts.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        kept = [frame for frame in part.stack if not frame.filename.startswith(_HIDDEN_FRAMES)]
        if len(kept) != len(part.stack):
            part.stack = traceback.StackSummary.from_list(kept)
        parts += [part.__cause__, part.__context__]
    return "".join(shown.format())


def packed(error: BaseException | None) -> bytes:
    """Return `error` as bytes for `unpacked`; empty bytes if not even its class can travel.

    Arguments and attributes that cannot travel are replaced by their text. Classes of `__main__` travel by value.
    """
    if error is None:
        return b""
    import cloudpickle

    try:
        own = parts(error)
        whole = (None, None, None, error) if own is None else (type(error), *own, None)
        return bytes(cloudpickle.dumps(whole, protocol=5))
    except Exception:
        pass
    try:
        state = {name: _portable(value) for name, value in error.__dict__.items()}
        lean = (type(error), tuple(map(_portable, error.args)), state, None)
        return bytes(cloudpickle.dumps(lean, protocol=5))
    except Exception:
        return b""


def unpacked(blob: bytes) -> BaseException | None:
    """Return the error that `packed` made `blob` of, None if it cannot be loaded here."""
    try:
        kind, arguments, state, whole = pickle.loads(blob)
        found = whole if whole is not None else restored(kind, arguments, state)
        return found if isinstance(found, BaseException) else None
    except Exception:
        return None


def restored(kind: type[BaseException], arguments: tuple[Any, ...], state: dict[str, Any] | None) -> BaseException:
    """Return an error of `kind` as it was, made by the constructor of the nearest class that is written in C."""
    native = native_base(kind)
    try:
        found = native.__new__(kind, *arguments)
        native.__init__(found, *arguments)
    except TypeError:
        found = kind(*arguments)
    fill(found, native, state or {})
    return found


def fill(error: BaseException, native: type[BaseException], state: dict[str, Any]) -> None:
    """Set attributes of `error` past its class's own `__setattr__` and properties."""
    for name, value in state.items():
        if hasattr(native, name):
            object.__setattr__(error, name, value)  # such as `ImportError.name`, which is no entry of `__dict__`
        else:
            error.__dict__[name] = value


def parts(error: BaseException) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Return the arguments and attributes that make `error` anew, None if it has its own way of pickling."""
    bases = [base for base in type(error).__mro__ if base.__flags__ & _IS_HEAP_TYPE]
    if any("__reduce__" in vars(base) or "__reduce_ex__" in vars(base) for base in bases):
        return None
    reduced = error.__reduce_ex__(4)
    if not isinstance(reduced, tuple) or reduced[0] is not type(error):
        return None
    state = reduced[2] if len(reduced) > 2 and isinstance(reduced[2], dict) else dict(error.__dict__)
    return reduced[1], state


def native_base(kind: type[BaseException]) -> type[BaseException]:
    """Return the nearest class in the order of inheritance that is written in C: it must be given its arguments."""
    for base in kind.__mro__:
        if not base.__flags__ & _IS_HEAP_TYPE:
            return base
    return BaseException


def shown_error(error: BaseException | None) -> str:
    """Return the last line or lines of a traceback: the type and the text of `error`."""
    if error is None:
        return ""
    try:
        return "".join(traceback.format_exception_only(error)).strip() or repr(error)
    except Exception:  # its own text may raise, being the user's
        return f"<{type(error).__name__} that cannot be shown>"


def _portable(value: Any) -> Any:
    import cloudpickle

    try:
        cloudpickle.dumps(value, protocol=5)
        return value
    except Exception:
        pass
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__name__} that cannot be shown>"
