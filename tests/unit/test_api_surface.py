"""`import shoal` is light and quick, and everything it promises is there."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import pytest

import shoal

HEAVY = ("numpy", "grpc", "pydantic", "highspy", "yaml", "click", "rich", "asyncio", "multiprocessing")
IMPORT_LIMIT_S = 0.15


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_import_is_quick() -> None:
    """Median of ten fresh processes, less what an empty one takes, so that a loaded machine does not decide."""

    def taken_s(program: str) -> float:
        began = time.perf_counter()
        run(program)
        return time.perf_counter() - began

    times_s = [taken_s("import shoal") - taken_s("pass") for _ in range(10)]

    assert statistics.median(times_s) < IMPORT_LIMIT_S


def test_import_brings_nothing_heavy() -> None:
    found = run(f"import sys, shoal; print(*[m for m in {HEAVY!r} if m in sys.modules])")

    assert found == ""


def test_driver_api_brings_nothing_heavy() -> None:
    """Drivers and workers never import what only the head needs."""
    heavy = ("numpy", "grpc", "pydantic", "highspy", "google.protobuf")
    uses = "shoal.remote, shoal.init, shoal.exceptions"

    assert run(f"import sys, shoal; {uses}; print(*[m for m in {heavy!r} if m in sys.modules])") == ""


@pytest.mark.parametrize("name", shoal.__all__)
def test_promised_name_is_there(name: str) -> None:
    assert getattr(shoal, name) is not None
    assert name in dir(shoal)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute `remot`"):
        _ = shoal.remot


def test_version_is_that_of_the_package() -> None:
    import importlib.metadata

    assert shoal.__version__ == importlib.metadata.version("shoal")
