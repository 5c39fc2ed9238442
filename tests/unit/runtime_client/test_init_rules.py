"""Arguments of `init`: what is wrong is said in one line, before anything starts."""

from __future__ import annotations

from typing import Any

import pytest

import shoal
from shoal.runtime.client.init_rules import check

NOTHING = dict.fromkeys(
    ("address", "namespace", "num_cpus", "num_gpus", "memory", "resources", "labels", "object_store_memory")
)


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"num_cpus": "2"}, TypeError, "num_cpus: expected a number, got `'2'`"),
        ({"num_cpus": True}, TypeError, "num_cpus"),
        ({"num_gpus": -1}, ValueError, "num_gpus: expected a finite quantity of at least 0, got `-1`"),
        ({"memory": float("nan")}, ValueError, "memory"),
        ({"resources": 3}, TypeError, "resources: expected a dict"),
        ({"resources": {"CPU": 1}}, ValueError, "use num_cpus instead of `CPU`"),
        ({"resources": {"memory": 1}}, ValueError, "use memory instead"),
        ({"resources": {3: 1}}, TypeError, "expected names, got `3`"),
        ({"resources": {"a": "x"}}, TypeError, r"resources\['a'\]: expected a number"),
        ({"object_store_memory": "1GB"}, TypeError, "expected a number of bytes"),
        ({"object_store_memory": 10}, ValueError, "at least 1048576 bytes"),
        ({"labels": {"a": 3}}, TypeError, "labels: expected strings"),
        ({"labels": {"a": "!b"}}, ValueError, r"labels\['a'\]"),
        ({"labels": {"a": "in(b)"}}, ValueError, r"labels\['a'\]"),
        ({"labels": {"ray.io/node-id": "x"}}, ValueError, "every node's own"),
        ({"namespace": ""}, ValueError, "namespace: expected a name or None"),
        ({"namespace": 3}, TypeError, "namespace: expected a string"),
        ({"address": 3}, TypeError, "address: expected a string"),
        ({"job_config": object()}, ValueError, "give `runtime_env` and `namespace` to init"),
        ({"local_mode": True}, ValueError, "call the functions directly"),
        ({"enable_resource_isolation": True}, ValueError, "cgroups"),
        ({"colour": "red"}, TypeError, "unknown argument `colour`"),
    ],
)
def test_what_is_wrong_is_said(given: dict[str, Any], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said) as caught:
        shoal.init(**{"address": "local", **given})

    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert not shoal.is_initialized()


def test_what_ray_programs_give_is_taken() -> None:
    own = {"num_cpus": 1.5, "num_gpus": 0, "resources": {"a": 0.5}, "labels": {"zone": "eu-1/a_b.c"}}
    check(
        {**NOTHING, **own}, {"include_dashboard": False, "logging_level": 20, "local_mode": False, "job_config": None}
    )
