"""What a provider must do for us: four calls, ten rules.

The rules are the contract. `shoal.testing.ProviderContract` has a test per rule, and every provider runs them.
The autoscaler may rely on the rules and on nothing else; docs/provider-contract.md explains each.

  R1   The same token with the same bytes never gives more machines than `instance_ids`, within `token_ttl_s`;
       with other bytes it is refused with TokenMismatch and starts nothing.
  R2   A token is used for one offer in one zone.
  R3   A machine is listed within `listing_lag_s` of its call ending, whatever the call answered.
  R4   `machines` lists all machines of this cluster's uid in every phase, with their debris, or sets
       `complete=False`; never a short list as complete.
  R5   A refusal found later appears in `refusals` until its debris is released.
  R6   `release` is idempotent, gone is accepted; accepted does not mean ended.
  R7   Errors carry outcome, retry and scope; SDK errors never escape; `unknown` when in doubt.
  R8   No call sleeps, retries or waits for an operation; each ends within `call_limit_s`.
  R9   Each answer stands alone: one bad launch or name does not spoil the others.
  R10  `launch` with `count_min = n` gives all or none where `traits.is_atomic`, else partial answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from shoal.model.launch import Answer, Launch, Listing, Machine
from shoal.model.offer import Market, OfferKey
from shoal.model.policy import NodeType


class Traits(msgspec.Struct, frozen=True, kw_only=True):
    """What is true of a provider as such; durations in seconds.

    `self_end` says what a machine can do when its guard's lease ends: `terminate`, `power-off`, `exit`,
    `end-process-group`, `stop-agent` or `none` (then `up` warns that there is no dead man).
    """

    name: str
    token_ttl_s: float = 3600.0
    listing_lag_s: float = 60.0
    call_limit_s: float = 60.0
    boot_typical_s: float = 60.0
    batch_max: int = 1
    self_end: str = "none"
    is_atomic: bool = False
    parks: bool = False
    notices: bool = False


class Provider(Protocol):
    """One account and region (or host set), seen as the machines this cluster owns."""

    traits: Traits

    async def offers(self) -> Market:
        """Return what could be bought now and the account's quotas, as of one moment."""
        ...

    async def machines(self) -> Listing:
        """Return this cluster's machines, debris and late refusals (R3, R4, R5)."""
        ...

    async def launch(self, launches: Sequence[Launch]) -> Sequence[Answer]:
        """Start machines; one answer per launch, in their order (R1, R2, R9, R10). Never raises ProviderError."""
        ...

    async def release(self, names: Sequence[str]) -> Sequence[Answer]:
        """Stop paying for machines and debris; one answer per name, in their order (R6, R9)."""
        ...


@runtime_checkable
class Premises(Protocol):
    """Resources that a cluster's machines share: keys, roles, security groups, networks.

    Every call is idempotent, safe for two at once, and tagged with the cluster's uid.
    """

    async def prepare(self) -> Mapping[str, str]:
        """Make what is missing; return the names that requests refer to."""
        ...

    async def dismantle(self) -> None:
        """Remove all of it. What is still used by a machine stays, and shows in `leftovers`."""
        ...

    async def leftovers(self) -> Sequence[str]:
        """Return the names of what is still there."""
        ...


@runtime_checkable
class Parks(Protocol):
    """Optional: a provider that can stop and later resume *this* machine."""

    async def park(self, names: Sequence[str]) -> Sequence[Answer]: ...

    async def resume(self, names: Sequence[str]) -> Sequence[Answer]: ...


@runtime_checkable
class Console(Protocol):
    """Optional: a provider that can show what a machine printed while booting."""

    async def console(self, machine: Machine) -> str: ...


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """What one machine must know to come up as its instance; rendered into the request by the provider's `render`.

    `join_secret` is HMAC(join key of the epoch, launch token): replays are byte-equal.
    """

    cluster_uid: str
    cluster_name: str
    epoch: int
    token: str
    instance_ids: tuple[str, ...]
    node_type: str
    attempt: int
    head_address: str
    join_secret: str
    labels: dict[str, str] = {}
    lease_s: float = 600.0
    lease_busy_s: float = 3600.0
    boot_deadline_s: float = 600.0
    role: str = "worker"


class Renders(Protocol):
    """How a provider turns a ticket into the bytes of one request: pure, so that replays are byte-equal."""

    def render(self, ticket: Ticket, node_type: NodeType, offer: OfferKey) -> bytes:
        """Return the request that `launch` sends, and that the ledger commits before."""
        ...
