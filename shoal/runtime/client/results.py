"""What happens when a result arrives, or will never arrive: settle, keep what it brought alive, retry, fail."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

from shoal.runtime.client.codec import holds_of, nested_of
from shoal.runtime.client.core import Core
from shoal.runtime.client.owner import Owner
from shoal.runtime.client.reactor import Link
from shoal.runtime.client.refs import ObjectRef, Token, settle
from shoal.runtime.client.sources import Made, Source
from shoal.runtime.decide import failure_rules
from shoal.runtime.decide.failure_rules import Action, Fault
from shoal.wire import tasks as wire


class Several:
    """A task whose results are not exactly one: `refs` are what the caller holds; the first stands for the task.

    In a replay `source` is what is replayed, and `task`, which stands for it, is settled once the refs are.
    """

    __slots__ = ("refs", "source", "task")

    def __init__(
        self, refs: list[ObjectRef[Any]], source: Source | None = None, task: ObjectRef[Any] | None = None
    ) -> None:
        self.refs, self.source, self.task = refs, source, task


class Results:
    """Takes every result that is not simply a native value."""

    def __init__(self, core: Core, owner: Owner) -> None:
        self._core, self._owner = core, owner
        self.several: dict[int, Several] = {}
        """Tasks with other than one result, by number."""
        self.stored: Any = None
        """Takes charge of results that lie in the object store."""
        self.cancelled: set[int] = set()
        """Running tasks that we asked to be cancelled."""
        self.call_again: Callable[[ObjectRef[Any]], None] = lambda ref: None
        """Sends an actor's call once more."""
        self.on_end: Callable[[ObjectRef[Any], str, str], None] = lambda ref, error, why: None
        """Called for a task that ends without having had a worker."""
        core.on_result = self.arrived
        core.handlers[wire.KEPT] = self._on_kept
        owner.fail, owner.cancelled = self.worker_died, self.cancelled

    def arrived(self, link: Link, message: list[Any], entry: Any) -> None:
        """Take one result. With the core's lock held."""
        n, format, data = message[1], message[2], message[3]
        if format == wire.ERROR and entry._recipe is not None and self._is_retried(entry, data):
            return
        self.settle(entry, format, data, (self._core.process, n))

    def settle(self, ref: ObjectRef[Any], format: int, data: Any, token: Token) -> None:
        """Settle one ref with a value that came under `token`, taking charge of the refs inside."""
        several = self.several.pop(ref._n, None) if self.several else None
        message, ref._message = ref._message, None
        pins, ref._pins = ref._pins, None
        if self.cancelled:
            self.cancelled.discard(ref._n)
        if several is not None:
            source = several.source
            if source is None and format == wire.SEVERAL and message is not None and ref._recipe.work is not None:
                source = self.stored.source_of(ref, message, pins)
            self._settle_several(several, format, data, token, source)
        else:
            if format == wire.STORED and message is not None and ref._recipe.work is not None:
                self.stored.remember(ref, message, pins)
            self._settle_one(ref, format, data, token)
        del pins  # only now may the arguments go: results may hold refs that came as arguments

    def _settle_several(self, several: Several, format: int, data: Any, token: Token, source: Source | None) -> None:
        if format == wire.SEVERAL:
            nested = [group for one_format, one_data in data for group in nested_of(one_format, one_data)]
            holds: dict[bytes, Any] = holds_of(nested, token) if nested else {}
            for index, (ref, (one_format, one_data)) in enumerate(zip(several.refs, data, strict=True)):
                if one_format == wire.STORED:
                    one_data = placed(one_data, ref)
                    ref._recipe = Made(source, index) if source is not None else None
                self._settle_one(ref, one_format, one_data, token, holds)
        else:
            for ref in several.refs:
                settle(ref, format, data)
        if several.task is not None:
            settle(several.task, wire.NOTHING, None)

    def _settle_one(
        self, ref: ObjectRef[Any], format: int, data: Any, token: Token, holds: dict[bytes, Any] | None = None
    ) -> None:
        nested = nested_of(format, data)
        if nested:
            ref._hold = holds_of(nested, token) if holds is None else dict(holds)
            ref._pins = (ref._pins or []) + (own_refs(self._core, nested) or []) or None
        if format == wire.STORED:
            self.stored.hold_result(ref, data)
        settle(ref, format, data)

    # ---------------------------------------------------------------------------------------------- kept arguments

    def _on_kept(self, link: Link, message: list[Any]) -> None:
        """Refs among a task's arguments outlive it: their owners must know before we let go of our pins."""
        _, n, owners = message
        ref = link.pending.get(n)
        if type(ref) is ObjectRef and ref._message is not None:
            nested = [group for group in nested_of(ref._message[3], ref._message[4]) if group[0] in owners]
            self.lend_all(link.peer, (self._core.process, n), nested, ref._pins or [])

    def lend_all(self, borrower: bytes, token: Token, nested: Any, pins: list[Any]) -> None:
        """Register the refs that a message brought to `borrower`, at us or at their owners.

        Exactly those in `nested`, the message's own list: for these, and no others, the borrower will say when it
        lets go. `pins` keep foreign ones alive until their owners have confirmed.
        """
        for owner, addresses, numbers in nested:
            if owner == borrower:
                continue
            if owner == self._core.process:
                escaped = self._core.escaped.refs
                self._core.lending.lend(borrower, token, [escaped[n] for n in numbers if n in escaped])
            else:
                self.tell_lent((owner, tuple(addresses)), borrower, token, numbers, pins)

    def tell_lent(self, address: Any, borrower: bytes, token: Token, numbers: list[int], pins: list[Any]) -> None:
        """Tell an owner that `borrower` holds its objects too; `pins` live until it knows."""
        self._core.reliable.send(address, (wire.LEND, borrower, list(token), numbers), pins)

    # ---------------------------------------------------------------------------------------------- failures

    def _is_retried(self, ref: ObjectRef[Any], data: bytes) -> bool:
        """Submit the task again if its user error is one that shall be retried."""
        recipe = ref._recipe
        if not recipe.retry_on or ref._tries == 0 or ref._message is None:
            return False
        error = pickle.loads(data)
        cause = getattr(error, "cause", None) or error
        if not isinstance(cause, recipe.retry_on):
            return False
        if ref._tries > 0:
            ref._tries -= 1
        if recipe.work is None:
            self.call_again(ref)
        else:
            ref._message = next_attempt(ref._message)
            self._owner.push(ref, recipe)
        return True

    def worker_died(self, ref: ObjectRef[Any], why: str, has_started: bool) -> None:
        """A task's worker died while it ran: again, if it may; else that is its result."""
        if ref._ready:
            return
        fault = Fault.CANCELLED if ref._n in self.cancelled else fault_of(why)
        retries = ref._tries if ref._message is not None else 0
        verdict = failure_rules.after_task(fault, started=has_started, retries=retries)
        if verdict.action in (Action.FREE, Action.RETRY) and ref._message is not None:
            ref._tries = verdict.retries
            if verdict.action is Action.RETRY:
                ref._message = next_attempt(ref._message)
            self._owner.push(ref, ref._recipe)
            return
        if not has_started:
            self.on_end(ref, ENDED_BY.get(fault, "WORKER_DIED"), why)
        error = death_of_task(ref, fault, why)
        self.settle(ref, wire.ERROR, pickle.dumps(error), (self._core.process, ref._n))


def next_attempt(message: Any) -> Any:
    """Return the message that sends a task, or a call, once more: it says which attempt it is."""
    options = message[5] if len(message) > 5 else {}
    kind = wire.SPECIAL if message[0] in (wire.TASK, wire.SPECIAL) else wire.SPECIAL_CALL
    return (kind, *message[1:5], {**options, "attempt": options.get("attempt", 0) + 1})


ENDED_BY = {
    Fault.CANCELLED: "TASK_CANCELLED",
    Fault.GROUP_REMOVED: "TASK_PLACEMENT_GROUP_REMOVED",
    Fault.NEVER_FITS: "TASK_UNSCHEDULABLE_ERROR",
    Fault.NODE_LOST: "NODE_DIED",
    Fault.OUT_OF_MEMORY: "OUT_OF_MEMORY",
}
"""Ray's words for what ends a task, other than its worker's death."""


def placed(data: Any, ref: ObjectRef[Any]) -> list[Any]:
    """Return where a stored value lies, under the number by which others ask for this ref."""
    place, size, nested = data
    return [[*place[:5], ref._n], size, nested]


def own_refs(core: Core, nested: Any) -> list[ObjectRef[Any]] | None:
    """Return our own refs that a value holds, so that the container keeps them."""
    found = []
    for owner, _, numbers in nested:
        if owner == core.process:
            for n in numbers:
                ref = core.escaped.refs.get(n)
                if ref is not None:
                    found.append(ref)
    return found or None


def fault_of(why: str) -> Fault:
    """Return what an agent's word about a dead worker, or about work that cannot be placed, amounts to."""
    for start, fault in _FAULTS.items():
        if why.startswith(start):
            return fault
    return Fault.WORKER_DIED


def death_of_task(ref: ObjectRef[Any], fault: Fault, why: str) -> Exception:
    """Return the error of a task that a fault ended for good."""
    from shoal import exceptions

    name = ref._recipe.name if ref._recipe is not None else "the task"
    kind = failure_rules.after_task(fault, started=True, retries=0).error or "WorkerCrashedError"
    if kind == "TaskCancelledError":
        return exceptions.TaskCancelledError(ref.hex())
    error: Exception = getattr(exceptions, kind)(f"task `{name}`: {why}")
    return error


_FAULTS = {
    "out of memory": Fault.OUT_OF_MEMORY,
    "group removed": Fault.GROUP_REMOVED,
    "cancelled": Fault.CANCELLED,
    "its node died": Fault.NODE_LOST,
    "never": Fault.NEVER_FITS,
    "untrusted": Fault.UNTRUSTED,
}
"""How an agent begins to say why."""
