"""Values with valid defaults for the planner's tests: a test sets what matters to it."""

from __future__ import annotations

from typing import Any

from shoal.foundation.amounts import Amounts, amounts
from shoal.foundation.ids import instance_id
from shoal.model.demand import ANYWHERE, Bundle, DemandClass, Gang, Selector, Strategy
from shoal.model.instance import Instance, State
from shoal.model.node import Node
from shoal.model.offer import Offer, OfferKey
from shoal.model.policy import NodeType, Policy
from shoal.model.snapshot import Snapshot, Work

UID = "ab" * 16
NOW_S = 10_000.0


def shape(cpu: float = 1, **others: float) -> Amounts:
    return amounts({"CPU": cpu, **others})


def offer(
    name: str, cpu: float, price: float | None, *, zone: str = "z1", market: str = "on-demand", **others: Any
) -> Offer:
    """An offer of provider `sim`; keywords that `Offer` does not know are resources."""
    fields = {key: others.pop(key) for key in list(others) if key in Offer.__struct_fields__}
    return Offer(
        key=OfferKey("sim", "r1", zone, name, market),
        resources=shape(cpu, **others),
        price_usd_per_h=price,
        **fields,
    )


def kind(name: str, **fields: Any) -> NodeType:
    return NodeType(**{"name": name, "provider": "sim", "machine_types": (name,), "max_workers": 100, **fields})


def policy(*kinds: NodeType, **fields: Any) -> Policy:
    return Policy(**{"node_types": kinds, "max_workers": 100, **fields})


def demand(key: str, cpu: float = 1, count: int = 1, **fields: Any) -> DemandClass:
    resources = fields.pop("resources", {})
    return DemandClass(key=key, amounts=shape(cpu, **resources), waiting=count, **fields)


def gang(
    name: str, cpus: list[float], strategy: Strategy = Strategy.PACK, selector: Selector = ANYWHERE, **fields: Any
) -> Gang:
    bundles = tuple(Bundle(amounts=shape(cpu), selector=selector) for cpu in cpus)
    return Gang(gang_id=name, bundles=bundles, strategy=strategy, **fields)


def instance(serial: int, type_name: str = "small", state: State = State.READY, **fields: Any) -> Instance:
    return Instance(
        **{
            "instance_id": instance_id(UID, serial),
            "node_type": type_name,
            "offer": OfferKey("sim", "r1", "z1", type_name),
            "state": state,
            "since_s": NOW_S - 1000,
            "created_s": NOW_S - 1000,
            "ready_s": NOW_S - 900 if state is State.READY else None,
            "price_micro": 100_000,
            **fields,
        }
    )


def node(serial: int, cpu: float = 4, free: float | None = None, type_name: str = "small", **fields: Any) -> Node:
    """A node of instance `serial`; idle for 1,000 s where all of it is free, unless `idle_s` says otherwise."""
    left = cpu if free is None else free
    return Node(
        **{
            "node_id": f"n{serial:03d}",
            "instance_id": instance_id(UID, serial),
            "node_type": type_name,
            "total": shape(cpu),
            "free": shape(left),
            "idle_s": 1000.0 if left == cpu else None,
            "idle_serial": 7,
            **fields,
        }
    )


def snapshot(
    *,
    classes: tuple[DemandClass, ...] = (),
    gangs: tuple[Gang, ...] = (),
    nodes: tuple[Node, ...] = (),
    offers: tuple[Offer, ...] = (),
    work: dict[str, Any] | None = None,
    **fields: Any,
) -> Snapshot:
    return Snapshot(
        **{
            "now_s": NOW_S,
            "cluster_uid": UID,
            "work": Work(
                **{"epoch": 1, "version": 1, "classes": classes, "gangs": gangs, "nodes": nodes, **(work or {})}
            ),
            "offers": offers,
            **fields,
        }
    )
