"""What ran when, as events for chrome://tracing or Perfetto."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.wire.asks import What

if TYPE_CHECKING:
    from shoal.runtime.client.session import Session


def chrome_trace(session: Session) -> list[dict[str, Any]]:
    """Return one complete event (`ph: X`, times in microseconds) for each execution that the agents remember."""
    answer = session.core.ask(What.STATE, {"kind": "tasks", "filters": [], "limit": 10_000, "detail": True})
    events = []
    for row in answer["rows"]:
        started_s, ended_s = row.get("start_time_s"), row.get("end_time_s")
        if started_s is None or ended_s is None:
            continue
        events.append(
            {
                "cat": "task",
                "name": row.get("name", ""),
                "ph": "X",
                "pid": f"node:{row.get('node_id', '')[:8]}",
                "tid": f"worker:{row.get('worker_pid', '')}",
                "ts": started_s * 1e6,
                "dur": max(0.0, ended_s - started_s) * 1e6,
                "args": {"task_id": row.get("task_id", ""), "state": row.get("state", "")},
            }
        )
    return events
