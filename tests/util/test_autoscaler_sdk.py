"""`request_resources`: a total that the cluster shall hold."""

from __future__ import annotations

from typing import Any

import pytest

import shoal
from shoal.autoscaler.sdk import _checked, request_resources
from shoal.foundation.amounts import UNIT
from shoal.runtime.client.api import session
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
