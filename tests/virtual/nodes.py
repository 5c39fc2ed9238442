"""Nodes in virtual time: the agent's real handlers, leases, actors, bundles, drain, fence and link to the head.

Made up: the zygote, sockets, objects, logs and state tables.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec

from shoal.foundation.amounts import UNIT
from shoal.placement import selectors
from shoal.runtime.agent.actors import Actors
from shoal.runtime.agent.bundles import Bundles
from shoal.runtime.agent.clients import Client
from shoal.runtime.agent.drain import Drain
from shoal.runtime.agent.fence import Fence
from shoal.runtime.agent.head_link import HeadLink
from shoal.runtime.agent.leases import Leases
from shoal.runtime.agent.main import Agent
from shoal.runtime.agent.pool import Pool, Worker
from shoal.runtime.agent.stock import Stock
from shoal.wire import messages as told
from shoal.wire import tasks as wire
from shoal.wire.hello import Role
from tests.virtual.drivers import Link, SimCore
from tests.virtual.workers import SimWorker

if TYPE_CHECKING:
    from tests.virtual.world import World

TICK_S = 0.5
_from_head = msgspec.msgpack.Decoder(told.TO_AGENT).decode


class Conversation:
    """What an agent sees as `Connection`."""

    role, peer = Role.NODE, b""

    def __init__(self, world: World, place: str) -> None:
        self.messages: asyncio.Queue[list[Any] | None] = asyncio.Queue()
        self.end = world.end(place, self._heard, lambda: self.messages.put_nowait(None))

    def _heard(self, data: Any) -> None:
        self.messages.put_nowait(self.decoded(data))

    def decoded(self, data: Any) -> list[Any]:
        """Return the messages of one frame."""
        return msgspec.msgpack.decode(data)  # type: ignore[no-any-return]

    async def receive(self) -> list[Any] | None:
        return await self.messages.get()

    def send(self, message: Any) -> None:
        self.end.send(msgspec.msgpack.encode([message]))

    def flush(self) -> None:
        pass

    def abort(self) -> None:
        self.end.end()
        self.messages.put_nowait(None)

    async def close(self) -> None:
        self.abort()


class HeadConversation(Conversation):
    """The agent's connection to the head: frames of typed messages."""

    def decoded(self, data: Any) -> list[Any]:
        return _from_head(data)


class SimHeadLink(HeadLink):
    """The link to the head, which dials in virtual time."""

    _agent: SimAgent

    async def _dial(self) -> Any:
        world = self._agent.world
        await asyncio.sleep(world.wires.delay_s())
        conversation = HeadConversation(world, self._agent.node_id)
        if not world.head.connect(conversation.end):
            raise ConnectionError("the head is not there")
        return conversation


class SimPool(Pool):
    """The pool, whose forks take a moment and cannot fail."""

    agent: SimAgent

    def _fork_more(self) -> None:
        while self._to_fork:
            worker = self._to_fork.popleft()
            self.agent.world.loop.call_later(self.agent.world.chance.uniform(0.01, 0.6), self._forked, worker)

    def _forked(self, worker: Worker) -> None:
        agent = self.agent
        if worker.is_dead or agent.is_dark:
            return
        conversation = Conversation(agent.world, agent.node_id)
        agent.world.workers[worker.process] = SimWorker(agent, worker, conversation)
        client = Client(conversation, "worker", worker.process, 1, {"addresses": []})  # type: ignore[arg-type]
        client.worker = worker
        agent._clients[worker.process] = client
        agent.world.spawn(agent.serve_client(conversation, client))
        self.ready(worker.process, client)
        if worker.kill_why:
            self.kill(worker, worker.kill_why)

    def kill(self, worker: Worker, why: str) -> None:
        worker.kill_why = worker.kill_why or why
        worker.is_reusable = False
        made = self.agent.world.workers.get(worker.process)
        if made is not None and not made.is_dead:
            made.die()
            self.agent.world.loop.call_later(self.agent.world.wires.delay_s(), self.agent.verdict, worker)

    def halt(self, worker: Worker) -> None:
        if (made := self.agent.world.workers.get(worker.process)) is not None:
            made.halt()

    def go_on(self, worker: Worker) -> None:
        if (made := self.agent.world.workers.get(worker.process)) is not None:
            made.go_on()


class SimAgent(Agent):
    """An agent's handlers on books of their own."""

    def __init__(self, world: World, number: int, cpus: int, instance: str) -> None:
        self.world, self.clock = world, world.clock
        self.node_id, self.instance = f"{number:028x}", instance
        self.settings = SimpleNamespace(  # type: ignore[assignment]
            node_id=self.node_id,
            instance_id=instance,
            node_type="sim",
            token="",
            join_secret="",
            labels={},
            epoch=1,
            is_head=number == 1,
            store_bytes=0,
            fence_s=1.0,
            job_dead_s=30.0,
        )
        self._prefix = bytes.fromhex(self.node_id)
        self._processes = itertools.count(1)
        self._addresses = [f"tcp:{self.node_id}:1"]
        self._clients, self._fates, self._dead, self._dead_nodes = {}, {}, {}, {}
        self._jobs, self.peers = {}, {}
        self.is_dark = self.is_ending = False
        self.end_why = ""
        self._idle_since = 0.0
        self.total = {"CPU": cpus * UNIT}
        self.stock = Stock(self.total)
        self.pool = SimPool({}, self._next_process, self._worker_died, self.end, warm=1, log_dir=Path("/nowhere"))
        self.pool.agent = self
        self.labels = selectors.labels_of_node(self.node_id, "sim", {})
        self.head = SimHeadLink(self)
        nothing: Callable[..., Any] = lambda *_: None  # noqa: E731
        self.leases = Leases(
            self.clock,
            self.stock,
            self.pool,
            self.node_id,
            self.labels,
            bind=nothing,
            place=self._place,
            place_near=self._place_near,
            changed=self.changed,
        )
        self.actors = Actors(
            self.clock,
            self.stock,
            self.pool,
            bind=nothing,
            send=self.head.send,
            changed=self.changed,
            short=self.leases.schedule_soon,
            fence=lambda: self.fence.look(),
        )
        self.bundles = Bundles(self.clock, self.stock, self.leases, self.actors, self.head.send, self.changed)
        self.drain, self.fence = Drain(self), Fence(self)
        self.objects = SimpleNamespace(  # type: ignore[assignment]
            process_died=nothing,
            node_died=nothing,
            owner_died=nothing,
            peer_kinds=frozenset(),
            primaries=lambda: 0,
            used_bytes=lambda: 0,
            drain=nothing,
        )
        self.state = SimpleNamespace(  # type: ignore[assignment]
            worker_died=nothing, joined=nothing, stats=dict, left_behind=lambda: told.LeftBehind(b"")
        )
        self.logs = SimpleNamespace(worker_died=nothing)  # type: ignore[assignment]
        self.marks = SimpleNamespace(read=self._mark, forget=nothing)  # type: ignore[assignment]
        self._handlers = {
            wire.CLASS: self._on_class,
            wire.NEED: lambda client, m: self.leases.need(client, *m[1:]),
            wire.RETURN: lambda client, m: self.leases.give_back(m[1], is_reusable=m[2]),
            wire.ASK: self._on_ask,
            wire.FATE: self._on_fate,
            wire.REVOKE: lambda client, m: self.leases.revoke(client, m[1]),
            wire.ACTOR_FAILED: self._on_actor_failed,
            wire.ACTOR_UP: lambda client, m: self.actors.up(client.worker) if client.worker else None,
        }
        self.linking = world.spawn(self.head.run())
        world.loop.call_later(TICK_S, self._tick_again)

    def note(self, text: str) -> None:
        pass

    def _tick_again(self) -> None:
        if not self.is_dark:
            self.fence.look()
            self.bundles.expire()
            self.drain.tick()
            self.world.loop.call_later(TICK_S, self._tick_again)

    def _mark(self, process: bytes) -> int:
        made = self.world.workers.get(process)
        return made.worker.mark if made is not None else -1

    def verdict(self, worker: Worker) -> None:
        """The process is dead, and its pidfd says so."""
        if not self.is_dark:
            self.pool._lost(worker, "")

    def end(self, why: str) -> None:
        """The head refuses us: everything here ends, and the instance's guard starts another agent."""
        if not self.is_dark:
            self.end_why = why
            self.world.ended(self)

    def go_dark(self) -> None:
        """Do nothing any more."""
        self.is_dark = self.is_ending = True
        self.linking.cancel()
        self.leases.schedule = lambda: None  # type: ignore[method-assign]

    # ------------------------------------------------------------------------------------------- clients

    def attach(self, core: SimCore) -> None:
        """Be a driver's home."""
        link = Link(core, b"")
        conversation = Conversation(self.world, self.node_id)
        link.end.joined(conversation.end)
        client = Client(conversation, "driver", core.process, 1, {})  # type: ignore[arg-type]
        client.job = f"{len(self._clients):08x}"
        self._clients[core.process] = client
        core.agent = link  # type: ignore[assignment]
        core.take(link)
        self.world.spawn(self.serve_client(conversation, client))
        self.head.send(told.JobStarted(client.job, core.process, "", "", 1))

    async def serve_client(self, conversation: Conversation, client: Client) -> None:
        """Hear a process of this node."""
        while (messages := await conversation.receive()) is not None:
            if self.is_dark:
                return
            for message in messages:
                self._handlers[message[0]](client, message)
            self.leases.schedule_soon()

    async def serve(self, conversation: Conversation) -> None:
        """Hear an owner of another node."""
        await self._serve(conversation)  # type: ignore[arg-type]
