"""Asking a live cluster's head over its control API, from a command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from shoal.transport.control import ControlClient
    from shoal.transport.discovery import ClusterFile

T = TypeVar("T")


def ask(cluster: ClusterFile, question: Callable[[ControlClient], Awaitable[T]]) -> T:
    """Return what `question` gets from the cluster's head.

    Raises:
        UserError: the head does not answer, or refuses; one line says which.
    """

    if not cluster.grpc:
        from shoal.foundation.errors import UserError

        raise UserError(
            f"cluster `{cluster.name}` lives inside a program, and only that can ask it",
            hint="use `shoal.util.state` there; `shoal start --head` starts a cluster that commands can ask",
        )

    async def asked() -> T:
        from shoal.transport import address, discovery
        from shoal.transport.control import ControlClient

        credential = discovery.best_credential(Path(cluster.directory))
        async with ControlClient(address.parse(cluster.grpc), credential) as client:
            return await question(client)

    return asyncio.run(asked())


def status_of(cluster: ClusterFile) -> dict[str, Any]:
    """Return the head's status."""
    return ask(cluster, lambda client: client.status())
