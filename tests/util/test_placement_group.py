"""Placement groups: asked for at once, ready together, removed with what is inside."""

from __future__ import annotations

import time
from typing import Any

import pytest

import shoal
from shoal.exceptions import ActorPlacementGroupRemoved, TaskPlacementGroupRemoved
from shoal.util import placement_group, placement_group_table, remove_placement_group
from shoal.util.placement_group import PlacementGroup, get_current_placement_group, get_placement_group
from shoal.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from shoal.util.state import list_tasks
from tests.runtime.conftest import eventually

pytestmark = pytest.mark.usefixtures("cluster")


def test_group_is_there_and_says_what_it_holds() -> None:
    group = placement_group([{"CPU": 1}, {"CPU": 0.5, "memory": 1000}], strategy="SPREAD")

    assert group.wait(10)
    assert group.bundle_specs == [{"CPU": 1.0}, {"CPU": 0.5, "memory": 1000.0}]
    assert group.bundle_count == 2
    assert shoal.get(group.ready(), timeout=10) == group
    row = placement_group_table(group)
    assert (row["state"], row["strategy"], row["bundles"][0]) == ("CREATED", "SPREAD", {"CPU": 1.0})
    assert set(row["bundles_to_node_id"].values()) == {shoal.nodes()[0]["NodeID"]}
    remove_placement_group(group)


def test_group_that_does_not_fit_waits_and_ends_when_removed() -> None:
    group = placement_group([{"CPU": 100}])
    ready = group.ready()

    assert not group.wait(0.05)
    assert placement_group_table(group)["state"] == "PENDING"
    remove_placement_group(group)

    with pytest.raises(TaskPlacementGroupRemoved):
        shoal.get(ready, timeout=10)
    assert not group.wait(5)
    assert placement_group_table(group)["state"] == "REMOVED"
    remove_placement_group(group)


def test_removed_group_frees_its_bundles_for_the_next() -> None:
    first, second = placement_group([{"CPU": 3}]), placement_group([{"CPU": 3}])

    assert first.wait(10)
    assert not second.wait(0.05)
    remove_placement_group(first)

    assert second.wait(10)
    remove_placement_group(second)


def test_named_group_is_found_and_its_name_is_its_own() -> None:
    group = placement_group([{"CPU": 0.1}], name="mine")

    assert get_placement_group("mine") == group
    assert get_placement_group("mine").bundle_specs == [{"CPU": 0.1}]
    with pytest.raises(ValueError, match="already exists"):
        placement_group([{"CPU": 0.1}], name="mine")
    remove_placement_group(group)
    with pytest.raises(ValueError, match="mine"):
        get_placement_group("mine")


def test_tasks_run_inside_and_know_it() -> None:
    group = placement_group([{"CPU": 1}])

    @shoal.remote
    def where() -> PlacementGroup | None:
        return get_current_placement_group()

    inside = where.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group, 0))

    assert shoal.get(inside.remote(), timeout=20) == group
    assert shoal.get(where.remote(), timeout=20) is None
    assert get_current_placement_group() is None
    remove_placement_group(group)


def test_handle_travels() -> None:
    group = placement_group([{"CPU": 0.5}])

    @shoal.remote
    def wait_for(one: PlacementGroup) -> tuple[bool, int]:
        return one.wait(10), one.bundle_count

    assert shoal.get(wait_for.remote(group), timeout=20) == (True, 1)
    assert len({group, PlacementGroup(group.id)}) == 1
    remove_placement_group(group)


def test_work_too_big_for_every_bundle_is_refused_at_once() -> None:
    group = placement_group([{"CPU": 1}])

    @shoal.remote(num_cpus=2)
    def big() -> None:
        pass

    with pytest.raises(ValueError, match="cannot fit"):
        big.options(placement_group=group).remote()
    remove_placement_group(group)


def test_many_groups_come_and_go() -> None:
    groups = [placement_group([{"CPU": 0.001}, {"CPU": 0.001}]) for _ in range(100)]

    assert all(group.wait(10) for group in groups)
    assert len({group.id for group in groups}) == 100
    for group in groups:
        remove_placement_group(group)
    assert {row["state"] for key, row in placement_group_table().items() if key in groups} <= {"REMOVED"}


@pytest.mark.parametrize(
    "given",
    [
        {"bundles": []},
        {"bundles": {}},
        {"bundles": [{}]},
        {"bundles": [{"CPU": 0}]},
        {"bundles": [{"CPU": -1}]},
        {"bundles": [{"CPU": "1"}]},
        {"bundles": ["CPU"]},
        {"bundles": [{"CPU": 1}], "strategy": "TIGHT"},
        {"bundles": [{"CPU": 1}], "lifetime": "forever"},
        {"bundles": [{"CPU": 1}], "bundle_label_selector": [{"a": "x"}, {"a": "y"}]},
        {"bundles": [{"CPU": 1}], "bundle_label_selector": [{"a": "in()"}]},
        {"bundles": [{"CPU": 1}], "topology_strategy": "ring"},
    ],
)
def test_wrong_group_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        placement_group(**given)


def test_only_groups_are_removed() -> None:
    with pytest.raises(TypeError):
        remove_placement_group("mine")  # type: ignore[arg-type]


def test_module_and_function_share_their_name_as_in_ray() -> None:
    import shoal.util.placement_group as module

    group = module([{"CPU": 0.1}])  # type: ignore[operator]

    assert isinstance(group, PlacementGroup)
    remove_placement_group(group)


@shoal.remote(num_cpus=0)
class Member:
    def ping(self) -> str:
        return "pong"


@shoal.remote(max_retries=3)
def nap(delay_s: float) -> float:
    time.sleep(delay_s)
    return delay_s


def test_removal_ends_what_is_inside_and_what_comes_with_their_own_errors() -> None:
    group = placement_group([{"CPU": 1}])
    at = PlacementGroupSchedulingStrategy(group)
    inside = nap.options(scheduling_strategy=at)
    actor = Member.options(scheduling_strategy=at).remote()
    assert shoal.get([actor.ping.remote(), inside.remote(0.0)], timeout=10) == ["pong", 0.0]
    running, waiting = inside.remote(60), inside.remote(0.0)
    eventually(lambda: any(row["name"] == "nap" for row in list_tasks(filters=[("state", "=", "RUNNING")])))

    remove_placement_group(group)

    for ref in (running, waiting):
        with pytest.raises(TaskPlacementGroupRemoved):
            shoal.get(ref, timeout=10)
    with pytest.raises(ActorPlacementGroupRemoved):
        shoal.get(actor.ping.remote(), timeout=10)
    for late in (inside, nap.options(scheduling_strategy=at, num_cpus=0.5)):
        with pytest.raises(TaskPlacementGroupRemoved):
            shoal.get(late.remote(0.0), timeout=10)
    with pytest.raises(ActorPlacementGroupRemoved):
        shoal.get(Member.options(scheduling_strategy=at).remote().ping.remote(), timeout=10)


def test_a_borrower_of_a_removed_group_is_told_too() -> None:
    @shoal.remote(num_cpus=0)
    def submits(group: PlacementGroup) -> float:
        at = PlacementGroupSchedulingStrategy(group)
        return shoal.get(nap.options(scheduling_strategy=at).remote(0.0), timeout=10)

    group = placement_group([{"CPU": 1}])
    assert shoal.get(submits.remote(group), timeout=10) == 0.0
    remove_placement_group(group)
    eventually(lambda: shoal.available_resources().get("CPU") == 4.0)

    with pytest.raises(TaskPlacementGroupRemoved):
        shoal.get(submits.remote(group), timeout=10)


def test_a_group_ends_with_the_actor_that_made_it_unless_it_is_detached() -> None:
    @shoal.remote(num_cpus=0)
    class Maker:
        def make(self, **options: Any) -> PlacementGroup:
            group = placement_group([{"CPU": 0.1}], **options)
            shoal.get(group.ready())
            return group

    maker = Maker.remote()
    own, detached = shoal.get([maker.make.remote(), maker.make.remote(lifetime="detached")], timeout=10)
    shoal.kill(maker)

    eventually(lambda: placement_group_table(own)["state"] == "REMOVED")
    assert placement_group_table(detached)["state"] == "CREATED"
    remove_placement_group(detached)
