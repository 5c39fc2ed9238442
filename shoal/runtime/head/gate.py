"""The gate of the control API: it looks at HTTP/2 headers only.

Who has no valid token is answered by a handler without a deserializer that ends the call before its first message is
read, so no protobuf of an unauthenticated peer is ever parsed. (gRPC's own refusal runs the deserializer.)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from shoal.wire.hello import Credential, Role

SERVICE = "shoal.control.v1.Control"
_ROLES = {
    "Identify": Role.READ,
    "Watch": Role.READ,
    "Report": Role.READ,
    "Standing": Role.READ,
    "State": Role.READ,
    "Status": Role.READ,
    "Logs": Role.READ,
    "Events": Role.READ,
    "ConfigGeneration": Role.READ,
    "RequestResources": Role.DRIVER,
    "Ask": Role.DRIVER,
    "Notice": Role.NODE,
}
"""What a call needs; every other call of ours needs `admin`, health and reflection need `read`."""


class Gate(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc ships no types
    """Lets calls through whose bearer token proves a role that may make them."""

    def __init__(self, credential: Credential) -> None:
        self._credential = credential

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        role = role_of(self._credential, handler_call_details.invocation_metadata)
        if role is None:
            return _refusal(grpc.StatusCode.UNAUTHENTICATED, "expected a valid token of this cluster")
        service, _, call = handler_call_details.method.lstrip("/").partition("/")
        needed = _ROLES.get(call, Role.ADMIN) if service == SERVICE else Role.READ
        if role < needed:
            name, other = role.name.lower(), needed.name.lower()
            return _refusal(grpc.StatusCode.PERMISSION_DENIED, f"{call} needs role `{other}`, the token has `{name}`")
        return await continuation(handler_call_details)


def role_of(credential: Credential, metadata: Any) -> Role | None:
    """Return the role that a call's bearer token proves, None if it proves nothing."""
    for key, value in metadata or ():
        if key == "authorization" and isinstance(value, str) and value.startswith("Bearer "):
            return credential.checks_bearer(value[7:])
    return None


def _refusal(code: grpc.StatusCode, text: str) -> grpc.RpcMethodHandler:
    """Return a handler that ends any call at once; a streaming one, so that not even one message is read first."""

    async def end(_: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        await context.abort(code, text)
        yield b""  # makes it a generator; never reached

    return grpc.stream_stream_rpc_method_handler(end)
