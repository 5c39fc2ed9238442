"""Durations, sizes, amounts and requirements as people write them."""

from __future__ import annotations

import math

import pytest

from shoal.config.quantities import duration_s, machine_need, memory_bytes, need_shown, resource_amount
from shoal.foundation.amounts import UNIT, amounts
from shoal.model.policy import MachineNeed


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (90, 90), (0, 0), (0.5, 0.5), ("90", 90), ("1.5", 1.5), ("90s", 90), ("5m", 300), ("5 m", 300), ("5min", 300),
        ("2h", 7200), ("1h30m", 5400), ("1h 30m", 5400), ("1d", 86400), ("1w", 604800), ("250ms", 0.25), (" 5s ", 5),
    ],
)  # fmt: skip
def test_duration_is_read(written: object, seconds: float) -> None:
    assert duration_s(written) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "written",
    ["", "s", "-5s", "5x", "5 minutes", "1h30", "h1", "1e3s", "٣s", None, True, [], -1, math.inf, math.nan,
     10**400, "9" * 30, "6000w"],
)  # fmt: skip
def test_what_is_no_duration_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="a duration"):
        duration_s(written)


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (1, 1), ("1", 1), ("1B", 1), ("1 KiB", 1024), ("1Ki", 1024), ("1kB", 1000), ("1K", 1000), ("1k", 1000),
        ("16 GiB", 2**34), ("16Gi", 2**34), ("16GB", 16 * 10**9), ("16G", 16 * 10**9), ("1.5GiB", 3 * 2**29),
        ("2 TiB", 2**41), (2.0, 2),
    ],
)  # fmt: skip
def test_size_is_read(written: object, size: int) -> None:
    assert memory_bytes(written) == size


@pytest.mark.parametrize(
    "written", ["", "GiB", "16 gigs", "-1", "16 gib", "1 kiB x", -1, 1.5, None, True, 2**60, "2000 PiB", math.nan]
)
def test_what_is_no_size_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match=r"size|bytes"):
        memory_bytes(written)


def test_amounts_are_exact() -> None:
    assert resource_amount("CPU", 0.1) == 1000
    assert resource_amount("memory", "1 GiB") == 2**30 * UNIT
    for wrong in (0.00001, -1, math.inf, "1", True):
        with pytest.raises(ValueError, match=r"number|multiple"):
            resource_amount("CPU", wrong)


@pytest.mark.parametrize(
    ("written", "need"),
    [
        ("cpu >= 4", MachineNeed(at_least=amounts({"CPU": 4}))),
        ("vCPU>=4,memory>=16GiB", MachineNeed(at_least=amounts({"CPU": 4, "memory": 2**34}))),
        ("cpu: 4", MachineNeed(at_least=amounts({"CPU": 4}))),
        ("cpu = 4", MachineNeed(at_least=amounts({"CPU": 4}), at_most=amounts({"CPU": 4}))),
        ("cpu >= 2, cpu <= 8", MachineNeed(at_least=amounts({"CPU": 2}), at_most=amounts({"CPU": 8}))),
        ("gpu: 1 x L4", MachineNeed(at_least=amounts({"GPU": 1}), accelerator="L4")),
        ("gpu >= 2 x A100 80GB", MachineNeed(at_least=amounts({"GPU": 2}), accelerator="A100 80GB")),
        ("gpu <= 0, arch: aarch64", MachineNeed(at_most={"GPU": 0}, arch="arm64")),
        ("family: m6i|c6i", MachineNeed(families=("m6i", "c6i"))),
    ],
)
def test_requirements_are_read_and_shown(written: str, need: MachineNeed) -> None:
    assert machine_need(written) == need
    assert machine_need(need_shown(need)) == need
