"""Lazy call graphs: what Ray's programs in tests/peers do not say."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

import shoal
from shoal.dag import DAGInputData, InputNode, MultiOutputNode
from shoal.util.state import list_actors
from tests.runtime.conftest import eventually

pytestmark = pytest.mark.usefixtures("cluster")


@shoal.remote
def add(left: Any, right: Any = 1) -> Any:
    return left + right


@shoal.remote
def mark(folder: Path, name: str, *_: Any) -> str:
    with (folder / name).open("a") as file:
        file.write("x")
    return name


@shoal.remote(num_cpus=0)
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.count = start

    def add(self, by: int = 1) -> int:
        self.count += by
        return self.count

    @shoal.method(num_returns=2)
    def both(self, value: int) -> Any:
        return value, self.count


@shoal.remote(num_cpus=0)
class Gone:
    def there(self) -> bool:
        return True


@dataclasses.dataclass
class Holder:
    value: Any


@shoal.remote
def held(holder: Holder) -> Any:
    return shoal.get(holder.value)


def test_nothing_runs_before_execute_and_a_shared_node_runs_once(tmp_path: Path) -> None:
    shared = mark.bind(tmp_path, "shared")
    end = mark.bind(tmp_path, "end", shared, mark.bind(tmp_path, "left", shared), mark.bind(tmp_path, "right", shared))
    assert list(tmp_path.iterdir()) == []

    assert [shoal.get(end.execute()), shoal.get(end.execute())] == ["end", "end"]

    assert {one.name: one.read_text() for one in tmp_path.iterdir()} == dict.fromkeys(
        ("shared", "left", "right", "end"), "xx"
    )


def test_a_graph_may_be_longer_than_python_may_recurse() -> None:
    node = add.bind(0)
    length = sys.getrecursionlimit() + 500
    for _ in range(length):
        node = add.bind(node)

    assert shoal.get(node.execute(), timeout=60) == length + 1


def test_nodes_are_found_inside_objects_and_other_arguments_stay_themselves() -> None:
    array = np.arange(4.0)
    ref = shoal.put(7)
    assert shoal.get(held.bind(Holder(add.bind(3))).execute()) == 4
    assert shoal.get(held.bind(Holder(ref)).execute()) == 7
    given = [array]

    [same], inside = MultiOutputNode([given, {"node": add.bind(1), "array": array}]).execute()

    assert same is array
    assert shoal.get(inside["node"]) == 2
    assert np.array_equal(inside["array"], array)


def test_input_is_one_value_or_parts_of_several() -> None:
    with InputNode() as given:
        whole = MultiOutputNode([given, given])
        parts = MultiOutputNode([given[1], given.name, given["name"]])

    assert whole.execute(3) == [3, 3]
    assert parts.execute(1, 2, name="n") == [2, "n", "n"]
    assert isinstance(whole.execute(1, 2)[0], DAGInputData)


def test_every_execution_makes_the_actor_anew_and_a_handle_is_kept_by_its_nodes() -> None:
    made = Counter.bind(10)
    made.add.bind()
    last = made.add.bind(add.bind(1))
    kept = Counter.remote(20).add.bind()
    handle = Counter.remote(30)
    handle.add.remote()
    also_kept = handle.add.bind()
    del handle
    gone = Gone.remote()
    shoal.get(gone.there.remote())
    del gone
    eventually(lambda: [one.state for one in list_actors(filters=[("class_name", "=", "Gone")])] == ["DEAD"])

    assert [shoal.get(last.execute()) for _ in range(2)] == [13, 13]
    assert [shoal.get(kept.execute()) for _ in range(2)] == [21, 22]
    assert [shoal.get(also_kept.execute()) for _ in range(2)] == [32, 33]


def test_several_results_of_a_method_are_nodes_of_their_own() -> None:
    counter = Counter.remote(5)

    value, count = counter.both.bind(2)
    of_class = Counter.bind(6).add.options(num_returns=1).bind(value)

    assert shoal.get(add.bind(value, count).execute()) == 7
    assert shoal.get(of_class.execute()) == 8


def test_a_graph_travels_and_runs_in_a_task() -> None:
    @shoal.remote
    def run(node: Any) -> Any:
        return shoal.get(node.execute(4))

    with InputNode() as given:
        node = add.bind(add.bind(given), Counter.bind(1).add.bind(given))

    assert shoal.get(run.remote(node)) == 10
    assert shoal.get(cloudpickle.loads(cloudpickle.dumps(node)).execute(1)) == 4


def test_wrong_graphs_are_told() -> None:
    outside = InputNode()
    with InputNode() as one, InputNode() as two:
        node = add.bind(one, two)

    with pytest.raises(ValueError, match="in `with InputNode"):
        add.bind(outside).execute(1)
    with pytest.raises(ValueError, match="one InputNode, this one has two"):
        node.execute(1)
    with pytest.raises(NotImplementedError, match=r"compiled graphs are not supported; call `\.execute\(\)`"):
        node.experimental_compile()
    with pytest.raises(ValueError, match="expected a list of nodes, got `int`"):
        MultiOutputNode(3)  # type: ignore[arg-type]


def test_importing_shoal_does_not_import_graphs() -> None:
    program = "import sys, shoal; assert 'shoal.dag' not in sys.modules; shoal.dag; assert 'shoal.dag' in sys.modules"

    assert subprocess.run([sys.executable, "-c", program], timeout=30).returncode == 0
