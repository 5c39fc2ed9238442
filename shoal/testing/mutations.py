"""Known bugs, to be planted: a storm that does not find them is too mild.

Each is a small change of the real code, applied while a storm runs and taken back after it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

CALLER_ERRORS = (AssertionError, KeyError, ValueError, RuntimeError)
"""What a planted bug may raise through a storm; the storm counts it as found."""

BUGS: dict[str, Callable[[], list[tuple[Any, str, Any]]]] = {}
"""By name: a function that returns what to replace, as (owner, attribute or key, new value)."""


@contextlib.contextmanager
def planted(name: str) -> Iterator[None]:
    """Plant a bug for the length of the context; no name plants none.

    Raises:
        KeyError: no such bug.
    """
    if not name:
        yield
        return
    changes = BUGS[name]()
    before = [(owner, key, _value(owner, key)) for owner, key, _ in changes]
    for owner, key, value in changes:
        _put(owner, key, value)
    try:
        yield
    finally:
        for owner, key, value in before:
            _put(owner, key, value)


def _value(owner: Any, key: Any) -> Any:
    return owner[key] if isinstance(owner, dict) else getattr(owner, key)


def _put(owner: Any, key: Any, value: Any) -> None:
    if isinstance(owner, dict):
        owner[key] = value
    else:
        setattr(owner, key, value)
