"""Which columns the rows of the state API have, and what is said to who names another one. Pure.

The head refuses filters on columns that are not here; commands and `shoal.util.state` show rows in this order.
"""

from __future__ import annotations

import difflib

COLUMNS: dict[str, tuple[str, ...]] = {
    "tasks": ("task_id", "attempt_number", "name", "state", "job_id", "actor_id", "type", "func_or_class_name",
              "parent_task_id", "node_id", "worker_id", "error_type"),
    "actors": ("actor_id", "class_name", "state", "job_id", "name", "node_id", "pid", "ray_namespace"),
    "objects": ("object_id", "object_size", "task_status", "attempt_number", "reference_type", "call_site", "type",
                "pid", "ip"),
    "nodes": ("node_id", "node_ip", "is_head_node", "state", "state_message", "node_name", "resources_total", "labels"),
    "placement-groups": ("placement_group_id", "name", "creator_job_id", "state"),
    "workers": ("worker_id", "is_alive", "worker_type", "exit_type", "node_id", "ip", "pid"),
    "jobs": ("job_id", "submission_id", "entrypoint", "type", "status", "message", "error_type", "driver_info"),
    "cluster-events": ("severity", "time", "source_type", "message", "event_id"),
}  # fmt: skip
"""The default columns of each resource, in the order in which Ray prints them."""

DETAILS: dict[str, tuple[str, ...]] = {
    "tasks": ("count", "worker_pid", "error_message", "creation_time_s", "start_time_s", "end_time_s",
              "required_resources", "placement_group_id", "runtime_env_info", "call_site"),
    "actors": ("is_detached", "required_resources", "held_resources", "num_restarts", "max_restarts",
               "placement_group_id", "death_cause", "runtime_env_info", "call_site", "start_time_s", "end_time_s"),
    "objects": ("node_id", "owner", "is_primary", "state", "pins"),
    "nodes": ("instance_id", "node_type", "resources_free", "idle_serial", "busy", "object_store_bytes",
              "object_store_used_bytes", "stats", "address", "start_time_s", "end_time_s"),
    "placement-groups": ("strategy", "is_detached", "bundles", "message"),
    "workers": ("job_id", "state", "exit_detail", "start_time_s", "end_time_s"),
    "jobs": ("namespace", "labels", "start_time_s", "end_time_s"),
    "cluster-events": ("custom_fields",),
    "logs": ("node_id", "file", "size"),
    "task-counts": (),
}  # fmt: skip
"""What `--detail` shows as well, and filters may name."""


def trouble_with(kind: str, column: str) -> str:
    """Return why rows of `kind` cannot be filtered by `column`, with what was probably meant; "" if they can.

    >>> trouble_with("actors", "stat")
    'filter: actors have no column `stat`; did you mean `state`?'
    >>> trouble_with("tasks", "worker_pid")
    ''
    """
    known = (*COLUMNS.get(kind, ()), *DETAILS.get(kind, ()))
    if column in known:
        return ""
    near = difflib.get_close_matches(column[:200], known, 1, 0.6)
    shown = ascii(column[:60])[1:-1]
    more = f"; did you mean `{near[0]}`?" if near else f": there are {', '.join(known)}"
    return f"filter: {kind} have no column `{shown}`{more}"
