"""What is waiting: classes of equal work with counts, gangs, and standing requests.

Each unit of work is counted by exactly one accountant (docs/demand.md), so these values may be added up.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from shoal.foundation.amounts import Amounts


class Strategy(StrEnum):
    """How the members of a gang stand to each other; Ray's names and meanings."""

    PACK = "PACK"
    SPREAD = "SPREAD"
    STRICT_PACK = "STRICT_PACK"
    STRICT_SPREAD = "STRICT_SPREAD"


class Selector(msgspec.Struct, frozen=True, kw_only=True):
    """Which nodes may hold the work: every term of `hard` must match.

    Terms are Ray's strings: `value`, `!value`, `in(a,b)`, `!in(a,b)`, `exists()`, `!exists()`. `fallback` holds
    alternatives, tried in order when no node matches `hard`. `node_ids` limits to those nodes when not empty
    (`is_soft_node`: only prefers them).
    """

    hard: dict[str, str] = {}
    fallback: tuple[dict[str, str], ...] = ()
    node_ids: tuple[str, ...] = ()
    is_soft_node: bool = False

    def __bool__(self) -> bool:
        return bool(self.hard or self.fallback or self.node_ids)


ANYWHERE = Selector()


class DemandClass(msgspec.Struct, frozen=True, kw_only=True):
    """Work of one shape and constraint that waits: `waiting` units (tasks or actors), all alike.

    `running_slots` units of the class run now; `duration_s` is the owners' moving average, None below five
    samples. Width, not length, is bought: see `shoal.placement.width`.
    """

    key: str
    amounts: Amounts
    waiting: int
    running_slots: int = 0
    duration_s: float | None = None
    selector: Selector = ANYWHERE
    spread: bool = False
    kind: str = "task"  # "task" | "actor"
    jobs: tuple[str, ...] = ()
    waiting_s: float = 0.0
    is_quantised: bool = False
    unplaceable_on: tuple[str, ...] = ()
    """Nodes where it fits by the numbers but has waited for 10 s all the same (`fits_but_waits`)."""


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """One member of a gang."""

    amounts: Amounts
    selector: Selector = ANYWHERE


class Gang(msgspec.Struct, frozen=True, kw_only=True):
    """Bundles that start together or not at all (a pending placement group)."""

    gang_id: str
    bundles: tuple[Bundle, ...]
    strategy: Strategy = Strategy.PACK
    job: str = ""
    waiting_s: float = 0.0
    topology: str = ""
    name: str = ""
    """What its maker called it, for people; `gang_id` is what identifies it."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A `request_resources` of one owner: the cluster's total size shall hold these bundles for `ttl_s` more.

    A standing request is a total, not an extra; over owners the element-wise maximum counts.
    """

    owner: str
    bundles: tuple[Bundle, ...]
    job: str = ""
    ttl_s: float | None = None
