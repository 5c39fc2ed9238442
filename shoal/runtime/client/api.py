"""The public functions: names, defaults and meanings of Ray's. `shoal/__init__.py` fetches them on first use."""

from __future__ import annotations

import inspect
import operator
import os
import threading
from collections.abc import Sequence
from typing import Any

from shoal.runtime.client import driver as drivers
from shoal.runtime.client import init_rules
from shoal.runtime.client.actors import ActorClass, ActorHandle, method
from shoal.runtime.client.core import here, settle_here
from shoal.runtime.client.functions import RemoteFunction
from shoal.runtime.client.generators import ObjectRefGenerator
from shoal.runtime.client.refs import ObjectRef
from shoal.runtime.client.session import Session
from shoal.wire import asks

_session: Session | None = None
_embedded: drivers.Embedded | None = None
_lock = threading.RLock()
_number_of = operator.attrgetter("_n")
_forked_from: int | None = None
_context: dict[str, Any] = {}


# ------------------------------------------------------------------------------------------------ connecting


def init(
    address: str | None = None,
    *,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    memory: float | None = None,
    resources: dict[str, float] | None = None,
    labels: dict[str, str] | None = None,
    object_store_memory: int | None = None,
    ignore_reinit_error: bool = False,
    namespace: str | None = None,
    runtime_env: dict[str, Any] | None = None,
    log_to_driver: bool = True,
    **others: Any,
) -> ClientContext:
    """Connect to a cluster, or start one for this program alone.

    Without an address: SHOAL_ADDRESS, else this user's one live cluster on this machine, else an embedded one;
    `"local"` forces an embedded one, `"auto"` demands a live one. HOST:PORT of a head on another host makes this
    program a driver there, over one connection that it opens (docs/drivers-elsewhere.md).

    Raises:
        NoCluster (a ConnectionError): there is none where one was asked for, or several.
        RuntimeError: this process is connected already.
        ValueError: resources or labels were given, but the cluster has its own.
        TypeError, ValueError: an argument is of the wrong type, out of range, or not supported.
    """
    global _session, _embedded
    with _lock:
        if _session is not None and not _session.is_closed:
            if ignore_reinit_error:
                return _connected()
            raise RuntimeError(
                "init: this process is connected already; call shutdown() first, or pass ignore_reinit_error=True"
            )
        given = {
            "num_cpus": num_cpus,
            "num_gpus": num_gpus,
            "memory": memory,
            "resources": resources,
            "labels": labels,
            "object_store_memory": object_store_memory,
        }
        init_rules.check({**given, "address": address, "namespace": namespace}, others)
        info = drivers.driver_info(namespace, runtime_env)
        found = drivers.locate(address)
        if found is not None and (wrong := [name for name, value in given.items() if value is not None]):
            raise ValueError(
                f"init: {', '.join(wrong)}: the cluster that is there has its own; they can be given only "
                'for a new one (address="local")'
            )
        if found is None:
            _embedded = drivers.start_embedded({**given, "labels": labels or {}})
            found = _embedded.file
        try:
            _session = drivers.connect_to(found, info)
        except BaseException:
            if _embedded is not None:
                _embedded.close()
                _embedded = None
            raise
        _session.log_to_driver = log_to_driver
        _context.update(address=found.frames, name=found.name, node_id=_session.core.info["node_id"])
        drivers.register_exit(shutdown)
        drivers.at_fork(_leave_to_parent)
        return _connected()


def shutdown(_exiting_interpreter: bool = False) -> None:
    """Leave the cluster; an embedded one ends. Quiet if there is none."""
    global _session, _embedded
    with _lock:
        if _session is not None:
            _session.news.show_rest()
            _session.close()
            _session = None
            settle_here(None)
        if _embedded is not None:
            _embedded.close()
            _embedded = None


def is_initialized() -> bool:
    """Say whether this process is connected."""
    return _session is not None and not _session.is_closed


def session() -> Session:
    """Return this process's session; connects as `init()` does if there is none yet.

    Raises:
        ForkedProcessError: this process was forked by user code.
    """
    found = _session
    if found is not None and not found.is_closed:
        return found
    if _forked_from is not None:
        from shoal.exceptions import ForkedProcessError

        raise ForkedProcessError(
            f"this process was forked from {_forked_from} by user code and has no runtime; "
            "use tasks, or start processes with subprocess or multiprocessing's spawn"
        )
    with _lock:
        if _session is None or _session.is_closed:
            init()
        assert _session is not None
        return _session


def adopt(worker_session: Session) -> None:
    """Make a worker's session this process's."""
    global _session
    _session = worker_session
    settle_here(worker_session.core)
    drivers.at_fork(_leave_to_parent)


class ClientContext:
    """What `init` returns: usable in a `with`, and tells where we are."""

    def __init__(self, address_info: dict[str, Any]) -> None:
        self.address_info = address_info
        self.dashboard_url = ""

    def __getitem__(self, name: str) -> Any:
        return self.address_info[name]

    def __enter__(self) -> ClientContext:
        return self

    def __exit__(self, *exc_info: object) -> None:
        shutdown()

    def disconnect(self) -> None:
        """Leave the cluster."""
        shutdown()

    def __repr__(self) -> str:
        return f"ClientContext({self.address_info})"


def _connected() -> ClientContext:
    return ClientContext(dict(_context))


def _leave_to_parent() -> Session | None:
    """In a forked child: forget the session; returns it for its descriptors to be closed."""
    global _session, _embedded, _forked_from
    found, _session, _embedded = _session, None, None
    if found is not None:
        _forked_from = os.getppid()
        settle_here(None)
    return found


# ------------------------------------------------------------------------------------------------ work


def remote(*args: Any, **options: Any) -> Any:
    """Make a function or class remote: `@remote` or `@remote(num_cpus=2, ...)`.

    Raises:
        TypeError: it is neither, or positional arguments were given with options.
        ValueError: an option is wrong.
    """
    if len(args) == 1 and not options and (callable(args[0]) or inspect.isclass(args[0])):
        return _made_remote(args[0], {})
    if args or not options:
        raise TypeError("remote: expected `@remote` on a function or class, or `@remote(option=value, ...)`")
    return lambda thing: _made_remote(thing, options)


def _made_remote(thing: Any, options: dict[str, Any]) -> Any:
    if isinstance(thing, RemoteFunction | ActorClass):
        raise TypeError("remote: this is remote already; change it with `.options(...)`")
    if inspect.isclass(thing):
        return ActorClass.of(thing, options)
    if callable(thing):
        return RemoteFunction(thing, options)
    raise TypeError(f"remote: expected a function or a class, got `{type(thing).__name__}`")


def get(refs: Any, *, timeout: float | None = None) -> Any:
    """Return the value of a ref, or the values of a list of refs, waiting for them.

    Raises:
        GetTimeoutError (a TimeoutError): not ready within `timeout` seconds; 0 only looks.
        The task's own error, or a system error, if that is the value.
    """
    found = _session
    if found is None or found.is_closed:
        found = session()
    if type(refs) is ObjectRef:
        if refs._ready and refs._format == 0:
            return refs._data
        return found.values.get(refs, timeout)
    if isinstance(refs, list):
        for ref in refs:
            if type(ref) is not ObjectRef:
                raise TypeError(f"get: expected a list of ObjectRefs, got a `{type(ref).__name__}` in it")
        return found.values.get_many(refs, timeout)
    if isinstance(refs, ObjectRefGenerator):
        return refs
    raise ValueError(f"get: expected an ObjectRef or a list of them, got `{type(refs).__name__}`")


def put(value: Any, *, _owner: Any = None, _tensor_transport: str | None = None) -> ObjectRef[Any]:
    """Return a ref to a copy of `value`.

    Raises:
        TypeError: it is a ref, or cannot be pickled. ValueError: another owner or a tensor transport was asked for.
    """
    if _owner is not None:
        raise ValueError("put: `_owner` is not supported (nor by Ray since 2.56); put it where its owner runs")
    if _tensor_transport not in (None, "object_store"):
        raise ValueError(f"put: tensor transports are not supported, got `{_tensor_transport}`")
    found = _session
    if found is None or found.is_closed:
        found = session()
    return found.values.put(value)


def wait(
    refs: Sequence[Any], *, num_returns: int = 1, timeout: float | None = None, fetch_local: bool = True
) -> tuple[list[Any], list[Any]]:
    """Return (ready, not ready): at most `num_returns` ready ones, fewer only after `timeout` seconds. Failed is ready.

    Raises:
        ValueError: refs are given twice, or `num_returns` is out of range.
        TypeError: `refs` is no list of refs.
    """
    found = _session
    if found is None or found.is_closed:
        found = session()
    if isinstance(refs, ObjectRef):
        raise TypeError("wait: expected a list of ObjectRefs, got a single one")
    if type(refs) is not list:
        if not isinstance(refs, Sequence):
            raise TypeError(f"wait: expected a list of ObjectRefs, got `{type(refs).__name__}`")
        refs = list(refs)
    total = len(refs)
    if not total:
        return [], []
    is_plain = all(kind is ObjectRef for kind in set(map(type, refs)))
    if not is_plain:
        for ref in refs:
            if type(ref) is not ObjectRef and not isinstance(ref, ObjectRefGenerator):
                raise TypeError(f"wait: expected ObjectRefs, got `{type(ref).__name__}`")
    # Different numbers are different objects; only equal ones (of two owners, perhaps) need the slow comparison.
    if (not is_plain or len(set(map(_number_of, refs))) != total) and len(set(refs)) != total:
        raise ValueError("wait: expected every ref once, got duplicates")
    if num_returns <= 0:
        raise ValueError(f"wait: expected num_returns of at least 1, got {num_returns}")
    if num_returns > total:
        raise ValueError(f"wait: num_returns is {num_returns}, but only {total} refs were given")
    if timeout is not None and timeout < 0:
        raise ValueError(f"wait: expected a timeout of at least 0 s, got {timeout}")
    if not is_plain:
        return found.streams.wait(refs, num_returns, timeout)
    return found.values.wait(refs, num_returns, timeout)


def cancel(ref: Any, *, force: bool = False, recursive: bool = True) -> None:
    """Cancel a task: a queued one is removed, a running one gets KeyboardInterrupt; `force` kills its worker.

    Raises:
        TypeError: not a ref. ValueError: `force` on an actor's task.
    """
    if isinstance(ref, ObjectRefGenerator):
        ref = ref._task
    if type(ref) is not ObjectRef:
        raise TypeError(f"cancel: expected an ObjectRef, got `{type(ref).__name__}`")
    session().actors.cancel(ref, is_forced=force, is_recursive=recursive)


def kill(actor: Any, *, no_restart: bool = True) -> None:
    """End an actor at once; its pending calls fail. With `no_restart=False` it may be restarted.

    Raises:
        ValueError: not an actor handle.
    """
    if not isinstance(actor, ActorHandle):
        raise ValueError(f"kill: expected an actor handle, got `{type(actor).__name__}`")
    session().actors.kill(actor, is_final=no_restart)


def get_actor(name: str, namespace: str | None = None) -> ActorHandle:
    """Return a handle of a named actor.

    Raises:
        ValueError: there is none of that name alive.
    """
    if not name:
        raise ValueError("get_actor: expected a name, got an empty one")
    return session().actors.named(name, namespace)


# ------------------------------------------------------------------------------------------------ the cluster


def nodes() -> list[dict[str, Any]]:
    """Return every node of the cluster, with Ray's keys."""
    return [
        {
            "NodeID": one["node_id"],
            "Alive": one["is_alive"],
            "NodeManagerAddress": _host_of(one["address"]),
            "NodeManagerHostname": one["hostname"],
            "NodeName": _host_of(one["address"]),
            "Resources": one["total"],
            "Labels": one["labels"],
            "IsHeadNode": one["is_head"],
            "alive": one["is_alive"],
            "DeathReason": 0 if one["is_alive"] else 1,
            "DeathReasonMessage": one.get("why") or None,
        }
        for one in session().core.ask(asks.What.NODES, {})
    ]


def _host_of(addresses: Sequence[str]) -> str:
    """Return the host part of where an agent listens; one that listens on this machine only is at our own address."""
    from shoal.transport.address import parse
    from shoal.util.nearby import get_node_ip_address

    hosts = [parse(text).host for text in addresses if text.startswith("tcp:")]
    return hosts[0] if hosts else get_node_ip_address()


def cluster_resources() -> dict[str, float]:
    """Return the total resources of the live nodes, in natural units."""
    return _summed("total")


def available_resources() -> dict[str, float]:
    """Return the free resources of the live nodes, in natural units; a name with nothing free is left out."""
    return _summed("free")


def _summed(which: str) -> dict[str, float]:
    summed: dict[str, float] = {}
    for one in session().core.ask(asks.What.NODES, {}):
        if one["is_alive"]:
            for name, quantity in one[which].items():
                if quantity > 0:
                    summed[name] = summed.get(name, 0.0) + quantity
    return summed


def timeline(filename: str | None = None) -> list[dict[str, Any]] | None:
    """Return what ran when, as Chrome trace events; or write them to a file."""
    from shoal.runtime.client.timelines import chrome_trace

    events = chrome_trace(session())
    if filename is None:
        return events
    import json
    from pathlib import Path

    Path(filename).write_text(json.dumps(events))
    return None


def get_runtime_context() -> Any:
    """Return what this process, task or actor may know about itself."""
    from shoal.runtime.client.about import RuntimeContext

    return RuntimeContext(session())


def get_gpu_ids() -> list[int | str]:
    """Return the GPUs that this worker was given."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    found = here()
    if found is None or not found.is_worker:
        return []
    return [int(one) if one.isdecimal() else one for one in listed.split(",") if one and one != "NoDevFiles"]


__all__ = [
    "ActorClass",
    "ActorHandle",
    "ObjectRef",
    "ObjectRefGenerator",
    "adopt",
    "available_resources",
    "cancel",
    "cluster_resources",
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
    "session",
    "shutdown",
    "timeline",
    "wait",
]
