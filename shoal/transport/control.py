"""Clients of the head's control API: `ControlClient` for the CLI and others, `GrpcHead` for the autoscaler.

grpc is imported when the first client is made, never by importing this module. Every error of gRPC becomes one of ours
with a line for people: nobody answers, the token is no good, a newer session is in charge.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Self

import msgspec

from shoal.foundation.clock import Clock
from shoal.foundation.errors import JournalFull, NoCluster, StaleSession, UserError
from shoal.model.demand import Bundle, DemandClass, Gang, Standing
from shoal.model.node import Node
from shoal.model.snapshot import Work
from shoal.transport.address import Address
from shoal.wire.hello import Credential, Role

CALL_LIMIT_S = 30.0
CONNECT_LIMIT_S = 5.0
MESSAGE_BYTES_MAX = 32 * 2**20
_QUIET_S = 20.0
"""A watch that says nothing for so long is dead: the head gives a sign of life every 5 s."""


class ControlClient:
    """One connection to a head's control API. Use it as an async context manager."""

    def __init__(
        self,
        address: Address,
        credential: Credential,
        *,
        role: Role | None = None,
        root_certificates: bytes | None = None,
        limit_s: float = CALL_LIMIT_S,
    ) -> None:
        """`role` None acts with all that the credential allows; `root_certificates` (PEM) turns TLS on."""
        import grpc

        from shoal.wire import control_pb2, control_pb2_grpc

        self._grpc, self._pb = grpc, control_pb2
        self._address, self._limit_s = address, limit_s
        self._metadata = (("authorization", f"Bearer {credential.bearer(role)}"),)
        target = str(address).removeprefix("tcp:")
        options = [
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
            # A head is found by its own address: no proxy of the environment stands between.
            ("grpc.enable_http_proxy", 0),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        if root_certificates is not None:
            secure = grpc.ssl_channel_credentials(root_certificates)
            self._channel = grpc.aio.secure_channel(target, secure, options)
        else:
            self._channel = grpc.aio.insecure_channel(target, options)
        self._stub = control_pb2_grpc.ControlStub(self._channel)  # type: ignore[no-untyped-call]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection."""
        await self._channel.close(None)

    async def identify(self) -> dict[str, Any]:
        """Return who answers: cluster_uid, cluster_name, epoch, version, is_settling, frames_addresses, session."""
        reply = await self._call("Identify", self._pb.IdentifyRequest(), limit_s=CONNECT_LIMIT_S)
        return {
            "cluster_uid": reply.cluster_uid,
            "cluster_name": reply.cluster_name,
            "epoch": reply.epoch,
            "version": reply.version,
            "is_settling": reply.is_settling,
            "is_read_only": reply.is_read_only,
            "frames_addresses": list(reply.frames_addresses),
            "session": reply.session,
        }

    async def status(self) -> dict[str, Any]:
        """Return what `shoal status` shows."""
        found: dict[str, Any] = await self._json("Status", self._pb.StatusRequest())
        return found

    async def state(
        self,
        kind: str,
        *,
        filters: Sequence[tuple[str, str, str]] = (),
        limit: int = 0,
        detail: bool = False,
        timeout_s: float = 0.0,
    ) -> dict[str, Any]:
        """Return {rows, total, is_partial, warnings} of a state table; filters are (key, "=" or "!=", value)."""
        pb = self._pb
        request = pb.StateRequest(
            kind=kind,
            filters=[pb.Filter(key=key, is_not=operator == "!=", value=value) for key, operator, value in filters],
            limit=limit,
            detail=detail,
            timeout_s=timeout_s,
        )
        reply = await self._call("State", request, limit_s=max(self._limit_s, timeout_s + 5.0))
        return {
            "rows": [msgspec.json.decode(row) for row in reply.rows_json],
            "total": reply.total,
            "is_partial": reply.is_partial,
            "warnings": list(reply.warnings),
        }

    async def report(self) -> dict[str, Any]:
        """Return the autoscaler's newest report, empty if there is none."""
        found: dict[str, Any] = await self._json("Report", self._pb.ReportRequest())
        return found

    async def standing(self) -> list[dict[str, Any]]:
        """Return every standing request."""
        found: list[dict[str, Any]] = await self._json("Standing", self._pb.StandingRequest())
        return found

    async def request_resources(
        self, owner: str, bundles: Sequence[Bundle], *, job: str = "", ttl_s: float | None = None
    ) -> None:
        """Set an owner's standing request; no bundles take it back."""
        from shoal.wire.control_codec import bundles_out

        request = self._pb.RequestResourcesRequest(owner=owner, job=job, bundles=bundles_out(bundles), ttl_s=ttl_s)
        await self._call("RequestResources", request)

    async def ask(self, what: str, args: Mapping[str, Any]) -> Any:
        """Make one of the requests that drivers may make; bytes travel as hex digits."""
        text = msgspec.json.encode(dict(args), enc_hook=str).decode()
        return await self._json("Ask", self._pb.AskRequest(what=what, args_json=text))

    async def notice(self, instance_id: str, what: str, deadline_s: float | None) -> None:
        """Say that the provider will take the machine away."""
        await self._call("Notice", self._pb.NoticeRequest(instance_id=instance_id, what=what, deadline_s=deadline_s))

    async def config_generation(self, content_hash: str = "", difference: str = "") -> tuple[int, str]:
        """Return (generation, hash) of the cluster file in force; with a hash, a changed one gets the next number."""
        request = self._pb.ConfigGenerationRequest(hash=content_hash, difference=difference)
        reply = await self._call("ConfigGeneration", request)
        return reply.generation, reply.hash

    async def logs(self, **wanted: Any) -> AsyncIterator[tuple[str, str, bytes, str]]:
        """Yield (node id, file, data, warning); arguments are the fields of `LogsRequest`."""
        request = self._pb.LogsRequest(**wanted)
        async for lines in self._stream("Logs", request, follow=bool(wanted.get("follow"))):
            yield lines.node_id, lines.file, lines.data, lines.warning

    async def events(self, *, limit: int = 0, follow: bool = False) -> AsyncIterator[tuple[float, str, dict[str, Any]]]:
        """Yield (wall time, kind, fields) of the head's newest events, oldest first, then new ones if asked."""
        request = self._pb.EventsRequest(limit=limit, follow=follow)
        async for event in self._stream("Events", request, follow=follow):
            yield event.at_s, event.kind, msgspec.json.decode(event.fields_json)

    async def down(self, why: str = "") -> None:
        """End everything: agents, work, the head."""
        await self._call("Down", self._pb.DownRequest(why=why))

    async def _json(self, name: str, request: Any) -> Any:
        return msgspec.json.decode((await self._call(name, request)).json)

    async def _call(self, name: str, request: Any, *, limit_s: float | None = None) -> Any:
        try:
            return await getattr(self._stub, name)(
                request, timeout=self._limit_s if limit_s is None else limit_s, metadata=self._metadata
            )
        except self._grpc.aio.AioRpcError as error:
            raise self._translated(error) from None

    async def _stream(self, name: str, request: Any, *, follow: bool) -> AsyncIterator[Any]:
        call = getattr(self._stub, name)(
            request, timeout=None if follow else self._limit_s, metadata=self._metadata, wait_for_ready=False
        )
        try:
            async for message in call:
                yield message
        except self._grpc.aio.AioRpcError as error:
            raise self._translated(error) from None
        finally:
            call.cancel()

    def _translated(self, error: Any) -> Exception:
        code, status = error.code(), self._grpc.StatusCode
        text = error.details() or code.name.lower()
        if code in (status.UNAVAILABLE, status.CANCELLED):
            return NoCluster(f"no head answers at {self._address}", hint="`shoal clusters` lists what runs")
        if code is status.DEADLINE_EXCEEDED:
            return NoCluster(f"the head at {self._address} did not answer in time")
        if code in (status.UNAUTHENTICATED, status.PERMISSION_DENIED):
            return UserError(f"head at {self._address}: {text}", hint="the token is that of the cluster's directory")
        if code is status.FAILED_PRECONDITION:
            return StaleSession(text)
        if code is status.RESOURCE_EXHAUSTED and any(
            key == "shoal-error" for key, _ in error.trailing_metadata() or ()
        ):
            return JournalFull(text)
        return UserError(text)


class GrpcHead(ControlClient):
    """The head as the autoscaler sees it (`shoal.autoscaler.act.contracts.Head`), over its control API.

    Durations that the head sends (idle, waiting, time to live) grow or shrink here by `clock` until the next delta.
    """

    def __init__(
        self,
        clock: Clock,
        address: Address,
        credential: Credential,
        *,
        root_certificates: bytes | None = None,
        limit_s: float = CALL_LIMIT_S,
    ) -> None:
        super().__init__(address, credential, root_certificates=root_certificates, limit_s=limit_s)
        self._clock = clock
        self.session = 0

    async def open_session(self, owner: str) -> int:
        """Take charge; later orders carry this session."""
        reply = await self._call("OpenSession", self._pb.OpenSessionRequest(owner=owner))
        self.session = reply.session
        return self.session

    async def watch(self) -> AsyncIterator[Work]:
        """Yield the newest `Work` whenever it changed, the full state first; ends when the head is unreachable.

        Raises:
            UserError: the head refuses the token.
        """
        mirror = Mirror()
        call = self._stub.Watch(self._pb.WatchRequest(), metadata=self._metadata)
        try:
            while True:
                async with asyncio.timeout(_QUIET_S):
                    message = await call.read()
                if message is self._grpc.aio.EOF:
                    return
                mirror.take(message, self._clock.monotonic_s())
                yield mirror.work(self._clock.monotonic_s())
        except TimeoutError:
            return
        except self._grpc.aio.AioRpcError as error:
            translated = self._translated(error)
            if not isinstance(translated, NoCluster):
                raise translated from None
        finally:
            call.cancel()

    async def join_secret(self, token: str) -> str:
        request = self._pb.JoinSecretRequest(session=self.session, token=token)
        return str((await self._call("JoinSecret", request)).secret)

    async def cordon(self, instance_id: str, order: str, ttl_s: float) -> None:
        request = self._pb.CordonRequest(session=self.session, instance_id=instance_id, order=order, ttl_s=ttl_s)
        await self._call("Cordon", request)

    async def drain(self, instance_id: str, order: str, idle_serial: int | None, deadline_s: float | None) -> None:
        request = self._pb.DrainRequest(
            session=self.session,
            instance_id=instance_id,
            order=order,
            idle_serial=idle_serial,
            deadline_s=deadline_s,
        )
        await self._call("Drain", request)

    async def undrain(self, instance_id: str, order: str) -> None:
        request = self._pb.UndrainRequest(session=self.session, instance_id=instance_id, order=order)
        await self._call("Undrain", request)

    async def bar(self, instance_id: str) -> bool:
        request = self._pb.InstanceRequest(session=self.session, instance_id=instance_id)
        return bool((await self._call("Bar", request)).is_barred)

    async def forget(self, instance_id: str) -> None:
        request = self._pb.InstanceRequest(session=self.session, instance_id=instance_id)
        await self._call("Forget", request)

    async def publish(self, report: msgspec.Struct) -> None:
        """Leave the report at the head, newest wins."""
        text = msgspec.json.encode(report, enc_hook=str).decode()
        await self._call("Publish", self._pb.PublishRequest(session=self.session, report_json=text))


class Mirror:
    """A follower's copy of the head's work: deltas in, whole `Work` values out."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._classes: dict[str, DemandClass] = {}
        self._gangs: dict[str, Gang] = {}
        self._standing: dict[str, Standing] = {}
        self._taken_s: dict[tuple[str, str], float] = {}
        self._version = (0, 0)
        self._is_settling = False
        self._idle_s: float | None = None
        self._idle_taken_s = 0.0

    def take(self, delta: Any, now_s: float) -> None:
        """Apply one delta (a `WorkDelta`).

        Raises:
            UserError: it follows another version than the last; the stream has a gap.
        """
        from shoal.wire import control_codec as codec

        if not delta.HasField("previous_version"):
            self.__init__()  # type: ignore[misc]  # the full state replaces everything
        elif delta.epoch == self._version[0] and delta.previous_version != self._version[1]:
            raise UserError(f"head: a delta after {delta.previous_version} came after {self._version[1]}")
        if delta.is_all_classes:
            self._classes.clear()
        for node in delta.nodes:
            self._nodes[node.node_id] = codec.node_in(node)
            self._taken_s["node", node.node_id] = now_s
        for demand in delta.classes:
            self._classes[demand.key] = codec.class_in(demand)
            self._taken_s["class", demand.key] = now_s
        for gang in delta.gangs:
            self._gangs[gang.gang_id] = codec.gang_in(gang)
            self._taken_s["gang", gang.gang_id] = now_s
        for standing in delta.standing:
            self._standing[standing.key] = codec.standing_in(standing)
            self._taken_s["standing", standing.key] = now_s
        gone = (
            ("node", self._nodes, delta.nodes_gone),
            ("class", self._classes, delta.classes_gone),
            ("gang", self._gangs, delta.gangs_gone),
            ("standing", self._standing, delta.standing_gone),
        )
        for kind, values, keys in gone:
            for key in keys:
                values.pop(key, None)
                self._taken_s.pop((kind, key), None)
        self._version = (delta.epoch, delta.version)
        self._is_settling = delta.is_settling
        self._idle_s, self._idle_taken_s = (delta.idle_s if delta.HasField("idle_s") else None), now_s

    def work(self, now_s: float) -> Work:
        """Return everything as of now."""
        replace = msgspec.structs.replace

        def age(kind: str, key: str) -> float:
            return max(0.0, now_s - self._taken_s[kind, key])

        nodes = []
        for key, node in self._nodes.items():
            older_s = age("node", key)
            if older_s and (node.idle_s is not None or node.notice_deadline_s is not None):
                node = replace(
                    node,
                    idle_s=None if node.idle_s is None else node.idle_s + older_s,
                    notice_deadline_s=None
                    if node.notice_deadline_s is None
                    else max(0.0, node.notice_deadline_s - older_s),
                )
            nodes.append(node)
        return Work(
            epoch=self._version[0],
            version=self._version[1],
            nodes=tuple(nodes),
            classes=tuple(
                replace(one, waiting_s=one.waiting_s + age("class", key)) for key, one in self._classes.items()
            ),
            gangs=tuple(replace(one, waiting_s=one.waiting_s + age("gang", key)) for key, one in self._gangs.items()),
            standing=tuple(
                one if one.ttl_s is None else replace(one, ttl_s=max(0.0, one.ttl_s - age("standing", key)))
                for key, one in self._standing.items()
            ),
            is_settling=self._is_settling,
            idle_s=None if self._idle_s is None else self._idle_s + max(0.0, now_s - self._idle_taken_s),
        )
