"""One embedded cluster for each file of tests here: starting it takes a quarter of a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import shoal


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    shoal.init("local", num_cpus=4)
    yield
    shoal.shutdown()


def eventually(claim: Callable[[], Any], within_s: float = 10.0) -> Any:
    """Return the claim's first true value; fail if it is not true in time. For what other processes do on their own."""
    deadline_s = time.monotonic() + within_s
    while True:
        value = claim()
        if value:
            return value
        assert time.monotonic() < deadline_s, f"not true within {within_s} s: {claim}"
        time.sleep(0.01)
