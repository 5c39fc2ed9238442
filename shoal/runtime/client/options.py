"""The options of tasks, actors and actor methods: Ray's names, defaults and kinds of error, checked and normalised.

What the user gives is a plain dict; `task_options` and `actor_options` turn it into a frozen value for the hot path.
The same dict gives the same value from a cache. `class_key` names the class of work: equal keys may share a lease, and
are one row of demand.

Amounts follow Ray: a task holds 1 CPU; an actor that names no resource (memory alone is none) is placed with 1 CPU and
then holds 0; one that names any holds 1 CPU unless `num_cpus` says otherwise.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from shoal.foundation.amounts import UNIT, Amounts
from shoal.model.demand import Selector
from shoal.runtime.client.environment import EMPTY, Environment, environment
from shoal.runtime.client.option_rules import ACTOR, METHOD, TASK, amount, check, groups
from shoal.runtime.client.strategies import GroupPlace, Place, PlacementGroupSchedulingStrategy, resolve

STREAMING = -1
"""`num_returns` of a task whose values are read while it runs."""
DYNAMIC = -2
"""`num_returns` of a task whose one value is a generator of references."""

RETRIES_DEFAULT = 3
ASYNC_CONCURRENCY = 1000
"""`max_concurrency` of an actor with an `async def` method, unless given."""


class TaskOptions(msgspec.Struct, frozen=True, kw_only=True):
    """A task's options. `num_returns` None: 1, or streaming for a generator function. -1 retries mean for ever."""

    amounts: Amounts
    num_returns: int | None = None
    max_retries: int = RETRIES_DEFAULT
    max_calls: int = 0
    retry_exceptions: tuple[type[BaseException], ...] = ()
    name: str = ""
    place: Place = Place(inherits=True)
    environment: Environment = EMPTY
    backpressure: int = -1
    """Values of a generator that may wait unread, -1 for any number."""
    enable_task_events: bool = True
    class_key: str = ""

    @property
    def selector(self) -> Selector:
        return self.place.selector

    @property
    def group(self) -> GroupPlace | None:
        return self.place.group

    @property
    def spread(self) -> bool:
        return self.place.spread


class ActorOptions(msgspec.Struct, frozen=True, kw_only=True):
    """An actor's options. `amounts` is what its placement needs, `held` what it holds for life.

    `max_concurrency` None: 1, or 1000 for an async actor (`concurrency_of`).
    """

    amounts: Amounts
    held: Amounts
    max_restarts: int = 0
    max_task_retries: int = 0
    max_pending_calls: int = -1
    max_concurrency: int | None = None
    concurrency_groups: dict[str, int] = {}
    allow_out_of_order_execution: bool | None = None
    name: str = ""
    namespace: str | None = None
    is_detached: bool = False
    get_if_exists: bool = False
    place: Place = Place(inherits=True)
    environment: Environment = EMPTY
    backpressure: int = -1
    enable_task_events: bool = True
    class_key: str = ""

    @property
    def selector(self) -> Selector:
        return self.place.selector

    @property
    def group(self) -> GroupPlace | None:
        return self.place.group

    @property
    def spread(self) -> bool:
        return self.place.spread

    def concurrency_of(self, is_async: bool) -> int:
        """Return how many calls run at once.

        Raises:
            ValueError: order was asked for (`allow_out_of_order_execution=False`) where it cannot be kept.
        """
        count = self.max_concurrency or (ASYNC_CONCURRENCY if is_async else 1)
        if self.allow_out_of_order_execution is False and (is_async or count > 1):
            raise ValueError(
                "allow_out_of_order_execution: async and multi-threaded actors cannot keep the order of calls; "
                "expected True or None, got `False`"
            )
        return count


class MethodOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `@method` or `.options` says about one method; None: as the actor says."""

    num_returns: int | None = None
    max_task_retries: int | None = None
    retry_exceptions: tuple[type[BaseException], ...] = ()
    concurrency_group: str = ""
    name: str = ""
    backpressure: int = -1
    enable_task_events: bool = True


def task_options(given: Mapping[str, Any]) -> TaskOptions:
    """Return the checked options of a task.

    Raises:
        ValueError: an option is unknown, or its value is out of range.
        TypeError: its value is of the wrong type.
    """
    key = _key_of(given)
    return _task_options(dict(given)) if key is None else _cached_task_options(key)


def actor_options(given: Mapping[str, Any]) -> ActorOptions:
    """Return the checked options of an actor. Raises as `task_options`."""
    key = _key_of(given)
    return _actor_options(dict(given)) if key is None else _cached_actor_options(key)


def method_options(given: Mapping[str, Any]) -> MethodOptions:
    """Return the checked options of an actor's method. Raises as `task_options`."""
    key = _key_of(given)
    return _method_options(dict(given)) if key is None else _cached_method_options(key)


def overridden(given: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `.options(**changes)` on something that was declared with `given`.

    Raises:
        ValueError: an option that belongs to the declaration.
    """
    for name in ("max_calls", "concurrency_groups"):
        if name in changes:
            raise ValueError(f"Setting '{name}' is not supported in '.options()'.")
    return {**given, **changes}


def returns_of(options: TaskOptions | MethodOptions, is_generator: bool) -> int:
    """Return the number of values, `STREAMING` or `DYNAMIC`, for a function that is a generator or not.

    Raises:
        ValueError: a stream was asked of a function that does not yield.
    """
    count = options.num_returns
    if count is None:
        return STREAMING if is_generator else 1
    if count < 0 and not is_generator:
        word = "streaming" if count == STREAMING else "dynamic"
        raise ValueError(
            f"num_returns='{word}' can only be used with generator functions (functions that use 'yield'). "
            "The decorated function is not a generator function."
        )
    return count


def held_by_default(options: Mapping[str, Any]) -> bool:
    """Say whether an actor with these options names a resource, and so holds a CPU unless it says otherwise."""
    return any(options.get(name) is not None for name in ("num_cpus", "num_gpus", "accelerator_type")) or bool(
        options.get("resources")
    )


# ------------------------------------------------------------------------------------------------------- normalising


def _task_options(given: dict[str, Any]) -> TaskOptions:
    check(given, TASK, "remote functions")
    needed = _amounts(given)
    if given.get("num_cpus") is None:
        needed["CPU"] = UNIT
    needed = {name: amount for name, amount in needed.items() if amount}
    place = _place(given, needed)
    own = environment(given.get("runtime_env"))
    return TaskOptions(
        amounts=needed,
        num_returns=_returns(given.get("num_returns")),
        max_retries=_or(given.get("max_retries"), RETRIES_DEFAULT),
        # A used GPU is only surely free again when its process is gone.
        max_calls=_or(given.get("max_calls"), 1 if needed.get("GPU") else 0),
        retry_exceptions=_retried(given.get("retry_exceptions", False)),
        name=given.get("name") or "",
        place=place,
        environment=own,
        backpressure=_or(given.get("_generator_backpressure_num_objects"), -1),
        enable_task_events=given.get("enable_task_events", True),
        class_key=class_key(needed, place, own),
    )


def _actor_options(given: dict[str, Any]) -> ActorOptions:
    check(given, ACTOR, "actors")
    if given.get("get_if_exists") and not given.get("name"):
        raise ValueError("The actor name must be specified to use `get_if_exists`.")
    if given.get("name") == "":
        raise ValueError("Actor name cannot be an empty string.")
    held = _amounts(given)
    needed = dict(held)
    if given.get("num_cpus") is None:
        if held_by_default(given):
            held["CPU"] = needed["CPU"] = UNIT
        else:
            needed["CPU"] = UNIT
    held = {name: amount for name, amount in held.items() if amount}
    needed = {name: amount for name, amount in needed.items() if amount}
    place = _place(given, needed)
    own = environment(given.get("runtime_env"))
    return ActorOptions(
        amounts=needed,
        held=held,
        max_restarts=_or(given.get("max_restarts"), 0),
        max_task_retries=_or(given.get("max_task_retries"), 0),
        max_pending_calls=_or(given.get("max_pending_calls"), -1),
        max_concurrency=given.get("max_concurrency") or None,
        concurrency_groups=groups(given.get("concurrency_groups")),
        allow_out_of_order_execution=given.get("allow_out_of_order_execution"),
        name=given.get("name") or "",
        namespace=given.get("namespace"),
        is_detached=given.get("lifetime") == "detached",
        get_if_exists=given.get("get_if_exists", False),
        place=place,
        environment=own,
        backpressure=_or(given.get("_actor_generator_backpressure_num_objects"), -1),
        enable_task_events=given.get("enable_task_events", True),
        class_key=class_key(needed, place, own),
    )


def _method_options(given: dict[str, Any]) -> MethodOptions:
    check(given, METHOD, "actor methods")
    return MethodOptions(
        num_returns=_returns(given.get("num_returns")),
        max_task_retries=given.get("max_task_retries"),
        retry_exceptions=_retried(given.get("retry_exceptions", False)),
        concurrency_group=given.get("concurrency_group") or "",
        name=given.get("name") or "",
        backpressure=_or(given.get("_generator_backpressure_num_objects"), -1),
        enable_task_events=_or(given.get("enable_task_events"), True),
    )


_cached_task_options = functools.lru_cache(maxsize=4096)(lambda key: _task_options(_from_key(key)))
_cached_actor_options = functools.lru_cache(maxsize=4096)(lambda key: _actor_options(_from_key(key)))
_cached_method_options = functools.lru_cache(maxsize=4096)(lambda key: _method_options(_from_key(key)))


def class_key(needed: Amounts, place: Place, own: Environment) -> str:
    """Return the name of the class of work with these needs, places and environment: 12 hex digits."""
    group = place.group
    told = msgspec.msgpack.encode(
        [
            sorted(needed.items()),
            sorted(place.selector.hard.items()),
            [sorted(terms.items()) for terms in place.selector.fallback],
            place.selector.node_ids,
            place.selector.is_soft_node,
            place.spread,
            [group.group_id, group.bundle] if group else [],
            own.key,
        ]
    )
    return hashlib.blake2b(told, digest_size=6).hexdigest()


def _amounts(given: Mapping[str, Any]) -> Amounts:
    """Return what the options name, zeros included."""
    named: Amounts = {name: amount(count) for name, count in (given.get("resources") or {}).items()}
    if (cpus := given.get("num_cpus")) is not None:
        named["CPU"] = amount(cpus)
    if (gpus := given.get("num_gpus")) is not None:
        named["GPU"] = amount(gpus)
    if (memory := given.get("memory")) is not None:
        named["memory"] = amount(int(memory))
    if (store := given.get("object_store_memory")) is not None:
        named["object_store_memory"] = amount(store)
    if (accelerator := given.get("accelerator_type")) is not None:
        named[f"accelerator_type:{accelerator}"] = UNIT // 1000  # Ray's convention: a mark, not a quantity
    return named


def _place(given: Mapping[str, Any], needed: Amounts) -> Place:
    strategy = given.get("scheduling_strategy")
    group = given.get("placement_group", "default")
    if group not in ("default", None):
        if isinstance(group, str):
            raise ValueError(f"placement_group: expected a placement group, None or 'default', got `{group}`")
        if strategy is not None:
            raise ValueError("Placement groups should be specified via the scheduling_strategy option.")
        strategy = PlacementGroupSchedulingStrategy(
            group,
            given.get("placement_group_bundle_index", -1),
            given.get("placement_group_capture_child_tasks"),
        )
    elif group is None and strategy is None:
        strategy = "DEFAULT"
    return resolve(strategy, given.get("label_selector"), given.get("fallback_strategy"), needed)


def _returns(given: int | str | None) -> int | None:
    return {"streaming": STREAMING, "dynamic": DYNAMIC}[given] if isinstance(given, str) else given


def _retried(given: Any) -> tuple[type[BaseException], ...]:
    return (Exception,) if given is True else tuple(given or ())


def _or(given: Any, default: Any) -> Any:
    return default if given is None else given


# ------------------------------------------------------------------------------------------------------------- caching


def _key_of(given: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Return a key for the cache, None where an option is an object or a nested container.

    The types are part of the key: 1, 1.0 and True are equal, but not equally welcome.
    """
    parts: list[Any] = []
    for name, value in given.items():
        kind = type(value)
        if kind is dict:
            inner = tuple((one, type(other), other) for one, other in value.items())
            if name == "runtime_env" or any(item[1] not in _PLAIN for item in inner):
                return None  # an environment's folders are looked up each time
            parts.append((name, kind, inner))
        elif kind in _PLAIN:
            parts.append((name, kind, value))
        else:
            return None
    return tuple(parts)


_PLAIN = frozenset((int, float, str, bool, type(None)))


def _from_key(key: tuple[Any, ...]) -> dict[str, Any]:
    return {name: {one: other for one, _, other in value} if kind is dict else value for name, kind, value in key}
