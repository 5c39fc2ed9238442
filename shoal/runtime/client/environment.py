"""`runtime_env`: which environment variables and local folders a task's or actor's worker gets.

`env_vars`, and local `working_dir` and `py_modules`, work now; any other field is refused by name rather than ignored.
A worker is started for one environment (`key`) and never changes it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """A checked `runtime_env`. Paths are absolute, on the machine where it was given."""

    env_vars: dict[str, str] = {}
    working_dir: str = ""
    py_modules: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.env_vars or self.working_dir or self.py_modules)

    @property
    def key(self) -> str:
        """A text that is equal for equal environments; empty for the empty one."""
        if not self:
            return ""
        told = msgspec.msgpack.encode([sorted(self.env_vars.items()), self.working_dir, self.py_modules])
        return hashlib.blake2b(told, digest_size=8).hexdigest()

    def shown(self) -> dict[str, Any]:
        """Return it as the user would write it."""
        told: dict[str, Any] = {"env_vars": dict(self.env_vars)} if self.env_vars else {}
        if self.working_dir:
            told["working_dir"] = self.working_dir
        if self.py_modules:
            told["py_modules"] = list(self.py_modules)
        return told


EMPTY = Environment()
FIELDS = ("env_vars", "working_dir", "py_modules")


def environment(given: Mapping[str, Any] | None) -> Environment:
    """Return the checked form of a `runtime_env`.

    Raises:
        ValueError: a field is not supported, or a folder is not there.
        TypeError: a field is of the wrong type.
    """
    if not given:
        return EMPTY
    if not isinstance(given, Mapping):
        raise TypeError(f"runtime_env: expected a dict, got `{type(given).__name__}`")
    for name in given:
        if name not in FIELDS:
            raise ValueError(f"runtime_env: field `{name}` is not supported; supported are {', '.join(FIELDS)}")
    return Environment(
        env_vars=_checked_variables(given.get("env_vars")),
        working_dir=_folder(given["working_dir"], "working_dir") if given.get("working_dir") else "",
        py_modules=_checked_modules(given.get("py_modules")),
    )


def merged(outer: Environment, inner: Environment) -> Environment:
    """Return what work gets whose job (or parent) has `outer` and which asks for `inner`: variables add up, the inner
    one wins; folders of the inner one replace those of the outer."""
    if not outer:
        return inner
    if not inner:
        return outer
    return Environment(
        env_vars={**outer.env_vars, **inner.env_vars},
        working_dir=inner.working_dir or outer.working_dir,
        py_modules=inner.py_modules or outer.py_modules,
    )


def _checked_variables(given: Any) -> dict[str, str]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"runtime_env['env_vars']: expected a dict of strings, got `{type(given).__name__}`")
    for name, value in given.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"runtime_env['env_vars']: expected strings, got `{name!r}: {value!r}`")
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"runtime_env['env_vars']: `{name!r}` is no name of an environment variable")
    return dict(given)


def _checked_modules(given: Any) -> tuple[str, ...]:
    if given is None:
        return ()
    if isinstance(given, str | bytes) or not isinstance(given, Sequence):
        raise TypeError(f"runtime_env['py_modules']: expected a list, got `{type(given).__name__}`")
    return tuple(_folder(one, f"py_modules[{place}]") for place, one in enumerate(given))


def _folder(given: Any, name: str) -> str:
    """Return a module's or folder's absolute path; a module object stands for the folder it is in."""
    if hasattr(given, "__path__") and hasattr(given, "__name__"):
        given = next(iter(given.__path__))
    if not isinstance(given, str | os.PathLike):
        raise TypeError(f"runtime_env['{name}']: expected the path of a folder, got `{type(given).__name__}`")
    text = os.fspath(given)
    if "://" in text:
        raise ValueError(f"runtime_env['{name}']: expected a local folder, got `{text}`; URIs are not supported")
    path = os.path.abspath(os.path.expanduser(text))  # noqa: PTH100, PTH111 - pathlib would resolve links
    if not os.path.isdir(path):  # noqa: PTH112 - as above
        raise ValueError(f"runtime_env['{name}']: expected an existing folder, got `{text}`")
    return path
