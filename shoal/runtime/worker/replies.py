"""From a call's arguments to its result on the wire: reading, calling, writing, and the refs that pass through."""

from __future__ import annotations

import pickle
import sys
import time
from typing import TYPE_CHECKING, Any

from shoal.foundation.travel import shown_error
from shoal.runtime.client import codec
from shoal.runtime.client.reactor import Link
from shoal.runtime.client.refs import Hold, ObjectRef, groups
from shoal.runtime.worker.streams import Outflows, run_stream
from shoal.runtime.worker.telling import Telling
from shoal.wire import tasks as wire

if TYPE_CHECKING:
    from shoal.runtime.worker.execute import Executor


class Replies:
    """Shared by plain tasks and every kind of actor."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._session = executor.session
        self._core = executor.core
        self.kept = False
        """Whether the last call's arguments held refs (so that its reply must say which outlive it)."""
        self.outflows = Outflows(self)
        self._is_owner = False
        self.telling = Telling(executor)
        self.rows, self.under_way = self.telling.add, self.telling.under_way

    # ---------------------------------------------------------------------------------------------- calling

    def call(self, function: Any, link: Link, n: int, format: int, data: Any) -> Any:
        """Return the result of a call whose arguments are not all native.

        Refs among the arguments are held on the caller's account until the reply; `keep` says which live on.
        """
        if format == wire.PICKLED:  # without refs: nothing to hold
            args, kwargs = pickle.loads(data)
            return function(*args, **kwargs) if kwargs else function(*args)
        holds = self.holds_for(link, n, format, data)
        args, kwargs = self.arguments(format, data, holds)
        try:
            return function(*args, **kwargs) if kwargs else function(*args)
        finally:
            del args, kwargs
            if holds:
                self.keep(link, n, holds)

    def holds_for(self, link: Link, n: int, format: int, data: Any) -> dict[bytes, Hold]:
        """Return the holds of a call's arguments, empty if they hold no refs."""
        nested = codec.nested_of(format, data)
        return codec.holds_of(nested, (link.peer, n), is_implicit=True) if nested else {}

    def arguments(self, format: int, data: Any, holds: dict[bytes, Hold]) -> tuple[Any, Any]:
        """Return (args, kwargs) of a call."""
        if format == wire.PARTS:
            parts, names = data
            values = [self._part(part[0], part[1], holds) for part in parts]
            if not names:
                return values, None
            split = len(values) - len(names)
            return values[:split], dict(zip(names, values[split:], strict=True))
        if format == wire.NATIVE:
            return data, None
        args, kwargs = codec.read(format, data, holds)
        return args, kwargs

    def _part(self, format: int, data: Any, holds: dict[bytes, Hold]) -> Any:
        if format == wire.STORED:
            return self._session.stored.read_argument(data, holds)
        if format == wire.NOTHING:
            return None
        return codec.read(format, data, holds)

    def keep(self, link: Link, n: int, holds: dict[bytes, Hold]) -> None:
        """Before the reply: say whose refs among the arguments are still held here; nobody will release the others."""
        kept = []
        for owner in tuple(holds):
            hold = holds.pop(owner)
            if sys.getrefcount(hold) > 2:  # somebody beside this variable and the call holds it
                hold.is_implicit = False
                kept.append(owner)
        if kept:
            link.out.append((wire.KEPT, n, kept))

    # ---------------------------------------------------------------------------------------------- results

    def written(
        self, value: Any, link: Link, n: int, *, token: Any = None, object_id: bytes | None = None
    ) -> tuple[int, Any]:
        """Return a result as it travels to the caller; large ones go to the object store.

        `token` names the message where it is not the task's only answer, `object_id` the stored object.

        Raises:
            TypeError, ...: the value cannot be pickled.
        """
        kind = type(value)
        if kind in codec.SCALARS and not (kind in (bytes, str) and len(value) > codec.INLINE_BYTES_MAX):
            return wire.NATIVE, value
        if kind is int and codec.INT_MIN <= value <= codec.INT_MAX:
            return wire.NATIVE, value
        if codec.is_plain(value):
            data = pickle.dumps(value, 5)
            if len(data) <= codec.INLINE_BYTES_MAX:
                return wire.PICKLED, data
        dumped, refs = codec.pickled(value)
        if dumped.size > codec.INLINE_BYTES_MAX:
            result = self._session.stored.put_result(dumped, refs, link.peer, n, object_id=object_id)
        else:
            format, data, refs_inside = codec.packed(dumped, refs)
            refs = refs_inside or []
            result = format, data
        if refs:
            self._lend(link.peer, (link.peer, n if token is None else token), refs)
        return result

    def _lend(self, caller: bytes, token: tuple[bytes, int], refs: list[ObjectRef[Any]]) -> None:
        """The caller will hold these refs: ours are pinned, other owners are told before we let go."""
        with self._core.lock:
            self._session.results.lend_all(caller, token, groups(refs), refs)
            self.tell_owner()

    def tell_owner(self) -> None:
        """Tell the agent whether others hold refs of objects (or actors) of ours: then we must live on, even idle."""
        core = self._core
        is_owner = bool(core.lending.held or core.escaped.refs or self._session.actors.has_own)
        if is_owner is not self._is_owner:
            self._is_owner = is_owner
            core.agent.out.append((wire.OWNS, is_owner))
            core.agent.flush()

    def failed(self, error: BaseException, link: Link, n: int, name: str, actor: Any = None) -> tuple[int, Any]:
        """Return an error as it travels to the caller. Ends the process where user code asked for that."""
        from shoal.exceptions import TaskCancelledError, TaskError

        if isinstance(error, SystemExit):
            self.last_words()
            import os

            code = error.code
            os._exit(code if isinstance(code, int) else (0 if code is None else 1))
        key = (link.peer, n)
        if isinstance(error, KeyboardInterrupt) and key in self._executor.cancelled:
            del self._executor.cancelled[key]
            self.telling.failed(key, "TASK_CANCELLED", "the task was cancelled")
            ref: ObjectRef[Any] = ObjectRef(n, link.peer)
            return wire.ERROR, pickle.dumps(TaskCancelledError(ref.hex()))
        self.telling.failed(key, "TASK_EXECUTION_EXCEPTION", shown_error(error))
        if actor is not None:
            wrapped = TaskError.of(error, name, actor_repr=actor.shown, actor_id=actor.actor_id.hex())
        else:
            wrapped = TaskError.of(error, name)
        return wire.ERROR, pickle.dumps(wrapped)

    # ---------------------------------------------------------------------------------------------- special tasks

    def run_special(self, link: Link, message: list[Any]) -> None:
        """Run a task with options: several results, a stream, a name, a limit of calls."""
        _, n, function_id, format, data, options = message
        executor = self._executor
        name = options.get("name") or executor.name_of(function_id)
        started = time.perf_counter()
        is_ok = True
        try:
            function = executor.functions.get(function_id) or executor._load(function_id)
            if (link.peer, n) in executor.cancelled:
                raise KeyboardInterrupt
            value = self.call(function, link, n, format, data)
            result = self.special_result(value, link, n, options, name)
        except BaseException as error:
            is_ok = False
            result = self.failed(error, link, n, name)
        ended = time.perf_counter()
        link.out.append((wire.RESULT, n, *result, int((ended - started) * 1e6)))
        link.flush()
        what = executor.name_of(function_id)
        self.rows((link.peer, n, name, started, ended, is_ok, what, options))
        self._count_calls(function_id, options)

    def special_result(self, value: Any, link: Link, n: int, options: dict[str, Any], name: str) -> tuple[int, Any]:
        """Return the result of a call with other than one value.

        Raises:
            ValueError: there are not as many values as were promised; whatever the generator raises.
        """
        returns = options.get("returns", 1)
        if returns == 1:
            return self.written(value, link, n)
        if returns == 0:
            return wire.NOTHING, None
        if returns < 0:
            return run_stream(self, value, link, n, options, is_dynamic=returns == -2)
        values = list(value) if hasattr(value, "__iter__") and not isinstance(value, (str, bytes, dict)) else [value]
        if len(values) != returns:
            raise ValueError(
                f"Task returned {len(values)} objects, but num_returns={returns}."
                if hasattr(value, "__iter__")
                else f"Task returned a single value, but num_returns={returns}."
            )
        # Each result has a number of its own, told by the caller: a stored one is found and made again under it.
        numbers = options["numbers"]
        return wire.SEVERAL, [
            self.written(one, link, number, token=n) for one, number in zip(values, numbers, strict=True)
        ]

    def _count_calls(self, function_id: bytes, options: dict[str, Any]) -> None:
        most = options.get("max_calls", 0)
        if most:
            counts = self._executor.calls_done
            counts[function_id] = counts.get(function_id, 0) + 1
            if counts[function_id] >= most:
                self._executor.use_up()

    # ---------------------------------------------------------------------------------------------- state

    def built(self, creator: bytes, n: int, started: float, options: dict[str, Any], *, is_ok: bool) -> None:
        """Note that the constructor of this process's actor has ended."""
        self.under_way.pop((creator, n), None)
        options = {**options, "attempt": options.get("restarts", 0)}
        self.rows((creator, n, "__init__", started, time.perf_counter(), is_ok, "", options))

    def tick(self, now: float) -> None:
        """Tell the agent what ran, and whether we own what others hold."""
        if self._is_owner or self._core.escaped.refs or self._session.actors.has_own:
            with self._core.lock:
                self.tell_owner()
        self.telling.tick(now)

    def last_words(self) -> None:
        """Send what must not be lost before this process ends."""
        metrics = sys.modules.get("shoal.util.metrics")
        if metrics is not None:
            metrics.registry().report_now()
        self._core.flush()
        self._executor.prints.flush()
        self.telling.tell_all()
        deadline = time.monotonic() + 1.0
        for link in tuple(self._core.reactor.links.values()):
            while link._leftover is not None and time.monotonic() < deadline:
                time.sleep(0.001)
                link.on_writable()
