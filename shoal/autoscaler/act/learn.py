"""What experience teaches: the health of offers and the launch breakers, as rows of the ledger.

A refusal makes its scope unhealthy for an exponentially growing time with jitter, and lowers the chance that is
expected of it; a machine that joins heals it. Machines that boot and never join count against their node type:
after `breaker_failures` of one cause in a row the type's launches stop, and one canary at a time probes.
"""

from __future__ import annotations

import msgspec

from shoal.autoscaler.act.ledger import Change, Ledger
from shoal.autoscaler.act.rows import BreakerRow, HealthRow
from shoal.autoscaler.decide.health import after_failure, after_success, breaker_after_failure, scope_of
from shoal.autoscaler.decide.wares import in_scope
from shoal.foundation.chance import Chance
from shoal.foundation.clock import Clock
from shoal.foundation.errors import CapacityError, ProviderError, Retry, Scope
from shoal.foundation.eventlog import EventLog, Kind
from shoal.model.instance import Instance
from shoal.model.offer import OfferHealth, OfferKey
from shoal.model.plan import Buy
from shoal.model.policy import Health
from shoal.model.snapshot import Breaker

NEVER_JOINED = "never joined"
PROBE_S = 30.0
"""For how long at least a healed scope is bought from one machine at a time. It must end: a gang is no probe."""


class Learned:
    """Writes health and breakers into the change at hand, so that they share its commit."""

    def __init__(self, clock: Clock, chance: Chance, ledger: Ledger, log: EventLog, rules: Health) -> None:
        self._clock, self._chance, self._ledger, self._log = clock, chance, ledger, log
        self.rules = rules

    def failed(self, change: Change, offer: OfferKey, node_type: str, error: ProviderError) -> None:
        """A launch of the offer did not work: remember how far the cause reaches, and for how long."""
        now_s = self._clock.monotonic_s()
        scope = scope_of(offer, error)
        row = self._health(change, scope)
        known = None if row is None else OfferHealth(scope=scope, p_success=row.p_success, failures=row.failures)
        now = after_failure(known, offer, error, self.rules, self._chance.random())
        change.put(
            HealthRow(
                scope=scope,
                p_success=now.p_success,
                until_s=now_s + now.unhealthy_for_s,
                probe_s=0.0 if error.retry is Retry.LATER else max(PROBE_S, now.unhealthy_for_s / 2),
                failures=now.failures,
                failed_s=now_s,
                code=now.code,
                error=now.error,
            )
        )
        self._log.record(
            Kind.OFFER_HEALTH,
            offer=str(offer),
            scope=scope,
            until_s=now.unhealthy_for_s,
            code=error.code,
            error=str(error),
        )
        if error.retry is Retry.NEVER:
            self._strike(change, node_type, error.code, str(error))

    def joined(self, change: Change, row: Instance) -> None:
        """A machine of the offer became a node: everything about it works."""
        self._heal(change, row.offer)
        for breaker in self._ledger.breakers.values():
            if breaker.node_type == row.node_type:
                change.drop(breaker)
                if breaker.until_s is not None:
                    self._log.record(Kind.BREAKER_CLOSED, cause=breaker.cause, node_type=row.node_type)

    def never_joined(self, change: Change, row: Instance, why: str) -> None:
        """A machine was bought and never became a node."""
        self._strike(change, row.node_type, NEVER_JOINED, why)

    def interrupted(self, change: Change, row: Instance, why: str) -> None:
        """The cloud took the machine back: its offer is likely to be short."""
        error = CapacityError(why, code="Interrupted", scope=Scope.MARKET)
        self.failed(change, row.offer, row.node_type, error)

    def probing(self, change: Change, step: Buy, token: str) -> None:
        """A probe goes out: no second one until it has an end."""
        for breaker in self._ledger.breakers.values():
            if breaker.node_type == step.node_type and breaker.until_s is not None:
                change.put(msgspec.structs.replace(breaker, probing=token))
        now_s, key = self._clock.monotonic_s(), str(step.offer)
        for row in self._ledger.health.values():
            if may_probe(row, now_s) and in_scope(row.scope, key):
                change.put(msgspec.structs.replace(row, probing=token))

    def settled(self, change: Change) -> None:
        """Probes whose launch has an end are over, whatever came of them."""
        if not any(row.probing for row in self._ledger.breakers.values()) and not any(
            row.probing for row in self._ledger.health.values()
        ):
            return
        tokens = {row.token for row in self._ledger.moving.values()}
        for breaker in self._ledger.breakers.values():
            if breaker.probing and breaker.probing not in tokens:
                change.put(msgspec.structs.replace(breaker, probing=""))
        for row in self._ledger.health.values():
            if row.probing and row.probing not in tokens:
                change.put(msgspec.structs.replace(row, probing=""))

    def _strike(self, change: Change, node_type: str, cause: str, why: str) -> None:
        key = f"{node_type}|{cause}"
        pending = change.rows.get(("breaker", key))
        row = pending if isinstance(pending, BreakerRow) else self._ledger.breakers.get(key)
        known = None if row is None else Breaker(cause=cause, node_type=node_type, failures=row.failures)
        now = breaker_after_failure(known, cause, node_type, why, self.rules)
        until_s = None
        if now.open_for_s > 0:
            until_s = self._clock.monotonic_s() + now.open_for_s
            self._log.record(
                Kind.BREAKER_OPENED, cause=cause, node_type=node_type, failures=now.failures, until_s=now.open_for_s
            )
        change.put(BreakerRow(cause=cause, node_type=node_type, failures=now.failures, until_s=until_s, error=why))

    def _heal(self, change: Change, offer: OfferKey) -> None:
        for row in self._ledger.health.values():
            if not in_scope(row.scope, str(offer)):
                continue
            better = after_success(OfferHealth(scope=row.scope, p_success=row.p_success))
            if better is None:
                change.drop(row)
            else:
                change.put(
                    msgspec.structs.replace(
                        row, p_success=better.p_success, failures=0, until_s=0.0, probe_s=0.0, probing=""
                    )
                )

    def _health(self, change: Change, scope: str) -> HealthRow | None:
        pending = change.rows.get(("health", scope))
        return pending if isinstance(pending, HealthRow) else self._ledger.health.get(scope)


def may_probe(row: HealthRow, now_s: float) -> bool:
    """Say whether one machine, and no more, may be bought there now."""
    return not row.probing and row.until_s <= now_s < row.until_s + row.probe_s
