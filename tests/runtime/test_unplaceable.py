"""Work that cannot be placed: infeasible work waits and is told of once; work for a dead node fails. What waits for its
own children is no such work: they get its CPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest

import shoal
from shoal import exceptions
from shoal.util import placement_group, remove_placement_group
from shoal.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tests.runtime.conftest import eventually


@pytest.fixture(scope="module", autouse=True)
def labelled() -> Iterator[None]:
    shoal.init("local", num_cpus=2, labels={"tier": "gold"})
    yield
    shoal.shutdown()


@shoal.remote
def node() -> str:
    return str(shoal.get_runtime_context().get_node_id())


@shoal.remote(num_cpus=0)
class Actor:
    def ping(self) -> str:
        return "pong"


def test_infeasible_work_waits_is_demand_and_is_told_of_once_with_the_reason() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kept: list[Any] = [node.options(num_cpus=100).remote() for _ in range(3)]
        kept.append(node.options(resources={"thing": 1}).remote())
        kept.append(node.options(label_selector={"tier": "silver"}).remote())
        kept.append(Actor.options(num_gpus=1).remote())
        group = placement_group([{"CPU": 7}])

        def told() -> list[str]:
            return sorted(str(one.message) for one in caught if "work waits" in str(one.message))

        eventually(lambda: len(told()) >= 5)
        ready, _ = shoal.wait(kept[:5], num_returns=5, timeout=2.0)  # what is told twice would be told by now

    assert ready == []
    assert told() == [
        "work waits: 1 CPU, 1 thing: no node has any thing",
        "work waits: 1 CPU: no node has labels that match {tier: silver}",
        "work waits: 1 GPU: no node has any GPU",
        "work waits: 100 CPU: no node has more than 2 CPU",
        "work waits: a placement group with a bundle of 7 CPU: no node has more than 2 CPU",
    ]
    assert [row["count"] for row in demand() if row["amounts"] == {"CPU": 100.0}] == [3]
    remove_placement_group(group)
    for ref in kept[:5]:
        shoal.cancel(ref)
        with pytest.raises(exceptions.TaskCancelledError):
            shoal.get(ref, timeout=10)
    kept.clear()  # the errors' tracebacks keep this frame
    eventually(lambda: not demand())


@shoal.remote
def fib(n: int) -> int:
    return n if n < 2 else sum(shoal.get([fib.remote(n - 1), fib.remote(n - 2)]))


def test_nested_tasks_on_two_cpus_finish_however_deep() -> None:
    assert shoal.get(fib.remote(12), timeout=60) == 144


def test_demand_says_what_actors_need_to_be_placed_not_what_they_hold() -> None:
    @shoal.remote(num_cpus=2)
    class Full:
        def ping(self) -> None:
            pass

    @shoal.remote
    class Plain:
        pass

    full = Full.remote()
    shoal.get(full.ping.remote(), timeout=10)
    waiting = [
        Plain.remote(),
        Plain.options(memory=1000).remote(),
        Plain.options(resources={"thing": 1}).remote(),
        Plain.options(num_cpus=0.5).remote(),
    ]

    wanted = [{"CPU": 0.5}, {"CPU": 1.0}, {"CPU": 1.0, "memory": 1000.0}, {"CPU": 1.0, "thing": 1.0}]
    eventually(lambda: sorted((row["amounts"] for row in demand()), key=str) == wanted)
    del waiting
    shoal.kill(full)
    eventually(lambda: not demand())


def demand() -> list[dict[str, Any]]:
    from shoal.runtime.client.api import session
    from shoal.wire.asks import What

    status = session().core.ask(What.STATUS, {})
    return [row for row in status["demand"] if row["kind"] != "gang"]


def test_a_task_for_a_node_that_is_not_there_is_unschedulable() -> None:
    nobody = "ab" * 14

    with pytest.raises(exceptions.TaskUnschedulableError, match=nobody):
        shoal.get(node.options(scheduling_strategy=NodeAffinitySchedulingStrategy(nobody, soft=False)).remote())
    softly = node.options(scheduling_strategy=NodeAffinitySchedulingStrategy(nobody, soft=True)).remote()
    assert shoal.get(softly, timeout=10) == shoal.nodes()[0]["NodeID"]


def test_an_actor_for_a_node_that_is_not_there_is_unschedulable() -> None:
    nobody = "cd" * 14
    actor = Actor.options(scheduling_strategy=NodeAffinitySchedulingStrategy(nobody, soft=False)).remote()

    with pytest.raises(exceptions.ActorUnschedulableError, match=nobody):
        shoal.get(actor.ping.remote(), timeout=10)


def test_selectors_see_the_labels_that_every_node_has() -> None:
    context = shoal.get_runtime_context()
    here = context.get_node_id()

    assert shoal.get(node.options(label_selector={"ray.io/node-id": here}).remote(), timeout=10) == here
    assert context.get_node_labels() == shoal.nodes()[0]["Labels"]
    assert context.get_node_labels()["tier"] == "gold"
