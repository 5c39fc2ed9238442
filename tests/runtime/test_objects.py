"""Objects: large values, nested refs, borrowing, freeing, owners that live on."""

from __future__ import annotations

import gc
import os
import time
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import exceptions
from shoal.runtime.client.api import session
from shoal.wire import tasks as wire
from tests.runtime.conftest import eventually

pytestmark = pytest.mark.usefixtures("cluster")

LARGE = 300_000  # bytes: over the inline limit


@shoal.remote
class Keeper:
    def __init__(self) -> None:
        self.kept: list[Any] = []

    def keep(self, box: list[Any]) -> int:
        self.kept.append(box)
        return len(self.kept)

    def read(self) -> Any:
        return shoal.get(self.kept[0][0])

    def drop(self) -> None:
        self.kept.clear()

    def make(self, count: int) -> list[Any]:
        return [shoal.put(one) for one in range(count)]

    def make_large(self) -> list[Any]:
        return [shoal.put(np.full(LARGE, 7, dtype=np.uint8))]

    def give(self) -> list[Any]:
        return self.kept[0]


def stored() -> int:
    rows = session().core.ask("objects", {}, kind=44)["rows"]
    return len(rows)


def test_a_large_value_is_freed_with_its_last_ref() -> None:
    eventually(lambda: stored() == 0)
    ref = shoal.put(np.zeros(LARGE, dtype=np.uint8))
    eventually(lambda: stored() == 1)
    view = shoal.get(ref)
    del ref
    time.sleep(0.3)
    assert view.sum() == 0, "a view keeps its memory after the ref is gone"
    del view
    eventually(lambda: stored() == 0)


def test_large_arguments_and_results_are_freed() -> None:
    @shoal.remote
    def double(array: Any) -> Any:
        return np.concatenate([array, array])

    array = np.ones(LARGE, dtype=np.uint8)
    result = shoal.get(double.remote(array))
    assert result.nbytes == 2 * LARGE
    del result
    eventually(lambda: stored() == 0)


def test_large_bytes_and_text() -> None:
    for value in (b"x" * LARGE, "y" * LARGE, [b"z" * LARGE, "w" * LARGE]):
        assert shoal.get(shoal.put(value)) == value

        @shoal.remote
        def echo(given: Any) -> Any:
            return given

        assert shoal.get(echo.remote(value)) == value


def test_a_borrower_keeps_an_object_after_its_owner_let_go() -> None:
    keeper = Keeper.remote()
    ref = shoal.put(np.full(LARGE, 3, dtype=np.uint8))
    assert shoal.get(keeper.keep.remote([ref])) == 1
    del ref
    gc.collect()
    time.sleep(0.5)
    assert int(shoal.get(keeper.read.remote())[0]) == 3
    shoal.get(keeper.drop.remote())
    eventually(lambda: stored() == 0)
    eventually(lambda: not session().core.lending.held)


def test_refs_inside_a_result_live_as_long_as_the_result() -> None:
    keeper = Keeper.remote()
    box = shoal.get(keeper.make.remote(100))
    time.sleep(0.5)
    assert shoal.get(box) == list(range(100))
    large = keeper.make_large.remote()
    assert int(shoal.get(shoal.get(large)[0])[0]) == 7
    inner = shoal.get(large)[0]
    del large
    time.sleep(0.5)
    assert int(shoal.get(inner)[0]) == 7, "a ref taken out of its container outlives it"
    del inner, box
    eventually(lambda: stored() == 0)


def test_a_borrowed_ref_is_passed_on_to_a_third_process() -> None:
    first, second = Keeper.remote(), Keeper.remote()
    ref = shoal.put("deep")
    shoal.get(first.keep.remote([ref]))
    del ref

    @shoal.remote
    def move(source: Any, target: Any) -> int:
        return shoal.get(target.keep.remote(shoal.get(source.give.remote())))

    assert shoal.get(move.remote(first, second)) == 1
    shoal.get(first.drop.remote())
    time.sleep(0.5)
    assert shoal.get(second.read.remote()) == "deep"
    shoal.get(second.drop.remote())
    eventually(lambda: not session().core.lending.held)


def test_refs_within_refs() -> None:
    inner = shoal.put(1)
    outer = shoal.put([inner, shoal.put([inner])])
    del inner

    @shoal.remote
    def dig(box: list[Any]) -> int:
        first, second = shoal.get(box[0])
        return shoal.get(first) + shoal.get(shoal.get(second)[0])

    assert shoal.get(dig.remote([outer])) == 2


def test_the_owner_of_returned_refs_is_not_ended_while_idle() -> None:
    @shoal.remote(max_calls=1)
    def make() -> list[Any]:
        return [shoal.put("owned by a worker that is used up")]

    box = shoal.get(make.remote())
    time.sleep(1.0)
    assert shoal.get(box[0], timeout=10) == "owned by a worker that is used up"


def test_a_dead_owner_is_told() -> None:
    keeper = Keeper.remote()
    box = shoal.get(keeper.make.remote(1))
    shoal.kill(keeper)
    time.sleep(0.3)
    with pytest.raises(exceptions.OwnerDiedError):
        shoal.get(box[0], timeout=20)


def test_ten_thousand_refs_in_one_value() -> None:
    keeper = Keeper.remote()
    container = keeper.make.remote(10_000)
    refs = shoal.get(container)
    assert len(refs) == 10_000
    assert shoal.get(refs[9_999]) == 9_999


def test_a_full_store_spills_and_a_hopeless_put_says_so() -> None:
    limit = int(shoal.cluster_resources()["object_store_memory"])
    with pytest.raises(exceptions.ObjectStoreFullError, match="object store"):
        shoal.put(np.zeros(limit + 2**20, dtype=np.uint8))


def test_an_end_that_is_told_before_the_writers_word_is_not_forgotten() -> None:
    """Owner and writer have a connection each: a value dropped at once may be freed before the agent knows of it."""
    core = session().core
    segment = core.ask("lease", 200_000, kind=wire.STORE)
    object_id, node_id = os.urandom(24), core.info["node_id"]

    def rows() -> list[str]:
        return [row["object_id"] for row in core.ask("objects", {}, kind=wire.LOCAL)["rows"]]

    core.agent.out.append((wire.STORE, 0, "free", [[object_id, node_id]]))
    core.agent.out.append((wire.STORE, 0, "seal", [object_id, segment[0], 150_000, core.process]))
    core.agent.flush()

    assert object_id.hex() not in rows()


def test_a_full_store_says_so_with_one_hint() -> None:
    with pytest.raises(exceptions.ObjectStoreFullError, match="can never fit") as caught:
        session().core.ask("lease", 1 << 45, kind=wire.STORE)
    assert str(caught.value).count("hint:") == 1
