"""How a bought machine becomes a node of this cluster: the ticket it is given, rendered by its provider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shoal.model.offer import OfferKey
from shoal.model.policy import NodeType, Policy
from shoal.providers.protocol import Renders, Ticket


class TicketBoot:
    """The autoscaler's `Boot`: pure, so that the replay of a launch has the same bytes."""

    def __init__(self, uid: str, head_address: str, policy: Policy, renders: Mapping[str, Renders]) -> None:
        self._uid, self._head_address, self._renders = uid, head_address, dict(renders)
        self.policy = policy

    def render(
        self,
        node_type: NodeType,
        offer: OfferKey,
        *,
        token: str,
        instance_ids: Sequence[str],
        attempt: int,
        epoch: int,
        join_secret: str,
    ) -> bytes:
        ticket = Ticket(
            cluster_uid=self._uid,
            cluster_name=self.policy.cluster_name,
            epoch=epoch,
            token=token,
            instance_ids=tuple(instance_ids),
            node_type=node_type.name,
            attempt=attempt,
            head_address=self._head_address,
            join_secret=join_secret,
            labels=_labels(node_type, offer),
            lease_s=self.policy.lease_s,
            lease_busy_s=self.policy.lease_busy_s,
            boot_deadline_s=node_type.deadlines.booting_s,
        )
        return self._renders[offer.provider].render(ticket, node_type, offer)


def _labels(node_type: NodeType, offer: OfferKey) -> dict[str, str]:
    """Return a node's labels: what the platform knows, under our names and Ray's, then the user's own."""
    known = {
        "node-group": node_type.name,
        "market-type": "spot" if offer.market == "spot" else "on-demand",
        "region": offer.region,
        "zone": offer.zone,
    }
    return {**in_both_dialects(known), **node_type.labels}


def in_both_dialects(known: Mapping[str, str]) -> dict[str, str]:
    """Return what the platform knows of a node as labels, under our names and under Ray's."""
    return {f"{whose}.io/{name}": value for whose in ("shoal", "ray") for name, value in known.items()}
