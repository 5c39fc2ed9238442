"""What this process handed out and has no answer to, for listings; and the tasks whose end only their owner knows.

Nothing is kept for that: the agent asks, once somebody lists tasks, and the queues are looked through. Only as many
rows leave as were asked for, the oldest first, with true counts of all. Of tasks that ended with their worker, or
before they had one, the agent of that worker is told (ours, if it is gone): nobody else could.
"""

from __future__ import annotations

import collections
import itertools
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from shoal.foundation.ids import NODE_ID_BYTES
from shoal.runtime.client.actor_calls import ALIVE
from shoal.runtime.client.reactor import Link
from shoal.runtime.client.refs import ObjectRef
from shoal.runtime.client.results import ENDED_BY, fault_of
from shoal.runtime.decide.row_filters import passes
from shoal.runtime.decide.task_states import TaskState
from shoal.wire import tasks as wire

if TYPE_CHECKING:
    from shoal.runtime.client.owner import Lease, WorkClass
    from shoal.runtime.client.session import Session

LOOKED_AT_MAX = 100_000
"""How many tasks of one queue are looked through for those that a filter wants."""
ENDS_MAX = 20_000
ENDS_PER_SEND = 2_000
WHY_CHARACTERS_MAX = 500


class _Group(NamedTuple):
    """Tasks alike in all but number, name and attempt."""

    function: str
    kind: str
    state: TaskState
    actor: str
    refs: Iterable[Any]
    number: int
    """How many they are; below 0: to be counted by looking."""
    spec: dict[str, Any]


class Owed:
    """Answers the agent's question for one session."""

    def __init__(self, session: Session) -> None:
        self._session, self._core = session, session.core
        self.upcoming: dict[int, ObjectRef[Any]] = {}
        """Plain tasks whose arguments are not ready."""
        self._ends: collections.deque[tuple[Link | None, list[Any], dict[str, Any]]] = collections.deque(
            maxlen=ENDS_MAX
        )
        session.core.handlers[wire.ASK_OWED] = self._on_asked
        session.core.on_tick.append(self._tick)

    # ---------------------------------------------------------------------------------------------- ends

    def ended(self, ref: ObjectRef[Any], error: str, why: str, lease: Lease | None = None) -> None:
        """Note the end of an attempt that nobody else can tell of: it had no worker, or died with it (`lease`'s).

        With the core's lock held.
        """
        recipe = ref._recipe
        if recipe is None or ref._message is None:
            return
        options = ref._message[5] if len(ref._message) > 5 else {}
        parent, made_s = self._session.origins.of(ref._n)
        is_call = recipe.work is None
        function = f"{recipe.actor.class_name}.{recipe.name}" if is_call else _function_of(recipe.work)
        row = [
            ref.hex(),
            function if is_call else recipe.name,
            function,
            None,
            time.time(),
            error,
            recipe.actor.actor_id.hex() if is_call else "",
            "ACTOR_TASK" if is_call else "NORMAL_TASK",
            options.get("attempt", 0),
            parent.hex(),
            made_s,
            why[:WHY_CHARACTERS_MAX],
            options.get("site", ""),
        ]
        process: bytes = b""
        if lease is not None:
            process = lease.process
        elif is_call and recipe.actor.address is not None:
            process = recipe.actor.address[0]
        about: dict[str, Any] = {"process": process, "node": process[:NODE_ID_BYTES].hex(), "job": self._session.job}
        if not is_call:
            about |= _about(recipe.work.spec)
        agents = self._session.owner.agents
        agent = lease.agent if lease is not None else agents.get(process[:NODE_ID_BYTES].hex())
        self._ends.append((agent, row, about))

    def lost(self, ref: ObjectRef[Any], why: str, lease: Lease) -> None:
        """A task's worker died while it ran. With the core's lock held."""
        self.ended(ref, ENDED_BY.get(fault_of(why), "WORKER_DIED"), why, lease)

    def _tick(self, now: float) -> None:
        if not self._ends:
            return
        home = self._core.agent
        with self._core.lock:
            links = {home}
            last: tuple[Link, list[Any], dict[str, Any]] | None = None
            for _ in range(min(ENDS_PER_SEND, len(self._ends))):
                agent, row, about = self._ends.popleft()
                if agent is None or agent.is_closed:
                    agent = home
                if last is not None and last[0] is agent and last[2] == about:
                    last[1].append(row)
                    continue
                last = (agent, [row], about)
                agent.out.append((wire.ROWS, last[1], [], about))
                links.add(agent)
            for link in links:
                link.flush()

    # ---------------------------------------------------------------------------------------------- what is owed

    def _on_asked(self, link: Link, message: list[Any]) -> None:
        """The agent asks; the reply holds rows, and how many there are of each function, type and state."""
        _, serial, limit, filters = message
        rows, total, counts = self.listed(limit, filters)
        link.out.append((wire.OWED, serial, rows, total, counts))
        link.flush()

    def listed(self, limit: int, filters: Any) -> tuple[list[dict[str, Any]], int, list[list[Any]]]:
        """Return at most `limit` rows that pass, how many pass, and [function, type, state, count] of everything.

        With the core's lock held. Looking for single tasks in a long queue ends after `LOOKED_AT_MAX` of them.
        """
        rows: list[dict[str, Any]] = []
        total = 0
        counts: collections.Counter[tuple[str, str, str]] = collections.Counter()
        for group in self._groups():
            refs = group.refs
            count = group.number
            if count < 0:
                refs = [ref for ref in refs if type(ref) is ObjectRef and not ref._ready]
                count = len(refs)
            if not count:
                continue
            counts[group.function, group.kind, group.state.value] += count
            base = self._base(group)
            if not passes(base, [one for one in filters if one[0] in base]):
                continue
            single = [one for one in filters if one[0] not in base]
            found = self._rows(group, base, refs, single)
            if not single:
                shown = list(itertools.islice(found, limit - len(rows)))
                total += count
            else:
                passing = list(found)
                shown = passing[: limit - len(rows)]
                total += len(passing)
            rows += shown
        return rows, total, [[*key, count] for key, count in counts.items()]

    def _base(self, group: _Group) -> dict[str, Any]:
        about = _about(group.spec)
        return {
            "state": group.state.value,
            "job_id": self._session.job,
            "actor_id": group.actor,
            "type": group.kind,
            "func_or_class_name": group.function,
            "error_type": "",
            "placement_group_id": about["group"],
            "runtime_env_info": about["environment"],
            "amounts": about["amounts"],
        }

    def _rows(
        self, group: _Group, base: dict[str, Any], refs: Iterable[Any], single: list[Any]
    ) -> Iterator[dict[str, Any]]:
        origins = self._session.origins
        for ref in itertools.islice(refs, LOOKED_AT_MAX):
            if type(ref) is not ObjectRef or ref._ready or ref._message is None:
                continue
            options = ref._message[5] if len(ref._message) > 5 else {}
            recipe = ref._recipe
            row = {
                "task_id": ref.hex(),
                "attempt_number": options.get("attempt", 0),
                "name": recipe.name if recipe.work is not None else group.function,
                **base,
            }
            if single and not passes(row, [one for one in single if one[0] in row]):
                continue
            parent, made_s = origins.of(ref._n)
            row |= {"parent_task_id": parent.hex(), "creation_time_s": made_s, "call_site": options.get("site", "")}
            if single and not passes(row, single):
                continue
            yield row

    # ---------------------------------------------------------------------------------------------- where they are

    def _groups(self) -> Iterator[_Group]:
        session = self._session
        by_class: dict[WorkClass, list[Any]] = {}
        for ref in self.upcoming.values():
            by_class.setdefault(ref._recipe.work, []).append(ref)
        for work, refs in by_class.items():
            yield _task_group(work, TaskState.PENDING_ARGS_AVAIL, refs, -1)
        for work in session.owner.by_key.values():
            yield _task_group(work, TaskState.PENDING_NODE_ASSIGNMENT, work.queue, len(work.queue))
        for lease in session.owner.leases.values():
            # The first runs; its worker tells of it.
            pushed = list(itertools.islice(lease.pending.values(), 1, None))
            yield _task_group(lease.work, TaskState.SUBMITTED_TO_WORKER, pushed, -1)
        for state in session.actors.calls.states.values():
            yield from self._calls(state)

    def _calls(self, state: Any) -> Iterator[_Group]:
        by_method: dict[tuple[str, TaskState], list[Any]] = {}

        def add(ref: Any, where: TaskState) -> None:
            if type(ref) is ObjectRef and ref._recipe is not None and ref._recipe.work is None:
                by_method.setdefault((ref._recipe.name, where), []).append(ref)

        queued = TaskState.PENDING_NODE_ASSIGNMENT
        if state.state == ALIVE:
            queued = TaskState.PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY
        for item in itertools.islice(state.queue, LOOKED_AT_MAX):
            if type(item) is tuple:
                add(item[0], TaskState.PENDING_ARGS_AVAIL)
            else:
                add(item, queued)
        pushed = iter(state.link.pending.values()) if state.link is not None else iter(())
        if state.is_ordered:
            next(pushed, None)  # it runs, if nobody else's call does
            for ref in itertools.islice(pushed, LOOKED_AT_MAX):
                add(ref, TaskState.SUBMITTED_TO_WORKER)
        for (method, where), refs in by_method.items():
            name = f"{state.class_name}.{method}"
            # An ordered actor's queue is worked off in its order, which is that of numbers.
            yield _Group(name, "ACTOR_TASK", where, state.actor_id.hex(), refs, -1, {})


def _task_group(work: WorkClass, state: TaskState, refs: Iterable[Any], count: int) -> _Group:
    return _Group(_function_of(work), "NORMAL_TASK", state, "", refs, count, work.spec)


def _function_of(work: WorkClass) -> str:
    return str(work.spec.get("name", ""))


def _about(spec: dict[str, Any]) -> dict[str, Any]:
    group = spec.get("group")
    return {
        "amounts": spec.get("amounts") or {},
        "group": group[0] if group else "",
        "environment": spec.get("environment") or {},
    }
