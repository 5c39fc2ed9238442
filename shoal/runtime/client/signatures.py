"""Whether arguments fit a signature: asked in every call, so that a wrong one fails where it is written."""

from __future__ import annotations

import functools
import inspect
import sys
import weakref
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

Parameter: TypeAlias = tuple[str, int, bool]
"""(name, kind as `inspect` numbers it, whether it has a default): what travels inside handles."""

POSITIONAL_ONLY, POSITIONAL_OR_KEYWORD, VAR_POSITIONAL, KEYWORD_ONLY, VAR_KEYWORD = inspect._ParameterKind

_kept: weakref.WeakKeyDictionary[Any, Signature] = weakref.WeakKeyDictionary()


def _names(parameters: Iterable[Parameter]) -> frozenset[str]:
    return frozenset(name for name, _, _ in parameters)


class Signature:
    """Which arguments a function takes. `None` for the parameters: nothing is known, everything fits."""

    __slots__ = (
        "_free",
        "_least",
        "_most",
        "_needed",
        "_parameters",
        "_taken",
        "_takes_any_name",
        "_takes_any_number",
        "_title",
        "few",
        "many",
    )

    def __init__(self, title: str, parameters: tuple[Parameter, ...] | None) -> None:
        self._title, self._parameters = title, parameters
        given = parameters or ()
        kinds = {kind for _, kind, _ in given}
        self._takes_any_number = parameters is None or VAR_POSITIONAL in kinds
        self._takes_any_name = parameters is None or VAR_KEYWORD in kinds
        placed = [one for one in given if one[1] in (POSITIONAL_ONLY, POSITIONAL_OR_KEYWORD)]
        named = [one for one in given if one[1] == KEYWORD_ONLY]
        self._least = sum(kind == POSITIONAL_ONLY and not has_default for _, kind, has_default in placed)
        self._most = len(placed)
        # By number of positional arguments, the names of what may still come, of what must, and of what is there.
        counts = range(self._most + 1)
        self._free = [_names(one for one in (*placed[n:], *named) if one[1] != POSITIONAL_ONLY) for n in counts]
        self._needed = [_names(one for one in (*placed[n:], *named) if not one[2]) for n in counts]
        self._taken = [_names(one for one in placed[:n] if one[1] != POSITIONAL_ONLY) for n in counts]
        self.few = next((n for n in counts if n >= self._least and not self._needed[n]), sys.maxsize)
        self.many = sys.maxsize if self._takes_any_number else self._most
        """A call without keywords fits with `few` to `many` arguments: most calls are told apart by that."""

    def fits(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Say whether a call with these arguments would begin."""
        count = len(args)
        if count < self._least:
            return False
        if count > self._most:
            if not self._takes_any_number:
                return False
            count = self._most
        if not self._needed[count] <= kwargs.keys():
            return False
        if not kwargs:
            return True
        if self._takes_any_name:
            return self._taken[count].isdisjoint(kwargs)
        return kwargs.keys() <= self._free[count]

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse arguments that do not fit, in the words of Python's own `bind`.

        Raises:
            TypeError: they do not fit.
        """
        if self.fits(args, kwargs):
            return
        why = "wrong arguments"
        rebuilt = inspect.Signature(
            [
                inspect.Parameter(
                    name, inspect._ParameterKind(kind), default=None if has_default else inspect.Parameter.empty
                )
                for name, kind, has_default in self._parameters or ()
            ]
        )
        try:
            rebuilt.bind(*args, **kwargs)
        except TypeError as error:
            why = str(error)
        raise TypeError(f"{self._title}(): {why}")


ANYTHING = Signature("", None)
"""Of what is not known yet."""
signature_from = functools.lru_cache(maxsize=1024)(Signature)
"""The signature of parameters that came inside a handle: many handles, few methods."""


def parameters_of(function: Callable[..., Any], *, skip: int = 0) -> tuple[Parameter, ...] | None:
    """Return the parameters of what is really called; None where Python cannot tell.

    `skip`: how many leading parameters the runtime fills, such as `self`. A decorator's wrapper is not looked through:
    its own parameters decide what may be given, whatever the wrapped function takes.
    """
    try:
        found = list(inspect.signature(function, follow_wrapped=False).parameters.values())
    except (TypeError, ValueError):
        return None
    if found and found[0].kind != VAR_POSITIONAL:
        found = found[skip:]
    return tuple((one.name, int(one.kind), one.default is not inspect.Parameter.empty) for one in found)


def signature_of(function: Callable[..., Any], title: str) -> Signature:
    """Return the signature of a function; kept as long as the function is, since `.options()` asks for it again."""
    try:
        found = _kept.get(function)
    except TypeError:  # it cannot be hashed, or not be referred to weakly
        return Signature(title, parameters_of(function))
    if found is None:
        found = _kept[function] = Signature(title, parameters_of(function))
    return found


def constructor_of(cls: type) -> Signature:
    """Return what a class is called with."""
    constructor: Any = vars(cls).get("__init__") or getattr(cls, "__init__")  # noqa: B009 - of the class, not of type
    if constructor is object.__init__:
        return Signature(cls.__qualname__, ())
    return Signature(cls.__qualname__, parameters_of(constructor, skip=1))
