"""What happens after a fault: one table for tasks, one for actors, one for calls of actors, one for lost values.

A fault is a verdict, never a suspicion: a broken connection is none (docs/ownership.md, "Death"). Whoever owns the work
looks the fault up and does what the cell says. `retries` counts what is left of `max_retries`, `max_restarts` or
`max_task_retries`; -1 is for ever.

Words in the cells: `free` runs it again without counting; `retry` runs it again and counts; `wait` leaves it until
another verdict; `drop` forgets it, for nobody is left to tell; a name of `shoal.exceptions` fails it with that error.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec


class Fault(StrEnum):
    """What went wrong with work, as its owner learns it."""

    WORKER_DIED = "worker-died"
    """The agent says that the worker's process ended."""
    OUT_OF_MEMORY = "out-of-memory"
    """The agent ended the worker because the machine was running out of memory."""
    NODE_LOST = "node-lost"
    """The head says that the node is dead."""
    NODE_TAKEN = "node-taken"
    """The node went by announcement: drained by its deadline, or interrupted by the cloud."""
    REVOKED = "revoked"
    """The owner lost its connection and had the lease revoked; the worker is dead."""
    AGENT_AWAY = "agent-away"
    """The agent does not answer; nobody has said that the node is dead."""
    OWNER_DIED = "owner-died"
    """The process that waits for the result is dead."""
    JOB_ENDED = "job-ended"
    CANCELLED = "cancelled"
    KILLED = "killed"
    """By `kill()`."""
    GROUP_REMOVED = "group-removed"
    ENVIRONMENT = "environment"
    """The worker's runtime environment cannot be made."""
    NEVER_FITS = "never-fits"
    """Hard affinity to a dead node."""
    UNTRUSTED = "untrusted"
    """Whoever answers for the node or the worker shows a certificate, or a secret, that does not fit."""
    USER_ERROR = "user-error"
    """The function raised something that `retry_exceptions` does not list."""
    USER_RETRY = "user-retry"
    """The function raised something that `retry_exceptions` lists."""


class Action(StrEnum):
    """What the owner does."""

    FREE = "free"
    RETRY = "retry"
    WAIT = "wait"
    DROP = "drop"
    FAIL = "fail"


class Verdict(msgspec.Struct, frozen=True):
    """What to do, with the error's name in `shoal.exceptions` for `FAIL`, and the retries left afterwards."""

    action: Action
    error: str = ""
    retries: int = 0


# `started`: whether the user's code may have begun. It runs twice only if the user allowed it (`max_retries`).
TASK_TABLE = """
                 unstarted                    started+retries              started+none
worker-died      free                         retry                        WorkerCrashedError
out-of-memory    free                         retry                        OutOfMemoryError
node-lost        free                         retry                        NodeDiedError
node-taken       free                         free                         NodeDiedError
revoked          free                         retry                        WorkerCrashedError
agent-away       wait                         wait                         wait
owner-died       drop                         drop                         drop
job-ended        drop                         drop                         drop
cancelled        TaskCancelledError           TaskCancelledError           TaskCancelledError
killed           TaskCancelledError           TaskCancelledError           TaskCancelledError
group-removed    TaskPlacementGroupRemoved    TaskPlacementGroupRemoved    TaskPlacementGroupRemoved
environment      RuntimeEnvSetupError         RuntimeEnvSetupError         RuntimeEnvSetupError
never-fits       TaskUnschedulableError       TaskUnschedulableError       TaskUnschedulableError
untrusted        TaskUnschedulableError       TaskUnschedulableError       TaskUnschedulableError
user-error       TaskError                    TaskError                    TaskError
user-retry       TaskError                    retry                        TaskError
"""

# An actor's restart runs its constructor anew: state is lost. Whoever is gone by will is not restarted.
ACTOR_TABLE = """
                 restarts                     none
worker-died      retry                        ActorDiedError
out-of-memory    retry                        ActorDiedError
node-lost        retry                        ActorDiedError
node-taken       free                         ActorDiedError
revoked          wait                         wait
agent-away       wait                         wait
owner-died       ActorDiedError               ActorDiedError
job-ended        ActorDiedError               ActorDiedError
cancelled        wait                         wait
killed           ActorDiedError               ActorDiedError
group-removed    ActorPlacementGroupRemoved   ActorPlacementGroupRemoved
environment      RuntimeEnvSetupError         RuntimeEnvSetupError
never-fits       ActorUnschedulableError      ActorUnschedulableError
untrusted        ActorUnschedulableError      ActorUnschedulableError
user-error       ActorDiedError               ActorDiedError
user-retry       ActorDiedError               ActorDiedError
"""

# What a caller does when the actor is dead for good, restarts, or cannot be reached. A call that was sent and not
# answered may have run; one that was not sent waits for the actor's next life.
CALL_TABLE = """
                 unsent                       sent+retries                 sent+none
actor-dead       ActorDiedError               ActorDiedError               ActorDiedError
restarting       free                         retry                        ActorUnavailableError
unreachable      wait                         wait                         ActorUnavailableError
cancelled        TaskCancelledError           TaskCancelledError           TaskCancelledError
group-removed    ActorPlacementGroupRemoved   ActorPlacementGroupRemoved   ActorPlacementGroupRemoved
user-error       TaskError                    TaskError                    TaskError
user-retry       TaskError                    retry                        TaskError
caller-died      drop                         drop                         drop
"""


class CallFault(StrEnum):
    """What happened to a call of an actor's method."""

    ACTOR_DEAD = "actor-dead"
    RESTARTING = "restarting"
    UNREACHABLE = "unreachable"
    CANCELLED = "cancelled"
    GROUP_REMOVED = "group-removed"
    USER_ERROR = "user-error"
    USER_RETRY = "user-retry"
    CALLER_DIED = "caller-died"


def after_task(fault: Fault, *, started: bool, retries: int) -> Verdict:
    """Return what becomes of a task. `retries` is what is left of `max_retries`, -1 for ever.

    A node that was taken by announcement does not count, unless the task allows no retry at all. One that never
    began is run again without counting, since nothing of it happened.

    >>> after_task(Fault.WORKER_DIED, started=True, retries=1)
    Verdict(action=<Action.RETRY: 'retry'>, error='', retries=0)
    """
    column = "unstarted" if not started else "started+retries" if retries else "started+none"
    return _verdict(_TASKS[fault.value, column], retries)


def after_actor(fault: Fault, *, restarts: int) -> Verdict:
    """Return what becomes of an actor. `restarts` is what is left of `max_restarts`, -1 for ever."""
    return _verdict(_ACTORS[fault.value, "restarts" if restarts else "none"], restarts)


def after_call(fault: CallFault, *, sent: bool, retries: int) -> Verdict:
    """Return what becomes of an actor's call. `retries` is what is left of `max_task_retries`, -1 for ever."""
    column = "unsent" if not sent else "sent+retries" if retries else "sent+none"
    return _verdict(_CALLS[fault.value, column], retries)


def user_fault(error: BaseException, listed: Sequence[type[BaseException]]) -> Fault:
    """Return whether an error of user code is one that `retry_exceptions` lists.

    An error that came out of a nested task counts as its cause.
    """
    cause = getattr(error, "cause", None) or error
    return Fault.USER_RETRY if listed and isinstance(cause, tuple(listed)) else Fault.USER_ERROR


def after_revoke(answer: str, *, retries: int) -> Verdict:
    """Return what becomes of a task whose lease was revoked: `answer` is `unstarted` or `started`, by the worker's mark
    in its shared page; the worker is dead by then, so the task cannot run twice at once."""
    return after_task(Fault.REVOKED, started=answer != "unstarted", retries=retries)


def after_loss(
    *, is_put: bool, has_recipe: bool, max_retries: int, retries: int, is_cancelled: bool = False
) -> Verdict:
    """Return what becomes of a value whose last copy is gone: made again, or lost with a `LossReason` as `error`."""
    if is_put:
        return Verdict(Action.FAIL, "put")
    if is_cancelled:
        return Verdict(Action.FAIL, "cancelled")
    if not max_retries:
        return Verdict(Action.FAIL, "retries-off")
    if not has_recipe:
        return Verdict(Action.FAIL, "lineage-evicted")
    if not retries:
        return Verdict(Action.FAIL, "retries-used-up")
    return Verdict(Action.RETRY, retries=_less_one(retries))


def _verdict(cell: str, retries: int) -> Verdict:
    match cell:
        case "free":
            return Verdict(Action.FREE, retries=retries)
        case "retry":
            return Verdict(Action.RETRY, retries=_less_one(retries))
        case "wait":
            return Verdict(Action.WAIT, retries=retries)
        case "drop":
            return Verdict(Action.DROP)
        case _:
            return Verdict(Action.FAIL, cell)


def _less_one(retries: int) -> int:
    return retries if retries < 0 else retries - 1


def _cells(table: str) -> dict[tuple[str, str], str]:
    head, *rows = (line.split() for line in table.strip().splitlines())
    return {(row[0], column): cell for row in rows for column, cell in zip(head, row[1:], strict=True)}


_TASKS = _cells(TASK_TABLE)
_ACTORS = _cells(ACTOR_TABLE)
_CALLS = _cells(CALL_TABLE)
