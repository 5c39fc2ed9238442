"""Calls to actors: in order per caller, straight to the actor's process, again after a restart where that is allowed.

A call goes out as soon as the actor is up and the calls before it have gone. What a lost connection leaves unanswered
waits in limbo for the verdict: same process (sent again; the actor knows what it has seen), a new incarnation
(again, if `max_task_retries` allows), or dead (an error).
"""

from __future__ import annotations

import collections
import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shoal.runtime.client.arguments import Waiting, prepare
from shoal.runtime.client.core import Core
from shoal.runtime.client.owner import FLUSH_AT
from shoal.runtime.client.reactor import Link
from shoal.runtime.client.refs import ObjectRef
from shoal.runtime.client.results import next_attempt
from shoal.wire import tasks as wire
from shoal.wire.asks import What

if TYPE_CHECKING:
    from shoal.runtime.client.session import Session

ALIVE, DEAD = "ALIVE", "DEAD"
CALL = wire.CALL


class MethodRecipe:
    """One method under one set of options: what every call of it shares. Stands where tasks have their `Recipe`."""

    __slots__ = ("actor", "function", "name", "options", "retry_on", "returns", "samples", "tries", "work")

    def __init__(
        self, actor: ActorState, name: str, *, tries: int, retry_on: Any, returns: int, options: dict[str, Any] | None
    ) -> None:
        self.actor, self.name, self.tries, self.retry_on = actor, name, tries, retry_on
        self.returns, self.options = returns, options
        self.function = self.work = None


class ActorState:
    """One actor, as this process knows it. Shared by all its handles here."""

    __slots__ = (
        "actor_id",
        "address",
        "cause",
        "class_name",
        "error",
        "generation",
        "handles",
        "is_dialling",
        "is_dropping",
        "is_ordered",
        "is_watched",
        "keepers",
        "life",
        "limbo",
        "link",
        "max_pending",
        "name",
        "pins",
        "queue",
        "state",
        "why",
    )

    def __init__(self, actor_id: bytes, class_name: str, *, is_ordered: bool, max_pending: int) -> None:
        self.actor_id, self.class_name, self.is_ordered, self.max_pending = (
            actor_id,
            class_name,
            is_ordered,
            max_pending,
        )
        self.name = ""
        self.state, self.generation = "PENDING_CREATION", -1
        self.address: Any = None
        self.link: Link | None = None
        self.is_dialling = self.is_watched = self.is_dropping = False
        self.queue: collections.deque[Any] = collections.deque()
        """Calls not sent yet: refs, or (ref, waiting) with arguments that are not ready."""
        self.limbo: dict[int, ObjectRef[Any]] = {}
        self.why, self.cause, self.error = "", "", b""
        self.life: ObjectRef[Any] | None = None
        self.handles = self.keepers = 0
        """How many handles there are here; how many of them keep the actor alive."""
        self.pins: Any = None

    @property
    def pending(self) -> int:
        """How many calls have no answer yet."""
        return len(self.queue) + len(self.limbo) + (len(self.link.pending) if self.link is not None else 0)


class ActorCalls:
    """Every actor that this process has a handle of, and the calls to them."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._core: Core = session.core
        self.states: dict[bytes, ActorState] = {}
        self._by_process: dict[bytes, ActorState] = {}
        self._core.on_link_closed.append(self._link_closed)
        session.results.call_again = self.again
        self.on_end: Callable[[ObjectRef[Any], str, str], None] = lambda ref, error, why: None
        """Called for a call that ends with its actor."""

    # ---------------------------------------------------------------------------------------------- the hot path

    def call(self, recipe: MethodRecipe, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Send one call, or queue it; return what stands for its result."""
        session, core, state = self._session, self._core, recipe.actor
        format, data, pins, waiting = prepare(args, kwargs, session.put_large)
        n = next(core.ids)
        options = recipe.options
        if session.origins.is_watching:
            options = session.origins.note(n, options)
        if options is None:
            message: Any = (CALL, n, recipe.name, format, data)
        else:
            message = (wire.SPECIAL_CALL, n, recipe.name, format, data, options)
        ref: ObjectRef[Any] = ObjectRef(n, core.process, False, 0, None, None, message, recipe, recipe.tries, pins)
        with core.lock:
            if state.max_pending > 0 and state.pending >= state.max_pending:
                from shoal.exceptions import PendingCallsLimitExceeded

                raise PendingCallsLimitExceeded(
                    f"actor `{state.class_name}`: {state.pending} calls are pending, of {state.max_pending} that may be"
                )
            link = state.link
            result = ref if recipe.returns == 1 else session.functions.results_of(ref, recipe.returns, recipe)
            if waiting is None and link is not None and not state.queue:
                pending, out = link.pending, link.out
                count = len(pending)
                pending[n] = ref
                out.append(ref._message)  # which `results_of` may have replaced
                if count == 0 or len(out) >= FLUSH_AT:
                    link.flush()
                else:
                    core.touch(link)
            else:
                self._queue(state, ref, waiting)
        return result

    def again(self, ref: ObjectRef[Any]) -> None:
        """Send a call once more whose user error shall be retried. With the core's lock held.

        The actor has seen its number, so it comes as a late one that says which attempt it is.
        """
        message = ref._message
        options = message[5] if len(message) > 5 else {}
        late = {"is_late": int(options.get("is_late", 1)) + 1, "attempt": options.get("attempt", 0) + 1}
        ref._message = (wire.SPECIAL_CALL, *message[1:5], {**options, **late})
        self._queue(ref._recipe.actor, ref, None)

    def _queue(self, state: ActorState, ref: ObjectRef[Any], waiting: Waiting | None) -> None:
        if state.state == DEAD:
            self._fail(ref, state)
            return
        if waiting is None:
            state.queue.append(ref)
        else:
            ref._ready = False
            state.queue.append((ref, waiting))
            waiting.start(
                self._session.values.fetch,
                self._core.process,
                lambda format, data: self._arguments_ready(state, ref, format, data),
            )
        self.pump(state)

    def _arguments_ready(self, state: ActorState, ref: ObjectRef[Any], format: int, data: Any) -> None:
        """The last argument of a queued call is there. With the core's lock held."""
        place = next((at for at, item in enumerate(state.queue) if type(item) is tuple and item[0] is ref), None)
        if place is None:
            return
        if format == wire.ERROR:
            del state.queue[place]
            self._session.results.settle(ref, wire.ERROR, data, (self._core.process, ref._n))
        else:
            options = ref._message[5] if len(ref._message) > 5 else {}
            if not state.is_ordered:
                options = {**options, "is_late": True}  # younger calls may have passed it
            if options:
                ref._message = (wire.SPECIAL_CALL, *ref._message[1:3], format, data, options)
            else:
                ref._message = (*ref._message[:3], format, data)
            state.queue[place] = ref
        self.pump(state)

    def pump(self, state: ActorState) -> None:
        """Send what may be sent. Ordered actors wait for late arguments; others let later calls pass."""
        link = state.link
        if link is None or link.is_closed:
            self._connect(state)
            return
        queue, pending = state.queue, link.pending
        cancelled, streams = self._session.results.cancelled, self._session.streams
        late = []
        while queue:
            item = queue[0]
            if type(item) is tuple:
                if state.is_ordered:
                    break
                late.append(queue.popleft())
                continue
            queue.popleft()
            if item._ready:
                continue  # cancelled while it waited
            pending[item._n] = item
            link.out.append(item._message)
            if item._recipe.returns < 0:
                streams.sent_again(link, item._n)
            if item._n in cancelled:  # while there was no connection
                link.out.append((wire.CANCEL, item._n, False, True))
        queue.extendleft(reversed(late))
        link.flush()

    # ---------------------------------------------------------------------------------------------- where it is

    def watch(self, state: ActorState) -> None:
        """Learn where the actor is, and every change from now on. With the core's lock held."""
        if not state.is_watched:
            state.is_watched = True
            self._core.request(
                wire.ASK,
                What.WATCH_ACTOR,
                {"actor_id": state.actor_id},
                lambda is_ok, row: self.learn(row) if is_ok else None,
            )

    def watch_again(self, _: Any) -> None:
        """The head has restarted and does not know who followed what. With the core's lock held."""
        for state in tuple(self.states.values()):
            if state.is_watched and state.state != DEAD:
                state.is_watched = False
                self.watch(state)

    def learn(self, row: dict[str, Any]) -> None:
        """Take the head's word on an actor. With the core's lock held."""
        state = self.states.get(row["actor_id"])
        if state is None or (row["generation"] < state.generation and row["cause"] != "unknown"):
            return
        state.generation = row["generation"]
        before, state.state = state.state, row["state"]
        state.why, state.cause = row.get("why", ""), row.get("cause", "")
        if state.state == ALIVE and row["address"]:
            process, texts = row["address"][0], row["address"][1]
            if state.address is None or state.address[0] != process:
                if state.address is not None:
                    self._lost_incarnation(state)
                state.address = (process, tuple(texts))
                state.link = None
                self._by_process[process] = state
            self.pump(state)
        elif state.state == DEAD and before != DEAD:
            state.error = row.get("error", b"")
            state.why = row.get("why", "") or row.get("cause", "")
            self._dead(state, row.get("cause", ""))
        elif state.state != ALIVE and state.address is not None:
            self._lost_incarnation(state)

    def _connect(self, state: ActorState) -> None:
        if state.state == DEAD or state.is_dialling:
            return
        if state.address is None:
            self.watch(state)
            return
        state.is_dialling = True
        address = state.address

        def connected(link: Link | None) -> None:
            state.is_dialling = False
            if state.address is not address:
                if state.address is not None:
                    self._connect(state)
                return
            if link is None and (refusal := self._core.refusals.get(address[0])):
                # It lives, and is not to be trusted: what waits for it would wait until a person has mended that.
                state.why = f"untrusted: {refusal}"
                self._lost_incarnation_finally(state)
                return
            if link is None:
                self._ask_fate(state)
                return
            link.state = state
            state.link = link
            self._resend_limbo(state)
            self.pump(state)

        self._core.with_peer(address, connected)

    # ---------------------------------------------------------------------------------------------- failures

    def _link_closed(self, link: Link) -> None:
        state = link.state
        if type(state) is not ActorState or state.link is not link:
            return
        state.link = None
        for n, ref in link.pending.items():
            if type(ref) is ObjectRef and type(ref._recipe) is MethodRecipe:
                state.limbo[n] = ref
        for n in state.limbo:
            link.pending.pop(n, None)
        if state.state == ALIVE:
            self._ask_fate(state)

    def _ask_fate(self, state: ActorState) -> None:
        if state.address is None:
            return
        agent = self._core.agent
        if agent.is_closed:
            return
        agent.out.append((wire.FATE, state.address[0]))
        agent.flush()

    def process_died(self, process: bytes, why: str) -> None:
        """The verdict about a process that may be an actor's; what follows comes from the head."""
        state = self._by_process.pop(process, None)
        if state is not None:
            state.is_watched = False
            self.watch(state)

    def process_alive(self, process: bytes) -> None:
        """The actor lives and only the connection broke: again, it knows what it has seen."""
        state = self._by_process.get(process)
        if state is not None and state.state == ALIVE and state.link is None:
            self._connect(state)

    def _resend_limbo(self, state: ActorState) -> None:
        """After a reconnect, or in a new incarnation: send again what may be sent again, first and in order.

        Only once there is a link to send it on: what is in the queue counts as never sent, and costs no retry.
        """
        if not state.limbo:
            return
        limbo, state.limbo = state.limbo, {}
        state.queue.extendleft(ref for _, ref in sorted(limbo.items(), reverse=True))

    def _lost_incarnation(self, state: ActorState) -> None:
        """The process is gone: calls that it may have begun cost a retry, or fail."""
        link, state.link = state.link, None
        state.address = None
        if link is not None:
            for n, ref in tuple(link.pending.items()):
                if type(ref) is ObjectRef and type(ref._recipe) is MethodRecipe:
                    state.limbo[n] = ref
                    del link.pending[n]
        for n, ref in sorted(state.limbo.items()):
            if ref._tries == 0:
                del state.limbo[n]
                self._fail(ref, state)
            else:
                ref._tries -= ref._tries > 0
                ref._message = next_attempt(ref._message)

    def _dead(self, state: ActorState, cause: str) -> None:
        self._lost_incarnation_finally(state)
        state.pins = None

    def _lost_incarnation_finally(self, state: ActorState) -> None:
        link, state.link = state.link, None
        refs = list(state.limbo.values())
        if link is not None:
            for n, ref in tuple(link.pending.items()):
                if type(ref) is ObjectRef and type(ref._recipe) is MethodRecipe:
                    refs.append(ref)
                    del link.pending[n]
        for item in state.queue:
            refs.append(item[0] if type(item) is tuple else item)
        state.limbo.clear()
        state.queue.clear()
        for ref in sorted(refs, key=lambda one: one._n):
            self._fail(ref, state)

    def _fail(self, ref: ObjectRef[Any], state: ActorState) -> None:
        if not ref._ready:
            self.on_end(ref, "ACTOR_DIED", state.why or "its process died")
            error = pickle.dumps(self.error_of(state))
            self._session.results.settle(ref, wire.ERROR, error, (self._core.process, ref._n))

    def error_of(self, state: ActorState) -> Exception:
        """Return what a call to this actor raises while it is gone."""
        from shoal import exceptions

        shown = state.actor_id.hex()
        if state.error:
            try:
                cause = pickle.loads(state.error)
            except Exception as error:
                cause = f"its constructor raised an error that cannot be loaded here: {error}"
            return exceptions.ActorDiedError(cause, actor_id=shown, class_name=state.class_name)
        why = state.why or "its process died"
        if "placement group" in why or "group removed" in why:
            return exceptions.ActorPlacementGroupRemoved(f"actor `{state.class_name}`: {why}")
        if state.cause == "never-fits":
            return exceptions.ActorUnschedulableError(f"actor `{state.class_name}`: {why}")
        if why.startswith("out of memory"):
            return exceptions.OutOfMemoryError(f"actor `{state.class_name}`: {why}")
        if state.state != DEAD:
            return exceptions.ActorUnavailableError(why, shown)
        return exceptions.ActorDiedError(why, actor_id=shown, class_name=state.class_name, name=state.name)
