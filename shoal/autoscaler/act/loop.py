"""The autoscaler's loop: hear the head and the providers, keep the ledger true, think, carry out.

Events only mark the world as changed; rounds run on the newest word of everyone. A round applies facts, retries what
is due, plans once demand has been quiet for a moment (the quiet rule), stops thinking when more thought cannot pay
(the commit rule), and carries the plan out. What becomes due by time alone (an idle timeout, a deadline, a rest) has
its own moment, and a safety tick runs every `tick_s`. One task changes the ledger.

The loop ends only when it is told to, when a newer session took charge at the head, or when the process dies; it
may die at any instruction and be started again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import msgspec

from shoal.autoscaler.act.carry_out import Hands
from shoal.autoscaler.act.collect import Collector
from shoal.autoscaler.act.contracts import Boot, Head, Report
from shoal.autoscaler.act.deadlines import returned, without_expiry
from shoal.autoscaler.act.demand import Demand
from shoal.autoscaler.act.learn import Learned
from shoal.autoscaler.act.ledger import GRACE_S, Crash, Ledger, never
from shoal.autoscaler.act.observe import Witnesses, snapshot
from shoal.autoscaler.act.reconcile import Reconciler
from shoal.autoscaler.act.report import Teller, report_of
from shoal.autoscaler.act.rows import ListingRow
from shoal.autoscaler.act.survey import Survey
from shoal.autoscaler.act.tend import Tender
from shoal.autoscaler.act.thinking import think
from shoal.autoscaler.decide.due import next_due_s
from shoal.foundation.backoff import backoff_s
from shoal.foundation.chance import Chance
from shoal.foundation.clock import Clock
from shoal.foundation.errors import JournalFull, StaleSession
from shoal.foundation.eventlog import EventLog, Kind
from shoal.model.instance import State
from shoal.model.launch import Listing
from shoal.model.offer import Market, OfferKey
from shoal.model.plan import Buy, Drain, Plan, Release, Step, Verdict
from shoal.model.policy import Policy
from shoal.model.snapshot import Snapshot, Work
from shoal.providers.protocol import Provider
from shoal.providers.wrappers import Guarded

HEAD_RETRY_S = (0.2, 10.0)
PRUNE_EVERY_S = 600.0
USAGE_EVERY_S = 1.0
NODES_PER_S = (50.0, 1000.0)
"""How many nodes make news of usage wait a second longer: while nothing waits, and while work waits."""
TICK_S_MOST = 30.0
"""The safety tick of a cluster of many nodes; what becomes due by time alone has its own moment all the same."""
STILL_TICKS = 6
"""Every how many safety ticks a plan is made where nothing waits, moves, idles or heals."""
PUBLISH_EVERY_S = (0.25, 10.0)
"""Shortest time between two reports, and the longest while nothing changes."""
THOUGHT_MOST_S = 1.0
_COMING = frozenset({State.QUEUED, State.REQUESTED, State.BOOTING})


class Improve(Protocol):
    """The planner: ever better valid plans for one snapshot; pure."""

    def __call__(self, snapshot: Snapshot, policy: Policy, seed: int) -> Iterator[Plan]: ...


class Autoscaler:
    """One autoscaler of one cluster. `run` until `stop`; everything it uses was given to it."""

    def __init__(
        self,
        clock: Clock,
        chance: Chance,
        ledger: Ledger,
        head: Head,
        providers: Mapping[str, Provider],
        boot: Boot,
        log: EventLog,
        policy: Policy,
        improve: Improve,
        *,
        cluster_uid: str,
        owner: str = "autoscaler",
        on_end: Callable[[str], None] = lambda why: None,
        crash: Crash = never,
        publish_every_s: tuple[float, float] = PUBLISH_EVERY_S,
    ) -> None:
        """Take everything the loop works with; `on_end` hears once why the whole cluster should end."""
        self._clock, self._chance, self._ledger, self._head = clock, chance, ledger, head
        self._providers: dict[str, Provider] = {name: Guarded(one) for name, one in providers.items()}
        self._log, self.policy, self._improve = log, policy, improve
        self._uid, self._owner, self._on_end = cluster_uid, owner, on_end
        self._publish_every_s = publish_every_s
        self._wake = asyncio.Event()
        self._stopping = ""
        self.alarms: dict[str, str] = {}
        self._witnesses = Witnesses({name: one.traits for name, one in self._providers.items()})
        self._learned = Learned(clock, chance.split("health"), ledger, log, policy.health)
        self._reconciler = Reconciler(clock, ledger, self._witnesses, self._learned, log)
        self._hands = Hands(
            clock,
            ledger,
            head,
            self._providers,
            boot,
            log,
            witnesses=self._witnesses,
            reconciler=self._reconciler,
            learned=self._learned,
            crash=crash,
            wake=self._wake.set,
        )
        self._collector = Collector(clock, ledger, head, log, witnesses=self._witnesses, hands=self._hands)
        self._tender = Tender(
            ledger,
            head,
            self._providers,
            witnesses=self._witnesses,
            hands=self._hands,
            reconciler=self._reconciler,
            collector=self._collector,
            learned=self._learned,
        )
        self._seed = chance.randrange(2**31)
        self._survey = Survey(
            clock, self._providers, ledger, log, witnesses=self._witnesses, alarms=self.alarms, wake=self._wake.set
        )
        self._is_dirty = True
        self._is_usage_new = False
        self._news: tuple[int, int] | None = None
        self._demand = Demand()
        self._plan = Plan()
        self._planned_s = -math.inf
        self._due_s = math.inf
        """When time alone makes something due, as of the newest plan."""
        self._thought_s = 0.0
        self._pondered_s = -math.inf
        """Since when the demand that is thought about has not grown: the time for thinking counts from there."""
        self._is_part = False
        """The newest plan was launched in part, before the end of thought."""
        self._published: object = None
        self._published_s = -math.inf
        self._pruned_s = clock.monotonic_s()
        self._clock_gap_s = clock.wall_s() - clock.monotonic_s()
        self._ran_s = clock.monotonic_s()
        self._is_end_told = False
        self._teller = Teller(log)
        self.rounds = 0
        self._rounds_failed = 0
        self.waiting_for = "the head"
        self.session = 0

    # what others call

    async def run(self) -> str:
        """Run until told to stop; return why it ended: what `stop` was given, or `superseded`."""
        watch = asyncio.ensure_future(self._watch())
        try:
            while not self._stopping:
                await self._pause()
                if self._stopping:
                    break
                await self._round()
        except StaleSession:
            self._stopping = "superseded"
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            await self._survey.close()
            await self._hands.close()
        return self._stopping

    def stop(self, why: str = "stopped") -> None:
        """End `run` after the current round. Machines stay as they are."""
        self._stopping = why
        self._wake.set()

    def set_policy(self, policy: Policy) -> None:
        """Use a changed configuration from the next round on."""
        self.policy = policy
        self._learned.rules = policy.health
        self._dirty()

    @property
    def plan(self) -> Plan:
        """The newest plan, for `explain`."""
        return self._plan

    def snapshot(self) -> Snapshot:
        """Return what a plan would be made from now, for `plan` and `explain`."""
        return snapshot(self._witnesses, self._ledger, self._clock.monotonic_s())

    def report(self) -> Report:
        """Return what `shoal status` shows."""
        return report_of(
            self._clock,
            self._ledger,
            self._plan,
            session=self.session,
            rounds=self.rounds,
            ran_s=self._ran_s,
            waiting_for=self.waiting_for,
            alarms=self.alarms,
            leftovers=self._collector.leftovers,
        )

    # the head

    async def _watch(self) -> None:
        """Follow the head for ever: open a session, take its words, begin again when the stream ends."""
        failures = 0
        while True:
            try:
                await self._open_session()
                is_first = True
                async for work in self._head.watch():
                    failures = 0
                    self._hear(work, is_first)
                    is_first = False
                raise ConnectionError("the head ended the stream")
            except StaleSession:
                self.stop("superseded")
                return
            except JournalFull as error:
                self.alarms["ledger"] = str(error)
            except (ConnectionError, TimeoutError, OSError) as error:
                self._hands.head_error = str(error) or type(error).__name__
            except Exception as error:
                self._hands.head_error = f"{type(error).__name__}: {error}"
                self._log.record(Kind.ALARM, what="head", why=self._hands.head_error)
            self._witnesses.is_head_heard = False
            self._wake.set()
            failures += 1
            await asyncio.sleep(
                backoff_s(failures, first_s=HEAD_RETRY_S[0], most_s=HEAD_RETRY_S[1], chance=self._chance)
            )

    async def _open_session(self) -> None:
        """Take charge once; after that a lost stream is only opened again, or a newer session would be robbed."""
        if self.session:
            return
        session = await self._head.open_session(self._owner)
        with self._ledger.changing() as change:
            change.note(session=session, cluster_uid=self._uid, is_ending=False)
        self.session = session
        self._log.record(Kind.SESSION_OPENED, session=session, owner=self._owner)

    def _hear(self, work: Work, is_first: bool) -> None:
        now_s = self._clock.monotonic_s()
        before = self._witnesses.work
        self._witnesses.hear_work(work, now_s, is_first=is_first)
        self._witnesses.is_head_heard = True
        self._hands.head_error = ""
        is_new = self._demand.hear(work, now_s)
        if is_first or before is None or before.standing != work.standing or _is_noticed(work) or is_new:
            self._dirty()
        else:
            # Usage alone is no reason to plan at once: a node that fell idle has its idle time to wait anyway.
            self._is_usage_new = True
            self._wake.set()

    def _dirty(self) -> None:
        self._is_dirty = True
        self._wake.set()

    # the round

    async def _pause(self) -> None:
        """Wait for an event, the end of the quiet time, a listing or anything else that is due, or the safety tick."""
        now_s = self._clock.monotonic_s()
        due_s = self._ran_s + self._tick_s()
        if not self._why_not_plan():
            if self._is_dirty:
                due_s = min(
                    due_s, max(self._demand.quiet_s(self.policy.thinking, now_s), self._planned_s + self._thought_s)
                )
            else:
                next_s = self._planned_s + max(self._usage_every_s(), self._thought_s)
                due_s = min(due_s, next_s if self._is_usage_new else max(next_s, self._due_s))
        due_s = min(due_s, self._survey.due_s(is_blocked=self._is_blocked()))
        if due_s > now_s and not self._wake.is_set():
            try:
                async with asyncio.timeout(due_s - now_s):
                    await self._wake.wait()
            except TimeoutError:
                pass
        self._wake.clear()

    async def _round(self) -> None:
        """Do one round. Whatever one part raises is an alarm; the others go on."""
        now_s = self._clock.monotonic_s()
        self.rounds += 1
        self._check_clocks(now_s)
        try:
            self._count_head()
            self._take_in()
            if self._witnesses.is_listed and self._ledger.is_fresh and self.session:
                self._collector.adopt_all(self._prices())
            self._survey.start(now_s, is_blocked=self._is_blocked())
            await self._tender.tend(now_s, self.policy, self._prices())
            await self._plan_and_act(now_s)
            await self._publish()
            self._check_end()
            # While the disk is full this is also what finds out that there is room again.
            self._ledger.save_time(0.0 if self._ledger.full else 60.0)
            self._prune(now_s)
            self.alarms.pop("ledger", None)
        except StaleSession:
            raise
        except JournalFull as error:
            self.alarms["ledger"] = str(error)
            self.waiting_for = str(error)
            self._log.record(Kind.ALARM, what="ledger", why=str(error))
            await self._publish()
        except Exception as error:
            self.alarms["round"] = f"{type(error).__name__}: {error}"
            self._log.record(Kind.ALARM, what="round", why=self.alarms["round"])
            # Whatever it was, it must not become a hot loop.
            self._rounds_failed += 1
            await asyncio.sleep(backoff_s(self._rounds_failed, first_s=0.5, most_s=10.0))
        else:
            self._rounds_failed = 0
            self.alarms.pop("round", None)
        self._ran_s = self._clock.monotonic_s()

    def _count_head(self) -> None:
        """Let the head's machine count against the budgets at the price in the file, from now on."""
        if self.session and self.policy.head_micro != self._ledger.meta.head_micro:
            with self._ledger.changing() as change:
                change.note(head_micro=self.policy.head_micro)

    def _take_in(self) -> None:
        """Apply everything that was heard since the last round."""
        if self._hands.take_answers():
            self._dirty()
        for heard in self._survey.take():
            provider, listing = heard.provider, heard.listing
            if heard.market is not None:
                self._take_market(provider, heard.market, heard.market_s)
            if listing is None:
                continue
            facts = self._witnesses.facts_of_listing(provider, listing, self._ledger, self._hands.create_ended_s())
            if self._reconciler.apply(facts):
                self._dirty()
            if listing.complete:
                self._note_listing(provider, listing)
        work = self._witnesses.work
        if work is not None and work.epoch > self._ledger.meta.epoch and self.session:
            with self._ledger.changing() as change:
                change.note(epoch=work.epoch)
        news = (self._witnesses.words, self._ledger.version)
        if self._witnesses.is_head_heard and news != self._news:
            if self._reconciler.apply(self._witnesses.facts_of_work(self._ledger)):
                self._dirty()
            self._news = (self._witnesses.words, self._ledger.version)

    def _note_listing(self, provider: str, listing: Listing) -> None:
        """Keep when the provider was listed, once a minute or when its size changed."""
        known = self._ledger.listings.get(provider)
        row = ListingRow(
            provider=provider,
            began_s=listing.began_s,
            ended_s=listing.ended_s,
            machines=len(listing.machines),
            debris=len(listing.debris),
        )
        if known is None or known.machines != row.machines or row.began_s - known.began_s >= 60.0:
            with self._ledger.changing() as change:
                change.put(row)
        debris = {one.name for one in listing.debris}
        self._hands.forget_release(
            [
                name
                for name, call in self._hands.releases.items()
                if call.provider == provider
                and call.ended_s is not None
                and call.ended_s + self._providers[provider].traits.listing_lag_s < listing.began_s
                and name not in debris
                and not self._witnesses.is_shown(provider, name)
            ]
        )

    # thinking

    async def _plan_and_act(self, now_s: float) -> None:
        why_not = self._why_not_plan()
        if why_not:
            self.waiting_for = why_not
            return
        if self._is_dirty and self._demand.quiet_s(self.policy.thinking, now_s) > now_s:
            return  # demand still grows; the pause ends when it is quiet
        every_s = self._usage_every_s() if self._is_usage_new else self._plan_every_s()
        if self._due_s <= now_s:
            every_s = min(every_s, self._usage_every_s())
        if not self._is_dirty and now_s < self._planned_s + every_s:
            return
        if now_s - self._planned_s < self._thought_s:
            return  # at most half of the time is spent thinking; the pause knows when it goes on
        self._is_dirty = self._is_usage_new = False
        seen = snapshot(self._witnesses, self._ledger, now_s)
        grew_s = self._demand.answer(seen.work)
        if grew_s is not None:
            self._pondered_s = grew_s
        elif not self._is_part:
            self._pondered_s = now_s
        self._due_s = next_due_s(seen, self.policy)
        plan, self._is_part = await think(
            self._clock,
            self._improve(seen, self.policy, self._seed),
            self.policy.thinking,
            self._boot_typical_s(),
            spent_s=now_s - self._pondered_s,
            coming_micro=sum(row.price_micro or 0 for row in self._ledger.moving.values() if row.state in _COMING),
        )
        if self._is_part:
            self._dirty()  # the rest is planned again at once, with these launches counted as coming
        self._plan, self._planned_s = plan, self._clock.monotonic_s()
        # After a part the same thought goes on; its end rests for as long as all of it took.
        self._thought_s = 0.0 if self._is_part else min(THOUGHT_MOST_S, self._planned_s - self._pondered_s)
        steps = self._all_steps(plan, now_s)
        if self._gives_up_a_boot(steps):
            # A boot that is given up may open a breaker: what replaces it is planned once that is known.
            steps = [step for step in steps if not isinstance(step, Buy)]
            self._dirty()
        self._teller.tell(plan, steps)
        taken = await self._hands.carry_out(steps, self.policy)
        if taken < len(steps):
            # Something was in the way: look again soon, not at once, or a stuck step would spin.
            self._planned_s = now_s - self._tick_s() + 1.0
        self.waiting_for = self._why_nothing(plan, taken)

    def _boot_typical_s(self) -> float:
        times = [one.traits.boot_typical_s for one in self._providers.values()]
        return min(times, default=60.0)

    def _all_steps(self, plan: Plan, now_s: float) -> list[Step]:
        """Return the plan's steps, with what time alone adds or forbids."""
        rows = self._ledger.instances
        steps: list[Step] = list(plan.steps)
        if now_s < self._ledger.grace_until_s:
            steps = without_expiry(steps, rows, is_halted=self._witnesses.is_halted)
        named = {step.instance_id for step in steps if not isinstance(step, Buy)}
        return steps + [
            step
            for step in returned(self._ledger.moving.values(), in_contact=self._witnesses.in_contact)
            if isinstance(step, Drain) and step.instance_id not in named
        ]

    def _gives_up_a_boot(self, steps: list[Step]) -> bool:
        rows = self._ledger.instances
        return any(
            isinstance(step, Release) and step.instance_id in rows and rows[step.instance_id].state is State.BOOTING
            for step in steps
        )

    def _plan_every_s(self) -> float:
        """Return how often to plan without news: rarely where nothing is on its way to become due."""
        work, plan = self._witnesses.work, self._plan
        is_still = (
            work is not None
            and not (plan.steps or plan.unmet or plan.kept or work.gangs or work.standing or work.is_settling)
            and not (self._ledger.moving or self._ledger.holds or self._ledger.health or self._ledger.breakers)
            and not any(node.notice or (node.idle_s is not None and not node.is_head) for node in work.nodes)
        )
        return self._tick_s() * (STILL_TICKS if is_still else 1)

    def _tick_s(self) -> float:
        """Return how long nothing may be looked at without news: longer where there is more to look at."""
        return max(self.policy.thinking.tick_s, min(TICK_S_MOST, len(self._witnesses.nodes) / NODES_PER_S[0]))

    def _usage_every_s(self) -> float:
        """Return how often news of usage alone make a plan: each costs by the number of nodes."""
        per_s = NODES_PER_S[1 if self._demand.waiting else 0]
        return min(self._tick_s(), max(USAGE_EVERY_S, len(self._witnesses.nodes) / per_s))

    def _why_not_plan(self) -> str:
        if not self.session or self._witnesses.work is None:
            return f"the head: {self._hands.head_error or 'not heard yet'}"
        if not self._witnesses.is_head_heard:
            return f"the head: {self._hands.head_error or 'its stream has ended'}"
        missing = sorted(set(self._providers) - set(self._witnesses.listings))
        if missing:
            errors = "; ".join(self._survey.errors.get(name, "not answered yet") for name in missing)
            return f"the first complete listing of {', '.join(missing)}: {errors}"
        unpriced = sorted(set(self._providers) - set(self._witnesses.markets))
        if unpriced:
            return f"the offers of {', '.join(unpriced)}"
        return self._ledger.full

    def _why_nothing(self, plan: Plan, taken: int) -> str:
        if taken:
            return ""
        if self._hands.head_error:
            return f"the head: {self._hands.head_error}"
        coming = [row for row in self._ledger.moving.values() if row.state in (State.REQUESTED, State.BOOTING)]
        if coming:
            return f"{len(coming)} machines to join"
        blocked = [one for one in plan.unmet if one.verdict is not Verdict.DEFERRED]
        if blocked:
            return f"{blocked[0].demand}: {blocked[0].why}"
        if self._witnesses.is_settling():
            return "the head to settle"
        return ""

    # providers

    def _is_blocked(self) -> bool:
        return any(one.verdict is Verdict.BLOCKED for one in self._plan.unmet)

    def _prices(self) -> dict[OfferKey, int | None]:
        return {offer.key: offer.price_micro for market in self._witnesses.markets.values() for offer in market.offers}

    def _take_market(self, provider: str, market: Market, began_s: float) -> None:
        """Take in offers and quotas. What runs is charged at today's list price, so changed prices are written down."""
        old = self._witnesses.markets.get(provider)
        self._witnesses.hear_market(provider, market, began_s)
        before = {offer.key: offer.price_micro for offer in old.offers} if old else {}
        changed = {
            offer.key: offer.price_micro
            for offer in market.offers
            if offer.key in before and before[offer.key] != offer.price_micro
        }
        if not changed:
            return
        with self._ledger.changing() as change:
            for row in self._ledger.instances.values():
                if row.offer in changed and changed[row.offer] is not None:
                    change.put(msgspec.structs.replace(row, price_micro=changed[row.offer]))
        for key, price in changed.items():
            self._log.record(Kind.PRICE_CHANGED, offer=str(key), before=before[key], after=price)
        self._dirty()

    # housekeeping

    def _check_clocks(self, now_s: float) -> None:
        """After a jump of the wall clock, or a long sleep of this process, nothing expires for a minute."""
        gap_s = self._clock.wall_s() - now_s
        slept_s = now_s - self._ran_s - self._tick_s()
        if abs(gap_s - self._clock_gap_s) > GRACE_S or slept_s > GRACE_S:
            self._ledger.grace_until_s = now_s + GRACE_S
            self._log.record(Kind.ALARM, what="clock", why="time jumped; nothing expires for a minute")
        self._clock_gap_s = gap_s

    def _check_end(self) -> None:
        """Say once that the whole cluster should end: idle for too long, or its lifetime is over."""
        work, policy = self._witnesses.work, self.policy
        if self._is_end_told or work is None or self._witnesses.is_settling():
            return
        now_s, why = self._clock.monotonic_s(), ""
        idle_s = self._witnesses.idle_s(now_s)
        if policy.cluster_idle_s is not None and idle_s is not None and idle_s >= policy.cluster_idle_s:
            why = f"idle for {policy.cluster_idle_s:g} s"
            self._log.record(Kind.CLUSTER_IDLE, for_s=idle_s)
        up_s = now_s - self._ledger.meta.born_s
        if policy.lifetime_s is not None and up_s >= policy.lifetime_s:
            why = f"its lifetime of {policy.lifetime_s:g} s is over"
        if why:
            self._is_end_told = True
            self._log.record(Kind.CLUSTER_ENDING, why=why)
            self._on_end(why)

    def _prune(self, now_s: float) -> None:
        if now_s - self._pruned_s >= PRUNE_EVERY_S:
            self._pruned_s = now_s
            self._ledger.prune()

    async def _publish(self) -> None:
        """Leave a report at the head: soon when something changed, else now and then."""
        now_s = self._clock.monotonic_s()
        state = (self._ledger.version, self.waiting_for, self._plan.version, tuple(self.alarms.items()))
        wait_s = self._publish_every_s[0] if state != self._published else self._publish_every_s[1]
        if not self._witnesses.is_head_heard or now_s - self._published_s < wait_s:
            return
        self._published, self._published_s = state, now_s
        try:
            await self._head.publish(self.report())
        except (ConnectionError, TimeoutError, OSError) as error:
            self._hands.head_error = str(error) or type(error).__name__


def _is_noticed(work: Work) -> bool:
    """Say whether a node that still takes work is about to be taken away."""
    return any(node.notice and not node.is_cordoned for node in work.nodes)
