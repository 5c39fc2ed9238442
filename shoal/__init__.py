"""Shoal: an autoscaling cluster for Python, with Ray's names and meanings.

`import shoal` imports nothing else: every name below is fetched when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from shoal import actor, autoscaler, dag, exceptions, util
    from shoal.runtime.client.api import (
        available_resources,
        cancel,
        cluster_resources,
        get_actor,
        get_gpu_ids,
        get_runtime_context,
        init,
        is_initialized,
        kill,
        nodes,
        shutdown,
        timeline,
    )
    from shoal.runtime.client.refs import ObjectRef
    from shoal.typed import ObjectRefGenerator, get, method, put, remote, wait

_API = "shoal.runtime.client.api"
_HOMES = {
    "ObjectRef": "shoal.runtime.client.refs",
    "ObjectRefGenerator": _API,
    "available_resources": _API,
    "cancel": _API,
    "cluster_resources": _API,
    "get": _API,
    "get_actor": _API,
    "get_gpu_ids": _API,
    "get_runtime_context": _API,
    "init": _API,
    "is_initialized": _API,
    "kill": _API,
    "method": _API,
    "nodes": _API,
    "put": _API,
    "remote": _API,
    "shutdown": _API,
    "timeline": _API,
    "wait": _API,
}
_MODULES = frozenset(("actor", "autoscaler", "dag", "exceptions", "runtime_env", "util"))

__all__ = [
    "ObjectRef",
    "ObjectRefGenerator",
    "__version__",
    "actor",
    "autoscaler",
    "available_resources",
    "cancel",
    "cluster_resources",
    "dag",
    "exceptions",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "is_initialized",
    "kill",
    "method",
    "nodes",
    "put",
    "remote",
    "shutdown",
    "timeline",
    "util",
    "wait",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name in _MODULES:
        return importlib.import_module(f"shoal.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module `shoal` has no attribute `{name}`")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value  # the next use is a plain attribute
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *globals()})
