"""The requests of drivers and workers to the head: what goes into `Ask.args` and what comes back in `Reply.value`.

Plain msgpack values only (ids as bytes or hex text, amounts as whole 1/10000, bundles as `Bundle` structs encode).
A failed reply carries `[error name, text]`; the name is that of a class in `shoal.exceptions` or `ValueError`.
"""

from __future__ import annotations

from enum import StrEnum


class What(StrEnum):
    """Every request, with its args -> its value."""

    # actors -------------------------------------------------------------------------------------------------
    CREATE_ACTOR = "create_actor"
    """actor_id, job, class_name, name, namespace, is_detached, get_if_exists, max_restarts (-1 for ever), amounts (to
    be placed), held (for life), selector, spread, group_id, bundle (-1 any), handle (opaque bytes for get_actor),
    spec (opaque bytes), options -> {actor_id, is_existing, handle}. Durable before the reply. A taken name fails with
    `ActorAlreadyExistsError`. The creator is subscribed: `Tell("actor", ...)` follows on every change."""
    WATCH_ACTOR = "watch_actor"
    """actor_id -> the actor's row now: {actor_id, state, generation, restarts, address, node_id, pid, name, class_name,
    why, error, will_restart}; later changes come as `Tell("actor", row)`."""
    GET_ACTOR = "get_actor"
    """name, namespace -> {actor_id, handle}; fails with ValueError if there is none alive."""
    KILL_ACTOR = "kill_actor"
    """actor_id, no_restart -> None."""
    DROP_ACTOR = "drop_actor"
    """actor_id: no handle is left anywhere -> None. Ends it once its pending calls are done; detached ones stay."""
    LIST_NAMED = "list_named"
    """all_namespaces, namespace -> [[name, namespace], ...]."""
    # placement groups ---------------------------------------------------------------------------------------
    CREATE_GROUP = "create_group"
    """spec (GroupSpec) -> None once journaled; the creator is subscribed: `Tell("group", row)`."""
    WATCH_GROUP = "watch_group"
    """group_id -> its row: {group_id, name, state, strategy, bundles, nodes (node id per bundle), why, job}."""
    REMOVE_GROUP = "remove_group"
    """group_id -> None once the removal is journaled; quiet if it is gone."""
    GET_GROUP = "get_group"
    """name -> the row; fails with ValueError if there is none."""
    LIST_GROUPS = "list_groups"
    """-> rows."""
    # cluster ------------------------------------------------------------------------------------------------
    NODES = "nodes"
    """-> [{node_id, instance_id, node_type, is_alive, is_head, address, hostname, total, free, labels, why}]."""
    REQUEST_RESOURCES = "request_resources"
    """owner, job, bundles, ttl_s (None: the policy's) -> None. Empty bundles take the request back."""
    PLACE = "place"
    """class_key, amounts, selector, spread, count, away_from (node ids) -> [[node_id, addresses, count], ...]: leases
    that fit there by the head's view, reserved for a moment; fewer than asked if there is no room."""
    IS_ALIVE = "is_alive"
    """processes (ids) -> [bool]: False only by a verdict."""
    # jobs, keys and state -----------------------------------------------------------------------------------
    START_JOB = "start_job"
    """entrypoint, namespace, pid, process, labels -> {job}. The job ends with the process."""
    END_JOB = "end_job"
    """job -> None."""
    LAST_PRINTS = "last_prints"
    """job, node_ids, timeout_s -> anything, once these nodes' workers of the job have sent what they printed so far, as
    `Tell("printed", ...)` before the reply; what does not answer by the timeout is not waited for."""
    PUT_KEY = "put_key"
    """space, key, value (bytes), is_overwriting -> bool: whether it was stored."""
    GET_KEY = "get_key"
    """space, key -> bytes or None."""
    DELETE_KEY = "delete_key"
    """space, key -> bool."""
    STATE = "state"
    """kind (tasks, actors, objects, nodes, workers, placement-groups, jobs, cluster-events, logs), filters, limit,
    detail -> {rows, total, is_partial, warnings}. The head asks the agents for what they hold."""
    STATUS = "status"
    """-> what `shoal status` shows, as one dict."""
