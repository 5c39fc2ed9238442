"""The head's core: one event in, a list of commands out. Sans I/O, so a thousand nodes live in one test.

Nothing here reads a clock, opens a socket or waits. The shell (`shoal.runtime.head.server`) brings messages in and
carries commands out; tests bring their own links and journal. docs/head.md tells what is promised to whom.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from shoal.foundation.errors import UserError
from shoal.model.snapshot import Work
from shoal.runtime.decide.demand_ledger import DemandLedger
from shoal.runtime.decide.head_spots import Spots
from shoal.runtime.head.core import listings
from shoal.runtime.head.core.actors import Actors
from shoal.runtime.head.core.asks import Asks
from shoal.runtime.head.core.events import (
    LOCAL,
    Closed,
    Command,
    Event,
    Hang,
    HeadSettings,
    Heard,
    JournalIs,
    Outbox,
    Publish,
    Tick,
)
from shoal.runtime.head.core.groups import Groups
from shoal.runtime.head.core.jobs import Jobs
from shoal.runtime.head.core.never_fits import NeverFits
from shoal.runtime.head.core.nodes import Member, Nodes
from shoal.runtime.head.core.orders import Orders
from shoal.runtime.head.core.queries import Queries
from shoal.runtime.head.core.remembered import Remembered
from shoal.runtime.head.core.rounds import Rounds
from shoal.runtime.head.core.rows import SCHEMA, JobRow, MetaRow
from shoal.runtime.head.core.standing import Keys, Requests
from shoal.runtime.head.core.view import CLASS, FLAGS, GANG, NODE, STANDING, Source, WorkView
from shoal.runtime.head.core.waits import FitsButWaits
from shoal.wire.messages import (
    ActorEnded,
    ActorStarted,
    Answered,
    Ask,
    Committed,
    Died,
    DrainAnswer,
    Happened,
    JobStarted,
    Join,
    Leaving,
    LeftBehind,
    Prepared,
    Printed,
    Refused,
    Report,
    Revoke,
    Tell,
)

CALM_TICK_S = 0.25
TICK_LEAST_S = 0.01
DEATHS_TOLD_NODES_MAX = 64
"""Up to so many nodes every process's death is told to all; beyond that borrowers ask (`is_alive`)."""

Restored = Mapping[str, Mapping[str, Any]]


class HeadCore:
    """Everything the head decides. `restored` is what a journal held: table to key to row."""

    def __init__(self, settings: HeadSettings, now_s: float, restored: Restored | None = None) -> None:
        restored = restored or {}
        self.out = Outbox(settings)
        self.out.now_s = now_s
        self.meta = _meta(settings, restored.get("meta", {}).get("meta"))
        self.spots = Spots()
        self.demand = DemandLedger(grant_ack_s=settings.grant_ack_s)
        self.view = WorkView(epoch=self.meta.epoch, starts=self.meta.starts, classes_max=settings.classes_max)
        self.nodes = Nodes(self.out, self.meta, self.spots, self.demand, self.view)
        self.orders = Orders(self.out, self.meta, self.nodes, self.view)
        self.jobs = Jobs(self.out, self.meta, self.nodes)
        self.groups = Groups(self.out, self.nodes, self.spots, self.view)
        self.actors = Actors(self.out, self.nodes, self.spots, self.groups, self.view)
        self.rounds = Rounds(self.out, self.nodes, self.spots, self.demand, self.groups, self.actors)
        self.requests = Requests(self.out, self.view)
        self.keys = Keys(self.out)
        self.queries = Queries(self.out, self.nodes)
        self.remembered = Remembered()
        self.waits = FitsButWaits(self.out, self.demand, self.spots, self.view)
        self.never_fits = NeverFits(self.out, self.nodes, self.demand, self.groups, self.actors)
        self.is_read_only = False
        self.report: dict[str, Any] = {}
        self.reported_s: float | None = None
        self._told_infeasible: set[str] = set()
        self.events_seen: Callable[[], list[dict[str, Any]]] = list
        """The shell's view of the event log, as rows for listings."""
        self._asks = Asks(self)
        self._started_s = now_s
        self._slow_s = now_s - 1.0
        self._hear: dict[type, Callable[[Member, Any], None]] = {
            Report: self._report,
            Ask: self._ask,
            ActorStarted: self.actors.started,
            ActorEnded: self.actors.ended,
            Prepared: self.groups.prepared,
            Committed: self.groups.committed,
            DrainAnswer: self.orders.answered,
            Died: self._died,
            JobStarted: self._job_started,
            Leaving: self._leaving,
            Happened: self._happened,
            Answered: self.queries.answered,
            Printed: self._printed,
            LeftBehind: lambda member, news: self.remembered.take(member.node_id, news),
        }
        self._watch_sources()
        self._restore(restored)
        self.out.journal("meta", "meta", self.meta)
        counts = {table: len(rows) for table, rows in restored.items()}
        self.out.record("head_started", epoch=self.meta.epoch, restored=counts)

    def react(self, event: Event) -> list[Command]:
        """Take one event and return what is to be done, in order."""
        out = self.out
        out.now_s = event.now_s
        match event:
            case Heard(connection=connection, message=message):
                self._heard(connection, message)
            case Closed(connection=connection):
                self._closed(connection)
            case Tick():
                self._tick()
            case JournalIs(is_full=is_full):
                self._journal_is(is_full)
        if self.rounds.is_due:
            self.rounds.run()
        if self.view.is_changed:
            self.view.is_changed = False
            out.add(Publish())
        return out.take()

    @property
    def tick_s(self) -> float:
        """How long the shell may wait until the next `Tick`."""
        has_refused = self.actors.queue.has_refused or self.groups.has_refused
        is_restless = self.rounds.is_due or has_refused
        return max(self.out.settings.place_round_s, TICK_LEAST_S) if is_restless else CALM_TICK_S

    # --------------------------------------------------------------------------------------- questions

    def work(self, now_s: float) -> Work:
        """Return everything the autoscaler may know, as one cut. Cost: everything."""
        self.out.now_s = max(self.out.now_s, now_s)
        return self.view.work(self.out.now_s)

    def home_of_drivers(self) -> list[str]:
        """Return where drivers of other hosts are served: at the agent beside this head."""
        return [text for one in self.nodes.alive.values() if one.row.is_head for text in one.row.address]

    def status(self) -> dict[str, Any]:
        """Return what `shoal status` shows."""
        now_s, settings = self.out.now_s, self.out.settings
        work = self.view.work(now_s)
        return {
            "cluster": settings.cluster_name,
            "uid": settings.cluster_uid,
            "epoch": self.meta.epoch,
            "version": self.view.version,
            "head_version": settings.version,
            "up_s": now_s - self._started_s,
            "is_settling": self.nodes.is_settling(),
            "missing": self.nodes.missing(),
            "is_read_only": self.is_read_only,
            "idle_s": work.idle_s,
            **listings.node_summary(self.nodes, now_s),
            "demand": listings.demand_rows(work, self.report),
            "standing": self.requests.shown(),
            "jobs": len(self.jobs.running),
            "session": {"number": self.meta.session, "owner": self.meta.session_owner},
            "config": {"generation": self.meta.config_generation, "hash": self.meta.config_hash},
            "autoscaler": self.report or None,
            "autoscaler_ran_ago_s": None if self.reported_s is None else now_s - self.reported_s,
        }

    # -------------------------------------------------------------------------------------- what parts share

    def end_job(self, job: str, why: str) -> None:
        """End a job with all that belongs to it."""
        if not self.jobs.end(job, why):
            return
        self.actors.job_ended(job)
        for group_id in self.groups.job_ended(job, self.actors.is_detached):
            self.actors.group_removed(group_id)
        for class_key in self.demand.drop_job(job):
            self.view.touch(CLASS, class_key)
        self.requests.job_ended(job)

    def forget(self, instance_id: str) -> None:
        """The instance's machine is released: its node is dead at once."""
        self.orders.forget(instance_id)
        member = self.nodes.by_instance.get(instance_id)
        if member is not None:
            self._end_node(member, "its machine was released", "left")

    def take_report(self, report: dict[str, Any]) -> None:
        """Keep the autoscaler's report, and tell owners once what nothing in the config could ever hold."""
        self.report, self.reported_s = report, self.out.now_s
        infeasible = {one["demand"]: one for one in report.get("unmet") or () if one.get("verdict") == "infeasible"}
        self._told_infeasible &= infeasible.keys()
        for key in infeasible.keys() - self._told_infeasible:
            self._told_infeasible.add(key)
            value = {"key": key, "why": str(infeasible[key].get("why") or "nothing that may be bought could hold it")}
            for owner, home, _, _ in self.demand.owners(key):
                self.nodes.tell(home, owner, "infeasible", value)
            for node_id, process in (*self.actors.queue.owners(key), *self.groups.waiting_owners(key)):
                self.nodes.tell(node_id, process, "infeasible", value)

    def notice(self, instance_id: str, what: str, deadline_s: float | None) -> None:
        """The provider will take the machine away: place nothing more there, and let everybody see it."""
        self.out.record("notice", instance=instance_id, what=what, deadline_s=deadline_s)
        member = self.nodes.by_instance.get(instance_id)
        if member is None:
            return
        member.notice = what
        member.notice_until_s = None if deadline_s is None else self.out.now_s + deadline_s
        self.nodes.refresh_open(member)
        self.view.touch(NODE, member.node_id)

    # -------------------------------------------------------------------------------------------- hearing

    def _heard(self, connection: int, message: Any) -> None:
        member = self.nodes.by_connection.get(connection)
        if member is not None and (hear := self._hear.get(type(message))) is not None:
            member.heard_s = self.out.now_s
            hear(member, message)
        elif isinstance(message, Join):
            self._join(connection, message)
        elif connection == LOCAL and isinstance(message, Ask):
            self._asks.answer(message, LOCAL, None)

    def _join(self, connection: int, join: Join) -> None:
        other = self.nodes.by_connection.get(connection)
        if other is not None and other.node_id != join.node_id:
            self._closed(connection)
        known = self.nodes.alive.get(join.node_id)
        was_missing = known is not None and known.is_missing
        taken = self.nodes.join(connection, join)
        if taken is None:
            return
        member, replaced = taken
        if replaced is not None:
            self._end_node(replaced, f"another agent joined for instance {join.instance_id}")
            self.nodes.by_instance[join.instance_id] = member
        for verdict in join.ended:
            self.actors.ended(member, verdict)
        self.actors.node_back(member, join.actors)
        self.groups.node_back(member, join.bundles)
        self.orders.node_back(member)
        for job in self.jobs.newest_ended() if was_missing else member.jobs_ended:
            self.out.send(connection, Revoke(job, "it ended while this node was out of touch"))
        member.jobs_ended = []
        if known is not None:
            # Its processes may have missed what they follow; nor does a restarted head know who followed what.
            self.out.send(connection, Tell(b"", "watch-again", None))

    def _closed(self, connection: int) -> None:
        member = self.nodes.closed(connection)
        if member is not None:
            self.groups.out_of_touch(member.node_id)
            self.queries.out_of_touch(member.node_id)

    def _report(self, member: Member, report: Report) -> None:
        self.nodes.report(member, report)
        for row in report.backlog:
            self.jobs.heard(row.owner)

    def _ask(self, member: Member, ask: Ask) -> None:
        if ask.process:
            self.jobs.heard(ask.process)
        self._asks.answer(ask, member.connection or LOCAL, member)

    def _died(self, member: Member, news: Died) -> None:
        if not self.nodes.note_death(news.process, news.why):
            return
        job = self.jobs.of_process(news.process)
        if job is not None:
            self.end_job(job, news.why or "its driver ended")
        for class_key in self.demand.drop_owner(news.process):
            self.view.touch(CLASS, class_key)
        self.actors.process_died(news.process)
        for group_id in self.groups.process_died(news.process):
            self.actors.group_removed(group_id)
        if news.is_driver or len(self.nodes.alive) <= DEATHS_TOLD_NODES_MAX:
            told = Tell(b"", "process-died", {"process": news.process, "why": news.why})
            for other in self.nodes.alive.values():
                if other is not member:
                    self.out.send(other.connection, told)

    def _job_started(self, member: Member, news: JobStarted) -> None:
        self.jobs.start(
            JobRow(
                job=news.job,
                entrypoint=news.entrypoint,
                namespace=news.namespace,
                pid=news.pid,
                process=news.process,
                node_id=member.node_id,
            )
        )

    def _leaving(self, member: Member, news: Leaving) -> None:
        self._end_node(member, news.why or "it left", "left")

    def _happened(self, member: Member, news: Happened) -> None:
        for kind, fields in news.events:
            if kind == "notice" and member.row.instance_id:
                self.notice(member.row.instance_id, str(fields.get("what") or "interruption"), fields.get("deadline_s"))
            else:
                self.out.record(kind, **{"node": member.node_id, **{str(name): one for name, one in fields.items()}})

    def _printed(self, member: Member, news: Printed) -> None:
        row = self.jobs.running.get(news.job)
        if row is not None:
            value = {"pid": news.pid, "where": news.where, "is_error": news.is_error, "lines": news.lines}
            self.nodes.tell(row.node_id, row.process, "printed", value)

    def _end_node(self, member: Member, why: str, verdict: str = "dead") -> None:
        node_id = member.node_id
        if node_id not in self.nodes.alive:
            return
        self.nodes.end(member, why, verdict)
        self.queries.out_of_touch(node_id)
        for job in self.jobs.on_node(node_id):
            self.end_job(job, f"its driver's node died: {why}")
        self.groups.node_died(node_id)
        self.actors.node_died(node_id, why)

    def _journal_is(self, is_full: bool) -> None:
        if is_full != self.is_read_only:
            self.is_read_only = is_full
            what = "the head's disk is full" if is_full else "the head's disk has room again"
            self.out.record("alarm", what="journal", why=what)
            self.view.touch(FLAGS)

    # --------------------------------------------------------------------------------------------- time

    def _tick(self) -> None:
        now_s = self.out.now_s
        self.spots.expire(now_s)
        if now_s - self._slow_s >= CALM_TICK_S - 0.001:
            self._slow_s = now_s
            self._slowly()
        self.rounds.try_refused()

    def _slowly(self) -> None:
        for class_key in self.demand.settle(self.out.now_s):
            self.view.touch(CLASS, class_key)
        self.nodes.settled()
        for member in self.nodes.silent():
            self._end_node(member, f"silent for {self.out.settings.node_dead_s:g} s")
        for job in self.jobs.silent():
            self.end_job(job, f"its driver was silent for {self.out.settings.job_dead_s:g} s")
        self.groups.expire()
        self.orders.expire()
        self.requests.expire()
        self.queries.expire()
        self.nodes.tell_news()
        self.waits.look()
        self.never_fits.look(may_grow=self.meta.session > 0)

    # ------------------------------------------------------------------------------------------- set-up

    def _watch_sources(self) -> None:
        view, actors, demand = self.view, self.actors, self.demand

        def one_class(key: str, now_s: float) -> Any:
            found = actors.queue.demand(key, now_s)
            return found if found is not None else demand.demand_of(key, now_s)

        view.sources = {
            NODE: Source(self.nodes.model, lambda: self.nodes.alive),
            CLASS: Source(one_class, lambda: [*actors.queue.keys(), *demand.waiting_keys()]),
            GANG: Source(self.groups.gang, self.groups.waiting_ids),
            STANDING: Source(self.requests.model, self.requests.keys),
        }
        view.flags = self._flags

    def _flags(self, now_s: float) -> tuple[bool, float | None]:
        has_work = bool(
            self.jobs.running or self.groups.has_waiting or not self.actors.queue.is_empty or self.demand.waiting_keys()
        )
        return self.nodes.is_settling(), self.nodes.idle_s(has_work)

    def _restore(self, restored: Restored) -> None:
        self.orders.restore(dict(restored.get("orders", {})))
        self.nodes.restore(dict(restored.get("nodes", {})), dict(restored.get("joins", {})))
        self.jobs.restore(dict(restored.get("jobs", {})))
        self.groups.restore(dict(restored.get("groups", {})))
        self.actors.restore(dict(restored.get("actors", {})))
        self.requests.restore(dict(restored.get("standing", {})))
        self.keys.restore(dict(restored.get("keys", {})))
        for row in tuple(self.jobs.running.values()):
            if row.node_id and row.node_id in self.nodes.dead and not row.is_remote:
                self.end_job(row.job, "its driver's node died")


def _meta(settings: HeadSettings, known: MetaRow | None) -> MetaRow:
    """Return the journal's meta row for this start.

    Raises:
        UserError: the journal is another cluster's, of a newer epoch, or of another schema.
    """
    if known is None:
        return MetaRow(uid=settings.cluster_uid, epoch=settings.epoch, join_keys={settings.epoch: settings.join_key})
    if known.uid != settings.cluster_uid:
        raise UserError(
            f"journal: expected cluster {settings.cluster_uid[:8]}, got one of {known.uid[:8]}",
            hint="every cluster has a directory of its own; remove or rename the file if it is a left-over",
        )
    if known.schema != SCHEMA:
        raise UserError(f"journal: expected schema {SCHEMA}, got {known.schema}", hint="use the version that wrote it")
    if known.epoch > settings.epoch:
        raise UserError(f"journal: it is of epoch {known.epoch}, this head of {settings.epoch}: a newer head was here")
    meta = msgspec.structs.replace(known, starts=known.starts + 1, join_keys=dict(known.join_keys))
    if settings.epoch > known.epoch:
        meta.epoch = settings.epoch
        meta.join_keys[settings.epoch] = settings.join_key
    return meta


__all__ = ["Hang", "HeadCore", "Refused"]
