"""Jobs: one driver's life each, and what ends with it.

A job ends when its driver's home agent reports the death, when the driver says so, or, for a driver on another machine,
after `job_dead_s` without a word from it. `Jobs` keeps the records; the core lets actors, groups and demand follow.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from shoal.runtime.head.core.events import Outbox
from shoal.runtime.head.core.nodes import Nodes
from shoal.runtime.head.core.rows import JobRow, MetaRow
from shoal.wire.messages import Revoke

TOLD_AGAIN_MAX = 100


class Jobs:
    """Every running job, and the newest ended ones."""

    def __init__(self, out: Outbox, meta: MetaRow, nodes: Nodes) -> None:
        self._out, self._meta, self._nodes = out, meta, nodes
        self.running: dict[str, JobRow] = {}
        self.ended: OrderedDict[str, JobRow] = OrderedDict()
        self._by_process: dict[bytes, str] = {}
        self._remote_heard_s: dict[str, float] = {}

    def start(self, row: JobRow) -> JobRow:
        """Register a job (an empty id gets one) and return it; the same driver twice is the same job."""
        known = self._by_process.get(row.process) if row.process else None
        if known is not None and known in self.running:
            return self.running[known]
        if row.job and (found := self.running.get(row.job) or self.ended.get(row.job)) is not None:
            return found
        if not row.job:
            self._meta.job_serial += 1
            row.job = self._meta.job_serial.to_bytes(4, "little").hex()
            self._out.journal("meta", "meta", self._meta)
        row.began_wall_s = self._out.wall_s()
        self._take(row)
        self._out.journal("jobs", row.job, row)
        self._out.record("job_started", job=row.job, entrypoint=row.entrypoint)
        return row

    def end(self, job: str, why: str) -> bool:
        """End a job: every agent ends its leases. Return False if it had ended."""
        row = self.running.pop(job, None)
        if row is None:
            return False
        row.is_ended, row.why, row.ended_wall_s = True, why, self._out.wall_s()
        self._by_process.pop(row.process, None)
        self._remote_heard_s.pop(job, None)
        self.ended[job] = row
        self._out.journal("jobs", job, row)
        self._out.record("job_ended", job=job, why=why)
        while len(self.ended) > self._out.settings.dead_max:
            oldest, _ = self.ended.popitem(last=False)
            self._out.journal("jobs", oldest, None)
        for member in self._nodes.alive.values():
            if member.connection is None:
                member.jobs_ended.append(job)
            else:
                self._out.send(member.connection, Revoke(job, why), is_durable=True)
        return True

    def of_process(self, process: bytes) -> str | None:
        """Return the running job whose driver this is."""
        return self._by_process.get(process)

    def on_node(self, node_id: str) -> list[str]:
        """Return the running jobs whose drivers live on the node's machine."""
        return [row.job for row in self.running.values() if row.node_id == node_id and not row.is_remote]

    def heard(self, process: bytes) -> None:
        """A remote driver gave a sign of life."""
        job = self._by_process.get(process)
        if job is not None and job in self._remote_heard_s:
            self._remote_heard_s[job] = self._out.now_s

    def silent(self) -> list[str]:
        """Return the remote drivers' jobs whose time is over; none while the head settles."""
        if self._nodes.is_settling():
            return []
        limit_s = self._out.now_s - self._out.settings.job_dead_s
        return [job for job, heard_s in self._remote_heard_s.items() if heard_s <= limit_s]

    def namespace_of(self, job: str) -> str:
        """Return the job's namespace, empty if it is unknown."""
        row = self.running.get(job) or self.ended.get(job)
        return row.namespace if row else ""

    def restore(self, rows: dict[str, JobRow]) -> None:
        """Start from a journal: running jobs run on; those whose node is dead are for the core to end."""
        for row in sorted(rows.values(), key=lambda one: one.began_wall_s):
            if row.is_ended:
                self.ended[row.job] = row
                self._nodes.note_death(row.process, row.why)
            else:
                self._take(row)

    def newest_ended(self) -> list[str]:
        """Return the jobs that ended last: what a node must hear that was away since before this head started."""
        return list(self.ended)[-TOLD_AGAIN_MAX:]

    def rows(self) -> list[JobRow]:
        """Return every job known, oldest first."""
        return [*self.ended.values(), *self.running.values()]

    def _take(self, row: JobRow) -> None:
        self.running[row.job] = row
        if row.process:
            self._by_process[row.process] = row.job
        if row.is_remote:
            self._remote_heard_s[row.job] = self._out.now_s


def job_row(args: dict[str, Any], node_id: str) -> JobRow:
    """Return the row of a `start_job` request."""
    return JobRow(
        job=str(args.get("job") or ""),
        entrypoint=str(args.get("entrypoint") or ""),
        namespace=str(args.get("namespace") or ""),
        pid=int(args.get("pid") or 0),
        process=bytes(args.get("process") or b""),
        node_id=node_id,
        labels=dict(args.get("labels") or {}),
        is_remote=bool(args.get("is_remote")),
    )
