"""Found by workers whose driver uses `shoal.compat.ray`: has Shoal serve `ray`, and steps aside."""

import importlib
import sys

import shoal.compat.ray  # noqa: F401 - serves `ray` from now on

del sys.modules["ray"]
sys.modules["ray"] = importlib.import_module("ray")
