"""What could be bought: every pair of a node type and an offer that the policy lets together, and what hinders each.

A ware that may not be bought now carries the word and the reason (`unhealthy`, `unknown-price`, ...), so that an
unmet demand can be answered truthfully. Limits that are used up while a plan is made live in `room`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

from shoal.foundation.amounts import Amounts, covers
from shoal.model.offer import MICRO, Offer, OfferHealth, OfferKey
from shoal.model.policy import MachineNeed, NodeType, Policy
from shoal.model.snapshot import Snapshot

UNKNOWN_MICRO = 1_000_000 * MICRO
"""What a machine of unknown price counts as in comparisons, USD 1,000,000 an hour: it comes after every known one."""

USABLE_MEMORY_LEAST = 0.9
"""Share of a machine's nominal memory that its node offers at the least; requirements name the nominal size."""

LABEL_NODE_GROUP = "ray.io/node-group"
LABEL_MARKET = "ray.io/market-type"
LABEL_REGION = "ray.io/region"
LABEL_ZONE = "ray.io/availability-zone"
LABEL_ACCELERATOR = "ray.io/accelerator-type"

_UNUSUAL = re.compile(
    r"metal"  # bare metal of every cloud
    r"|^t\d[a-z]*\."  # EC2 burstable
    r"|^(e2-(micro|small|medium)|f1-micro|g1-small)$"  # Compute Engine shared core
    r"|^Standard_B\d"  # Azure burstable
)


class Ware(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that could be bought for a node type.

    `price_micro` is the list price per hour (None: unknown); `expected_micro` also counts launches that fail.
    `word` is empty where it may be bought now, else one of the words of `OfferReason`. With `probe_scopes` it may
    be bought once, as a probe of what was refused before: one probe at a time for each scope.
    """

    node_type: NodeType
    offer: Offer
    resources: Amounts
    labels: dict[str, str]
    price_micro: int | None
    expected_micro: int
    word: str = ""
    detail: str = ""
    probe_scopes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The text that orders wares where prices tie, and names them to people."""
        return f"{self.node_type.name} on {self.offer.key}"


def wares(snapshot: Snapshot, policy: Policy) -> list[Ware]:
    """Return every ware, cheapest first (by expected price, the type's order of markets, then name)."""
    usable = {(one.node_type, one.machine_type): one.resources for one in snapshot.usable}
    sick = [one for one in snapshot.health if one.unhealthy_for_s > 0 or one.p_success < 1 or one.may_probe]
    found: list[tuple[tuple[int, int, str], Ware]] = []
    for kind in policy.node_types:
        if kind.name == policy.head_node_type and kind.max_workers == 0:
            continue
        shut, canary = _breaker(snapshot, kind.name)
        for offer in offers_for(kind, snapshot.offers):
            resources = usable.get((kind.name, offer.key.machine_type)) or kind.on(offer.resources)
            ware = _ware(kind, offer, resources, sick, policy)
            if shut:
                ware = msgspec.structs.replace(ware, word="unhealthy", detail=shut)
            elif canary and not ware.word:
                ware = msgspec.structs.replace(ware, probe_scopes=(*ware.probe_scopes, canary))
            place = kind.markets.index(offer.key.market) if offer.key.market in kind.markets else 0
            found.append(((ware.expected_micro, place, ware.name), ware))
    found.sort(key=lambda pair: pair[0])
    return [ware for _, ware in found]


def offers_for(kind: NodeType, offers: Iterable[Offer]) -> list[Offer]:
    """Return the offers that the node type may use, in their order.

    A type with neither `machine_types` nor `need` uses the offers named like itself where its provider has such
    (`local`, `ssh`), else every one that its provider lists.
    """
    own = [offer for offer in offers if offer.key.provider == kind.provider and _in_place(kind, offer.key)]
    if kind.machine_types or kind.need is not None:
        return [
            offer
            for offer in own
            if offer.key.machine_type in kind.machine_types
            or (kind.need is not None and not kind.machine_types and satisfies(offer, kind.need))
        ]
    return [offer for offer in own if offer.key.machine_type == kind.name] or own


def satisfies(offer: Offer, need: MachineNeed) -> bool:
    """Say whether the offer meets the requirements; burstable and bare machines only where `families` names them."""
    name = offer.key.machine_type
    if need.families:
        if not any(name == family or name.startswith((family + ".", family + "-")) for family in need.families):
            return False
    elif _UNUSUAL.search(name):
        return False
    if need.arch and offer.arch != need.arch:
        return False
    if need.accelerator and offer.accelerator.lower() != need.accelerator.lower():
        return False
    if not covers(offer.resources, _usable(need.at_least)):
        return False
    return all(offer.resources.get(name, 0) <= amount for name, amount in need.at_most.items())


def _usable(wanted: Amounts) -> Amounts:
    """Return what a machine of the wanted size offers: who asks for 16 GiB means a machine sold with 16 GiB."""
    return {name: int(amount * USABLE_MEMORY_LEAST) if name == "memory" else amount for name, amount in wanted.items()}


def labels_of(kind: NodeType, offer: Offer) -> dict[str, str]:
    """Return the labels that a node of this ware will carry, Ray's default names included."""
    labels = {LABEL_NODE_GROUP: kind.name, LABEL_MARKET: offer.key.market}
    if offer.key.region:
        labels[LABEL_REGION] = offer.key.region
    if offer.key.zone:
        labels[LABEL_ZONE] = offer.key.zone
    if offer.accelerator:
        labels[LABEL_ACCELERATOR] = offer.accelerator
    return {**labels, **offer.labels, **kind.labels}


def in_scope(scope: str, key: str) -> bool:
    """Say whether `scope` (an offer's key, or a prefix of it such as a zone or a family) covers the key.

    >>> in_scope("aws/eu-west-1", "aws/eu-west-1/eu-west-1a/m5.large/spot"), in_scope("aws/eu", "aws/eu-west-1/x")
    (True, False)
    """
    if not key.startswith(scope):
        return False
    return len(key) == len(scope) or not scope or key[len(scope)] in "/."


def _in_place(kind: NodeType, key: OfferKey) -> bool:
    return (
        (not kind.zones or key.zone in kind.zones)
        and (not kind.regions or key.region in kind.regions)
        and (not kind.markets or key.market in kind.markets)
    )


def _ware(kind: NodeType, offer: Offer, resources: Amounts, sick: Sequence[OfferHealth], policy: Policy) -> Ware:
    price = offer.price_micro if kind.price_usd_per_h is None else round(kind.price_usd_per_h * MICRO)
    p_success, word, detail, probes = _health(str(offer.key), sick) if sick else (1.0, "", "", ())
    if price is None:
        expected = UNKNOWN_MICRO
        if not offer.is_named:
            word, detail = "unknown-price", "no price is known; name the machine type to buy it all the same"
        elif policy.budget.usd_per_hour_max is not None or policy.budget.usd_total_max is not None:
            word, detail = "budget", "no price is known, so the cap could not be kept"
    else:
        expected = price if p_success >= 1 else round(price / max(p_success, policy.health.p_least))
    return Ware(
        node_type=kind,
        offer=offer,
        resources=resources,
        labels=labels_of(kind, offer),
        price_micro=price,
        expected_micro=expected,
        word=word,
        detail=detail,
        probe_scopes=() if word else probes,
    )


def _health(key: str, sick: Sequence[OfferHealth]) -> tuple[float, str, str, tuple[str, ...]]:
    """Return the chance of a launch, and what stands against one; the worst scope that covers the key decides."""
    p_success, word, detail = 1.0, "", ""
    probes: list[str] = []
    for one in sick:
        if not in_scope(one.scope, key):
            continue
        p_success = min(p_success, one.p_success)
        if one.may_probe:
            probes.append(one.scope or "everything")
        elif one.unhealthy_for_s > 0 and not word:
            word = "unhealthy"
            said = one.error or one.code or "it was refused"
            detail = f"for {one.unhealthy_for_s:.0f} s more: {said}"
    return p_success, word, detail, tuple(probes)


def _breaker(snapshot: Snapshot, node_type: str) -> tuple[str, str]:
    """Return why launches of the type are stopped (or ``), and the breaker that lets one canary through."""
    canary = ""
    for one in snapshot.breakers:
        if one.node_type not in ("", node_type):
            continue
        if one.is_half_open:
            canary = canary or f"breaker {one.cause} of {one.node_type or 'all types'}"
        elif one.open_for_s > 0:
            return (
                f"launches of `{node_type}` are stopped for {one.open_for_s:.0f} s more "
                f"after {one.failures} failures: {one.error or one.cause}",
                "",
            )
    return "", canary
