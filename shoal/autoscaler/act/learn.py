"""What experience teaches: the health of offers and the launch breakers, as rows of the ledger.

A refusal makes its scope unhealthy for an exponentially growing time with jitter, and lowers the chance that is
expected of it; a machine that joins heals it. Machines that boot and never join count against their node type:
after `breaker_failures` of one cause in a row the type's launches stop, and one canary at a time probes.
"""

from __future__ import annotations

import msgspec

from shoal.autoscaler.act.ledger import Change, Ledger
from shoal.autoscaler.act.rows import BreakerRow, HealthRow
from shoal.foundation.backoff import backoff_s
from shoal.foundation.chance import Chance
from shoal.foundation.clock import Clock
from shoal.foundation.errors import CapacityError, ProviderError, Retry, Scope
from shoal.foundation.eventlog import EventLog, Kind
from shoal.model.instance import Instance
from shoal.model.offer import OfferKey
from shoal.model.plan import Buy
from shoal.model.policy import Health

NEVER_JOINED = "never joined"
_P_KEPT = 0.5
_NEVER_S = 1800.0
PROBE_S = 30.0
"""For how long at least a healed scope is bought from one machine at a time. It must end: a gang is no probe."""


class Learned:
    """Writes health and breakers into the change at hand, so that they share its commit."""

    def __init__(self, clock: Clock, chance: Chance, ledger: Ledger, log: EventLog, rules: Health) -> None:
        self._clock, self._chance, self._ledger, self._log = clock, chance, ledger, log
        self.rules = rules

    def failed(self, change: Change, offer: OfferKey, node_type: str, error: ProviderError) -> None:
        """A launch of the offer did not work: remember how far the cause reaches, and for how long."""
        now_s, rules = self._clock.monotonic_s(), self.rules
        scope = scope_key(offer, error)
        row = self._health(change, scope) or HealthRow(scope=scope)
        failures = row.failures + 1
        if error.retry is Retry.NEVER:
            wait_s = max(_NEVER_S, error.retry_after_s or 0.0)
        elif error.retry_after_s is not None:
            wait_s = error.retry_after_s
        elif error.retry is Retry.LATER:
            wait_s = backoff_s(failures, first_s=1.0, most_s=60.0, chance=self._chance)
        else:
            wait_s = backoff_s(failures, first_s=rules.ttl_first_s, most_s=rules.ttl_most_s, chance=self._chance)
        p_success, probe_s = row.p_success, 0.0
        if error.retry is not Retry.LATER:
            p_success = max(rules.p_least, p_success * _P_KEPT)
            probe_s = max(PROBE_S, wait_s / 2)
        change.put(
            HealthRow(
                scope=scope,
                p_success=p_success,
                until_s=now_s + wait_s,
                probe_s=probe_s,
                failures=failures,
                failed_s=now_s,
                code=error.code,
                error=str(error),
            )
        )
        self._log.record(
            Kind.OFFER_HEALTH, offer=str(offer), scope=scope, until_s=wait_s, code=error.code, error=str(error)
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
            if may_probe(row, now_s) and covers(row.scope, key):
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
        row = row or BreakerRow(cause=cause, node_type=node_type)
        failures, rules = row.failures + 1, self.rules
        opened, until_s = row.opened, row.until_s
        if failures >= rules.breaker_failures:
            opened += 1
            wait_s = backoff_s(opened, first_s=rules.breaker_first_s, most_s=rules.breaker_most_s)
            until_s = self._clock.monotonic_s() + wait_s
            self._log.record(Kind.BREAKER_OPENED, cause=cause, node_type=node_type, failures=failures, until_s=wait_s)
        change.put(
            BreakerRow(cause=cause, node_type=node_type, failures=failures, opened=opened, until_s=until_s, error=why)
        )

    def _heal(self, change: Change, offer: OfferKey) -> None:
        key = str(offer)
        for row in self._ledger.health.values():
            if not covers(row.scope, key):
                continue
            p_success = min(1.0, row.p_success / _P_KEPT)
            if p_success >= 1.0:
                change.drop(row)
            else:
                change.put(
                    msgspec.structs.replace(row, p_success=p_success, failures=0, until_s=0.0, probe_s=0.0, probing="")
                )

    def _health(self, change: Change, scope: str) -> HealthRow | None:
        pending = change.rows.get(("health", scope))
        return pending if isinstance(pending, HealthRow) else self._ledger.health.get(scope)


def may_probe(row: HealthRow, now_s: float) -> bool:
    """Say whether one machine, and no more, may be bought there now."""
    return not row.probing and row.until_s <= now_s < row.until_s + row.probe_s


def covers(scope: str, key: str) -> bool:
    """Say whether a scope reaches an offer's key.

    >>> covers("aws/eu", "aws/eu/a/m5.large/spot"), covers("aws/eu", "aws/eu-2/a/m5.large/spot")
    (True, False)
    """
    return key == scope or key.startswith(scope + "/")


def scope_key(offer: OfferKey, error: ProviderError) -> str:
    """Return the prefix of offer keys that the error reaches.

    A capacity error of a zone is about its machine type there; only account and region errors reach further.
    """
    match error.scope:
        case Scope.ACCOUNT:
            return offer.provider
        case Scope.REGION:
            return f"{offer.provider}/{offer.region}"
        case _:
            return str(offer)
