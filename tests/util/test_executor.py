"""The cluster as an Executor: the standard library's promises, Dask and scikit-learn on top."""

from __future__ import annotations

import asyncio
import concurrent.futures
import operator
import threading
import time

import pytest

import shoal
from shoal.util import Executor

pytestmark = pytest.mark.usefixtures("cluster")


def test_results_and_errors_come_back() -> None:
    with Executor() as executor:
        good = executor.submit(operator.add, 1, 2)
        bad = executor.submit(operator.truediv, 1, 0)

        assert good.result(timeout=30) == 3
        assert isinstance(bad.exception(timeout=30), ZeroDivisionError)


def test_map_keeps_order_and_chunks() -> None:
    with Executor() as executor:
        assert list(executor.map(operator.mul, range(20), range(20))) == [n * n for n in range(20)]
        assert list(executor.map(operator.neg, range(10), chunksize=3)) == [-n for n in range(10)]
        with pytest.raises(ValueError, match="chunksize"):
            executor.map(operator.neg, [1], chunksize=0)


def test_map_times_out() -> None:
    with Executor() as executor, pytest.raises(concurrent.futures.TimeoutError):
        list(executor.map(time.sleep, [1.0], timeout=0.05))


def test_keyword_arguments_closures_and_methods() -> None:
    offset = 10
    with Executor() as executor:
        assert executor.submit(lambda x, *, y: x + y + offset, 1, y=2).result(30) == 13
        assert executor.submit("a-b".split, "-").result(30) == ["a", "b"]
        assert executor.submit(lambda fn: fn, 5).result(30) == 5


def test_no_more_than_max_workers_run_at_once() -> None:
    @shoal.remote(num_cpus=0)
    class Most:
        def __init__(self) -> None:
            self.now = self.most = 0

        def enter(self) -> None:
            self.now += 1
            self.most = max(self.most, self.now)

        def leave(self) -> None:
            self.now -= 1

        def seen(self) -> int:
            return self.most

    most = Most.remote()

    def work(_: int) -> None:
        shoal.get(most.enter.remote())
        time.sleep(0.05)
        shoal.get(most.leave.remote())

    with Executor(max_workers=2, num_cpus=0.1) as executor:
        list(executor.map(work, range(6)))

    assert shoal.get(most.seen.remote()) == 2


def test_cancel_takes_back_what_waits() -> None:
    with Executor(max_workers=1) as executor:
        running = executor.submit(time.sleep, 0.3)
        waiting = executor.submit(operator.add, 1, 1)

        assert waiting.cancel()
        assert waiting.cancelled()
        assert running.result(30) is None


def test_shutdown_refuses_new_work_and_waits_for_the_old() -> None:
    executor = Executor()
    future = executor.submit(time.sleep, 0.1)

    executor.shutdown()

    assert future.done()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(print)


def test_shutdown_with_cancel_drops_what_waits() -> None:
    executor = Executor(max_workers=1)
    futures = [executor.submit(time.sleep, 0.1) for _ in range(5)]

    executor.shutdown(cancel_futures=True)

    assert sum(future.cancelled() for future in futures) >= 4


def test_wrong_function_is_an_error_of_its_future() -> None:
    lock = threading.Lock()
    with Executor() as executor:
        assert isinstance(executor.submit(lambda: lock).exception(30), TypeError)


def test_limits_are_checked() -> None:
    with pytest.raises(ValueError, match="max_workers"):
        Executor(0)
    with pytest.raises(ValueError, match="num_cpu"):
        Executor(num_cpu=1)


async def test_event_loop_runs_on_it() -> None:
    loop = asyncio.get_running_loop()
    with Executor() as executor:
        assert await loop.run_in_executor(executor, operator.add, 1, 2) == 3


def test_dask_collections_run_on_it() -> None:
    array = pytest.importorskip("dask.array")
    import dask

    with Executor() as executor, dask.config.set(scheduler=executor):
        total = array.ones((200, 200), chunks=(50, 50)).sum().compute()

    assert total == 40_000


def test_grid_search_runs_on_it() -> None:
    joblib = pytest.importorskip("joblib")
    pytest.importorskip("sklearn")
    from sklearn.datasets import make_classification
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    from shoal.util.joblib import register_shoal

    register_shoal()
    features, labels = make_classification(n_samples=60, random_state=0)
    search = GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2)

    with joblib.parallel_config("shoal", n_jobs=2):
        search.fit(features, labels)

    assert search.best_score_ > 0.5


def test_joblib_calls_run_elsewhere() -> None:
    joblib = pytest.importorskip("joblib")
    import os

    from shoal.util.joblib import register_shoal

    register_shoal()
    with joblib.parallel_config("shoal"):
        pids = joblib.Parallel()(joblib.delayed(os.getpid)() for _ in range(8))

    assert os.getpid() not in pids
