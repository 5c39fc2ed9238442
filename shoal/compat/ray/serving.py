"""The import machinery: a finder that serves `ray` and all below it, before any that is installed."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shoal.compat.ray.names import ABSENT, ALIASES, MODULES

RAY_VERSION = "2.60.0+shoal"
"""What `ray.__version__` says: the Ray whose names and meanings are served."""
SHIMS = str(Path(__file__).resolve().parent.parent / "shims")


def install() -> None:
    """Serve `ray` from now on. Doing it again changes nothing.

    Raises:
        ImportError: the real Ray is imported already.
    """
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    loaded = sys.modules.get("ray")
    if loaded is not None and not isinstance(loaded, Served):
        where = getattr(loaded, "__file__", None) or ""
        if not where.startswith(SHIMS):
            raise ImportError(f"shoal.compat.ray: the real ray is imported already (from {where}); import this first")
    sys.meta_path.insert(0, _Finder())
    if SHIMS not in sys.path:
        sys.path.insert(0, SHIMS)  # workers take over their driver's path, and find us by it


class Served(types.ModuleType):
    """A module of `ray` whose names are Shoal's. Pickled by name, and served wherever it is loaded."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__version__":
            raise AttributeError(name)
        value = _resolve(self.__name__, name)
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        source, names = MODULES[self.__name__]
        public = getattr(importlib.import_module(source), "__all__", ()) if source else ()
        return sorted({*public, *names, *vars(self)})

    def __reduce__(self) -> tuple[Any, ...]:
        return _served, (self.__name__,)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds and loads `ray` and everything below it, or says what is missing."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "ray" and not fullname.startswith("ray."):
            return None
        if fullname in MODULES or fullname in ALIASES:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        raise ModuleNotFoundError(_missing(fullname), name=fullname)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return Served(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        alias = ALIASES.get(module.__name__)
        if alias is not None:
            sys.modules[module.__name__] = importlib.import_module(alias)
        elif module.__name__ == "ray":
            module.__dict__["__version__"] = RAY_VERSION


class LoggingConfig:
    """Ray's logging settings: kept, and not applied; Shoal leaves the logging of user code as it is."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings


def annotation(*args: Any, **kwargs: Any) -> Any:
    """Ray's markers of stability: they mark nothing here."""
    if len(args) == 1 and callable(args[0]) and not kwargs:
        return args[0]
    return lambda thing: thing


def no_runtime_envs(*args: Any, **kwargs: Any) -> list[Any]:
    """Return no rows: nothing is installed for environments of local folders and variables."""
    return []


def _resolve(module: str, name: str) -> Any:
    """Return what `module.name` is.

    Raises:
        AttributeError: Shoal does not serve it; the message names it.
    """
    source, names = MODULES[module]
    where = names.get(name)
    if where is not None:
        home, _, attribute = where.partition(":")
        return getattr(importlib.import_module(home), attribute)
    inner = f"{module}.{name}"
    if source:
        found = importlib.import_module(source)
        if name in getattr(found, "__all__", ()) and not (inner in MODULES or (inner in ALIASES and inner != _BOTH)):
            return getattr(found, name)
    if inner in MODULES or inner in ALIASES:
        return importlib.import_module(inner)
    raise AttributeError(_missing(inner))


_BOTH = "ray.util.placement_group"
"""In Ray a module and a function; ours is a module that can be called."""


def _missing(name: str) -> str:
    """Return what to say about a name of Ray that is not served."""
    for known, instead in ABSENT.items():
        if name == known or name.startswith(f"{known}."):
            return f"`{known}` of Ray is not served by Shoal" + (f"; {instead}" if instead else "")
    return f"`{name}` of Ray is not served by Shoal"


def _served(name: str) -> types.ModuleType:
    install()
    return importlib.import_module(name)
