"""GPUs by number: which ones work sees, and that its process is gone before another gets them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

import shoal
from tests.runtime.conftest import eventually


@pytest.fixture(scope="module", autouse=True)
def two_gpus() -> Iterator[None]:
    shoal.init("local", num_cpus=2, num_gpus=2)
    yield
    shoal.shutdown()


@shoal.remote(num_gpus=1)
def seen() -> tuple[Any, ...]:
    ids = shoal.get_gpu_ids()
    accelerators = shoal.get_runtime_context().get_accelerator_ids()["GPU"]
    return ids, os.environ["CUDA_VISIBLE_DEVICES"], accelerators, os.getpid()


def test_a_task_sees_its_own_gpu_only() -> None:
    for ids, variable, accelerators, _ in shoal.get([seen.remote() for _ in range(4)]):
        assert ids in ([0], [1])
        assert variable == str(ids[0])
        assert accelerators == [variable]
    assert shoal.get_gpu_ids() == []


def test_parts_and_several() -> None:
    half = seen.options(num_gpus=0.5)
    both = seen.options(num_gpus=2, num_cpus=0)

    assert len(shoal.get(half.remote())[0]) == 1
    assert sorted(shoal.get(both.remote())[0]) == [0, 1]


def test_an_actor_keeps_its_gpu() -> None:
    @shoal.remote(num_gpus=1)
    class Holder:
        def ids(self) -> list[int | str]:
            return shoal.get_gpu_ids()

    actors = [Holder.remote(), Holder.remote()]

    assert sorted(shoal.get([actor.ids.remote() for actor in actors])) == [[0], [1]]
    eventually(lambda: "GPU" not in shoal.available_resources())


def test_a_gpu_tasks_worker_is_not_reused_unless_asked() -> None:
    @shoal.remote(num_gpus=1, max_calls=0)
    def keeps() -> int:
        return os.getpid()

    assert len({shoal.get(seen.remote())[3] for _ in range(3)}) == 3
    assert len({shoal.get(keeps.remote()) for _ in range(3)}) == 1
