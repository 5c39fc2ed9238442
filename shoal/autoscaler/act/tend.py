"""Doing again what a crash, a lost message or time has left undone; each round, before anything is planned.

Nodes of instances that are gone are forgotten at the head; releases and launches without a clear end are called
again; what nobody accounts for is collected; the head's view of each drain is made what the ledger says; holds end.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Iterator, Mapping

from shoal.autoscaler.act.carry_out import REPLAYS_MAX, Hands
from shoal.autoscaler.act.collect import Collector
from shoal.autoscaler.act.contracts import Head
from shoal.autoscaler.act.learn import Learned
from shoal.autoscaler.act.ledger import Ledger
from shoal.autoscaler.act.observe import Witnesses
from shoal.autoscaler.act.reconcile import Reconciler
from shoal.autoscaler.act.rows import Attempt
from shoal.foundation.backoff import backoff_s
from shoal.model.instance import State
from shoal.model.offer import OfferKey
from shoal.model.policy import Policy
from shoal.providers.protocol import Provider

RESEND_S = 2.0
"""How long a drain may be missing from the head's word before it is sent again."""


class Tender:
    """Looks after everything that is on its way."""

    def __init__(
        self,
        ledger: Ledger,
        head: Head,
        providers: Mapping[str, Provider],
        *,
        witnesses: Witnesses,
        hands: Hands,
        reconciler: Reconciler,
        collector: Collector,
        learned: Learned,
    ) -> None:
        self._ledger, self._head, self._providers = ledger, head, providers
        self._witnesses, self._hands, self._reconciler = witnesses, hands, reconciler
        self._collector, self._learned = collector, learned

    async def tend(self, now_s: float, policy: Policy, prices: Mapping[OfferKey, int | None]) -> None:
        """Do everything once."""
        ended, self._reconciler.ended = self._reconciler.ended, []
        for row in ended:
            self._hands.shut_out_at.pop(row.instance_id, None)
            if row.instance_id in self._witnesses.nodes:
                await self._hands.guarded(row.instance_id, self._forget(row.instance_id))
        self._hands.call_releases()
        self._hands.replay(self._to_replay(now_s))
        if self._witnesses.is_head_heard:
            if self._witnesses.is_listed:
                await self._collector.collect(policy.gc_age_s, prices)
            await asyncio.gather(*self._drains_to_mend(now_s))
        self._lift_holds(now_s)
        with self._ledger.changing() as change:
            self._learned.settled(change)

    async def _forget(self, instance_id: str) -> bool:
        await self._head.forget(instance_id)
        return True

    def _drains_to_mend(self, now_s: float) -> Iterator[Awaitable[bool]]:
        """Yield the calls that make the head's view of each drain what the ledger says."""
        for name, row in list(self._ledger.moving.items()):
            node = self._witnesses.nodes.get(name)
            if node is None or node.is_missing:
                continue
            if row.state is State.DRAINING and row.drain_order and node.drain_order != row.drain_order:
                if now_s - row.since_s > RESEND_S:
                    yield self._hands.guarded(name, self._resend(name))
            elif row.state in (State.DRAINING, State.DRAINED):
                if self._hands.is_cordon_fading(row):
                    yield self._hands.guarded(name, self._keep(name))
            elif row.state is State.RELEASING and not self._hands.is_shut_out(name):
                yield self._hands.guarded(name, self._hands.shut_out(name))
        for node in self._witnesses.cordoned:
            name = node.instance_id
            held = self._ledger.instances.get(name)
            if held is not None and held.state is State.READY and node.drain_order.startswith("d-"):
                # An order of ours that the ledger has closed: a busy answer, or an undrain that was cut off.
                yield self._hands.guarded(name, self._lift(name, node.drain_order))

    async def _resend(self, name: str) -> bool:
        await self._hands.send_drain(self._ledger.instances[name])
        return True

    async def _keep(self, name: str) -> bool:
        await self._hands.keep_cordon(self._ledger.instances[name])
        return True

    async def _lift(self, name: str, order: str) -> bool:
        await self._hands.lift(name, order)
        return True

    def _to_replay(self, now_s: float) -> list[Attempt]:
        """Return the launches whose call had no clear end and that are still wanted: list first, then replay."""
        due: list[Attempt] = []
        asked = {row.token for row in self._ledger.moving.values() if row.state is State.REQUESTED}
        for token in sorted(asked):
            attempt = self._ledger.attempts.get(token)
            if attempt is None or not attempt.is_open or attempt.calls >= REPLAYS_MAX:
                continue
            provider = self._providers.get(attempt.offer.provider)
            if provider is None or attempt.offer.provider not in self._witnesses.listings:
                continue
            ended_s = self._hands.create_ended_s().get(attempt.token, 0.0)
            if now_s - attempt.created_s >= provider.traits.token_ttl_s or math.isinf(ended_s):
                continue
            listed_s = self._witnesses.listings[attempt.offer.provider].began_s
            rows = [self._ledger.instances.get(name) for name in attempt.instance_ids]
            if listed_s <= ended_s or not all(row and row.state is State.REQUESTED for row in rows):
                continue
            if now_s - ended_s >= backoff_s(attempt.calls, first_s=2.0, most_s=30.0):
                due.append(attempt)
        return due

    def _lift_holds(self, now_s: float) -> None:
        """End holds whose gang does not wait any more, or whose time is over."""
        work = self._witnesses.work
        if not self._ledger.holds or work is None or self._witnesses.is_settling():
            return
        waiting = {gang.gang_id for gang in work.gangs}
        with self._ledger.changing() as change:
            for hold in self._ledger.holds.values():
                if hold.gang not in waiting or hold.until_s <= now_s:
                    change.drop(hold)
