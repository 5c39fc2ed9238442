"""`inspect_serializability`: find what keeps an object from being sent to the cluster."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class FailureTuple:
    """One object that cannot be pickled: `obj`, its `name`, and the `parent` it was found in."""

    def __init__(self, obj: Any, name: str, parent: Any) -> None:
        self.obj, self.name, self.parent = obj, name, parent

    def __repr__(self) -> str:
        return f"FailTuple({self.name} [obj={self.obj!r}, parent={self.parent!r}])"


def inspect_serializability(
    base_obj: Any, name: str | None = None, depth: int = 3, print_file: TextIO | None = None
) -> tuple[bool, set[FailureTuple]]:
    """Return (whether `base_obj` can be sent, the innermost objects that cannot), and print what was found.

    Looks into closures, globals used by functions, attributes and containers, `depth` levels deep.
    """
    out = print_file or sys.stdout
    shown = name or str(base_obj)
    title = f"Checking Serializability of {base_obj!r}"
    line = "=" * min(len(title), 80)
    out.write(f"{line}\n{title}\n{line}\n")
    failures: list[FailureTuple] = []
    is_good = _inspect(base_obj, shown, depth, None, failures, set(), out, 0)
    if failures:
        out.write("Variable(s) that were found to be non-serializable:\n")
        for failure in failures:
            out.write(f"    {failure!r}\n")
    elif not is_good:
        out.write(f"Cannot say which part of `{shown}` is in the way; try a greater depth than {depth}.\n")
    return is_good, set(failures)


def _inspect(
    value: Any,
    name: str,
    depth: int,
    parent: Any,
    failures: list[FailureTuple],
    seen: set[int],
    out: TextIO,
    level: int,
) -> bool:
    """Look into what cannot be pickled; the innermost such objects are the failures."""
    error = _error_of(value)
    if error is None:
        return True
    indent = "    " * level
    out.write(f"{indent}!!! FAIL serialization of `{name}`: {error}\n")
    if id(value) in seen:
        return False
    seen.add(id(value))
    is_found = False
    if depth > 0:
        for inner_name, inner in _parts(value):
            if not _inspect(inner, inner_name, depth - 1, value, failures, seen, out, level + 1):
                is_found = True
    if not is_found:
        failures.append(FailureTuple(value, name, parent))
    return False


def _error_of(value: Any) -> str | None:
    import cloudpickle

    try:
        cloudpickle.dumps(value)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield (name, object) for what pickling `value` pickles as well."""
    if inspect.ismethod(value):
        yield "__self__", value.__self__
        value = value.__func__
    if inspect.isfunction(value):
        used = inspect.getclosurevars(value)
        yield from used.nonlocals.items()
        yield from used.globals.items()
        for place, default in enumerate(value.__defaults__ or ()):
            yield f"default {place}", default
    elif isinstance(value, dict):
        for key, one in value.items():
            yield f"[{key!r}]", one
    elif isinstance(value, list | tuple | set | frozenset):
        for place, one in enumerate(value):
            yield f"[{place}]", one
    elif inspect.isclass(value):
        yield from (
            (key, one) for key, one in vars(value).items() if not key.startswith("__") or inspect.isfunction(one)
        )
    else:
        yield from getattr(value, "__dict__", {}).items()


__all__ = ["FailureTuple", "inspect_serializability"]
