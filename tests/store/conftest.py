"""Fixtures for store tests with real processes: nodes that leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from store_rig import Loop, Node


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """Make nodes that share one loop; each must be gone from shared memory afterwards."""
    made: list[Node] = []
    loop = Loop()

    def make(limit_bytes: int, **options: Any) -> Node:
        one = Node(limit_bytes, **{"loop": loop, **options})
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()
    assert not [one.place.path for one in made if one.place.path.exists()]
