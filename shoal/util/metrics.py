"""Metrics of the user's own: `Counter`, `Gauge`, `Histogram`, under Ray's names, read by Prometheus at the dashboard.

A process counts for itself; a thread tells its agent about once in 5 seconds, and at the end. Counting costs one lock
and one dict entry; nothing is sent for it.
"""

from __future__ import annotations

import atexit
import bisect
import os
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

REPORT_S = 5.0
SERIES_MAX = 1000
"""Most combinations of tag values of one metric in one process; further ones are counted as `other`."""
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")

Tags = tuple[str, ...]


class Metric:
    """What the three kinds share: a name, tags, and a value for each combination of tag values."""

    kind = ""

    def __init__(self, name: str, description: str = "", tag_keys: Sequence[str] | None = None) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"metric name: expected letters, digits, `_` and `:`, got `{name}`")
        if tag_keys is not None and (isinstance(tag_keys, str) or not all(isinstance(one, str) for one in tag_keys)):
            raise TypeError(f"tag_keys: expected a tuple of strings, got `{tag_keys!r}`")
        self.name, self.description = name, description
        self.tag_keys: Tags = tuple(tag_keys or ())
        self._defaults: dict[str, str] = {}
        self._lock = threading.Lock()
        self.series: dict[Tags, Any] = {}
        _registry.add(self)

    @property
    def info(self) -> dict[str, Any]:
        """Name, description, tag keys and default tags."""
        return {
            "name": self.name,
            "description": self.description,
            "tag_keys": self.tag_keys,
            "default_tags": dict(self._defaults),
        }

    def set_default_tags(self, default_tags: Mapping[str, str]) -> Any:
        """Set values of tags that a call need not give. Returns the metric."""
        self._check_tags(default_tags)
        self._defaults = dict(default_tags)
        return self

    def _values(self, tags: Mapping[str, str] | None) -> Tags:
        """Return the values of the tags, in the order of the keys. With the lock held.

        Raises:
            ValueError: a tag is missing or unknown. TypeError: a value is no string.
        """
        given = {**self._defaults, **(tags or {})}
        self._check_tags(given)
        missing = [key for key in self.tag_keys if key not in given]
        if missing:
            raise ValueError(f"metric `{self.name}`: missing value for tag `{', '.join(missing)}`")
        values = tuple(given[key] for key in self.tag_keys)
        if values not in self.series and len(self.series) >= SERIES_MAX:
            return ("other",) * len(self.tag_keys)
        return values

    def _check_tags(self, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            if key not in self.tag_keys:
                raise ValueError(
                    f"metric `{self.name}`: unknown tag `{key}`; expected {', '.join(self.tag_keys) or 'none'}"
                )
            if not isinstance(value, str):
                raise TypeError(f"metric `{self.name}`: tag `{key}`: expected a string, got `{value!r}`")

    def __reduce__(self) -> tuple[Any, ...]:
        # A metric in a closure is the same metric elsewhere: its counts stay with the process that counted.
        return _again, (type(self), self._arguments(), self._defaults)

    def _arguments(self) -> tuple[Any, ...]:
        return self.name, self.description, self.tag_keys


class Counter(Metric):
    """A sum that only grows."""

    kind = "counter"

    def inc(self, value: float = 1.0, tags: Mapping[str, str] | None = None) -> None:
        """Add `value`. Raises ValueError if it is not above 0."""
        if not isinstance(value, int | float):
            raise TypeError(f"value: expected a number, got `{type(value).__name__}`")
        if value <= 0:
            raise ValueError(f"value: expected a number above 0, got `{value}`")
        with self._lock:
            values = self._values(tags)
            self.series[values] = self.series.get(values, 0.0) + value


class Gauge(Metric):
    """A value that goes up and down; the last one counts."""

    kind = "gauge"

    def set(self, value: float | None, tags: Mapping[str, str] | None = None) -> None:
        """Set it; None leaves it as it is."""
        if value is None:
            return
        if not isinstance(value, int | float):
            raise TypeError(f"value: expected a number, got `{type(value).__name__}`")
        with self._lock:
            self.series[self._values(tags)] = float(value)


class Histogram(Metric):
    """How many observations fall under each of some bounds, and their sum."""

    kind = "histogram"

    def __init__(
        self,
        name: str,
        description: str = "",
        boundaries: Sequence[float] | None = None,
        tag_keys: Sequence[str] | None = None,
    ) -> None:
        if not boundaries:
            raise ValueError("boundaries: expected at least one, such as [0.1, 1, 10]")
        if any(bound <= 0 for bound in boundaries):
            raise ValueError(f"boundaries: expected numbers above 0, got `{list(boundaries)}`")
        self.boundaries = tuple(sorted(float(bound) for bound in boundaries))
        super().__init__(name, description, tag_keys)

    def observe(self, value: float, tags: Mapping[str, str] | None = None) -> None:
        """Count one observation."""
        if not isinstance(value, int | float):
            raise TypeError(f"value: expected a number, got `{type(value).__name__}`")
        with self._lock:
            values = self._values(tags)
            row = self.series.get(values)
            if row is None:
                row = self.series[values] = [0] * (len(self.boundaries) + 1) + [0.0]
            row[bisect.bisect_left(self.boundaries, value)] += 1
            row[-1] += value

    def _arguments(self) -> tuple[Any, ...]:
        return self.name, self.description, self.boundaries, self.tag_keys


class Registry:
    """Every metric of this process, and the thread that reports them."""

    def __init__(self) -> None:
        self.metrics: dict[str, Metric] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()

    def add(self, metric: Metric) -> None:
        """Take a metric in. A second one of the name and kind goes on counting where the first stands.

        Raises:
            ValueError: there is one of the name that is of another kind or has other tags.
        """
        with self._lock:
            known = self.metrics.get(metric.name)
            if known is not None:
                if type(known) is not type(metric) or known.tag_keys != metric.tag_keys:
                    raise ValueError(
                        f"metric `{metric.name}`: there is a {known.kind} of this name with tags {known.tag_keys}"
                    )
                metric.series, metric._lock = known.series, known._lock
            self.metrics[metric.name] = metric
            if self._thread is None:
                self._thread = threading.Thread(target=self._report, name="shoal-metrics", daemon=True)
                self._thread.start()
                atexit.register(self.report_now)

    def snapshot(self) -> list[dict[str, Any]]:
        """Return every metric as plain values; `series` holds [tag values, value] of each."""
        with self._lock:
            metrics = list(self.metrics.values())
        found = []
        for metric in metrics:
            with metric._lock:
                series = [
                    [list(values), list(one) if isinstance(one, list) else one] for values, one in metric.series.items()
                ]
            found.append(
                {
                    "name": metric.name,
                    "kind": metric.kind,
                    "help": metric.description,
                    "tag_keys": list(metric.tag_keys),
                    "boundaries": list(getattr(metric, "boundaries", ())),
                    "series": series,
                }
            )
        return found

    def report_now(self) -> None:
        """Tell the agent how everything stands; quiet without a cluster."""
        from shoal.runtime.client.api import is_initialized, session
        from shoal.wire import tasks as wire

        rows = [row for row in self.snapshot() if row["series"]]
        if not rows or not is_initialized():
            return
        try:
            here = session()
            args = {"process": here.core.process.hex(), "pid": os.getpid(), "rows": rows}
            here.core.request(wire.LOCAL, "put_metrics", args, lambda is_ok, value: None)
        except Exception:
            return  # the cluster is going; what was counted last is lost with it

    def _report(self) -> None:
        while not self._wake.wait(REPORT_S):
            self.report_now()


def _again(kind: type[Metric], arguments: tuple[Any, ...], defaults: dict[str, str]) -> Metric:
    metric = kind(*arguments)
    metric._defaults = dict(defaults)
    return metric


_registry = Registry()


def registry() -> Registry:
    """Return this process's metrics."""
    return _registry


__all__ = ["Counter", "Gauge", "Histogram", "Metric", "Registry", "registry"]
