"""The states of a task as lists, summaries and the timeline show them: Ray's names, in Ray's order.

States are recorded off the fast path and may arrive late, twice or out of order; `later` keeps what is known.
"""

from __future__ import annotations

from enum import StrEnum


class TaskState(StrEnum):
    """Where a task stands."""

    NIL = "NIL"
    PENDING_ARGS_AVAIL = "PENDING_ARGS_AVAIL"
    """Its arguments are not all there: `upcoming`, no demand."""
    PENDING_NODE_ASSIGNMENT = "PENDING_NODE_ASSIGNMENT"
    """It waits for a worker: this is demand."""
    PENDING_OBJ_STORE_MEM_AVAIL = "PENDING_OBJ_STORE_MEM_AVAIL"
    PENDING_ARGS_FETCH = "PENDING_ARGS_FETCH"
    SUBMITTED_TO_WORKER = "SUBMITTED_TO_WORKER"
    """It was pushed and has not begun."""
    PENDING_ACTOR_TASK_ARGS_FETCH = "PENDING_ACTOR_TASK_ARGS_FETCH"
    PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY = "PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY"
    RUNNING = "RUNNING"
    RUNNING_IN_RAY_GET = "RUNNING_IN_RAY_GET"
    """It waits in `get` and has given its CPU back."""
    RUNNING_IN_RAY_WAIT = "RUNNING_IN_RAY_WAIT"
    FINISHED = "FINISHED"
    FAILED = "FAILED"


_ORDER = {state: place for place, state in enumerate(TaskState)}
_BLOCKED = (TaskState.RUNNING_IN_RAY_GET, TaskState.RUNNING_IN_RAY_WAIT)


def later(known: TaskState, heard: TaskState, *, attempt_known: int = 0, attempt_heard: int = 0) -> TaskState:
    """Return the state to show when `heard` arrives after `known`.

    A newer attempt replaces an older one; within an attempt an end is final, and running and blocked alternate.

    >>> later(TaskState.FINISHED, TaskState.RUNNING)
    <TaskState.FINISHED: 'FINISHED'>
    >>> later(TaskState.FAILED, TaskState.RUNNING, attempt_heard=1)
    <TaskState.RUNNING: 'RUNNING'>
    """
    if attempt_heard != attempt_known:
        return heard if attempt_heard > attempt_known else known
    if is_ended(known):
        return known
    if known in _BLOCKED and heard is TaskState.RUNNING:
        return heard
    return heard if _ORDER[heard] >= _ORDER[known] else known


def is_ended(state: TaskState) -> bool:
    """Say whether nothing follows in this attempt."""
    return state in (TaskState.FINISHED, TaskState.FAILED)


def is_running(state: TaskState) -> bool:
    """Say whether the user's code has begun and not ended."""
    return state in (TaskState.RUNNING, *_BLOCKED)


def is_demand(state: TaskState) -> bool:
    """Say whether a task in this state is counted as waiting for resources."""
    return state is TaskState.PENDING_NODE_ASSIGNMENT
