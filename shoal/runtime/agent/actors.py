"""Actors on this node: start one for the head in a warm worker, tell how it went, end it.

The head decides where and how often; here an actor is a worker that holds a grip on the node's amounts. Placement needs
`amounts`; from the moment it lives it holds `held` (nothing, for an actor that named no resource).
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

from shoal.foundation.clock import Clock
from shoal.runtime.agent.pool import Pool, Worker
from shoal.runtime.agent.stock import Grip, Stock
from shoal.wire import messages as told
from shoal.wire import tasks as wire

ENDED_MAX = 1000
"""How many verdicts are kept until the head surely has them."""


class Actor:
    """One actor that starts or lives here."""

    __slots__ = (
        "actor_id",
        "address",
        "cause",
        "error",
        "generation",
        "grip",
        "is_ending",
        "is_up",
        "job",
        "start",
        "up_s",
        "why",
        "worker",
    )

    def __init__(self, start: told.StartActor, grip: Grip) -> None:
        self.start, self.grip = start, grip
        self.actor_id, self.generation, self.job = start.actor_id, start.generation, start.job
        self.worker: Worker | None = None
        self.is_up = self.is_ending = False
        self.up_s: float | None = None
        """When its constructor returned, on this node's clock."""
        self.cause = self.why = ""
        self.error = b""
        self.address: list[Any] = []


class Actors:
    """Every actor of the node, by id."""

    def __init__(
        self,
        clock: Clock,
        stock: Stock,
        pool: Pool,
        *,
        bind: Callable[[Worker, str, dict[str, Any], Grip, Any], None],
        send: Callable[[Any], None],
        changed: Callable[[], None],
        short: Callable[[], None],
        fence: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._stock, self._pool, self._bind, self._send, self._changed = stock, pool, bind, send, changed
        self._short, self._fence = short, fence
        self.by_id: dict[bytes, Actor] = {}
        self._ended: collections.deque[tuple[float, told.ActorEnded]] = collections.deque(maxlen=ENDED_MAX)
        """What was said lately about actors that ended, and when."""
        self.is_open = True

    def start(self, message: told.StartActor) -> bool:
        """Start an actor if there is room; else say so to the head, which places it anew. Returns whether it starts."""
        old = self.by_id.get(message.actor_id)
        if old is not None:
            if old.generation >= message.generation:
                return False  # the head asks again after a reconnect: it is here
            self._end(old, "killed", "a newer generation starts")
        bundle = (message.group_id, message.bundle) if message.group_id else None
        grip = self._stock.take(message.amounts, bundle) if self.is_open or bundle else None
        if grip is None:
            self._send(told.ActorEnded(message.actor_id, message.generation, "refused", "no room on the node"))
            self._short()
            return False
        actor = Actor(message, grip)
        self.by_id[actor.actor_id] = actor
        self._changed()
        options = message.options
        environment = options.get("environment") or {}
        self._pool.take(
            (message.job, options.get("environment_key", "")),
            lambda worker: self._got_worker(actor, worker, environment),
            is_fresh=True,
        )
        return True

    def _got_worker(self, actor: Actor, worker: Worker, environment: dict[str, Any]) -> None:
        if self.by_id.get(actor.actor_id) is not actor:
            self._pool.kill(worker, "its actor was ended before it started")
            return
        actor.worker, worker.actor, worker.grip = worker, actor, actor.grip
        worker.is_reusable = False
        self._fence()  # while the head is out of reach nothing begins that it may begin elsewhere
        self._bind(worker, actor.job, environment, actor.grip, actor.start.options.get("group"))
        assert worker.client is not None
        actor.address = [worker.process, worker.client.info.get("addresses", [])]
        worker.client.tell(wire.BUILD, actor.actor_id, actor.generation, actor.start.spec, actor.start.options)

    def up(self, worker: Worker) -> None:
        """Its constructor returned: from now on it holds what it holds for life."""
        actor: Actor | None = worker.actor
        if actor is None or actor.is_up:
            return
        actor.is_up, actor.up_s = True, self._clock.monotonic_s()
        held = actor.start.held
        if held != actor.grip.amounts:
            was_blocked = actor.grip.is_blocked
            gpus, bundle = actor.grip.gpus, actor.grip.bundle
            actor.grip.gpus = {}
            self._stock.give_back(actor.grip)
            # It fits: what is held for life is never more than what the placement needed.
            grip = self._stock.take({name: amount for name, amount in held.items() if name != "GPU"}, bundle)
            assert grip is not None, "an actor holds more for life than its placement needed"
            grip.amounts, grip.gpus = dict(held), gpus
            if gpus and bundle is None:
                self._stock.free = {**self._stock.free, "GPU": self._stock.free.get("GPU", 0) - held.get("GPU", 0)}
            actor.grip = worker.grip = grip
            if was_blocked:
                self._stock.block(grip)
        self._send(told.ActorStarted(actor.actor_id, actor.generation, worker.process, actor.address, worker.pid))
        self._changed()

    def failed(self, worker: Worker, cause: str, why: str, error: bytes) -> None:
        """Its constructor raised, or it ends of its own wish."""
        actor: Actor | None = worker.actor
        if actor is not None:
            self._end(actor, cause, why, error)

    def kill(self, actor_id: bytes, generation: int, why: str) -> None:
        """End an actor because the head says so."""
        actor = self.by_id.get(actor_id)
        if actor is not None and actor.generation <= generation:
            self._end(actor, "killed", why)

    def end_job(self, job: str, why: str) -> None:
        """End the actors of a job, but for detached ones."""
        for actor in tuple(self.by_id.values()):
            if actor.job == job and not actor.start.options.get("is_detached"):
                self._end(actor, "killed", why)

    def end_group(self, group_id: str, why: str) -> None:
        """End the actors inside a placement group."""
        for actor in tuple(self.by_id.values()):
            if actor.start.group_id == group_id:
                self._end(actor, "group-removed", why)

    def worker_died(self, worker: Worker, why: str) -> None:
        """The verdict on its process."""
        actor: Actor | None = worker.actor
        if actor is None or self.by_id.get(actor.actor_id) is not actor:
            return
        del self.by_id[actor.actor_id]
        self._stock.give_back(actor.grip)
        cause = actor.cause or ("oom" if worker.kill_why.startswith("out of memory") else "crashed")
        self._say_ended(actor, cause, actor.why or why, actor.error)
        self._changed()

    def _end(self, actor: Actor, cause: str, why: str, error: bytes = b"") -> None:
        if not actor.cause:
            actor.cause, actor.why, actor.error = cause, why, error
        if actor.worker is not None:
            self._pool.kill(actor.worker, why)  # the verdict does the rest
            return
        del self.by_id[actor.actor_id]
        self._stock.give_back(actor.grip)
        self._say_ended(actor, actor.cause, actor.why, error)
        self._changed()

    def _say_ended(self, actor: Actor, cause: str, why: str, error: bytes) -> None:
        verdict = told.ActorEnded(actor.actor_id, actor.generation, cause, why, error)
        self._ended.append((self._clock.monotonic_s(), verdict))
        self._send(verdict)

    def unconfirmed(self, proven_s: float | None) -> list[told.ActorEnded]:
        """Return the verdicts that the head may not have: all but those from before it was surely reached."""
        while self._ended and proven_s is not None and self._ended[0][0] < proven_s:
            self._ended.popleft()
        return [verdict for _, verdict in self._ended]
