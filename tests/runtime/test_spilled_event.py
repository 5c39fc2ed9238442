"""That objects went to disk is told as an event: it is why things are slow."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest

import shoal
from shoal.util.state import list_cluster_events
from tests.runtime.conftest import eventually

LIMIT_BYTES = 80 * 2**20
SIZE_BYTES = 20 * 2**20


@pytest.fixture(autouse=True)
def small_store() -> Iterator[None]:
    shoal.init("local", num_cpus=1, object_store_memory=LIMIT_BYTES)
    yield
    shoal.shutdown()


def spilled_bytes() -> list[int]:
    found = [re.search(r"bytes=(\d+)", row["message"]) for row in list_cluster_events(limit=1000)]
    return [int(one[1]) for one in found if one is not None and one.string.startswith("spilled ")]


def test_spilling_is_told_with_how_much_and_not_for_every_object() -> None:
    assert spilled_bytes() == []
    kept = [shoal.put(np.full(SIZE_BYTES, number, dtype=np.uint8)) for number in range(8)]
    least_bytes = len(kept) * SIZE_BYTES - LIMIT_BYTES

    eventually(lambda: sum(spilled_bytes()) >= least_bytes, within_s=30)

    assert len(spilled_bytes()) < len(kept)
    assert [int(shoal.get(ref)[0]) for ref in kept] == list(range(8))
