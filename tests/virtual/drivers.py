"""Processes that own work, in virtual time: the real core, owner and actor calls; sockets are made up."""

from __future__ import annotations

import collections
import itertools
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec

from shoal.foundation.amounts import UNIT
from shoal.runtime.client.actor_calls import ActorCalls, ActorState, MethodRecipe
from shoal.runtime.client.actors import Actors
from shoal.runtime.client.core import Core
from shoal.runtime.client.owner import Owner, Recipe
from shoal.runtime.client.refs import ObjectRef, when_ready
from shoal.runtime.client.results import Results
from shoal.wire import tasks as wire
from shoal.wire.asks import What
from shoal.wire.hello import Credential, Role

if TYPE_CHECKING:
    from tests.virtual.nodes import SimAgent
    from tests.virtual.world import World

UNREACHABLE_S = 3.0
"""How long dialling a host takes from which nobody answers, not even with a refusal."""
_encode, _decode = msgspec.msgpack.encode, msgspec.msgpack.decode


class InOrder(dict[Any, None]):
    """A set that hands out its members in the same order in every run."""

    def add(self, one: Any) -> None:
        self[one] = None

    def discard(self, one: Any) -> None:
        super().pop(one, None)

    def pop(self) -> Any:  # type: ignore[override]
        return self.popitem()[0]


class Link:
    """What a core sees as `reactor.Link`. Like TCP: it may lose what is under way while both processes live."""

    fds = itertools.count(1000)
    is_lossy, is_tls = True, False

    def __init__(self, core: SimCore, peer: bytes) -> None:
        self.core, self.peer, self.fd = core, peer, next(self.fds)
        self.out: list[Any] = []
        self.pending: dict[int, Any] = {}
        self.asked: dict[int, Any] = {}
        self.known: set[bytes] = set()
        self.addresses: list[str] = []
        self.lease: Any = None
        self.state: Any = None
        self.is_closed = False
        self.end = core.world.end(core.place, lambda data: core.heard(self, data), self.gone)

    def flush(self) -> None:
        out, self.out[:] = list(self.out), []
        if out and not self.is_closed:
            self.end.send(_encode(out))

    def gone(self) -> None:
        if self.core.reactor.links.pop(self.fd, None) is not None:
            self.is_closed = True
            self.core.link_closed(self)  # type: ignore[arg-type]

    def drop(self) -> None:
        self.end.end()
        self.gone()


class SimCore(Core):
    """A process's core without sockets."""

    def __init__(self, world: World, place: str, process: bytes) -> None:
        super().__init__(Credential("ab" * 16, b"s" * 32, Role.DRIVER), None, Path("/nowhere"), is_worker=False)
        self.reactor.close()
        self.world, self.place, self.process = world, place, process
        self.address = (self.process, ())
        self.dirty = InOrder()  # type: ignore[assignment]
        self.is_held = False
        """What is queued stays: the process is at work on its main thread."""

    def heard(self, link: Link, data: bytes) -> None:
        """Take one frame; a worker may be stopped, and takes it later."""
        self.arrived(link, _decode(data))  # type: ignore[arg-type]

    def flush(self) -> None:
        if not self.is_held:
            super().flush()

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
        self.world.loop.call_later(self.world.wires.delay_s(), self._found, process)

    def _found(self, process: bytes) -> None:
        if not self.world.is_reachable(self.place, process):
            self.world.loop.call_later(UNREACHABLE_S, self._connected, process, None)
        elif (link := self.world.connect(self, process)) is None:
            self._connected(process, None)
        else:
            # Its thread waits for the core's lock; what the agent says meanwhile is heard first.
            self.world.loop.call_later(self.world.wires.delay_s(), self._connected, process, link)

    def _connected(self, process: bytes, link: Link | None) -> None:
        if link is not None:
            self.peers[process] = link  # type: ignore[assignment]
            self.take(link)
            link.out.append((wire.HELLO, self.process, []))
            self.reliable.greeted(link)  # type: ignore[arg-type]
        for call in self._dialling.pop(process, ()):
            call(link)  # type: ignore[arg-type]
        if link is not None:
            link.flush()
            if link.end.has_ended:  # it did while nobody had it; only now can anybody hear of that
                link.gone()

    def take(self, link: Link) -> None:
        """Count a link among ours."""
        self.reactor.links[link.fd] = link  # type: ignore[assignment]

    def drop(self, link: Any) -> None:
        link.drop()


class Call:
    """One call of an actor's method: what may become of it, and what did."""

    def __init__(self, ref: ObjectRef[Any], actor_id: bytes, tries: int) -> None:
        self.ref, self.actor_id, self.tries = ref, actor_id, tries
        self.ran: list[tuple[bytes, int]] = []
        """(process, how many calls that instance had run) of each time it ran."""


class Canceller:
    """The real way to cancel tasks."""

    cancel, settle_cancelled = Actors.cancel, Actors.settle_cancelled

    def __init__(self, driver: Driver) -> None:
        owed = SimpleNamespace(ended=lambda ref, error, why: None)
        self._session = SimpleNamespace(owner=driver.owner, results=driver.results, owed=owed)
        self._core = driver.core


class Driver:
    """An owner of plain tasks and a caller of actors, on a node that never dies."""

    def __init__(self, world: World, home: SimAgent, number: int) -> None:
        self.world, self.home, self.number = world, home, number
        self.core = SimCore(world, home.node_id, home._next_process())
        self.owner = Owner(self.core)
        self.results = Results(self.core, self.owner)
        session: Any = SimpleNamespace(
            core=self.core,
            results=self.results,
            put_large=None,
            values=SimpleNamespace(fetch=None),
            functions=None,
            streams=None,
            origins=SimpleNamespace(is_watching=False),
        )
        self.actors = ActorCalls(session)
        self.owner.on_died += [self.core.reliable.process_died, self.actors.process_died]
        self.core.handlers[wire.ALIVE] = self._on_alive
        self.core.handlers[wire.TELL] = self._on_tell
        self._canceller: Any = Canceller(self)
        self.refs: dict[int, ObjectRef[Any]] = {}
        self.open: set[int] = set()
        """Tasks without a result so far."""
        self.tries: dict[int, int] = {}
        self.starts: collections.Counter[int] = collections.Counter()
        self.waiting: set[int] = set()
        """Tasks that wait for another one's result."""
        self.calls: dict[int, Call] = {}
        self.leaving: list[ObjectRef[Any]] = []
        self.asked: dict[str, Any] = {}
        """What the head has answered, by what it is about."""
        home.attach(self.core)

    def _on_alive(self, link: Any, message: list[Any]) -> None:
        self.owner.process_alive(message[1])
        self.core.reliable.process_alive(message[1])
        self.actors.process_alive(message[1])

    def _on_tell(self, link: Any, message: list[Any]) -> None:
        _, what, value = message
        if what == "node-died":  # as `News` does
            node = value["node_id"]
            for other in self.core.links():
                if other.peer[:14].hex() == node or other.peer == b"agent:" + node.encode():
                    self.core.drop(other)
        elif what == "actor":
            self.actors.learn(value)
        elif what == "watch-again":
            self.actors.watch_again(value)

    def ask(self, name: str, what: str, args: dict[str, Any]) -> None:
        """Ask the head; its answer is kept under the name."""
        self.core.request(wire.ASK, what, args, lambda is_ok, value: self.asked.update({name: (is_ok, value)}))

    # ------------------------------------------------------------------------------------------- tasks

    def cancel_some(self) -> None:
        """Cancel one task, or all in some order, as a burst."""
        chance = self.world.chance
        refs = [self.refs[n] for n in sorted(self.open) if not self.refs[n]._ready and n not in self.waiting]
        if refs:
            chance.shuffle(refs)
            for ref in refs[: chance.choice([1, 5, len(refs)])]:
                self._canceller.cancel(ref, is_forced=chance.random() < 0.2, is_recursive=True)

    def submit(self, *, after: ObjectRef[Any] | None = None, spec: dict[str, Any] | None = None) -> None:
        """Submit a task that only takes its time."""
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
        self.open.add(n)

        def go() -> None:
            self.waiting.discard(n)
            self.owner.push(ref, recipe)

        self.waiting.add(n)
        if after is None:
            go()
        else:
            when_ready(after, go)

    def started(self, n: int) -> None:
        """Note that a worker began with a task."""
        self.starts[n] += 1
        tries = self.tries[n]
        assert tries < 0 or self.starts[n] <= 1 + tries, f"task {n} started {self.starts[n]} times"

    def places(self) -> collections.Counter[int]:
        """Return where every unfinished task is: waiting, queued or with a worker."""
        found = collections.Counter(self.waiting)
        for work in self.owner.by_key.values():
            if work.queue:
                found.update(ref._n for ref in work.queue if not ref._ready)
        links = {id(link): link for link in self.core.reactor.links.values()}
        for lease in (*self.owner.leases.values(), *self.owner._orphans.values()):
            links[id(lease.link)] = lease.link
        for lease, *_ in self.owner._dying.values():
            links[id(lease.link)] = lease.link
        for link in links.values():
            for n, ref in link.pending.items():
                if type(ref) is ObjectRef and not ref._ready and type(ref._recipe) is Recipe:
                    found[n] += 1
        return found

    def check(self) -> None:
        """See that every unfinished task is in one place, and no other is anywhere."""
        self.open = {n for n in self.open if not self.refs[n]._ready}
        for work in self.owner.by_key.values():
            if any(not ref._ready for ref in work.queue):
                idle = [lease.node for lease in work.leases if not lease.pending]
                # Spread work may wait for a node that has had less, as long as its lease is on the way.
                is_dealt = work.deal is not None and (
                    work.deal.choose(idle, self.world.loop.time(), len(work.queue)) is None
                )
                assert not idle or is_dealt, "a task waits beside a lease that does nothing"
        places = self.places()
        assert places.keys() == self.open, f"lost or finished twice: {places.keys() ^ self.open}"
        for n, count in places.items():
            assert count == 1, f"task {n} is in {count} places"

    # ------------------------------------------------------------------------------------------- actors

    def create(self, actor_id: bytes, *, is_ordered: bool, max_restarts: int, held: dict[str, int]) -> None:
        """Create an actor, as `Actors.create` does."""
        state = ActorState(actor_id, "A", is_ordered=is_ordered, max_pending=-1)
        state.is_watched = True
        self.actors.states[actor_id] = state
        spec = _encode([is_ordered])
        args = {"actor_id": actor_id, "job": self.job, "class_name": "A", "is_detached": True, "spec": spec}
        args |= {"max_restarts": max_restarts, "amounts": {"CPU": UNIT}, "held": held}
        self.ask(actor_id.hex(), What.CREATE_ACTOR, args)

    @property
    def job(self) -> str:
        return f"{self.number:08x}"

    def follow(self, actor_id: bytes, *, is_ordered: bool) -> None:
        """Have a handle of an actor that somebody else created."""
        if actor_id not in self.actors.states:
            self.actors.states[actor_id] = ActorState(actor_id, "A", is_ordered=is_ordered, max_pending=-1)

    def call(self, actor_id: bytes, *, tries: int, after: ObjectRef[Any] | None = None, fails: int = 0) -> None:
        """Call an actor; its method fails `fails` times with an error that is retried, if there are tries left."""
        state = self.actors.states[actor_id]
        recipe = MethodRecipe(state, "add", tries=tries, retry_on=(ValueError,), returns=1, options=None)
        number = len(self.calls)
        args = (self.number, number, fails) if after is None else (self.number, number, fails, after)
        self.calls[number] = call = Call(None, actor_id, tries)  # type: ignore[arg-type]  # it may run in this turn
        call.ref = self.actors.call(recipe, args, {})

    def leave(self, actor_id: bytes) -> None:
        """Call a method in which the actor ends by its own wish; nobody waits for it."""
        recipe = MethodRecipe(self.actors.states[actor_id], "leave", tries=0, retry_on=(), returns=1, options=None)
        self.leaving.append(self.actors.call(recipe, (), {}))

    def kill(self, actor_id: bytes, *, no_restart: bool) -> None:
        """Kill an actor for good, or its present process."""
        self.ask(f"kill {len(self.asked)}", What.KILL_ACTOR, {"actor_id": actor_id, "no_restart": no_restart})

    def error_of(self, ref: ObjectRef[Any]) -> BaseException | None:
        """Return the error that a call or task has ended with."""
        return pickle.loads(ref._data) if ref._format == wire.ERROR else None
