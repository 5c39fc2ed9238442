"""The end of a cluster: release everything that carries its uid, and prove that nothing is left.

Works from any state, by tag alone: without head, without ledger, beside an autoscaler that is still buying (its
session and ledger are taken away first where they can be reached), after another `down` was interrupted. A provider
is done after two complete listings without anything of ours, begun at least `listing_lag_s` apart: by then a
machine that a last call started before we began must have shown itself (rule R3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import msgspec

from shoal.autoscaler.act.contracts import Head
from shoal.autoscaler.act.ledger import Ledger
from shoal.foundation.backoff import backoff_s
from shoal.foundation.clock import Clock
from shoal.foundation.errors import Outcome, ProviderError
from shoal.foundation.eventlog import EventLog, Kind
from shoal.model.instance import State
from shoal.model.launch import Listing, Machine, Phase
from shoal.providers.protocol import Provider

HEAD_WAIT_S = 2.0
POLL_S = (0.05, 5.0)


async def take_down(
    clock: Clock,
    providers: Mapping[str, Provider],
    log: EventLog,
    *,
    epoch: int = 0,
    limit_s: float = 600.0,
    say: Callable[[str], None] = lambda text: None,
    head: Head | None = None,
    ledger: Ledger | None = None,
    workers_only: bool = False,
) -> tuple[str, ...]:
    """Release all machines and debris at all providers; return what is left after `limit_s`, with the reason.

    Machines of an epoch above `epoch` (0: no limit) belong to a newer `up`: they are left and named. With `head` a
    session is opened so that a running autoscaler stops; with `ledger` the wish is durable and its rows are closed.
    """
    if head is not None:
        await _take_charge(head, log)
    if ledger is not None:
        with ledger.changing() as change:
            change.note(is_ending=True, epoch=max(epoch, ledger.meta.epoch))
    log.record(Kind.CLUSTER_ENDING, why="down")
    left = await asyncio.gather(
        *(
            _Sweep(clock, name, provider, log, epoch=epoch, say=say, workers_only=workers_only).run(limit_s)
            for name, provider in sorted(providers.items())
        )
    )
    found = tuple(name for names in left for name in names)
    if ledger is not None and not found:
        _close(ledger)
    return found


async def _take_charge(head: Head, log: EventLog) -> None:
    """Make every other session stale. A head that does not answer is no obstacle."""
    try:
        async with asyncio.timeout(HEAD_WAIT_S):
            await head.open_session("down")
    except Exception as error:
        log.record(Kind.SKIPPED, what="session", why=f"{type(error).__name__}: {error}")


def _close(ledger: Ledger) -> None:
    """Write off every row: two clean listings have proven that there is nothing."""
    with ledger.changing() as change:
        for row in ledger.instances.values():
            change.put(msgspec.structs.replace(row, state=State.GONE, why="down"))


class _Sweep:
    """Empties one provider."""

    def __init__(
        self,
        clock: Clock,
        name: str,
        provider: Provider,
        log: EventLog,
        *,
        epoch: int,
        say: Callable[[str], None],
        workers_only: bool,
    ) -> None:
        self._clock, self._name, self._provider, self._log = clock, name, provider, log
        self._epoch, self._say, self._workers_only = epoch, say, workers_only
        self._calls: dict[str, tuple[int, float]] = {}
        """By name: how often its release was called for, and when last."""
        self._errors: dict[str, str] = {}
        self._error = ""

    async def run(self, limit_s: float) -> list[str]:
        """Sweep until two clean listings, or return what is left and why."""
        lag_s = self._provider.traits.listing_lag_s
        poll_s = min(POLL_S[1], max(POLL_S[0], lag_s / 4))
        end_s = self._clock.monotonic_s() + limit_s
        clean_s: float | None = None
        names: list[str] = []
        newer: list[str] = []
        while True:
            began_s = self._clock.monotonic_s()
            listing = await self._listing()
            if listing is not None:
                names, newer = self._found(listing)
                if names or not listing.complete:
                    clean_s = None
                elif clean_s is None:
                    clean_s = began_s
                elif began_s - clean_s >= lag_s:
                    return [f"{name} (of a newer epoch; another `up` owns it)" for name in newer]
                await self._release(names)
            now_s = self._clock.monotonic_s()
            if now_s >= end_s:
                break
            pause_s = poll_s if clean_s is None else max(0.001, clean_s + lag_s - now_s)
            await asyncio.sleep(min(pause_s, max(0.001, end_s - now_s)))
        if self._error:
            return [*names, f"{self._name}: {self._error}"]
        return [f"{name} ({self._errors[name]})" if name in self._errors else name for name in [*names, *newer]]

    async def _listing(self) -> Listing | None:
        try:
            listing = await self._provider.machines()
        except ProviderError as error:
            self._error = f"it could not be listed: {error}"
            return None
        except Exception as error:
            self._error = f"it could not be listed: {type(error).__name__}: {error}"
            return None
        self._error = "" if listing.complete else "its listings stay incomplete"
        return listing

    def _found(self, listing: Listing) -> tuple[list[str], list[str]]:
        """Return the names that are ours to release and those of a newer owner."""
        ours: list[str] = []
        newer: list[str] = []
        for machine in listing.machines:
            if not _exists(machine) or (self._workers_only and machine.role != "worker"):
                continue
            (newer if self._epoch and machine.epoch > self._epoch else ours).append(machine.name)
        # Workers first: a head that goes last can still tell its agents.
        head_names = {one.name for one in listing.machines if one.role != "worker"}
        ours.sort(key=lambda name: (name in head_names, name))
        return ours + sorted(one.name for one in listing.debris), sorted(newer)

    async def _release(self, names: list[str]) -> None:
        now_s = self._clock.monotonic_s()
        due = [
            name
            for name in names
            if name not in self._calls
            or now_s >= self._calls[name][1] + backoff_s(self._calls[name][0], first_s=2.0, most_s=30.0)
        ]
        if not due:
            return
        for name in due:
            count = self._calls.get(name, (0, 0.0))[0]
            if not count:
                self._say(f"release {name}")
                self._log.record(Kind.RELEASE_CALLED, instance=name, name=name, why="down")
            self._calls[name] = (count + 1, now_s)
        try:
            answers = await self._provider.release(due)
        except Exception as error:
            self._errors.update(dict.fromkeys(due, f"{type(error).__name__}: {error}"))
            return
        for answer in answers:
            if answer.outcome is Outcome.ACCEPTED:
                self._errors.pop(answer.name, None)
            else:
                self._errors[answer.name] = str(answer.error or answer.outcome)


def _exists(machine: Machine) -> bool:
    return machine.is_billed or machine.phase in (Phase.PENDING, Phase.RUNNING)
