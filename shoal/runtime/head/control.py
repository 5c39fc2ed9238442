"""The head's public API over gRPC (`shoal.control.v1`): one servicer that translates, one gate in front of it.

Nobody without a token gets past `gate`, reflection and health included. Requests then go through `HeadServer.ask` like
everybody's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import msgspec
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from shoal.foundation.errors import JournalFull, ShoalError, StaleSession, UserError
from shoal.runtime.head import logs
from shoal.runtime.head.core.view import Delta
from shoal.runtime.head.gate import SERVICE, Gate, role_of
from shoal.runtime.head.logs import Wanted
from shoal.transport.address import Address
from shoal.wire import control_codec as codec
from shoal.wire import control_pb2 as pb
from shoal.wire import control_pb2_grpc as stubs
from shoal.wire.asks import What
from shoal.wire.hello import Credential, Role

if TYPE_CHECKING:
    from shoal.runtime.head.server import HeadServer

BREATH_S = 0.005
"""Least time between two deltas of one stream: what changes in between shares the second."""
LIFE_SIGN_S = 5.0
"""After so long without a change a delta goes out all the same: durations have grown, and the reader sees us live."""
FOLLOW_S = 0.5
CALLS_MAX = 1024
MESSAGE_BYTES_MAX = 32 * 2**20

_OPEN_TO_DRIVERS = frozenset(
    {
        What.GET_ACTOR,
        What.KILL_ACTOR,
        What.LIST_NAMED,
        What.REMOVE_GROUP,
        What.GET_GROUP,
        What.LIST_GROUPS,
        What.NODES,
        What.REQUEST_RESOURCES,
        What.START_JOB,
        What.END_JOB,
        What.PUT_KEY,
        What.GET_KEY,
        What.DELETE_KEY,
        What.STATE,
        What.STATUS,
    }
)
_BYTES_ARGS = frozenset({"actor_id", "process", "value"})


class ControlServer:
    """The gRPC server of one head."""

    def __init__(
        self, head: HeadServer, credential: Credential, *, server_credentials: grpc.ServerCredentials | None = None
    ) -> None:
        """`server_credentials` encrypts; None is plain text, for loopback and Unix sockets."""
        self._server_credentials = server_credentials
        self._server = grpc.aio.server(
            interceptors=[Gate(credential)],
            maximum_concurrent_rpcs=CALLS_MAX,
            options=[
                # Without this a second head could share the first one's port and take half of its calls.
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
                ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
                ("grpc.max_metadata_size", 8192),
            ],
        )
        stubs.add_ControlServicer_to_server(Control(head), self._server)  # type: ignore[no-untyped-call]
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        self.address: Address | None = None

    async def start(self, address: Address) -> Address:
        """Listen there and return the real address.

        Raises:
            UserError: it cannot be bound.
        """
        target = str(address).removeprefix("tcp:")
        try:
            if self._server_credentials is not None:
                port = self._server.add_secure_port(target, self._server_credentials)
            else:
                port = self._server.add_insecure_port(target)
        except RuntimeError as error:
            raise UserError(f"head: cannot listen for control calls on {address}") from error
        await self._server.start()
        if address.scheme == "unix":
            Path(address.host).chmod(0o600)
            self.address = address
        else:
            self.address = Address("tcp", address.host, port)
        for name in ("", SERVICE):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return self.address

    async def stop(self) -> None:
        """End every call and close."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(0.2)


class Control(stubs.ControlServicer):
    """Every call, translated into a request to the head."""

    def __init__(self, head: HeadServer) -> None:
        self._head = head

    # ---------------------------------------------------------------------------------------- watching

    async def Identify(self, request: pb.IdentifyRequest, context: Any) -> pb.Identity:
        head = self._head
        return pb.Identity(
            cluster_uid=head.settings.cluster_uid,
            cluster_name=head.settings.cluster_name,
            epoch=head.core.meta.epoch,
            version=head.settings.version,
            is_settling=head.core.nodes.is_settling(),
            is_read_only=head.core.is_read_only,
            frames_addresses=[str(address) for address in head.addresses],
            session=head.core.meta.session,
        )

    async def Watch(self, request: pb.WatchRequest, context: Any) -> AsyncIterator[pb.WorkDelta]:
        number, subscription, changed = self._head.follow()
        try:
            while True:
                try:
                    async with asyncio.timeout(LIFE_SIGN_S):
                        await changed.wait()
                except TimeoutError:
                    pass
                changed.clear()
                yield _delta_out(self._head.core.view.delta(subscription, self._head.now_s()))
                await asyncio.sleep(BREATH_S)
        finally:
            self._head.unfollow(number)

    # ------------------------------------------------------------------------------------------ orders

    async def OpenSession(self, request: pb.OpenSessionRequest, context: Any) -> pb.Session:
        return pb.Session(session=await self._ask(context, "open_session", owner=request.owner or "autoscaler"))

    async def JoinSecret(self, request: pb.JoinSecretRequest, context: Any) -> pb.JoinSecretReply:
        secret = await self._ask(context, "join_secret", session=request.session, token=request.token)
        return pb.JoinSecretReply(secret=secret)

    async def Cordon(self, request: pb.CordonRequest, context: Any) -> pb.Empty:
        await self._ask(
            context,
            "cordon",
            session=request.session,
            instance_id=request.instance_id,
            order=request.order,
            ttl_s=request.ttl_s,
        )
        return pb.Empty()

    async def Drain(self, request: pb.DrainRequest, context: Any) -> pb.Empty:
        await self._ask(
            context,
            "drain",
            session=request.session,
            instance_id=request.instance_id,
            order=request.order,
            idle_serial=request.idle_serial if request.HasField("idle_serial") else None,
            deadline_s=request.deadline_s if request.HasField("deadline_s") else None,
        )
        return pb.Empty()

    async def Undrain(self, request: pb.UndrainRequest, context: Any) -> pb.Empty:
        await self._ask(
            context, "undrain", session=request.session, instance_id=request.instance_id, order=request.order
        )
        return pb.Empty()

    async def Bar(self, request: pb.InstanceRequest, context: Any) -> pb.BarReply:
        barred = await self._ask(context, "bar", session=request.session, instance_id=request.instance_id)
        return pb.BarReply(is_barred=barred)

    async def Forget(self, request: pb.InstanceRequest, context: Any) -> pb.Empty:
        await self._ask(context, "forget", session=request.session, instance_id=request.instance_id)
        return pb.Empty()

    async def Notice(self, request: pb.NoticeRequest, context: Any) -> pb.Empty:
        deadline_s = request.deadline_s if request.HasField("deadline_s") else None
        await self._ask(context, "notice", instance_id=request.instance_id, what=request.what, deadline_s=deadline_s)
        return pb.Empty()

    async def Publish(self, request: pb.PublishRequest, context: Any) -> pb.Empty:
        report = await _json_in(context, request.report_json)
        await self._ask(context, "publish", session=request.session, report=report)
        return pb.Empty()

    async def Report(self, request: pb.ReportRequest, context: Any) -> pb.JsonReply:
        return _json(await self._ask(context, "report"))

    async def ConfigGeneration(self, request: pb.ConfigGenerationRequest, context: Any) -> pb.ConfigGenerationReply:
        args: dict[str, Any] = {}
        if request.hash:
            if role_of(self._head.credential, context.invocation_metadata()) is not Role.ADMIN:
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, "setting the config needs role `admin`")
            args = {"hash": request.hash, "difference": request.difference}
        reply = await self._ask(context, "config_generation", **args)
        return pb.ConfigGenerationReply(generation=reply["generation"], hash=reply["hash"])

    async def Down(self, request: pb.DownRequest, context: Any) -> pb.Empty:
        await self._ask(context, "down", why=request.why)
        return pb.Empty()

    # ---------------------------------------------------------------------------------------- requests

    async def RequestResources(self, request: pb.RequestResourcesRequest, context: Any) -> pb.Empty:
        await self._ask(
            context,
            What.REQUEST_RESOURCES,
            owner=request.owner,
            job=request.job,
            bundles=codec.bundles_in(request.bundles),
            ttl_s=request.ttl_s if request.HasField("ttl_s") else None,
        )
        return pb.Empty()

    async def Standing(self, request: pb.StandingRequest, context: Any) -> pb.JsonReply:
        return _json(await self._ask(context, "standing"))

    async def Ask(self, request: pb.AskRequest, context: Any) -> pb.JsonReply:
        if request.what not in _OPEN_TO_DRIVERS:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"no such request: `{request.what}`")
        args = await _json_in(context, request.args_json)
        try:
            args = {
                name: bytes.fromhex(value) if name in _BYTES_ARGS and isinstance(value, str) else value
                for name, value in args.items()
            }
        except ValueError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "bytes: expected hex digits")
        return _json(await self._ask(context, request.what, **args))

    # ------------------------------------------------------------------------------------------- state

    async def State(self, request: pb.StateRequest, context: Any) -> pb.StateReply:
        filters = [[one.key, "!=" if one.is_not else "=", one.value] for one in request.filters]
        args: dict[str, Any] = {"kind": request.kind, "filters": filters, "detail": request.detail}
        if request.limit:
            args["limit"] = request.limit
        if request.timeout_s:
            args["timeout_s"] = request.timeout_s
        found = await self._ask(context, What.STATE, **args)
        return pb.StateReply(
            rows_json=[_text(row) for row in found["rows"]],
            total=found["total"],
            is_partial=found["is_partial"],
            warnings=found["warnings"],
        )

    async def Status(self, request: pb.StatusRequest, context: Any) -> pb.JsonReply:
        return _json(await self._ask(context, What.STATUS))

    async def Logs(self, request: pb.LogsRequest, context: Any) -> AsyncIterator[pb.LogLines]:
        names = Wanted.__struct_fields__
        fields = {name: value for name in names if (value := getattr(request, name))}
        try:
            async for part in logs.read(self._head, Wanted(**fields)):
                yield pb.LogLines(node_id=part.node_id, file=part.file, data=part.data, warning=part.warning)
        except UserError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    async def Events(self, request: pb.EventsRequest, context: Any) -> AsyncIterator[pb.Event]:
        events = self._head.events()
        newest = events[-1] if events else None
        for at_s, kind, fields in events[-(request.limit or 100) :]:
            yield pb.Event(at_s=at_s, kind=kind, fields_json=_text(fields))
        while request.follow:
            await asyncio.sleep(FOLLOW_S)
            events = self._head.events()
            fresh = []
            for event in reversed(events):
                if event is newest:
                    break
                fresh.append(event)
            for at_s, kind, fields in reversed(fresh):
                yield pb.Event(at_s=at_s, kind=kind, fields_json=_text(fields))
            newest = events[-1] if events else None

    async def _ask(self, context: Any, name: str, /, **args: Any) -> Any:
        try:
            return await self._head.ask(name, args)
        except StaleSession as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error), (("shoal-error", "StaleSession"),))
        except JournalFull as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error), (("shoal-error", "JournalFull"),))
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"{name}: no answer in time")
        except ShoalError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))


def server_credentials(certificate_chain: bytes, private_key: bytes) -> grpc.ServerCredentials:
    """Return what makes a control server speak TLS with this certificate (PEM)."""
    return grpc.ssl_server_credentials([(private_key, certificate_chain)])


def _delta_out(delta: Delta) -> pb.WorkDelta:
    message = pb.WorkDelta(
        epoch=delta.epoch,
        version=delta.version,
        previous_version=delta.previous_version,
        is_all_classes=delta.is_all_classes,
        is_settling=delta.is_settling,
        idle_s=delta.idle_s,
    )
    for key, node in delta.nodes.items():
        if node is None:
            message.nodes_gone.append(key)
        else:
            message.nodes.append(codec.node_out(node))
    for key, demand in delta.classes.items():
        if demand is None:
            message.classes_gone.append(key)
        else:
            message.classes.append(codec.class_out(demand))
    for key, gang in delta.gangs.items():
        if gang is None:
            message.gangs_gone.append(key)
        else:
            message.gangs.append(codec.gang_out(gang))
    for key, standing in delta.standing.items():
        if standing is None:
            message.standing_gone.append(key)
        else:
            message.standing.append(codec.standing_out(key, standing))
    return message


def _plain(value: Any) -> Any:
    """Return JSON-ready data: bytes as hex digits."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if isinstance(value, dict):
        return {_plain(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(one) for one in value]
    return value


def _text(value: Any) -> str:
    return msgspec.json.encode(_plain(value), enc_hook=str).decode()


def _json(value: Any) -> pb.JsonReply:
    return pb.JsonReply(json=_text(value))


async def _json_in(context: Any, text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text or "{}", type=dict[str, Any])
    except msgspec.DecodeError as error:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"json: {error}")
        raise AssertionError from error  # abort raises


__all__ = ["ControlServer", "Gate", "server_credentials"]
