"""What head and providers said, joined with the ledger: facts with exact definitions, and one Snapshot.

Three witnesses speak of a machine: the provider's listing, the head's nodes, and our own wish (the ledger).
Here their words become facts; `reconcile` applies them; nobody else compares witnesses. Definitions
(docs/instance-states.md):

absent   two complete listings without it, begun at least `listing_lag_s` apart, the first one begun at least
         `listing_lag_s` after the last create call for it ended, and its agent is not in contact.
silent   the head says that the node is dead or gone; never while the head settles after a restart.
halted   listed as stopped, stopping, failed or preempted.
refused  the provider proved that there is no machine: a refused call, or a refusal found later.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from shoal.autoscaler.act.learn import may_probe
from shoal.autoscaler.act.ledger import Ledger
from shoal.autoscaler.act.rows import Attempt
from shoal.foundation.errors import ProviderError
from shoal.model.instance import Fact, Instance, State
from shoal.model.launch import Debris, Listing, Machine, Phase
from shoal.model.node import Node
from shoal.model.offer import Market, Offer, OfferHealth, OfferKey, Quota
from shoal.model.snapshot import Breaker, Snapshot, Work
from shoal.providers.protocol import Traits

UNSETTLED = frozenset({State.REQUESTED, State.BOOTING, State.LOST, State.RELEASING, State.STRAY})
"""States that a listing may end; while an instance is in one, its provider is listed often."""
_UP = (Phase.PENDING, Phase.RUNNING)


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One fact about one instance, with the witness's own words."""

    instance_id: str
    fact: Fact
    cause: str = ""
    machine: Machine | None = None
    node: Node | None = None
    error: ProviderError | None = None


class Extra(msgspec.Struct, frozen=True, kw_only=True):
    """A listed machine that no row of the ledger accounts for."""

    provider: str
    machine: Machine
    sightings: int


class Remainder(msgspec.Struct, frozen=True, kw_only=True):
    """Listed debris, with how many complete listings have shown it."""

    provider: str
    debris: Debris
    sightings: int


class Witnesses:
    """The newest word of the head and of each provider."""

    def __init__(self, traits: Mapping[str, Traits]) -> None:
        self.traits = traits
        self.work: Work | None = None
        self.heard_s = 0.0
        self.words = 0
        """How many words of head and providers were heard: a changed number means news."""
        self.cordoned: list[Node] = []
        self.is_head_heard = False
        """The stream of the head is open: `work` is what it says now."""
        self.nodes: dict[str, Node] = {}
        """The head's nodes by instance id, missing ones included."""
        self.markets: dict[str, Market] = {}
        self.market_s: dict[str, float] = {}
        self.listings: dict[str, Listing] = {}
        """The newest complete listing of each provider."""
        self._shown: dict[str, frozenset[str]] = {}
        """The names of its machines."""
        self.extras: dict[str, Extra] = {}
        self.remainders: dict[str, Remainder] = {}
        self._missing_since_s: dict[str, float] = {}
        self._halted: set[str] = set()
        self._notices: dict[str, Machine] = {}

    @property
    def is_listed(self) -> bool:
        """Whether every provider has had one complete listing since we started."""
        return all(name in self.listings for name in self.traits)

    def hear_work(self, work: Work, heard_s: float, *, is_first: bool = False) -> None:
        """Take the head's newest word. Within one stream an older one is left out; a new stream begins anew."""
        if not is_first and self.work is not None and (work.epoch, work.version) < (self.work.epoch, self.work.version):
            return
        self.work, self.heard_s = work, heard_s
        self.nodes = {node.instance_id: node for node in work.nodes if node.instance_id}
        self.cordoned = [node for node in work.nodes if node.is_cordoned]
        self.words += 1

    def hear_market(self, provider: str, market: Market, began_s: float) -> None:
        """Take a provider's newest offers and quotas."""
        self.markets[provider], self.market_s[provider] = market, began_s

    @property
    def word(self) -> tuple[int, int]:
        """Epoch and version of the head's newest word."""
        return (self.work.epoch, self.work.version) if self.work is not None else (0, 0)

    def in_contact(self, instance_id: str) -> bool:
        """Say whether the instance's agent talks to the head, as far as the head knows."""
        node = self.nodes.get(instance_id)
        return node is not None and not node.is_missing and not node.is_stale

    def is_settling(self) -> bool:
        """Say whether the head's word about dead nodes does not count yet."""
        return self.work is None or self.work.is_settling

    def facts_of_work(self, ledger: Ledger) -> Iterator[Seen]:
        """Yield what the head's newest word says about our instances."""
        if self.work is None:
            return
        # A ready row has nothing to hear from its node: only the few others are looked at, in the head's order.
        nodes, moving, closed = self.nodes, ledger.moving, ledger.closed
        for name in [name for name in nodes if name in moving or name in closed]:
            row, node = ledger.instance(name), nodes[name]
            if row is None or node.is_missing:
                continue
            if row.state is State.DRAINING:
                if row.drain_order and node.drain_order == row.drain_order and node.drain_answer:
                    fact = Fact.EMPTIED if node.drain_answer == "emptied" else Fact.BUSY
                    yield Seen(instance_id=name, fact=fact, cause=f"agent: {node.drain_answer}", node=node)
            elif row.state is State.LOST:
                # A machine that the cloud has halted may look alive to the head until it gives its verdict.
                if name not in self._halted and not node.is_stale:
                    yield Seen(instance_id=name, fact=Fact.JOINED, cause="its agent is back", node=node)
            elif row.state in _WAIT_FOR_JOIN and not node.is_stale:
                yield Seen(instance_id=name, fact=Fact.JOINED, cause="its agent joined", node=node)
        if self.is_settling():
            return
        for row in [row for name, row in ledger.instances.items() if name not in nodes]:
            if row.state in _IN_SERVICE:
                yield Seen(instance_id=row.instance_id, fact=Fact.SILENT, cause="the head lost its node")

    def facts_of_listing(
        self, provider: str, listing: Listing, ledger: Ledger, ended_s: Mapping[str, float]
    ) -> list[Seen]:
        """Take a provider's newest listing and return what it says about our instances.

        `ended_s` gives, by launch token, when the last create call ended; infinity while one is under way.
        An incomplete listing proves presence, never absence.
        """
        self.words += 1
        seen: list[Seen] = []
        here: set[str] = set()
        extras: dict[str, Machine] = {}
        instances, known, in_doubt = ledger.instances, ledger.machines, self._halted | self._notices.keys()
        is_ready, is_running = State.READY, Phase.RUNNING
        for machine in _known_first(listing.machines, ledger):
            name = machine.instance_id
            row = instances.get(name)
            if (
                row is not None
                and row.state is is_ready
                and machine.phase is is_running
                and machine.notice is None
                and machine.token in ("", row.token)
                and (before := known.get(machine.name)) is not None
                and before.machine_id == machine.machine_id == row.machine_id
                and name not in here
                and name not in in_doubt
            ):
                here.add(name)
                continue  # a ready row's machine, listed just as before: nothing to write down
            row = owner_of(machine, ledger)
            if row is None or row.instance_id in here:
                extras[machine.name] = machine
                continue
            is_up = machine.phase in _UP
            if row.state is State.GONE and (listing.began_s <= row.since_s or not (is_up or machine.is_billed)):
                continue  # begun before we wrote it off, or the cloud's obituary of a machine nobody pays for
            if is_up or machine.is_billed:
                here.add(row.instance_id)
            if is_up:
                self._halted.discard(row.instance_id)
                fact, cause = Fact.LISTED, f"listed as {machine.phase}"
            else:
                self._halted.add(row.instance_id)
                fact, cause = Fact.HALTED, f"listed as {machine.phase}"
            if machine.notice is not None:
                self._notices[row.instance_id] = machine
            else:
                self._notices.pop(row.instance_id, None)
            seen.append(Seen(instance_id=row.instance_id, fact=fact, cause=cause, machine=machine))
        seen.extend(self._refusals(listing, ledger, here))
        if listing.complete:
            seen.extend(self._absences(provider, listing, ledger, here, ended_s))
            self.listings[provider] = listing
            self._shown[provider] = frozenset(machine.name for machine in listing.machines)
            self._count_extras(provider, listing, extras)
        else:
            for name in here:
                self._missing_since_s.pop(name, None)
        return seen

    def _refusals(self, listing: Listing, ledger: Ledger, here: set[str]) -> Iterator[Seen]:
        for refusal in listing.refusals:
            attempt = ledger.attempts.get(refusal.token)
            names = (refusal.instance_id,) if refusal.instance_id else attempt.instance_ids if attempt else ()
            for name in names:
                row = ledger.instances.get(name)
                # A machine beside the refusal contradicts it: then it is no proof.
                if row is not None and row.state in _REFUSABLE and name not in here:
                    yield Seen(instance_id=name, fact=Fact.REFUSED, cause="refused later", error=refusal.error)

    def _absences(
        self, provider: str, listing: Listing, ledger: Ledger, here: set[str], ended_s: Mapping[str, float]
    ) -> Iterator[Seen]:
        lag_s = self.traits[provider].listing_lag_s
        for name in here & self._missing_since_s.keys():
            del self._missing_since_s[name]
        for row in [row for name, row in ledger.instances.items() if name not in here]:
            name = row.instance_id
            if row.offer.provider != provider or row.state is State.QUEUED:
                continue
            call_ended_s = ended_s.get(row.token, row.created_s)
            if listing.began_s < call_ended_s + lag_s:
                self._missing_since_s.pop(name, None)
                continue
            first_s = self._missing_since_s.setdefault(name, listing.began_s)
            if first_s < call_ended_s + lag_s:
                # Another call was made since: what was seen before it proves nothing about it.
                self._missing_since_s[name] = listing.began_s
                continue
            if listing.began_s - first_s >= lag_s and listing.began_s > first_s and not self.in_contact(name):
                yield Seen(instance_id=name, fact=Fact.ABSENT, cause="in no complete listing any more")

    def _count_extras(self, provider: str, listing: Listing, extras: Mapping[str, Machine]) -> None:
        before = self.extras
        self.extras = {name: one for name, one in before.items() if one.provider != provider}
        for name, machine in extras.items():
            times = before[name].sightings + 1 if name in before else 1
            self.extras[name] = Extra(provider=provider, machine=machine, sightings=times)
        old = self.remainders
        self.remainders = {name: one for name, one in old.items() if one.provider != provider}
        for debris in listing.debris:
            times = old[debris.name].sightings + 1 if debris.name in old else 1
            self.remainders[debris.name] = Remainder(provider=provider, debris=debris, sightings=times)

    def forget(self, instance_id: str) -> None:
        """Drop what was remembered of an instance that is gone."""
        self._missing_since_s.pop(instance_id, None)
        self._halted.discard(instance_id)
        self._notices.pop(instance_id, None)

    def is_shown(self, provider: str, name: str) -> bool:
        """Say whether the newest complete listing of the provider has a machine of that name."""
        return name in self._shown.get(provider, ())

    def is_halted(self, instance_id: str) -> bool:
        """Say whether the cloud listed the instance's machine as not running."""
        return instance_id in self._halted

    def has_notices(self) -> bool:
        """Say whether any provider announced that it will take a machine away."""
        return bool(self._notices)

    def idle_s(self, now_s: float) -> float | None:
        """Return for how long the whole cluster has had nothing to do, None while it has."""
        if self.work is None or self.work.idle_s is None:
            return None
        return self.work.idle_s + max(0.0, now_s - self.heard_s)

    def notice_of(self, instance_id: str) -> Machine | None:
        """Return the machine if its provider announced that it will take it away."""
        return self._notices.get(instance_id)


_WAIT_FOR_JOIN = frozenset({State.REQUESTED, State.BOOTING, State.GONE, State.STRAY})
_IN_SERVICE = frozenset({State.READY, State.DRAINING})
_REFUSABLE = frozenset({State.QUEUED, State.REQUESTED, State.BOOTING})


def _known_first(machines: Sequence[Machine], ledger: Ledger) -> list[Machine]:
    """Return the machines that the ledger knows by name, then the others, each by name."""
    ordered = sorted(machines, key=operator.attrgetter("name"))
    fresh = [one for one in ordered if one.name not in ledger.machines]
    return [one for one in ordered if one.name in ledger.machines] + fresh if fresh else ordered


def owner_of(machine: Machine, ledger: Ledger) -> Instance | None:
    """Return the row that accounts for the machine: by its instance tag, else by token and index.

    A machine of another launch attempt than the row's own is nobody's: one intent has one machine.
    """
    row = ledger.instance(machine.instance_id) if machine.instance_id else None
    if row is not None:
        return row if machine.token in ("", row.token) else None
    attempt: Attempt | None = ledger.attempts.get(machine.token)
    if attempt is None or not 0 <= machine.index < len(attempt.instance_ids):
        return None
    return ledger.instance(attempt.instance_ids[machine.index])


def snapshot(witnesses: Witnesses, ledger: Ledger, now_s: float) -> Snapshot:
    """Return everything that a plan may be made from, as of now."""
    work = _aged(witnesses, now_s)
    offers, quotas = _markets(witnesses, ledger)
    instances = ledger.ordered()
    return Snapshot(
        now_s=now_s,
        cluster_uid=ledger.meta.cluster_uid,
        may_expire=now_s >= ledger.grace_until_s,
        work=work,
        instances=instances,
        offers=offers,
        quotas=quotas,
        health=tuple(
            OfferHealth(
                scope=row.scope,
                p_success=row.p_success,
                unhealthy_for_s=max(row.until_s - now_s, _PROBING_S if row.probing else 0.0),
                failures=row.failures,
                code=row.code,
                error=row.error,
                may_probe=may_probe(row, now_s),
            )
            for _, row in sorted(ledger.health.items())
        ),
        breakers=tuple(
            Breaker(
                cause=row.cause,
                node_type=row.node_type,
                failures=row.failures,
                open_for_s=_open_for_s(row.until_s, row.probing, now_s),
                is_half_open=row.until_s is not None and row.until_s <= now_s and not row.probing,
                error=row.error,
            )
            for _, row in sorted(ledger.breakers.items())
        ),
        holds=tuple(hold for _, hold in sorted(ledger.holds.items())),
        recent=ledger.launches,
        usable=tuple(row for _, row in sorted(ledger.usable.items())),
        spent_micro=ledger.spent_micro(),
        committed_micro=ledger.committed_micro,
        serial_next=ledger.meta.serial_next,
        up_s=now_s - ledger.meta.born_s,
        is_listed=witnesses.is_listed,
    )


def _open_for_s(until_s: float | None, probing: str, now_s: float) -> float:
    """Return for how long a breaker stays open; while its canary is out, until that has an end."""
    if until_s is None:
        return 0.0
    return max(until_s - now_s, _CANARY_S if probing else 0.0)


_CANARY_S = 3600.0
_PROBING_S = 30.0
_AGE_LEAST_S = 0.5
"""Durations in the head's word are told to the half second; younger words are taken as they are."""
_ASKED = (State.QUEUED, State.REQUESTED)


def _aged(witnesses: Witnesses, now_s: float) -> Work:
    """Return the head's newest word as of now: it speaks only of changes, so its durations have gone on since."""
    work = witnesses.work or Work()
    age_s = max(0.0, now_s - witnesses.heard_s)
    has_notices = witnesses.has_notices()
    if age_s < _AGE_LEAST_S and not has_notices:
        return work
    return msgspec.structs.replace(
        work,
        nodes=tuple(
            [
                _aged_node(node, witnesses, age_s)
                if has_notices or node.idle_s is not None or node.notice_deadline_s is not None
                else node
                for node in work.nodes
            ]
        ),
        classes=tuple(msgspec.structs.replace(one, waiting_s=one.waiting_s + age_s) for one in work.classes),
        gangs=tuple(msgspec.structs.replace(one, waiting_s=one.waiting_s + age_s) for one in work.gangs),
        standing=tuple(
            one if one.ttl_s is None else msgspec.structs.replace(one, ttl_s=one.ttl_s - age_s)
            for one in work.standing
            if one.ttl_s is None or one.ttl_s > age_s
        ),
        idle_s=None if work.idle_s is None else work.idle_s + age_s,
    )


def _aged_node(node: Node, witnesses: Witnesses, age_s: float) -> Node:
    fields: dict[str, object] = {}
    if node.idle_s is not None:
        fields["idle_s"] = node.idle_s + age_s
    if node.notice_deadline_s is not None:
        fields["notice_deadline_s"] = max(0.0, node.notice_deadline_s - age_s)
    machine = witnesses.notice_of(node.instance_id)
    if machine is not None and machine.notice is not None and not node.notice:
        fields["notice"] = machine.notice.what
        fields["notice_deadline_s"] = machine.notice.deadline_s
    return msgspec.structs.replace(node, **fields) if fields else node


def _markets(witnesses: Witnesses, ledger: Ledger) -> tuple[tuple[Offer, ...], tuple[Quota, ...]]:
    """Return offers and quotas less what was started since each provider named them.

    What is only asked for (`queued`, `requested`) the planner subtracts by itself.
    """
    offers: list[Offer] = []
    quotas: list[Quota] = []
    for _, market in sorted(witnesses.markets.items()):
        offers.extend(market.offers)
        quotas.extend(market.quotas)
    asked: list[OfferKey] = []
    is_limited = bool(quotas) or any(offer.limit is not None for offer in offers)
    for row in ledger.instances.values() if is_limited else ():
        market_s = witnesses.market_s.get(row.offer.provider)
        if market_s is not None and row.created_s >= market_s and row.state not in _ASKED:
            asked.append(row.offer)
    if asked:
        offers = [_less(offer, asked.count(offer.key)) for offer in offers]
        quotas = [_used(quota, asked) for quota in quotas]
    return tuple(offers), tuple(quotas)


def _less(offer: Offer, count: int) -> Offer:
    if not count or offer.limit is None:
        return offer
    return msgspec.structs.replace(offer, limit=max(0, offer.limit - count))


def _used(quota: Quota, asked: Iterable[OfferKey]) -> Quota:
    more = sum(
        quota.weights.get(key.machine_type, 0)
        for key in asked
        if key.provider == quota.provider and key.region == quota.region and quota.market in ("", key.market)
    )
    return msgspec.structs.replace(quota, used=quota.used + more) if more else quota
