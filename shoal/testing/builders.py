"""Valid values with sensible defaults: a test sets what matters and leaves the rest."""

from __future__ import annotations

from typing import Any

import msgspec

from shoal.foundation.amounts import amounts
from shoal.model.instance import Instance, State
from shoal.model.launch import Launch
from shoal.model.node import Node
from shoal.model.offer import ON_DEMAND, Offer, OfferKey
from shoal.model.policy import NodeType, Policy, Thinking

GIB = 2**30


def offer_key(
    machine_type: str = "s2", *, zone: str = "z1", market: str = ON_DEMAND, provider: str = "sim"
) -> OfferKey:
    """Return an offer's key at the simulated cloud."""
    return OfferKey(provider, "r1", zone, machine_type, market)


def offer(machine_type: str = "s2", cpu: float = 2, price: float | None = 0.1, **fields: Any) -> Offer:
    """Return an offer with 4 GiB of memory per CPU."""
    return Offer(
        key=fields.pop("key", offer_key(machine_type)),
        resources=amounts({"CPU": cpu, "memory": int(4 * cpu * GIB)}),
        price_usd_per_h=price,
        **fields,
    )


def instance(instance_id: str = "i-aaaaaa-00001", state: State = State.READY, **fields: Any) -> Instance:
    """Return a row of the ledger."""
    given: dict[str, Any] = {
        "node_type": "s2",
        "offer": offer_key(),
        "since_s": 0.0,
        "created_s": 0.0,
        "price_micro": 100_000,
    }
    return Instance(instance_id=instance_id, state=state, **(given | fields))


def node(instance_id: str = "i-aaaaaa-00001", cpu: float = 2, **fields: Any) -> Node:
    """Return an idle node."""
    size = amounts({"CPU": cpu, "memory": int(4 * cpu * GIB)})
    given: dict[str, Any] = {
        "node_id": f"n-{instance_id}",
        "node_type": "s2",
        "total": size,
        "free": size,
        "idle_s": 0.0,
    }
    return Node(instance_id=instance_id, **(given | fields))


def launch(token: str = "s" + "a" * 30, count: int = 1, **fields: Any) -> Launch:
    """Return a launch for the simulated cloud; the request is empty unless given."""
    given: dict[str, Any] = {
        "instance_ids": tuple(f"i-aaaaaa-{number:05d}" for number in range(1, count + 1)),
        "offer": offer_key(),
        "request": b"{}",
    }
    return Launch(token=token, **(given | fields))


def policy(**fields: Any) -> Policy:
    """Return a policy for the simulated cloud's catalogue: three sizes and a GPU type, idle nodes go after 60 s."""
    types = fields.pop("node_types", None) or tuple(
        NodeType(name=name, provider="sim", max_workers=50) for name in ("s2", "s4", "s16", "g8")
    )
    given: dict[str, Any] = {
        "cluster_name": "world",
        "node_types": types,
        "max_workers": 60,
        "idle_timeout_s": 60.0,
        "flap_s": 30.0,
        "thinking": Thinking(effort_fixed=0),
    }
    return msgspec.convert(msgspec.to_builtins(Policy(**(given | fields))), Policy)
