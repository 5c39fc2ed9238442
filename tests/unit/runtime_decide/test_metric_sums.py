"""The users' metrics of one node: sums that never fall, gauges by process."""

from __future__ import annotations

from typing import Any

from shoal.runtime.decide import metric_sums
from shoal.runtime.decide.metric_sums import MetricSums


def row(name: str, kind: str = "counter", series: Any = None, **more: Any) -> dict[str, Any]:
    given = [[["a"], 1.0]] if series is None else series
    return {"name": name, "kind": kind, "help": "h", "tag_keys": ["tag"], "boundaries": [], "series": given, **more}


def series_of(sums: MetricSums, name: str) -> dict[tuple[str, ...], Any]:
    return next(({tuple(k): v for k, v in one["series"]} for one in sums.rows() if one["name"] == name), {})


def test_counters_add_up_and_the_latest_report_replaces_the_last() -> None:
    sums = MetricSums()
    sums.put("p1", 1, [row("n", series=[[["a"], 2.0]])])
    sums.put("p1", 1, [row("n", series=[[["a"], 3.0], [["b"], 1.0]])])
    sums.put("p2", 2, [row("n")])

    assert series_of(sums, "n") == {("a",): 4.0, ("b",): 1.0}


def test_sums_do_not_fall_when_a_process_ends() -> None:
    sums = MetricSums()
    sums.put("p1", 1, [row("n"), row("g", "gauge")])
    sums.put("p2", 2, [row("n"), row("g", "gauge")])

    sums.keep_only({"p2"})
    sums.keep_only({"p2"})

    assert series_of(sums, "n") == {("a",): 2.0}
    assert series_of(sums, "g") == {("a", "2"): 1.0}


def test_gauges_carry_their_process() -> None:
    sums = MetricSums()
    sums.put("p1", 11, [row("g", "gauge", [[["a"], 5.0]])])
    sums.put("p2", 22, [row("g", "gauge", [[["a"], 7.0]])])

    assert series_of(sums, "g") == {("a", "11"): 5.0, ("a", "22"): 7.0}
    assert sums.rows()[0]["tag_keys"] == ["tag", "pid"]


def test_histograms_add_up_bucket_by_bucket() -> None:
    sums = MetricSums()
    for process in ("p1", "p2"):
        sums.put(process, 1, [row("h", "histogram", [[["a"], [1, 2, 10.5]]], boundaries=[1.0])])
    sums.keep_only({"p2"})

    assert series_of(sums, "h") == {("a",): [2, 4, 21.0]}


def test_another_meaning_of_a_name_is_dropped_and_counted() -> None:
    sums = MetricSums()
    sums.put("p1", 1, [row("n")])
    sums.put("p2", 2, [row("n", "gauge"), row("n", tag_keys=["other"])])

    assert series_of(sums, "n") == {("a",): 1.0}
    assert sums.dropped == 2


def test_names_are_limited() -> None:
    sums = MetricSums()
    sums.put("p1", 1, [row(f"n{n}") for n in range(metric_sums.METRICS_MAX + 5)])

    assert len(sums.rows()) == metric_sums.METRICS_MAX
    assert sums.dropped == 5
