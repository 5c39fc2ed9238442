"""Asking providers what there is and what is sold: when, and never two at a time of one provider.

Listings are frequent while something is unsettled at a provider and rare when nothing is: at most a tenth of a call
per machine and minute. The answers wait in a box until the loop takes them; nothing here changes the ledger.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Callable, Mapping

import msgspec

from shoal.autoscaler.act.ledger import Ledger
from shoal.autoscaler.act.observe import UNSETTLED, Witnesses
from shoal.foundation.clock import Clock
from shoal.foundation.eventlog import EventLog, Kind
from shoal.model.launch import Listing
from shoal.model.offer import Market
from shoal.providers.protocol import Provider

LISTING_STEADY_S = (30.0, 600.0)
"""Shortest and longest time between listings of a provider on which nothing is unsettled."""
LISTINGS_PER_MACHINE_MIN = 0.1
MACHINES_LISTED_PER_S = 200
"""Clouds list by pages and allow few a second: beyond 3,000 machines an unsettled listing comes less often."""
MARKET_EVERY_S = (60.0, 300.0)
"""How often offers and quotas are read: while demand is blocked, and else."""
RETRY_S = 10.0


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """What one visit to a provider brought; `market_s` is when its offers were asked for."""

    provider: str
    listing: Listing | None = None
    market: Market | None = None
    market_s: float = 0.0


class Survey:
    """Visits providers when it is time; keeps what they say until it is taken."""

    def __init__(
        self,
        clock: Clock,
        providers: Mapping[str, Provider],
        ledger: Ledger,
        log: EventLog,
        *,
        witnesses: Witnesses,
        alarms: dict[str, str],
        wake: Callable[[], None],
    ) -> None:
        """`alarms` gets an entry per provider that cannot be listed; `wake` is called after each visit."""
        self._clock, self._providers, self._ledger, self._log = clock, providers, ledger, log
        self._witnesses, self._alarms, self._wake = witnesses, alarms, wake
        self._visits: dict[str, asyncio.Task[None]] = {}
        self._box: list[Heard] = []
        self._listed_s: dict[str, float] = {}
        self._marketed_s: dict[str, float] = {}
        self.errors: dict[str, str] = {}
        """Why a provider's last visit failed."""

    def take(self) -> list[Heard]:
        """Return what was heard since the last time, oldest first."""
        box, self._box = self._box, []
        return box

    def due_s(self, *, is_blocked: bool) -> float:
        """Return when the next visit is due; infinity while every provider is being visited."""
        return min(
            (self._due_s(name, is_blocked) for name in self._providers if name not in self._visits), default=math.inf
        )

    def start(self, now_s: float, *, is_blocked: bool) -> None:
        """Begin every visit that is due. `is_blocked`: demand waits for an offer or quota, which may have changed."""
        for name in self._providers:
            if name not in self._visits and now_s >= self._due_s(name, is_blocked):
                task = asyncio.ensure_future(self._visit(name, is_blocked))
                self._visits[name] = task
                task.add_done_callback(functools.partial(self._visited, name))

    async def close(self) -> None:
        """Let go of the visits under way."""
        for task in self._visits.values():
            task.cancel()
        await asyncio.gather(*self._visits.values(), return_exceptions=True)

    def _due_s(self, name: str, is_blocked: bool) -> float:
        began_s = self._listed_s.get(name)
        if began_s is None:
            return -math.inf
        if name in self.errors:
            return began_s + RETRY_S
        due_s = began_s + self._every_s(name)
        return min(due_s, self._market_due_s(name, is_blocked)) if is_blocked else due_s

    def _market_due_s(self, name: str, is_blocked: bool) -> float:
        return self._marketed_s.get(name, -math.inf) + MARKET_EVERY_S[0 if is_blocked else 1]

    def _every_s(self, name: str) -> float:
        """Return how often the provider is listed now."""
        lag_s = self._providers[name].traits.listing_lag_s
        if name not in self._witnesses.listings:
            return max(1.0, min(10.0, lag_s / 2))
        doubtful = any(one.provider == name for one in self._witnesses.remainders.values()) or any(
            one.provider == name for one in self._witnesses.extras.values()
        )
        moving = self._ledger.moving.values()
        if doubtful or any(row.state in UNSETTLED and row.offer.provider == name for row in moving):
            pages_s = len(self._witnesses.listings[name].machines) / MACHINES_LISTED_PER_S
            return max(pages_s, min(15.0, max(0.5, lag_s / 2)))
        low_s, high_s = LISTING_STEADY_S
        return min(high_s, max(low_s, 60.0 / (LISTINGS_PER_MACHINE_MIN * max(1, self._ledger.by_provider[name]))))

    async def _visit(self, name: str, is_blocked: bool) -> None:
        """Ask a provider for its machines, and for its offers where those we have are old."""
        provider = self._providers[name]
        began_s = self._listed_s[name] = self._clock.monotonic_s()
        if began_s >= self._market_due_s(name, is_blocked):
            market = await provider.offers()
            self._marketed_s[name] = began_s
            self._box.append(Heard(provider=name, market=market, market_s=began_s))
        began_s = self._clock.monotonic_s()
        listing = await provider.machines()
        # Our own clock around the call: a provider's idea of now is not compared with ours.
        listing = msgspec.structs.replace(listing, began_s=began_s, ended_s=self._clock.monotonic_s())
        self._box.append(Heard(provider=name, listing=listing))

    def _visited(self, name: str, task: asyncio.Task[None]) -> None:
        self._visits.pop(name, None)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            text = f"{type(error).__name__}: {error}"
            if self.errors.get(name) != text:
                self._log.record(Kind.ALARM, what=f"listing {name}", why=text)
            self.errors[name] = self._alarms[f"listing {name}"] = text
        else:
            self.errors.pop(name, None)
            self._alarms.pop(f"listing {name}", None)
        self._wake()
