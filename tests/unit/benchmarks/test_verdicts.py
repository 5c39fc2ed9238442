"""The benchmarks' verdicts: a ratio that is not reached in the median, or falls far short once, fails its row."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import runtime_rows
    import runtime_vs_ray

    return runtime_vs_ray, runtime_rows


def rounds(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    return [{"load": 0.5, "ray": ray, "shoal": shoal} for ray, shoal in pairs]


@pytest.mark.parametrize(
    ("pairs", "is_passed"),
    [
        (((10, 60), (10, 61), (10, 59)), True),
        (((10, 60), (10, 43), (10, 70)), True),  # the lowest round is just above 0.7 of the floor
        (((10, 60), (10, 41), (10, 70)), False),  # and just below it
        (((10, 59), (10, 59), (10, 90)), False),  # the median is short of the floor
    ],
)
def test_the_median_must_reach_the_floor_and_every_round_most_of_it(
    modules: tuple[Any, Any], pairs: tuple[tuple[float, float], ...], is_passed: bool
) -> None:
    bench, rows = modules
    found = bench.judged(rows.Row(build=rows.tasks_sync, floor=6), rounds(*pairs))
    assert found["is_passed"] is is_passed


def test_each_round_is_held_against_its_own_round_or_against_rays_best(modules: tuple[Any, Any]) -> None:
    bench, rows = modules
    measured = rounds((10, 20), (40, 40), (20, 30))
    own = bench.judged(rows.Row(build=rows.put_large, floor=1), measured)
    best = bench.judged(rows.Row(build=rows.put_large, floor=1, is_against_best=True), measured)
    assert (own["lowest"], own["ratio"], own["highest"]) == (1, 1.5, 2)
    assert (best["lowest"], best["ratio"], best["highest"]) == (0.5, 0.75, 1)
    assert own["is_passed"]
    assert not best["is_passed"]


def test_a_limit_in_seconds_holds_for_the_slowest_round(modules: tuple[Any, Any]) -> None:
    bench, rows = modules
    row = rows.ROWS["16 calls of 0.1 s on 16 threads"]
    assert bench.judged(row, rounds((0.1, 0.11), (0.1, 0.19)))["is_passed"]
    assert not bench.judged(row, rounds((0.1, 0.11), (0.1, 0.21)))["is_passed"]


def test_one_engine_alone_is_measured_and_not_judged(modules: tuple[Any, Any]) -> None:
    bench, rows = modules
    found = bench.judged(rows.ROWS["single client tasks sync"], [{"load": 0.5, "shoal": 100.0}])
    assert found == {"unit": "/s", "shoal": 100.0}


def test_a_wrong_result_stops_a_row(modules: tuple[Any, Any]) -> None:
    _, rows = modules
    with pytest.raises(AssertionError, match="expected b'ok', got b'no'"):
        rows.expect(b"no", b"ok")


def test_every_row_has_a_floor_or_a_limit(modules: tuple[Any, Any]) -> None:
    _, rows = modules
    assert [name for name, row in rows.ROWS.items() if not row.floor and row.limit_s is None] == []
    assert rows.ROWS["single client tasks sync"].floor == 6
    assert rows.ROWS["1:1 actor calls async"].floor == 20


def test_every_benchmark_is_found_by_the_one_entry(
    modules: tuple[Any, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    import run

    sys_argv, sys.argv = sys.argv, ["run.py", "--list"]
    try:
        run.main()
    finally:
        sys.argv = sys_argv
    listed = capsys.readouterr().out
    assert "runtime_vs_ray" in listed
    assert "runtime_driver" not in listed
    assert set(run.QUICK) <= set(run.scripts())
