"""Options of tasks, actors and methods: defaults, amounts, kinds of error, places, environments."""

from __future__ import annotations

import time
from typing import Any

import pytest

from shoal.foundation.amounts import UNIT
from shoal.model.demand import Selector
from shoal.runtime.client import options, strategies
from shoal.runtime.client.environment import environment, merged
from shoal.runtime.client.options import actor_options, method_options, overridden, returns_of, task_options
from shoal.runtime.client.strategies import (
    DoesNotExist,
    Exists,
    GroupPlace,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
    PlacementGroupSchedulingStrategy,
)

NODE = "ab" * 14


class FakeGroup:
    """A placement group as far as strategies look at it."""

    id = "cd" * 8

    def __init__(self, *bundles: dict[str, int]) -> None:
        self.bundle_amounts = list(bundles)


def test_task_has_rays_defaults() -> None:
    plain = task_options({})

    assert plain.amounts == {"CPU": UNIT}
    assert (plain.max_retries, plain.max_calls, plain.num_returns, plain.retry_exceptions) == (3, 0, None, ())
    assert plain.place.inherits
    assert plain.enable_task_events


def test_actor_has_rays_defaults() -> None:
    plain = actor_options({})

    assert (plain.max_restarts, plain.max_task_retries, plain.max_pending_calls) == (0, 0, -1)
    assert plain.concurrency_of(is_async=False) == 1
    assert plain.concurrency_of(is_async=True) == 1000
    assert not plain.is_detached


@pytest.mark.parametrize(
    ("given", "placed", "held"),
    [
        ({}, {"CPU": 1}, {}),
        ({"memory": 1000}, {"CPU": 1, "memory": 1000}, {"memory": 1000}),
        ({"num_cpus": 0}, {}, {}),
        ({"num_cpus": 2}, {"CPU": 2}, {"CPU": 2}),
        ({"num_gpus": 1}, {"CPU": 1, "GPU": 1}, {"CPU": 1, "GPU": 1}),
        ({"num_gpus": 0}, {"CPU": 1}, {"CPU": 1}),
        ({"resources": {"a": 1}}, {"CPU": 1, "a": 1}, {"CPU": 1, "a": 1}),
        ({"resources": {}}, {"CPU": 1}, {}),
        (
            {"accelerator_type": "A100"},
            {"CPU": 1, "accelerator_type:A100": 0.001},
            {"CPU": 1, "accelerator_type:A100": 0.001},
        ),
        ({"num_gpus": 1, "num_cpus": 0}, {"GPU": 1}, {"GPU": 1}),
    ],
)
def test_actor_is_placed_and_holds_as_in_ray(
    given: dict[str, Any], placed: dict[str, float], held: dict[str, float]
) -> None:
    found = actor_options(given)

    assert found.amounts == {name: round(count * UNIT) for name, count in placed.items()}
    assert found.held == {name: round(count * UNIT) for name, count in held.items()}


def test_three_thirds_of_a_gpu_fit_on_one() -> None:
    assert 3 * task_options({"num_gpus": 1 / 3}).amounts["GPU"] <= UNIT


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"num_cpu": 1}, ValueError),
        ({"num_cpus": "1"}, TypeError),
        ({"num_cpus": -1}, ValueError),
        ({"num_cpus": float("nan")}, ValueError),
        ({"num_cpus": 0.00001}, ValueError),
        ({"num_gpus": 1.5}, ValueError),
        ({"num_returns": -1}, ValueError),
        ({"num_returns": "many"}, ValueError),
        ({"num_returns": 1.0}, TypeError),
        ({"max_retries": -2}, ValueError),
        ({"max_retries": 1.0}, TypeError),
        ({"retry_exceptions": [1]}, ValueError),
        ({"retry_exceptions": None}, TypeError),
        ({"resources": {"CPU": 1}}, ValueError),
        ({"resources": {"memory": 1}}, ValueError),
        ({"resources": [1]}, TypeError),
        ({"object_store_memory": 1}, ValueError),
        ({"scheduling_strategy": "PACK"}, ValueError),
        ({"scheduling_strategy": 3}, TypeError),
        ({"placement_group": "mine"}, ValueError),
        ({"label_selector": {"a": "in()"}}, ValueError),
        ({"label_selector": {"a": "sp@t"}}, ValueError),
        ({"fallback_strategy": [{}]}, ValueError),
        ({"fallback_strategy": [{"num_cpus": 1}]}, ValueError),
        ({"_generator_backpressure_num_objects": 0}, ValueError),
        ({"runtime_env": {"pip": ["x"]}}, ValueError),
        ({"max_restarts": 1}, ValueError),
    ],
)
def test_wrong_task_option_is_an_error_of_rays_kind(given: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(given)) if "label" not in str(given) else "label"):
        task_options(given)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"max_retries": 1}, ValueError),
        ({"lifetime": "forever"}, ValueError),
        ({"get_if_exists": True}, ValueError),
        ({"name": ""}, ValueError),
        ({"name": 3}, TypeError),
        ({"namespace": ""}, ValueError),
        ({"max_concurrency": -1}, ValueError),
        ({"max_pending_calls": -2}, ValueError),
        ({"concurrency_groups": {"io": 0}}, ValueError),
        ({"concurrency_groups": [{"name": "io"}]}, ValueError),
        ({"enable_tensor_transport": True}, ValueError),
    ],
)
def test_wrong_actor_option_is_an_error_of_rays_kind(given: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        actor_options(given)


def test_cache_does_not_confuse_equal_values_of_other_types() -> None:
    assert task_options({"max_retries": 1}) is task_options({"max_retries": 1})
    with pytest.raises(TypeError):
        task_options({"max_retries": 1.0})


def test_options_are_cheap() -> None:
    given = {"num_cpus": 2, "resources": {"a": 1}, "name": "x"}
    task_options(given)

    def took_s() -> float:
        began = time.perf_counter()
        for _ in range(200):
            task_options(given)
        return (time.perf_counter() - began) / 200

    assert min(took_s() for _ in range(20)) < 50e-6, "the best round, since others may use the machine"


def test_class_key_is_equal_for_equal_work_only() -> None:
    one = task_options({"num_cpus": 1}).class_key
    other = [
        {"num_cpus": 2},
        {"scheduling_strategy": "SPREAD"},
        {"label_selector": {"a": "b"}},
        {"runtime_env": {"env_vars": {"A": "1"}}},
        {"scheduling_strategy": NodeAffinitySchedulingStrategy(NODE, soft=False)},
        {"scheduling_strategy": NodeAffinitySchedulingStrategy(NODE, soft=True)},
        {"scheduling_strategy": PlacementGroupSchedulingStrategy(FakeGroup({"CPU": UNIT}))},
        {"scheduling_strategy": PlacementGroupSchedulingStrategy(FakeGroup({"CPU": UNIT}), 0)},
    ]

    keys = [task_options(given).class_key for given in other]

    assert one == task_options({"num_cpus": 1.0, "name": "other", "max_retries": 0}).class_key
    assert len({one, *keys}) == len(keys) + 1


def test_declared_options_cannot_be_overridden_by_call() -> None:
    assert overridden({"num_cpus": 1, "name": "a"}, {"name": "b"}) == {"num_cpus": 1, "name": "b"}
    for name in ("max_calls", "concurrency_groups"):
        with pytest.raises(ValueError, match=name):
            overridden({}, {name: None})


def test_streaming_needs_a_generator() -> None:
    assert returns_of(task_options({}), is_generator=True) == options.STREAMING
    assert returns_of(task_options({}), is_generator=False) == 1
    assert returns_of(task_options({"num_returns": 0}), is_generator=False) == 0
    assert returns_of(task_options({"num_returns": "dynamic"}), is_generator=True) == options.DYNAMIC
    assert returns_of(task_options({"num_returns": 2}), is_generator=True) == 2
    with pytest.raises(ValueError, match="generator"):
        returns_of(task_options({"num_returns": "streaming"}), is_generator=False)


def test_method_options() -> None:
    found = method_options({"num_returns": 2, "concurrency_group": "io", "retry_exceptions": [KeyError]})

    assert (found.num_returns, found.concurrency_group, found.retry_exceptions) == (2, "io", (KeyError,))
    assert method_options({}).max_task_retries is None
    with pytest.raises(ValueError, match="num_cpus"):
        method_options({"num_cpus": 1})


def test_order_cannot_be_promised_to_concurrent_actors() -> None:
    ordered = actor_options({"allow_out_of_order_execution": False})

    assert ordered.concurrency_of(is_async=False) == 1
    with pytest.raises(ValueError, match="allow_out_of_order_execution"):
        ordered.concurrency_of(is_async=True)


def test_concurrency_groups_as_dict_or_list() -> None:
    assert actor_options({"concurrency_groups": {"io": 2}}).concurrency_groups == {"io": 2}
    as_list = [{"name": "io", "max_concurrency": 2}]
    assert actor_options({"concurrency_groups": as_list}).concurrency_groups == {"io": 2}


# ------------------------------------------------------------------------------------------------------------ places


def place(**given: Any) -> strategies.Place:
    return task_options(given).place


def test_plain_words() -> None:
    assert place(scheduling_strategy="SPREAD").spread
    assert not place(scheduling_strategy="DEFAULT").inherits
    assert not place(placement_group=None).inherits
    assert place(placement_group="default").inherits


def test_affinity_names_the_node() -> None:
    hard = place(scheduling_strategy=NodeAffinitySchedulingStrategy(NODE, soft=False)).selector
    soft = place(scheduling_strategy=NodeAffinitySchedulingStrategy(NODE, soft=True)).selector

    assert (hard.node_ids, hard.is_soft_node) == ((NODE,), False)
    assert soft.is_soft_node
    for wrong in ("", "xyz", "00" * 14):
        with pytest.raises(ValueError, match="node_id"):
            NodeAffinitySchedulingStrategy(wrong, soft=False)


def test_labels_become_terms() -> None:
    strategy = NodeLabelSchedulingStrategy(
        {"a": In("x", "y"), "b": NotIn("z"), "c": Exists(), "d": DoesNotExist()}, soft={"a": In("x")}
    )

    found = place(scheduling_strategy=strategy).selector

    hard = {"a": "in(x,y)", "b": "!in(z)", "c": "exists()", "d": "!exists()"}
    assert found == Selector(hard={**hard, "a": "in(x)"}, fallback=(hard,))


def test_soft_labels_that_contradict_the_hard_ones_are_dropped() -> None:
    strategy = NodeLabelSchedulingStrategy({"a": In("x")}, soft={"a": In("y")})

    assert place(scheduling_strategy=strategy).selector == Selector(hard={"a": "in(x)"})


def test_label_selector_joins_a_strategy() -> None:
    strategy = NodeLabelSchedulingStrategy({"a": In("x", "y")})

    assert place(scheduling_strategy=strategy, label_selector={"a": "!y"}).selector.hard == {"a": "in(x)"}
    with pytest.raises(ValueError, match="contradict"):
        place(scheduling_strategy=strategy, label_selector={"a": "z"})


def test_fallbacks_keep_their_order() -> None:
    found = place(
        label_selector={"a": "x"}, fallback_strategy=[{"label_selector": {"a": "y"}}, {"label_selector": {}}]
    ).selector

    assert found == Selector(hard={"a": "x"}, fallback=({"a": "y"}, {}))


@pytest.mark.parametrize(
    ("left", "right", "joined"),
    [
        ("x", "x", "in(x)"),
        ("x", "y", None),
        ("in(x,y)", "!x", "in(y)"),
        ("!x", "in(x,y)", "in(y)"),
        ("!x", "!y", "!in(x,y)"),
        ("x", "exists()", "x"),
        ("exists()", "x", "x"),
        ("!exists()", "!x", "!exists()"),
        ("!x", "!exists()", "!exists()"),
        ("exists()", "!exists()", None),
        ("x", "!exists()", None),
        ("exists()", "!x", None),
    ],
)
def test_two_terms_on_one_label(left: str, right: str, joined: str | None) -> None:
    expected = None if joined is None else {"a": joined}

    assert strategies.both({"a": left}, {"a": right}) == expected


def test_empty_and_wrong_label_strategies() -> None:
    for call in (
        lambda: NodeLabelSchedulingStrategy({}),
        lambda: NodeLabelSchedulingStrategy({"a": "x"}),  # type: ignore[dict-item]
        lambda: NodeLabelSchedulingStrategy([1]),  # type: ignore[arg-type]
        lambda: In(),
        lambda: NotIn(3),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=r".+"):
            call()


def test_group_place() -> None:
    group = FakeGroup({"CPU": UNIT}, {"CPU": 2 * UNIT})

    assert place(placement_group=group).group == GroupPlace(group.id, -1, False)
    found = place(scheduling_strategy=PlacementGroupSchedulingStrategy(group, 1, True)).group
    assert found == GroupPlace(group.id, 1, True)
    assert place(scheduling_strategy=PlacementGroupSchedulingStrategy(None)).group is None


@pytest.mark.parametrize(
    "given",
    [
        {"scheduling_strategy": PlacementGroupSchedulingStrategy(FakeGroup({"CPU": UNIT}), 1)},
        {"scheduling_strategy": PlacementGroupSchedulingStrategy(FakeGroup({"CPU": UNIT}), -2)},
        {"scheduling_strategy": PlacementGroupSchedulingStrategy(None, 0)},
        {"scheduling_strategy": PlacementGroupSchedulingStrategy(FakeGroup({"CPU": UNIT})), "num_cpus": 2},
        {
            "scheduling_strategy": PlacementGroupSchedulingStrategy(FakeGroup({"CPU": 4 * UNIT}, {"CPU": UNIT}), 1),
            "num_cpus": 2,
        },
        {"placement_group": FakeGroup({"CPU": UNIT}), "scheduling_strategy": "SPREAD"},
    ],
)
def test_group_that_cannot_hold_the_work_is_an_error_at_once(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"lacement group"):
        task_options(given)


def test_default_actor_needs_a_cpu_in_its_bundle() -> None:
    strategy = PlacementGroupSchedulingStrategy(FakeGroup({"GPU": UNIT}))

    with pytest.raises(ValueError, match="cannot fit"):
        actor_options({"scheduling_strategy": strategy})
    assert actor_options({"scheduling_strategy": strategy, "num_cpus": 0}).amounts == {}


# ------------------------------------------------------------------------------------------------------ environments


def test_environment_is_checked_and_absolute(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code").mkdir()
    monkeypatch.chdir(tmp_path)

    found = environment({"env_vars": {"A": "1"}, "working_dir": "code", "py_modules": [tmp_path / "code"]})

    assert found.working_dir == str(tmp_path / "code")
    assert found.py_modules == (str(tmp_path / "code"),)
    assert environment(found.shown()) == found
    assert not environment({})


@pytest.mark.parametrize("field", ["pip", "conda", "uv", "container", "image_uri", "excludes", "config", "nsight"])
def test_other_fields_are_refused_by_name(field: str) -> None:
    with pytest.raises(ValueError, match=f"`{field}`"):
        environment({field: []})


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"env_vars": {"A": 1}}, TypeError),
        ({"env_vars": "A=1"}, TypeError),
        ({"env_vars": {"A=": "1"}}, ValueError),
        ({"working_dir": "/no/such/folder"}, ValueError),
        ({"working_dir": "s3://bucket/a.zip"}, ValueError),
        ({"working_dir": 3}, TypeError),
        ({"py_modules": "code"}, TypeError),
        ([], None),
        ([1], TypeError),
    ],
)
def test_wrong_environments(given: Any, error: type[Exception] | None) -> None:
    if error is None:
        assert not environment(given)
    else:
        with pytest.raises(error, match="runtime_env"):
            environment(given)


def test_inner_environment_wins(tmp_path: Any) -> None:
    outer = environment({"env_vars": {"A": "1", "B": "1"}, "working_dir": str(tmp_path)})
    inner = environment({"env_vars": {"B": "2"}})

    found = merged(outer, inner)

    assert found.env_vars == {"A": "1", "B": "2"}
    assert found.working_dir == str(tmp_path)
    assert len({outer.key, inner.key, found.key}) == 3
