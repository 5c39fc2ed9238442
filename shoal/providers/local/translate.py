"""What is particular to processes as machines: phases, names, and the host's limits. Pure."""

from __future__ import annotations

from shoal.foundation.amounts import UNIT
from shoal.model.launch import Phase
from shoal.model.offer import ON_DEMAND, OfferKey, Quota
from shoal.model.policy import NodeType

REGION = "this-host"
MACHINES_MAX = 64


def offer_key(node_type: str) -> OfferKey:
    """Return the key of the one offer that a local node type has."""
    return OfferKey("local", REGION, REGION, node_type, ON_DEMAND)


def machine_name(token: str, index: int) -> str:
    """Return the name of one machine of a launch: what `release` takes and what its folder is called.

    >>> machine_name("sabc", 2)
    'sabc.2'
    """
    return f"{token}.{index}"


def token_of(name: str) -> tuple[str, int]:
    """Return token and index of a machine's name.

    Raises:
        ValueError: it is no name of ours.
    """
    token, dot, index = name.rpartition(".")
    if not dot or not index.isdecimal() or not token.isalnum():
        raise ValueError(f"machine name: expected token.index, got `{name}`")
    return token, int(index)


def phase(is_running: bool, age_s: float, *, start_limit_s: float = 10.0) -> Phase:
    """Return a machine's phase: its folder without a guard is a start under way, later a halted machine."""
    if is_running:
        return Phase.RUNNING
    return Phase.PENDING if age_s < start_limit_s else Phase.HALTED


def host_quota(node_types: tuple[NodeType, ...], host_cpus: int, oversubscribe: float, used: int) -> Quota:
    """Return the cap that keeps the sum of local machines within the host: milli-CPUs, `oversubscribe` times over.

    Every machine counts with at least 0.1 CPU, so that a type without CPUs is bounded too.
    """
    return Quota(
        name="CPUs of this host",
        provider="local",
        region=REGION,
        limit=int(host_cpus * 1000 * oversubscribe),
        used=used,
        weights={kind.name: weight(kind) for kind in node_types if kind.provider == "local"},
    )


def weight(kind: NodeType) -> int:
    """Return what one machine of a type takes of the host, in milli-CPUs."""
    return max(100, kind.resources.get("CPU", 0) * 1000 // UNIT)
