"""Planted bugs of what is done: calls made too early, twice, not at all, or against what the order table needs."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable
from typing import Any

import msgspec

from shoal.autoscaler.act import down
from shoal.autoscaler.act.carry_out import Hands
from shoal.autoscaler.act.collect import Collector
from shoal.autoscaler.act.deadlines import without_expiry
from shoal.autoscaler.act.ledger import Change, Ledger
from shoal.autoscaler.act.loop import Autoscaler
from shoal.autoscaler.act.observe import Seen
from shoal.autoscaler.act.rows import Attempt
from shoal.autoscaler.decide.transitions import RELEASE_NEEDS
from shoal.foundation import ids
from shoal.guard import rules
from shoal.model.instance import Fact, Instance, State
from shoal.testing.mutations import Changes, bug
from shoal.testing.sim_head import SessionHead


@bug
def release_is_never_called() -> Changes:
    """A release is committed and the provider never hears of it."""
    return [(Hands, "call_releases", lambda self: None)]


@bug
def debris_is_never_released() -> Changes:
    """Disks are found and left."""
    return [(Collector, "_release_debris", lambda self, gc_age_s: iter(()))]


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


@bug
def release_is_called_once() -> Changes:
    """A release call that did not work is never made again."""
    return [(Hands, "_is_due", lambda self, machine, now_s: machine.name not in self.releases)]


@bug
def release_does_not_ask_the_head() -> Changes:
    """What is written off is released although it may have joined a moment ago."""
    return [(RELEASE_NEEDS, state, "") for state in (State.REQUESTED, State.BOOTING, State.LOST)]


@bug
def release_shuts_nobody_out() -> Changes:
    """A machine that is being released may still join."""

    async def shut_out(self: Hands, instance_id: str) -> bool:
        return True

    return [
        (Hands, "shut_out", shut_out),
        *((RELEASE_NEEDS, state, "") for state in (State.REQUESTED, State.BOOTING, State.LOST)),
    ]


@bug
def release_trusts_a_lapsed_cordon() -> Changes:
    """What was empty once is taken for empty now."""
    return [(RELEASE_NEEDS, State.DRAINED, "")]


@bug
def a_drain_without_answer_is_done() -> Changes:
    """A drain that was not answered in time is taken for an empty node."""
    real = Hands._undrain

    async def undrain(self: Hands, row: Instance, why: str) -> bool:
        if row.state is not State.DRAINING:
            return await real(self, row, why)
        self._reconciler.apply([Seen(instance_id=row.instance_id, fact=Fact.EMPTIED, cause="planted")])
        return True

    return [(Hands, "_undrain", undrain)]


@bug
def replay_uses_a_new_token() -> Changes:
    """A launch without an answer is sent again as a new one."""
    real = Hands.replay

    def replay(self: Hands, attempts: Any) -> None:
        real(self, [msgspec.structs.replace(one, token=f"{one.token[:-1]}{one.calls}") for one in attempts])

    return [(Hands, "replay", replay)]


@bug
def nothing_is_replayed() -> Changes:
    """A launch without an answer is waited for until its deadline."""
    return [(Hands, "replay", lambda self, attempts: None)]


@bug
def tokens_differ_between_callers() -> Changes:
    """A launch token has something random in it."""
    real, number = ids.launch_token, itertools.count(1)

    def launch_token(cluster: str, instances: tuple[str, ...], attempt: int) -> str:
        return real(cluster, instances, attempt * 1000 + next(number))

    return [(ids, "launch_token", launch_token)]


@bug
def lost_ledger_is_not_rebuilt() -> Changes:
    """A new ledger begins empty, whatever the cloud lists."""

    def adopt_all(self: Collector, prices: Any) -> int:
        with self._ledger.changing() as change:
            change.note(serial_next=max(self._ledger.meta.serial_next, self._serial_base()), is_adopted=True)
        return 0

    return [(Collector, "adopt_all", adopt_all)]


@bug
def rebuilt_rows_cost_nothing() -> Changes:
    """What is adopted has no price."""
    real = Collector._adopt

    def adopt(self: Collector, change: Change, extra: Any, price: Any, **options: Any) -> None:
        real(self, change, extra, 0, **options)

    return [(Collector, "_adopt", adopt)]


@bug
def ids_begin_again_after_a_loss() -> Changes:
    """A rebuilt ledger counts its instances from one."""
    return [(Collector, "_serial_base", lambda self: 1)]


@bug
def machines_of_others_are_taken() -> Changes:
    """Role and epoch of a listed machine are not looked at."""
    return [(Collector, "_is_ours", lambda self, machine: True)]


@bug
def second_machine_of_one_intent_is_kept() -> Changes:
    """A listed machine whose instance has a row is taken for that instance's own."""
    real = Collector._settle

    async def settle(self: Collector, extra: Any, *args: Any) -> bool:
        if self._ledger.instance(extra.machine.instance_id) is not None:
            return True
        return await real(self, extra, *args)

    return [(Collector, "_settle", settle)]


@bug
def strays_are_only_reported() -> Changes:
    """A machine that nobody accounts for gets a row and is never released."""
    real = Hands._release

    async def release(self: Hands, row: Instance, why: str) -> bool:
        return row.state is not State.STRAY and await real(self, row, why)

    return [(Hands, "_release", release)]


@bug
def one_failure_ends_the_round() -> Changes:
    """An unexpected error of one step stops all others."""

    async def guarded(self: Hands, name: str, step: Awaitable[bool]) -> bool:
        return await step

    return [(Hands, "guarded", guarded)]


@bug
def an_older_session_goes_on() -> Changes:
    """Nobody tells an autoscaler that another one took charge."""
    return [(SessionHead, "_check", lambda self: None)]


@bug
def guard_has_no_lease() -> Changes:
    """A machine without contact runs for ever."""
    return [(rules, "ending", lambda spec, contact, now_s, *, is_busy: rules.Ending.NOT_YET)]


@bug
def down_is_done_at_the_first_clean_listing() -> Changes:
    """`down` does not wait for what a last call may still start."""

    real = down._Sweep.__init__

    def hasty(self: Any, clock: Any, name: str, provider: Any, *args: Any, **options: Any) -> None:
        real(self, clock, name, _Hasty(provider), *args, **options)

    return [(down._Sweep, "__init__", hasty)]


@bug
def down_trusts_a_short_listing() -> Changes:
    """`down` takes a listing that says it is short for all there is."""
    real = down._Sweep._listing

    async def listing(self: Any) -> Any:
        found = await real(self)
        return None if found is None else msgspec.structs.replace(found, complete=True)

    return [(down._Sweep, "_listing", listing)]


@bug
def down_leaves_the_debris() -> Changes:
    """`down` ends machines and leaves their disks."""
    real = down._Sweep._found

    def found(self: Any, listing: Any) -> Any:
        return real(self, msgspec.structs.replace(listing, debris=()))

    return [(down._Sweep, "_found", found)]


@bug
def down_does_not_take_charge() -> Changes:
    """`down` leaves the autoscaler running, which goes on buying."""

    async def take_charge(head: Any, log: Any) -> None:
        return None

    return [(down, "_take_charge", take_charge)]


def _write_late(real: Any, ledger: Ledger, rows: dict[tuple[str, str], Instance]) -> None:
    change = Change()
    for row in rows.values():
        if ledger.instance(row.instance_id) is None:
            change.put(row)
    with contextlib.suppress(BaseException):  # the process may be dead by now
        real(ledger, change)


class _Hasty:
    """A provider that claims to list everything at once."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.traits = msgspec.structs.replace(inner.traits, listing_lag_s=0.0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
