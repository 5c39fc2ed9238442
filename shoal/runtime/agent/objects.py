"""The agent's side of the object store: who leases segments, where objects lie, pulls from other nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.runtime.agent.clients import Client
from shoal.transport.connection import Connection

if TYPE_CHECKING:
    from shoal.runtime.agent.main import Agent


class Objects:
    """Requests of clients to the node's store."""

    peer_kinds: frozenset[int] = frozenset()

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    def tick(self) -> None: ...
    def drain(self) -> None: ...
    def client_info(self) -> dict[str, Any]:
        return {}
    def primaries(self) -> int:
        return 0
    def used_bytes(self) -> int:
        return 0
    def rows(self) -> list[dict[str, Any]]:
        return []
    def process_died(self, process: bytes) -> None: ...
    def on_request(self, client: Client, message: list[Any]) -> None: ...
    async def on_peer(self, connection: Connection, message: list[Any]) -> None: ...
