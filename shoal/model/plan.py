"""A plan is data: steps, each with a `why`, and every unmet demand with a reason.

A plan leaves no choice to the one who carries it out: ids, tokens and offers are named in it.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from shoal.foundation.amounts import Amounts
from shoal.model.offer import OfferKey


class Buy(msgspec.Struct, frozen=True, kw_only=True, tag="launch"):
    """Start machines of one offer for one node type, as one attempt. One gang launches under one id."""

    instance_ids: tuple[str, ...]
    node_type: str
    offer: OfferKey
    why: str
    price_micro: int | None = None
    gang: str = ""
    hold_s: float | None = None
    count_min: int = 1
    is_probe: bool = False
    holds: tuple[str, ...] = ()
    """Keys of the demand classes and gangs placed on it, for `explain`."""
    planned: tuple[dict[str, int], ...] = ()
    """What is placed on each of `instance_ids`, in their order; kept in the ledger, see `Instance.planned`."""


class Drain(msgspec.Struct, frozen=True, kw_only=True, tag="drain"):
    """Empty a node: only if still idle at `idle_serial`, or by a deadline."""

    instance_id: str
    why: str
    idle_serial: int | None = None
    deadline_s: float | None = None


class Undrain(msgspec.Struct, frozen=True, kw_only=True, tag="undrain"):
    """Take a draining or drained node back: cheaper than a launch."""

    instance_id: str
    why: str


class Release(msgspec.Struct, frozen=True, kw_only=True, tag="release"):
    """Stop paying for a machine."""

    instance_id: str
    why: str


class Forget(msgspec.Struct, frozen=True, kw_only=True, tag="forget"):
    """Take back a wish that was never called for (`queued`)."""

    instance_id: str
    why: str


Step = Buy | Drain | Undrain | Release | Forget


class Verdict(StrEnum):
    """Why demand is not served by a step. The three words never mix."""

    INFEASIBLE = "infeasible"  # nothing that the config allows could ever hold it
    BLOCKED = "blocked"  # something could, and a limit, budget, quota or sick offer is in the way
    DEFERRED = "deferred"  # what is there will do it soon enough


class OfferReason(msgspec.Struct, frozen=True, kw_only=True):
    """Why one offer (or node type) does not serve one demand.

    `word` is one of: too-small, label, price-dominated, unknown-price, quota, unhealthy, budget, limit, arch, full.
    """

    offer: str
    word: str
    detail: str = ""


class Unmet(msgspec.Struct, frozen=True, kw_only=True):
    """Demand (a class key, gang id or standing owner) that no step serves, and why."""

    demand: str
    kind: str  # "class" | "gang" | "standing" | "min_workers"
    amounts: Amounts
    count: int
    verdict: Verdict
    why: str
    reasons: tuple[OfferReason, ...] = ()
    jobs: tuple[str, ...] = ()


class Placed(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How many units of a demand the plan sees on one instance, there or to be bought."""

    demand: str
    instance_id: str
    count: int


class Kept(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Why an idle node stays all the same."""

    instance_id: str
    why: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do next. `cost_micro` is the price per hour of the machines that the steps buy.

    `bound_micro` is proven: no way of serving the same demand costs less; None until it was computed.
    (snapshot, policy, seed, effort) reproduce the plan to the byte.
    """

    steps: tuple[Step, ...] = ()
    unmet: tuple[Unmet, ...] = ()
    placed: tuple[Placed, ...] = ()
    kept: tuple[Kept, ...] = ()
    frozen: dict[str, float] = {}
    """Node types that flapped, and for how many seconds more their idle nodes stay."""
    cost_micro: int = 0
    bound_micro: int | None = None
    effort: int = 0
    version: tuple[int, int] = (0, 0)
    serial_next: int = 1

    @property
    def gap(self) -> float | None:
        """How far the cost is above the proven bound, as a fraction; None when there is no bound."""
        if self.bound_micro is None:
            return None
        return (self.cost_micro - self.bound_micro) / self.bound_micro if self.bound_micro else 0.0
