"""Streams and several results that are lost and made again: nothing twice, nothing missing, back-pressure as before."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import exceptions
from shoal.runtime.client import api
from tests.runtime.conftest import eventually

pytestmark = pytest.mark.usefixtures("cluster")
SIZE = 200_000


def lose(*refs: Any) -> None:
    """Have the node forget stored values, as if the only copies were gone."""
    session = api.session()
    session.stored._let_go()  # what was looked at before is no longer held
    for ref in refs:
        place = ref._data[0]
        session.stored._send("free", [[place[0], place[1]]])
    session.core.ask("lease", 1000, kind=42)  # answered after what was sent before


@shoal.remote
def arrays(path: str, count: int, dies_at: int = -1, pause_s: float = 0.0) -> Iterator[Any]:
    with open(path, "a") as file:
        file.write("run\n")
    for one in range(count):
        if one == dies_at and len(Path(path).read_text().splitlines()) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        yield np.full(SIZE, one, dtype=np.uint8)
        time.sleep(pause_s)
        Path(path + ".at").write_text(str(one))


def rest(stream: Any) -> Iterator[Any]:
    """Yield what is left of a stream; fail if it stands still."""
    try:
        while (ref := stream._next_sync(30.0)) is not None:
            yield ref
    except StopIteration:
        return
    raise AssertionError("the next item did not come")


def runs_of(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_a_stream_goes_on_where_its_worker_died_and_yields_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "runs"
    stream = arrays.options(_generator_backpressure_num_objects=2).remote(str(path), 8, 5)
    found = [int(shoal.get(ref, timeout=30)[-1]) for ref in rest(stream)]
    assert found == list(range(8))
    assert runs_of(path) == 2


def test_a_stream_that_is_retried_after_an_error_waits_for_nobody_to_take_old_items(tmp_path: Path) -> None:
    path = tmp_path / "runs"

    @shoal.remote(retry_exceptions=[ValueError], _generator_backpressure_num_objects=2)
    def stumbling() -> Iterator[int]:
        with path.open("a") as file:
            file.write("run\n")
        for one in range(10):
            if one == 6 and runs_of(path) == 1:
                raise ValueError("once")
            yield one

    assert [shoal.get(ref, timeout=30) for ref in rest(stumbling.remote())] == list(range(10))
    assert runs_of(path) == 2


def test_back_pressure_holds_in_the_second_run_too(tmp_path: Path) -> None:
    path = tmp_path / "runs"
    stream = arrays.options(_generator_backpressure_num_objects=2).remote(str(path), 30, 3)
    for one in range(4):
        assert int(shoal.get(next(rest(stream)), timeout=30)[0]) == one
    time.sleep(0.5)
    assert runs_of(path) == 2
    assert int(Path(f"{path}.at").read_text()) <= 5
    assert [int(shoal.get(ref, timeout=30)[0]) for ref in rest(stream)] == list(range(4, 30))


def test_lost_items_are_made_again_by_one_run_that_ends_early(tmp_path: Path) -> None:
    path = tmp_path / "runs"
    stream = arrays.options(_generator_backpressure_num_objects=3).remote(str(path), 300, -1, 0.05)
    refs = [next(rest(stream)) for _ in range(12)]
    lose(refs[4], refs[7])

    @shoal.remote
    def last(array: Any) -> int:
        return int(array[-1])

    later = [last.remote(refs[4]), last.remote(refs[7])]  # as arguments: the workers find them gone
    assert shoal.get(later, timeout=30) == [4, 7]
    assert [int(shoal.get(ref, timeout=30)[0]) for ref in refs] == list(range(12))
    assert int(shoal.get(next(rest(stream)), timeout=30)[0]) == 12, "the stream itself goes on"
    assert runs_of(path) in (2, 3)
    del later
    eventually(lambda: not api.session().replays._running, 6)  # a whole run takes 15 s
    stream.close()

    def objects() -> int:
        rows = api.session().core.ask("objects", {}, kind=44)["rows"]
        return len(rows)

    del refs, stream
    eventually(lambda: objects() == 0, 15), "items that the replay brought once more are freed"


def test_items_of_a_task_without_retries_are_lost_for_good(tmp_path: Path) -> None:
    refs = list(arrays.options(max_retries=0).remote(str(tmp_path / "runs"), 2))
    lose(refs[1])
    with pytest.raises(exceptions.ObjectReconstructionFailedError, match="max_retries=0"):
        shoal.get(refs[1], timeout=30)
    assert int(shoal.get(refs[0])[0]) == 0


def test_a_run_that_yields_less_says_so(tmp_path: Path) -> None:
    path = tmp_path / "runs"

    @shoal.remote
    def less() -> Iterator[Any]:
        with path.open("a") as file:
            file.write("run\n")
        for one in range(3 if runs_of(path) == 1 else 1):
            yield np.full(SIZE, one)

    refs = list(less.remote())
    lose(refs[2])
    with pytest.raises(exceptions.ObjectReconstructionFailedError, match="yielded fewer items"):
        shoal.get(refs[2], timeout=30)


def test_one_of_several_results_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "runs"

    @shoal.remote(num_returns=3, max_retries=-1)
    def three(base: Any) -> Any:
        with path.open("a") as file:
            file.write("run\n")
        return [[base + one, shoal.put(one)] for one in range(2)] + ["small"]

    base = shoal.put(np.ones(SIZE))
    refs = three.remote(base)
    assert shoal.get(refs[2], timeout=30) == "small"
    del base
    for lost in ([refs[0]], refs[:2]):
        lose(*lost)
        for one, ref in enumerate(refs[:2]):
            array, inner = shoal.get(ref, timeout=30)
            assert (float(array[-1]), shoal.get(inner)) == (one + 1.0, one)
        del array, inner
    assert runs_of(path) == 4


def test_a_ref_knows_where_its_value_lies_and_asks_again_if_that_is_wrong() -> None:
    @shoal.remote
    def make() -> Any:
        return np.full(SIZE, 3)

    @shoal.remote
    class Reader:
        def take(self, refs: list[Any]) -> bool:
            self.ref = refs[0]
            return bool(self.ref._ready)

        def read(self) -> int:
            return int(shoal.get(self.ref)[-1])

    reader, made = Reader.remote(), make.remote()
    shoal.wait([made], timeout=10)
    assert shoal.get(reader.take.remote([made]), timeout=30), "it need not ask the owner"
    lose(made)
    assert shoal.get(reader.read.remote(), timeout=30) == 3, "made again"
    assert shoal.get(reader.read.remote(), timeout=30) == 3
    gone = shoal.put(np.ones(SIZE))
    assert shoal.get(reader.take.remote([gone]), timeout=30)
    lose(gone)
    with pytest.raises(exceptions.ObjectLostError, match="put"):
        shoal.get(reader.read.remote(), timeout=30)


def test_evicted_lineage_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shoal.runtime.client import large

    @shoal.remote
    def make() -> Any:
        return np.ones(SIZE)

    single = make.remote()
    refs = list(arrays.remote(str(tmp_path / "runs"), 1))
    shoal.wait([single], timeout=10)
    monkeypatch.setattr(large, "LINEAGE_BYTES_MAX", 300)
    shoal.wait([newest := make.remote()], timeout=10)
    lose(single, refs[0], newest)
    for ref in (single, refs[0]):
        with pytest.raises(exceptions.ObjectReconstructionFailedError, match="lineage_bytes_max"):
            shoal.get(ref, timeout=30)
    assert float(shoal.get(newest, timeout=30)[0]) == 1.0
