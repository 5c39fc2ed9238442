"""`shoal simulate`: a trace against a cluster file in virtual time, by the real loop, ledger and planner.

The clouds are simulated, one per provider of the file, and sell what the price tables know. What is measured: the
clouds' own bills, how long work waited, how full the machines were. docs/simulate.md describes the result.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from shoal.autoscaler.act.ledger import Ledger
from shoal.autoscaler.act.loop import Autoscaler, Improve
from shoal.autoscaler.decide.wares import labels_of
from shoal.config.demand_csv import TraceRow, gang_of
from shoal.foundation import ids
from shoal.foundation.amounts import shown
from shoal.foundation.chance import Chance
from shoal.foundation.clock import LoopClock
from shoal.foundation.eventlog import Kind, MemoryLog
from shoal.model.offer import Offer, OfferKey
from shoal.model.policy import NodeType, Policy
from shoal.providers.protocol import Traits
from shoal.providers.sim.cloud import SimCloud, SimMachine
from shoal.providers.sim.faults import CALM, Faults, SimOffer
from shoal.providers.sim.provider import SimProvider
from shoal.testing.memory_disk import MemoryDisk
from shoal.testing.trace_head import TraceHead
from shoal.testing.world import SimBoot

REJOIN_S = 5.0
BOOT_TIMER_S = 600.0
SAMPLES_MOST = 2_000
AFTER_S_MOST = 7 * 86400.0
"""How long after the last submission a day may go on."""
EVENTS_KEPT = 20_000
COLLECTED_EVERY = 50_000
"""How many values a simulated day makes more than it drops before the collector looks at the young ones."""


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What a simulated day is made of."""

    policy: Policy
    offers: tuple[Offer, ...]
    seed: int = 0
    faults: Faults = CALM
    boot_s: tuple[float, float] = (30.0, 90.0)
    report_every_s: float = 1.0
    usage_every_s: float = 10.0
    listing_lag_s: float = 30.0
    until_s: float | None = None
    """When to stop; None: when everything is done and every idle machine is gone."""
    is_fixed: bool = False
    """Nobody gives machines back: the day ends with its work."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster at one moment; `cpu_used` and `cpu_there` in CPUs."""

    at_s: float
    machines: int
    nodes: int
    waiting: int
    cpu_used: float
    cpu_there: float
    usd_per_h: float
    usd: float


class Day(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. Waits are (seconds, units), sorted."""

    ended_s: float
    usd: float
    machines_most: int
    machines_started: int
    machine_s: float
    cpu_used_s: float
    cpu_there_s: float
    submitted: int
    started: int
    finished: int
    put_back: int
    unmet: tuple[dict[str, Any], ...]
    waits: tuple[tuple[float, int], ...]
    samples: tuple[Sample, ...]
    by_type: tuple[dict[str, Any], ...]
    rounds: int
    alarms: tuple[str, ...]
    took_s: float
    memory_bytes_most: int


async def simulate(trace: Sequence[TraceRow], setting: Setting, improve: Improve) -> Day:
    """Play the trace to its end. Run it on the virtual loop (`shoal.testing.sim_time.run`)."""
    began_s = time.perf_counter()
    running = _Running(setting, improve)
    # Each round makes and drops a value per machine, hardly any of them in a cycle.
    usual = gc.get_threshold()
    gc.set_threshold(COLLECTED_EVERY, *usual[1:])
    running.start()
    try:
        await running.play(trace)
    finally:
        await running.stop()
        gc.set_threshold(*usual)
    return running.day(time.perf_counter() - began_s)


class _Running:
    """The wired parts of a day."""

    def __init__(self, setting: Setting, improve: Improve) -> None:
        self._setting = setting
        self.clock, chance = LoopClock(), Chance(f"simulate/{setting.seed}")
        self._chance = chance.split("joins")
        self.uid = ids.cluster_uid(chance.split("uid"))
        self.log = MemoryLog(self.clock, events_max=EVENTS_KEPT)
        self._kinds: dict[str, NodeType] = {kind.name: kind for kind in setting.policy.node_types}
        self._offers: dict[OfferKey, Offer] = {offer.key: offer for offer in setting.offers}
        self.clouds: dict[str, SimCloud] = {}
        providers: dict[str, Any] = {}
        for name in sorted({kind.provider for kind in setting.policy.node_types}):
            cloud = self._cloud(name, chance)
            self.clouds[name] = cloud
            providers[name] = SimProvider(cloud, self.clock, chance.split(f"calls/{name}"), cluster_uid=self.uid)
        self.head = TraceHead(
            self.clock,
            chance.split("head"),
            self.log,
            cluster_uid=self.uid,
            report_every_s=setting.report_every_s,
        )
        self.head.prepare(self._labels, usage_every_s=setting.usage_every_s)
        self._machines: dict[str, SimMachine] = {}
        self._disk = MemoryDisk()
        self.ledger = Ledger(self._disk, self.clock)
        self.autoscaler = Autoscaler(
            self.clock,
            chance.split("autoscaler"),
            self.ledger,
            self.head.of_session(),
            providers,
            SimBoot(self.uid),
            self.log,
            setting.policy,
            improve,
            cluster_uid=self.uid,
            publish_every_s=(3600.0, 3600.0),
        )
        self._task: asyncio.Task[str] | None = None
        self._samples: list[Sample] = []
        self._sample_every_s = 10.0
        self._machines_most = 0
        self._failed = ""

    def start(self) -> None:
        """Start the autoscaler and the sampling."""
        self._task = asyncio.ensure_future(self.autoscaler.run())
        self._sampler = asyncio.ensure_future(self._sample())

    async def stop(self) -> None:
        """Stop everything in order."""
        self._sampler.cancel()
        self.autoscaler.stop()
        if self._task is not None:
            await asyncio.gather(self._task, self._sampler, return_exceptions=True)
            error = None if self._task.cancelled() else self._task.exception()
            self._failed = f"{type(error).__name__}: {error}" if error else ""
        for cloud in self.clouds.values():
            cloud.close()
        self._note()
        self._disk.close()

    async def play(self, trace: Sequence[TraceRow]) -> None:
        """Submit the trace's work at its times, then wait until nothing is left to do."""
        gangs: dict[str, list[TraceRow]] = {}
        for row in trace:
            if row.work.gang:
                gangs.setdefault(row.work.gang, []).append(row)
        keys: dict[tuple[Any, ...], str] = {}
        until_s = self._setting.until_s
        for row in trace:
            if until_s is not None and row.submit_s > until_s:
                break
            wait_s = row.submit_s - self.clock.monotonic_s()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            work = row.work
            if work.gang:
                members = gangs.pop(work.gang, [])
                if members:
                    longest_s = max(one.duration_s for one in members)
                    self.head.enter_gang(gang_of(work.gang, [one.work for one in members]), longest_s)
                continue
            shape = (tuple(sorted(work.amounts.items())), tuple(sorted(work.selector.hard.items())))
            key = keys.setdefault(shape, f"L{work.line}")
            self.head.enter(work.amounts, work.selector, work.count, row.duration_s, key)
        await self._finish(until_s)

    async def _finish(self, until_s: float | None) -> None:
        last_s = self.clock.monotonic_s()
        if until_s is not None:
            await asyncio.sleep(max(0.0, until_s - last_s))
            return
        least = sum(kind.min_workers for kind in self._kinds.values())
        stuck_s = max(3600.0, 2 * self._setting.policy.idle_timeout_s)
        progress, since_s = (-1, -1), last_s
        while self.clock.monotonic_s() - last_s < AFTER_S_MOST:
            machines = sum(cloud.rate(self.uid)[0] for cloud in self.clouds.values())
            if self.head.is_idle and (machines <= least or self._setting.is_fixed):
                return
            # Work that nothing can serve would wait for ever: an hour without anything happening is the end.
            now = (self.head.counts.finished, machines)
            if now != progress or self.head.running:
                progress, since_s = now, self.clock.monotonic_s()
            elif self.clock.monotonic_s() - since_s > stuck_s:
                return
            await asyncio.sleep(10.0)

    # machines

    def _cloud(self, name: str, chance: Chance) -> SimCloud:
        cloud = SimCloud(
            self.clock,
            chance.split(f"cloud/{name}"),
            name=name,
            offers=(),
            faults=self._setting.faults,
            boot_s=self._setting.boot_s,
            traits=Traits(
                name=name,
                listing_lag_s=self._setting.listing_lag_s,
                call_limit_s=30.0,
                boot_typical_s=sum(self._setting.boot_s) / 2,
                batch_max=100,
                self_end="terminate",
                notices=True,
            ),
        )
        faults = self._setting.faults
        cloud.is_carefree = not (
            faults.halts_per_h or faults.vanishes_per_h or faults.interruptions_per_h or faults.price_changes_per_h
        )
        cloud.offers = {
            offer.key: SimOffer(
                machine_type=offer.key.machine_type,
                resources=offer.resources,
                price_usd_per_h=offer.price_usd_per_h,
                zone=offer.key.zone,
                market=offer.key.market,
                limit=offer.limit,
                arch=offer.arch,
                accelerator=offer.accelerator,
            )
            for offer in self._setting.offers
            if offer.key.provider == name
        }
        cloud.on_created = self._created
        cloud.on_running = self._runs
        cloud.on_ended = self._ends
        return cloud

    def _created(self, machine: SimMachine) -> None:
        """Bill what the cluster file says, where it says a price: the planner counts with it too."""
        kind = self._kinds.get(machine.request.node_type)
        if kind is not None and kind.price_usd_per_h is not None:
            machine.price_usd_per_h = kind.price_usd_per_h

    def _runs(self, machine: SimMachine) -> None:
        if machine.request.cluster_uid == self.uid:
            self._later(self._chance.uniform(0.5, 2.0), machine)

    def _later(self, delay_s: float, machine: SimMachine) -> None:
        asyncio.get_running_loop().call_later(delay_s, self._join, machine)

    def _join(self, machine: SimMachine) -> None:
        if not machine.is_running:
            return
        name = machine.instance_id
        kind = self._kinds.get(machine.request.node_type)
        total = dict(kind.on(machine.resources)) if kind is not None else dict(machine.resources)
        self._machines[name] = machine
        if self.head.join(name, machine.request.node_type, total):
            return
        if self.clock.monotonic_s() - machine.created_s > BOOT_TIMER_S:
            self.clouds[machine.offer.provider].release(machine.name)  # its own boot timer
            return
        self._later(REJOIN_S, machine)

    def _ends(self, machine: SimMachine) -> None:
        self._machines.pop(machine.instance_id, None)
        self.head.lose(machine.instance_id, has_ended=True)

    def _labels(self, instance_id: str) -> dict[str, str]:
        machine = self._machines[instance_id]
        kind, offer = self._kinds.get(machine.request.node_type), self._offers.get(machine.offer)
        return labels_of(kind, offer) if kind is not None and offer is not None else {}

    # looking

    async def _sample(self) -> None:
        while True:
            self._note()
            if len(self._samples) > SAMPLES_MOST:
                self._samples = self._samples[::2]
                self._sample_every_s *= 2
            await asyncio.sleep(self._sample_every_s)

    def _note(self) -> None:
        rates = [cloud.rate(self.uid) for cloud in self.clouds.values()]
        machines = sum(count for count, _ in rates)
        self._machines_most = max(self._machines_most, machines)
        self._samples.append(
            Sample(
                at_s=self.clock.monotonic_s(),
                machines=machines,
                nodes=len(self.head.nodes),
                waiting=self.head.waiting,
                cpu_used=self.head.cpu_used / 10_000,
                cpu_there=self.head.cpu_there / 10_000,
                usd_per_h=sum(usd_per_h for _, usd_per_h in rates),
                usd=sum(cloud.bill_usd(self.uid) for cloud in self.clouds.values()),
            )
        )

    def day(self, took_s: float) -> Day:
        """Return what came of it."""
        self.head.count_up()
        counts, now_s = self.head.counts, self.clock.monotonic_s()
        machines = [one for cloud in self.clouds.values() for one in (*cloud.buried, *cloud.machines.values())]
        by_type: dict[tuple[str, ...], dict[str, Any]] = {}
        machine_s = 0.0
        for one in machines:
            key = (one.request.node_type, one.offer.provider, one.offer.machine_type, one.offer.market)
            names = ("node_type", "provider", "type", "market")
            row = by_type.setdefault(
                key, {**dict(zip(names, key, strict=True)), "machines": 0, "hours": 0.0, "usd": 0.0}
            )
            alive_s = (one.deleted_s if one.deleted_s is not None else now_s) - one.created_s
            running_usd = 0.0 if one.deleted_s is not None else (now_s - one.billed_from_s) * one.price_usd_per_h / 3600
            machine_s += alive_s
            row["machines"] += 1
            row["hours"] += alive_s / 3600
            row["usd"] += one.billed_usd + running_usd
        alarms = [
            f"{one.fields.get('what')}: {one.fields.get('why')}" for one in self.log.events if one.kind is Kind.ALARM
        ]
        return Day(
            ended_s=now_s,
            usd=self._samples[-1].usd,
            machines_most=self._machines_most,
            machines_started=len(machines),
            machine_s=machine_s,
            cpu_used_s=counts.cpu_used_s,
            cpu_there_s=counts.cpu_there_s,
            submitted=counts.submitted,
            started=sum(count for _, count in counts.waits),
            finished=counts.finished,
            put_back=counts.put_back,
            unmet=tuple(
                {
                    "demand": one.demand,
                    "shape": shown(one.amounts),
                    "count": one.count,
                    "verdict": str(one.verdict),
                    "why": one.why,
                }
                for one in self.autoscaler.plan.unmet
            ),
            waits=tuple(sorted(counts.waits)),
            samples=tuple(self._samples),
            by_type=tuple(sorted(by_type.values(), key=lambda row: -row["usd"])),
            rounds=self.autoscaler.rounds,
            alarms=tuple(dict.fromkeys([*([self._failed] if self._failed else []), *alarms])),
            took_s=took_s,
            memory_bytes_most=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )
