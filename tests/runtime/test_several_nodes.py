"""Several nodes: spill-back, spreading, affinity, objects that travel, deaths of nodes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import exceptions
from shoal.runtime.client.api import session
from shoal.util import state
from shoal.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from shoal.wire import tasks as wire
from tests.runtime.conftest import eventually
from tests.runtime.nodes import Nodes, cluster_of


@pytest.fixture
def place(own_places: Path) -> Path:
    return own_places


@shoal.remote(num_cpus=1)
def where(seconds: float = 0.0) -> str:
    time.sleep(seconds)
    return shoal.get_runtime_context().get_node_id()


@shoal.remote(num_cpus=1)
def make(count: int) -> Any:
    return np.arange(count)


@shoal.remote(num_cpus=1)
def total(array: Any) -> int:
    return int(array.sum())


MIB_50 = 50 * 2**20


@shoal.remote(num_cpus=1)
def read_where(array: Any, *more: Any) -> str:
    assert int(array[-1]) == len(array) - 1
    return shoal.get_runtime_context().get_node_id()


@shoal.remote(num_cpus=1, max_retries=0)
def hold(path: str) -> str:
    """Run as long as the file, which this makes, is there."""
    flag = Path(path)
    flag.touch()
    while flag.exists():
        time.sleep(0.01)
    return shoal.get_runtime_context().get_node_id()


class Held:
    """Tasks that all run at once, until `end`."""

    def __init__(self, place: Path, name: str, count: int, **options: Any) -> None:
        self.flags = [place / f"{name}{one}" for one in range(count)]
        self.refs = [hold.options(**options).remote(str(flag)) for flag in self.flags]
        eventually(lambda: all(flag.exists() for flag in self.flags), 30)

    def end(self) -> list[str]:
        """Let them end; return where they ran."""
        for flag in self.flags:
            flag.unlink()
        return shoal.get(self.refs, timeout=30)


@pytest.fixture
def three(place: Path) -> Iterator[Nodes]:
    sizes = {"a": {"CPU": 2, "disk": 1, "spare": 1}, "b": {"CPU": 2}}
    for one in sizes.values():
        one["store"] = 256 * 2**20
    with cluster_of(place, head={"CPU": 1, "store": 256 * 2**20}, **sizes) as nodes:
        for node in nodes.nodes.values():
            node.log.unlink()
        yield nodes


def test_work_goes_to_every_node_and_to_the_right_one(three: Nodes) -> None:
    ids = {name: node.told["node_id"] for name, node in three.nodes.items()}
    eventually(lambda: set(shoal.get([where.remote(0.3) for _ in range(10)], timeout=30)) == set(ids.values()))
    assert shoal.get(where.options(resources={"disk": 1}).remote(), timeout=10) == ids["a"]
    assert shoal.get(where.options(label_selector={"name": "b"}).remote(), timeout=10) == ids["b"]
    pinned = NodeAffinitySchedulingStrategy(ids["b"], soft=False)
    assert (
        shoal.get([where.options(scheduling_strategy=pinned).remote() for _ in range(3)], timeout=10) == [ids["b"]] * 3
    )
    spread = where.options(scheduling_strategy="SPREAD")
    eventually(lambda: len(set(shoal.get([spread.remote(0.2) for _ in range(5)], timeout=20))) == 3)


def test_prints_of_another_node_reach_the_driver_with_the_node_said(
    three: Nodes, capfd: pytest.CaptureFixture[str]
) -> None:
    @shoal.remote(num_cpus=1)
    def say(word: str) -> str:
        print(word)
        return shoal.get_runtime_context().get_node_id()

    by_word = {}
    for name, node in three.nodes.items():
        there = NodeAffinitySchedulingStrategy(node.told["node_id"], soft=False)
        by_word[f"said on {name}"] = name
        where = shoal.get(say.options(scheduling_strategy=there).remote(f"said on {name}"), timeout=20)
        assert where == node.told["node_id"]

    seen: list[str] = []

    def all_seen() -> bool:
        seen.extend(capfd.readouterr().out.splitlines())
        return all(any(line.endswith(word) for line in seen) for word in by_word)

    eventually(all_seen)
    for word, name in by_word.items():
        (line,) = [line for line in seen if line.endswith(word)]
        where = "" if name == "head" else f", node={name}"
        assert re.fullmatch(rf"\(say pid=\d+{where}\) {word}", line)


def test_what_ran_elsewhere_and_printed_just_before_the_end_is_shown(
    three: Nodes, capfd: pytest.CaptureFixture[str]
) -> None:
    @shoal.remote(num_cpus=1)
    def say(word: str) -> None:
        os.write(1, f"last words of {word}\n".encode())  # as C code prints: seen when somebody looks

    @shoal.remote(num_cpus=1)
    class Speaker:
        def say(self, word: str) -> None:
            os.write(1, f"last words of {word}\n".encode())  # as C code prints: seen when somebody looks

    at = {name: NodeAffinitySchedulingStrategy(node.told["node_id"], soft=False) for name, node in three.nodes.items()}
    speaker = Speaker.options(scheduling_strategy=at["b"]).remote()
    shoal.get(speaker.say.remote("an early actor"), timeout=20)
    here = [say.options(scheduling_strategy=at[name]).remote(f"a task on {name}") for name in at]
    shoal.get([*here, speaker.say.remote("an actor")], timeout=20)
    shoal.shutdown()

    shown = capfd.readouterr().out
    for who in ("an early actor", "an actor", "a task on head", "a task on a", "a task on b"):
        assert f"last words of {who}\n" in shown


def test_large_objects_travel_and_small_results_come_home(three: Nodes) -> None:
    ids = {name: node.told["node_id"] for name, node in three.nodes.items()}
    at = {name: NodeAffinitySchedulingStrategy(node_id, soft=False) for name, node_id in ids.items()}
    made = make.options(scheduling_strategy=at["a"]).remote(1_000_000)
    assert shoal.get(total.options(scheduling_strategy=at["b"]).remote(made), timeout=20) == 499999500000
    assert int(shoal.get(made).sum()) == 499999500000
    here = shoal.put(np.ones(500_000))
    assert shoal.get(total.options(scheduling_strategy=at["b"]).remote(here), timeout=20) == 500_000


def nodes_of(ref: Any) -> list[str]:
    """Return the nodes that hold a copy of a stored value, as their agents list it."""
    return [row["node_id"] for row in state.list_objects(limit=1000) if row["object_id"] == ref.hex()]


def test_a_task_runs_where_its_large_argument_lies(three: Nodes) -> None:
    ids = {name: node.told["node_id"] for name, node in three.nodes.items()}
    there = NodeAffinitySchedulingStrategy(ids["a"], soft=False)
    made = make.options(scheduling_strategy=there).remote(MIB_50 // 8)
    shoal.wait([made], timeout=20)
    both = [make.options(scheduling_strategy=there).remote(300_000) for _ in range(2)]
    shoal.wait(both, num_returns=2, timeout=20)
    reads = [read_where.remote(one) for one in both]
    assert shoal.get(reads, timeout=20) == [ids["a"]] * 2, "idle leases of its makers give way"
    assert shoal.get(where.remote(), timeout=10) == ids["head"], "home has room"
    assert shoal.get(read_where.remote(made), timeout=20) == ids["a"]
    assert shoal.get(read_where.remote(made, shoal.put(np.zeros(250_000))), timeout=20) == ids["a"], "most bytes win"
    late = make.options(scheduling_strategy=there).remote(300_000)
    assert shoal.get(read_where.remote(late), timeout=20) == ids["a"], "also if it was not made yet at the call"
    where_else = NodeAffinitySchedulingStrategy(ids["b"], soft=False)
    assert nodes_of(made) == [ids["a"]], "nothing was moved"
    assert shoal.get(read_where.options(scheduling_strategy=where_else).remote(made), timeout=20) == ids["b"]


def test_a_task_runs_where_fetched_copies_of_its_arguments_lie(three: Nodes) -> None:
    ids = {name: node.told["node_id"] for name, node in three.nodes.items()}
    at = {name: NodeAffinitySchedulingStrategy(node_id, soft=False) for name, node_id in ids.items()}
    large = make.options(scheduling_strategy=at["a"]).remote(MIB_50 // 8)
    smaller, another = (make.options(scheduling_strategy=at["b"]).remote(MIB_50 // 16) for _ in range(2))
    shoal.wait([large, smaller, another], num_returns=3, timeout=20)
    assert shoal.get(read_where.remote(large, smaller), timeout=20) == ids["a"], "it holds twice as much"

    held = session().stored.copies.held
    shoal.get(read_where.options(scheduling_strategy=at["b"]).remote(large), timeout=20)
    part = (wire.STORED, large._data)
    eventually(lambda: [node for node, _ in held([part])] == [ids["a"], ids["b"]])
    assert shoal.get(read_where.remote(large, another), timeout=20) == ids["b"]

    value = shoal.get(large, timeout=20)
    eventually(lambda: ids["head"] in [node for node, _ in held([part])])
    assert shoal.get(read_where.remote(large), timeout=20) == ids["head"], "home has all of it by now"
    del value


def test_a_task_does_not_wait_for_the_node_of_its_argument(three: Nodes) -> None:
    ids = {name: node.told["node_id"] for name, node in three.nodes.items()}
    there = NodeAffinitySchedulingStrategy(ids["a"], soft=False)
    made = make.options(scheduling_strategy=there).remote(MIB_50 // 8)
    shoal.wait([made], timeout=20)
    busy = Held(three.place, "busy", 2, scheduling_strategy=there)
    assert shoal.get(read_where.remote(made), timeout=20) == ids["head"]
    assert busy.end() == [ids["a"]] * 2


def test_spread_work_is_dealt_evenly_and_other_work_packed(three: Nodes) -> None:
    ids = {name: node.told["node_id"] for name, node in three.nodes.items()}
    for batch in range(5):
        eventually(lambda: shoal.available_resources().get("CPU") == 5.0)
        assert sorted(Held(three.place, f"spread{batch}", 3, scheduling_strategy="SPREAD").end()) == sorted(
            ids.values()
        )
    for batch in range(5):
        eventually(lambda: shoal.available_resources().get("CPU") == 5.0)
        assert Held(three.place, f"packed{batch}", 1).end() == [ids["head"]]
    eventually(lambda: shoal.available_resources().get("CPU") == 5.0)
    several = Held(three.place, "several", 5)
    found = several.end()
    assert {name: found.count(node_id) for name, node_id in ids.items()} == {"head": 1, "a": 2, "b": 2}


def test_batches_of_spread_work_one_right_after_the_other_are_even(place: Path) -> None:
    """Short tasks, so that the first worker to be there could run all of them, and no pause between batches."""
    with cluster_of(place, head={"CPU": 4}, a={"CPU": 4}, b={"CPU": 4}) as nodes:
        ids = [node.told["node_id"] for node in nodes.nodes.values()]
        spread = where.options(scheduling_strategy="SPREAD")
        eventually(lambda: len(set(shoal.get([spread.remote(0.1) for _ in range(6)], timeout=30))) == 3, 30)
        for seconds, size, batches in ((0.0, 3, 10), (0.0, 6, 8), (0.02, 4, 9)):
            ran: list[str] = []
            for _ in range(batches):
                ran += shoal.get([spread.remote(seconds) for _ in range(size)], timeout=30)
            counts = [ran.count(node_id) for node_id in ids]
            assert max(counts) - min(counts) <= len(ran) // 6, (seconds, size, counts)
        for node in nodes.nodes.values():
            node.log.unlink()


def test_what_home_cannot_hold_runs_elsewhere_at_once(three: Nodes) -> None:
    ids = {name: node.told["node_id"] for name, node in three.nodes.items()}
    home = Held(three.place, "home", 1)
    assert shoal.get(where.remote(), timeout=10) in (ids["a"], ids["b"])
    assert shoal.get(where.options(num_cpus=2).remote(), timeout=10) in (ids["a"], ids["b"]), "more than home ever has"
    assert home.end() == [ids["head"]]


def test_waiting_work_moves_to_a_node_that_joins(place: Path) -> None:
    with cluster_of(place, head={"CPU": 1}) as nodes:
        home = Held(place, "home", 1)
        waiting = [where.remote() for _ in range(3)]
        assert shoal.wait(waiting, timeout=0.3)[0] == []
        joined = nodes.start("c", CPU=1).told["node_id"]
        for node in nodes.nodes.values():
            node.log.unlink()
        assert shoal.get(waiting, timeout=20) == [joined] * 3
        home.end()


def test_work_pushed_behind_a_task_that_turns_out_long_runs_elsewhere(three: Nodes) -> None:
    ids = {name: node.told["node_id"] for name, node in three.nodes.items()}
    flag = three.place / "long"

    @shoal.remote(num_cpus=1, max_retries=0)
    def brief(is_long: bool) -> str:
        if is_long:
            flag.touch()
            while flag.exists():
                time.sleep(0.01)
        return shoal.get_runtime_context().get_node_id()

    for _ in range(20):
        shoal.get(brief.remote(False), timeout=20)
    long, *rest = [brief.remote(one == 0) for one in range(20)]
    assert set(shoal.get(rest, timeout=20)) <= {ids["a"], ids["b"]}, "while the first still runs at home"
    flag.unlink()
    assert shoal.get(long, timeout=20) == ids["head"]


def test_an_actor_on_another_node_answers_and_its_refs_can_be_read(three: Nodes) -> None:
    @shoal.remote(resources={"disk": 1})
    class Keeper:
        def keep(self) -> Any:
            self.ref = shoal.put(np.zeros(300_000))
            return [self.ref, shoal.put("small")]

    keeper = Keeper.remote()
    large, small = shoal.get(keeper.keep.remote(), timeout=20)
    assert shoal.get(small) == "small"
    assert shoal.get(large).shape == (300_000,)


def test_functions_of_one_shape_take_turns_where_only_one_node_has_what_they_need(three: Nodes) -> None:
    @shoal.remote(num_cpus=0, resources={"disk": 1})
    def first(seconds: float) -> str:
        time.sleep(seconds)
        return "first"

    @shoal.remote(num_cpus=0, resources={"disk": 1})
    def second() -> str:
        return "second"

    assert shoal.get(first.remote(0), timeout=20) == "first"
    for _ in range(3):
        # The disk is taken while `second` is asked for; when it is free again the head says so by the class alone.
        refs = [first.remote(0.3), second.remote()]
        assert shoal.get(refs, timeout=20) == ["first", "second"]
        refs = [second.remote(), first.remote(0.3)]
        assert shoal.get(refs, timeout=20) == ["second", "first"]


def test_a_drained_node_gives_its_objects_away(three: Nodes) -> None:
    ids = {name: node.told["node_id"] for name, node in three.nodes.items()}
    at_a = NodeAffinitySchedulingStrategy(ids["a"], soft=False)
    made = [make.options(scheduling_strategy=at_a, max_retries=0).remote(100_000 + one) for one in range(5)]
    shoal.wait(made, num_returns=5, timeout=20)
    three.nodes["a"].process.send_signal(signal.SIGUSR1)  # the test's node drains itself, by deadline
    eventually(lambda: (three.place / "drained").exists(), 20)
    three.nodes["a"].end()
    for one, ref in enumerate(made):
        assert len(shoal.get(ref, timeout=20)) == 100_000 + one, "a copy that counts was lost"
    (three.place / "drained").unlink()


def test_a_stream_outlives_its_node(three: Nodes) -> None:
    ids = {name: node.told["node_id"] for name, node in three.nodes.items()}
    path = three.place / "runs"

    @shoal.remote(_generator_backpressure_num_objects=4, resources={"spare": 1})
    def frames(count: int) -> Any:
        with path.open("a") as file:
            file.write("run\n")
        for one in range(count):
            yield np.full(300_000, one, dtype=np.uint8)

    ended = list(frames.remote(3))
    stream = frames.remote(12)
    refs = [next(stream) for _ in range(5)]
    assert {ref._data[0][1] for ref in (*ended, *refs)} == {ids["a"]}
    three.nodes["a"].kill()
    three.start("c", CPU=2, spare=1).log.unlink()
    found = [int(shoal.get(ref, timeout=60)[-1]) for ref in stream]
    assert found == list(range(5, 12)), "what was taken before came again, or something is missing"
    assert [int(shoal.get(ref, timeout=60)[-1]) for ref in refs] == list(range(5)), "taken items are made again"
    assert [int(shoal.get(ref, timeout=60)[-1]) for ref in ended] == [0, 1, 2], "and those of a stream that has ended"
    path.unlink()
    _tidy(three, "a")


def test_a_dead_node_is_survived(three: Nodes) -> None:
    ids = {name: node.told["node_id"] for name, node in three.nodes.items()}
    at_a = NodeAffinitySchedulingStrategy(ids["a"], soft=True)
    lost = make.options(scheduling_strategy=at_a).remote(400_000)
    shoal.wait([lost], timeout=10)
    running = [where.options(scheduling_strategy=at_a).remote(4.0) for _ in range(2)]
    time.sleep(0.5)

    @shoal.remote(resources={"disk": 0.1}, num_cpus=0)
    class There:
        def ping(self) -> int:
            return 1

    there = There.remote()
    assert shoal.get(there.ping.remote(), timeout=10) == 1
    three.nodes["a"].kill()
    with pytest.raises(exceptions.ActorError):
        shoal.get(there.ping.remote(), timeout=20)
    assert set(shoal.get(running, timeout=40)) <= {ids["b"], ids["head"]}, "tasks of the dead node run elsewhere"
    assert int(shoal.get(lost, timeout=30).sum()) == 79999800000, "its only copy is made again"
    eventually(lambda: sum(node["Alive"] for node in shoal.nodes()) == 2)
    _tidy(three, "a")


@shoal.remote(num_cpus=1, max_retries=0)
def make_once(path: str, count: int) -> Any:
    with Path(path).open("a") as log:
        log.write("made\n")
    return np.arange(count)


def test_a_fetched_copy_outlives_the_node_of_the_primary_one(three: Nodes, place: Path) -> None:
    """It is counted on from then on: read by others without its task, kept in a full store, let go with its ref."""
    ids = {name: node.told["node_id"] for name, node in three.nodes.items()}
    at = {name: NodeAffinitySchedulingStrategy(node_id, soft=False) for name, node_id in ids.items()}
    log, count = place / "made.log", MIB_50 // 8
    made = make_once.options(scheduling_strategy=at["a"]).remote(str(log), count)
    assert shoal.get(total.options(scheduling_strategy=at["b"]).remote(made), timeout=30) == count * (count - 1) // 2
    eventually(lambda: [node for node, _ in further_of(made)] == [ids["b"]])
    three.nodes["a"].kill()
    eventually(lambda: lies_at(made) == ids["b"], 30)
    assert [(row["node_id"], row["is_primary"]) for row in rows_of(made)] == [(ids["b"], True)]

    filling = [make.options(scheduling_strategy=at["b"]).remote(count) for _ in range(6)]
    shoal.wait(filling, num_returns=6, timeout=30)
    assert [row["is_primary"] for row in rows_of(made)] == [True]
    value = shoal.get(made, timeout=30)
    assert (len(value), int(value[-1]), log.read_text()) == (count, count - 1, "made\n"), "no task ran again"
    value = made = None
    filling.clear()
    eventually(lambda: not any(row["is_primary"] for row in state.list_objects(limit=1000)))
    log.unlink()
    _tidy(three, "a")


@pytest.mark.parametrize("is_node_dead", [True, False])
def test_a_reader_with_old_knowledge_gets_a_value_from_the_copy_that_is_left(
    three: Nodes, place: Path, is_node_dead: bool
) -> None:
    """An actor was given the ref while the value was on one node only; it reads it when that has it no longer."""
    ids = {name: node.told["node_id"] for name, node in three.nodes.items()}
    at = {name: NodeAffinitySchedulingStrategy(node_id, soft=False) for name, node_id in ids.items()}
    log, count = place / "made.log", 400_000

    @shoal.remote(num_cpus=1)
    class Keeper:
        def keep(self, refs: list[Any]) -> None:
            self.refs = refs
            shoal.wait(refs, timeout=30, fetch_local=False)  # it knows from now on where the value lies

        def last(self) -> int:
            return int(shoal.get(self.refs[0], timeout=30)[-1])

    keeper = Keeper.options(scheduling_strategy=at["head"]).remote()
    made = make_once.options(scheduling_strategy=at["a"]).remote(str(log), count)
    shoal.wait([made], timeout=20)
    shoal.get(keeper.keep.remote([made]), timeout=20)
    assert shoal.get(total.options(scheduling_strategy=at["b"]).remote(made), timeout=30) == count * (count - 1) // 2
    eventually(lambda: [node for node, _ in further_of(made)] == [ids["b"]])
    if is_node_dead:
        three.nodes["a"].kill()
    else:
        session().stored._send("free", [[made._data[0][0], ids["a"]]])  # as if its file on disk were damaged
        eventually(lambda: nodes_of(made) == [ids["b"]])
    assert shoal.get(keeper.last.remote(), timeout=40) == count - 1
    assert (lies_at(made), log.read_text()) == (ids["b"], "made\n")
    log.unlink()
    if is_node_dead:
        _tidy(three, "a")


def test_a_copy_that_gave_way_without_a_word_does_not_keep_a_value_from_being_made_again(three: Nodes) -> None:
    ids = {name: node.told["node_id"] for name, node in three.nodes.items()}
    at = {name: NodeAffinitySchedulingStrategy(node_id, soft=True) for name, node_id in ids.items()}
    made = make.options(scheduling_strategy=at["a"]).remote(400_000)
    shoal.get(total.options(scheduling_strategy=at["b"]).remote(made), timeout=30)
    eventually(lambda: [node for node, _ in further_of(made)] == [ids["b"]])
    session().stored._send("free", [[made._data[0][0], ids["b"]]])
    eventually(lambda: nodes_of(made) == [ids["a"]])
    three.nodes["a"].kill()
    assert int(shoal.get(made, timeout=40)[-1]) == 399_999
    assert lies_at(made) in (ids["b"], ids["head"])
    _tidy(three, "a")


def lies_at(ref: Any) -> str:
    """Return the node of the primary copy, as its owner knows it; empty while it is being brought back."""
    return str(ref._data[0][1]) if ref._ready else ""


def further_of(ref: Any) -> list[list[str]]:
    """Return who else than the primary copy's node can send a value, as its owner tells it."""
    place = ref._data[0]
    return list(place[6]) if len(place) > 6 else []


def rows_of(ref: Any) -> list[dict[str, Any]]:
    """Return the copies of a stored value, as their agents list them."""
    return [row for row in state.list_objects(limit=1000) if row["object_id"] == ref.hex()]


def _tidy(nodes: Nodes, name: str) -> None:
    """What a killed node leaves is swept by the next one on the machine; there is none here."""
    shutil.rmtree(nodes.place / name)
    for left in Path(os.environ["SHOAL_SHM_DIR"]).glob(f"*{nodes.nodes[name].told['node_id'][:8]}"):
        shutil.rmtree(left)
