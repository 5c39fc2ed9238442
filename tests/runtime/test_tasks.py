"""Plain tasks: results, copies, options, errors, retries, nesting."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import exceptions

pytestmark = pytest.mark.usefixtures("cluster")


@shoal.remote
def add(left: Any, right: Any = 0) -> Any:
    return left + right


@shoal.remote
def fail(error: Exception) -> None:
    raise error


@shoal.remote(num_cpus=1)
def fib(n: int) -> int:
    return n if n < 2 else sum(shoal.get([fib.remote(n - 1), fib.remote(n - 2)]))


@pytest.mark.parametrize(
    "value",
    [
        0,
        -1,
        2**63 - 1,
        -(2**63),
        2**64,
        1.5,
        "text",
        "\udc80",
        b"bytes",
        None,
        True,
        [1, [2]],
        {"a": (1, 2)},
        {1, 2},
        3j,
    ],
)
def test_a_value_comes_back_equal_and_of_its_type(value: Any) -> None:
    for given in (
        shoal.get(shoal.put(value)),
        shoal.get(identity.remote(value)),
        shoal.get(identity.remote(one=value)),
    ):
        assert given == value
        assert type(given) is type(value)


@shoal.remote
def identity(one: Any) -> Any:
    return one


def test_refs_as_arguments_stand_for_their_values_however_deep_the_chain() -> None:
    ref = add.remote(1, 1)
    for _ in range(50):
        ref = add.remote(ref, 1)
    assert shoal.get(ref) == 52
    assert shoal.get(add.remote(left=shoal.put(3), right=add.remote(1, 1))) == 5


def test_refs_inside_containers_stay_refs() -> None:
    @shoal.remote
    def unpack(box: dict[str, Any]) -> Any:
        assert isinstance(box["ref"], shoal.ObjectRef)
        return shoal.get(box["ref"])

    assert shoal.get(unpack.remote({"ref": shoal.put([1, 2])})) == [1, 2]


def test_values_are_copies() -> None:
    original = [1, 2]
    ref = shoal.put(original)
    original.append(3)
    first, second = shoal.get(ref), shoal.get(ref)
    assert first == second == [1, 2]
    assert first is not second


@pytest.mark.parametrize("length", [3, 1000, 500_000])
def test_arrays_are_read_only_at_every_size(length: int) -> None:
    array = np.arange(length)
    for given in (shoal.get(shoal.put(array)), shoal.get(identity.remote(array))):
        assert (given == array).all()
        assert not given.flags.writeable


def test_put_of_a_ref_is_refused() -> None:
    with pytest.raises(TypeError, match="ObjectRef"):
        shoal.put(shoal.put(1))


def test_put_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="_owner"):
        shoal.put(1, _owner=object())
    with pytest.raises(ValueError, match="tensor transports"):
        shoal.put(1, _tensor_transport="nccl")
    with pytest.raises(TypeError, match="colour"):
        shoal.put(1, colour="red")  # type: ignore[call-arg]


def test_ids_of_refs() -> None:
    ref = add.remote(1)

    assert ref.task_id().hex() == ref.hex()
    assert ref.task_id().binary() == ref.binary()
    assert ref.size() == len(ref.binary())
    assert ref.job_id().hex() == shoal.get_runtime_context().get_job_id()
    assert not ref.is_nil()


def test_an_error_is_of_the_causes_type_and_a_task_error() -> None:
    with pytest.raises(KeyError) as caught:
        shoal.get(fail.remote(KeyError("lost")))
    assert isinstance(caught.value, exceptions.TaskError)
    assert isinstance(caught.value.cause, KeyError)
    assert "in fail" in str(caught.value)
    with pytest.raises(ZeroDivisionError):
        shoal.get(add.remote(fail.remote(ZeroDivisionError()), 1))


def test_user_errors_are_not_retried_unless_asked(tmp_path: Path) -> None:
    @shoal.remote
    def count(path: str, error: type[Exception]) -> None:
        with open(path, "a") as file:
            file.write("x")
        raise error

    first, second, third = (str(tmp_path / name) for name in "abc")
    for path, options, error in (
        (first, {}, ValueError),
        (second, {"max_retries": 2, "retry_exceptions": [ValueError]}, ValueError),
        (third, {"max_retries": 2, "retry_exceptions": [ValueError]}, KeyError),
    ):
        with pytest.raises(error):
            shoal.get(count.options(**options).remote(path, error))
    assert [len(Path(path).read_text()) for path in (first, second, third)] == [1, 3, 1]


def test_a_dead_worker_costs_a_retry(tmp_path: Path) -> None:
    @shoal.remote
    def die(path: str, times: int) -> str:
        with open(path, "a") as file:
            file.write("x")
        if Path(path).stat().st_size <= times:
            os._exit(7)
        return "lived"

    assert shoal.get(die.remote(str(tmp_path / "a"), 3)) == "lived"
    assert (tmp_path / "a").stat().st_size == 4
    with pytest.raises(exceptions.WorkerCrashedError, match="code 7"):
        shoal.get(die.options(max_retries=0).remote(str(tmp_path / "b"), 1))
    assert shoal.get(die.options(max_retries=-1).remote(str(tmp_path / "c"), 6)) == "lived"


def test_tasks_pushed_behind_a_dying_one_run_once(tmp_path: Path) -> None:
    @shoal.remote(max_retries=0)
    def work(path: str, number: int) -> int:
        with open(path, "a") as file:
            file.write(f"{number}\n")
        if number == 50 and "die" in path:
            os._exit(1)
        return number

    shoal.get([work.remote(str(tmp_path / "warm"), one) for one in range(200)])
    path = str(tmp_path / "die")
    refs = [work.remote(path, one) for one in range(100)]
    failed = []
    for number, ref in enumerate(refs):
        try:
            assert shoal.get(ref) == number
        except exceptions.WorkerCrashedError:
            failed.append(number)
    ran = [int(line) for line in Path(path).read_text().split()]
    assert sorted(ran) == list(range(100)), "each ran, and none that had started ran twice"
    # Results that waited for their batch died with the worker; what had not begun was done elsewhere, for free.
    assert 50 in failed
    assert max(failed) == 50


def test_nested_tasks_on_a_full_node_finish() -> None:
    assert shoal.get(fib.remote(7), timeout=60) == 13


def test_a_blocked_task_gives_its_cpu_back() -> None:
    @shoal.remote(num_cpus=4)
    def outer() -> int:
        return shoal.get(inner.remote())

    @shoal.remote(num_cpus=4)
    def inner() -> int:
        return 7

    assert shoal.get(outer.remote(), timeout=20) == 7


def test_several_results() -> None:
    @shoal.remote(num_returns=3)
    def three(count: int) -> Any:
        return tuple(range(count)) if count >= 0 else 5

    assert shoal.get(three.remote(3)) == [0, 1, 2]
    for wrong in (2, 4, -1):
        for ref in three.remote(wrong):
            with pytest.raises(ValueError, match="num_returns=3"):
                shoal.get(ref)
    assert add.options(num_returns=0).remote(1, 1) is None


def test_several_large_results_are_told_apart() -> None:
    @shoal.remote(num_returns=2)
    def two() -> Any:
        return np.zeros(100_000), np.ones(100_000)

    first, second = two.remote()
    assert shoal.get(first).sum() == 0
    assert shoal.get(second).sum() == 100_000


def test_wrong_arguments_are_told_where_they_are_written() -> None:
    @shoal.remote
    class Adds:
        def add(self, left: int, *, right: int) -> int:
            return left + right

        @staticmethod
        def double(value: int) -> int:
            return 2 * value

        @classmethod
        def half(cls, value: int) -> int:
            return value // 2

    adds = Adds.remote()

    @shoal.remote
    def passed(handle: Any) -> Any:
        with pytest.raises(TypeError, match=r"Adds\.double\(\): too many positional"):
            handle.double.remote(1, 2)
        return shoal.get([handle.add.remote(1, right=2), handle.double.remote(4), handle.half.remote(4)])

    with pytest.raises(TypeError, match=r"add\(\): missing a required argument: 'left'"):
        add.remote()
    with pytest.raises(TypeError, match=r"add\(\): got an unexpected keyword argument 'middle'"):
        add.options(num_cpus=0).remote(1, middle=2)
    with pytest.raises(TypeError, match=r"Adds\.add\(\): missing a required.* 'right'"):
        adds.add.remote(1)
    assert shoal.get(passed.remote(adds)) == [3, 8, 2]


def test_what_cannot_be_pickled_is_said_at_once() -> None:
    with pytest.raises(TypeError):
        add.remote(one for one in range(3))
    lock = __import__("threading").Lock()

    @shoal.remote
    def closes_over() -> Any:
        return lock

    with pytest.raises(TypeError, match="inspect_serializability"):
        closes_over.remote()

    @shoal.remote
    def returns_it() -> Any:
        return __import__("threading").Lock()

    with pytest.raises(TypeError, match="pickle"):
        shoal.get(returns_it.remote())


def test_calling_directly_is_refused() -> None:
    with pytest.raises(TypeError, match=r"add\.remote\(\)"):
        add(1, 2)


def test_workers_have_the_drivers_folder_and_environment(tmp_path: Path) -> None:
    @shoal.remote
    def look() -> tuple[str, str | None]:
        return os.getcwd(), os.environ.get("SHOAL_TEST_WORD")

    assert shoal.get(look.remote()) == (os.getcwd(), None)
    own = {"env_vars": {"SHOAL_TEST_WORD": "yes"}, "working_dir": str(tmp_path)}
    assert shoal.get(look.options(runtime_env=own).remote()) == (str(tmp_path), "yes")
    assert shoal.get(look.remote()) == (os.getcwd(), None), "an environment must not leak into other work"


def test_a_module_of_py_modules_can_be_imported(tmp_path: Path) -> None:
    package = tmp_path / "lent_module"
    package.mkdir()
    (package / "__init__.py").write_text("ANSWER = 42\n")

    @shoal.remote(runtime_env={"py_modules": [str(package)]})
    def use() -> int:
        import lent_module  # type: ignore[import-not-found]

        return lent_module.ANSWER

    assert shoal.get(use.remote()) == 42


def test_max_calls_ends_the_worker() -> None:
    @shoal.remote(max_calls=1)
    def pid() -> int:
        return os.getpid()

    assert len({shoal.get(pid.remote()) for _ in range(3)}) == 3


def test_workers_do_not_repeat_random_numbers() -> None:
    @shoal.remote
    def draw() -> tuple[int, float]:
        import random

        time.sleep(0.2)
        return os.getpid(), random.random()

    drawn = dict(shoal.get([draw.remote() for _ in range(4)]))
    assert len(set(drawn.values())) == len(drawn)


def test_a_forked_child_has_no_runtime() -> None:
    @shoal.remote
    def fork() -> int:
        child = os.fork()
        if child == 0:
            try:
                shoal.put(1)
            except exceptions.ForkedProcessError:
                os._exit(17)
            os._exit(1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert shoal.get(fork.remote()) == 17
    assert shoal.get(add.remote(1, 1)) == 2
