"""`request_resources`: a total that the cluster shall hold."""

from __future__ import annotations

import time
from typing import Any

import pytest

import shoal
from shoal.autoscaler import sdk
from shoal.autoscaler.sdk import _checked, request_resources
from shoal.foundation.amounts import UNIT
from shoal.runtime.client.api import session
from shoal.transport import discovery
from shoal.wire.asks import What


def test_what_is_asked_for() -> None:
    found = _checked(2, [{"GPU": 1, "CPU": 0.5}], [{"market": "spot"}])

    assert [bundle.amounts for bundle in found] == [{"CPU": UNIT}, {"CPU": UNIT}, {"CPU": UNIT // 2, "GPU": UNIT}]
    assert found[2].selector.hard == {"market": "spot"}
    assert _checked(None, None, None) == []


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ((1.5, None, None), TypeError),
        ((True, None, None), TypeError),
        ((-1, None, None), ValueError),
        ((None, {"CPU": 1}, None), TypeError),
        ((None, ["CPU"], None), TypeError),
        ((None, [{"CPU": True}], None), TypeError),
        ((None, [{"CPU": "1"}], None), TypeError),
        ((None, [{"CPU": -1}], None), ValueError),
        ((None, [{"CPU": 1}], [{}, {}]), ValueError),
        ((None, [{"CPU": 1}], [{"a": "in()"}]), ValueError),
        ((1, None, [{}]), ValueError),
    ],
)
def test_wrong_requests_are_refused(given: tuple[Any, ...], error: type[Exception]) -> None:
    with pytest.raises(error, match=r"num_cpus|bundles|bundle_label_selectors|label selector|CPU"):
        _checked(*given)


def test_it_needs_a_connection() -> None:
    assert not shoal.is_initialized()
    with pytest.raises(RuntimeError, match="not connected"):
        request_resources(num_cpus=1)


def test_request_stands_at_the_head_and_is_taken_back(cluster: None) -> None:
    def asked() -> Any:
        return session().core.ask(What.STATUS, {}).get("standing")

    request_resources(num_cpus=3, owner="warm", ttl_s=60)
    standing = asked()
    request_resources(owner="warm")

    assert "3" in str(standing) or len(standing) >= 1
    assert not asked()


CONFIG: dict[str, Any] = {
    "cluster_name": "from-sdk",
    "provider": {"type": "local", "oversubscribe": 16},
    "max_workers": 2,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 1, "object_store_memory": "64 MiB"}},
        "small": {"resources": {"CPU": 1, "object_store_memory": "64 MiB"}, "min_workers": 1, "max_workers": 2},
    },
}


def test_a_cluster_from_a_mapping_is_started_changed_and_ended() -> None:
    config = sdk.create_or_update_cluster(CONFIG, no_restart=True)
    try:
        assert config["max_workers"] == 2
        assert sdk.get_head_node_ip(CONFIG) == "127.0.0.1"
        end_s = time.monotonic() + 30
        while sdk.get_worker_node_ips(CONFIG) != ["127.0.0.1"]:
            assert time.monotonic() < end_s, "the worker of min_workers"
            time.sleep(0.1)
        assert sdk.create_or_update_cluster({**CONFIG, "max_workers": 1})["max_workers"] == 1
        assert len(discovery.live_clusters()) == 1
    finally:
        sdk.teardown_cluster(CONFIG)
    assert discovery.live_clusters() == []
    with pytest.raises(RuntimeError, match="no live cluster `from-sdk`"):
        sdk.get_head_node_ip(CONFIG)


def test_a_wrong_configuration_is_a_value_error_with_its_place() -> None:
    with pytest.raises(ValueError, match=r"max_workers: expected"):
        sdk.create_or_update_cluster({**CONFIG, "max_workers": "some"})
    with pytest.raises(ValueError, match=r"none\.yaml: expected a file"):
        sdk.get_head_node_ip("none.yaml")
    with pytest.raises(ValueError, match="restart_only"):
        sdk.create_or_update_cluster(CONFIG, restart_only=True)
    sdk.teardown_cluster(CONFIG)  # quiet where there is nothing


def test_every_name_of_rays_module_is_served_or_says_what_to_do_instead() -> None:
    rays = {
        *("bootstrap_config", "configure_logging", "create_or_update_cluster", "fillout_defaults"),
        *("get_docker_host_mount_location", "get_head_node_ip", "get_worker_node_ips", "register_callback_handler"),
        *("request_resources", "rsync", "run_on_cluster", "teardown_cluster"),
    }
    assert rays == {*sdk.__all__, *sdk._ABSENT}
    for name in sdk._ABSENT:
        with pytest.raises(AttributeError, match=f"does not serve `{name}`: .+"):
            getattr(sdk, name)
