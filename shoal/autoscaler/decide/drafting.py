"""The order in which demand is looked at: planned work stays, then gangs, standing requests, minimums, classes."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from shoal.autoscaler.decide.class_places import keep_where_planned, settle_classes, wanted
from shoal.autoscaler.decide.draft import Draft
from shoal.autoscaler.decide.gang_places import settle_gangs
from shoal.autoscaler.decide.standing_places import settle_minimums, settle_standing
from shoal.model.policy import Policy
from shoal.model.snapshot import Snapshot


def drafted(snapshot: Snapshot, policy: Policy, unwanted: AbstractSet[str] = frozenset()) -> Draft:
    """Return the draft in which everything but classes is placed, bought for or answered, and what classes still want.

    Wishes that are `unwanted` do not count as there.
    """
    draft = Draft(snapshot, policy, unwanted)
    ordered, left = wanted(draft)
    keep_where_planned(draft, ordered, left)
    settle_gangs(draft)
    settle_standing(draft)
    settle_minimums(draft)
    settle_classes(draft, ordered, left)
    return draft
