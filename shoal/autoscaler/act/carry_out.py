"""Carry out the steps of a plan: ledger first, then the call. Decides nothing.

An intent is durable, with the request's bytes, before its call leaves; calls to providers run beside the loop,
and their answers are taken in by the loop itself, one after another, so that only one task ever changes the
ledger. A step that fails is recorded and left for the next round; it never stops the others.

What a release needs first stands in the order table: `bar` (the head commits that the instance may never join),
`cordon` (the head still holds it for more than a minute) or `deadline` (the drain's has passed).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from shoal.autoscaler.act.contracts import Boot, Head
from shoal.autoscaler.act.learn import Learned
from shoal.autoscaler.act.ledger import Crash, Ledger
from shoal.autoscaler.act.observe import Seen, Witnesses
from shoal.autoscaler.act.reconcile import Reconciler
from shoal.autoscaler.act.rows import Attempt, MachineRow, RecentRow
from shoal.autoscaler.decide.transitions import after_order, may, release_needs
from shoal.foundation import ids
from shoal.foundation.backoff import backoff_s
from shoal.foundation.clock import Clock
from shoal.foundation.errors import (
    JournalFull,
    Outcome,
    ProviderError,
    StaleSession,
    UnknownOutcome,
)
from shoal.foundation.eventlog import EventLog, Kind
from shoal.model.instance import Fact, Instance, Order, State
from shoal.model.launch import Answer, Launch
from shoal.model.plan import Buy, Drain, Forget, Release, Step, Undrain
from shoal.model.policy import Policy
from shoal.model.snapshot import Hold
from shoal.providers.protocol import Provider

CORDON_TTL_S = 600.0
CORDON_LEFT_S = 60.0
REPLAYS_MAX = 3
HEAD_CALLS_MAX = 32
"""Head calls of one round that are under way together."""


class ReleaseCall(msgspec.Struct, kw_only=True):
    """The calls made to release one machine or one piece of debris."""

    provider: str
    calls: int = 0
    ended_s: float | None = None
    outcome: str = ""
    error: str = ""


class Hands:
    """Carries out steps and remembers the calls that are under way."""

    def __init__(
        self,
        clock: Clock,
        ledger: Ledger,
        head: Head,
        providers: Mapping[str, Provider],
        boot: Boot,
        log: EventLog,
        *,
        witnesses: Witnesses,
        reconciler: Reconciler,
        learned: Learned,
        crash: Crash,
        wake: Callable[[], None],
    ) -> None:
        self._clock, self._ledger, self._head, self._providers = clock, ledger, head, providers
        self._boot, self._log, self._crash, self._wake = boot, log, crash, wake
        self._witnesses, self._reconciler, self._learned = witnesses, reconciler, learned
        self._tasks: set[asyncio.Task[None]] = set()
        self._answers: list[tuple[Attempt, Answer, bool]] = []
        self._under_way: set[str] = set()
        self._ended_s: dict[str, float] = {
            # A call of the process before us may have left it at any time up to now.
            attempt.token: clock.monotonic_s() if attempt.is_open else (attempt.ended_s or attempt.created_s)
            for attempt in ledger.attempts.values()
        }
        self._uncalled: set[str] = set()
        """Tokens that this process wrote down itself and has not called for yet."""
        self.releases: dict[str, ReleaseCall] = {}
        self._cordon_until_s: dict[str, float] = {}
        self.shut_out_at: dict[str, tuple[int, int]] = {}
        """By instance: the head's newest word when it agreed to forget it for good."""
        self._head_room = asyncio.Semaphore(HEAD_CALLS_MAX)
        self.launched = 0
        self.head_error = ""
        """The last error of a call to the head, until one works."""

    # what the loop asks

    def create_ended_s(self) -> Mapping[str, float]:
        """Return by token when the last create call ended; infinity while one is under way."""
        return self._ended_s

    def is_busy(self) -> bool:
        """Say whether any provider call is under way."""
        return bool(self._tasks)

    def take_answers(self) -> bool:
        """Let the ledger know of every launch call that ended; say whether any ended other than the plan counted on."""
        answers, self._answers = self._answers, []
        for place, (attempt, answer, is_first) in enumerate(answers):
            try:
                self._reconciler.launched(self._ledger.attempts.get(attempt.token, attempt), answer, is_first=is_first)
            except JournalFull:
                self._answers = answers[place:] + self._answers
                raise
        return any(answer.outcome is not Outcome.ACCEPTED or answer.error is not None for _, answer, _ in answers)

    async def close(self) -> None:
        """Let go of the calls under way; the next start lists and replays."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # steps

    async def carry_out(self, steps: Sequence[Step], policy: Policy) -> int:
        """Try every step once and return how many were taken."""
        taken = await self._buy([step for step in steps if isinstance(step, Buy)], policy)
        results = await asyncio.gather(
            *(self.guarded(step.instance_id, self._step(step)) for step in steps if not isinstance(step, Buy))
        )
        self.call_releases()
        return taken + sum(results)

    async def _step(self, step: Step) -> bool:
        row = self._ledger.instances.get(getattr(step, "instance_id", ""))
        if row is None:
            return False
        match step:
            case Drain():
                return await self._drain(row, step)
            case Undrain():
                return await self._undrain(row, step.why)
            case Release():
                return await self._release(row, step.why)
            case Forget():
                if row.state is not State.QUEUED:
                    return False
                self._order(row, Order.RELEASE, step.why)
                return True
        return False

    async def guarded(self, name: str, step: Awaitable[bool]) -> bool:
        """Await one step; its failure is an event, not the end of the round."""
        async with self._head_room:
            try:
                return await step
            except (StaleSession, JournalFull):
                raise
            except (ConnectionError, TimeoutError, OSError) as error:
                self.head_error = str(error) or type(error).__name__
            except Exception as error:
                self._log.record(Kind.ALARM, what="step failed", instance=name, why=f"{type(error).__name__}: {error}")
        return False

    # buying

    async def _buy(self, steps: Sequence[Buy], policy: Policy) -> int:
        """Make every intent of the plan durable in one commit, then send the calls."""
        parts = [part for step in steps for part in self._split(step)]
        if not parts:
            return 0
        tokens = [ids.launch_token(self._ledger.meta.cluster_uid, part.instance_ids, 1) for part in parts]
        try:
            secrets = await asyncio.gather(*(self._head.join_secret(token) for token in tokens))
        except (ConnectionError, TimeoutError, OSError) as error:
            self.head_error = str(error) or type(error).__name__
            return 0
        now_s = self._clock.monotonic_s()
        attempts: list[Attempt] = []
        with self._ledger.changing() as change:
            for part, token, secret in zip(parts, tokens, secrets, strict=True):
                node_type = policy.node_type(part.node_type)
                if node_type is None or any(self._ledger.instance(name) for name in part.instance_ids):
                    self._log.record(Kind.SKIPPED, what="launch", why="the plan is older than the ledger")
                    continue
                request = self._boot.render(
                    node_type,
                    part.offer,
                    token=token,
                    instance_ids=part.instance_ids,
                    attempt=1,
                    epoch=self._ledger.meta.epoch,
                    join_secret=secret,
                )
                attempt = Attempt(
                    token=token,
                    instance_ids=part.instance_ids,
                    node_type=part.node_type,
                    offer=part.offer,
                    request=request,
                    count_min=part.count_min,
                    gang=part.gang,
                    price_micro=part.price_micro,
                    created_s=now_s,
                )
                change.put(attempt)
                attempts.append(attempt)
                for index, name in enumerate(part.instance_ids):
                    row = self._new_row(part, attempt, name, index, now_s)
                    change.put(row)
                    change.put(
                        RecentRow(
                            instance_id=name, node_type=part.node_type, offer=part.offer, launched_s=now_s, why=part.why
                        )
                    )
                    if part.gang and row.hold_until_s is not None:
                        change.put(Hold(gang=part.gang, instance_id=name, until_s=row.hold_until_s))
                if part.is_probe:
                    self._learned.probing(change, part, token)
            serials = [_serial(name) for attempt in attempts for name in attempt.instance_ids]
            if serials:
                change.note(serial_next=max(self._ledger.meta.serial_next, max(serials) + 1))
        self._uncalled.update(attempt.token for attempt in attempts)
        by_token = dict(zip(tokens, parts, strict=True))
        for attempt in attempts:
            part = by_token[attempt.token]
            for name in attempt.instance_ids:
                self._log.record(
                    Kind.INSTANCE_WANTED,
                    instance=name,
                    node_type=part.node_type,
                    offer=str(part.offer),
                    price=part.price_micro,
                    why=part.why,
                )
        self._send(attempts)
        return len(attempts)

    def _split(self, step: Buy) -> list[Buy]:
        """Return the step as batches that its provider takes; all at once where it must be all or none."""
        provider = self._providers.get(step.offer.provider)
        if provider is None:
            self._log.record(Kind.ALARM, what="launch", why=f"no provider `{step.offer.provider}`")
            return []
        most = max(1, provider.traits.batch_max)
        if len(step.instance_ids) <= most:
            return [step]
        return [
            msgspec.structs.replace(
                step,
                instance_ids=step.instance_ids[start : start + most],
                planned=step.planned[start : start + most],
                count_min=1,
            )
            for start in range(0, len(step.instance_ids), most)
        ]

    def _new_row(self, part: Buy, attempt: Attempt, name: str, index: int, now_s: float) -> Instance:
        return Instance(
            instance_id=name,
            node_type=part.node_type,
            offer=part.offer,
            state=after_order(State.QUEUED, Order.CREATE),
            since_s=now_s,
            created_s=now_s,
            token=attempt.token,
            index=index,
            attempt=attempt.number,
            price_micro=part.price_micro,
            gang=part.gang,
            hold_until_s=None if part.hold_s is None else now_s + part.hold_s,
            why=part.why,
            epoch=self._ledger.meta.epoch,
            planned=part.planned[index] if part.planned else {},
        )

    def _send(self, attempts: Sequence[Attempt]) -> None:
        """Start one launch call per provider for all of these attempts."""
        by_provider: dict[str, list[Attempt]] = {}
        for attempt in attempts:
            by_provider.setdefault(attempt.offer.provider, []).append(attempt)
        for name, group in by_provider.items():
            for attempt in group:
                self._under_way.add(attempt.token)
                self._ended_s[attempt.token] = float("inf")
                self._log.record(
                    Kind.LAUNCH_CALLED,
                    token=attempt.token,
                    instances=attempt.instance_ids,
                    offer=str(attempt.offer),
                    again=attempt.token not in self._uncalled,
                )
            self.launched += len(group)
            self._start(self._launch(name, group))

    async def _launch(self, provider: str, attempts: Sequence[Attempt]) -> None:
        launches = [
            Launch(
                token=attempt.token,
                instance_ids=attempt.instance_ids,
                offer=attempt.offer,
                request=attempt.request,
                count_min=attempt.count_min,
                gang=attempt.gang or None,
            )
            for attempt in attempts
        ]
        # Only the very first call of an attempt can prove by its refusal that nothing was started.
        first = self._uncalled & {attempt.token for attempt in attempts}
        self._uncalled -= first
        self._crash("launch.before")
        try:
            answers = list(await self._providers[provider].launch(launches))
            if len(answers) != len(launches):
                raise UnknownOutcome(f"expected {len(launches)} answers, got {len(answers)}")
        except Exception as error:
            wrong = error if isinstance(error, ProviderError) else UnknownOutcome(f"{type(error).__name__}: {error}")
            answers = [Answer(name=launch.token, outcome=Outcome.UNKNOWN, error=wrong) for launch in launches]
        self._crash("launch.after")
        now_s = self._clock.monotonic_s()
        for attempt, answer in zip(attempts, answers, strict=True):
            self._under_way.discard(attempt.token)
            self._ended_s[attempt.token] = now_s
            self._answers.append((attempt, answer, attempt.token in first))
        self._wake()

    # draining

    async def _drain(self, row: Instance, step: Drain) -> bool:
        if not may(row.state, Order.DRAIN):
            return False
        now_s = self._clock.monotonic_s()
        node = self._witnesses.nodes.get(row.instance_id)
        serial = step.idle_serial
        if serial is None and step.deadline_s is None and node is not None:
            serial = node.idle_serial
        order = f"d-{row.instance_id}-{self._ledger.meta.session}-{round(now_s * 1000)}"
        after = self._order(
            row,
            Order.DRAIN,
            step.why,
            drain_order=order,
            drain_serial=serial,
            drain_deadline_s=None if step.deadline_s is None else now_s + step.deadline_s,
        )
        await self.send_drain(after)
        return True

    async def send_drain(self, row: Instance) -> None:
        """Tell the head of a drain that the ledger holds; again if a crash or a lost message came between."""
        now_s = self._clock.monotonic_s()
        await self._cordon(row)
        left_s = None if row.drain_deadline_s is None else max(0.0, row.drain_deadline_s - now_s)
        await self._head.drain(row.instance_id, row.drain_order, row.drain_serial, left_s)
        self.head_error = ""

    async def _cordon(self, row: Instance) -> None:
        now_s = self._clock.monotonic_s()
        await self._head.cordon(row.instance_id, row.drain_order, CORDON_TTL_S)
        self._cordon_until_s[row.drain_order] = now_s + CORDON_TTL_S

    async def keep_cordon(self, row: Instance) -> None:
        """Extend a cordon that is fading."""
        if self.is_cordon_fading(row):
            await self._cordon(row)

    def is_cordon_fading(self, row: Instance) -> bool:
        """Say whether less than half is left of a cordon, while we know that it never lapsed."""
        return CORDON_LEFT_S < self._cordon_left_s(row) < CORDON_TTL_S / 2

    def _cordon_left_s(self, row: Instance) -> float:
        return self._cordon_until_s.get(row.drain_order, 0.0) - self._clock.monotonic_s()

    async def _undrain(self, row: Instance, why: str) -> bool:
        if not may(row.state, Order.UNDRAIN):
            return False
        order = row.drain_order
        self._order(row, Order.UNDRAIN, why, drain_order="", drain_serial=None, drain_deadline_s=None)
        await self.lift(row.instance_id, order)
        return True

    async def lift(self, instance_id: str, order: str) -> None:
        """Lift a cordon of ours at the head."""
        self._cordon_until_s.pop(order, None)
        await self._head.undrain(instance_id, order)
        self.head_error = ""

    # releasing

    async def _release(self, row: Instance, why: str) -> bool:
        if row.state is State.RELEASING or not may(row.state, Order.RELEASE):
            return False
        need = release_needs(row.state)
        now_s = self._clock.monotonic_s()
        if row.state in (State.DRAINING, State.DRAINED) and row.instance_id not in self._witnesses.nodes:
            need = "bar"  # its node is gone from the head, and its cordon with it
        if need == "deadline" and row.drain_deadline_s is None:
            # It was asked to empty itself, not told to by a time: nobody may kill what runs there.
            return await self._undrain(row, "not empty in time")
        if need == "deadline" and row.drain_deadline_s is not None and now_s < row.drain_deadline_s:
            return False
        if need == "cordon" and self._cordon_left_s(row) <= CORDON_LEFT_S:
            # Nobody can say that it stayed empty: take it back and ask again.
            return await self._undrain(row, "its cordon could not be kept")
        if need == "bar" and not await self._head.bar(row.instance_id):
            self._reconciler.apply(
                [Seen(instance_id=row.instance_id, fact=Fact.JOINED, cause="the head says that it joined")]
            )
            return False
        self._order(row, Order.RELEASE, why)
        await self.shut_out(row.instance_id)
        return True

    async def shut_out(self, instance_id: str) -> bool:
        """Let the head forget the node and never let it join again: from here it may end at any moment."""
        heard = self._witnesses.word
        await self._head.forget(instance_id)
        await self._head.bar(instance_id)
        self.shut_out_at[instance_id] = heard
        self.head_error = ""
        return True

    def is_shut_out(self, instance_id: str) -> bool:
        """Say whether the head has agreed to forget the instance and has not spoken since."""
        return self.shut_out_at.get(instance_id) == self._witnesses.word

    def call_releases(self) -> None:
        """Call for every machine of a `releasing` instance that no call is under way for and that is due again."""
        now_s = self._clock.monotonic_s()
        due: dict[str, list[str]] = {}
        releasing = [name for name, row in self._ledger.moving.items() if row.state is State.RELEASING]
        for machine in (machine for name in releasing for machine in self._ledger.machines_of(name)):
            if self._is_due(machine, now_s):
                due.setdefault(machine.provider, []).append(machine.name)
        for provider, names in sorted(due.items()):
            self.release_names(provider, sorted(names))

    def release_names(self, provider: str, names: Sequence[str], why: str = "") -> None:
        """Start one release call for machines or debris of a provider."""
        for name in names:
            call = self.releases.setdefault(name, ReleaseCall(provider=provider))
            call.calls += 1
            call.ended_s = None
            known = self._ledger.machines.get(name)
            self._log.record(Kind.RELEASE_CALLED, instance=known.instance_id if known else name, name=name, why=why)
        self._start(self._call_release(provider, names))

    def may_release(self, name: str) -> bool:
        """Say whether nothing is under way for this name and the last call is long enough ago."""
        call = self.releases.get(name)
        if call is None:
            return True
        return call.ended_s is not None and self._clock.monotonic_s() >= call.ended_s + backoff_s(
            call.calls, first_s=10.0, most_s=120.0
        )

    def _is_due(self, machine: MachineRow, now_s: float) -> bool:
        """Say whether to call (again): an accepted call only when a later listing still shows the machine."""
        call = self.releases.get(machine.name)
        if call is None:
            return True
        if call.ended_s is None or now_s < call.ended_s + backoff_s(call.calls, first_s=2.0, most_s=60.0):
            return False
        if call.outcome != Outcome.ACCEPTED:
            return True
        listing = self._witnesses.listings.get(machine.provider)
        return (
            listing is not None
            and listing.began_s > call.ended_s + self._lag_s(machine.provider)
            and self._witnesses.is_shown(machine.provider, machine.name)
        )

    def _lag_s(self, provider: str) -> float:
        return self._providers[provider].traits.listing_lag_s if provider in self._providers else 60.0

    async def _call_release(self, provider: str, names: Sequence[str]) -> None:
        self._crash("release.before")
        try:
            answers = list(await self._providers[provider].release(names))
            if len(answers) != len(names):
                raise UnknownOutcome(f"expected {len(names)} answers, got {len(answers)}")
        except Exception as error:
            wrong = error if isinstance(error, ProviderError) else UnknownOutcome(f"{type(error).__name__}: {error}")
            answers = [Answer(name=name, outcome=Outcome.UNKNOWN, error=wrong) for name in names]
        self._crash("release.after")
        now_s = self._clock.monotonic_s()
        for name, answer in zip(names, answers, strict=True):
            call = self.releases[name]
            call.ended_s, call.outcome = now_s, answer.outcome.value
            call.error = str(answer.error) if answer.error else ""
            known = self._ledger.machines.get(name)
            self._log.record(
                Kind.RELEASE_ANSWERED,
                instance=known.instance_id if known else name,
                name=name,
                outcome=answer.outcome.value,
                error=call.error,
            )
        self._wake()

    def forget_release(self, names: Sequence[str]) -> None:
        """Drop what was remembered of calls for names that no listing shows any more."""
        for name in names:
            self.releases.pop(name, None)

    # replaying

    def replay(self, attempts: Sequence[Attempt]) -> None:
        """Send the same bytes under the same token again: the provider starts nothing twice (rule R1)."""
        self._send([attempt for attempt in attempts if attempt.token not in self._under_way])

    # shared

    def _order(self, row: Instance, order: Order, why: str, **fields: object) -> Instance:
        """Commit one order of ours."""
        now_s = self._clock.monotonic_s()
        after = msgspec.structs.replace(row, state=after_order(row.state, order), since_s=now_s, why=why, **fields)
        with self._ledger.changing() as change:
            change.put(after)
            if order is Order.RELEASE and (recent := self._ledger.recent.get(row.instance_id)):
                change.put(msgspec.structs.replace(recent, released_s=now_s, why=why))
            if order is Order.RELEASE and row.state is State.BOOTING:
                self._learned.never_joined(change, row, why)
        self._log.record(
            Kind.INSTANCE_STATE,
            instance=row.instance_id,
            before=row.state.value,
            after=after.state.value,
            cause=order.value,
            why=why,
        )
        return after

    def _start(self, call: Awaitable[None]) -> None:
        task = asyncio.ensure_future(call)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._log.record(Kind.ALARM, what="call failed", why=f"{type(error).__name__}: {error}")


def _serial(instance_id: str) -> int:
    """Return the serial number in an instance id; 0 for an id of another form."""
    tail = instance_id.rpartition("-")[2]
    return int(tail) if tail.isdigit() else 0
