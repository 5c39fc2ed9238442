"""Owners, agents' leases and workers in virtual time: the real code of both sides; links delay, break and fall silent.

Real: `Owner`, `Results` and `Core` of the drivers; `Agent`'s handlers, `Leases`, `Stock`, `Pool`, the fates and the
fence of retries. Made up: sockets, the zygote, the workers (which run tasks that only take time) and the head, which
places work by a view that may be old and gives its verdicts late.

After every step the world checks that no unfinished task is lost or in two places, that nothing was started more often
than it may, and that no node gives more than it has.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from shoal.exceptions import TaskCancelledError
from shoal.foundation.amounts import UNIT, plus
from shoal.placement.fits import how_many
from shoal.runtime.agent.clients import Client
from shoal.runtime.agent.leases import Leases
from shoal.runtime.agent.main import Agent
from shoal.runtime.agent.pool import Pool, Worker
from shoal.runtime.agent.stock import Stock
from shoal.runtime.client.actors import Actors
from shoal.runtime.client.core import Core
from shoal.runtime.client.owner import Owner, Recipe
from shoal.runtime.client.refs import ObjectRef, when_ready
from shoal.runtime.client.results import Results
from shoal.wire import messages as told
from shoal.wire import tasks as wire
from shoal.wire.hello import Credential, Role

LONG_S = 0.1
"""A worker gives back what waits behind a task that runs longer, as the real one does."""
SECRET = b"s" * 32
CANCELLED = pickle.dumps(TaskCancelledError(""))
FRESH_S = 10.0
"""Within which a new task has run once all is calm."""


class Faults(msgspec.Struct):
    """Chances per second of virtual time."""

    cut: float = 0.0
    """Some connection breaks: what is under way on it is lost, and its ends notice at times of their own."""
    worker_death: float = 0.0
    dialled_death: float = 0.0
    """Not per second: that a worker dies just as it is dialled."""
    node_death: float = 0.0
    """A node loses its power: it falls silent, and nobody's connection ends before the head's verdict."""
    head_away: float = 0.0
    """The head answers nothing for a few seconds."""
    agent_away: float = 0.0
    """An agent cannot reach the head for a few seconds: what the head tells it meanwhile is lost."""


class End:
    """One end of a connection; `heard` gets whole frames, `closed` is called when this end notices that it is gone."""

    def __init__(self, world: World, heard: Callable[[list[Any]], None], closed: Callable[[], None]) -> None:
        self.world, self.heard, self.closed = world, heard, closed
        self.other: End = self
        self.is_broken = self.has_ended = False
        self._free_at = 0.0

    def send(self, messages: list[Any]) -> None:
        if self.is_broken:
            return
        data = msgspec.msgpack.encode(messages)
        loop = self.world.loop
        # One connection keeps its order; the loop does not, among timers of one moment.
        self._free_at = max(self._free_at + 1e-6, loop.time() + self.world.delay_s())
        loop.call_at(self._free_at, self._arrive, data)

    def _arrive(self, data: bytes) -> None:
        if not self.is_broken and not self.other.has_ended:
            self.other.heard(msgspec.msgpack.decode(data))

    def end(self) -> None:
        """Close it in order: what is on its way still arrives."""
        if not self.has_ended:
            self.has_ended = True
            loop = self.world.loop
            self._free_at = max(self._free_at + 1e-6, loop.time() + self.world.delay_s())
            loop.call_at(self._free_at, self._tell_other)

    def _tell_other(self) -> None:
        if not self.is_broken:
            self.other.notice()

    def silence(self) -> None:
        """Nothing passes any more, and nobody is told."""
        self.is_broken = self.other.is_broken = True

    def cut(self) -> None:
        """Nothing passes any more; each end notices in its own time."""
        self.silence()
        for end in (self, self.other):
            self.world.loop.call_later(self.world.chance.uniform(0.0, 1.5), end.notice)

    def notice(self) -> None:
        if not self.has_ended:
            self.has_ended = True
            self.closed()


class Link:
    """What a driver's core sees as `reactor.Link`."""

    fds = itertools.count(1000)

    def __init__(self, core: SimCore, peer: bytes) -> None:
        self.core, self.peer, self.fd = core, peer, next(self.fds)
        self.out: list[Any] = []
        self.pending: dict[int, Any] = {}
        self.asked: dict[int, Any] = {}
        self.known: set[bytes] = set()
        self.addresses: list[str] = []
        self.lease = self.state = None
        self.is_closed = False
        self.end = End(core.world, lambda messages: core.arrived(self, messages), self.gone)  # type: ignore[arg-type]

    def flush(self) -> None:
        out, self.out[:] = list(self.out), []
        if out and not self.is_closed:
            self.end.send(out)

    def gone(self) -> None:
        if self.core.reactor.links.pop(self.fd, None) is not None:
            self.is_closed = True
            self.core.link_closed(self)  # type: ignore[arg-type]

    def drop(self) -> None:
        self.end.end()
        self.gone()


class Conversation:
    """What an agent sees as `Connection`."""

    role, peer = Role.NODE, b""

    def __init__(self, world: World) -> None:
        self.heard: asyncio.Queue[list[Any] | None] = asyncio.Queue()
        self.end = End(world, self.heard.put_nowait, lambda: self.heard.put_nowait(None))

    async def receive(self) -> list[Any] | None:
        return await self.heard.get()

    def send(self, message: Any) -> None:
        self.end.send([message])

    def abort(self) -> None:
        self.end.end()
        self.heard.put_nowait(None)


class SimCore(Core):
    """A driver's core without sockets."""

    def __init__(self, world: World, home: SimAgent, number: int) -> None:
        super().__init__(Credential("ab" * 16, SECRET, Role.DRIVER), None, Path("/nowhere"), is_worker=False)
        self.reactor.close()
        self.world, self.home = world, home
        self.process = home._next_process()
        self.address = (self.process, ())

    def with_peer(self, address: Any, call: Any) -> None:
        process = address[0]
        link = self.peers.get(process)
        if link is not None and not link.is_closed:
            call(link)
            return
        waiting = self._dialling.get(process)
        if waiting is not None:
            waiting.append(call)
            return
        self._dialling[process] = [call]
        self.world.loop.call_later(self.world.delay_s(), self._found, process)

    def _found(self, process: bytes) -> None:
        made = self.world.connect(self, process)
        if made is None and self.world.is_dark(process):
            # Nobody answers from a host without power, not even with a refusal.
            self.world.loop.call_later(3.0, self._connected, process, None)
        elif made is None:
            self._connected(process, None)
        else:
            # Its thread waits for the core's lock; what the agent says meanwhile is heard first.
            self.world.loop.call_later(self.world.delay_s(), self._connected, process, made)

    def _connected(self, process: bytes, link: Link | None) -> None:
        if link is not None:
            self.peers[process] = link  # type: ignore[assignment]
            self.reactor.links[link.fd] = link  # type: ignore[assignment]
        for call in self._dialling.pop(process, ()):
            call(link)  # type: ignore[arg-type]
        if link is not None:
            link.flush()
            if link.end.has_ended:  # it did while nobody had it; only now can anybody hear of that
                link.gone()

    def drop(self, link: Any) -> None:
        link.drop()


class SimWorker:
    """A worker's process: one task after the other, each of which only takes its time."""

    def __init__(self, world: World, worker: Worker) -> None:
        self.world, self.worker = world, worker
        self.ends: list[End] = []
        self.queue: collections.deque[tuple[End, list[Any]]] = collections.deque()
        self.running: tuple[End, list[Any]] | None = None
        self.cancelled: set[tuple[End, int]] = set()
        self.is_dead = False

    def hear(self, end: End, messages: list[Any]) -> None:
        for message in messages:
            if self.is_dead:
                return
            if message[0] == wire.TASK:
                self.queue.append((end, message))
            elif message[0] == wire.CANCEL:
                self._cancel(end, *message[1:3])
        self._next()

    def _cancel(self, end: End, n: int, is_forced: bool) -> None:
        self.cancelled.add((end, n))
        if self.running is not None and self.running[0] is end and self.running[1][1] == n:
            if is_forced:
                self.world.kill(self)
            else:
                # Somewhen soon: user code sees the interrupt when it next runs.
                self.world.loop.call_later(self.world.delay_s(), self._done, *self.running, 0.0)

    def _next(self) -> None:
        if self.running is None and self.queue and not self.is_dead:
            self.running = end, message = self.queue.popleft()
            owner, duration_s = message[4]
            self.worker.mark = message[1]
            if (end, message[1]) in self.cancelled:
                duration_s = 0.0
            else:
                self.world.started(owner, message[1])
            self.world.loop.call_later(duration_s, self._done, end, message, duration_s)
            if duration_s > LONG_S:
                self.world.loop.call_later(LONG_S, self._give_back)

    def _give_back(self) -> None:
        back: dict[int, tuple[End, list[int]]] = {}
        while self.queue and not self.is_dead:
            end, message = self.queue.popleft()
            back.setdefault(id(end), (end, []))[1].append(message[1])
        for end, numbers in back.values():
            end.send([(wire.UNSTARTED, numbers, False)])

    def _done(self, end: End, message: list[Any], duration_s: float) -> None:
        if self.is_dead or self.running is None or self.running[1] is not message:
            return
        self.running = None
        n = message[1]
        result = (wire.ERROR, CANCELLED) if (end, n) in self.cancelled else (wire.NATIVE, n)
        end.send([(wire.RESULT, n, *result, int(duration_s * 1e6))])
        self._next()

    def die(self, *, is_silent: bool = False) -> None:
        """End; its peers see the end of file, but for a grandchild that holds a socket, or a host without power."""
        self.is_dead = True
        for end in self.ends:
            if is_silent:
                end.silence()
            else:
                late_s = self.world.chance.choice([0.0, 0.0, 2.0])
                self.world.loop.call_later(late_s, end.end)


class SimPool(Pool):
    """The pool, whose forks take a moment and cannot fail."""

    world: World
    agent: SimAgent

    def _fork_more(self) -> None:
        while self._to_fork:
            worker = self._to_fork.popleft()
            self.world.loop.call_later(self.world.chance.uniform(0.01, 0.6), self._started, worker)

    def _started(self, worker: Worker) -> None:
        if worker.is_dead or self.agent.is_dark:
            return
        made = self.world.workers[worker.process] = SimWorker(self.world, worker)
        conversation = Conversation(self.world)
        client = Client(conversation, "worker", worker.process, 1, {"addresses": []})  # type: ignore[arg-type]
        client.worker = worker
        self.agent._clients[worker.process] = client
        self.ready(worker.process, client)
        if worker.kill_why:
            self.kill(worker, worker.kill_why)
        assert made.worker is worker

    def kill(self, worker: Worker, why: str) -> None:
        worker.kill_why = worker.kill_why or why
        worker.is_reusable = False
        made = self.world.workers.get(worker.process)
        if made is not None and not made.is_dead:
            made.die()
            self.world.loop.call_later(self.world.delay_s(), self._lost, worker, "")


class SimAgent(Agent):
    """An agent's handlers on books of their own."""

    def __init__(self, world: World, number: int, cpus: int) -> None:
        self.world, self.clock = world, world.clock
        self.node_id = f"{number:028x}"
        self.settings = SimpleNamespace(node_id=self.node_id, is_head=number == 1, fence_s=0)  # type: ignore[assignment]
        self.away_until = 0.0
        self._prefix = bytes.fromhex(self.node_id)
        self._processes = itertools.count(1)
        self._clients, self._fates, self._dead, self._dead_nodes = {}, {}, {}, {}
        self._jobs, self.peers = {}, {}
        self.is_dark = self.is_ending = False
        self.total = {"CPU": cpus * UNIT}
        self.stock = Stock(self.total)
        self.pool = SimPool({}, self._next_process, self._worker_died, self.end, warm=1, log_dir=Path("/nowhere"))
        self.pool.world, self.pool.agent = world, self
        self.head = SimpleNamespace(ask=self._ask_head, send=self._tell_head)  # type: ignore[assignment]
        self.leases = Leases(
            self.clock,
            self.stock,
            self.pool,
            self.node_id,
            {},
            bind=lambda *_: None,
            place=self._place,
            place_near=self._place_near,
            changed=lambda: None,
        )
        nothing: Callable[..., Any] = lambda *_: None  # noqa: E731
        self.actors = SimpleNamespace(worker_died=nothing, end_job=nothing, by_id={})  # type: ignore[assignment]
        self.objects = SimpleNamespace(  # type: ignore[assignment]
            process_died=nothing, node_died=nothing, owner_died=nothing, peer_kinds=frozenset()
        )
        self.state = self.logs = SimpleNamespace(worker_died=nothing)  # type: ignore[assignment]
        self.marks = SimpleNamespace(read=self._mark, forget=nothing)  # type: ignore[assignment]
        self._handlers = {
            wire.CLASS: self._on_class,
            wire.NEED: lambda client, m: self.leases.need(client, *m[1:]),
            wire.RETURN: lambda client, m: self.leases.give_back(m[1], is_reusable=m[2]),
            wire.FATE: self._on_fate,
            wire.REVOKE: lambda client, m: self.leases.revoke(client, m[1]),
        }

    def _mark(self, process: bytes) -> int:
        return self.world.workers[process].worker.mark if process in self.world.workers else -1

    def _ask_head(self, process: bytes, what: str, args: dict[str, Any], call: Callable[[bool, Any], None]) -> None:
        self.world.ask_head(self, what, args, call)

    def _tell_head(self, message: Any) -> None:
        if isinstance(message, told.Died):
            self.world.at_head(self, lambda: self.world.dead_processes.add(message.process))

    def attach(self, core: SimCore) -> None:
        """Be a driver's home."""
        link = Link(core, b"")
        conversation = Conversation(self.world)
        link.end.other, conversation.end.other = conversation.end, link.end
        client = Client(conversation, "driver", core.process, 1, {})  # type: ignore[arg-type]
        self._clients[core.process] = client
        core.agent = link  # type: ignore[assignment]
        core.reactor.links[link.fd] = link  # type: ignore[assignment]
        self.world.spawn(self._serve_driver(conversation, client))

    async def _serve_driver(self, conversation: Conversation, client: Client) -> None:
        while (messages := await conversation.receive()) is not None:
            for message in messages:
                self._handlers[message[0]](client, message)
            self.leases.schedule_soon()

    async def serve(self, conversation: Conversation) -> None:
        await self._serve(conversation)  # type: ignore[arg-type]


class Canceller:
    """The real way to cancel, without the actors."""

    cancel, settle_cancelled = Actors.cancel, Actors.settle_cancelled

    def __init__(self, driver: Driver) -> None:
        self._session = SimpleNamespace(owner=driver.owner, results=driver.results)
        self._core = driver.core


class Driver:
    """One owner of plain tasks."""

    def __init__(self, world: World, home: SimAgent, number: int) -> None:
        self.world = world
        self.core = SimCore(world, home, number)
        self.owner = Owner(self.core)
        self.results = Results(self.core, self.owner)
        self.core.handlers[wire.ALIVE] = lambda link, m: self.owner.process_alive(m[1])
        self.core.handlers[wire.TELL] = self._on_tell
        self._canceller: Any = Canceller(self)
        self.refs: dict[int, ObjectRef[Any]] = {}
        self.tries: dict[int, int] = {}
        self.starts: collections.Counter[int] = collections.Counter()
        self.waiting: set[int] = set()
        """Tasks that wait for another one's result."""
        home.attach(self.core)

    def _on_tell(self, link: Any, message: list[Any]) -> None:
        if message[1] == "node-died":  # as `News` does
            node = message[2]["node_id"]
            for other in self.core.links():
                if other.peer[:14].hex() == node or other.peer == b"agent:" + node.encode():
                    self.core.drop(other)

    def cancel_some(self) -> None:
        """Cancel one task, or all in some order, as a burst."""
        chance = self.world.chance
        refs = [ref for ref in self.refs.values() if not ref._ready and ref._n not in self.waiting]
        if refs:
            chance.shuffle(refs)
            for ref in refs[: chance.choice([1, 5, len(refs)])]:
                self._canceller.cancel(ref, is_forced=chance.random() < 0.2, is_recursive=True)

    def submit(self, *, after: ObjectRef[Any] | None = None, spec: dict[str, Any] | None = None) -> None:
        chance, core = self.world.chance, self.core
        spec = spec or chance.choice(self.world.specs())
        tries = chance.choice([0, 0, 1, 3])
        recipe = Recipe(
            b"f" * 16, b"", "f", self.owner.work_class(spec), tries=tries, retry_on=False, returns=1, options=None
        )
        n = next(core.ids)
        duration_s = chance.choice([0.001, 0.001, 0.01, 0.2, 1.0, 3.0])
        message = (wire.TASK, n, recipe.function, wire.NATIVE, (core.process, duration_s))
        ref: ObjectRef[Any] = ObjectRef(n, core.process, _message=message, _recipe=recipe, _tries=tries)
        self.refs[n], self.tries[n] = ref, tries

        def go() -> None:
            self.waiting.discard(n)
            self.owner.push(ref, recipe)

        self.waiting.add(n)
        if after is None:
            go()
        else:
            when_ready(after, go)

    def places(self) -> collections.Counter[int]:
        """Return where every unfinished task is: waiting, queued or with a worker."""
        found = collections.Counter(self.waiting)
        for work in self.owner.by_key.values():
            found.update(ref._n for ref in work.queue if not ref._ready)
        links = {id(link): link for link in self.core.reactor.links.values()}
        for lease in (*self.owner.leases.values(), *self.owner._orphans.values()):
            links[id(lease.link)] = lease.link
        for lease, *_ in self.owner._dying.values():
            links[id(lease.link)] = lease.link
        for link in links.values():
            found.update(n for n, ref in link.pending.items() if type(ref) is ObjectRef and not ref._ready)
        return found

    def check(self) -> None:
        for work in self.owner.by_key.values():
            if any(not ref._ready for ref in work.queue):
                idle = [lease.node for lease in work.leases if not lease.pending]
                # Spread work may wait for a node that has had less, as long as its lease is on the way.
                is_dealt = work.deal is not None and (
                    work.deal.choose(idle, self.world.loop.time(), len(work.queue)) is None
                )
                assert not idle or is_dealt, "a task waits beside a lease that does nothing"
        places = self.places()
        for n, ref in self.refs.items():
            if not ref._ready:
                assert places[n] == 1, f"task {n} is in {places[n]} places"
            if self.tries[n] >= 0:
                assert self.starts[n] <= 1 + self.tries[n], f"task {n} started {self.starts[n]} times"
        assert len(self.refs) == sum(places.values()) + sum(ref._ready for ref in self.refs.values())


class World:
    """Virtual time, one made-up head, nodes that come and go, drivers on the first of them."""

    def __init__(self, seed: int, faults: Faults, monkeypatch: Any) -> None:
        self.chance = random.Random(seed)
        self.faults = faults
        self.loop: Any = asyncio.get_running_loop()
        self.clock = SimpleNamespace(monotonic_s=self.loop.time, wall_s=self.loop.time)
        monkeypatch.setattr("shoal.runtime.client.owner.time", SimpleNamespace(monotonic=self.loop.time))
        self.workers: dict[bytes, SimWorker] = {}
        self.dead_processes: set[bytes] = set()
        self.dead_nodes: set[str] = set()
        self.conversations: list[Conversation] = []
        self.agents: dict[str, SimAgent] = {}
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self.head_away_until = 0.0
        self.node_dead_s = 4.0
        home = self.add(2)
        for _ in range(2):
            self.add(3)
        self.drivers = [Driver(self, home, number) for number in range(2)]

    def spawn(self, work: Any) -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def delay_s(self) -> float:
        return self.chance.uniform(0.0002, 0.002) if self.chance.random() < 0.95 else self.chance.uniform(0.002, 0.3)

    def specs(self) -> list[dict[str, Any]]:
        anywhere = {"amounts": {"CPU": UNIT}, "class_key": "one"}
        half = {"amounts": {"CPU": UNIT // 2}, "class_key": "half"}
        spread = {"amounts": {"CPU": UNIT}, "class_key": "spread", "spread": True}
        there = max(self.agents)
        soft = {"amounts": {"CPU": UNIT}, "class_key": there, "selector": [{}, [], [there], True]}
        near = {**anywhere, "near": there}
        return [anywhere, anywhere, near, half, spread, soft]

    # ------------------------------------------------------------------------------------------- nodes

    def add(self, cpus: int) -> SimAgent:
        made = SimAgent(self, next(self._numbers), cpus)
        self.agents[made.node_id] = made
        for other in self.agents.values():
            if self.loop.time() >= other.away_until:
                other.peers = {node_id: [] for node_id in self.agents}
        return made

    def is_dark(self, process: bytes) -> bool:
        node = process[6:].decode() if process.startswith(b"agent:") else process[:14].hex()
        return node not in self.agents or self.agents[node].is_dark

    def connect(self, core: SimCore, process: bytes) -> Link | None:
        if self.is_dark(process):
            return None
        if process.startswith(b"agent:"):
            conversation = Conversation(self)
            link = Link(core, process)
            link.end.other, conversation.end.other = conversation.end, link.end
            self.conversations.append(conversation)
            self.spawn(self.agents[process[6:].decode()].serve(conversation))
            return link
        worker = self.workers.get(process)
        if worker is None or worker.is_dead:
            return None
        link = Link(core, process)
        end = End(self, lambda messages: worker.hear(end, messages), lambda: None)
        end.other, link.end.other = link.end, end
        worker.ends.append(end)
        if self.chance.random() < self.faults.dialled_death:
            self.loop.call_later(self.chance.uniform(0.0, 0.002), self.kill, worker)
        return link

    def power_off(self, agent: SimAgent) -> None:
        """End everything there at once; the head says so after its time, and a new node comes instead."""
        agent.is_dark = agent.is_ending = True
        agent.leases.schedule = lambda: None  # type: ignore[method-assign]  # nothing happens there any more
        for process, worker in self.workers.items():
            if process[:14].hex() == agent.node_id and not worker.is_dead:
                worker.die(is_silent=True)
        for client in agent._clients.values():
            if isinstance(client.connection, Conversation):
                client.connection.end.silence()
        self.loop.call_later(self.node_dead_s, self._verdict, agent)

    def _verdict(self, agent: SimAgent) -> None:
        self.dead_nodes.add(agent.node_id)
        self.agents.pop(agent.node_id, None)
        self.add(3)
        for other in self.agents.values():
            news = told.Tell(b"", "node-died", {"node_id": agent.node_id, "why": "silent"})
            if self.loop.time() >= other.away_until:
                self.loop.call_later(self.delay_s(), other._pass_on, news)

    # ------------------------------------------------------------------------------------------- head

    def at_head(self, agent: SimAgent, call: Callable[[], None]) -> None:
        """Have the head do something once an agent's message has reached it."""
        reached = max(self.loop.time(), self.head_away_until, agent.away_until)
        self.loop.call_at(reached + self.delay_s(), call)

    def leave_touch(self, agent: SimAgent, duration_s: float) -> None:
        """Cut an agent off from the head for so long; then it joins again."""
        agent.away_until = self.loop.time() + duration_s

        def join() -> None:
            if not agent.is_dark:
                peers: dict[str, list[str]] = {node_id: [] for node_id in self.agents if node_id != agent.node_id}
                agent.on_joined(told.Joined(agent.node_id, 1, "ab" * 16, 0.0, 1.0, peers))

        self.loop.call_at(agent.away_until, join)

    def ask_head(self, agent: SimAgent, what: str, args: dict[str, Any], call: Callable[[bool, Any], None]) -> None:
        def carry_out() -> None:
            value = self._placed(args) if what == "place" else [self._is_alive(one) for one in args["processes"]]
            self.loop.call_later(self.delay_s(), lambda: None if agent.is_dark else call(True, value))

        self.at_head(agent, carry_out)

    def _is_alive(self, process: bytes) -> bool:
        return process not in self.dead_processes and process[:14].hex() not in self.dead_nodes

    def _placed(self, args: dict[str, Any]) -> list[Any]:
        """Place by what the nodes report, dark ones as they last did; now and then by nothing at all."""
        left, found = args["count"], []
        wanted = (args["selector"] or {}).get("node_ids") or ()
        nodes = sorted(self.agents.values(), key=lambda one: (one.node_id not in wanted, self.chance.random()))
        for one in nodes:
            free = one.stock.free if self.chance.random() < 0.9 else one.total
            most = 1 if args["spread"] else left
            taken = min(left, most, how_many(args["amounts"], free, left))
            if taken:
                found.append([one.node_id, [], taken])
                left -= taken
        return found

    # ------------------------------------------------------------------------------------------- tasks

    def started(self, owner: bytes, n: int) -> None:
        for driver in self.drivers:
            if driver.core.process == owner:
                driver.starts[n] += 1

    # ------------------------------------------------------------------------------------------- time

    def kill(self, worker: SimWorker) -> None:
        """End a worker; its agent finds it dead a little later."""
        agent = self.agents.get(worker.worker.process[:14].hex())
        if agent is not None and not agent.is_dark and not worker.is_dead:
            worker.die()
            self.loop.call_later(self.delay_s(), agent.pool._lost, worker.worker, "")

    def misfortune(self, step_s: float) -> None:
        chance, faults = self.chance, self.faults
        if chance.random() < faults.cut * step_s:
            ends = [end for worker in self.workers.values() for end in worker.ends if not end.is_broken]
            ends += [one.end for one in self.conversations if not one.end.is_broken]
            if ends:
                chance.choice(ends).cut()
        if chance.random() < faults.worker_death * step_s:
            living = [one for one in self.workers.values() if not one.is_dead]
            if living:
                worker = chance.choice(living)
                agent = self.agents.get(worker.worker.process[:14].hex())
                if agent is not None and not agent.is_dark:
                    self.kill(worker)
        if chance.random() < faults.node_death * step_s:
            lit = [one for one in self.agents.values() if not one.is_dark and not one.settings.is_head]
            if len(lit) > 1:
                self.power_off(chance.choice(lit))
        if chance.random() < faults.agent_away * step_s:
            there = [one for one in self.agents.values() if not one.is_dark and self.loop.time() >= one.away_until]
            if there:
                self.leave_touch(chance.choice(there), chance.uniform(0.5, 8.0))
        if chance.random() < faults.head_away * step_s:
            self.head_away_until = self.loop.time() + chance.uniform(0.5, 3.0)

    async def run_for(self, duration_s: float, step: Callable[[], None] | None = None) -> None:
        """Let time pass, 20 ms at a time: tick the owners, let things go wrong, check."""
        end_s = self.loop.time() + duration_s
        while self.loop.time() < end_s:
            await asyncio.sleep(0.02)
            self.misfortune(0.02)
            if step is not None:
                step()
            for driver in self.drivers:
                driver.core.flush()
                driver.owner._tick(self.loop.time())
                driver.check()
            self.check()

    def check(self) -> None:
        for agent in self.agents.values():
            if agent.is_dark:
                continue
            held: dict[str, int] = dict(agent.stock.free)
            for lease in agent.leases.by_number.values():
                held = plus(held, lease.grip.amounts)
            assert held.get("CPU", 0) == agent.total["CPU"], "a lease's amounts are lost or doubled"
            assert agent.stock.free.get("CPU", 0) >= 0, "a node gives more than it has"

    def calm(self) -> None:
        self.faults = Faults()
        self.head_away_until = 0.0
