"""Small questions about the cluster and this process: named actors, this node's address, saying things once."""

from __future__ import annotations

import socket
from typing import Any

from shoal.runtime.client.api import session
from shoal.wire.asks import What

_said: set[str] = set()


def list_named_actors(all_namespaces: bool = False) -> list[Any]:
    """Return the names of live named actors of this namespace; of all of them, dicts with `name` and `namespace`."""
    here = session()
    args = {"all_namespaces": all_namespaces, "namespace": here.namespace}
    rows = here.core.ask(What.LIST_NAMED, args)
    if all_namespaces:
        return [{"name": name, "namespace": namespace} for name, namespace in rows]
    return [name for name, _ in rows]


def get_node_ip_address() -> str:
    """Return the address under which other machines reach this one; 127.0.0.1 if there is no network.

    No packet is sent: connecting a datagram socket only chooses the route.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("10.255.255.255", 1))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def log_once(key: str) -> bool:
    """Return True the first time it is called with `key` in this process."""
    if key in _said:
        return False
    _said.add(key)
    return True
