"""Between the model's values and the messages of `control.proto`, both ways. Imports protobuf: never in a worker."""

from __future__ import annotations

from collections.abc import Iterable

from shoal.model.demand import ANYWHERE, Bundle, DemandClass, Gang, Selector, Standing, Strategy
from shoal.model.node import Busy, Node
from shoal.wire import control_pb2 as pb


def node_out(node: Node) -> pb.Node:
    """Return a node as a message."""
    return pb.Node(
        node_id=node.node_id,
        instance_id=node.instance_id,
        node_type=node.node_type,
        total=node.total,
        free=node.free,
        labels=node.labels,
        is_head=node.is_head,
        is_cordoned=node.is_cordoned,
        is_stale=node.is_stale,
        is_missing=node.is_missing,
        idle_s=node.idle_s,
        idle_serial=node.idle_serial,
        busy=[pb.Busy(what=one.what, count=one.count, detail=one.detail) for one in node.busy],
        drain_order=node.drain_order,
        drain_answer=node.drain_answer,
        notice=node.notice,
        notice_deadline_s=node.notice_deadline_s,
        address=node.address,
    )


def node_in(message: pb.Node) -> Node:
    """Return a node from its message."""
    return Node(
        node_id=message.node_id,
        instance_id=message.instance_id,
        node_type=message.node_type,
        total=dict(message.total),
        free=dict(message.free),
        labels=dict(message.labels),
        is_head=message.is_head,
        is_cordoned=message.is_cordoned,
        is_stale=message.is_stale,
        is_missing=message.is_missing,
        idle_s=message.idle_s if message.HasField("idle_s") else None,
        idle_serial=message.idle_serial,
        busy=tuple(Busy(what=one.what, count=one.count, detail=one.detail) for one in message.busy),
        drain_order=message.drain_order,
        drain_answer=message.drain_answer,
        notice=message.notice,
        notice_deadline_s=message.notice_deadline_s if message.HasField("notice_deadline_s") else None,
        address=message.address,
    )


def class_out(demand: DemandClass) -> pb.DemandClass:
    """Return a class of waiting work as a message."""
    return pb.DemandClass(
        key=demand.key,
        amounts=demand.amounts,
        waiting=demand.waiting,
        running_slots=demand.running_slots,
        duration_s=demand.duration_s,
        selector=_selector_out(demand.selector),
        spread=demand.spread,
        kind=demand.kind,
        jobs=demand.jobs,
        waiting_s=demand.waiting_s,
        is_quantised=demand.is_quantised,
        unplaceable_on=demand.unplaceable_on,
    )


def class_in(message: pb.DemandClass) -> DemandClass:
    """Return a class of waiting work from its message."""
    return DemandClass(
        key=message.key,
        amounts=dict(message.amounts),
        waiting=message.waiting,
        running_slots=message.running_slots,
        duration_s=message.duration_s if message.HasField("duration_s") else None,
        selector=_selector_in(message.selector) if message.HasField("selector") else ANYWHERE,
        spread=message.spread,
        kind=message.kind or "task",
        jobs=tuple(message.jobs),
        waiting_s=message.waiting_s,
        is_quantised=message.is_quantised,
        unplaceable_on=tuple(message.unplaceable_on),
    )


def gang_out(gang: Gang) -> pb.Gang:
    """Return a waiting gang as a message."""
    return pb.Gang(
        gang_id=gang.gang_id,
        bundles=bundles_out(gang.bundles),
        strategy=gang.strategy.value,
        job=gang.job,
        waiting_s=gang.waiting_s,
        topology=gang.topology,
        name=gang.name,
    )


def gang_in(message: pb.Gang) -> Gang:
    """Return a waiting gang from its message."""
    return Gang(
        gang_id=message.gang_id,
        bundles=bundles_in(message.bundles),
        strategy=Strategy(message.strategy or "PACK"),
        job=message.job,
        waiting_s=message.waiting_s,
        topology=message.topology,
        name=message.name,
    )


def standing_out(key: str, standing: Standing) -> pb.Standing:
    """Return a standing request as a message."""
    return pb.Standing(
        key=key, owner=standing.owner, bundles=bundles_out(standing.bundles), job=standing.job, ttl_s=standing.ttl_s
    )


def standing_in(message: pb.Standing) -> Standing:
    """Return a standing request from its message."""
    return Standing(
        owner=message.owner,
        bundles=bundles_in(message.bundles),
        job=message.job,
        ttl_s=message.ttl_s if message.HasField("ttl_s") else None,
    )


def bundles_out(bundles: Iterable[Bundle]) -> list[pb.Bundle]:
    """Return bundles as messages."""
    return [pb.Bundle(amounts=bundle.amounts, selector=_selector_out(bundle.selector)) for bundle in bundles]


def bundles_in(messages: Iterable[pb.Bundle]) -> tuple[Bundle, ...]:
    """Return bundles from their messages."""
    return tuple(
        Bundle(
            amounts=dict(message.amounts),
            selector=_selector_in(message.selector) if message.HasField("selector") else ANYWHERE,
        )
        for message in messages
    )


def _selector_out(selector: Selector) -> pb.Selector | None:
    if not selector:
        return None
    return pb.Selector(
        hard=selector.hard,
        fallback=[pb.Terms(terms=terms) for terms in selector.fallback],
        node_ids=selector.node_ids,
        is_soft_node=selector.is_soft_node,
    )


def _selector_in(message: pb.Selector) -> Selector:
    return Selector(
        hard=dict(message.hard),
        fallback=tuple(dict(terms.terms) for terms in message.fallback),
        node_ids=tuple(message.node_ids),
        is_soft_node=message.is_soft_node,
    )
