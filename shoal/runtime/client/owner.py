"""Plain tasks, as their owner sees them: classes of work, leases, pushing ahead, retries.

A worker is leased for a class (a shape with its constraints) and used again for the next task of the class without
asking anybody. How many tasks are pushed ahead depends on how long the function usually takes: one while that is
unknown, at most what the worker does in 5 ms. The rest waits here; its number is what the agent reports as demand.

In-flight accounting is `link.pending`, by number, in the order of pushing: it says what a dead worker still owed us.
"""

from __future__ import annotations

import collections
import functools
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from shoal.foundation.amounts import Amounts
from shoal.runtime.client.core import Core
from shoal.runtime.client.reactor import Link
from shoal.runtime.client.refs import Home, ObjectRef, settle
from shoal.runtime.client.sources import Made
from shoal.runtime.decide import locality
from shoal.runtime.decide.spreading import Deal
from shoal.wire import tasks as wire

AHEAD_US = 5000.0
"""How much work is pushed ahead to one worker."""
AHEAD_MAX = 256
FLUSH_AT = 32
LAST_RESULTS_S = 0.5
"""How long after a worker's death its last results are waited for."""
IDLE_LEASE_S = 0.1
"""How long an unused lease is kept for the next task."""
IDLE_WANTED_S = 0.005
"""How long an unused lease is kept while other work of ours that has some leases waits for more."""
IDLE_WANTED_BY_OTHERS_S = 0.02
"""How long an unused lease is kept while other clients wait: who works in batches has its next one by then, mostly."""
SPREAD_TOLD_MAX = 64
"""How many waiting tasks that are spread are told one by one: the first worker would else run them all meanwhile."""
NEED_PAUSE_S = 0.005
"""How often at most a changed backlog is told to the agent."""
NEAR_NODES_MAX = 64
"""For how many nodes a function may have classes of work of their own, because its arguments lie there."""
NEAR_LEASES_MAX = 64
"""How many leases that node is asked for at once while nobody knows how long the tasks take."""
SPREAD_WAITS_S = 1.0
"""How long an idle lease of spread work waits for that of a node which has had fewer tasks."""
TASK = wire.TASK


class Recipe:
    """One remote function under one set of options: what every task of it shares."""

    __slots__ = (
        "blob",
        "duration_us",
        "function",
        "name",
        "near",
        "options",
        "retry_on",
        "returns",
        "samples",
        "tries",
        "work",
    )

    def __init__(
        self,
        function: bytes,
        blob: bytes,
        name: str,
        work: WorkClass,
        *,
        tries: int,
        retry_on: Any,
        returns: Any,
        options: dict[str, Any] | None,
    ) -> None:
        self.function, self.blob, self.name, self.work = function, blob, name, work
        self.tries = tries
        """How often a task may start again after a system failure; -1 for ever."""
        self.retry_on = retry_on
        """Which user errors are retried: False, True, or a tuple of types."""
        self.returns, self.options = returns, options
        self.duration_us: float | None = None
        self.samples = 0
        self.near: dict[str, Recipe] = {}
        """The same under classes that would rather run on another node, by its id."""

    def ahead(self) -> int:
        """Return how many tasks a worker may hold at once."""
        duration_us = self.duration_us
        if duration_us is None:
            return 1
        count = int(AHEAD_US / (duration_us + 1.0))
        return 1 if count < 1 else (min(count, AHEAD_MAX))


class WorkClass:
    """Work of one shape and constraint: its queue, its leases, and what was last said about it to the agents."""

    __slots__ = (
        "deal",
        "duration_us",
        "ended",
        "is_known",
        "is_pushed",
        "is_single_use",
        "is_spread",
        "key",
        "leases",
        "placed",
        "queue",
        "seen",
        "seen_anywhere",
        "spec",
        "told",
        "told_at",
        "told_seen",
        "turn",
    )

    def __init__(self, key: int, spec: dict[str, Any]) -> None:
        self.key, self.spec = key, spec
        self.is_single_use: bool = spec.get("is_single_use", False)
        """Each worker runs one task."""
        self.is_spread: bool = spec.get("spread", False)
        """Every batch is dealt round the nodes anew, so no lease is kept for the next one."""
        self.deal = Deal() if self.is_spread else None
        """Which node takes the next task, if it is spread."""
        self.is_pushed = not (self.is_single_use or self.is_spread)
        """Whether a new task may go straight to a worker that we have."""
        self.queue: collections.deque[ObjectRef[Any]] = collections.deque()
        self.leases: list[Lease] = []
        self.seen = self.seen_anywhere = 0
        """Grants that we have absorbed, ever: of the home agent, which counts its own, and of all, for the head."""
        self.ended = ""
        """Why nothing of the class can ever run (its group was removed, its node is dead), as an agent says it."""
        self.told = self.told_seen = 0
        self.told_at = 0.0
        self.is_known = False
        self.turn = 0
        self.duration_us: float | None = None
        self.placed: dict[str, int] = {}


class Lease:
    """A worker that is ours for a class, until we return it."""

    __slots__ = (
        "agent",
        "gpus",
        "idle_since",
        "is_dead",
        "is_retiring",
        "is_wanted",
        "lease",
        "link",
        "node",
        "pending",
        "process",
        "work",
    )

    def __init__(self, lease: int, process: bytes, link: Link, work: WorkClass, agent: Link, gpus: list[str]) -> None:
        self.lease, self.process, self.link, self.work, self.agent, self.gpus = lease, process, link, work, agent, gpus
        self.node = _node_of(agent)
        self.pending = link.pending
        self.is_retiring = self.is_dead = self.is_wanted = False
        self.idle_since = time.monotonic()


def _node_of(agent: Link) -> str:
    """Return the node of an agent that grants leases, empty for home."""
    return agent.peer.removeprefix(b"agent:").decode()


class Owner:
    """Everything this process has handed out as plain tasks."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.classes: dict[Any, WorkClass] = {}
        self.by_key: dict[int, WorkClass] = {}
        self.leases: dict[tuple[Link, int], Lease] = {}
        """By the agent's link and its number."""
        self._coming: dict[tuple[Link, int], bool] = {}
        """Leases whose workers we dial, likewise: whether they have been asked back already."""
        self.agents: dict[str, Link] = {}
        """Links to other nodes' agents, by node id."""
        self.finish: Callable[[Link, list[Any], ObjectRef[Any]], None] = finish_simply
        """Takes results that are not simply native."""
        self.held: Callable[[Iterable[tuple[int, Any]]], list[tuple[str, int]]] = lambda parts: []
        """Where the stored values among a task's arguments lie, copies too: (node, bytes); `large` replaces it."""
        self.fail: Callable[[ObjectRef[Any], str, bool], None] = lambda ref, why, has_started: None
        """Decides about a task whose worker died."""
        self.on_lost: Callable[[ObjectRef[Any], str, Lease], None] = lambda ref, why, lease: None
        """Called for a task that its worker had begun, or may have, when it died."""
        self.cancelled: set[int] = set()
        """Tasks under way that we asked to be cancelled."""
        core.on_results = self._on_results
        core.on_tick.append(self._tick)
        core.on_link_closed.append(self._link_closed)
        core.handlers[wire.LEASED] = self._on_leased
        core.handlers[wire.RECLAIM] = self._on_reclaim
        core.handlers[wire.UNSTARTED] = self._on_unstarted
        core.handlers[wire.PLACED] = self._on_placed
        core.handlers[wire.DIED] = self._on_died
        core.has_timers = lambda: bool(self.leases or self._dying)
        self._orphans: dict[bytes, Lease] = {}
        self._dying: dict[Link, tuple[Lease, str, int, float]] = {}
        """Leases whose worker is dead, until its last results are read: link to (lease, why, started, until)."""
        self.on_died: list[Callable[[bytes, str], None]] = []

    # ---------------------------------------------------------------------------------------------- submitting

    def work_class(self, spec: dict[str, Any]) -> WorkClass:
        """Return the class of work with this spec."""
        identity = msgspec.msgpack.encode(sorted(spec.items()))
        with self.core.lock:
            work = self.classes.get(identity)
            if work is None:
                work = self.classes[identity] = WorkClass(len(self.classes) + 1, spec)
                self.by_key[work.key] = work
            return work

    def push(self, ref: ObjectRef[Any], recipe: Recipe) -> None:
        """Send a task whose arguments are ready to a worker with room, or queue it. With the core's lock held."""
        work = recipe.work
        if not work.queue and work.leases and work.is_pushed:
            lease = self._with_room(work, recipe)
            if lease is not None:
                link = lease.link
                out = link.out
                if recipe.function not in link.known:
                    link.known.add(recipe.function)
                    out.append(
                        (wire.FUNCTION, recipe.function, recipe.blob, recipe.work.spec.get("name") or recipe.name)
                    )
                pending = link.pending
                count = len(pending)
                pending[ref._n] = ref
                out.append(ref._message)
                if count == 0 or len(out) >= FLUSH_AT:
                    link.flush()
                else:
                    self.core.touch(link)
                return
        if work.ended:
            self.fail(ref, work.ended, False)
            return
        work.queue.append(ref)
        if work.leases and not work.is_pushed:
            self._feed(work)
            if not work.queue:
                return
        waiting = len(work.queue)
        if waiting == 1 or not work.told or (work.is_spread and waiting <= SPREAD_TOLD_MAX):
            self.tell_need(work)

    def end_class(self, work: WorkClass, why: str) -> None:
        """Nothing of the class can ever run: fail what waits and what comes. With the core's lock held."""
        work.ended = why
        waiting = tuple(work.queue)
        work.queue.clear()
        for ref in waiting:
            self.fail(ref, why, False)
        if waiting:
            self.tell_need(work)

    def recipe_near(self, recipe: Recipe, parts: list[Any]) -> Recipe:
        """Return the recipe under which a task with these arguments is queued: for the node that holds most of them.

        Work that is spread, selects nodes or runs in a group has said where it belongs.
        """
        spec = recipe.work.spec
        if "spread" in spec or "selector" in spec or "group" in spec:
            return recipe
        stored = self.held(parts)
        node = locality.best_node(stored, Home.node_id) if stored else ""
        if not node:
            return recipe
        found = recipe.near.get(node)
        if found is None:
            if len(recipe.near) >= NEAR_NODES_MAX:
                return recipe
            found = recipe.near[node] = Recipe(
                recipe.function,
                recipe.blob,
                recipe.name,
                self.work_class({**spec, "near": node}),
                tries=recipe.tries,
                retry_on=recipe.retry_on,
                returns=recipe.returns,
                options=recipe.options,
            )
            found.duration_us, found.samples = recipe.duration_us, recipe.samples
        return found

    def resubmit(self, ref: ObjectRef[Any]) -> None:
        """Run a task again whose stored result was lost; lost arguments are made again by whoever reads them."""
        self.push(ref, ref._recipe)

    def _with_room(self, work: WorkClass, recipe: Recipe) -> Lease | None:
        """Return an idle lease, else the least loaded one with room; looks at eight at most."""
        leases = work.leases
        total = len(leases)
        if total > 8:
            work.turn = start = (work.turn + 1) % total
            leases = (leases + leases)[start : start + 8]
        best, least = None, 1 << 30
        for lease in leases:
            count = len(lease.pending)
            if count < least:
                if count == 0:
                    return lease
                best, least = lease, count
        return best if least < recipe.ahead() else None

    def refill(self, lease: Lease) -> None:
        """Push queued tasks to a lease with room. With the core's lock held."""
        work, link = lease.work, lease.link
        queue = work.queue
        if lease.is_retiring or lease.is_dead:
            self._retire_if_done(lease)
            return
        if work.deal is not None:
            self._deal(work, work.deal)
            return
        if queue:
            pending, out, known = link.pending, link.out, link.known
            room = queue[0]._recipe.ahead() - len(pending)
            if work.is_single_use:
                room = 1
                lease.is_retiring = True
                if lease in work.leases:
                    work.leases.remove(lease)
            if room > 0 and len(work.leases) > 1 and len(queue) < room * len(work.leases):
                room = max(1, -(-len(queue) // len(work.leases)))  # the tail is shared, not given to whoever asks first
            while room > 0 and queue:
                ref = queue.popleft()
                if ref._ready:
                    continue  # cancelled while it waited
                recipe = ref._recipe
                if recipe.function not in known:
                    known.add(recipe.function)
                    out.append(
                        (wire.FUNCTION, recipe.function, recipe.blob, recipe.work.spec.get("name") or recipe.name)
                    )
                pending[ref._n] = ref
                out.append(ref._message)
                room -= 1
            if out:
                link.flush()
            if not queue and work.told:
                self.tell_need(work)
        if not link.pending:
            self._rest(lease)

    def _feed(self, work: WorkClass) -> None:
        """Give what waits to leases that do nothing: nobody else would, and they would never be given back."""
        for lease in tuple(work.leases):
            if work.queue and not lease.pending:
                self.refill(lease)

    def _deal(self, work: WorkClass, deal: Deal) -> None:
        """Give queued tasks of spread work to idle leases, one each; return those that the next batch deals anew."""
        queue, now = work.queue, time.monotonic()
        idle: dict[str, list[Lease]] = {}
        for lease in work.leases:
            if not lease.pending:
                idle.setdefault(lease.node, []).append(lease)
        while queue:
            if queue[0]._ready:
                queue.popleft()  # cancelled while it waited
                continue
            node = deal.choose(idle, now, len(queue))
            if node is None:
                break
            lease = idle[node].pop()
            if not idle[node]:
                del idle[node]
            ref, link = queue.popleft(), lease.link
            recipe = ref._recipe
            if recipe.function not in link.known:
                link.known.add(recipe.function)
                link.out.append((wire.FUNCTION, recipe.function, recipe.blob, recipe.name))
            link.pending[ref._n] = ref
            link.out.append(ref._message)
            link.flush()
            deal.took(node)
            if work.is_single_use:
                lease.is_retiring = True
                work.leases.remove(lease)
        if not queue:
            for leases in idle.values():
                for lease in leases:
                    self._give_back(lease)
            if work.told:
                deal.ended()
                self.tell_need(work)

    def _rest(self, lease: Lease) -> None:
        """Nothing is left for a lease: keep it for the next task."""
        lease.idle_since = time.monotonic()

    # ---------------------------------------------------------------------------------------------- demand

    def tell_need(self, work: WorkClass) -> None:
        """Tell the home agent the backlog of a class. With the core's lock held."""
        agent = self.core.agent
        if not work.is_known:
            work.is_known = True
            agent.out.append((wire.CLASS, work.key, work.spec))
        waiting = len(work.queue)
        if waiting and len(self.leases) > len(work.leases):
            unused_s = IDLE_WANTED_S if work.leases else 0.0
            group = work.spec.get("group")
            self.make_room(work.spec["amounts"], waiting, group and group[0], beside=work, unused_s=unused_s)
        work.told, work.told_seen, work.told_at = waiting, work.seen_anywhere, time.monotonic()
        duration_us = -1 if work.duration_us is None else int(work.duration_us)
        agent.out.append((wire.NEED, work.key, waiting, work.seen, duration_us, len(work.leases), work.seen_anywhere))
        agent.flush()

    def make_room(
        self,
        amounts: Amounts,
        count: int = 1,
        group_id: str | None = None,
        *,
        beside: WorkClass | None = None,
        unused_s: float = 0.0,
    ) -> None:
        """Return leases that nobody has used for `unused_s`, until they give `count` times `amounts`, of the group's
        bundles or of no group, but not of `beside`: what waits need not wait for their time. With the core's lock held.
        """
        wanted = {name: amount * count for name, amount in amounts.items()}
        if not wanted:
            return
        used_until = time.monotonic() - unused_s
        for work in self.by_key.values():
            if work is beside or work.queue or not work.leases:
                continue
            group = work.spec.get("group")
            if (group and group[0]) != group_id or wanted.keys().isdisjoint(work.spec["amounts"]):
                continue
            for lease in tuple(work.leases):
                if not lease.pending and lease.idle_since <= used_until:
                    self._give_back(lease)
                    for name, amount in work.spec["amounts"].items():
                        if wanted.get(name, 0) > amount:
                            wanted[name] -= amount
                        else:
                            wanted.pop(name, None)
                    if not wanted:
                        return

    def _tick(self, now: float) -> None:
        """Tell changed backlogs, return leases that nobody used for a while."""
        if not self.by_key:
            return
        with self.core.lock:
            for link, (lease, why, started, until) in tuple(self._dying.items()):
                if now >= until:
                    del self._dying[link]
                    self._bury(lease, why, started)
            for work in self.by_key.values():
                waiting = len(work.queue)
                if work.deal is not None and waiting and work.leases:
                    self._deal(work, work.deal)  # a node that was waited for may be late by now
                    waiting = len(work.queue)
                # A grant that was absorbed counts as told only with the backlog that it left.
                is_news = waiting != work.told or (waiting and work.seen_anywhere != work.told_seen)
                if is_news and now - work.told_at > NEED_PAUSE_S:
                    self.tell_need(work)
                if work.leases and not work.queue:
                    for lease in tuple(work.leases):
                        kept_s = IDLE_WANTED_BY_OTHERS_S if lease.is_wanted else IDLE_LEASE_S
                        if not lease.pending and now - lease.idle_since > kept_s:
                            self._give_back(lease)

    # ---------------------------------------------------------------------------------------------- leases

    def _on_leased(self, agent: Link, message: list[Any]) -> None:
        _, key, number, process, addresses, gpus = message
        work = self.by_key[key]
        is_home = agent is self.core.agent
        if work.deal is not None:
            work.deal.came(_node_of(agent))
        if not work.queue:
            work.seen += is_home
            work.seen_anywhere += 1
            agent.out.append((wire.RETURN, number, True))
            agent.flush()
            return

        def connected(link: Link | None) -> None:
            work.seen += is_home
            work.seen_anywhere += 1
            is_reclaimed = self._coming.pop((agent, number))
            if link is None or is_reclaimed:
                agent.out.append((wire.RETURN, number, link is not None))
                agent.flush()
                if link is None and (why := self.core.refusals.get(process)):
                    self._fail_untrusted(work, 1, why)
                self.tell_need(work)
                return
            lease = Lease(number, process, link, work, agent, gpus)
            link.lease = lease
            if agent.is_closed:  # while we dialled: nobody would answer for this lease
                self._agent_lost(lease)
                return
            self.leases[agent, number] = lease
            work.leases.append(lease)
            self.refill(lease)

        self._coming[agent, number] = False
        self.core.with_peer((process, tuple(addresses)), connected)

    def _on_reclaim(self, agent: Link, message: list[Any]) -> None:
        key = agent, message[1]
        lease = self.leases.get(key)
        if message[2:] == [True]:  # only if it is idle, now or later: the next tick sees
            if lease is not None:
                lease.is_wanted = True
        elif key in self._coming:
            self._coming[key] = True
        elif lease is not None and not lease.is_retiring:
            lease.is_retiring = True
            if lease in lease.work.leases:
                lease.work.leases.remove(lease)
            self._retire_if_done(lease)
            if lease.work.queue:
                self.tell_need(lease.work)

    def _retire_if_done(self, lease: Lease) -> None:
        if lease.is_retiring and not lease.is_dead and not lease.link.pending:
            self._give_back(lease)

    def _give_back(self, lease: Lease, *, is_reusable: bool = True) -> None:
        if lease in lease.work.leases:
            lease.work.leases.remove(lease)
        lease.is_retiring = True
        self.leases.pop((lease.agent, lease.lease), None)
        if lease.link.lease is lease:
            lease.link.lease = None
        lease.agent.out.append((wire.RETURN, lease.lease, is_reusable))
        lease.agent.flush()

    def _on_unstarted(self, link: Link, message: list[Any]) -> None:
        """Take back what the worker will not start soon; first in the queue again."""
        work = None
        for n in reversed(message[1]):
            ref = link.pending.pop(n, None)
            if type(ref) is ObjectRef and ref._recipe is not None:
                work = ref._recipe.work
                self._take_back(ref)
        lease = link.lease
        if lease is not None:
            if message[2]:
                lease.is_retiring = True
                if lease in lease.work.leases:
                    lease.work.leases.remove(lease)
            self._retire_if_done(lease)
        if work is not None:
            for other in tuple(work.leases):
                if other.link is not link:
                    self.refill(other)
            if work.queue:
                self.tell_need(work)

    def _take_back(self, ref: ObjectRef[Any]) -> None:
        """Put what did not start first in its queue, unless its cancellation crossed it on the way."""
        if ref._n in self.cancelled:
            self.fail(ref, "cancelled", False)
            self.cancelled.discard(ref._n)
        elif ref._recipe.work.ended:
            self.fail(ref, ref._recipe.work.ended, False)
        else:
            ref._recipe.work.queue.appendleft(ref)

    def _on_placed(self, agent: Link, message: list[Any]) -> None:
        """Ask other nodes' agents for the leases that the head placed there."""
        _, key, places = message
        work = self.by_key.get(key)
        if work is None:
            return
        for node, addresses, count in places:
            if len(self.leases) < 512:
                if work.deal is not None and work.queue:
                    work.deal.expect(node, time.monotonic() + SPREAD_WAITS_S)
                self._with_agent(node, addresses, functools.partial(self._need_there, work, count, node))

    def _need_there(self, work: WorkClass, count: int, node: str, agent: Link | None) -> None:
        if agent is None:
            if work.deal is not None:
                work.deal.gone(node)
            if why := self.core.refusals.get(b"agent:" + node.encode()):
                self._fail_untrusted(work, count, f"node {node}: {why}")
            return
        if work.key not in agent.known:  # type: ignore[comparison-overlap]
            agent.known.add(work.key)  # type: ignore[arg-type]
            agent.out.append((wire.CLASS, work.key, work.spec))
        is_near = work.spec.get("near") == agent.peer[len(b"agent:") :].decode()
        # Home knew of the first task only; that node is asked for all that wait for it.
        count = min(NEAR_LEASES_MAX if is_near and work.duration_us is None else count, len(work.queue))
        if count:
            if is_near:
                # What our other work there only keeps for its next task may be the room that this needs.
                for lease in tuple(self.leases.values()):
                    if lease.agent is agent and lease.work is not work and not (lease.pending or lease.work.queue):
                        self._give_back(lease)
            duration_us = work.duration_us
            agent.out.append((wire.NEED, work.key, count, 0, -1 if duration_us is None else int(duration_us), 0))
        agent.flush()

    def _fail_untrusted(self, work: WorkClass, count: int, why: str) -> None:
        """Fail what was placed with somebody who cannot prove to be of this cluster: trying again changes nothing."""
        for _ in range(min(count, len(work.queue))):
            self.fail(work.queue.popleft(), f"untrusted: {why}", False)
        self.tell_need(work)

    def _with_agent(self, node: str, addresses: list[str], call: Callable[[Link | None], None]) -> None:
        link = self.agents.get(node)
        if link is not None and not link.is_closed:
            call(link)
            return

        def connected(link: Link | None) -> None:
            if link is not None and link.state is None:
                link.state = "agent"
                self.agents[node] = link
                link.out.append((wire.ATTACH, "owner", self.core.process, 0, {"addresses": list(self.core.address[1])}))
            call(link)

        self.core.with_peer((b"agent:" + node.encode(), tuple(addresses)), connected)

    # ---------------------------------------------------------------------------------------------- results

    def _on_results(self, link: Link, message: list[Any], ref: Any) -> None:
        """After a frame with results: learn the function's duration, keep the worker busy."""
        lease = link.lease
        if lease is None:
            return
        recipe = ref._recipe if type(ref) is ObjectRef else None
        if recipe is not None:
            if type(recipe) is Made:
                recipe = recipe.source.recipe
            duration_us, known_us = message[4], recipe.duration_us
            recipe.duration_us = duration_us if known_us is None else known_us + (duration_us - known_us) * 0.3
            recipe.samples += 1
            work = recipe.work
            if recipe.samples >= 5:
                work.duration_us = recipe.duration_us
        work, deal = lease.work, lease.work.deal
        if lease.is_retiring:
            self.refill(lease)
        elif deal is not None:
            if work.queue and not link.pending and not deal.keeps(lease.node, len(work.queue)):
                self._give_back(lease)
                self.tell_need(work)
            self._deal(work, deal)
        elif work.queue:
            self.refill(lease)
        elif not link.pending:
            self._rest(lease)

    # ---------------------------------------------------------------------------------------------- failures

    def _link_closed(self, link: Link) -> None:
        """A broken connection is no death: keep what is owed until the agent's verdict."""
        dying = self._dying.pop(link, None)
        if dying is not None:
            self._bury(*dying[:3])
        lease = link.lease
        if lease is not None and not lease.is_dead:
            lease.is_retiring = True
            if lease in lease.work.leases:
                lease.work.leases.remove(lease)
            # The fence: the worker is killed before anything it may have started is done again.
            lease.agent.out.append((wire.REVOKE, lease.lease, "connection lost"))
            lease.agent.flush()
        for key, held in tuple(self.leases.items()):
            if held.agent is link:
                del self.leases[key]
                self._agent_lost(held)
        for node, agent in tuple(self.agents.items()):
            if agent is link:
                del self.agents[node]
                for work in self.by_key.values():
                    if work.deal is not None:
                        work.deal.gone(node)

    def _agent_lost(self, lease: Lease) -> None:
        """The granting agent is unreachable: its node's verdict comes from the head."""
        lease.is_retiring = True
        if lease in lease.work.leases:
            lease.work.leases.remove(lease)
        self.core.agent.out.append((wire.FATE, lease.process))
        self.core.agent.flush()
        self._orphans[lease.process] = lease

    def process_alive(self, process: bytes) -> None:
        """Not dead so far: an orphaned lease's verdict is still to come, so ask again. With the core's lock held."""
        if process in self._orphans:
            self.core.agent.out.append((wire.FATE, process))
            self.core.agent.flush()

    def _on_died(self, agent: Link, message: list[Any]) -> None:
        """The verdict: what had started costs a retry, what had not is simply done again."""
        _, process, why, started = message
        for key, lease in tuple(self.leases.items()):
            if lease.process == process:
                del self.leases[key]
                lease.is_dead = lease.is_retiring = True
                if lease in lease.work.leases:
                    lease.work.leases.remove(lease)
                if not self.core.has_link(lease.link):
                    self._bury(lease, why, started)
                else:
                    # Its last results may be in our socket still; they end with the end of file, which a grandchild
                    # that holds the socket can delay.
                    self._dying[lease.link] = (lease, why, started, time.monotonic() + LAST_RESULTS_S)
        orphan = self._orphans.pop(process, None)
        if orphan is not None:
            self._bury(orphan, why, started)
        self.core.lending.forget(process)
        for call in self.on_died:
            call(process, why)

    def _bury(self, lease: Lease, why: str, started: int) -> None:
        lease.is_dead = lease.is_retiring = True
        work, link = lease.work, lease.link
        if lease in work.leases:
            work.leases.remove(lease)
        owed = list(link.pending.items())
        link.pending.clear()
        # Pushed in the order of `owed`; the mark names the last one that started (none: the first may have).
        numbers = [n for n, _ in owed]
        reached = numbers.index(started) if started in numbers else -1
        free = []
        for place, (_, ref) in enumerate(owed):
            if type(ref) is not ObjectRef or ref._recipe is None:
                continue
            if place > reached and started >= 0:
                free.append(ref)
            else:
                if not ref._ready:
                    self.on_lost(ref, why, lease)
                self.fail(ref, why, True)
        for ref in reversed(free):
            self._take_back(ref)
        self._feed(work)
        if work.queue:
            self.tell_need(work)


def finish_simply(link: Link, message: list[Any], ref: ObjectRef[Any]) -> None:
    """Settle a ref with whatever came."""
    ref._pins = ref._message = None
    settle(ref, message[2], message[3])
