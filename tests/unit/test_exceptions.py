"""Errors of the task API: both types at once, and every way they can be hard to pickle."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import subprocess
import sys
import threading

import cloudpickle
import pytest

from shoal import exceptions
from shoal.exceptions import ActorDiedError, ObjectLostError, TaskError
from shoal.foundation import travel


class TwoArguments(Exception):
    def __init__(self, code: int, word: str) -> None:
        super().__init__(f"code {code}: {word}")
        self.code = code
        self.word = word


class OneArgumentThatGrows(Exception):
    def __init__(self, code: object) -> None:
        super().__init__(f"code {code}")


class WithSlots(ValueError):
    __slots__ = ("place",)

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place


class Final(Exception):
    def __init_subclass__(cls) -> None:
        raise TypeError("no subclasses, please")


class OwnReduce(Exception):
    def __init__(self, left: int, right: int) -> None:
        super().__init__()
        self.sum = left + right
        self._both = (left, right)

    def __reduce__(self) -> tuple[object, ...]:
        return OwnReduce, self._both


class FixedArgs(Exception):
    @property
    def args(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("fixed",)


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    code: int


class Unloadable(Exception):
    def __reduce__(self) -> tuple[object, ...]:
        return _explode, ()


def _explode() -> None:
    raise ImportError("not installed here")


def raised(error: BaseException) -> TaskError:
    """Return what a worker sends for `error`."""
    try:
        raise error
    except BaseException as caught:
        return TaskError.of(caught, "work")


def travelled(error: TaskError) -> TaskError:
    return pickle.loads(pickle.dumps(error, protocol=5))


HARD = {
    "plain": ValueError("boom"),
    "two arguments": TwoArguments(3, "x"),
    "grows": OneArgumentThatGrows(5),
    "slots": WithSlots("here"),
    "own reduce": OwnReduce(1, 2),
    "read-only args": FixedArgs("ignored"),
    "frozen dataclass": FrozenError(7),
    "os error": FileNotFoundError(2, "No such file", "a.txt"),
    "unicode": UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    "group": ExceptionGroup("several", [ValueError("a"), KeyError("b")]),
    "import": ImportError("no module", name="numpyy"),
    "stop": StopIteration(4),
    "key": KeyError("name"),
    "ours": exceptions.GetTimeoutError("late"),
}


@pytest.mark.parametrize("name", HARD)
def test_error_is_of_both_types_and_keeps_the_cause_after_travelling(name: str) -> None:
    cause = HARD[name]

    error = travelled(raised(cause)).as_instanceof_cause()

    assert isinstance(error, TaskError)
    assert isinstance(error, type(cause))
    assert type(error.cause) is type(cause)
    assert str(error.cause) == str(cause)
    assert error.cause.__dict__ == cause.__dict__
    assert type(cause).__name__ in error.traceback_str


@pytest.mark.parametrize("name", HARD)
def test_error_of_both_types_can_itself_travel(name: str) -> None:
    first = raised(HARD[name]).as_instanceof_cause()

    second = travelled(first)

    assert type(second) is type(first)
    assert str(second) == str(first)
    assert str(second.cause) == str(first.cause)


def test_fields_of_builtin_errors_arrive() -> None:
    missing = travelled(raised(FileNotFoundError(2, "No such file", "a.txt"))).as_instanceof_cause()
    grouped = travelled(raised(ExceptionGroup("several", [ValueError("a")]))).as_instanceof_cause()
    unknown = travelled(raised(ImportError("no", name="numpyy"))).as_instanceof_cause()

    assert (missing.errno, missing.filename) == (2, "a.txt")
    assert [type(one) for one in grouped.exceptions] == [ValueError]
    assert unknown.name == "numpyy"


def test_constructor_of_the_cause_is_not_called_again() -> None:
    error = travelled(raised(OneArgumentThatGrows(5)))

    assert error.cause.args == ("code 5",)


def test_attributes_and_slots_are_read_through() -> None:
    assert travelled(raised(TwoArguments(3, "x"))).as_instanceof_cause().code == 3
    assert raised(WithSlots("here")).as_instanceof_cause().place == "here"
    with pytest.raises(AttributeError):
        _ = raised(ValueError()).as_instanceof_cause().nothing


def test_class_is_made_once_per_type_and_the_error_anew_each_time() -> None:
    error = raised(TwoArguments(1, "x"))

    first, second = error.as_instanceof_cause(), error.as_instanceof_cause()

    assert type(first) is type(second)
    assert first is not second
    assert type(first).__name__ == "TaskError(TwoArguments)"


def test_type_without_subclasses_gives_a_plain_task_error_with_its_cause() -> None:
    error = travelled(raised(Final("x"))).as_instanceof_cause()

    assert type(error) is TaskError
    assert isinstance(error.cause, Final)


def test_base_exceptions_never_become_something_that_except_exception_misses() -> None:
    for cause in (SystemExit(3), KeyboardInterrupt(), GeneratorExit()):
        error = travelled(raised(cause)).as_instanceof_cause()
        assert type(error) is TaskError
        assert type(error.cause) is type(cause)


def test_what_cannot_travel_is_replaced_by_its_text() -> None:
    cause = TwoArguments(3, "x")
    cause.lock = threading.Lock()  # type: ignore[attr-defined]

    error = travelled(raised(cause)).as_instanceof_cause()

    assert isinstance(error, TwoArguments)
    assert error.code == 3
    assert "lock" in error.lock


def test_class_that_cannot_travel_arrives_as_text() -> None:
    lock = threading.Lock()

    class Local(Exception):
        held = lock

    error = travelled(raised(Local("boom")))

    assert isinstance(error.cause, exceptions.UnserializableException)
    assert "boom" in str(error.cause)
    assert "boom" in str(error)
    assert isinstance(error.as_instanceof_cause(), TaskError)


def test_error_that_cannot_be_loaded_arrives_as_text() -> None:
    error = travelled(raised(Unloadable("boom")))

    assert isinstance(error.cause, exceptions.UnserializableException)
    assert "Unloadable: boom" in str(error.cause)


def test_local_class_travels_by_value() -> None:
    class Local(Exception):
        pass

    error = cloudpickle.loads(cloudpickle.dumps(raised(Local("boom"))))

    assert type(error.cause).__name__ == "Local"


def test_nested_error_keeps_the_first_cause_and_both_tracebacks() -> None:
    inner = raised(KeyError("k")).as_instanceof_cause()
    try:
        raise inner
    except KeyError as caught:
        outer = TaskError.of(caught, "outer")

    error = travelled(outer).as_instanceof_cause()

    assert type(error.cause) is KeyError
    assert type(error).__name__ == "TaskError(KeyError)"
    assert "shoal::outer()" in str(error)
    assert "shoal::work()" in str(error)


def test_traceback_hides_the_runtime_but_not_the_user() -> None:
    text = raised(ValueError("boom")).traceback_str

    assert "test_exceptions.py" in text
    assert text.rstrip().endswith("ValueError: boom")


def test_frames_of_the_runtime_are_hidden(tmp_path) -> None:
    code = compile("def run(user):\n    user()\n", travel._PACKAGE + "runtime/worker/running.py", "exec")
    names: dict = {}
    exec(code, names)

    def user() -> None:
        raise ValueError("boom")

    try:
        names["run"](user)
    except ValueError as error:
        text = travel.remote_traceback(error)

    assert "runtime/worker/running.py" not in text
    assert "in user" in text


def test_hierarchy_is_rays() -> None:
    assert issubclass(exceptions.GetTimeoutError, TimeoutError)
    assert issubclass(exceptions.ActorAlreadyExistsError, ValueError)
    assert issubclass(exceptions.ActorHandleNotFoundError, ValueError)
    assert issubclass(exceptions.ActorDiedError, exceptions.RayActorError)
    assert issubclass(exceptions.ActorUnavailableError, exceptions.RayActorError)
    assert issubclass(exceptions.OwnerDiedError, exceptions.ObjectLostError)
    assert issubclass(exceptions.ObjectReconstructionFailedError, exceptions.ObjectLostError)
    assert exceptions.RayTaskError is TaskError
    for name in exceptions.__all__:
        kind = getattr(exceptions, name)
        if inspect.isclass(kind) and issubclass(kind, BaseException):
            assert issubclass(kind, exceptions.RayError), name


EACH = [
    exceptions.TaskCancelledError("t1", "by hand"),
    exceptions.GetTimeoutError("late"),
    ActorDiedError("killed", actor_id="ab", class_name="A", name="n"),
    ActorDiedError(raised(ValueError("in init"))),
    exceptions.ActorUnavailableError("restarting", b"\xab"),
    exceptions.ActorAlreadyExistsError("taken"),
    exceptions.ActorHandleNotFoundError("old"),
    exceptions.ActorUnschedulableError("node dead"),
    exceptions.TaskUnschedulableError("node dead"),
    exceptions.TaskPlacementGroupRemoved(),
    exceptions.ActorPlacementGroupRemoved(),
    exceptions.WorkerCrashedError(),
    exceptions.OutOfMemoryError("ended at 0.95"),
    exceptions.NodeDiedError("n1"),
    exceptions.RuntimeEnvSetupError("no such folder"),
    exceptions.PendingCallsLimitExceeded("2 calls"),
    exceptions.ForkedProcessError("forked"),
    exceptions.InternalError("x"),
    ObjectLostError("ff00"),
    exceptions.OwnerDiedError("ff00"),
    exceptions.ObjectReconstructionFailedError("ff00", exceptions.LossReason.PUT),
    exceptions.ReferenceCountingAssertionError("ff00"),
    exceptions.ObjectStoreFullError("wanted 1 GiB"),
    exceptions.OutOfDiskError("wanted 1 GiB"),
]


@pytest.mark.parametrize("error", EACH, ids=lambda one: type(one).__name__)
def test_every_error_travels_with_its_text_and_fields(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))

    assert type(again) is type(error)
    assert str(again) == str(error)
    assert str(again)
    assert {k: str(v) for k, v in again.__dict__.items()} == {k: str(v) for k, v in error.__dict__.items()}


def test_actor_error_says_what_is_known() -> None:
    in_init = ActorDiedError(raised(ValueError("in init")))
    killed = ActorDiedError("killed by kill()", actor_id="ab", class_name="Counter")

    assert in_init.actor_init_failed
    assert isinstance(in_init.cause.cause, ValueError)
    assert "error raised in its creation task" in str(in_init)
    assert not killed.actor_init_failed
    assert "class_name: Counter" in str(killed)
    assert "killed by kill()" in str(killed)


def test_lost_object_says_why() -> None:
    assert "max_retries=0" in str(exceptions.ObjectReconstructionFailedError("ff", "retries-off"))
    assert exceptions.OwnerDiedError("ff").reason is exceptions.LossReason.OWNER_DIED


def test_errors_named_by_a_peer() -> None:
    assert type(exceptions.by_name("ActorAlreadyExistsError", "taken")) is exceptions.ActorAlreadyExistsError
    assert type(exceptions.by_name("ValueError", "no actor")) is ValueError
    assert str(exceptions.by_name("FromTheFuture", "text")) == "FromTheFuture: text"
    assert type(exceptions.by_name("pickle", "text")) is exceptions.ShoalError


def test_module_imports_nothing_heavy() -> None:
    heavy = "numpy grpc pydantic highspy cloudpickle asyncio msgspec"
    program = f"import sys, shoal.exceptions; print(*[m for m in '{heavy}'.split() if m in sys.modules])"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == ""
