"""What ran here, in bounded tables, for `list`, `summary` and `timeline`; and the watch over the node's memory.

Nothing here is on a task's path.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import psutil

from shoal.runtime.agent.asked import Asked, Waiting, may_wait
from shoal.runtime.agent.clients import Client
from shoal.runtime.agent.log_files import LogFiles
from shoal.runtime.agent.pool import Worker
from shoal.runtime.agent.ran import Ran, exit_type_of
from shoal.runtime.decide.metric_sums import MetricSums
from shoal.runtime.decide.row_filters import chosen
from shoal.wire import messages as told

if TYPE_CHECKING:
    from shoal.runtime.agent.main import Agent


IN_CASE_S, IN_CASE_PER_NODE_S = 1.0, 0.005
"""How often at most a node says what runs on it: this, and so much more for each other node."""
IN_CASE_TASKS = 400
"""How many tasks all nodes together tell of then, beyond those that run."""


class StateTables:
    """Finished and running tasks of this node's workers, and the numbers of the node."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.ran = Ran(agent.node_id)
        self._last_stats: dict[str, float] = {}
        self.metrics = MetricSums()
        self.asked = Asked(agent.node_id)
        self._told_last: Any = None
        self._told_at = 0.0
        self._left_at = 0
        self.log_files = LogFiles(agent.node_id, agent.log_dir, agent.settings.other_logs)

    def add_rows(self, client: Client, rows: list[Any], counts: list[Any], about: dict[str, Any]) -> None:
        """Take what a process did, as it tells it."""
        self.ran.add(client.process, client.pid, client.job, rows, counts, about)

    def worker_died(self, worker: Worker, why: str) -> None:
        """Note a worker that ended, for all to see if it had work."""
        if worker.job:  # one that was never used is nobody's concern
            kind = exit_type_of(why, was_told=bool(worker.kill_why), code=worker.code)
            self.ran.worker_ended(self._worker(worker), why, kind, self._agent.clock.wall_s())
        if worker.lease is not None or worker.actor is not None:
            event = {"worker": worker.process.hex(), "node": self._agent.node_id, "why": why}
            self._agent.head.send(told.Happened([("worker_died", event)]))

        self.asked.gone(worker.process)

    def workers(self) -> list[dict[str, Any]]:
        """Return the node's workers as rows, those that ended last."""
        living = [self._worker(worker) for worker in self._agent.pool.workers.values()]
        return living + self.ran.ended_workers()

    def _worker(self, worker: Worker) -> dict[str, Any]:
        return {
            "worker_id": worker.process.hex(),
            "is_alive": not worker.is_dead,
            "worker_type": "ACTOR" if worker.actor is not None else "WORKER",
            "exit_type": "",
            "node_id": self._agent.node_id,
            "ip": self._agent.host,
            "pid": worker.pid,
            "job_id": worker.job,
            "state": "busy" if worker.lease or worker.actor else ("idle" if worker.is_ready else "starting"),
        }

    def left_behind(self) -> told.LeftBehind:
        """Return what the head shall remember of this node when it is gone."""
        self._left_at = self.ran.version
        return told.LeftBehind(msgspec.msgpack.encode(self.ran.left_behind(self._living())))

    def joined(self) -> None:
        """This head has not heard what runs here."""
        self._told_last = None

    def _living(self) -> list[dict[str, Any]]:
        return [self._worker(worker) for worker in self._agent.pool.workers.values() if worker.job]

    def _tell_in_case(self) -> None:
        """Tell the head what runs here, if that has changed, in case this node is killed: then only it can say.

        The more nodes there are, the less each says: the head takes a few hundred words a second, and reads none.
        """
        peers, now = len(self._agent.peers), self._agent.clock.monotonic_s()
        workers = self._agent.pool.workers
        newest = (self.ran.version, len(workers), max((one.process for one in workers.values()), default=b""))
        pause_s = IN_CASE_S + IN_CASE_PER_NODE_S * peers
        if newest == self._told_last or self.ran.version == self._left_at or now - self._told_at < pause_s:
            return
        if not self._agent.head.is_joined:
            return
        self._told_last, self._told_at = newest, now
        rows = self.ran.left_behind(self._living(), tasks_max=IN_CASE_TASKS // (1 + peers), has_died=True)
        self._agent.head.send(told.LeftBehind(msgspec.msgpack.encode(rows)))

    def answer(self, what: str, args: dict[str, Any]) -> Any:
        """Return the answer to one question of the state API.

        Raises:
            KeyError: it is not known here.
        """
        limit, filters = int(args.get("limit", 10_000)), args.get("filters") or ()
        match what:
            case "workers" | "objects":
                rows = chosen(self.workers() if what == "workers" else self._agent.objects.rows(), filters)
                return {"rows": rows[:limit], "total": len(rows), "dropped": 0}
            case "usage":
                return {"free": self._agent.stock.free, "total": self._agent.stock.total}
            case "leases":
                return self._agent.leases.shown()
            case "logs":
                return self.log_files.answer(args)
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
        if message.what == "prints":  # they go before the answer, on the same way
            answer = told.Answered(message.rid, True, {"rows": []})
            self._agent.show_prints(str(message.args.get("job", "")), lambda: self._agent.head.send(answer))
            return
        if message.what in ("tasks", "task-counts"):
            self._tasks(message)
            return
        try:
            value = self.answer(message.what, message.args)
        except (KeyError, ValueError, OSError) as error:
            self._agent.head.send(told.Answered(message.rid, False, [type(error).__name__, str(error)]))
        else:
            self._agent.head.send(told.Answered(message.rid, True, value))

    def _tasks(self, message: told.Query) -> None:
        """Answer with what ran here, runs, and waits for its owners, who are asked first."""
        limit, filters = int(message.args.get("limit", 10_000)), message.args.get("filters") or ()
        is_counted = message.what == "task-counts"

        def answer(waiting: Waiting) -> None:
            if is_counted:
                rows = self.ran.counts(waiting.counts)
                value = {"rows": rows, "total": len(rows), "dropped": self.ran.dropped}
            else:
                ran = chosen(self.ran.tasks(), filters)
                # Of what ran, the newest; what is left out are the oldest.
                room = max(0, limit - len(waiting.rows))
                rows = [*(ran[-room:] if room else ()), *waiting.rows]
                value = {"rows": rows, "total": len(ran) + waiting.total, "dropped": self.ran.dropped}
            self._agent.head.send(told.Answered(message.rid, True, value))

        if not is_counted and not may_wait(filters):
            answer(Waiting(limit, filters))
        else:
            self.asked.ask(self._agent.clients(), 0 if is_counted else limit, filters, answer)

    def stats(self) -> dict[str, float]:
        """Return the node's numbers for the metrics, refreshed every tick."""
        return self._last_stats

    def tick(self) -> None:
        """Refresh the numbers."""
        self._tell_in_case()
        self._last_stats = {
            "tasks_finished": float(self.ran.finished),
            "tasks_failed": float(self.ran.failed),
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
