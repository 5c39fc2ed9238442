"""Known bugs, to be planted: a storm that does not find them is too mild.

Each is a small change of the real code, applied while a storm runs and taken back after it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from shoal.autoscaler.act import loop, observe, reconcile
from shoal.autoscaler.act.carry_out import Hands
from shoal.autoscaler.act.collect import Collector
from shoal.autoscaler.act.deadlines import without_expiry
from shoal.autoscaler.act.ledger import Change, Ledger
from shoal.autoscaler.act.loop import Autoscaler
from shoal.autoscaler.act.observe import Seen, Witnesses
from shoal.autoscaler.act.rows import Attempt
from shoal.autoscaler.decide.transitions import FACTS
from shoal.foundation.errors import Outcome
from shoal.model.instance import Fact, Instance, State

Changes = list[tuple[Any, Any, Any]]
"""What to replace: (owner, attribute or key, new value)."""

CALLER_ERRORS = (AssertionError, KeyError, ValueError, RuntimeError)
"""What a planted bug may raise through a storm; the storm counts it as found."""

BUGS: dict[str, Callable[[], Changes]] = {}
"""By name: a function that returns what to replace."""


@contextlib.contextmanager
def planted(name: str) -> Iterator[None]:
    """Plant a bug for the length of the context; no name plants none.

    Raises:
        KeyError: no such bug.
    """
    if not name:
        yield
        return
    changes = BUGS[name]()
    before = [(owner, key, _value(owner, key)) for owner, key, _ in changes]
    for owner, key, value in changes:
        _put(owner, key, value)
    try:
        yield
    finally:
        for owner, key, value in before:
            _put(owner, key, value)


def _value(owner: Any, key: Any) -> Any:
    return owner[key] if isinstance(owner, dict) else getattr(owner, key)


def _put(owner: Any, key: Any, value: Any) -> None:
    if isinstance(owner, dict):
        owner[key] = value
    else:
        setattr(owner, key, value)


def bug(make: Callable[[], Changes]) -> Callable[[], Changes]:
    """Register a planted bug under its function's name."""
    BUGS[make.__name__] = make
    return make


@bug
def release_is_never_called() -> Changes:
    """A release is committed and the provider never hears of it."""
    return [(Hands, "call_releases", lambda self: None)]


@bug
def debris_is_never_released() -> Changes:
    """Disks are found and left."""
    return [(Collector, "_release_debris", lambda self, gc_age_s: iter(()))]


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
def short_listing_counts_as_complete() -> Changes:
    """A listing that says it is short is taken as complete."""
    real = Witnesses.facts_of_listing

    def facts(self: Witnesses, provider: str, listing: Any, ledger: Ledger, ended_s: Any) -> Any:
        return real(self, provider, msgspec.structs.replace(listing, complete=True), ledger, ended_s)

    return [(Witnesses, "facts_of_listing", facts)]


@bug
def spend_is_forgotten_at_restart() -> Changes:
    """Money spent before a restart is not counted after it."""
    real = Ledger._read

    def read(self: Ledger, boot_id: str) -> None:
        real(self, boot_id)
        self.meta = msgspec.structs.replace(self.meta, spent_units=0, accrued_at_s=self._clock.monotonic_s())

    return [(Ledger, "_read", read)]


@bug
def what_is_committed_is_not_counted() -> Changes:
    """The planner is told that nothing costs anything now."""
    real = observe.snapshot

    def snapshot(*args: Any) -> Any:
        return msgspec.structs.replace(real(*args), committed_micro=0)

    return [(loop, "snapshot", snapshot)]


@bug
def what_is_asked_for_is_not_counted() -> Changes:
    """Machines that are requested or booting are left out of the snapshot."""
    real = observe.snapshot

    def snapshot(*args: Any) -> Any:
        seen = real(*args)
        asked = (State.REQUESTED, State.BOOTING)
        rows = tuple(row for row in seen.instances if row.state not in asked)
        return msgspec.structs.replace(seen, instances=rows)

    return [(loop, "snapshot", snapshot)]


@bug
def lost_never_returns() -> Changes:
    """A node that comes back from silence stays lost."""
    return [(FACTS, (State.LOST, Fact.JOINED), ".")]


@bug
def ready_that_falls_silent_is_not_noticed() -> Changes:
    """A dead node stays ready."""
    return [(FACTS, (State.READY, fact), ".") for fact in (Fact.SILENT, Fact.HALTED, Fact.ABSENT)]


@bug
def boot_has_no_deadline() -> Changes:
    """What waits for ever is never given up."""
    real = Autoscaler._all_steps

    def all_steps(self: Autoscaler, plan: Any, now_s: float) -> Any:
        steps = real(self, plan, now_s)
        return without_expiry(steps, self._ledger.instances, is_halted=self._witnesses.is_halted)

    return [(Autoscaler, "_all_steps", all_steps)]


@bug
def intent_is_written_after_the_call() -> Changes:
    """The rows of a launch are written after the call."""
    real = Ledger.commit

    def commit(self: Ledger, change: Any) -> None:
        late = [row for row in change.rows.values() if isinstance(row, Attempt) and not row.calls]
        if not late:
            real(self, change)
            return
        hidden = {key: row for key, row in change.rows.items() if isinstance(row, Instance)}
        for key in hidden:
            del change.rows[key]
        real(self, change)
        asyncio.get_running_loop().call_later(0.6, _write_late, real, self, hidden)

    return [(Ledger, "commit", commit)]


@bug
def busy_counts_as_empty() -> Changes:
    """A busy answer is taken for an empty node."""
    return [(FACTS, (State.DRAINING, Fact.BUSY), "drained")]


@bug
def release_skips_the_drain() -> Changes:
    """Nobody waits for the agent to say that it is empty."""
    real = Hands._drain

    async def drain(self: Hands, row: Instance, step: Any) -> bool:
        if not await real(self, row, step):
            return False
        seen = Seen(instance_id=row.instance_id, fact=Fact.EMPTIED, cause="planted")
        self._reconciler.apply([seen])
        return True

    return [(Hands, "_drain", drain)]


def _write_late(real: Any, ledger: Ledger, rows: dict[tuple[str, str], Instance]) -> None:
    change = Change()
    for row in rows.values():
        if ledger.instance(row.instance_id) is None:
            change.put(row)
    with contextlib.suppress(BaseException):  # the process may be dead by now
        real(ledger, change)
