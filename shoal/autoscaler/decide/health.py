"""What a launch's outcome teaches about its offer, and when launches of a node type stop altogether.

Pure rules: what was known, what happened and a jitter in; what is known now out. Who stores it adds the clock.

Health, per scope of the error: a failure lowers the chance that is expected of a launch and shuts the scope for a
time that doubles with each failure in a row (with jitter, so that many clusters do not come back together); then one
probe goes out, and its success opens the scope again. What an error says about itself decides (`retry`, `scope`),
never its text or code.
"""

from __future__ import annotations

import msgspec

from shoal.foundation.backoff import backoff_s
from shoal.foundation.errors import ProviderError, Retry, Scope
from shoal.model.offer import OfferHealth, OfferKey
from shoal.model.policy import Health
from shoal.model.snapshot import Breaker

P_KEPT = 0.5
"""What a failure leaves of the expected chance of success."""

P_GAINED = 0.5
"""How much of the missing chance a success gives back."""

NEVER_S = 1800.0
"""How long a scope stays shut after an error that only a person can mend; then one probe looks whether somebody has."""

THROTTLED_FIRST_S, THROTTLED_MOST_S = 1.0, 60.0

_FORGOTTEN_P = 0.99


def scope_of(offer: OfferKey, error: ProviderError) -> str:
    """Return the prefix of offer keys that the error is remembered for.

    A zone that has no machine of one type may well have others, so errors of a zone are kept for the offer itself;
    only what concerns the account, the region or a family reaches further.
    """
    match error.scope:
        case Scope.ACCOUNT:
            return offer.provider
        case Scope.REGION:
            return f"{offer.provider}/{offer.region}"
        case Scope.FAMILY:
            family = offer.machine_type.split(".")[0]
            return f"{offer.provider}/{offer.region}/{offer.zone}/{family}"
        case Scope.TYPE:
            return f"{offer.provider}/{offer.region}/{offer.zone}/{offer.machine_type}"
        case _:
            return str(offer)


def after_failure(
    known: OfferHealth | None, offer: OfferKey, error: ProviderError, rules: Health, jitter: float
) -> OfferHealth:
    """Return the scope's health after a refused launch; `jitter` (0 to 1) shortens the wait by up to a half.

    LATER (throttling) says nothing about capacity: the scope is shut for a moment, its chance stays. ELSEWHERE
    halves the chance and shuts it for `ttl_first_s` x 2^(failures - 1), at most `ttl_most_s`. NEVER shuts it for
    half an hour. A time that the cloud itself names holds instead.
    """
    failures = (known.failures if known else 0) + 1
    p_success = known.p_success if known else 1.0
    if error.retry is Retry.LATER:
        wait_s = backoff_s(failures, first_s=THROTTLED_FIRST_S, most_s=THROTTLED_MOST_S) * (1 - jitter / 2)
    elif error.retry is Retry.NEVER:
        wait_s = NEVER_S
        p_success = max(rules.p_least, p_success * P_KEPT)
    else:
        wait_s = backoff_s(failures, first_s=rules.ttl_first_s, most_s=rules.ttl_most_s) * (1 - jitter / 2)
        p_success = max(rules.p_least, p_success * P_KEPT)
    if error.retry_after_s is not None:
        wait_s = max(error.retry_after_s, wait_s if error.retry is Retry.NEVER else 0.0)
    return OfferHealth(
        scope=scope_of(offer, error),
        p_success=p_success,
        unhealthy_for_s=wait_s,
        failures=failures,
        code=error.code,
        error=str(error),
    )


def after_time(known: OfferHealth, passed_s: float) -> OfferHealth:
    """Return the health once `passed_s` have gone by: when its time is over, one probe may look."""
    left_s = max(0.0, known.unhealthy_for_s - passed_s)
    return msgspec.structs.replace(known, unhealthy_for_s=left_s, may_probe=left_s <= 0 and known.failures > 0)


def after_success(known: OfferHealth) -> OfferHealth | None:
    """Return the health after a machine of the scope joined: open again, trusted more; None: all is well."""
    p_success = known.p_success + (1 - known.p_success) * P_GAINED
    if p_success >= _FORGOTTEN_P:
        return None
    return OfferHealth(scope=known.scope, p_success=p_success)


def breaker_after_failure(known: Breaker | None, cause: str, node_type: str, error: str, rules: Health) -> Breaker:
    """Return the launch breaker after one more failure of a cause in a row.

    From `breaker_failures` on it is open: `breaker_first_s`, then twice as long after each canary that fails, at
    most `breaker_most_s`.
    """
    failures = (known.failures if known else 0) + 1
    opened = failures - rules.breaker_failures + 1
    open_for_s = backoff_s(opened, first_s=rules.breaker_first_s, most_s=rules.breaker_most_s)
    return Breaker(cause=cause, node_type=node_type, failures=failures, open_for_s=open_for_s, error=error)


def breaker_after_time(known: Breaker, passed_s: float) -> Breaker:
    """Return the breaker once `passed_s` have gone by: when its time is over it lets one canary through."""
    left_s = max(0.0, known.open_for_s - passed_s)
    is_half_open = known.is_half_open or (known.open_for_s > 0 and left_s <= 0)
    return msgspec.structs.replace(known, open_for_s=left_s, is_half_open=is_half_open)
