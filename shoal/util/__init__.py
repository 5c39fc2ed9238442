"""What stands on the task API: pools, queues, executors, placement groups, metrics, the state of the cluster.

Each name is fetched from its module on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.util import (
        accelerators,
        actor_pool,
        check_serialize,
        executor,
        joblib,
        metrics,
        multiprocessing,
        queue,
        scheduling_strategies,
        state,
    )
    from shoal.util.actor_pool import ActorPool
    from shoal.util.check_serialize import inspect_serializability
    from shoal.util.executor import Executor
    from shoal.util.iteration import as_completed, map_unordered
    from shoal.util.nearby import get_node_ip_address, list_named_actors, log_once
    from shoal.util.placement_group import (
        get_current_placement_group,
        get_placement_group,
        placement_group,
        placement_group_table,
        remove_placement_group,
    )
    from shoal.util.serialization import deregister_serializer, register_serializer

_HOMES = {
    "ActorPool": "actor_pool",
    "Executor": "executor",
    "as_completed": "iteration",
    "get_current_placement_group": "placement_group",
    "get_node_ip_address": "nearby",
    "get_placement_group": "placement_group",
    "inspect_serializability": "check_serialize",
    "list_named_actors": "nearby",
    "log_once": "nearby",
    "map_unordered": "iteration",
    "placement_group": "placement_group",
    "placement_group_table": "placement_group",
    "deregister_serializer": "serialization",
    "register_serializer": "serialization",
    "remove_placement_group": "placement_group",
}
_MODULES = frozenset(
    (
        "accelerators",
        "actor_pool",
        "check_serialize",
        "executor",
        "joblib",
        "metrics",
        "multiprocessing",
        "queue",
        "scheduling_strategies",
        "state",
    )
)

__all__ = [
    "ActorPool",
    "Executor",
    "accelerators",
    "actor_pool",
    "as_completed",
    "check_serialize",
    "deregister_serializer",
    "executor",
    "get_current_placement_group",
    "get_node_ip_address",
    "get_placement_group",
    "inspect_serializability",
    "joblib",
    "list_named_actors",
    "log_once",
    "map_unordered",
    "metrics",
    "multiprocessing",
    "placement_group",
    "placement_group_table",
    "queue",
    "register_serializer",
    "remove_placement_group",
    "scheduling_strategies",
    "state",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name in _MODULES:
        return importlib.import_module(f"shoal.util.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module `shoal.util` has no attribute `{name}`")
    value = getattr(importlib.import_module(f"shoal.util.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *globals()})
