"""Remote functions: what `@remote` makes of a function, and how a call of it becomes a task."""

from __future__ import annotations

import functools
import hashlib
import inspect
import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

import cloudpickle

from shoal.runtime.client import options as rules
from shoal.runtime.client.arguments import prepare
from shoal.runtime.client.owner import Recipe
from shoal.runtime.client.refs import ObjectRef
from shoal.runtime.client.results import Several
from shoal.runtime.client.signatures import signature_of
from shoal.wire import tasks as wire

if TYPE_CHECKING:
    from shoal.runtime.client.session import Session

P = ParamSpec("P")
R = TypeVar("R")


class RemoteFunction(Generic[P, R]):
    """A function whose calls run elsewhere: `f.remote(...)` returns a ref at once."""

    def __init__(self, function: Callable[P, R], given: dict[str, Any]) -> None:
        if inspect.iscoroutinefunction(function):
            raise ValueError("remote: `async def` functions run only as methods of actors; wrap it with asyncio.run")
        self._function, self._given = function, given
        rules.task_options(given)  # wrong options are told where they are written
        self._is_generator = inspect.isgeneratorfunction(function)
        self._recipe: Recipe | None = None
        self._session: Session | None = None
        self._signature = signature_of(function, self._name)
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"remote function `{self._name}` cannot be called directly; use `{self._name}.remote()`")

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> ObjectRef[R]:
        """Run it elsewhere; return a ref (several for `num_returns` above 1, a generator of refs for a stream).

        Raises:
            TypeError: the arguments do not fit the function.
        """
        session = self._session
        if session is None or session.is_closed:
            session = self._prepare()
        signature = self._signature
        if kwargs or not signature.few <= len(args) <= signature.many:
            signature.check(args, kwargs)
        result: Any = session.submit(self._recipe, args, kwargs)
        return result  # type: ignore[no-any-return]

    def _remote(self, args: Any = None, kwargs: Any = None, **changes: Any) -> Any:
        """Ray's older spelling of `.options(...).remote(...)`."""
        call: Any = self.options(**changes) if changes else self
        return call.remote(*(args or ()), **(kwargs or {}))

    def options(self, **changes: Any) -> RemoteFunction[P, R]:
        """Return the same function under other options."""
        return RemoteFunction(self._function, rules.overridden(self._given, changes))

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """Return a node of a lazy call graph; nothing runs before its `execute()` (see `shoal.dag`)."""
        from shoal.dag import FunctionNode

        return FunctionNode(self, args, kwargs)

    @property
    def _name(self) -> str:
        return getattr(self._function, "__qualname__", None) or repr(self._function)

    def _prepare(self) -> Session:
        from shoal.runtime.client.api import session as current

        session = current()
        self._recipe = session.recipe_for(self._function, self._given, self._is_generator, self._name)
        self._session = session
        return session

    def __getstate__(self) -> dict[str, Any]:
        return {"_function": self._function, "_given": self._given, "_is_generator": self._is_generator}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _recipe=None, _session=None)
        self._signature = signature_of(self._function, self._name)
        functools.update_wrapper(self, self._function)


class Functions:
    """Makes recipes and submits tasks for one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._blobs: dict[Any, tuple[bytes, bytes]] = {}

    def blob_of(self, function: Any) -> tuple[bytes, bytes]:
        """Return (id, pickle) of a function or class. The id is the hash of the pickle: equal code is sent once.

        Raises:
            TypeError: it closes over something that cannot be pickled; the message says what.
        """
        try:
            blob = cloudpickle.dumps(function, 5)
        except (TypeError, pickle.PicklingError, AttributeError, ValueError) as error:
            name = getattr(function, "__qualname__", repr(function))
            raise TypeError(
                f"could not serialize `{name}`: {error}; "
                "`shoal.util.inspect_serializability` shows which object is in the way"
            ) from error
        return hashlib.blake2b(blob, digest_size=16).digest(), blob

    def recipe(self, function: Any, given: dict[str, Any], is_generator: bool, name: str) -> Recipe:
        """Return what all tasks of a function under one set of options share."""
        session = self._session
        options = rules.task_options(given)
        returns = rules.returns_of(options, is_generator)
        digest, blob = self.blob_of(function)
        work = session.owner.work_class(session.class_spec(options, name))
        if (group := work.spec.get("group")) and not work.ended:
            from shoal.runtime.client.groups import groups_of

            if why := groups_of(session).why_removed(group[0]):
                work.ended = f"group removed: {why}"
        extra: dict[str, Any] = {}
        if returns != 1:
            extra["returns"] = returns
        if options.backpressure > 0:
            extra["backpressure"] = options.backpressure
        if options.name:
            extra["name"] = options.name
        if options.max_calls:
            extra["max_calls"] = options.max_calls
        return Recipe(
            digest,
            blob,
            options.name or name,
            work,
            tries=options.max_retries,
            retry_on=options.retry_exceptions,
            returns=returns,
            options=extra or None,
        )

    def submit(self, recipe: Recipe, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a task of a call and return what stands for its results."""
        session = self._session
        core = session.core
        format, data, pins, waiting = prepare(args, kwargs, session.put_large)
        if format == wire.PARTS and waiting is None:
            recipe = session.owner.recipe_near(recipe, data[0])
        n = next(core.ids)
        options = recipe.options
        if session.origins.is_watching:
            options = session.origins.note(n, options)
        if options is None:
            message: Any = (wire.TASK, n, recipe.function, format, data)
        else:
            message = (wire.SPECIAL, n, recipe.function, format, data, options)
        ref: ObjectRef[Any] = ObjectRef(n, core.process, False, 0, None, None, message, recipe, recipe.tries, pins)
        returns = recipe.returns
        result: Any = ref
        with core.lock:
            if returns != 1:
                result = self.results_of(ref, returns, recipe)
            if waiting is None:
                session.owner.push(ref, recipe)
            else:
                session.owed.upcoming[n] = ref
                waiting.start(
                    session.values.fetch, core.process, lambda format, data: self._late(ref, recipe, format, data)
                )
        return result

    def _late(self, ref: ObjectRef[Any], recipe: Recipe, format: int, data: Any) -> None:
        """The last argument is ready. With the core's lock held."""
        self._session.owed.upcoming.pop(ref._n, None)
        if ref._ready:
            return  # cancelled while it waited
        if format == wire.ERROR:
            self._session.results.settle(ref, wire.ERROR, data, (self._session.core.process, ref._n))
            return
        ref._message = (*ref._message[:3], format, data, *ref._message[5:])
        ref._recipe = recipe = self._session.owner.recipe_near(recipe, data[0])
        self._session.owner.push(ref, recipe)

    def results_of(self, ref: ObjectRef[Any], returns: int, recipe: Any) -> Any:
        """Return what the caller holds for other than one result."""
        session = self._session
        if returns == rules.STREAMING:
            return session.streams.open(ref, recipe)
        if returns == rules.DYNAMIC:
            return ref
        refs = [ref, *(session.fresh_ref() for _ in range(returns - 1))] if returns else []
        session.results.several[ref._n] = Several(refs)
        if refs:
            ref._message = (*ref._message[:5], {**ref._message[5], "numbers": [one._n for one in refs]})
        return refs if returns else None
