"""Fixtures of the store's unit tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests_store_desk import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Callable[[int], Desk]:
    """Make a store of so many bytes."""
    return lambda limit_bytes: Desk(tmp_path, limit_bytes)
