"""Facts and answers into the ledger: the only place where a witness's word changes a row.

Facts go through the fact table and never raise. What a transition brings along is written in the same commit:
the node's real size, an offer's success or failure, the end of a hold. Every change of state is an event.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from shoal.autoscaler.act.learn import Learned
from shoal.autoscaler.act.ledger import Change, Ledger
from shoal.autoscaler.act.observe import Seen, Witnesses
from shoal.autoscaler.act.rows import Attempt, MachineRow
from shoal.autoscaler.decide.transitions import after_fact
from shoal.foundation.clock import Clock
from shoal.foundation.errors import Outcome, ProviderError
from shoal.foundation.eventlog import EventLog, Kind
from shoal.model.instance import COSTS, Fact, Instance, State
from shoal.model.launch import Answer, Machine, Phase
from shoal.model.snapshot import UsableMemory


class Reconciler:
    """Applies facts; remembers the last failures for the report."""

    def __init__(self, clock: Clock, ledger: Ledger, witnesses: Witnesses, learned: Learned, log: EventLog) -> None:
        self._clock, self._ledger, self._witnesses = clock, ledger, witnesses
        self._learned, self._log = learned, log
        self.ended: list[Instance] = []
        """Rows that became gone since somebody last emptied this list: the head should forget their nodes."""

    def apply(self, facts: Iterable[Seen]) -> int:
        """Apply facts in one commit and return how many rows changed their state in a way no plan has counted on."""
        change = Change()
        moves: list[tuple[Instance, Instance, Seen]] = []
        for seen in facts:
            before = change.instance(seen.instance_id) or self._ledger.instance(seen.instance_id)
            if before is None:
                continue
            after = self._after(before, seen)
            if seen.machine is not None:
                after = self._known(change, after, seen.machine)
            if after != before:
                change.put(after)
            if after.state is not before.state:
                moves.append((before, after, seen))
                self._consequences(change, before, after, seen)
        if change:
            self._ledger.commit(change)
        for before, after, seen in moves:
            self._tell(before, after, seen)
        return sum(1 for before, after, _ in moves if (before.state, after.state) not in _EXPECTED)

    def launched(self, attempt: Attempt, answer: Answer, *, is_first: bool) -> None:
        """Write down how a launch call ended; a refusal ends its instances, unless it answers a repeated call.

        A refused repetition proves nothing about the first call, which may have worked: it stays unknown until
        a listing shows the machine or proves its absence.
        """
        now_s = self._clock.monotonic_s()
        outcome = answer.outcome
        if outcome is Outcome.REFUSED and not is_first:
            outcome = Outcome.UNKNOWN
        error = answer.error
        with self._ledger.changing() as change:
            change.put(
                msgspec.structs.replace(
                    attempt,
                    calls=attempt.calls + 1,
                    called_s=now_s if attempt.called_s is None else attempt.called_s,
                    ended_s=now_s,
                    outcome=outcome.value,
                    code=error.code if error else "",
                    error=str(error) if error else "",
                )
            )
            if error is not None:
                self._learned.failed(change, attempt.offer, attempt.node_type, error)
        self._log.record(
            Kind.LAUNCH_ANSWERED,
            token=attempt.token,
            instances=attempt.instance_ids,
            offer=str(attempt.offer),
            outcome=outcome.value,
            code=error.code if error else "",
            retry=error.retry.value if error else "",
            error=str(error) if error else "",
        )
        self.apply(_answered(attempt, answer, outcome))

    def _after(self, before: Instance, seen: Seen) -> Instance:
        state = after_fact(before.state, seen.fact)
        if state is before.state:
            if state is State.LOST and seen.fact is Fact.HALTED and not before.why.startswith(seen.fact):
                # Silence is mostly noticed first; that its machine has stopped ends the wait for its return.
                return msgspec.structs.replace(before, why=f"{seen.fact}: {seen.cause}")
            return before
        now_s = self._clock.monotonic_s()
        fields: dict[str, object] = {"state": state, "since_s": now_s}
        if state is State.READY:
            if seen.fact is Fact.JOINED:
                fields["ready_s"] = now_s
            fields |= {"drain_order": "", "drain_deadline_s": None, "drain_serial": None, "error": ""}
        if state is State.LOST:
            fields["why"] = f"{seen.fact}: {seen.cause}"
        if seen.error is not None:
            fields["error"] = f"{seen.error.code}: {seen.error}"
        elif seen.fact in (Fact.HALTED, Fact.SILENT, Fact.ABSENT) and before.state is not State.RELEASING:
            fields["error"] = seen.cause
        return msgspec.structs.replace(before, **fields)

    def _known(self, change: Change, row: Instance, machine: Machine) -> Instance:
        """Remember what the cloud calls the instance's machine."""
        known = self._ledger.machines.get(machine.name)
        if known is None or known.machine_id != machine.machine_id:
            change.put(
                MachineRow(
                    name=machine.name,
                    instance_id=row.instance_id,
                    provider=row.offer.provider,
                    machine_id=machine.machine_id,
                    token=machine.token,
                    seen_s=self._clock.monotonic_s(),
                )
            )
        if machine.machine_id and row.machine_id != machine.machine_id:
            return msgspec.structs.replace(row, machine_id=machine.machine_id)
        return row

    def _consequences(self, change: Change, before: Instance, after: Instance, seen: Seen) -> None:
        if seen.fact is Fact.JOINED and before.state in (State.REQUESTED, State.BOOTING):
            self._learned.joined(change, after)
            if seen.node is not None and after.offer.machine_type:
                self._learn_size(change, after, seen.node.total)
        if seen.fact is Fact.REFUSED and seen.error is not None and seen.cause == "refused later":
            self._learned.failed(change, after.offer, after.node_type, seen.error)
        if before.state is State.BOOTING and after.state is State.LOST:
            self._learned.never_joined(change, after, seen.cause)
        if before.state in (State.READY, State.DRAINING) and seen.fact in (Fact.HALTED, Fact.ABSENT):
            self._learned.interrupted(change, after, seen.cause)
        if after.state is State.GONE:
            self.ended.append(after)
            if hold := self._ledger.holds.get(after.instance_id):
                change.drop(hold)
            recent = self._ledger.recent.get(after.instance_id)
            if recent is not None and recent.released_s is None:
                now_s = self._clock.monotonic_s()
                change.put(msgspec.structs.replace(recent, released_s=now_s, why=seen.cause))
            for machine in self._ledger.machines_of(after.instance_id):
                change.drop(machine)

    def _learn_size(self, change: Change, row: Instance, total: dict[str, int]) -> None:
        """Keep what nodes of this machine type really have: the smallest that ever joined."""
        key = f"{row.node_type}|{row.offer.machine_type}"
        known = self._ledger.usable.get(key)
        sizes = {name: amount for name, amount in total.items() if not name.startswith("node:")}
        if known is not None:
            names = known.resources.keys() & sizes.keys()
            sizes = {name: min(known.resources[name], sizes[name]) for name in sorted(names)}
            if sizes == known.resources:
                return
        change.put(UsableMemory(node_type=row.node_type, machine_type=row.offer.machine_type, resources=sizes))

    def _tell(self, before: Instance, after: Instance, seen: Seen) -> None:
        self._log.record(
            Kind.INSTANCE_STATE,
            instance=after.instance_id,
            before=before.state.value,
            after=after.state.value,
            cause=seen.fact.value,
            why=seen.cause,
        )
        if seen.fact is Fact.REFUSED and seen.cause == "refused later" and seen.error is not None:
            self._log.record(Kind.LAUNCH_REFUSED_LATE, token=after.token, code=seen.error.code, error=str(seen.error))
        if after.state is State.STRAY:
            self._log.record(Kind.STRAY_FOUND, name=after.instance_id, token=after.token)
        if after.state is State.GONE:
            self._witnesses.forget(after.instance_id)


_EXPECTED = frozenset(
    {
        (State.REQUESTED, State.BOOTING),
        (State.REQUESTED, State.READY),
        (State.BOOTING, State.READY),
    }
)
"""A machine on its way: every plan counts its capacity from the launch on."""


def committed_micro(rows: Sequence[Instance]) -> int:
    """Return the price per hour of all rows that may be billed."""
    return sum(row.price_micro or 0 for row in rows if row.state in COSTS)


def _answered(attempt: Attempt, answer: Answer, outcome: Outcome) -> list[Seen]:
    """Return what a launch answer says about each instance of its attempt."""
    if outcome is Outcome.REFUSED:
        return [
            Seen(instance_id=name, fact=Fact.REFUSED, cause="refused", error=answer.error)
            for name in attempt.instance_ids
        ]
    shown = {_instance_of(machine, attempt): machine for machine in answer.machines}
    facts = [
        Seen(instance_id=name, fact=Fact.LISTED, cause="launch answered", machine=machine)
        for name, machine in sorted(shown.items())
        # A repeated call may answer with a machine that has ended meanwhile: listings tell of that.
        if name and machine.phase in (Phase.PENDING, Phase.RUNNING)
    ]
    if outcome is Outcome.ACCEPTED and _rest_is_refused(answer.error):
        facts.extend(
            Seen(instance_id=name, fact=Fact.REFUSED, cause="refused", error=answer.error)
            for name in attempt.instance_ids
            if name not in shown
        )
    return facts


def _rest_is_refused(error: ProviderError | None) -> bool:
    return error is not None and error.outcome is Outcome.REFUSED


def _instance_of(machine: Machine, attempt: Attempt) -> str:
    if machine.instance_id in attempt.instance_ids:
        return machine.instance_id
    if 0 <= machine.index < len(attempt.instance_ids):
        return attempt.instance_ids[machine.index]
    return ""
