"""The users' metrics of one node: what its processes said last, summed up. Pure.

Counters and histograms add up over processes, and what a process had counted stays when it ends, so that sums never
fall. Gauges are of one process each: they carry its pid and go with it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

METRICS_MAX = 1000
"""Most metrics of one node; further names are dropped, and counted in `dropped`."""

Series = dict[tuple[str, ...], Any]


class MetricSums:
    """Metrics by process, and the sums of those that ended."""

    def __init__(self) -> None:
        self._heads: dict[str, dict[str, Any]] = {}
        """Name to everything about a metric but its series."""
        self._live: dict[str, dict[str, Series]] = {}
        self._ended: dict[str, Series] = {}
        self._pids: dict[str, int] = {}
        self.dropped = 0

    def put(self, process: str, pid: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take what a process has counted since its start; replaces what it said before."""
        found: dict[str, Series] = {}
        for row in rows:
            name = str(row["name"])
            head = self._heads.get(name)
            if head is None:
                if len(self._heads) >= METRICS_MAX:
                    self.dropped += 1
                    continue
                head = self._heads[name] = {key: row[key] for key in ("name", "kind", "help", "tag_keys", "boundaries")}
            if (
                any(list(row[key]) != list(head[key]) for key in ("tag_keys", "boundaries"))
                or row["kind"] != head["kind"]
            ):
                self.dropped += 1  # two programs use one name for different things: the first one's meaning stays
                continue
            found[name] = {tuple(values): value for values, value in row["series"]}
        self._live[process] = found
        self._pids[process] = pid

    def keep_only(self, processes: Collection[str]) -> None:
        """Add up what processes that are gone had counted; their gauges go."""
        for process in [one for one in self._live if one not in processes]:
            del self._pids[process]
            for name, series in self._live.pop(process).items():
                if self._heads[name]["kind"] != "gauge":
                    _add(self._ended.setdefault(name, {}), series)

    def rows(self) -> list[dict[str, Any]]:
        """Return every metric of the node, by name."""
        found = []
        for name in sorted(self._heads):
            head = self._heads[name]
            series: Series = {}
            if head["kind"] == "gauge":
                for process, metrics in self._live.items():
                    pid = str(self._pids[process])
                    series.update({(*values, pid): value for values, value in metrics.get(name, {}).items()})
                head = {**head, "tag_keys": [*head["tag_keys"], "pid"]}
            else:
                _add(series, self._ended.get(name, {}))
                for metrics in self._live.values():
                    _add(series, metrics.get(name, {}))
            if series:
                found.append({**head, "series": [[list(values), value] for values, value in series.items()]})
        return found


def _add(into: Series, more: Series) -> None:
    for values, value in more.items():
        known = into.get(values)
        if isinstance(value, list | tuple):
            into[values] = [left + right for left, right in zip(known or [0] * len(value), value, strict=True)]
        else:
            into[values] = (known or 0) + value
