"""Draws every generated page anew: `make docs`."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """Run every generator."""
    runpy.run_path(str(HERE / "instance_states.py"), run_name="__main__")
    sys.argv = ["document"]
    runpy.run_module("shoal.config.document", run_name="__main__")


if __name__ == "__main__":
    main()
