"""What ran here, in bounded tables, for `list`, `summary` and `timeline`; and the watch over the node's memory.

Workers send rows in batches about once a second; nothing here is on a task's path. The oldest rows go first.
"""

from __future__ import annotations

import collections
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from shoal.runtime.agent.clients import Client
from shoal.runtime.agent.pool import Worker
from shoal.runtime.decide.metric_sums import MetricSums
from shoal.wire import messages as told

if TYPE_CHECKING:
    from shoal.runtime.agent.main import Agent

ROWS_MAX = 20_000


class StateTables:
    """Finished and running tasks of this node's workers, and the numbers of the node."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.rows: collections.deque[dict[str, Any]] = collections.deque(maxlen=ROWS_MAX)
        self.pending: dict[bytes, list[dict[str, Any]]] = {}
        self.dropped = 0
        self.finished = self.failed = 0
        self._last_stats: dict[str, float] = {}
        self.metrics = MetricSums()

    def add_rows(self, client: Client, rows: list[Any], dropped: int) -> None:
        """Take what a process did: [task id, name, start, end, is_ok, actor, job, kind] each, or its waiting tasks."""
        self.dropped += dropped
        worker = client.pid
        for row in rows:
            task_id, name, started_s, ended_s, is_ok, actor, kind = row
            if is_ok:
                self.finished += 1
            else:
                self.failed += 1
            self.rows.append(
                {
                    "task_id": task_id,
                    "name": name,
                    "state": "FINISHED" if is_ok else "FAILED",
                    "type": kind,
                    "actor_id": actor,
                    "job_id": client.job,
                    "node_id": self._agent.node_id,
                    "worker_pid": worker,
                    "worker_id": client.process.hex(),
                    "start_time_s": started_s,
                    "end_time_s": ended_s,
                }
            )

    def worker_died(self, worker: Worker, why: str) -> None:
        """Note a worker that ended while it had work."""
        if worker.lease is not None or worker.actor is not None:
            self._agent.head.send(
                told.Happened(
                    [("worker_died", {"worker": worker.process.hex(), "node": self._agent.node_id, "why": why})]
                )
            )

    def workers(self) -> list[dict[str, Any]]:
        """Return the node's workers as rows."""
        return [
            {
                "worker_id": worker.process.hex(),
                "pid": worker.pid,
                "node_id": self._agent.node_id,
                "job_id": worker.job,
                "is_alive": not worker.is_dead,
                "worker_type": "ACTOR" if worker.actor is not None else "WORKER",
                "state": "busy" if worker.lease or worker.actor else ("idle" if worker.is_ready else "starting"),
            }
            for worker in self._agent.pool.workers.values()
        ]

    def answer(self, what: str, args: dict[str, Any]) -> Any:
        """Return the answer to one question of the state API.

        Raises:
            KeyError: it is not known here.
        """
        limit = int(args.get("limit", 10_000))
        match what:
            case "tasks":
                rows = list(self.rows)[-limit:]
                return {"rows": rows + self._waiting(), "total": len(self.rows), "dropped": self.dropped}
            case "workers":
                return {"rows": self.workers(), "total": len(self._agent.pool.workers), "dropped": 0}
            case "objects":
                return {"rows": self._agent.objects.rows(), "total": 0, "dropped": 0}
            case "usage":
                return {"free": self._agent.stock.free, "total": self._agent.stock.total}
            case "leases":
                return self._agent.leases.shown()
            case "logs":
                return self._logs(args)
            case "put_metrics":
                self.metrics.put(args["process"], args["pid"], args["rows"])
                return None
            case "metrics":
                agent = self._agent
                self.metrics.keep_only({one.hex() for one in (*agent.pool.by_process, *agent._clients)})
                rows = self.metrics.rows()
                return {"rows": rows, "total": len(rows), "dropped": self.metrics.dropped}
        raise KeyError(f"unknown question `{what}`")

    def on_query(self, message: told.Query) -> None:
        """Answer the head."""
        try:
            value = self.answer(message.what, message.args)
        except (KeyError, ValueError, OSError) as error:
            self._agent.head.send(told.Answered(message.rid, False, [type(error).__name__, str(error)]))
        else:
            self._agent.head.send(told.Answered(message.rid, True, value))

    def _waiting(self) -> list[dict[str, Any]]:
        rows = []
        for client in self._agent.clients():
            for row in client.classes.values():
                if row.wanted and client.kind != "owner":
                    rows.append(
                        {
                            "task_id": "",
                            "name": row.spec.get("name", ""),
                            "state": "PENDING_NODE_ASSIGNMENT",
                            "type": "NORMAL_TASK",
                            "job_id": row.job,
                            "count": row.wanted,
                            "required_resources": row.amounts,
                        }
                    )
        return rows

    def _logs(self, args: dict[str, Any]) -> Any:
        directory = self._agent.log_dir
        name = args.get("name")
        if not name:
            files = sorted(path.name for path in directory.iterdir() if path.is_file())
            return {"rows": [{"name": one, "node_id": self._agent.node_id} for one in files], "total": len(files)}
        path = (directory / str(name)).resolve()
        if path.parent != directory.resolve():
            raise ValueError(f"log file: expected a name in the log directory, got `{name}`")
        size = path.stat().st_size
        start = int(args.get("offset", max(0, size - int(args.get("tail_bytes", 64 * 1024)))))
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(int(args.get("bytes_max", 1 << 20)))
        return {"data": data, "offset": start + len(data), "size": size}

    def stats(self) -> dict[str, float]:
        """Return the node's numbers for the metrics, refreshed every tick."""
        return self._last_stats

    def tick(self) -> None:
        """Refresh the numbers."""
        self._last_stats = {
            "tasks_finished": float(self.finished),
            "tasks_failed": float(self.failed),
            "workers": float(len(self._agent.pool.workers)),
        }

    async def watch_memory(self) -> None:
        """Kill the newest retriable task when the node is nearly out of memory."""
        threshold = self._agent.settings.memory_threshold
        if threshold >= 1.0:
            return
        used, total = memory_now()
        if used < total * threshold:
            return
        victim = self._victim()
        if victim is None:
            return
        why = (
            f"out of memory: the node uses {used / 2**30:.2f} of {total / 2**30:.2f} GiB "
            f"(limit {threshold:.0%}); the newest task was killed"
        )
        self._agent.head.send(
            told.Happened([("out_of_memory", {"node": self._agent.node_id, "worker": victim.process.hex()})])
        )
        self._agent.pool.kill(victim, why)

    def _victim(self) -> Worker | None:
        """Return the worker of the newest lease, retriable ones first; then the newest restartable actor."""
        leases = [one for one in self._agent.leases.by_number.values() if one.worker is not None]
        if leases:
            best = max(leases, key=lambda one: (one.row.spec.get("is_retriable", True), one.granted_at))
            return best.worker
        actors = [one for one in self._agent.actors.by_id.values() if one.worker is not None]
        return max(actors, key=lambda one: one.start.options.get("max_restarts", 0) != 0).worker if actors else None


def memory_now() -> tuple[int, int]:
    """Return (used, total) bytes of our control group where one limits us, else of the machine."""
    memory = psutil.virtual_memory()
    used, total = int(memory.total - memory.available), int(memory.total)
    try:
        with Path("/sys/fs/cgroup/memory.max").open() as file:
            limit = file.read().strip()
        if limit != "max" and int(limit) < total:
            with Path("/sys/fs/cgroup/memory.current").open() as file:
                return int(file.read()), int(limit)
    except (OSError, ValueError):
        pass
    return used, total
