"""Actor classes and handles: creation, names, lifetime, cancelling and killing.

An actor that is not detached lives as long as the creator's handle or a copy of it: a handle that was looked up by name
does not keep it, nor do that one's copies. The creator's handle owns a *life*: a ref like any
other, which travels inside pickled handles, so that borrowing counts handles without a second protocol. When the last
reference to the life ends, the head is told to drop the actor.
"""

from __future__ import annotations

import collections
import inspect
import pickle
from typing import TYPE_CHECKING, Any

import msgspec

from shoal.foundation.ids import fresh
from shoal.runtime.client import options as rules
from shoal.runtime.client.actor_calls import DEAD, ActorCalls, ActorState, MethodRecipe
from shoal.runtime.client.arguments import prepare
from shoal.runtime.client.environment import merged
from shoal.runtime.client.reactor import Link
from shoal.runtime.client.refs import ObjectRef
from shoal.runtime.client.signatures import ANYTHING, Parameter, constructor_of, parameters_of, signature_from
from shoal.runtime.client.sources import Made
from shoal.wire import tasks as wire
from shoal.wire.asks import What

if TYPE_CHECKING:
    from shoal.runtime.client.session import Session

ACTOR_ID_BYTES = 16
_BUILT_IN = ("__ray_ready__", "__ray_terminate__", "__ray_call__", "__shoal_ready__")


class MethodMeta(msgspec.Struct, frozen=True, array_like=True):
    """What handles know of one method."""

    given: dict[str, Any]
    is_generator: bool = False
    parameters: tuple[Parameter, ...] | None = None
    """What it is called with, without `self`; None: nothing is known."""


def method(*args: Any, **options: Any) -> Any:
    """Give a method of an actor class options: `@method(num_returns=2, concurrency_group="io", ...)`.

    A plain `@method` gives it none: it only tells type checkers that handles have the method.

    Raises:
        TypeError: it decorates no function. ValueError: an option is wrong.
    """
    rules.method_options(options)

    def mark(function: Any) -> Any:
        if not callable(function):
            raise TypeError(f"method: expected a method of an actor class, got `{type(function).__name__}`")
        function.__shoal_method__ = {**getattr(function, "__shoal_method__", {}), **options}
        return function

    if not args:
        return mark
    if len(args) > 1 or options:
        raise TypeError("method: expected `@method` on a method, or `@method(option=value, ...)`")
    return mark(args[0])


class ActorClass:
    """A class whose instances live in processes of their own: `A.remote(...)` returns a handle at once."""

    def __init__(self, cls: type, given: dict[str, Any]) -> None:
        self._cls, self._given = cls, given
        self._options = rules.actor_options(given)
        self._meta, self._is_async = methods_of(cls)
        self._options.concurrency_of(self._is_async)
        self._class_name = cls.__qualname__
        self._signature = constructor_of(cls)
        self._blob: tuple[bytes, bytes] | None = None
        self.__name__ = cls.__name__
        self.__doc__ = cls.__doc__
        self.__module__ = cls.__module__

    @classmethod
    def of(cls, user_class: type, given: dict[str, Any]) -> ActorClass:
        """Return the actor class of a plain class."""
        return cls(user_class, given)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"actor class `{self._class_name}` cannot be called directly; use `{self._class_name}.remote()`"
        )

    def __reduce__(self) -> Any:
        return ActorClass, (self._cls, self._given)

    def options(self, **changes: Any) -> ActorClass:
        """Return the same class under other options."""
        return ActorClass(self._cls, rules.overridden(self._given, changes))

    def remote(self, *args: Any, **kwargs: Any) -> ActorHandle:
        """Create an actor; returns its handle at once.

        Raises:
            ActorAlreadyExistsError (a ValueError): the name is taken.
        """
        from shoal.runtime.client.api import session

        return session().actors.create(self, args, kwargs)

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """Return a node of a lazy call graph that creates an actor in every `execute()` (see `shoal.dag`)."""
        from shoal.dag import ClassNode

        return ClassNode(self, args, kwargs)

    def _remote(self, args: Any = None, kwargs: Any = None, **changes: Any) -> ActorHandle:
        return (self.options(**changes) if changes else self).remote(*(args or ()), **(kwargs or {}))


def methods_of(cls: type) -> tuple[dict[str, MethodMeta], bool]:
    """Return what handles must know of a class's methods, and whether one `async def` makes it an async actor."""
    found: dict[str, MethodMeta] = {}
    is_async = False
    for name, value in inspect.getmembers(cls, callable):
        if isinstance(value, type) or (name.startswith("__") and not _is_called_remotely(name, value)):
            continue
        function = inspect.unwrap(getattr(value, "__func__", value))
        is_generator = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            is_async = True
        is_bound = inspect.ismethod(value) or isinstance(inspect.getattr_static(cls, name), staticmethod)
        parameters = parameters_of(value, skip=not is_bound)
        found[name] = MethodMeta(dict(getattr(function, "__shoal_method__", {})), is_generator, parameters)
    for name in _BUILT_IN:
        found[name] = MethodMeta({})
    return found, is_async


def _is_called_remotely(name: str, value: Any) -> bool:
    """Say whether a method with a special name is the actor's own, such as `__len__`, and not one that Python asks
    handles for: those copy, pickle, compare and look up."""
    return inspect.isfunction(value) and not hasattr(ActorHandle, name) and name not in _ASKED_OF_HANDLES


_ASKED_OF_HANDLES = frozenset(("__copy__", "__deepcopy__", "__getnewargs__", "__getnewargs_ex__", "__setstate__"))


class ActorMethod:
    """`handle.method`: call it with `.remote(...)`."""

    __slots__ = ("_about", "_handle", "_name", "_recipe", "_session", "_signature")

    def __init__(self, about: tuple[Any, Any, Any], name: str, handle: ActorHandle | None = None) -> None:
        self._about, self._name = about, name
        self._handle = handle
        """Kept so that `A.remote().f.remote()` has an actor; None in the handle's own cache, or it would never end."""
        self._recipe: MethodRecipe | None = None
        self._session: Any = None
        self._signature = ANYTHING

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method on the actor; returns a ref at once.

        Raises:
            TypeError: the arguments do not fit.
        """
        session = self._session
        if session is None or session.is_closed:
            session = self._prepare({})
        signature = self._signature
        if kwargs or not signature.few <= len(args) <= signature.many:
            signature.check(args, kwargs)
        return session.actors.calls.call(self._recipe, args, kwargs)

    def _remote(self, args: Any = None, kwargs: Any = None, **changes: Any) -> Any:
        """Ray's older spelling of `.options(...).remote(...)`."""
        call = self.options(**changes) if changes else self
        return call.remote(*(args or ()), **(kwargs or {}))

    def options(self, **changes: Any) -> ActorMethod:
        """Return the method under other options for this call."""
        rules.method_options(changes)
        other = ActorMethod(self._about, self._name, self._handle)
        other._prepare(changes)
        return other

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """Return a node of a lazy call graph, or several for several results; nothing runs before `execute()`."""
        from shoal.dag import bound_method

        return bound_method(self, args, kwargs)

    def kept(self) -> ActorMethod:
        """Return this method with a handle of its own: while it is held, so is the actor."""
        if self._handle is not None:
            return self
        state, meta, facts = self._about
        handle = ActorHandle(state.actor_id, state.class_name, meta, facts, state.life)
        other = ActorMethod(self._about, self._name, handle)
        other._recipe, other._session, other._signature = self._recipe, self._session, self._signature
        return other

    def count_returns(self) -> int:
        """Return how many results a call has; below 0 for a stream."""
        if self._recipe is None:
            self._prepare({})
        assert self._recipe is not None
        return self._recipe.returns

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"actor method `{self._name}` cannot be called directly; use `.{self._name}.remote()`")

    def _prepare(self, changes: dict[str, Any]) -> Any:
        from shoal.runtime.client.api import session as current

        session = current()
        state, meta, facts = self._about
        if session.actors.calls.states.get(state.actor_id) is not state:
            self._about = (session.actors.state_again(state, facts), meta, facts)
        self._recipe = session.actors.recipe(*self._about, self._name, changes)
        self._signature = signature_from(f"{state.class_name}.{self._name}", meta[self._name].parameters)
        self._session = session
        return session


class ActorHandle:
    """Names one actor. Passing it to tasks and actors passes the right to call it, and keeps it alive."""

    def __init__(
        self, actor_id: bytes, class_name: str, meta: dict[str, MethodMeta], facts: dict[str, Any], life: Any
    ) -> None:
        self._actor_id, self._class_name, self._meta, self._facts = actor_id, class_name, meta, facts
        from shoal.runtime.client.api import session

        self._keeps = life is not None
        self._state = session().actors.state_of(self, life)

    @property
    def _actor_id_hex(self) -> str:
        return self._actor_id.hex()

    @property
    def _ray_actor_id(self) -> Any:
        return _Id(self._actor_id)

    def __getattr__(self, name: str) -> Any:
        meta = self.__dict__.get("_meta")
        if meta is None or name not in meta:
            raise AttributeError(f"actor `{self.__dict__.get('_class_name', '?')}` has no method `{name}`")
        about = (self._state, meta, self._facts)
        self.__dict__[name] = ActorMethod(about, name)
        return ActorMethod(about, name, self)

    def __dir__(self) -> list[str]:
        return sorted(self._meta)

    def __repr__(self) -> str:
        return f"Actor({self._class_name}, {self._actor_id.hex()})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and other._actor_id == self._actor_id

    def __hash__(self) -> int:
        return hash(self._actor_id)

    def __reduce__(self) -> Any:
        life = self._state.life if self._keeps else None
        return _restored_handle, (self._actor_id, self._class_name, self._meta, self._facts, life)

    def __del__(self) -> None:
        state = self.__dict__.get("_state")
        if state is not None:
            dropped_handles.append((state, self._keeps))


class _Id(bytes):
    """An id with Ray's methods."""

    def binary(self) -> bytes:
        """Return the bytes."""
        return bytes(self)


dropped_handles: collections.deque[tuple[ActorState, bool]] = collections.deque()
"""The actors of handles that are gone, and whether the handle kept its actor alive."""
dropped_lives: collections.deque[bytes] = collections.deque()


class Life:
    """Rides on the creator's life ref; its end is the end of every handle."""

    __slots__ = ("actor_id",)

    def __init__(self, actor_id: bytes) -> None:
        self.actor_id = actor_id

    def __del__(self) -> None:
        dropped_lives.append(self.actor_id)


def _restored_handle(
    actor_id: bytes, class_name: str, meta: dict[str, Any], facts: dict[str, Any], life: Any
) -> ActorHandle:
    return ActorHandle(actor_id, class_name, meta, facts, life)


class Actors:
    """Creates actors for one session, and knows every handle in this process."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._core = session.core
        self.calls = ActorCalls(session)
        self._blobs: dict[type, tuple[bytes, bytes]] = {}
        self._fading: dict[ActorState, None] = {}
        """Actors with fewer handles here than before, whose calls are not done yet."""
        session.core.on_tick.append(self._tick)
        session.core.handlers[wire.CANCEL_MADE] = self._on_cancel_made

    @property
    def has_own(self) -> bool:
        """Whether actors live that this process created."""
        return any(
            state.life is not None and state.life._owner == self._core.process and state.state != DEAD
            for state in self.calls.states.values()
        )

    def start(self) -> None:
        """Subscribe to the head's news; called once the session's parts are there."""
        self._session.news.on("actor", self.calls.learn)
        self._session.news.on("watch-again", self.calls.watch_again)

    def process_died(self, process: bytes, why: str) -> None:
        """The verdict about a process."""
        self.calls.process_died(process, why)

    def process_alive(self, process: bytes) -> None:
        """A process lives after all."""
        self.calls.process_alive(process)

    # ---------------------------------------------------------------------------------------------- handles

    def state_of(self, handle: ActorHandle, life: Any) -> ActorState:
        """Return the actor's state in this process, and count one handle more."""
        with self._core.lock:
            state = self.calls.states.get(handle._actor_id)
            if state is None:
                facts = handle._facts
                state = ActorState(
                    handle._actor_id,
                    handle._class_name,
                    is_ordered=facts.get("is_ordered", True),
                    max_pending=facts.get("max_pending", -1),
                )
                state.name = facts.get("name", "")
                self.calls.states[handle._actor_id] = state
            state.handles += 1
            if life is not None:
                state.keepers += 1
                if state.life is None:
                    state.life = life
            return state

    def state_again(self, old: ActorState, facts: dict[str, Any]) -> ActorState:
        """Return the state for a handle of an earlier session: the head says whether it still knows the actor."""
        with self._core.lock:
            state = self.calls.states.get(old.actor_id)
            if state is None:
                state = ActorState(
                    old.actor_id, old.class_name, is_ordered=old.is_ordered, max_pending=facts.get("max_pending", -1)
                )
                state.name = old.name
                self.calls.states[old.actor_id] = state
            return state

    def recipe(
        self, state: ActorState, methods: dict[str, Any], facts: dict[str, Any], name: str, changes: dict[str, Any]
    ) -> MethodRecipe:
        """Return what calls of a method under these options share."""
        meta = methods[name]
        options = rules.method_options({**meta.given, **changes})
        returns = rules.returns_of(options, meta.is_generator)
        extra: dict[str, Any] = {}
        if returns != 1:
            extra["returns"] = returns
        if options.concurrency_group:
            groups = facts.get("groups", ())
            if options.concurrency_group not in groups:
                raise ValueError(
                    f"concurrency group `{options.concurrency_group}` is not defined; expected one of {sorted(groups)}"
                )
            extra["group"] = options.concurrency_group
        backpressure = options.backpressure if options.backpressure > 0 else facts.get("backpressure", -1)
        if backpressure > 0:
            extra["backpressure"] = backpressure
        if options.name:
            extra["name"] = options.name
        tries = options.max_task_retries
        return MethodRecipe(
            state,
            name,
            tries=facts.get("tries", 0) if tries is None else tries,
            retry_on=options.retry_exceptions,
            returns=returns,
            options=extra or None,
        )

    def _tick(self, now: float) -> None:
        """Let go of actors whose handles are gone and whose calls are done."""
        if not dropped_handles and not dropped_lives and not self._fading:
            return
        with self._core.lock:
            while dropped_handles:
                state, has_kept = dropped_handles.popleft()
                state.handles -= 1
                state.keepers -= has_kept
                if state.keepers == 0:
                    self._fading[state] = None
            fading, self._fading = self._fading, {}
            for state in fading:
                if state.pending and state.state != DEAD:
                    self._fading[state] = None
                    continue
                if state.keepers == 0:
                    state.life = None
                if state.handles == 0:
                    self.calls.states.pop(state.actor_id, None)
            while dropped_lives:
                actor_id = dropped_lives.popleft()
                self._core.request(wire.ASK, What.DROP_ACTOR, {"actor_id": actor_id}, lambda is_ok, value: None)

    # ---------------------------------------------------------------------------------------------- creation

    def create(self, cls: ActorClass, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ActorHandle:
        """Create an actor of a class."""
        session, core, options = self._session, self._core, cls._options
        cls._signature.check(args, kwargs)
        entry = self._blobs.get(cls._cls)
        if entry is None:
            entry = self._blobs[cls._cls] = session.functions.blob_of(cls._cls)
        actor_id = fresh(ACTOR_ID_BYTES)
        concurrency = options.concurrency_of(cls._is_async)
        is_ordered = not cls._is_async and concurrency == 1 and not options.concurrency_groups
        if options.allow_out_of_order_execution:
            is_ordered = False
        facts: dict[str, Any] = {"is_ordered": is_ordered, "tries": options.max_task_retries, "name": options.name}
        if options.max_pending_calls > 0:
            facts["max_pending"] = options.max_pending_calls
        if options.concurrency_groups:
            facts["groups"] = list(options.concurrency_groups)
        if options.backpressure > 0:
            facts["backpressure"] = options.backpressure
        place = session.place_of(options.place)
        environment = merged(session.environment, options.environment)
        life: Any = None
        n = next(core.ids)
        site = ""
        if session.origins.is_watching:
            site = (session.origins.note(n, None) or {}).get("site", "")
        with core.lock:
            made = session.origins.of(n)
        if not options.is_detached:
            life = ObjectRef(n, core.process, True, wire.NATIVE, None, None, None, None, 0, None, Life(actor_id))
        handle = ActorHandle(actor_id, cls._class_name, cls._meta, facts, life)
        format, data, pins, waiting = prepare(args, kwargs, session.put_large)
        state = handle._state
        state.pins, state.is_watched = pins, True
        request: dict[str, Any] = {
            "actor_id": actor_id,
            "job": session.job,
            "class_name": cls._class_name,
            "name": options.name,
            "namespace": session.namespace if options.namespace is None else options.namespace,
            "is_detached": options.is_detached,
            "get_if_exists": options.get_if_exists,
            "max_restarts": options.max_restarts,
            "amounts": options.amounts,
            "held": options.held,
            "selector": msgspec.to_builtins(place.selector),
            "spread": place.spread,
            "group_id": place.group.group_id if place.group else "",
            "bundle": place.group.bundle if place.group else -1,
            "handle": pickle.dumps((actor_id, cls._class_name, cls._meta, facts)) if options.name else b"",
            "options": {
                "is_detached": options.is_detached,
                "max_restarts": options.max_restarts,
                "name": options.name,
                "held_cpu": bool(options.held.get("CPU")),
                "group": [place.group.group_id, place.group.bundle, place.group.captures] if place.group else None,
                "environment": environment.shown(),
                "environment_key": environment.key,
                "job_info": session.job_info,
                "site": site,
                "made": [made[0].hex(), made[1]],
            },
        }
        fixed = (
            entry[1],
            cls._class_name,
            actor_id,
            core.process,
            n,
            concurrency,
            options.concurrency_groups,
            cls._is_async,
        )

        def go(format: int, data: Any) -> None:
            if format == wire.ERROR:
                state.state, state.error = DEAD, data
                self.calls._dead(state, "dependency failed")
                return
            request["spec"] = msgspec.msgpack.encode([*fixed, format, data])
            with core.lock:
                session.owner.make_room(options.amounts, group_id=request["group_id"] or None)
            core.request(wire.ASK, What.CREATE_ACTOR, request, lambda is_ok, value: self._created(state, is_ok, value))

        if options.name:
            return self._create_named(handle, request, fixed, format, data, waiting)
        with core.lock:
            if waiting is None:
                go(format, data)
            else:
                waiting.start(session.values.fetch, core.process, go)
        return handle

    def _created(self, state: ActorState, is_ok: bool, value: Any) -> None:
        if not is_ok:
            state.state, state.why = DEAD, f"it could not be created: {value[1]}"
            self.calls._dead(state, "refused")

    def _create_named(
        self, handle: ActorHandle, request: dict[str, Any], fixed: Any, format: int, data: Any, waiting: Any
    ) -> ActorHandle:
        """Create a named actor; its name is granted, or refused, before the caller goes on."""
        if waiting is not None:
            self._session.values._await([part for part in waiting.parts if type(part) is ObjectRef], None)
            format, data = waiting.finished()
        request["spec"] = msgspec.msgpack.encode([*fixed, format, data])
        try:
            answer = self._core.ask(What.CREATE_ACTOR, request)
        except BaseException:
            handle._state.life = None
            raise
        if answer["is_existing"]:
            handle._state.life = None
            return restored(answer["handle"])
        return handle

    # ---------------------------------------------------------------------------------------------- by name, end

    def named(self, name: str, namespace: str | None) -> ActorHandle:
        """Return a handle of a named actor; it does not keep the actor alive.

        Raises:
            ValueError: there is none.
        """
        space = self._session.namespace if namespace is None else namespace
        return restored(self._core.ask(What.GET_ACTOR, {"name": name, "namespace": space})["handle"])

    def kill(self, handle: ActorHandle, *, is_final: bool) -> None:
        """End an actor."""
        self._core.ask(What.KILL_ACTOR, {"actor_id": handle._actor_id, "no_restart": is_final})

    # ---------------------------------------------------------------------------------------------- cancelling

    def cancel(self, ref: ObjectRef[Any], *, is_forced: bool, is_recursive: bool) -> None:
        """Cancel the task that makes `ref`, wherever it is. Raises as `api.cancel`."""
        session, core = self._session, self._core
        with core.lock:
            recipe = ref._recipe
            if type(recipe) is MethodRecipe and is_forced:
                raise ValueError("cancel: force=True is not supported for tasks of actors; kill the actor instead")
            if ref._owner != core.process:
                self._cancel_elsewhere(ref, is_forced, is_recursive)
                return
            if ref._ready or recipe is None or type(recipe) is Made:
                return
            ref._tries = 0
            if type(recipe) is MethodRecipe:
                state = recipe.actor
                for item in tuple(state.queue):
                    if item is ref or (type(item) is tuple and item[0] is ref):
                        state.queue.remove(item)
                        self.settle_cancelled(ref)
                        self.calls.pump(state)  # calls behind it may have waited for its arguments only
                        return
                link: Link | None = state.link
            else:
                try:
                    recipe.work.queue.remove(ref)
                except ValueError:
                    pass
                else:
                    self.settle_cancelled(ref)
                    session.owner.tell_need(recipe.work)
                    return
                link = next((one.link for one in session.owner.leases.values() if ref._n in one.link.pending), None)
                if link is None:
                    self.settle_cancelled(ref)  # its arguments are not ready yet
                    return
                session.results.cancelled.add(ref._n)
            if link is not None:
                link.out.append((wire.CANCEL, ref._n, is_forced, is_recursive))
                link.flush()

    def _cancel_elsewhere(self, ref: ObjectRef[Any], is_forced: bool, is_recursive: bool) -> None:
        """Have the owner of a borrowed ref cancel its task; a dead owner's tasks have ended with it."""

        def connected(link: Link | None) -> None:
            if link is not None:
                link.out.append((wire.CANCEL_MADE, ref._n, is_forced, is_recursive))
                self._core.touch(link)

        self._core.with_peer(ref._message, connected)

    def _on_cancel_made(self, link: Link, message: list[Any]) -> None:
        """A borrower cancels one of our tasks. `force` on an actor's task is nothing that the borrower could know."""
        _, n, is_forced, is_recursive = message
        ref = self._core.escaped.refs.get(n)
        if ref is not None:
            is_call = type(ref._recipe) is MethodRecipe
            self.cancel(ref, is_forced=is_forced and not is_call, is_recursive=is_recursive)

    def settle_cancelled(self, ref: ObjectRef[Any]) -> None:
        """Make `TaskCancelledError` the result."""
        from shoal.exceptions import TaskCancelledError

        self._session.owed.ended(ref, "TASK_CANCELLED", "it was cancelled before it began")
        error = pickle.dumps(TaskCancelledError(ref.hex()))
        self._session.results.settle(ref, wire.ERROR, error, (self._core.process, ref._n))

    def cancel_children(self) -> None:
        """Cancel everything that this process has submitted and that is not done, because its task is cancelled."""
        owner = self._session.owner
        with self._core.lock:
            found = [ref for work in owner.by_key.values() for ref in work.queue]
            for lease in owner.leases.values():
                found.extend(ref for ref in lease.link.pending.values() if type(ref) is ObjectRef)
            for state in self.calls.states.values():
                found.extend(item[0] if type(item) is tuple else item for item in state.queue)
                if state.link is not None:
                    found.extend(ref for ref in state.link.pending.values() if type(ref) is ObjectRef)
            for ref in found:
                self.cancel(ref, is_forced=False, is_recursive=True)


def restored(blob: bytes) -> ActorHandle:
    """Return a handle from what the head keeps for a named actor."""
    actor_id, class_name, meta, facts = pickle.loads(blob)
    return ActorHandle(actor_id, class_name, meta, facts, None)
