"""How objects of a class travel where their own pickling will not do: `register_serializer`. For this process only."""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from typing import Any


def register_serializer(cls: type, *, serializer: Callable[[Any], Any], deserializer: Callable[[Any], Any]) -> None:
    """Have objects of `cls` travel as what `serializer` returns; `deserializer` makes the object of that again.

    Subclasses are not affected. The deserializer travels along; the serializer must be registered where they are sent.
    """
    if not callable(serializer) or not callable(deserializer):
        raise TypeError("register_serializer: expected two callables")
    copyreg.pickle(cls, lambda value: (deserializer, (serializer(value),)))


def deregister_serializer(cls: type) -> None:
    """Take `register_serializer` back. Quiet if there is none."""
    copyreg.dispatch_table.pop(cls, None)


__all__ = ["deregister_serializer", "register_serializer"]
