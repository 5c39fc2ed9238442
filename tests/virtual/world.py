"""One cluster in virtual time: the real head, agents, owners, callers and actors; links delay, stall, break and lose.

After every step the world checks that no unfinished task is lost or in two places, that nothing ran more often than it
may, that no actor has two instances that could answer, and that no node gives more than it has.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import msgspec

from shoal.foundation.amounts import UNIT, plus
from tests.virtual.drivers import Driver, Link, SimCore
from tests.virtual.head import PLACE, VirtualHead
from tests.virtual.links import End, Wires
from tests.virtual.nodes import Conversation, SimAgent
from tests.virtual.workers import SimWorker

FENCE_S, DEAD_S = 2.5, 5.0
"""The head gives up who is silent for `DEAD_S`; agents look at their fences twice a second."""
STEP_S, CALM_STEP_S = 0.02, 0.1


class Faults(msgspec.Struct):
    """Chances per second of virtual time."""

    cut: float = 0.0
    """Some connection breaks: what is under way on it is lost, and its ends notice at times of their own."""
    worker_death: float = 0.0
    dialled_death: float = 0.0
    """Not per second: that a worker dies just as it is dialled."""
    node_death: float = 0.0
    """A node loses its power: it falls silent, and nobody's connection ends before the head's verdict."""
    partition: float = 0.0
    """A node is off the network for a while: short or long, in both directions or in one, noticed or not."""
    head_away: float = 0.0
    """A node cannot reach the head, and is in reach of all others."""
    away_s: float = 3 * DEAD_S
    """The longest that either lasts; a node is given up after `DEAD_S`."""
    head_crash: float = 0.0
    crash_at_commit: float = 0.0
    """Chance per commit of the head's journal."""


class World:
    """Virtual time, one head (again and again), nodes that come and go, drivers on the first of them."""

    def __init__(self, seed: int, faults: Faults, monkeypatch: Any, *, slow_s: float = 0.2) -> None:
        self.chance = random.Random(seed)
        self.loop: Any = asyncio.get_running_loop()
        self.clock: Any = SimpleNamespace(monotonic_s=self.loop.time, wall_s=self.loop.time)
        monkeypatch.setattr("shoal.runtime.client.owner.time", SimpleNamespace(monotonic=self.loop.time))
        monkeypatch.setattr("shoal.runtime.agent.head_link.random", self.chance)
        monkeypatch.setattr("shoal.runtime.worker.actor.perf_counter", self.loop.time)
        self.wires = Wires(self.loop, self.chance, slow_s=slow_s)
        self.head = VirtualHead(self.wires, is_encoded=True, fence_s=FENCE_S, node_dead_s=DEAD_S, prepare_s=5.0)
        self.workers: dict[bytes, SimWorker] = {}
        self.agents: dict[str, SimAgent] = {}
        self.drivers: list[Driver] = []
        self.instances: dict[bytes, list[tuple[SimWorker, int]]] = {}
        """Every instance of an actor that was ever built, with its generation."""
        self._home_rests_until_s = 0.0
        self.violations: list[str] = []
        """What must not happen and did, in a place where raising would be a user's error."""
        self._ends: list[End] = []
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self.faults = faults
        home = self.add(2)
        for _ in range(3):
            self.add(3)
        for number in range(2):
            self.drivers.append(Driver(self, home, number))
        self.head.crash_per_s, self.head.crash_at_commit = faults.head_crash, faults.crash_at_commit

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine; what it raises fails the test."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task  # type: ignore[no-any-return]

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error

    def end(self, place: str, heard: Callable[[Any], object], closed: Callable[[], object]) -> End:
        """Return a new end of a connection."""
        made = End(self.wires, place, heard, closed)
        self._ends.append(made)
        return made

    def call_s(self) -> float:
        """Return how long a call takes before its answer leaves."""
        return self.chance.choice([0.0, 0.001, 0.01, 0.1, 0.5])

    def specs(self) -> list[dict[str, Any]]:
        """Return the kinds of work there are."""
        anywhere = {"amounts": {"CPU": UNIT}, "class_key": "one"}
        half = {"amounts": {"CPU": UNIT // 2}, "class_key": "half"}
        spread = {"amounts": {"CPU": UNIT}, "class_key": "spread", "spread": True}
        there = max(self.agents)
        soft = {"amounts": {"CPU": UNIT}, "class_key": there, "selector": [{}, [], [there], True]}
        near = {**anywhere, "near": there}
        return [anywhere, anywhere, near, half, spread, soft]

    # ------------------------------------------------------------------------------------------- nodes

    def add(self, cpus: int, instance: str = "") -> SimAgent:
        """Start a node's agent; on an instance that had one, under a new id."""
        number = next(self._numbers)
        made = SimAgent(self, number, cpus, instance or f"i-{number}")
        self.agents[made.node_id] = made
        return made

    @property
    def home(self) -> SimAgent:
        """The drivers' node."""
        return next(iter(self.agents.values()))

    def is_reachable(self, place: str, process: bytes) -> bool:
        """Say whether anybody would answer a dialler at all."""
        node = process[6:].decode() if process.startswith(b"agent:") else process[:14].hex()
        agent = self.agents.get(node)
        return agent is not None and not agent.is_dark and not self.wires.are_apart(place, node)

    def connect(self, core: SimCore, process: bytes) -> Link | None:
        """Dial a process that can be reached; None if it does not listen."""
        if process.startswith(b"agent:"):
            agent = self.agents[process[6:].decode()]
            conversation, link = Conversation(self, agent.node_id), Link(core, process)
            link.end.joined(conversation.end)
            self.spawn(agent.serve(conversation))
            return link
        worker = self.workers.get(process)
        if worker is None or worker.is_dead:
            return None
        link = Link(core, process)
        link.end.joined(worker.accept(core.process).end)
        if self.chance.random() < self.faults.dialled_death:
            self.loop.call_later(self.chance.uniform(0.0, 0.002), self.kill, worker)
        return link

    def kill(self, worker: SimWorker) -> None:
        """End a worker; its agent finds it dead a little later."""
        if not worker.is_dead:
            worker.die()
            self.loop.call_later(self.wires.delay_s(), worker.agent.verdict, worker.worker)

    def power_off(self, agent: SimAgent) -> None:
        """End everything there at once; the head says so after its time, and a new node comes instead."""
        agent.go_dark()
        for worker in self.workers.values():
            if worker.agent is agent and not worker.is_dead:
                worker.die(is_silent=True)
        for end in self._ends:
            if end.place == agent.node_id:
                end.silence()
        self.loop.call_later(DEAD_S, self._replace, agent, "")

    def ended(self, agent: SimAgent) -> None:
        """An agent ends, refused by the head; its instance's guard starts another one."""
        assert agent is not self.home, "the drivers' node was given up"
        agent.go_dark()
        for worker in self.workers.values():
            if worker.agent is agent and not worker.is_dead:
                worker.die()
        for end in self._ends:
            if end.place == agent.node_id:
                end.end()
        self.loop.call_later(0.3, self._replace, agent, agent.instance)

    def _replace(self, agent: SimAgent, instance: str) -> None:
        del self.agents[agent.node_id]
        self.add(3, instance)

    def cut_off(self, agent: SimAgent, duration_s: float, *, ways: tuple[bool, bool], from_all: bool) -> None:
        """Stall a node's cables: (to it, from it), to the head alone or to everybody; some connections break."""
        until_s = self.loop.time() + duration_s
        others = [PLACE, *(self.agents if from_all else ())]
        for other in others:
            if other != agent.node_id:
                for is_stalled, way in zip(ways, ((other, agent.node_id), (agent.node_id, other)), strict=True):
                    if is_stalled:
                        self.wires.stall(*way, until_s)
        for end in self._ends:
            crosses = agent.node_id in (end.place, end.other.place) and end.place != end.other.place
            if crosses and end.other.place in others and not end.is_broken and self.chance.random() < 0.3:
                end.cut(late_s=duration_s * 1.5)

    # ------------------------------------------------------------------------------------------- what ran

    def started(self, owner: bytes, n: int) -> None:
        """A worker begins with a task."""
        for driver in self.drivers:
            if driver.core.process == owner:
                driver.started(n)

    def built(self, worker: SimWorker, actor_id: bytes, generation: int) -> None:
        """An instance of an actor is there."""
        known = self.instances.setdefault(actor_id, [])
        former = [(one.worker.process.hex()[-12:], one.is_dead, number) for one, number in known]
        assert all(generation > number for _, _, number in former), f"a generation was built twice: {former}"
        known.append((worker, generation))
        self._check_alone(actor_id)

    def ran(self, worker: SimWorker, driver: int, number: int, fails: int, count: int) -> int:
        """A call runs that shall fail `fails` times; return how often it has run by now."""
        call = self.drivers[driver].calls[number]
        if any(process == worker.worker.process for process, _ in call.ran[fails:]):
            self.violations.append(f"call {number} of driver {driver} runs again where it has run: {call.ran}")
        call.ran.append((worker.worker.process, count))
        if worker is not self.instances[call.actor_id][-1][0]:
            self.violations.append("an instance runs a call although a newer one was built")
        if 0 <= call.tries < len(call.ran) - 1:
            self.violations.append(f"call {number} of driver {driver}: {call.tries} retries, ran {call.ran}")
        self._check_alone(call.actor_id)
        return len(call.ran)

    def _check_alone(self, actor_id: bytes) -> None:
        able = [one for one, _ in self.instances.get(actor_id, ()) if not (one.is_dead or one.is_stopped)]
        if len(able) > 1:
            self.violations.append(f"{len(able)} instances of one actor could answer at {self.loop.time()}")

    # ------------------------------------------------------------------------------------------- time

    def misfortune(self, step_s: float) -> None:
        """Let things go wrong, each by its chance."""
        chance, faults = self.chance, self.faults
        if chance.random() < faults.cut * step_s:
            able = [end for end in self._ends if not (end.is_broken or end.has_ended) and end.place != end.other.place]
            if able:
                chance.choice(able).cut(late_s=1.5)
        if chance.random() < faults.worker_death * step_s:
            living = [one for one in self.workers.values() if not one.is_dead]
            if living:
                self.kill(chance.choice(living))
        others = [one for one in self.agents.values() if not one.is_dark and one is not self.home]
        if chance.random() < faults.node_death * step_s and len(others) > 1:
            self.power_off(chance.choice(others))
        for likelihood, from_all in ((faults.partition, True), (faults.head_away, False)):
            if chance.random() < likelihood * step_s:
                agent = chance.choice([self.home, *others])
                ways = chance.choice([(True, True), (True, True), (True, False), (False, True)])
                most_s = faults.away_s
                if agent is self.home:  # the drivers' node is never away for so long that it is given up
                    if self.loop.time() < self._home_rests_until_s:
                        continue
                    self._home_rests_until_s, most_s = self.loop.time() + DEAD_S, min(0.3 * DEAD_S, most_s)
                self.cut_off(agent, chance.uniform(0.2, most_s), ways=ways, from_all=from_all)

    async def run_for(
        self, duration_s: float, step: Callable[[], None] | None = None, *, pace_s: float = STEP_S
    ) -> None:
        """Let time pass, `pace_s` at a time: tick the owners, let things go wrong, check."""
        end_s = self.loop.time() + duration_s
        while self.loop.time() < end_s:
            await asyncio.sleep(pace_s)
            self.misfortune(pace_s)
            if step is not None:
                step()
            for driver in self.drivers:
                assert not driver.core.is_closed, "a driver lost its agent"
                driver.core.flush()
                driver.owner._tick(self.loop.time())
                driver.check()
            self.check()
        self._ends = [end for end in self._ends if not (end.is_broken or end.has_ended)]
        self.workers = {process: one for process, one in self.workers.items() if not one.is_dead}

    def check(self) -> None:
        """See that no node gives more than it has, nor loses any of it."""
        for agent in self.agents.values():
            if agent.is_dark:
                continue
            held: dict[str, int] = dict(agent.stock.free)
            for amounts in agent.stock.bundles.values():
                held = plus(held, amounts)
            for grip in (
                *(lease.grip for lease in agent.leases.by_number.values()),
                *(actor.grip for actor in agent.actors.by_id.values()),
            ):
                if grip.bundle is None:
                    held = plus(held, grip.amounts)
            assert held.get("CPU", 0) == agent.total["CPU"], "amounts are lost or doubled"
            assert agent.stock.free.get("CPU", 0) >= 0, "a node gives more than it has"
        for actor_id in self.instances:
            self._check_alone(actor_id)
        assert not self.violations, self.violations[0]

    async def settle(
        self, is_done: Callable[[], bool], *, within_s: float, what: Callable[[], Any] = lambda: ""
    ) -> None:
        """Let nothing go wrong any more, mend every cable, and wait until all has come to rest."""
        self.calm()
        end_s = self.loop.time() + within_s
        while not is_done():
            assert self.loop.time() < end_s, f"it does not come to rest: {what()}"
            await self.run_for(1.0, pace_s=CALM_STEP_S)

    def calm(self) -> None:
        """Nothing goes wrong any more, and every cable is mended."""
        self.faults = Faults()
        self.wires.mend()
        self.head.crash_per_s = self.head.crash_at_commit = 0.0
