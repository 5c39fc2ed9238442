"""What tests of a cluster, a provider or an engine need, in virtual time. Shipped: third parties may build on it.

Names load on first use: `ProviderContract` needs pytest, nothing else does.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "Bench": "contract",
    "ProviderContract": "contract",
    "Faults": "world",
    "SimHead": "sim_head",
    "World": "world",
    "run": "sim_time",
}

__all__ = ["Bench", "Faults", "ProviderContract", "SimHead", "World", "run"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module `shoal.testing` has no attribute `{name}`")
    return getattr(importlib.import_module(f"shoal.testing.{_WHERE[name]}"), name)
