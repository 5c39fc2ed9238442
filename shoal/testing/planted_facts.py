"""Planted bugs of what is heard: a listing, an answer or the head is believed too much, too little, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from shoal.autoscaler.act import reconcile
from shoal.autoscaler.act.carry_out import Hands
from shoal.autoscaler.act.ledger import Ledger
from shoal.autoscaler.act.loop import Autoscaler
from shoal.autoscaler.act.observe import Seen, Witnesses
from shoal.autoscaler.act.reconcile import Reconciler
from shoal.autoscaler.decide import draft
from shoal.autoscaler.decide.transitions import FACTS
from shoal.foundation.errors import Outcome
from shoal.model.instance import Fact, State
from shoal.providers.sim.cloud import SimCloud
from shoal.testing.mutations import Changes, bug


@bug
def absence_is_never_believed() -> Changes:
    """No listing ever ends a row."""
    return [(Witnesses, "_absences", lambda self, *args: iter(()))]


@bug
def absence_is_believed_at_once() -> Changes:
    """One listing without a machine ends its row, whatever the lag."""

    def absences(
        self: Witnesses, provider: str, listing: Any, ledger: Ledger, here: set[str], ended_s: Any
    ) -> Iterator[Seen]:
        for row in ledger.instances.values():
            if row.offer.provider == provider and not (row.instance_id in here or self.in_contact(row.instance_id)):
                yield Seen(instance_id=row.instance_id, fact=Fact.ABSENT, cause="planted")

    return [(Witnesses, "_absences", absences)]


@bug
def short_listing_counts_as_complete() -> Changes:
    """A listing that says it is short is taken as complete."""
    real = Witnesses.facts_of_listing

    def facts(self: Witnesses, provider: str, listing: Any, ledger: Ledger, ended_s: Any) -> Any:
        return real(self, provider, msgspec.structs.replace(listing, complete=True), ledger, ended_s)

    return [(Witnesses, "facts_of_listing", facts)]


@bug
def unknown_counts_as_refused() -> Changes:
    """A lost answer is taken for a refusal."""
    real = reconcile._answered

    def answered(attempt: Any, answer: Any, outcome: Outcome) -> Any:
        return real(attempt, answer, Outcome.REFUSED if outcome is Outcome.UNKNOWN else outcome)

    return [(reconcile, "_answered", answered)]


@bug
def accepted_release_is_the_end() -> Changes:
    """An accepted release is taken for an ended machine."""
    real = Hands._call_release

    async def call_release(self: Hands, provider: str, names: Any) -> None:
        await real(self, provider, names)
        for name in names:
            known = self._ledger.machines.get(name)
            if known is not None and self.releases[name].outcome == Outcome.ACCEPTED:
                seen = Seen(instance_id=known.instance_id, fact=Fact.ABSENT, cause="planted")
                self._reconciler.apply([seen])

    return [(Hands, "_call_release", call_release)]


@bug
def lost_never_returns() -> Changes:
    """A node that comes back from silence stays lost."""
    return [(FACTS, (State.LOST, Fact.JOINED), ".")]


@bug
def ready_that_falls_silent_is_not_noticed() -> Changes:
    """A dead node stays ready."""
    return [(FACTS, (State.READY, fact), ".") for fact in (Fact.SILENT, Fact.HALTED, Fact.ABSENT)]


@bug
def busy_counts_as_empty() -> Changes:
    """A busy answer is taken for an empty node."""
    return [(FACTS, (State.DRAINING, Fact.BUSY), "drained")]


@bug
def absence_ignores_the_listing_lag() -> Changes:
    """Two listings without a machine end its row, however soon after its launch."""

    def traits_without_lag(self: Witnesses, traits: Any) -> None:
        real(self, {name: msgspec.structs.replace(one, listing_lag_s=0.0) for name, one in traits.items()})

    real = Witnesses.__init__
    return [(Witnesses, "__init__", traits_without_lag)]


@bug
def absence_ignores_calls_under_way() -> Changes:
    """Listings prove the absence of a machine whose launch call has not ended."""
    return [(Hands, "create_ended_s", lambda self: {})]


@bug
def late_refusals_are_not_read() -> Changes:
    """A launch that was accepted and failed afterwards is waited for."""
    return [(Witnesses, "_refusals", lambda self, *args: iter(()))]


@bug
def refused_repetition_counts_as_refusal() -> Changes:
    """The refusal of a repeated call is taken for the first one's."""
    real = Reconciler.launched

    def launched(self: Reconciler, attempt: Any, answer: Any, *, is_first: bool) -> None:
        real(self, attempt, answer, is_first=True)

    return [(Reconciler, "launched", launched)]


@bug
def the_rest_of_a_batch_is_waited_for() -> Changes:
    """A batch that gave fewer machines than asked says nothing about the rest."""
    return [(reconcile, "_rest_is_refused", lambda error: False)]


@bug
def busy_answer_is_not_heard() -> Changes:
    """A node that answers `busy` stays draining."""
    return [(FACTS, (State.DRAINING, Fact.BUSY), ".")]


@bug
def halted_counts_as_ended() -> Changes:
    """A machine that is listed as stopped is taken for one that does not exist."""
    return [(FACTS, (state, Fact.HALTED), "gone") for state in (State.BOOTING, State.READY, State.LOST)]


@bug
def halted_waits_like_silent() -> Changes:
    """A stopped machine is waited for as if its network were cut."""
    real = Reconciler._after

    def after(self: Reconciler, before: Any, seen: Seen) -> Any:
        row = real(self, before, seen)
        return msgspec.structs.replace(row, why="silent") if row.state is State.LOST else row

    return [(Reconciler, "_after", after)]


@bug
def gone_that_is_listed_stays_gone() -> Changes:
    """A machine that was written off and shows up again is nobody's."""
    return [(FACTS, (State.GONE, fact), ".") for fact in (Fact.LISTED, Fact.HALTED)]


@bug
def gone_that_joins_stays_gone() -> Changes:
    """A node that joins after it was written off is nobody's."""
    return [(FACTS, (State.GONE, Fact.JOINED), ".")]


@bug
def a_settling_head_is_believed() -> Changes:
    """The head's word counts as soon as it is back: what it has not heard of yet is gone."""
    real = Witnesses.hear_work

    def hear_work(self: Witnesses, work: Any, heard_s: float, *, is_first: bool = False) -> None:
        nodes = tuple(node for node in work.nodes if not node.is_missing)
        work = msgspec.structs.replace(work, nodes=nodes, is_settling=False)
        real(self, work, heard_s, is_first=is_first)

    return [(Witnesses, "hear_work", hear_work)]


@bug
def idle_nodes_go_while_the_head_settles() -> Changes:
    """A restarted head's nodes are drained as if nothing had been."""
    return [(draft, "_why_nothing_drains", lambda snapshot, is_mass_loss: "")]


@bug
def sizes_are_not_learned() -> Changes:
    """A machine that joins smaller than promised is bought again for the same work."""
    return [(Reconciler, "_learn_size", lambda self, *args: None)]


@bug
def notices_are_not_passed_on() -> Changes:
    """An announced interruption is not seen."""
    real = Witnesses.hear_work

    def hear_work(self: Witnesses, work: Any, heard_s: float, *, is_first: bool = False) -> None:
        nodes = tuple(msgspec.structs.replace(node, notice="") for node in work.nodes)
        real(self, msgspec.structs.replace(work, nodes=nodes), heard_s, is_first=is_first)

    return [(Witnesses, "hear_work", hear_work), (Witnesses, "notice_of", lambda self, instance_id: None)]


@bug
def plans_before_it_has_listed() -> Changes:
    """A start does not wait for the first complete listing."""
    real = Autoscaler._why_not_plan

    def why_not_plan(self: Autoscaler) -> str:
        why = real(self)
        return "" if why.startswith("the first complete listing") and self._witnesses.markets else why

    return [
        (Autoscaler, "_why_not_plan", why_not_plan),
        (Witnesses, "is_listed", property(lambda self: bool(self.markets))),
    ]


@bug
def running_counts_as_waiting_too() -> Changes:
    """Usage and demand are read one after the other: what runs is still in the queue."""
    real = Witnesses.hear_work

    def hear_work(self: Witnesses, work: Any, heard_s: float, *, is_first: bool = False) -> None:
        classes = tuple(
            msgspec.structs.replace(one, waiting=one.waiting + one.running_slots, running_slots=0)
            for one in work.classes
        )
        real(self, msgspec.structs.replace(work, classes=classes), heard_s, is_first=is_first)

    return [(Witnesses, "hear_work", hear_work)]


@bug
def a_refusal_waits_for_the_next_round() -> Changes:
    """A refused launch is no reason to plan at once."""
    real = Hands.take_answers

    def take_answers(self: Hands) -> bool:
        real(self)
        return False

    def apply(self: Reconciler, facts: Any) -> int:
        told(self, facts)
        return 0

    told = Reconciler.apply
    return [(Hands, "take_answers", take_answers), (Reconciler, "apply", apply)]


@bug
def tags_are_not_written() -> Changes:
    """Machines do not say whose instance they are."""
    real = SimCloud._as_listed

    def as_listed(self: SimCloud, machine: Any, now_s: float) -> Any:
        return msgspec.structs.replace(real(self, machine, now_s), instance_id="", node_type="")

    return [(SimCloud, "_as_listed", as_listed)]
