"""A whole cluster in virtual time: the real loop, ledger and planner; a simulated cloud and head.

One seed tells one story, to the event. The autoscaler can be killed at every commit and call boundary; the ledger
lives on in memory as a file would. `story` prints what happened, for failures.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shoal.autoscaler.act.ledger import Ledger
from shoal.autoscaler.act.loop import PUBLISH_EVERY_S, Autoscaler, Improve
from shoal.autoscaler.decide.planner import improve as planner
from shoal.autoscaler.decide.room import reserve_s
from shoal.foundation import ids
from shoal.foundation.amounts import amounts
from shoal.foundation.chance import Chance
from shoal.foundation.clock import LoopClock
from shoal.foundation.eventlog import Event, Kind, MemoryLog
from shoal.guard import rules
from shoal.guard.machine import MachineSpec
from shoal.model.demand import Strategy
from shoal.model.launch import Phase
from shoal.model.offer import OfferKey
from shoal.model.policy import NodeType, Policy
from shoal.providers.protocol import Provider, Ticket
from shoal.providers.sim.cloud import SimCloud, SimMachine
from shoal.providers.sim.faults import CALM, Faults, SimOffer, SimQuota
from shoal.providers.sim.provider import SimProvider, render
from shoal.testing.builders import policy as default_policy
from shoal.testing.memory_disk import MemoryDisk
from shoal.testing.sim_head import LEASE_S, REJOIN_S, SimHead


class Crashed(BaseException):
    """The process died here."""


class World:
    """Everything, wired. Build it inside the virtual loop; drive it with `submit`, `run_for`, `run_until`."""

    def __init__(
        self,
        seed: int = 0,
        *,
        policy: Policy | None = None,
        offers: Sequence[SimOffer] | None = None,
        quotas: Sequence[SimQuota] = (),
        faults: Faults = CALM,
        improve: Improve = planner,
        crashes: float = 0.0,
        crash_at: int = 0,
        boot_s: tuple[float, float] = (20.0, 60.0),
        listing_lag_s: float = 10.0,
        report_every_s: float = 0.05,
        publish_every_s: tuple[float, float] = PUBLISH_EVERY_S,
        dies_in_calls: bool = False,
        providers: Callable[[Provider], Provider] = lambda provider: provider,
    ) -> None:
        """Build it, not yet running.

        `crashes` is the chance that the autoscaler dies at any one boundary, `crash_at` the number of the boundary
        at which it dies for certain (0: none). Boundaries are every commit and every launch and release; with
        `dies_in_calls` also every other call, to the head and to the cloud, before and after. `providers` may wrap the
        provider.
        """
        self.seed, self.clock, self.chance = seed, LoopClock(), Chance(f"world/{seed}")
        self.uid = ids.cluster_uid(self.chance.split("uid"))
        self.log = MemoryLog(self.clock, events_max=200_000)
        self.policy = policy or default_policy()
        self.improve, self.crashes, self.crash_at = improve, crashes, crash_at
        self._publish_every_s, self._dies_in_calls = publish_every_s, dies_in_calls
        self.crash_when: Callable[[str], bool] = lambda boundary: False
        """Whether the process dies at the boundary of this name now."""
        self.dead_s = (0.5, 5.0)
        """How long it stays dead after such a death: at least, at most."""
        self.cloud = SimCloud(
            self.clock,
            self.chance.split("cloud"),
            offers=offers,
            quotas=quotas,
            faults=faults,
            boot_s=boot_s,
            listing_lag_s=listing_lag_s,
        )
        self.provider = SimProvider(self.cloud, self.clock, self.chance.split("calls"), cluster_uid=self.uid)
        self._given: Mapping[str, Provider] = {"sim": providers(self.provider)}
        self.head = SimHead(
            self.clock, self.chance.split("head"), self.log, cluster_uid=self.uid, report_every_s=report_every_s
        )
        self.cloud.on_created = self._machine_created
        self.cloud.on_running = self._machine_runs
        self.cloud.on_ended = self._machine_ended
        self.cloud.on_notice = lambda machine, in_s: self.head.warn(machine.instance_id, "interruption", in_s)
        self.disk = MemoryDisk()
        self.autoscaler: Autoscaler | None = None
        self.ledger: Ledger | None = None
        self.ends: list[str] = []
        """Why the cluster should end, as the autoscaler said."""
        self.kills = 0
        self.boundaries = 0
        self._crash_chance = self.chance.split("crashes")
        self._task: asyncio.Task[str] | None = None
        self._is_dying = False
        self._cut: set[str] = set()
        self._ended_themselves: set[str] = set()
        self.violations: list[str] = []
        """What broke an invariant at the moment it happened."""
        self.peak_usd_per_h = 0.0
        """The highest list price per hour of everything that existed."""
        self.is_ledger_lost = False
        self.bill_before_usd: float | None = None
        """What the cloud had billed when the ledger in use began to count."""
        self._spent_micro = 0
        self._exempt: set[str] = set()
        """Instances whose machines nobody can be held to account for: concealed, or of a lost ledger."""
        self._lost_s = -LOSS_FELT_S
        self.is_concealed = False
        """The cloud has hidden a machine from a complete listing, against rule R4."""
        self._names_created: dict[str, str] = {}
        self._injected: Counter[str] = Counter()
        self._runs: dict[Autoscaler, asyncio.Task[str]] = {}

    # driving

    def start(self) -> None:
        """Start the autoscaler, on the ledger that the disk holds."""
        self._is_dying = False
        self.ledger = Ledger(self.disk, self.clock, crash=self._boundary)
        session = self.head.of_session()
        self.autoscaler = Autoscaler(
            self.clock,
            self.chance.split(f"autoscaler/{self.kills}"),
            self.ledger,
            _Breakable(session, self._boundary, _HEAD_CALLS) if self._dies_in_calls else session,
            {
                name: _Breakable(one, self._boundary, _PROVIDER_CALLS) if self._dies_in_calls else one
                for name, one in self._given.items()
            },
            SimBoot(self.uid),
            self.log,
            self.policy,
            self.improve,
            cluster_uid=self.uid,
            on_end=self.ends.append,
            crash=self._boundary,
            publish_every_s=self._publish_every_s,
        )
        self._task = asyncio.ensure_future(self.autoscaler.run())
        self._task.add_done_callback(self._autoscaler_ended)
        self._runs[self.autoscaler] = self._task

    def has_ended(self, autoscaler: Autoscaler) -> bool:
        """Say whether an autoscaler that was started has come to its end."""
        return self._runs[autoscaler].done()

    async def stop(self) -> None:
        """Stop the autoscaler in order."""
        if self.autoscaler is not None and self._task is not None and not self._task.done():
            self.autoscaler.stop()
            await asyncio.gather(self._task, return_exceptions=True)
        self._task = None

    async def kill(self, restart_after_s: float | None = 1.0) -> None:
        """End the autoscaler as kill -9 does, and start it again on what was committed."""
        task, self._task = self._task, None
        self._is_dying = True
        if task is not None and not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self.disk.in_transaction:
            self.disk.rollback()
        self.kills += 1
        self._injected["kill -9"] += 1
        self.log.record(Kind.PROCESS_DIED, process="autoscaler", kills=self.kills)
        if restart_after_s is not None:
            await asyncio.sleep(restart_after_s)
            self.start()

    async def run_for(self, seconds: float) -> None:
        """Let virtual time pass."""
        if self._task is None and not self._is_dying:
            self.start()
        await asyncio.sleep(seconds)

    async def run_until(self, condition: Callable[[], bool], within_s: float, step_s: float = 0.5) -> None:
        """Let virtual time pass until the condition holds.

        Raises:
            AssertionError: it does not within the time; the message holds the story.
        """
        if self._task is None and not self._is_dying:
            self.start()
        end_s = self.clock.monotonic_s() + within_s
        while not condition():
            if self.clock.monotonic_s() >= end_s:
                raise AssertionError(f"not within {within_s:g} s\n{self.story}")
            await asyncio.sleep(step_s)

    # work

    def submit(
        self, shape: Mapping[str, float], count: int = 1, duration_s: float | None = 30.0, **options: object
    ) -> str:
        """Let units of a shape (natural units, names as in `@remote`) wait; return their class."""
        return self.head.submit(_amounts(shape), count, duration_s, **options)  # type: ignore[arg-type]

    def submit_gang(
        self,
        gang_id: str,
        bundles: Sequence[Mapping[str, float]],
        duration_s: float | None = 60.0,
        strategy: Strategy = Strategy.PACK,
    ) -> None:
        """Let a gang wait."""
        self.head.submit_gang(gang_id, [_amounts(one) for one in bundles], duration_s, strategy)

    def request(self, owner: str, bundles: Sequence[Mapping[str, float]], ttl_s: float | None = None) -> None:
        """Ask for a total size of the cluster."""
        self.head.request(owner, [_amounts(one) for one in bundles], ttl_s)

    # looking

    def machines(self) -> list[SimMachine]:
        """Return what exists in the cloud and costs."""
        return self.cloud.existing(self.uid)

    @property
    def is_running(self) -> bool:
        """Whether the autoscaler's process lives."""
        return self._task is not None and not self._task.done()

    @property
    def waiting(self) -> int:
        return self.head.waiting

    def events(self, *kinds: Kind) -> list[Event]:
        """Return the events of these kinds, oldest first."""
        return [event for event in self.log.events if event.kind in kinds]

    @property
    def story(self) -> str:
        """What happened, a line per event; the newest 2,000."""
        lines = [
            f"{event.at_s - _WALL_START_S:9.2f}  {event.kind:20} "
            + " ".join(f"{name}={value}" for name, value in event.fields.items())
            for event in list(self.log.events)[-2000:]
        ]
        return f"seed {self.seed}, {self.kills} kills\n" + "\n".join(lines)

    # the machines

    def _machine_runs(self, machine: SimMachine) -> None:
        if machine.request.cluster_uid == self.uid and machine.request.role == "worker":
            self._later(self.chance.uniform(0.5, 2.0), self._try_join, machine)

    def _try_join(self, machine: SimMachine, since_s: float | None = None) -> None:
        """Let an agent ask to join until it may; its guard ends the machine when nobody has let it in for the lease."""
        name, now_s = machine.instance_id, self.clock.monotonic_s()
        if not machine.is_running:
            return
        since_s = now_s if since_s is None else since_s
        if name in self._cut or not (
            self.head.back(name) or self.head.join(name, machine.request.node_type, machine.resources)
        ):
            if now_s - since_s > LEASE_S:
                self._end_itself(machine.name)
            else:
                self._later(REJOIN_S, self._try_join, machine, since_s)

    def head_down(self, for_s: float) -> None:
        """Take the head away for a time and bring it back; the machines' guards end them when their lease is over."""
        self.head.restart(for_s)
        now_s = self.clock.monotonic_s()
        if for_s > LEASE_S:
            for machine in self.machines():
                self._later(LEASE_S + 1.0, self._guard, machine, now_s)

    def _guard(self, machine: SimMachine, answered_s: float) -> None:
        """Look, as the guard of the machine does, whether it must end for want of contact; look again if not yet."""
        if self.head.is_up or not machine.is_running:
            return
        node = self.head.nodes.get(machine.instance_id)
        contact = rules.Contact(started_s=machine.created_s, answered_s=answered_s, has_joined=node is not None)
        is_busy = node is not None and node.running > 0
        if rules.ending(_GUARD, contact, self.clock.monotonic_s(), is_busy=is_busy):
            self._end_itself(machine.name)
        else:
            self._later(60.0, self._guard, machine, answered_s)

    def _end_itself(self, name: str) -> None:
        """The machine's own guard ends it: the dead-man lease has run out."""
        self._injected["dead man's lease"] += 1
        self._ended_themselves.add(name)
        self.cloud.release(name)

    def _machine_created(self, machine: SimMachine) -> None:
        """Hold the cloud's truth against limits and budget at the moment that a machine begins to exist."""
        if machine.request.cluster_uid != self.uid:
            return
        name, there = machine.instance_id, self.machines()
        if machine.hidden_until_s > 0:
            self.is_concealed = True
            self._exempt.add(name)
        if self.clock.monotonic_s() < self._lost_s + LOSS_FELT_S:
            self._exempt.add(name)
        elif self.ledger is not None and self.ledger.instance(name) is None:
            self.violations.append(f"{name} was bought before its intent was durable")
        if name in self._names_created:
            self.violations.append(f"{name} has two machines: {self._names_created[name]} and {machine.name}")
        self._names_created[name] = machine.name
        if any(one.instance_id in self._exempt for one in there):
            return  # what the cloud conceals, or what nobody remembers, cannot be counted
        if len(there) > self.policy.max_workers:
            self.violations.append(f"{len(there)} machines, max_workers is {self.policy.max_workers}")
        for kind in self.policy.node_types:
            count = sum(1 for one in there if one.request.node_type == kind.name)
            if count > kind.max_workers:
                self.violations.append(f"{count} machines of {kind.name}, max_workers is {kind.max_workers}")
        rate_usd_per_h = sum(one.price_usd_per_h for one in there)
        self.peak_usd_per_h = max(self.peak_usd_per_h, rate_usd_per_h)
        most_usd = self.policy.budget.usd_total_max
        if most_usd is not None:
            # What runs must be payable until it can be given back; a launch call takes a moment of its own.
            needed = self.cloud.bill_usd(self.uid) + rate_usd_per_h * (reserve_s(self.policy) - CALL_FELT_S) / 3600
            if needed > most_usd:
                self.violations.append(f"{name} was bought with ${needed:.4g} to pay, usd_total_max is ${most_usd:g}")

    def _machine_ended(self, machine: SimMachine) -> None:
        node = self.head.nodes.get(machine.instance_id)
        if node is None or self._names_created.get(machine.instance_id) != machine.name:
            return
        in_contact = node.contact_lost_s is None and not node.is_missing
        was_released = machine.phase is Phase.HALTING and machine.name not in self._ended_themselves
        if was_released and node.running and in_contact and node.drain_deadline_s is None:
            self.violations.append(f"{machine.instance_id} was released with {node.running} pieces of work on it")
        self.head.lose(machine.instance_id, has_ended=True)

    def disregard(self, instance_id: str) -> None:
        """Do not hold the autoscaler to account for a machine of this instance: somebody else made it."""
        self._exempt.add(instance_id)

    @property
    def injected(self) -> Counter[str]:
        """How often each fault has struck so far: the cloud's, the head's, and what befell process and network."""
        return self.cloud.injected + self.head.injected + self._injected

    def lose_ledger(self) -> None:
        """Delete the ledger's file; the next start finds nothing. Only while the autoscaler is dead."""
        self._injected["ledger lost"] += 1
        self.disk.close()
        self.disk = MemoryDisk()
        self._exempt.update(one.instance_id for one in self.machines())
        self._lost_s = self.clock.monotonic_s()
        self.is_ledger_lost = True
        self.bill_before_usd = None
        self._spent_micro = 0

    def cut(self, instance_id: str, for_s: float) -> None:
        """Cut a node's network; its guard ends the machine when the lease runs out."""
        self._injected["network cut"] += 1
        self._cut.add(instance_id)
        self.head.lose(instance_id)
        machine = next((one for one in self.machines() if one.instance_id == instance_id), None)
        if machine is not None and for_s > LEASE_S:
            self._later(LEASE_S, self._end_itself, machine.name)
        self._later(for_s, self._heal, instance_id)

    def _heal(self, instance_id: str) -> None:
        self._cut.discard(instance_id)
        machine = next((one for one in self.machines() if one.instance_id == instance_id), None)
        if machine is not None and machine.is_running and not self.head.back(instance_id):
            self._try_join(machine)

    # dying

    def _boundary(self, name: str) -> None:
        """Every commit and call passes here; dying here is kill -9."""
        self.boundaries += 1
        if self._is_dying:
            raise Crashed(name)
        if name == "commit.after":
            self._audit()
        if (
            self.boundaries == self.crash_at
            or self.crash_when(name)
            or (self.crashes and self._crash_chance.random() < self.crashes)
        ):
            self._is_dying = True
            self.log.record(Kind.PROCESS_DIED, process="autoscaler", at=name)
            asyncio.get_running_loop().call_soon(self._bury)
            raise Crashed(name)

    def _audit(self) -> None:
        """Hold every machine that exists against the rows just committed: none may be unaccounted for."""
        if self.ledger is None:
            return
        spent_micro = self.ledger.spent_micro()
        if spent_micro < self._spent_micro:
            self.violations.append(f"the ledger forgot {self._spent_micro - spent_micro} micro-dollars of its spend")
        self._spent_micro = spent_micro
        if self.ledger.meta.is_adopted and self.bill_before_usd is None:
            self.bill_before_usd = self.cloud.bill_usd(self.uid)
        for machine in self.cloud.machines.values():
            name = machine.instance_id
            if machine.deleted_s is None and name not in self.ledger.instances and name not in self._exempt:
                self.violations.append(f"{machine.name} exists and {machine.instance_id} is written off")

    def _bury(self) -> None:
        self._burial = asyncio.ensure_future(self.kill(self._crash_chance.uniform(*self.dead_s)))

    def _autoscaler_ended(self, task: asyncio.Task[str]) -> None:
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self.log.record(Kind.ALARM, what="autoscaler ended", why=f"{type(error).__name__}: {error}")

    def _later(self, delay_s: float, deed: Callable[..., object], *args: object) -> None:
        asyncio.get_running_loop().call_later(delay_s, deed, *args)


class _Breakable:
    """A head or provider at whose calls the process can die: before one has left, or before its answer is heard."""

    def __init__(self, inner: Any, boundary: Callable[[str], None], calls: frozenset[str]) -> None:
        self._inner, self._boundary, self._calls = inner, boundary, calls

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self._inner, name)
        if name not in self._calls:
            return inner

        async def call(*args: Any) -> Any:
            self._boundary(f"{name}.before")
            answer = await inner(*args)
            self._boundary(f"{name}.after")
            return answer

        return call


class SimBoot:
    """`Boot` for the simulated cloud."""

    def __init__(self, uid: str) -> None:
        self._uid = uid

    def render(
        self,
        node_type: NodeType,
        offer: OfferKey,
        *,
        token: str,
        instance_ids: Sequence[str],
        attempt: int,
        epoch: int,
        join_secret: str,
    ) -> bytes:
        """Return the request of one attempt."""
        return render(
            Ticket(
                cluster_uid=self._uid,
                cluster_name="world",
                epoch=epoch,
                token=token,
                instance_ids=tuple(instance_ids),
                node_type=node_type.name,
                attempt=attempt,
                head_address="sim",
                join_secret=join_secret,
            )
        )


_HEAD_CALLS = frozenset({"open_session", "join_secret", "cordon", "drain", "undrain", "bar", "forget", "publish"})
_PROVIDER_CALLS = frozenset({"offers", "machines"})
"""Launches and releases are boundaries of their own, at the moment the call really leaves."""
_GUARD = MachineSpec(name="", uid="", instance_id="", role="worker", children=[], secret_file="", log_dir="")
LOSS_FELT_S = 60.0
"""For how long calls of before may still start machines after the ledger was lost."""
CALL_FELT_S = 30.0
"""How long a launch call may take: meanwhile what runs goes on costing."""
_WALL_START_S = 1_767_225_600.0
_SHORT = {"cpu": "CPU", "gpu": "GPU"}


def _amounts(shape: Mapping[str, float]) -> dict[str, int]:
    return amounts({_SHORT.get(name, name): quantity for name, quantity in shape.items()})
