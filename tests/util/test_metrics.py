"""Metrics of the user's own: what they count, and what Prometheus reads."""

from __future__ import annotations

import itertools
import pickle
import re

import pytest

from shoal.foundation.prometheus import exposition
from shoal.util import metrics
from shoal.util.metrics import Counter, Gauge, Histogram

names = (f"test_metric_{n}" for n in itertools.count())


def row_of(metric: metrics.Metric) -> dict:
    return next(row for row in metrics.registry().snapshot() if row["name"] == metric.name)


def test_counter_counts_by_tag() -> None:
    counter = Counter(next(names), "requests", tag_keys=("path",))

    counter.inc(tags={"path": "/a"})
    counter.inc(2, tags={"path": "/a"})
    counter.inc(tags={"path": "/b"})

    assert row_of(counter)["series"] == [[["/a"], 3.0], [["/b"], 1.0]]
    with pytest.raises(ValueError, match="above 0"):
        counter.inc(0, tags={"path": "/a"})


def test_gauge_keeps_the_last_value() -> None:
    gauge = Gauge(next(names))

    gauge.set(3)
    gauge.set(1.5)
    gauge.set(None)

    assert row_of(gauge)["series"] == [[[], 1.5]]


def test_histogram_counts_under_bounds() -> None:
    histogram = Histogram(next(names), boundaries=[1, 10])

    for value in (0.5, 1, 5, 100):
        histogram.observe(value)

    assert row_of(histogram)["series"] == [[[], [2, 1, 1, 106.5]]]
    assert row_of(histogram)["boundaries"] == [1.0, 10.0]


def test_tags_are_checked() -> None:
    counter = Counter(next(names), tag_keys=("a", "b"))
    counter.set_default_tags({"a": "1"})

    counter.inc(tags={"b": "2"})
    assert row_of(counter)["series"] == [[["1", "2"], 1.0]]
    with pytest.raises(ValueError, match="missing value for tag `b`"):
        counter.inc()
    with pytest.raises(ValueError, match="unknown tag `c`"):
        counter.inc(tags={"b": "2", "c": "3"})
    with pytest.raises(TypeError, match="expected a string"):
        counter.inc(tags={"b": 2})  # type: ignore[dict-item]


@pytest.mark.parametrize("name", ["", "1a", "a-b", "a b"])
def test_names_are_prometheus_names(name: str) -> None:
    with pytest.raises(ValueError, match="metric name"):
        Counter(name)


def test_wrong_histograms_and_tag_keys() -> None:
    with pytest.raises(ValueError, match="boundaries"):
        Histogram(next(names))
    with pytest.raises(ValueError, match="boundaries"):
        Histogram(next(names), boundaries=[0, 1])
    with pytest.raises(TypeError, match="tag_keys"):
        Counter(next(names), tag_keys="ab")


def test_second_metric_of_a_name_goes_on_counting() -> None:
    name = next(names)
    Counter(name).inc()
    Counter(name).inc()

    assert row_of(Counter(name))["series"] == [[[], 2.0]]
    with pytest.raises(ValueError, match="there is a counter of this name"):
        Gauge(name)


def test_metric_in_a_closure_is_the_same_metric() -> None:
    histogram = Histogram(next(names), "h", boundaries=[1], tag_keys=("a",)).set_default_tags({"a": "x"})

    again = pickle.loads(pickle.dumps(histogram))
    again.observe(0.5)

    assert again.info == histogram.info
    assert row_of(histogram)["series"] == [[["x"], [1, 0, 0.5]]]


def test_combinations_of_tags_are_limited() -> None:
    counter = Counter(next(names), tag_keys=("user",))

    for n in range(metrics.SERIES_MAX + 50):
        counter.inc(tags={"user": str(n)})

    series = {values[0]: count for values, count in row_of(counter)["series"]}
    assert len(series) == metrics.SERIES_MAX + 1
    assert series["other"] == 50


def test_prometheus_reads_it() -> None:
    counter = Counter(next(names), 'says "hi"\nthere', tag_keys=("path",))
    histogram = Histogram(next(names), "sizes", boundaries=[1, 10])
    counter.inc(tags={"path": 'a"b\\c'})
    histogram.observe(0.5)
    histogram.observe(50)

    text = exposition([row_of(counter), row_of(histogram)], {"node": "n1"})

    assert f'{counter.name}{{path="a\\"b\\\\c",node="n1"}} 1\n' in text
    assert f'{histogram.name}_bucket{{node="n1",le="1"}} 1\n' in text
    assert f'{histogram.name}_bucket{{node="n1",le="+Inf"}} 2\n' in text
    assert f'{histogram.name}_sum{{node="n1"}} 50.5\n' in text
    assert f'{histogram.name}_count{{node="n1"}} 2\n' in text
    for line in text.splitlines():
        assert re.fullmatch(r"#.*|[a-z_0-9]+(\{.*\})? [-+.0-9a-z]+", line), line


def test_counts_of_workers_reach_their_agent(cluster: None) -> None:
    import shoal
    from shoal.runtime.client.api import session
    from shoal.wire import tasks as wire

    @shoal.remote
    def count(times: int) -> None:
        counter = Counter("test_workers_total", "seen by workers", tag_keys=("kind",))
        for _ in range(times):
            counter.inc(tags={"kind": "x"})
        metrics.registry().report_now()

    shoal.get([count.remote(2) for _ in range(3)])
    found = session().core.ask("metrics", {}, kind=wire.LOCAL, limit_s=10)

    (row,) = [one for one in found["rows"] if one["name"] == "test_workers_total"]
    assert row["series"] == [[["x"], 6.0]]
