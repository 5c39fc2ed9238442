"""What the autoscaler tells others: the report that `shoal status` shows, and the events of a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shoal.autoscaler.act.contracts import Failure, InstanceReport, Report
from shoal.autoscaler.act.ledger import Ledger
from shoal.foundation.clock import Clock
from shoal.foundation.eventlog import EventLog, Kind
from shoal.model.instance import Instance
from shoal.model.offer import MICRO
from shoal.model.plan import Buy, OfferReason, Plan, Step, Unmet, Verdict

FAILURES_SHOWN = 20
REASONS_SHOWN = 20


def report_of(
    clock: Clock,
    ledger: Ledger,
    plan: Plan,
    *,
    session: int,
    rounds: int,
    ran_s: float,
    waiting_for: str,
    alarms: Mapping[str, str],
    leftovers: tuple[str, ...],
) -> Report:
    """Return the report of now; `ran_s` is when the last round ended."""
    now_s = clock.monotonic_s()
    return Report(
        session=session,
        ran_ago_s=now_s - ran_s,
        ran_wall_s=clock.wall_s(),
        rounds=rounds,
        instances=tuple(_shown(row, now_s) for _, row in sorted(ledger.instances.items())),
        unmet=plan.unmet,
        kept=plan.kept,
        failures=recent_failures(ledger, now_s),
        usd_per_hour=ledger.committed_micro / MICRO,
        usd_spent=ledger.spent_micro() / MICRO,
        is_price_complete=ledger.is_price_complete(),
        gap=plan.gap,
        waiting_for=waiting_for,
        alarms=tuple(f"{what}: {why}" for what, why in sorted(alarms.items())),
        leftovers=leftovers,
    )


def recent_failures(ledger: Ledger, now_s: float) -> tuple[Failure, ...]:
    """Return what went wrong and is not yet forgotten, newest first."""
    failures = [
        Failure(
            at_s=now_s - row.failed_s,
            what=row.scope,
            code=row.code,
            error=row.error,
            retry_in_s=max(0.0, row.until_s - now_s),
        )
        for row in ledger.health.values()
        if row.failures
    ]
    failures += [
        Failure(
            at_s=0.0,
            what=f"launches of {row.node_type}",
            code=row.cause,
            error=row.error,
            retry_in_s=max(0.0, row.until_s - now_s) if row.until_s is not None else None,
        )
        for row in ledger.breakers.values()
    ]
    return tuple(sorted(failures, key=lambda one: (one.at_s, one.what))[:FAILURES_SHOWN])


class Teller:
    """Writes plans to the event log: those that do something, unmet demand once per verdict, a budget once it binds."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._told: dict[str, str] = {}
        self._frozen: dict[str, float] = {}
        """For how long each type was frozen when it was last told."""
        self._is_budget_told = False

    def tell(self, plan: Plan, steps: Sequence[Step]) -> None:
        """Record the plan's steps, each demand whose verdict is new, and that a budget is newly in the way."""
        if steps:
            self._log.record(
                Kind.PLAN_MADE,
                steps=len(steps),
                unmet=len(plan.unmet),
                effort=plan.effort,
                bound=plan.bound_micro,
                gap=plan.gap,
                version=plan.version,
            )
            for step in steps:
                self._log.record(Kind.PLAN_STEP, step=_step_shown(step), why=step.why)
        for name, for_s in plan.frozen.items():
            if for_s > self._frozen.get(name, 0.0):  # what is left of a known freeze only shrinks
                self._log.record(Kind.FLAP_FROZEN, node_type=name, until_s=for_s)
            self._frozen[name] = for_s
        stopped = _stopped_by_budget(plan)
        if stopped is not None and not self._is_budget_told:
            demand, reason = stopped
            self._log.record(Kind.BUDGET_REACHED, demand=demand.demand, offer=reason.offer, why=reason.detail)
        self._is_budget_told = stopped is not None
        told = {one.demand: one.verdict.value for one in plan.unmet}
        for one in plan.unmet:
            if self._told.get(one.demand) != one.verdict:
                self._log.record(
                    Kind.DEMAND_UNMET,
                    demand=one.demand,
                    verdict=one.verdict.value,
                    why=one.why,
                    reasons=[
                        f"{reason.offer}: {reason.word} {reason.detail}" for reason in one.reasons[:REASONS_SHOWN]
                    ],
                )
        self._told = told


def _stopped_by_budget(plan: Plan) -> tuple[Unmet, OfferReason] | None:
    """Return the first demand that waits because of a budget, with the offer that money is lacking for."""
    for one in plan.unmet:
        if one.verdict is Verdict.BLOCKED:
            for reason in one.reasons:
                if reason.word == "budget":
                    return one, reason
    return None


def _shown(row: Instance, now_s: float) -> InstanceReport:
    return InstanceReport(
        instance_id=row.instance_id,
        node_type=row.node_type,
        offer=str(row.offer),
        state=row.state.value,
        since_s=now_s - row.since_s,
        price_usd_per_h=None if row.price_micro is None else row.price_micro / MICRO,
        why=row.why,
        error=row.error,
        machine_id=row.machine_id,
    )


def _step_shown(step: Step) -> str:
    if isinstance(step, Buy):
        return f"launch {len(step.instance_ids)} x {step.node_type} on {step.offer}"
    return f"{type(step).__name__.lower()} {step.instance_id}"
