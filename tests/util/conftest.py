"""One embedded cluster for each file of tests here: starting it takes a quarter of a second."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import shoal


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    shoal.init("local", num_cpus=4)
    yield
    shoal.shutdown()
