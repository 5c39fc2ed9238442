"""Every error of Shoal, in one tree, each with its advice.

Two questions decide where an error stands. *Who can act on it?* A user error carries a hint and an exit
code and is printed as one line; a program error is raised in the user's code and keeps Ray's name.
*What should the caller do?* A provider error says so in `retry`, set where the cause is known.

Nothing here imports anything of Shoal. The exceptions of the task API live in `shoal.exceptions`.
"""

from __future__ import annotations

from enum import StrEnum


class ShoalError(Exception):
    """The root of every error that Shoal raises."""


class UserError(ShoalError):
    """Something the user can mend. Printed as one line, then `hint:`, then exit with `exit_code`.

    Exit codes: 1 the thing asked for is not there or did not work, 2 the input is wrong,
    3 somebody else holds what is needed, 130 interrupted.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class BadInput(UserError):
    """A file, option or argument that cannot be used as it is."""

    exit_code = 2


class NoCluster(UserError, ConnectionError):
    """No live cluster where one was expected."""


class Held(UserError):
    """Another process holds the thing (a cluster name, a ledger, a session)."""

    exit_code = 3


class ProtocolError(ShoalError):
    """A peer spoke something other than our protocol; the connection is closed, nothing was interpreted."""


class AuthenticationError(ShoalError):
    """A peer could not prove that it knows the cluster's secret for its role."""


class NoAnswer(AuthenticationError):
    """A peer closed before it proved anything: it refuses us, or is only busy or ending."""


class LimitExceeded(ShoalError):
    """A declared limit was crossed; the message names the limit and its value."""


class JournalFull(ShoalError):
    """The disk under a journal or ledger is full; it is read-only until there is room."""


class StaleSession(ShoalError):
    """An order of an older autoscaler session or owner epoch; a newer one is in charge."""


class Outcome(StrEnum):
    """How a call to a provider ended, as far as it can be proven."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class Retry(StrEnum):
    """What the caller should do about a failed call; decided where the cause is known."""

    LATER = "later"  # the same request again, after a pause
    ELSEWHERE = "elsewhere"  # the same need, from another zone, machine type or market
    NEVER = "never"  # a person must change something first


class Scope(StrEnum):
    """How far an error reaches: everything at least as narrow is equally affected."""

    ACCOUNT = "account"
    REGION = "region"
    ZONE = "zone"
    FAMILY = "family"
    TYPE = "type"
    MARKET = "market"


class ProviderError(ShoalError):
    """A provider's call did not work. Protocol rule R7: SDK errors never escape as themselves.

    `code` is the cloud's own word for the cause (or ours where it has none), for people and for counting;
    nobody decides on it. `retry_after_s` is the cloud's wish, if it named one.
    """

    outcome: Outcome = Outcome.UNKNOWN
    retry: Retry = Retry.LATER
    scope: Scope = Scope.TYPE

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        outcome: Outcome | None = None,
        retry: Retry | None = None,
        scope: Scope | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code or type(self).__name__
        self.retry_after_s = retry_after_s
        if outcome is not None:
            self.outcome = outcome
        if retry is not None:
            self.retry = retry
        if scope is not None:
            self.scope = scope


class CapacityError(ProviderError):
    """The provider has no such machine to give right now."""

    outcome, retry, scope = Outcome.REFUSED, Retry.ELSEWHERE, Scope.ZONE


class QuotaError(ProviderError):
    """The account may not have more of this; the message names the quota."""

    outcome, retry, scope = Outcome.REFUSED, Retry.ELSEWHERE, Scope.REGION


class NotOffered(ProviderError):
    """This type is not sold in this place or market."""

    outcome, retry, scope = Outcome.REFUSED, Retry.ELSEWHERE, Scope.TYPE


class ThrottledError(ProviderError):
    """Too many calls; the request was not looked at."""

    outcome, retry, scope = Outcome.REFUSED, Retry.LATER, Scope.ACCOUNT


class CredentialError(ProviderError):
    """The credentials are missing, expired, or lack a permission that the message names."""

    outcome, retry, scope = Outcome.REFUSED, Retry.NEVER, Scope.ACCOUNT


class RequestError(ProviderError):
    """The request itself is wrong; the same bytes will never be accepted."""

    outcome, retry, scope = Outcome.REFUSED, Retry.NEVER, Scope.TYPE


class TokenMismatch(RequestError):
    """A launch token was used again with other bytes (rule R1): our bug, nothing was started."""


class UnknownOutcome(ProviderError):
    """Time-out, reset or server error: the call may have worked."""

    outcome, retry, scope = Outcome.UNKNOWN, Retry.LATER, Scope.REGION
