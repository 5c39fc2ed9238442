"""Exceptions of Ray that nothing in Shoal raises: they exist so that `except` clauses of Ray programs run."""

from __future__ import annotations

from shoal.exceptions import InternalError, ShoalError


class CrossLanguageError(ShoalError):
    """An error from another language; Shoal runs Python only."""


class OufOfBandObjectRefSerializationException(ShoalError):
    """A reference was pickled outside the runtime; Shoal allows it, and keeps its object until the process ends."""


class PlasmaObjectNotAvailable(ShoalError):
    """Ray's store lacks the object for now."""


class RpcError(ShoalError):
    """Ray's remote procedure calls failed."""

    def __init__(self, message: str, rpc_code: int | None = None) -> None:
        super().__init__(message)
        self.message, self.rpc_code = message, rpc_code


class RayChannelError(InternalError):
    """Of compiled graphs, which Shoal does not have."""


class RayChannelTimeoutError(RayChannelError, TimeoutError):
    """Of compiled graphs."""


class RayCgraphCapacityExceeded(InternalError):
    """Of compiled graphs."""


class RayDirectTransportError(InternalError):
    """Of tensor transports, which Shoal does not have."""
