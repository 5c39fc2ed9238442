"""What type checkers see of the task API; nothing here is imported at run time.

`@remote` keeps the parameters of a function (ParamSpec), so `f.remote(...)` is checked like a call of `f`. Where a
reference stands for a value, the rest of that call is not checked: no type says "a value or a reference to one" for a
ParamSpec. Methods of actors are typed where they are declared with `@shoal.method`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any, Concatenate, Generic, Literal, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, overload

from shoal.dag import ClassNode, FunctionNode
from shoal.runtime.client.refs import ObjectRef
from shoal.runtime.client.strategies import SchedulingStrategy

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
C = TypeVar("C")
T = TypeVar("T")


class CommonOptions(TypedDict, total=False):
    """Options of tasks and actors."""

    num_cpus: float | None
    num_gpus: float | None
    memory: float | None
    resources: dict[str, float] | None
    accelerator_type: str | None
    label_selector: dict[str, str] | None
    fallback_strategy: list[dict[str, Any]] | None
    scheduling_strategy: SchedulingStrategy
    placement_group: Any
    placement_group_bundle_index: int
    placement_group_capture_child_tasks: bool | None
    runtime_env: dict[str, Any] | None
    name: str | None
    enable_task_events: bool
    _labels: dict[str, str] | None


class TaskOptions(CommonOptions, total=False):
    """Options of tasks."""

    num_returns: int | Literal["dynamic", "streaming"] | None
    max_calls: int
    max_retries: int
    retry_exceptions: bool | list[type[BaseException]]
    _generator_backpressure_num_objects: int | None


class ActorOptions(CommonOptions, total=False):
    """Options of actors."""

    max_restarts: int
    max_task_retries: int
    max_pending_calls: int
    max_concurrency: int | None
    concurrency_groups: dict[str, int] | None
    allow_out_of_order_execution: bool | None
    lifetime: Literal["detached", "non_detached"] | None
    namespace: str | None
    get_if_exists: bool


class MethodOptions(TypedDict, total=False):
    """Options of actor methods."""

    num_returns: int | Literal["dynamic", "streaming"] | None
    max_task_retries: int
    retry_exceptions: bool | list[type[BaseException]]
    concurrency_group: str
    name: str
    enable_task_events: bool
    _generator_backpressure_num_objects: int | None


class ObjectRefGenerator(Generic[R_co]):
    """References to values that a running task yields."""

    def __iter__(self) -> Iterator[ObjectRef[R_co]]: ...
    def __next__(self) -> ObjectRef[R_co]: ...
    def __aiter__(self) -> AsyncIterator[ObjectRef[R_co]]: ...
    async def __anext__(self) -> ObjectRef[R_co]: ...
    def completed(self) -> ObjectRef[None]: ...
    def is_finished(self) -> bool: ...
    def next_ready(self) -> bool: ...


class Remote(Generic[P, R]):
    """Something with `.remote(...)` that gives an `R`."""

    @overload
    def remote(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def remote(self, a: ObjectRef[Any], /, *args: Any, **kwargs: Any) -> R: ...
    @overload
    def remote(self, a: Any, b: ObjectRef[Any], /, *args: Any, **kwargs: Any) -> R: ...
    @overload
    def remote(self, a: Any, b: Any, c: ObjectRef[Any], /, *args: Any, **kwargs: Any) -> R: ...
    @overload
    def remote(self, a: Any, b: Any, c: Any, d: ObjectRef[Any], /, *args: Any, **kwargs: Any) -> R: ...


class RemoteFunction(Remote[P, R]):
    """A function that runs elsewhere: `f.remote(...)` returns at once."""

    def options(self, **options: Unpack[TaskOptions]) -> RemoteFunction[P, R]: ...
    def bind(self, *args: Any, **kwargs: Any) -> FunctionNode: ...


class ActorMethod(Remote[P, R]):
    """A method of an actor: `actor.method.remote(...)`."""

    def options(self, **options: Unpack[MethodOptions]) -> ActorMethod[P, R]: ...
    def bind(self, *args: Any, **kwargs: Any) -> Any: ...


class ActorHandle(Generic[C]):
    """A live actor. Methods are typed if declared with `@shoal.method` (through `ActorProxy`)."""

    def __getattr__(self, name: str) -> Any: ...


ActorProxy = ActorHandle[C] | type[C]


class ActorClass(Generic[C]):
    """A class whose instances live elsewhere."""

    def remote(self, *args: Any, **kwargs: Any) -> ActorProxy[C]: ...
    def options(self, **options: Unpack[ActorOptions]) -> ActorClass[C]: ...
    def bind(self, *args: Any, **kwargs: Any) -> ClassNode: ...


class TaskDecorator(Protocol):
    """`@remote(...)` with options."""

    @overload
    def __call__(self, function: type[C], /) -> ActorClass[C]: ...
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> RemoteFunction[P, ObjectRef[R]]: ...
    @overload
    def __call__(self, function: Callable[P, Iterator[R]], /) -> RemoteFunction[P, ObjectRefGenerator[R]]: ...
    @overload
    def __call__(self, function: Callable[P, AsyncIterator[R]], /) -> RemoteFunction[P, ObjectRefGenerator[R]]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> RemoteFunction[P, ObjectRef[R]]: ...


class AllOptions(TaskOptions, ActorOptions, total=False):
    """What `@remote(...)` takes, before it is known what it decorates."""


@overload
def remote(function: type[C], /) -> ActorClass[C]: ...
@overload
def remote(function: Callable[P, Coroutine[Any, Any, R]], /) -> RemoteFunction[P, ObjectRef[R]]: ...
@overload
def remote(function: Callable[P, Iterator[R]], /) -> RemoteFunction[P, ObjectRefGenerator[R]]: ...
@overload
def remote(function: Callable[P, AsyncIterator[R]], /) -> RemoteFunction[P, ObjectRefGenerator[R]]: ...
@overload
def remote(function: Callable[P, R], /) -> RemoteFunction[P, ObjectRef[R]]: ...
@overload
def remote(**options: Unpack[AllOptions]) -> TaskDecorator: ...
def remote(*args: Any, **options: Any) -> Any:
    """Turn a function into one that runs elsewhere, or a class into one whose instances do."""


class MethodDecorator(Protocol):
    """`@method(...)` with options."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
    ) -> ActorMethod[P, ObjectRef[R]]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> ActorMethod[P, ObjectRef[R]]: ...


@overload
def method(function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> ActorMethod[P, ObjectRef[R]]: ...
@overload
def method(function: Callable[Concatenate[Any, P], R], /) -> ActorMethod[P, ObjectRef[R]]: ...
@overload
def method(**options: Unpack[MethodOptions]) -> MethodDecorator: ...
def method(*args: Any, **options: Any) -> Any:
    """Declare options of an actor's method, or only its types."""


@overload
def get(refs: ObjectRef[T], *, timeout: float | None = None) -> T: ...
@overload
def get(refs: Sequence[ObjectRef[T]], *, timeout: float | None = None) -> list[T]: ...
@overload
def get(refs: Sequence[ObjectRef[Any]], *, timeout: float | None = None) -> list[Any]: ...
def get(refs: Any, *, timeout: float | None = None) -> Any:
    """Return the value of a reference, or the values of several in order; raise the error that a task raised."""


def put(value: T) -> ObjectRef[T]:
    """Store a value and return a reference to it."""
    raise NotImplementedError


def wait(
    ray_waitables: Sequence[ObjectRef[T]],
    *,
    num_returns: int = 1,
    timeout: float | None = None,
    fetch_local: bool = True,
) -> tuple[list[ObjectRef[T]], list[ObjectRef[T]]]:
    """Return (ready, others): at most `num_returns` ready ones, in the order given."""
    raise NotImplementedError
