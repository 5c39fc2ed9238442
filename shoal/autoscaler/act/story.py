"""`shoal explain`: the story of one instance, node or demand, and the answer to why it is as it is.

The past comes from the event logs, the present from the head's word and the autoscaler's report, the reasons from a
plan solved anew on them. Pure: who calls it brings everything.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from shoal.autoscaler.act.contracts import InstanceReport, Report
from shoal.foundation.amounts import shown
from shoal.foundation.errors import UserError
from shoal.foundation.eventlog import Event, Kind
from shoal.model.demand import DemandClass, Gang
from shoal.model.instance import COSTS, Instance, State
from shoal.model.node import Node
from shoal.model.offer import MICRO, Offer, offer_key
from shoal.model.plan import Buy, Plan, Unmet
from shoal.model.snapshot import Snapshot, Work

LINES_MOST = 500


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a story is made from. `report` and `work` are None where there is no live cluster."""

    events: tuple[Event, ...] = ()
    report: Report | None = None
    work: Work | None = None
    plan: Plan | None = None


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened. `at_s` is wall time."""

    at_s: float
    kind: str
    text: str


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to say: `now` holds the present and its reasons, `past` the events, oldest first."""

    subject: str
    kind: str  # "instance" | "demand" | "gang"
    now: tuple[str, ...] = ()
    reasons: tuple[dict[str, str], ...] = ()
    past: tuple[Line, ...] = ()


def story(name: str, evidence: Evidence) -> Story:
    """Return the story of what `name` names: an instance, node, machine, demand class or gang; a clear prefix will do.

    Raises:
        UserError: nothing known is called so.
    """
    instances = _instances(evidence)
    for candidates, tell in ((instances, _of_instance), (_demands(evidence), _of_demand)):
        found = _matching(name, candidates)
        if len(found) == 1:
            return tell(found[0], evidence)
        if len(found) > 1:
            several = ", ".join(f"`{one}`" for one in found[:5])
            raise UserError(f"explain: expected one thing, got {len(found)} that begin with `{name}`: {several}")
    known = sorted({*instances, *_demands(evidence)})
    near = difflib.get_close_matches(name, known, 3, 0.5)
    raise UserError(
        f"explain: expected an instance, node, demand or gang, got `{name[:100]}`, which nothing known is called",
        hint=f"did you mean {', '.join(f'`{one}`' for one in near)}?" if near else "`shoal status` lists what there is",
    )


def snapshot_of(work: Work, report: Report | None, offers: Sequence[Offer], *, cluster_uid: str = "") -> Snapshot:
    """Return what can be known from outside of the autoscaler's own snapshot, to solve anew; time begins at 0.

    Its memory (health of offers, holds, quotas) stays with it: the report's own reasons come first for that reason.
    """
    instances = tuple(_instance(one) for one in (report.instances if report else ()))
    return Snapshot(
        now_s=0.0,
        cluster_uid=cluster_uid,
        work=work,
        instances=instances,
        offers=tuple(offers),
        spent_micro=round((report.usd_spent if report else 0.0) * MICRO),
        committed_micro=max(
            sum(one.price_micro or 0 for one in instances if one.state in COSTS),
            round(report.usd_per_hour * MICRO) if report else 0,  # with the head's machine
        ),
        serial_next=1 + len(instances),
    )


def words(told: Story) -> list[str]:
    """Return the story as lines for people, the present first."""
    import datetime

    lines = [f"{told.kind} {told.subject}", *(f"  {line}" for line in told.now)]
    lines += [f"    {one['offer']}: {one['word']} {one['detail']}".rstrip() for one in told.reasons]
    for line in told.past:
        at = datetime.datetime.fromtimestamp(line.at_s, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
        lines.append(f"{at}  {line.text}")
    return lines


# instances


def _of_instance(name: str, evidence: Evidence) -> Story:
    instance_id = _instances(evidence)[name]
    node = _node(instance_id, evidence.work)
    now = list(_now_of_instance(instance_id, node, evidence))
    names = {instance_id} | ({node.node_id} if node else set())
    tokens = {
        str(event.fields.get("token"))
        for event in evidence.events
        if event.kind is Kind.LAUNCH_CALLED and instance_id in (event.fields.get("instances") or ())
    }
    for event in evidence.events:
        if event.fields.get("instance") == instance_id and isinstance(event.fields.get("node"), str):
            names.add(event.fields["node"])
    names |= {machine for machine, owner in _instances(evidence).items() if owner == instance_id}

    def concerns(event: Event) -> bool:
        fields = event.fields
        return (
            fields.get("instance") in names
            or fields.get("node") in names
            or fields.get("name") in names
            or instance_id in (fields.get("instances") or ())
            or (fields.get("token") in tokens)
            or (event.kind is Kind.PLAN_STEP and instance_id in str(fields.get("step")))
        )

    return Story(subject=instance_id, kind="instance", now=tuple(now), past=_past(evidence.events, concerns))


def _now_of_instance(instance_id: str, node: Node | None, evidence: Evidence) -> Iterator[str]:
    row = _row(instance_id, evidence.report)
    if row is not None:
        price = "$?" if row.price_usd_per_h is None else f"${row.price_usd_per_h:.4g}"
        yield f"{row.state} for {row.since_s:.0f} s: `{row.node_type}` on {row.offer} at {price}/h"
        if row.why:
            yield f"why it is: {row.why}"
        if row.error:
            yield f"its last error: {row.error}"
    elif evidence.report is not None:
        yield "it exists no more"
    if node is not None:
        yield f"node {node.node_id}: {shown(node.free)} free of {shown(node.total)}"
    yield from _why_up(instance_id, node, row, evidence)
    if evidence.plan is not None:
        held = [one for one in evidence.plan.placed if one.instance_id == instance_id]
        if held:
            yield "a plan made now places on it: " + ", ".join(f"{one.count} x {one.demand}" for one in held)


def _why_up(instance_id: str, node: Node | None, row: InstanceReport | None, evidence: Evidence) -> Iterator[str]:
    """Yield why the instance is still up, from the most binding reason."""
    if row is None or row.state in (State.GONE, State.RELEASING):
        return
    if node is not None and node.busy:
        parts = ", ".join(f"{one.count} {one.what}{f' ({one.detail})' if one.detail else ''}" for one in node.busy)
        yield f"why it is up: busy with {parts}"
        return
    for source in (evidence.report, evidence.plan):
        kept = next((one for one in (source.kept if source else ()) if one.instance_id == instance_id), None)
        if kept is not None:
            yield f"why it is up: {kept.why}"
            return
    if evidence.plan is not None:
        step = next((one for one in evidence.plan.steps if instance_id in _named(one)), None)
        if step is not None:
            yield f"a plan made now would {type(step).__name__.lower()} it: {step.why}"
            return
    if node is not None and node.is_cordoned:
        yield f"it is on its way out: {node.drain_order or 'cordoned'}"


def _named(step: Any) -> tuple[str, ...]:
    return step.instance_ids if isinstance(step, Buy) else (step.instance_id,)


# demand


def _of_demand(name: str, evidence: Evidence) -> Story:
    key = _demands(evidence)[name]
    waiting = _waiting(key, evidence.work)
    now: list[str] = []
    reasons: tuple[dict[str, str], ...] = ()
    kind = "gang" if isinstance(waiting, Gang) else "demand"
    match waiting:
        case DemandClass():
            now.append(f"{waiting.waiting} of ({shown(waiting.amounts)}) wait, {waiting.running_slots} run")
            if waiting.duration_s is not None:
                now.append(f"one takes {waiting.duration_s:.3g} s, by those that have finished")
            if waiting.selector.hard:
                now.append("only on nodes with " + ", ".join(f"{n}: {t}" for n, t in waiting.selector.hard.items()))
        case Gang():
            called = f" of `{waiting.name}`" if waiting.name else ""
            now.append(
                f"{len(waiting.bundles)} members{called} ({waiting.strategy}) wait for {waiting.waiting_s:.0f} s"
            )
    unmet = _unmet(key, evidence)
    if unmet is not None:
        now.append(f"why it waits: {unmet.count} are {unmet.verdict}: {unmet.why}")
        reasons = tuple({"offer": one.offer, "word": one.word, "detail": one.detail} for one in unmet.reasons)
        kind = "gang" if unmet.kind == "gang" else kind
    if evidence.plan is not None:
        now += list(_placed(key, evidence.plan))
    if not now:
        is_known = evidence.work is not None
        now.append("nothing of it waits now" if is_known else "whether it waits now only a live cluster can tell")
    past = _past(
        evidence.events,
        lambda event: (
            key in (event.fields.get("demand"), event.fields.get("group")) or key in (event.fields.get("holds") or ())
        ),
    )
    kind = "gang" if any(line.kind == Kind.GROUP_STATE for line in past) else kind
    return Story(subject=key, kind=kind, now=tuple(now), reasons=reasons, past=past)


def _placed(key: str, plan: Plan) -> Iterator[str]:
    """Yield where a plan made now puts the demand: on what is there, and on what it would buy."""
    bought = {name: step for step in plan.steps if isinstance(step, Buy) for name in step.instance_ids}
    there: list[str] = []
    fresh: dict[str, int] = {}
    for one in plan.placed:
        if one.demand != key:
            continue
        step = bought.get(one.instance_id)
        if step is None:
            there.append(f"{one.count} on {one.instance_id}")
        else:
            name = f"`{step.node_type}` on {step.offer}"
            fresh[name] = fresh.get(name, 0) + one.count
    if there:
        yield "a plan made now uses what is there or coming: " + ", ".join(there[:10])
    for name, count in sorted(fresh.items()):
        yield f"a plan made now buys {name} for {count} of it"


def _unmet(key: str, evidence: Evidence) -> Unmet | None:
    """Return why the demand waits; the autoscaler's own answer before one solved anew, which knows less."""
    for source in (evidence.report, evidence.plan):
        for one in source.unmet if source is not None else ():
            if one.demand == key:
                return one
    return None


# names


def _instances(evidence: Evidence) -> dict[str, str]:
    """Return every name of an instance (its own, its node's, its machine's) with the instance's id."""
    names: dict[str, str] = {}
    for event in evidence.events:
        instance, node = event.fields.get("instance"), event.fields.get("node")
        machine = event.fields.get("name") if event.kind in _OF_MACHINES else None
        if isinstance(machine, str) and instance != machine and isinstance(instance, str):
            names[machine] = instance
        if isinstance(instance, str) and instance:
            names.setdefault(instance, instance)
            if isinstance(node, str) and node:
                names[node] = instance
        for one in event.fields.get("instances") or ():
            if isinstance(one, str):
                names.setdefault(one, one)
    for row in evidence.report.instances if evidence.report else ():
        names[row.instance_id] = row.instance_id
        if row.machine_id:
            names[row.machine_id] = row.instance_id
    for there in evidence.work.nodes if evidence.work else ():
        if there.instance_id:
            names[there.instance_id] = names[there.node_id] = there.instance_id
    return names


def _demands(evidence: Evidence) -> dict[str, str]:
    """Return every name of a demand (its key, and what a gang's maker called it) with its key."""
    names: dict[str, str] = {}
    for event in evidence.events:
        group, called = event.fields.get("group"), event.fields.get("name")
        if event.kind is Kind.GROUP_STATE and isinstance(group, str):
            names[group] = group
            if isinstance(called, str) and called:
                names[called] = group  # a name may be given again: the newest holds
        demand = event.fields.get("demand")
        if isinstance(demand, str) and demand:
            names[demand] = demand
    for source in (evidence.report, evidence.plan):
        for one in source.unmet if source is not None else ():
            names[one.demand] = one.demand
    if evidence.work is not None:
        names.update({one.key: one.key for one in evidence.work.classes})
        for gang in evidence.work.gangs:
            names[gang.gang_id] = gang.gang_id
            if gang.name:
                names[gang.name] = gang.gang_id
    return names


def _matching(name: str, names: dict[str, str]) -> list[str]:
    """Return the names that are meant: the very one, else those that begin so and mean different things."""
    if name in names:
        return [name]
    meant: dict[str, str] = {}
    for one in sorted(names):
        if name and one.startswith(name):
            meant.setdefault(names[one], one)
    return list(meant.values())


def _waiting(key: str, work: Work | None) -> DemandClass | Gang | None:
    if work is None:
        return None
    return next((one for one in work.classes if one.key == key), None) or next(
        (one for one in work.gangs if one.gang_id == key), None
    )


def _node(instance_id: str, work: Work | None) -> Node | None:
    return next((one for one in work.nodes if one.instance_id == instance_id), None) if work else None


def _row(instance_id: str, report: Report | None) -> InstanceReport | None:
    return next((one for one in report.instances if one.instance_id == instance_id), None) if report else None


def _instance(row: InstanceReport) -> Instance:
    return Instance(
        instance_id=row.instance_id,
        node_type=row.node_type,
        offer=offer_key(row.offer),
        state=State(row.state),
        since_s=-row.since_s,
        created_s=-row.since_s,
        price_micro=None if row.price_usd_per_h is None else round(row.price_usd_per_h * MICRO),
        machine_id=row.machine_id,
        why=row.why,
        error=row.error,
    )


# events as sentences


def _past(events: Iterable[Event], concerns: Any) -> tuple[Line, ...]:
    """Return the newest `LINES_MOST` events that concern it, oldest first."""
    found = [event for event in events if concerns(event)]
    found.sort(key=lambda event: event.at_s)
    return tuple(Line(at_s=event.at_s, kind=str(event.kind), text=sentence(event)) for event in found[-LINES_MOST:])


_OF_MACHINES = (Kind.RELEASE_CALLED, Kind.RELEASE_ANSWERED, Kind.STRAY_FOUND)
"""Events that name an instance's machine; after the row is closed they know the machine's name only."""
_SENTENCES: dict[Kind, str] = {
    Kind.INSTANCE_WANTED: "wanted as `{node_type}` on {offer}: {why}",
    Kind.LAUNCH_CALLED: "the provider was asked for {offer}",
    Kind.LAUNCH_ANSWERED: "the provider answered: {outcome} {code} {error}",
    Kind.INSTANCE_STATE: "{before} -> {after} ({cause})",
    Kind.LAUNCH_REFUSED_LATE: "the provider took its answer back: {code} {error}",
    Kind.INSTANCE_ADOPTED: "found at the provider and taken over",
    Kind.RELEASE_CALLED: "the provider was asked to end it: {why}",
    Kind.RELEASE_ANSWERED: "the provider answered the release: {outcome} {error}",
    Kind.STRAY_FOUND: "the provider shows it although it was written off",
    Kind.PLAN_STEP: "planned: {step}: {why}",
    Kind.DEMAND_UNMET: "not served: {verdict}: {why}",
    Kind.BUDGET_REACHED: "the budget does not allow {offer}: {why}",
    Kind.FITS_BUT_WAITS: "waits although it would fit on {nodes}",
    Kind.NODE_JOINED: "its node {node} joined the head",
    Kind.NODE_LEFT: "its node left: {why}",
    Kind.NODE_DIED: "its node was declared dead: {why}",
    Kind.NODE_MISSING: "its node has not come back since the head restarted",
    Kind.NODE_RETURNED: "its node came back",
    Kind.NODE_CORDONED: "no new work goes there (order {order})",
    Kind.NODE_UNCORDONED: "new work may go there again",
    Kind.INSTANCE_BARRED: "it may never join any more",
    Kind.JOIN_REFUSED: "it wanted to join and was refused: {why}",
    Kind.DRAIN_ANSWERED: "the agent answered the drain: {answer}",
    Kind.NOTICE: "the provider gave notice: {what}, {deadline_s} s",
    Kind.WORKER_DIED: "a worker died: {why}",
    Kind.OUT_OF_MEMORY: "out of memory: worker {worker}",
    Kind.GROUP_STATE: "{before} -> {after}: {why}",
}


class _Fields(dict[str, Any]):
    def __missing__(self, name: str) -> str:
        return ""


def sentence(event: Event) -> str:
    """Return an event as a sentence; a kind without one of its own as its fields."""
    template = _SENTENCES.get(event.kind)
    if template is None:
        fields = " ".join(f"{name}={value}" for name, value in event.fields.items())
        return f"{event.kind} {fields}".rstrip()
    return " ".join(template.format_map(_Fields(event.fields)).split()).rstrip(": ")
