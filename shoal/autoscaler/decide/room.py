"""How much may still be bought: every limit, cap and quota, counted down while a plan is made.

The numbers hold for the worst that may exist: every instance that is not gone takes its place under the limits,
and every one that may be billed its price.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from functools import partial

from shoal.autoscaler.decide.wares import Ware
from shoal.model.instance import Instance, State
from shoal.model.offer import MICRO, SPOT, OfferKey, Quota
from shoal.model.policy import Policy
from shoal.model.snapshot import Snapshot

SILENT_MASS_S = 60.0
"""Nodes that fell silent within this time count as lost together."""


class Room:
    """What is left of each limit. `holds` asks, `take` counts down; copies are cheap."""

    def __init__(self, snapshot: Snapshot, policy: Policy, is_mass_loss: bool = False) -> None:
        """Count what is there; `is_mass_loss`: so many nodes fell silent that replacing them is slowed down."""
        self._policy = policy
        moving = [one for one in snapshot.moving if one.state is not State.GONE]
        by_type = Counter(one.node_type for one in moving)
        self._spots = sum(1 for one in moving if one.offer.market == SPOT)
        for (node_type, market_name), number in snapshot.ready_counts.items():
            by_type[node_type] += number
            self._spots += number if market_name == SPOT else 0
        self._workers = len(moving) + snapshot.ready_counts.total()
        self.total_left = policy.max_workers - self._workers
        self._type_left: dict[str, int] = {}
        self._slowed: dict[str, str] = {}
        """Why fewer machines may come than `max_workers` allows: by node type, "" for all of them."""
        self._there = by_type
        self._added: Counter[str] = Counter()
        """What the plan itself adds, by node type."""
        self._added_offers: Counter[OfferKey] = Counter()
        self.whose = "this plan"
        """Who adds what is counted down, in the words of reasons."""
        for kind in policy.node_types:
            self._type_left[kind.name] = kind.max_workers - by_type[kind.name]
            if policy.upscaling_speed is not None:
                self._limit_speed(kind.name, moving, by_type[kind.name])
        if is_mass_loss:
            self._limit_after_mass_loss(snapshot)

        queued = sum(one.price_micro or 0 for one in moving if one.state is State.QUEUED)
        self.committed_micro = snapshot.committed_micro + queued
        self._hour_most = _micro(policy.budget.usd_per_hour_max)
        self._total_most = _micro(policy.budget.usd_total_max)
        self._spent_micro = snapshot.spent_micro
        self._reserve_s = reserve_s(policy)

        # Quotas and offer limits are as of the last listing: what was asked for since is not in them.
        unlisted = [one for one in moving if one.state in (State.QUEUED, State.REQUESTED)]
        self._quotas = [
            (
                quota,
                quota.limit
                - quota.used
                - sum(weight_of(quota, one.offer.machine_type) for one in unlisted if _under(quota, one)),
            )
            for quota in snapshot.quotas
        ]
        self._added_micro = 0
        asked = Counter(one.offer for one in unlisted)
        self._offer_left = {
            offer.key: max(0, offer.limit - asked[offer.key]) for offer in snapshot.offers if offer.limit is not None
        }
        self._probed: set[str] = set()
        self.is_ending = policy.lifetime_s is not None and snapshot.up_s >= policy.lifetime_s

    def copy(self) -> Room:
        """Return a room that is counted down on its own."""
        other = copy.copy(self)
        other._type_left = dict(self._type_left)
        other._there = Counter(self._there)
        other._added = Counter(self._added)
        other._added_offers = Counter(self._added_offers)
        other._quotas = list(self._quotas)
        other._offer_left = dict(self._offer_left)
        other._probed = set(self._probed)
        return other

    def holds(self, ware: Ware, wanted: int) -> tuple[int, str, str]:
        """Return how many more may be bought (at most `wanted`), and the word and detail of what stops more."""
        if ware.word:
            return 0, ware.word, ware.detail
        if self.is_ending:
            return 0, "limit", f"the cluster's lifetime of {self._policy.lifetime_s:.0f} s is over"
        count, word, detail = wanted, "", _nothing

        def lower(most: int, its_word: str, its_detail: Callable[[], str]) -> None:
            nonlocal count, word, detail
            if most < count:
                count, word, detail = max(0, most), its_word, its_detail

        lower(self.total_left, "limit", partial(self._limit_detail, ""))
        name = ware.node_type.name
        lower(self._type_left.get(name, 0), "limit", partial(self._limit_detail, name))
        key = ware.offer.key
        if (left := self._offer_left.get(key)) is not None:
            lower(left, "full", partial(self._offer_detail, key))
        for quota, rest in self._quotas:
            weight = weight_of(quota, key.machine_type)
            if weight and _reaches(quota, ware):
                lower(max(0, rest) // weight, "quota", partial(self._quota_detail, quota, rest))
        for scope in ware.probe_scopes:
            lower(0 if scope in self._probed else 1, "unhealthy", partial(_probe_detail, scope))
        if key.market == SPOT and self._policy.spot_share_most < 1:
            lower(self._spot_left(), "limit", self._spot_detail)
        if ware.price_micro:
            if (hour_most := self._hour_most) is not None:
                lower(
                    (hour_most - self.committed_micro) // ware.price_micro,
                    "budget",
                    partial(self._hour_detail, ware, hour_most),
                )
            if (total_most := self._total_most) is not None:
                left_micro = total_most - self._spent_micro
                most_micro = int(left_micro * 3600 / self._reserve_s) - self.committed_micro
                lower(most_micro // ware.price_micro, "budget", partial(self._total_detail, total_most))
        return count, word, detail()

    def _limit_detail(self, node_type: str) -> str:
        """Say how a limit on machines is used up, by what is there and by this plan; `` is all node types."""
        if node_type in self._slowed:
            added = self._added[node_type] if node_type else self._added.total()
            return self._slowed[node_type] + (f", {added} come with {self.whose}" if added else "")
        if not node_type:
            return self._filled("max_workers", self._policy.max_workers, self._workers, self._added.total())
        kind = self._policy.node_type(node_type)
        if kind is None:
            return f"no node type `{node_type}`"
        added = self._added[node_type]
        return self._filled(f"max_workers of `{node_type}`", kind.max_workers, self._there[node_type] + added, added)

    def _filled(self, limit: str, most: int, now: int, added: int) -> str:
        """Say that `now` machines, `added` of them by the plan, use a limit up."""
        if not added:
            return f"{limit} is {most} and {now} are there"
        return f"{limit} is {most}: {now - added} are there and {added} come with {self.whose}"

    def _spot_detail(self) -> str:
        return f"spot_share_most is {self._policy.spot_share_most:g}"

    def _offer_detail(self, key: OfferKey) -> str:
        left, added = self._offer_left[key], self._added_offers[key]
        return (
            f"the provider has {left + added} of it, and {added} go to {self.whose}"
            if added
            else f"the provider has {left} more of it"
        )

    def _quota_detail(self, quota: Quota, rest: int) -> str:
        added = sum(
            weight_of(quota, key.machine_type) * count
            for key, count in self._added_offers.items()
            if _covers(quota, key)
        )
        said = f"{quota.name}: {max(0, rest)} left of {quota.limit}"
        return said + (f" after {added} for {self.whose}" if added else "")

    def _hour_detail(self, ware: Ware, most_micro: int) -> str:
        added = f" with the ${self._added_micro / MICRO:.4g}/h of {self.whose}" if self._added_micro else ""
        return (
            f"${self.committed_micro / MICRO:.4g}/h of ${most_micro / MICRO:.4g}/h are committed{added}, "
            f"one costs ${(ware.price_micro or 0) / MICRO:.4g}/h"
        )

    def _total_detail(self, most_micro: int) -> str:
        added = f", with {self.whose}," if self._added_micro else ""
        return (
            f"${self._spent_micro / MICRO:.4g} of ${most_micro / MICRO:.4g} are spent and "
            f"{self._reserve_s:.0f} s of what runs{added} must still be paid"
        )

    def take(self, ware: Ware, count: int) -> None:
        """Count down for `count` more of the ware; `holds` must have allowed them."""
        if not count:
            return
        self.total_left -= count
        self._type_left[ware.node_type.name] -= count
        self._workers += count
        self._added[ware.node_type.name] += count
        self._added_offers[ware.offer.key] += count
        if ware.offer.key.market == SPOT:
            self._spots += count
        if ware.offer.key in self._offer_left:
            self._offer_left[ware.offer.key] -= count
        self._quotas = [
            (quota, rest - count * weight_of(quota, ware.offer.key.machine_type))
            if _reaches(quota, ware)
            else (quota, rest)
            for quota, rest in self._quotas
        ]
        self._probed.update(ware.probe_scopes)
        self.committed_micro += count * (ware.price_micro or 0)
        self._added_micro += count * (ware.price_micro or 0)

    def give_back(self, instance: Instance) -> None:
        """Count up for a wish that the plan takes back before it was called for."""
        self.total_left += 1
        self._workers -= 1
        if instance.node_type in self._type_left:
            self._type_left[instance.node_type] += 1
            self._there[instance.node_type] -= 1
        if instance.offer.market == SPOT:
            self._spots -= 1
        if instance.offer in self._offer_left:
            self._offer_left[instance.offer] += 1
        self._quotas = [
            (quota, rest + weight_of(quota, instance.offer.machine_type)) if _under(quota, instance) else (quota, rest)
            for quota, rest in self._quotas
        ]
        self.committed_micro -= instance.price_micro or 0

    @property
    def is_over_cap(self) -> bool:
        """Whether what is committed already costs more per hour than the cap allows."""
        return self._hour_most is not None and self.committed_micro > self._hour_most

    def over_type(self, node_type: str) -> int:
        """Return by how many the type is above its limit."""
        return max(0, -self._type_left.get(node_type, 0))

    def _limit_speed(self, name: str, moving: list[Instance], there: int) -> None:
        """Ray's `upscaling_speed`, only where it is written: pending launches of a type stay below a share of it."""
        speed = self._policy.upscaling_speed
        assert speed is not None, "called only where upscaling_speed is set"
        pending = sum(
            1 for one in moving if one.node_type == name and one.state in (State.QUEUED, State.REQUESTED, State.BOOTING)
        )
        most = max(5, int(speed * max(1, there - pending))) - pending
        if most < self._type_left[name]:
            self._type_left[name] = max(0, most)
            self._slowed[name] = f"upscaling_speed is {speed:g} and {pending} of `{name}` are on their way"

    def _limit_after_mass_loss(self, snapshot: Snapshot) -> None:
        not_new = (State.LOST, State.GONE)
        recent = sum(
            1 for one in snapshot.instances if snapshot.now_s - one.created_s < 60 and one.state not in not_new
        )
        most = max(1, self._workers // 10) - recent
        if most < self.total_left:
            self.total_left = max(0, most)
            self._slowed[""] = "many nodes fell silent at once; replacements are limited to 10 % a minute"

    def _spot_left(self) -> int:
        share = self._policy.spot_share_most
        return max(0, int((share * self._workers - self._spots) / (1 - share) + 1e-9))


def reserve_s(policy: Policy) -> float:
    """Return for how long everything committed must still be payable: the longest `min_up_s` or drain."""
    return (
        max(
            (max(kind.min_up_s, kind.deadlines.draining_s) for kind in policy.node_types),
            default=600.0,
        )
        or 1.0
    )


def is_mass_loss(snapshot: Snapshot) -> bool:
    """Say whether so many nodes fell silent at once that the cause is rather the network than the nodes.

    Source: docs/instance-states.md, "Mass loss": more than max(2, 20 %) of the ready nodes.
    """
    ready = len(snapshot.instances) - len(snapshot.moving)
    lost = sum(1 for one in snapshot.moving if one.state is State.LOST and snapshot.now_s - one.since_s < SILENT_MASS_S)
    return lost > max(2, (lost + ready) // 5)


def weight_of(quota: Quota, machine_type: str) -> int:
    """Return what one machine of the type takes of the quota; 0: nothing."""
    return quota.weights.get(machine_type, 0)


def _probe_detail(scope: str) -> str:
    return f"one probe at a time: {scope}"


def _nothing() -> str:
    return ""


def _reaches(quota: Quota, ware: Ware) -> bool:
    return _covers(quota, ware.offer.key)


def _under(quota: Quota, instance: Instance) -> bool:
    return _covers(quota, instance.offer)


def _covers(quota: Quota, key: OfferKey) -> bool:
    return quota.provider == key.provider and quota.region in ("", key.region) and quota.market in ("", key.market)


def _micro(usd: float | None) -> int | None:
    return None if usd is None else int(usd * MICRO + 1e-6)
