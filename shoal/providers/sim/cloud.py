"""A strict cloud in memory: it keeps the ten rules to the letter, and nothing that they do not promise.

Within the rules it is as unkind as its `Faults` say: a machine may be listed late or not yet again, an answer may be
lost, a halted machine stays billed. Everything that happens is decided by one seeded source of chance, on the event
loop's clock, so a seed tells the same story again; under a real loop it runs in real time.

It keeps a bill of its own, by the second, against which the autoscaler's spend can be held.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from shoal.foundation.chance import Chance
from shoal.foundation.clock import Clock
from shoal.foundation.errors import (
    CapacityError,
    NotOffered,
    ProviderError,
    QuotaError,
    RequestError,
    TokenMismatch,
)
from shoal.model.launch import Debris, Launch, Machine, MachineNotice, Phase, Refusal
from shoal.model.offer import SPOT, Market, Offer, OfferKey, Quota
from shoal.providers.protocol import Traits
from shoal.providers.sim.faults import CALM, Faults, SimOffer, SimQuota, default_offers

HALTING_S = 5.0
OBITUARY_S = 120.0
NOTICE_S = 120.0
_CALM_STEP_S = 60.0


class SimRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a launch request of this cloud holds, as JSON: the tags of its machines."""

    cluster_uid: str
    node_type: str
    instance_ids: tuple[str, ...]
    attempt: int = 1
    epoch: int = 0
    role: str = "worker"
    join_secret: str = ""


class SimMachine(msgspec.Struct, kw_only=True):
    """One machine of the cloud, alive or not."""

    name: str
    machine_id: str
    token: str
    index: int
    offer: OfferKey
    request: SimRequest
    created_s: float
    listed_s: float
    resources: dict[str, int]
    phase: Phase = Phase.PENDING
    is_joining: bool = True
    hidden_until_s: float = 0.0
    ended_s: float | None = None
    """When it stopped running."""
    deleted_s: float | None = None
    """When it ceased to exist, and to cost."""
    unlisted_s: float | None = None
    notice_s: float | None = None
    price_usd_per_h: float = 0.0
    billed_from_s: float = 0.0
    billed_usd: float = 0.0
    face: Machine | None = None
    """How it was listed last: of many machines few change from one listing to the next, but for their age."""

    @property
    def instance_id(self) -> str:
        return self.request.instance_ids[self.index]

    @property
    def is_running(self) -> bool:
        return self.ended_s is None


class _Tally(msgspec.Struct):
    """What one cluster has, and owes up to `at_s`."""

    count: int = 0
    usd_per_h: float = 0.0
    usd: float = 0.0
    at_s: float = 0.0


class SimCloud:
    """The cloud of one account and region. Hooks tell who lives on the machines what happens to them."""

    def __init__(
        self,
        clock: Clock,
        chance: Chance,
        *,
        name: str = "sim",
        region: str = "r1",
        offers: Sequence[SimOffer] | None = None,
        quotas: Sequence[SimQuota] = (),
        traits: Traits | None = None,
        faults: Faults = CALM,
        boot_s: tuple[float, float] = (20.0, 60.0),
        listing_lag_s: float = 10.0,
    ) -> None:
        """Sell `offers`; a boot takes a time between the two of `boot_s`."""
        self._clock, self._chance = clock, chance
        self.name, self.region, self.quotas, self.faults, self.boot_s = name, region, quotas, faults, boot_s
        self.traits = traits or Traits(
            name=name,
            token_ttl_s=3600.0,
            listing_lag_s=listing_lag_s,
            call_limit_s=30.0,
            boot_typical_s=sum(boot_s) / 2,
            batch_max=100,
            self_end="terminate",
            notices=True,
        )
        self.offers: dict[OfferKey, SimOffer] = {
            OfferKey(name, region, one.zone, one.machine_type, one.market): one
            for one in (default_offers() if offers is None else offers)
        }
        self.machines: dict[str, SimMachine] = {}
        """Every machine that somebody may still see or ask for."""
        self.buried: list[SimMachine] = []
        """Those that are gone for good; only their bills remain."""
        self.debris: dict[str, tuple[Debris, float, str]] = {}
        """By name: the debris, when it arose, and the cluster's uid."""
        self.refusals: dict[str, tuple[Refusal, float, str]] = {}
        self._tokens: dict[str, tuple[Launch, float, tuple[str, ...]]] = {}
        self._tallies: dict[str, _Tally] = collections.defaultdict(_Tally)
        """By the cluster's uid."""
        self._serial = 0
        self._timers: set[asyncio.TimerHandle] = set()
        self.is_carefree = False
        """Nothing ever befalls a running machine: a long day of many machines need not ask each minute."""
        self.on_created: Callable[[SimMachine], None] = lambda machine: None
        self.on_running: Callable[[SimMachine], None] = lambda machine: None
        self.on_notice: Callable[[SimMachine, float], None] = lambda machine, in_s: None
        self.on_ended: Callable[[SimMachine], None] = lambda machine: None
        self.prices_moved = False
        self.launches = 0
        """Launch requests that were looked at."""
        self.dry: set[OfferKey] = set()
        """Offers that the market shows and no launch gets: what a cloud does not say of itself."""
        self.injected: collections.Counter[str] = collections.Counter()
        """How often each fault has really struck, by its name in `Faults`."""

    def strikes(self, fault: str, chance: Chance | None = None) -> bool:
        """Draw whether the fault strikes now, and count it if so."""
        if (chance or self._chance).random() >= getattr(self.faults, fault):
            return False
        self.injected[fault] += 1
        return True

    # what the provider asks

    def market(self) -> Market:
        """Return what is sold now, and the quotas with what all clusters use of them."""
        running = collections.Counter(one.offer for one in self.machines.values() if one.is_running)
        offers = []
        for key, one in sorted(self.offers.items()):
            used = running[key]
            offers.append(
                Offer(
                    key=key,
                    resources=one.resources,
                    price_usd_per_h=one.price_usd_per_h,
                    limit=None if one.limit is None else max(0, one.limit - used),
                    arch=one.arch,
                    accelerator=one.accelerator,
                    boot_typical_s=self.traits.boot_typical_s,
                )
            )
        quotas = [
            Quota(
                name=quota.name,
                provider=self.name,
                region=self.region,
                market=quota.market,
                limit=quota.limit,
                used=self._used(quota),
                weights=quota.weights,
            )
            for quota in self.quotas
        ]
        return Market(offers=tuple(offers), quotas=tuple(quotas))

    def shown(self, uid: str) -> tuple[tuple[Machine, ...], tuple[Debris, ...], tuple[Refusal, ...]]:
        """Return what a complete listing shows of the cluster now.

        Until `listing_lag_s` has passed since its call, a machine may be shown or not, from one listing to the
        next (rule R3 promises no more); the same holds for one that has just ceased to exist.
        """
        now_s = self._clock.monotonic_s()
        machines = []
        for machine in self.machines.values():
            if machine.request.cluster_uid != uid:
                continue
            if now_s < machine.hidden_until_s or (now_s < machine.listed_s and self._chance.random() < 0.5):
                continue
            if machine.deleted_s is not None and (
                machine.unlisted_s is None or now_s >= machine.unlisted_s or self._chance.random() < 0.5
            ):
                continue
            machines.append(self._as_listed(machine, now_s))
        debris = tuple(
            msgspec.structs.replace(one, age_s=now_s - born_s)
            for one, born_s, owner in self.debris.values()
            if owner == uid
        )
        refusals = tuple(one for one, born_s, owner in self.refusals.values() if owner == uid and now_s >= born_s)
        return tuple(machines), debris, refusals

    def launch(self, launch: Launch) -> tuple[tuple[Machine, ...], ProviderError | None]:
        """Look at one launch request: the machines it has given (now or before), and what was refused."""
        now_s = self._clock.monotonic_s()
        known = self._tokens.get(launch.token)
        if known is not None and now_s - known[1] < self.traits.token_ttl_s:
            if known[0].request != launch.request or known[0].offer != launch.offer:
                return (), TokenMismatch(f"token {launch.token} was used with another request")
            return tuple(self._as_listed(self.machines[name], now_s) for name in known[2]), None
        self.launches += 1
        try:
            request = msgspec.json.decode(launch.request, type=SimRequest)
        except msgspec.DecodeError as wrong:
            return (), RequestError(f"the request is not a request of this cloud: {wrong}")
        offer = self.offers.get(launch.offer)
        if offer is None:
            return (), NotOffered(f"{launch.offer} is not sold here")
        count, error = self._room(launch, offer)
        least = launch.count_min if self.traits.is_atomic else 1
        if count < max(1, least):
            return (), error
        names = tuple(self._create(launch, request, index) for index in range(count))
        self._tokens[launch.token] = (launch, now_s, names)
        if self.strikes("late_refusal"):
            self._later(self._chance.uniform(1.0, 8.0), self._refuse_late, launch, request, names)
            return (), None  # accepted, nothing to show yet
        return tuple(self._as_listed(self.machines[name], now_s) for name in names), error

    def release(self, name: str) -> None:
        """End a machine or remove debris; what is gone or never was is fine (rule R6)."""
        if name in self.debris:
            del self.debris[name]
            return
        machine = self.machines.get(name)
        if machine is None or machine.deleted_s is not None or machine.phase is Phase.HALTING:
            return
        self._end(machine, Phase.HALTING)
        self._later(self._chance.uniform(1.0, HALTING_S), self._delete, machine)

    # what happens by itself

    def set_price(self, key: OfferKey, usd_per_h: float) -> None:
        """Change an offer's price; what runs is billed at the new one from now on."""
        self.prices_moved = True
        self.injected["price_changes_per_h"] += 1
        self.offers[key] = msgspec.structs.replace(self.offers[key], price_usd_per_h=usd_per_h)
        for machine in self.machines.values():
            if machine.offer == key and machine.deleted_s is None:
                self._settle_bill(machine)
                self._count(machine, 0, usd_per_h - machine.price_usd_per_h)
                machine.price_usd_per_h = usd_per_h

    def interrupt(self, name: str, notice_s: float = NOTICE_S) -> None:
        """Announce that a machine will be taken away, then take it."""
        machine = self.machines[name]
        if machine.is_running and machine.notice_s is None:
            self.injected["interruptions_per_h"] += 1
            machine.notice_s = self._clock.monotonic_s() + notice_s
            self._later(notice_s, self.vanish, name)
            self.on_notice(machine, notice_s)

    def halt(self, name: str) -> None:
        """Stop a machine; it stays listed as halted, and billed, until it is released."""
        machine = self.machines[name]
        if machine.is_running:
            self.injected["halts_per_h"] += 1
            self._end(machine, Phase.HALTED)

    def vanish(self, name: str) -> None:
        """End a machine without a word."""
        machine = self.machines[name]
        if machine.is_running:
            self.injected["vanishes_per_h"] += 1
            self._end(machine, Phase.HALTED)
            self._delete(machine)

    def bill_usd(self, uid: str = "") -> float:
        """Return what the cluster (or everyone) owes up to now."""
        now_s = self._clock.monotonic_s()
        tallies = self._tallies.values() if not uid else (self._tallies[uid],)
        return sum(one.usd + (now_s - one.at_s) * one.usd_per_h / 3600 for one in tallies)

    def rate(self, uid: str) -> tuple[int, float]:
        """Return how many machines of the cluster exist, and what they cost in USD per hour."""
        tally = self._tallies[uid]
        return tally.count, tally.usd_per_h

    def existing(self, uid: str = "") -> list[SimMachine]:
        """Return every machine that exists and costs, halted ones included."""
        return [one for one in self.machines.values() if one.deleted_s is None and uid in ("", one.request.cluster_uid)]

    def close(self) -> None:
        """Let nothing more happen."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    # parts

    def _room(self, launch: Launch, offer: SimOffer) -> tuple[int, ProviderError | None]:
        """Return how many machines can be given, and the error that explains the rest."""
        wanted = len(launch.instance_ids)
        count = wanted
        error: ProviderError | None = None
        if launch.offer in self.dry:
            self.injected["dry"] += 1
            return 0, CapacityError(f"no capacity for {launch.offer}", code="InsufficientCapacity")
        if self.strikes("no_capacity"):
            return 0, CapacityError(f"no capacity for {launch.offer}", code="InsufficientCapacity")
        if offer.limit is not None:
            left = offer.limit - sum(
                1 for one in self.machines.values() if one.is_running and one.offer == launch.offer
            )
            if left < count:
                count = max(0, left)
                error = CapacityError(f"{count} of {launch.offer} left", code="InsufficientCapacity")
                self.injected["limit"] += 1
        for quota in self.quotas:
            weight = quota.weights.get(launch.offer.machine_type, 0)
            if weight and quota.market in ("", launch.offer.market):
                left = (quota.limit - self._used(quota)) // weight
                if left < count:
                    count = max(0, left)
                    error = QuotaError(f"quota {quota.name} is {quota.limit}", code="QuotaExceeded")
                    self.injected["quota"] += 1
        if count > 1 and self.strikes("part_only"):
            count = self._chance.randrange(1, count)
            error = CapacityError(f"only {count} of {wanted} of {launch.offer}", code="InsufficientCapacity")
        return count, error

    def _used(self, quota: SimQuota) -> int:
        return sum(
            quota.weights.get(one.offer.machine_type, 0)
            for one in self.machines.values()
            if one.is_running and quota.market in ("", one.offer.market)
        )

    def _create(self, launch: Launch, request: SimRequest, index: int) -> str:
        now_s, offer = self._clock.monotonic_s(), self.offers[launch.offer]
        self._serial += 1
        name = f"{self.name}-m{self._serial:06d}"
        resources = dict(offer.resources)
        if self.strikes("smaller"):
            resources["memory"] = resources.get("memory", 0) * 9 // 10
        machine = SimMachine(
            name=name,
            machine_id=f"m-{self._serial:08x}",
            token=launch.token,
            index=index,
            offer=launch.offer,
            request=request,
            created_s=now_s,
            listed_s=now_s + self._chance.uniform(0.0, 0.9) * self.traits.listing_lag_s,
            resources=resources,
            hidden_until_s=now_s + 300.0 if self.strikes("hidden") else 0.0,
            is_joining=not self.strikes("never_join"),
            price_usd_per_h=offer.price_usd_per_h or 0.0,
            billed_from_s=now_s,
        )
        self.machines[name] = machine
        self.on_created(machine)
        self._count(machine, 1, machine.price_usd_per_h)
        low_s, high_s = self.boot_s
        boot_s = low_s + (high_s - low_s) * self._chance.betavariate(2, 4)
        if self.strikes("slow_boot"):
            boot_s *= 10
        self._later(boot_s, self._boot, machine)
        return name

    def _boot(self, machine: SimMachine) -> None:
        if not machine.is_running:
            return
        machine.phase = Phase.RUNNING
        if machine.is_joining:
            self.on_running(machine)
        self._worry(machine)

    def _worry(self, machine: SimMachine) -> None:
        """Look once a minute whether something befalls a running machine."""
        if not machine.is_running or self.is_carefree:
            return
        step_h = _CALM_STEP_S / 3600
        draw = self._chance.random()
        for rate, deed in (
            (self.faults.halts_per_h, self.halt),
            (self.faults.vanishes_per_h, self.vanish),
            (self.faults.interruptions_per_h if machine.offer.market == SPOT else 0.0, self.interrupt),
        ):
            if draw < rate * step_h:
                deed(machine.name)
                break
            draw -= rate * step_h
        if self.faults.price_changes_per_h and self._chance.random() < self.faults.price_changes_per_h * step_h:
            price = self.offers[machine.offer].price_usd_per_h or 0.1
            self.set_price(machine.offer, round(price * self._chance.uniform(0.8, 1.3), 4))
        self._later(_CALM_STEP_S, self._worry, machine)

    def _refuse_late(self, launch: Launch, request: SimRequest, names: tuple[str, ...]) -> None:
        now_s = self._clock.monotonic_s()
        for name in names:
            machine = self.machines[name]
            if machine.is_running:
                self._end(machine, Phase.HALTED)
                self._delete(machine, may_leave=False)
                machine.unlisted_s = now_s
        error = CapacityError(f"no capacity for {launch.offer}", code="StockoutLate")
        self.refusals[launch.token] = (Refusal(launch.token, error), now_s, request.cluster_uid)
        self._later(1800.0, self.refusals.pop, launch.token, None)
        if self.strikes("debris"):
            self._leave(f"{names[0]}-disk", launch.token, request.instance_ids[0], request.cluster_uid)

    def _end(self, machine: SimMachine, phase: Phase) -> None:
        if machine.ended_s is None:
            machine.ended_s = self._clock.monotonic_s()
            machine.phase = phase
            self.on_ended(machine)
        machine.phase = phase

    def _delete(self, machine: SimMachine, *, may_leave: bool = True) -> None:
        if machine.deleted_s is not None:
            return
        self._settle_bill(machine)
        self._count(machine, -1, -machine.price_usd_per_h)
        now_s = machine.deleted_s = self._clock.monotonic_s()
        machine.phase = Phase.HALTED
        machine.unlisted_s = now_s + self._chance.uniform(0.0, 0.9) * self.traits.listing_lag_s
        if may_leave and self.strikes("debris"):
            self._leave(f"{machine.name}-disk", machine.token, machine.instance_id, machine.request.cluster_uid)
        # Nobody can see it any more after that; what was billed must stay known.
        self._later(OBITUARY_S + self.traits.token_ttl_s, self._bury, machine)

    def _bury(self, machine: SimMachine) -> None:
        self.buried.append(self.machines.pop(machine.name))
        known = self._tokens.get(machine.token)
        if known is not None and self._clock.monotonic_s() - known[1] >= self.traits.token_ttl_s:
            del self._tokens[machine.token]

    def _leave(self, name: str, token: str, instance_id: str, uid: str) -> None:
        debris = Debris(name=name, kind="disk", token=token, instance_id=instance_id)
        self.debris[name] = (debris, self._clock.monotonic_s(), uid)

    def _settle_bill(self, machine: SimMachine) -> None:
        now_s = self._clock.monotonic_s()
        machine.billed_usd += (now_s - machine.billed_from_s) * machine.price_usd_per_h / 3600
        machine.billed_from_s = now_s

    def _count(self, machine: SimMachine, machines: int, usd_per_h: float) -> None:
        """Change what the machine's cluster has from now on."""
        tally, now_s = self._tallies[machine.request.cluster_uid], self._clock.monotonic_s()
        tally.usd += (now_s - tally.at_s) * tally.usd_per_h / 3600
        tally.at_s = now_s
        tally.count += machines
        # Many small differences of floats would leave dust on an empty cluster.
        tally.usd_per_h = tally.usd_per_h + usd_per_h if tally.count else 0.0

    def _as_listed(self, machine: SimMachine, now_s: float) -> Machine:
        face = machine.face
        if (
            face is not None
            and face.phase is machine.phase
            and face.is_billed is (machine.deleted_s is None)
            and machine.notice_s is None
        ):
            return msgspec.structs.replace(face, age_s=now_s - machine.created_s)
        request = machine.request
        notice = None
        if machine.notice_s is not None:
            notice = MachineNotice(what="interruption", deadline_s=max(0.0, machine.notice_s - now_s))
        machine.face = face = Machine(
            name=machine.name,
            machine_id=machine.machine_id,
            token=machine.token,
            offer=machine.offer,
            index=machine.index,
            phase=machine.phase,
            is_billed=machine.deleted_s is None,
            role=request.role,
            instance_id=machine.instance_id,
            node_type=request.node_type,
            attempt=request.attempt,
            epoch=request.epoch,
            age_s=now_s - machine.created_s,
            notice=notice,
        )
        return face

    def _later(self, delay_s: float, deed: Callable[..., Any], *args: Any) -> None:
        """Let something happen after a time, unless the cloud is closed before."""

        def happen() -> None:
            self._timers.discard(timer)
            deed(*args)

        timer = asyncio.get_running_loop().call_later(delay_s, happen)
        self._timers.add(timer)
