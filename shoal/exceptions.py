"""The errors of the task API: what `get`, `remote`, `wait` and actor calls raise, under Shoal's names and Ray's.

An error in a task reaches the caller as a `TaskError` that is *also* of the cause's type, so that `except ValueError`
works across processes; `.cause` is the original error and the text is the remote traceback. Everything here pickles in
both directions, whatever the cause is made of. Imports only the root of the tree of errors; importable from all floors.
"""

from __future__ import annotations

import functools
import os
import types
from enum import StrEnum
from typing import Any

from shoal.foundation import travel
from shoal.foundation.errors import AuthenticationError, NoCluster, ShoalError


class _Restorable(ShoalError):
    """Pickles as class, arguments and attributes, without calling the constructor again."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.args, dict(self.__dict__))


# ------------------------------------------------------------------------------------------------ errors of user code


class TaskError(ShoalError):
    """User code raised in a task or actor method.

    What `get` raises is an instance of the cause's type too (`as_instanceof_cause`). `function_name` is the task's
    name, `traceback_str` the remote traceback as text, `cause` the original error: of its own type wherever that can
    travel and be loaded here, else an `UnserializableException` that holds its text.
    """

    function_name: str = ""
    traceback_str: str = ""
    cause: Any = None
    proctitle: str = ""
    pid: int = 0
    ip: str = ""
    actor_repr: str = ""
    actor_id: str = ""

    def __init__(
        self,
        function_name: str,
        traceback_str: str,
        cause: BaseException | None,
        proctitle: str | None = None,
        pid: int | None = None,
        ip: str | None = None,
        actor_repr: str | None = None,
        actor_id: str | None = None,
    ) -> None:
        super().__init__(function_name, traceback_str, cause)
        self.function_name = function_name
        self.traceback_str = traceback_str
        self.cause = cause
        self.proctitle = proctitle or f"shoal::{function_name}"
        self.pid = pid or os.getpid()
        self.ip = ip or ""
        self.actor_repr = actor_repr or ""
        self.actor_id = actor_id or ""

    @classmethod
    def of(
        cls, error: BaseException, function_name: str, *, ip: str = "", actor_repr: str = "", actor_id: str = ""
    ) -> TaskError:
        """Return `error`, just caught in a worker, as what its caller shall see.

        An error that came out of a nested task keeps its own cause; the text then shows both tracebacks.
        """
        cause = error.cause if isinstance(error, TaskError) and error.cause is not None else error
        return cls(function_name, travel.remote_traceback(error), cause, None, None, ip, actor_repr, actor_id)

    def as_instanceof_cause(self) -> TaskError:
        """Return a new error that is both a `TaskError` and of the cause's type, or a plain copy where that cannot be.

        It cannot be for causes that `except Exception` would not catch and for types that refuse subclasses. The class
        is made once per type of cause. `raise` it from None: its text holds the remote traceback.
        """
        cause = self.cause
        both = _both(type(cause)) if isinstance(cause, Exception) else None  # type: ignore[arg-type]  # types hash
        if both is not None:
            try:
                return _of_both(both, self, cause)
            except Exception:
                pass  # a type that cannot be made without its constructor: `.cause` still has it
        return TaskError(*self._fields())

    def __str__(self) -> str:
        where = f"pid={self.pid}" + (f", ip={self.ip}" if self.ip else "")
        if self.actor_repr:
            where += f", actor_id={self.actor_id}, repr={self.actor_repr}"
        lines = self.traceback_str.strip().split("\n")
        head = f"{self.proctitle}() ({where})"
        if not any(line.startswith("Traceback ") for line in lines):
            return "\n".join([head, *lines])
        return "\n".join(head if line.startswith("Traceback ") else line for line in lines)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in _TASK_ERROR_FIELDS:
            raise AttributeError(name)
        cause = self.__dict__.get("cause")
        if cause is None:
            raise AttributeError(f"`{type(self).__name__}` has no attribute `{name}`")
        return getattr(cause, name)

    def __reduce__(self) -> tuple[Any, ...]:
        is_both = type(self) is not TaskError
        cause = self.__dict__["cause"]
        return _loaded, (is_both, self._fields(cause=None), travel.packed(cause), travel.shown_error(cause))

    def _fields(self, **changed: Any) -> tuple[Any, ...]:
        own = {name: self.__dict__.get(name) for name in _TASK_ERROR_FIELDS} | changed
        return tuple(own[name] for name in _TASK_ERROR_FIELDS)


_TASK_ERROR_FIELDS = (
    "function_name",
    "traceback_str",
    "cause",
    "proctitle",
    "pid",
    "ip",
    "actor_repr",
    "actor_id",
)


class UnserializableException(_Restorable):
    """An error that could not travel, or not be loaded here; its text is all that arrived."""


class UserCodeException(_Restorable):
    """Marks an error as one of user code, for libraries that run user functions."""


class TaskCancelledError(_Restorable):
    """The task was cancelled, before or while it ran."""

    def __init__(self, task_id: Any = None, error_message: str | None = None) -> None:
        super().__init__(task_id, error_message)
        self.task_id = task_id
        self.error_message = error_message

    def __str__(self) -> str:
        who = f"Task: {self.task_id} was cancelled." if self.task_id else "This task or its dependency was cancelled."
        return f"{who} {self.error_message}" if self.error_message else who


class GetTimeoutError(_Restorable, TimeoutError):
    """The value was not there in time."""


class PendingCallsLimitExceeded(_Restorable):
    """The handle has `max_pending_calls` calls under way already."""


class ObjectRefStreamEndOfStreamError(_Restorable):
    """The generator has yielded its last value."""


class StreamingGeneratorReplayInconsistentError(_Restorable):
    """A generator that was run again gave another number of values than before."""


class AsyncioActorExit(_Restorable):
    """`exit_actor()` was called in an async actor; the runtime catches it."""


# --------------------------------------------------------------------------------------------------- errors of actors


class ActorError(_Restorable):
    """The actor could not answer. `actor_id` is hex text, `actor_init_failed` says that its constructor raised,
    `preempted` that its machine was taken away."""

    default_message = "The actor experienced an error before finishing this task."

    def __init__(
        self,
        actor_id: str | None = None,
        error_msg: str = "",
        actor_init_failed: bool = False,
        preempted: bool = False,
    ) -> None:
        super().__init__(actor_id, error_msg, actor_init_failed, preempted)
        self.actor_id = actor_id
        self.error_msg = error_msg or self.default_message
        self.actor_init_failed = actor_init_failed
        self.preempted = preempted

    def __str__(self) -> str:
        return self.error_msg


class ActorDiedError(ActorError):
    """The actor is dead and will not come back.

    `cause` is the `TaskError` of its constructor, or the reason as text; `.cause` keeps the former.
    """

    default_message = "The actor died unexpectedly before finishing this task."

    def __init__(
        self,
        cause: TaskError | str | None = None,
        *,
        actor_id: str = "",
        class_name: str = "",
        name: str = "",
        preempted: bool = False,
    ) -> None:
        if isinstance(cause, TaskError):
            text = f"The actor died because of an error raised in its creation task, {cause}"
            actor_id = actor_id or cause.actor_id
        else:
            facts = {"class_name": class_name, "actor_id": actor_id, "name": name}
            told = [f"\t{key}: {value}" for key, value in facts.items() if value]
            text = "\n".join([self.default_message, *told, *([cause] if cause else [])])
        super().__init__(actor_id or None, text, isinstance(cause, TaskError), preempted)
        self.cause = cause if isinstance(cause, TaskError) else None


class ActorUnavailableError(ActorError):
    """The actor cannot be reached now and may be back later; the call may or may not have run."""

    def __init__(self, error_message: str, actor_id: bytes | str | None = None) -> None:
        shown = actor_id.hex() if isinstance(actor_id, bytes) else actor_id
        super().__init__(
            shown,
            f"The actor {shown} is unavailable: {error_message}. The task may or may not have been "
            "executed on the actor.",
        )


class ActorAlreadyExistsError(_Restorable, ValueError):
    """A live actor of the namespace has that name."""

    @property
    def error_message(self) -> str:
        return str(self.args[0]) if self.args else ""


class ActorHandleNotFoundError(_Restorable, ValueError):
    """The handle is of another session."""


class ActorUnschedulableError(_Restorable):
    """The actor can never be placed, such as by hard affinity to a dead node."""

    def __str__(self) -> str:
        return f"The actor is not schedulable: {super().__str__()}"


class ActorPlacementGroupRemoved(_Restorable):
    """The placement group the actor lived in was removed."""

    def __str__(self) -> str:
        return super().__str__() or "The placement group corresponding to this Actor has been removed."


# ---------------------------------------------------------------------------------------------------- errors of tasks


class TaskUnschedulableError(_Restorable):
    """The task can never be placed, such as by hard affinity to a dead node."""

    def __str__(self) -> str:
        return f"The task is not schedulable: {super().__str__()}"


class TaskPlacementGroupRemoved(_Restorable):
    """The placement group the task was to run in was removed."""

    def __str__(self) -> str:
        return super().__str__() or "The placement group corresponding to this task has been removed."


class WorkerCrashedError(_Restorable):
    """The worker's process ended while it ran the task, and no retry was left."""

    def __str__(self) -> str:
        return super().__str__() or "The worker died unexpectedly while executing this task."


class OutOfMemoryError(_Restorable):
    """The worker was ended because its machine ran out of memory, and no retry was left."""

    @property
    def message(self) -> str:
        return str(self)


class NodeDiedError(_Restorable):
    """The node is dead or cannot be reached."""

    @property
    def message(self) -> str:
        return str(self)


class LocalRayletDiedError(_Restorable):
    """This machine's agent ended."""

    def __str__(self) -> str:
        return super().__str__() or "The agent of this node died."


class RuntimeEnvSetupError(_Restorable):
    """The task's or actor's runtime environment could not be made."""

    def __str__(self) -> str:
        detail = super().__str__()
        return "Failed to set up runtime environment." + (f"\n{detail}" if detail else "")


class InternalError(_Restorable):
    """Shoal itself did not work as it should: a fault to report."""


class ForkedProcessError(_Restorable, RuntimeError):
    """The API was used in a child of `os.fork()`: the runtime belongs to the parent."""


# -------------------------------------------------------------------------------------------------- errors of objects


class LossReason(StrEnum):
    """Why a value is gone and did not come back."""

    NODE_DIED = "node-died"
    OWNER_DIED = "owner-died"
    PUT = "put"
    LINEAGE_EVICTED = "lineage-evicted"
    RETRIES_USED_UP = "retries-used-up"
    RETRIES_OFF = "retries-off"
    CANCELLED = "cancelled"
    DEPENDENCY_LOST = "dependency-lost"
    FETCH_TIMED_OUT = "fetch-timed-out"
    FREED = "freed"
    UNKNOWN_REF = "unknown-ref"
    UNTRUSTED = "untrusted"


_LOSS_TEXT = {
    LossReason.NODE_DIED: "all copies were on nodes that died",
    LossReason.OWNER_DIED: "the process that created the reference, and so owned the value, has exited",
    LossReason.PUT: "it was stored by `put()`, which leaves nothing to run again; return it from a task instead",
    LossReason.LINEAGE_EVICTED: "the record of how it was made was dropped, oldest first, at `lineage_bytes_max`",
    LossReason.RETRIES_USED_UP: "the task that made it has used up its retries; consider a higher `max_retries`",
    LossReason.RETRIES_OFF: "the task that made it has `max_retries=0`",
    LossReason.CANCELLED: "the task that would make it again was cancelled",
    LossReason.DEPENDENCY_LOST: "a value that its task needs is lost as well",
    LossReason.FETCH_TIMED_OUT: "no copy could be fetched in time",
    LossReason.FREED: "it was freed by hand",
    LossReason.UNKNOWN_REF: "its owner does not know it",
    LossReason.UNTRUSTED: "whoever answers at the address of its node could not prove to be of this cluster",
}


class ObjectLostError(_Restorable):
    """The value is gone. `reason` says why; `object_ref_hex` is its id."""

    default_reason = LossReason.NODE_DIED

    def __init__(
        self,
        object_ref_hex: str = "",
        reason: LossReason | str | None = None,
        reason_message: str = "",
        *,
        owner_address: Any = None,
        call_site: str = "",
    ) -> None:
        super().__init__(object_ref_hex, reason, reason_message)
        self.object_ref_hex = object_ref_hex
        self.reason = LossReason(reason) if reason else self.default_reason
        self.reason_message = reason_message or _LOSS_TEXT[self.reason]
        self.owner_address = owner_address
        self.call_site = call_site

    def __str__(self) -> str:
        made = f" (created at: {self.call_site})" if self.call_site else ""
        return f"Failed to retrieve object {self.object_ref_hex}{made}: {self.reason_message}."


class ObjectReconstructionFailedError(ObjectLostError):
    """All copies are lost, and the value could not be made again."""

    default_reason = LossReason.LINEAGE_EVICTED


class OwnerDiedError(ObjectLostError):
    """The process that owned the value died while the reference was still in use."""

    default_reason = LossReason.OWNER_DIED


class ObjectFetchTimedOutError(ObjectLostError):
    """No copy answered in time."""

    default_reason = LossReason.FETCH_TIMED_OUT


class ObjectFreedError(ObjectLostError):
    """The value was freed by hand."""

    default_reason = LossReason.FREED


class ReferenceCountingAssertionError(ObjectLostError, AssertionError):
    """The owner has dropped a value that somebody still refers to: a fault of Shoal."""

    default_reason = LossReason.UNKNOWN_REF


class ObjectStoreFullError(_Restorable):
    """The node's object store has no room, and what is in it is in use and cannot be spilled."""

    def __str__(self) -> str:
        return _hinted(super().__str__(), "`shoal memory` lists what holds the store")


class OutOfDiskError(_Restorable):
    """The object store had to spill, and the disk is full."""

    def __str__(self) -> str:
        return _hinted(super().__str__(), "`df` shows the disk, `shoal memory` what holds the object store")


def _hinted(text: str, hint: str) -> str:
    """Return an error's text with a hint, which it has already if it came from another process."""
    return text if "\nhint: " in text else f"{text}\nhint: {hint}"


# ------------------------------------------------------------------------------------------------------- Ray's names

RayError = ShoalError
RayTaskError = TaskError
RayActorError = ActorError
RaySystemError = InternalError


def by_name(name: str, text: str) -> Exception:
    """Return the error that a peer named (such as in the head's failed reply), with its text.

    Unknown names give a `ShoalError`, so that a newer peer's error still reads well.
    """
    if name in ("ValueError", "TypeError", "KeyError", "RuntimeError", "TimeoutError", "ConnectionError"):
        return {
            "ValueError": ValueError,
            "TypeError": TypeError,
            "KeyError": KeyError,
            "RuntimeError": RuntimeError,
            "TimeoutError": TimeoutError,
            "ConnectionError": ConnectionError,
        }[name](text)
    kind = globals().get(name)
    if isinstance(kind, type) and issubclass(kind, ShoalError) and kind is not TaskError:
        return kind(text)
    return ShoalError(f"{name}: {text}")


# ------------------------------------------------------------------------------------------------- both types at once


def _restored(kind: type[BaseException], arguments: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    return travel.restored(kind, arguments, state)


def _loaded(is_both: bool, fields: tuple[Any, ...], blob: bytes, text: str) -> TaskError:
    cause = (travel.unpacked(blob) or UnserializableException(text)) if blob or text else None
    values = dict(zip(_TASK_ERROR_FIELDS, fields, strict=True)) | {"cause": cause}
    plain = TaskError(*values.values())
    return plain.as_instanceof_cause() if is_both else plain


@functools.lru_cache(maxsize=512)
def _both(kind: type[Exception]) -> type[TaskError] | None:
    """Return the class that is both `TaskError` and `kind`, None where there cannot be one."""
    if issubclass(TaskError, kind):
        return None
    name = f"TaskError({kind.__name__})"
    names = {"__module__": __name__, "__qualname__": name, "__doc__": kind.__doc__}
    try:
        return types.new_class(name, (TaskError, kind), {}, lambda body: body.update(names))
    except Exception:
        return None


def _of_both(both: type[TaskError], error: TaskError, cause: Exception) -> TaskError:
    """Return an error of the class `both` with everything that `cause` has, made without its constructor."""
    native = travel.native_base(type(cause))
    arguments, state = travel.parts(cause) or (cause.args, dict(cause.__dict__))
    if isinstance(cause, BaseExceptionGroup):
        arguments = (cause.message, cause.exceptions)
    try:
        found: Any = native.__new__(both, *arguments)
        native.__init__(found, *arguments)
    except Exception:
        found = native.__new__(both, *cause.args)
        BaseException.__init__(found, *cause.args)
    travel.fill(found, native, state)
    found.__dict__.update(zip(_TASK_ERROR_FIELDS, error._fields(), strict=True))
    return found  # type: ignore[no-any-return]  # made above


__all__ = [
    "ActorAlreadyExistsError",
    "ActorDiedError",
    "ActorError",
    "ActorHandleNotFoundError",
    "ActorPlacementGroupRemoved",
    "ActorUnavailableError",
    "ActorUnschedulableError",
    "AsyncioActorExit",
    "AuthenticationError",
    "ForkedProcessError",
    "GetTimeoutError",
    "InternalError",
    "LocalRayletDiedError",
    "LossReason",
    "NoCluster",
    "NodeDiedError",
    "ObjectFetchTimedOutError",
    "ObjectFreedError",
    "ObjectLostError",
    "ObjectReconstructionFailedError",
    "ObjectRefStreamEndOfStreamError",
    "ObjectStoreFullError",
    "OutOfDiskError",
    "OutOfMemoryError",
    "OwnerDiedError",
    "PendingCallsLimitExceeded",
    "RayActorError",
    "RayError",
    "RaySystemError",
    "RayTaskError",
    "ReferenceCountingAssertionError",
    "RuntimeEnvSetupError",
    "ShoalError",
    "StreamingGeneratorReplayInconsistentError",
    "TaskCancelledError",
    "TaskError",
    "TaskPlacementGroupRemoved",
    "TaskUnschedulableError",
    "UnserializableException",
    "UserCodeException",
    "WorkerCrashedError",
]
