"""What each option of tasks, actors and methods may be: its types, and what is wrong with a value of such a type.

The kinds of error are Ray's: a wrong type is a TypeError, a value out of range and an unknown name are ValueErrors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from shoal.foundation.amounts import UNIT
from shoal.runtime.client.strategies import (
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    PlacementGroupSchedulingStrategy,
    checked_selector,
)


class Option(NamedTuple):
    """What an option may be: its types, and what is wrong with a value of such a type (None: nothing)."""

    types: tuple[type, ...]
    wrong: Callable[[Any], str | None] | None = None


_NONE = type(None)


def check(given: Mapping[str, Any], allowed: Mapping[str, Option], whose: str) -> None:
    for name, value in given.items():
        option = allowed.get(name)
        if option is None:
            raise ValueError(f"Invalid option keyword {name} for {whose}. Valid ones are {sorted(allowed)}.")
        if not isinstance(value, option.types):
            expected = " or ".join("None" if one is _NONE else one.__name__ for one in option.types)
            raise TypeError(f"The type of keyword '{name}' must be {expected}, but received `{type(value).__name__}`")
        if option.wrong is not None and value is not None and (wrong := option.wrong(value)):
            raise ValueError(f"{name}: {wrong}")


def _at_least(least: int, also: str = "") -> Option:
    return Option((int, _NONE), lambda x: None if x >= least else f"expected at least {least}{also}, got `{x}`")


def amount(value: float) -> int:
    """Return a quantity in whole 1/10000, rounded down: three tasks of `num_gpus=1/3` fit on one GPU."""
    return value * UNIT if type(value) is int else math.floor(value * UNIT + 1e-6)


def _quantity(value: float) -> str | None:
    if not 0 <= value < 1e18:
        return f"expected a finite quantity of at least 0, got `{value}`"
    if value and not amount(value):
        return f"expected at least 0.0001 or 0, got `{value}`"
    return None


def _gpus(value: float) -> str | None:
    if value > 1 and value != int(value):
        return f"expected a whole number above 1, got `{value}`"
    return _quantity(value)


def _resources(value: Mapping[str, float]) -> str | None:
    for name, count in value.items():
        if name in ("CPU", "GPU"):
            return f"use num_cpus and num_gpus instead of `{name}`"
        if name in ("memory", "object_store_memory", "bundle"):
            return f"expected a custom resource, got `{name}`" + ("; use memory" if name == "memory" else "")
        if not isinstance(name, str) or not isinstance(count, int | float):
            return f"expected names and quantities, got `{name!r}: {count!r}`"
        if wrong := _quantity(count):
            return f"{name}: {wrong}"
    return None


def _selector(value: Mapping[str, str]) -> str | None:
    try:
        checked_selector(value)
    except ValueError as error:
        return str(error)
    return None


def _fallback(value: list[Any]) -> str | None:
    for one in value:
        if not isinstance(one, dict) or not one:
            return f"expected dicts such as {{'label_selector': ...}}, got `{one!r}`"
        for name in one:
            if name != "label_selector":
                return f"expected `label_selector` only, got `{name}`"
        if not isinstance(one["label_selector"], dict):
            return f"expected a dict as label_selector, got `{one['label_selector']!r}`"
        if wrong := _selector(one["label_selector"]):
            return wrong
    return None


def _num_returns(value: int | str) -> str | None:
    if value in ("streaming", "dynamic") or (isinstance(value, int) and value >= 0):
        return None
    return f"expected None, a number of at least 0, 'streaming' or 'dynamic', got `{value}`"


def _exceptions(value: Any) -> str | None:
    if isinstance(value, bool) or all(isinstance(one, type) and issubclass(one, BaseException) for one in value):
        return None
    return f"expected a bool or a list of exception classes, got `{value!r}`"


def groups(given: Any) -> dict[str, int]:
    """Return concurrency groups as name to number, from Ray's dict or its list of dicts."""
    if isinstance(given, list):
        given = {one["name"]: one["max_concurrency"] for one in given}
    return dict(given or {})


def _concurrency_groups(value: Any) -> str | None:
    if isinstance(value, list) and not all(
        isinstance(one, dict) and {"name", "max_concurrency"} <= one.keys() for one in value
    ):
        return f"expected a dict of name to number, got `{value!r}`"
    for name, count in groups(value).items():
        if not isinstance(name, str) or not isinstance(count, int) or count < 1:
            return f"expected a name and a number of at least 1, got `{name!r}: {count!r}`"
    return None


def _namespace(value: str) -> str | None:
    return None if value else "expected a name or None, got an empty one"


def _lifetime(value: str) -> str | None:
    return (
        None if value in ("detached", "non_detached") else f"expected 'detached', 'non_detached' or None, got `{value}`"
    )


def _backpressure(value: int) -> str | None:
    return None if value > 0 or value == -1 else f"expected a number above 0, or -1 for no limit, got `{value}`"


_STRATEGIES = (
    str,
    PlacementGroupSchedulingStrategy,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    _NONE,
)
COMMON = {
    "num_cpus": Option((int, float, _NONE), _quantity),
    "num_gpus": Option((int, float, _NONE), _gpus),
    "memory": Option((int, float, _NONE), _quantity),
    "object_store_memory": _at_least(0),
    "resources": Option((dict, _NONE), _resources),
    "accelerator_type": Option((str, _NONE)),
    "label_selector": Option((dict, _NONE), _selector),
    "fallback_strategy": Option((list, _NONE), _fallback),
    "scheduling_strategy": Option(_STRATEGIES),
    "placement_group": Option((object,)),
    "placement_group_bundle_index": Option((int,)),
    "placement_group_capture_child_tasks": Option((bool, _NONE)),
    "runtime_env": Option((dict, _NONE)),
    "name": Option((str, _NONE)),
    "enable_task_events": Option((bool,)),
    "_labels": Option((dict, _NONE)),
    "_metadata": Option((dict, _NONE)),
}
TASK = {
    **COMMON,
    "num_returns": Option((int, str, _NONE), _num_returns),
    "max_retries": _at_least(-1, " (-1: for ever)"),
    "max_calls": _at_least(0),
    "retry_exceptions": Option((bool, list, tuple), _exceptions),
    "object_store_memory": Option((int, _NONE), lambda x: "not implemented for tasks"),
    "_generator_backpressure_num_objects": Option((int, _NONE), _backpressure),
    "_num_objects_per_yield": Option((int, _NONE), lambda x: None if x == 1 else f"expected 1, got `{x}`"),
}
ACTOR = {
    **COMMON,
    "max_restarts": _at_least(-1, " (-1: for ever)"),
    "max_task_retries": _at_least(-1, " (-1: for ever)"),
    "max_pending_calls": _at_least(-1, " (-1: no limit)"),
    "max_concurrency": _at_least(0),
    "concurrency_groups": Option((dict, list, _NONE), _concurrency_groups),
    "allow_out_of_order_execution": Option((bool, _NONE)),
    "lifetime": Option((str, _NONE), _lifetime),
    "namespace": Option((str, _NONE), _namespace),
    "get_if_exists": Option((bool,)),
    "enable_tensor_transport": Option(
        (bool, _NONE),
        lambda x: "expected None or False, got `True`: tensor transports are not supported" if x else None,
    ),
    "_actor_generator_backpressure_num_objects": Option((int, _NONE), _backpressure),
}
METHOD = {
    "num_returns": TASK["num_returns"],
    "max_task_retries": ACTOR["max_task_retries"],
    "retry_exceptions": Option((bool, list, tuple), _exceptions),
    "concurrency_group": Option((str, _NONE)),
    "name": Option((str, _NONE)),
    "enable_task_events": Option((bool, _NONE)),
    "_generator_backpressure_num_objects": Option((int, _NONE), _backpressure),
    "_num_objects_per_yield": TASK["_num_objects_per_yield"],
}
