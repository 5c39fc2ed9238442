"""Whether arguments fit is answered as Python's own `bind` answers it, for every kind of parameter."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shoal.runtime.client.signatures import Signature, constructor_of, parameters_of, signature_of

KINDS = list(inspect._ParameterKind)


@st.composite
def functions(draw: st.DrawFn) -> Callable[..., None]:
    """Return a function of up to six parameters, with no body."""
    kinds = sorted(draw(st.lists(st.sampled_from(KINDS), max_size=6)))
    for once in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
        while kinds.count(once) > 1:
            kinds.remove(once)
    found, has_default = [], False
    for name, kind in zip("abcdef", kinds, strict=False):
        default: Any = inspect.Parameter.empty
        if kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            is_keyword = kind == inspect.Parameter.KEYWORD_ONLY
            if draw(st.booleans()) or (has_default and not is_keyword):
                default, has_default = 0, has_default or not is_keyword
        found.append(inspect.Parameter(name, kind, default=default))
    namespace: dict[str, Any] = {}
    exec(f"def function{inspect.Signature(found)}: pass", namespace)
    return namespace["function"]  # type: ignore[no-any-return]


@given(functions(), st.integers(0, 7), st.sets(st.sampled_from("abcdefg")))
@example(lambda a, b=0, /, **f: None, 1, {"b"})  # `bind` of some Python versions refuses it
def test_it_says_what_a_call_says(function: Callable[..., None], count: int, names: set[str]) -> None:
    args, kwargs = (0,) * count, dict.fromkeys(names, 0)
    ours = Signature("f", parameters_of(function))
    try:
        function(*args, **kwargs)
    except TypeError:
        with pytest.raises(TypeError, match=r"^f\(\): "):
            ours.check(args, kwargs)
        assert kwargs or not ours.few <= count <= ours.many
    else:
        ours.check(args, kwargs)
        assert kwargs or ours.few <= count <= ours.many


def test_a_wrapper_is_not_looked_through() -> None:
    def function(a: int) -> None: ...

    @functools.wraps(function)
    def wrapper(*args: Any) -> None: ...

    assert signature_of(wrapper, "w").fits((1, 2, 3), {})


def test_what_python_cannot_tell_fits() -> None:
    assert signature_of(dict.fromkeys, "f").fits((1, 2, 3, 4), {"any": 1}) or parameters_of(dict.fromkeys) is not None
    assert Signature("f", None).fits((1, 2), {"a": 1})


class Plain:
    pass


class Taking:
    def __init__(self, a: int, *, b: int = 0) -> None: ...


def test_constructors() -> None:
    assert constructor_of(Plain).fits((), {})
    assert not constructor_of(Plain).fits((1,), {})
    assert constructor_of(Taking).fits((1,), {"b": 2})
    assert not constructor_of(Taking).fits((), {"b": 2})
    with pytest.raises(TypeError, match=r"Taking\(\): missing a required.* 'a'"):
        constructor_of(Taking).check((), {})


def test_a_function_keeps_its_signature() -> None:
    assert signature_of(test_constructors, "t") is signature_of(test_constructors, "t")
