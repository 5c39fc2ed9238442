"""Known bugs, to be planted: a storm that does not find them is too mild.

Each is a small change of the real code, a mistake that somebody could make, applied while a storm runs and taken
back after it. The bugs themselves stand in `planted_facts` (what is heard), `planted_orders` (what is done) and
`planted_plans` (what is counted and remembered).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

Changes = list[tuple[Any, Any, Any]]
"""What to replace: (owner, attribute or key, new value)."""

CALLER_ERRORS = (AssertionError, LookupError, ValueError, RuntimeError)
"""What a planted bug may raise through a storm; the storm counts it as found."""

BUGS: dict[str, Callable[[], Changes]] = {}
"""By name: a function that returns what to replace."""


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


def bug(make: Callable[[], Changes]) -> Callable[[], Changes]:
    """Register a planted bug under its function's name."""
    BUGS[make.__name__] = make
    return make
