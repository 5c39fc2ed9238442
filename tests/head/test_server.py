"""The head's process: real sockets, real journal, the control API and its gate."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from shoal.autoscaler.act.contracts import Head, InstanceReport, Report
from shoal.foundation.clock import SystemClock
from shoal.foundation.errors import AuthenticationError, NoCluster, StaleSession, UserError
from shoal.foundation.eventlog import MemoryLog
from shoal.model.demand import Bundle, Selector
from shoal.runtime.head.core.events import HeadSettings
from shoal.runtime.head.journal import Journal, MemoryJournal, SqliteJournal
from shoal.runtime.head.server import HeadServer
from shoal.transport.address import Address, unix
from shoal.transport.connection import Connection, dial
from shoal.transport.control import ControlClient, GrpcHead
from shoal.wire import control_pb2, control_pb2_grpc, tasks
from shoal.wire import messages as told
from shoal.wire.hello import Credential, Role, fresh_secret

UID = "cd" * 16
CPU = 10_000
ANY = Address("tcp", "127.0.0.1", 0)
NODE = "1f" * 14
PROCESS = bytes.fromhex(NODE) + b"\0\0\0\1"
CLOCK = SystemClock()


class Running:
    """One head in this process, and how to reach it."""

    def __init__(self, head: HeadServer, credential: Credential, log: MemoryLog) -> None:
        self.head, self.credential, self.log = head, credential, log

    def client(self, role: Role | None = None, credential: Credential | None = None) -> GrpcHead:
        assert self.head.control_address is not None
        chosen = credential or self.credential
        return GrpcHead(CLOCK, self.head.control_address, chosen.lowered(role) if role else chosen)

    async def agent(self, role: Role = Role.NODE, credential: Credential | None = None) -> Agent:
        chosen = credential or self.credential.lowered(role)
        return Agent(await dial(self.head.addresses[0], None, chosen, type=told.TO_AGENT))


class Agent:
    """A bare connection that speaks as an agent."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._heard: list[Any] = []

    def say(self, *messages: Any) -> None:
        for message in messages:
            self.connection.send(message)

    def join(self, **more: Any) -> None:
        given = {
            "node_id": NODE,
            "instance_id": "i-1",
            "node_type": "t",
            "token": "",
            "join_secret": "",
            "total": {"CPU": 4 * CPU},
            "labels": {},
            "address": ["tcp:127.0.0.1:9"],
            "epoch": 1,
            "is_head": False,
            "hostname": "h",
            "pid": 1,
        }
        self.say(told.Join(**{**given, **more}))

    async def next(self, kind: type) -> Any:
        """Return the next message of that kind; others before it are passed over."""
        async with asyncio.timeout(10):
            while True:
                for place, message in enumerate(self._heard):
                    if isinstance(message, kind) and not (kind is told.Reply and message.rid == 0):
                        self._heard = self._heard[place + 1 :]
                        return message
                heard = await self.connection.receive()
                assert heard is not None, "the head hung up"
                self._heard += heard


@contextlib.asynccontextmanager
async def running(
    journal: Journal | None = None, *, credential: Credential | None = None, control: Address | None = ANY, **more: Any
) -> AsyncIterator[Running]:
    credential = credential or Credential(UID, fresh_secret())
    log = MemoryLog(CLOCK)
    settings = HeadSettings(cluster_uid=UID, cluster_name="test", **more)
    head = HeadServer(CLOCK, credential, None, journal or MemoryJournal(), log, settings)
    await head.start(ANY, control)
    try:
        yield Running(head, credential, log)
    finally:
        await head.stop()


# ------------------------------------------------------------------------------------------------ frames


async def test_agents_join_over_frames_and_drivers_may_not() -> None:
    async with running(control=None) as run:
        agent = await run.agent()
        agent.join()
        assert (await agent.next(told.Joined)).cluster_uid == UID
        agent.say(told.Ask(1, PROCESS, "nodes", {}))
        [row] = (await agent.next(told.Reply)).value
        assert row["node_id"] == NODE and row["total"] == {"CPU": 4.0}

        with pytest.raises(AuthenticationError):
            await run.agent(Role.READ)
        with pytest.raises(AuthenticationError):
            await run.agent(credential=Credential(UID, fresh_secret(), Role.NODE))
        await agent.connection.close()


async def test_a_driver_is_shown_the_way_and_hung_up_on_unheard() -> None:
    async with running(control=None) as run:
        agent = await run.agent()
        agent.join(is_head=True, address=["unix:/nowhere", "tcp:192.0.2.7:6401"])
        await agent.next(told.Joined)

        driver = await dial(run.head.addresses[0], None, run.credential.lowered(Role.DRIVER))
        driver.send(told.Ask(1, PROCESS, "nodes", {}))
        assert await driver.receive() == [[tasks.ELSEWHERE, ["unix:/nowhere", "tcp:192.0.2.7:6401"]]]
        assert await driver.receive() is None, "hung up on, if it does not leave by itself"
        await agent.connection.close()


async def test_a_peer_that_sends_no_frames_of_ours_is_hung_up_on_and_nobody_else_feels_it() -> None:
    async with running(control=None) as run:
        good, bad = await run.agent(), await run.agent()
        good.join()
        await good.next(told.Joined)
        bad.connection._writer.write(b"\x05\0\0\0\x93\xc0\xc0\xc0\xc0")

        async with asyncio.timeout(10):
            assert await bad.connection.receive() is None

        good.say(told.Ask(1, PROCESS, "nodes", {}))
        assert (await good.next(told.Reply)).is_ok
        await good.connection.close()


async def test_an_unreachable_address_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = HeadSettings(cluster_uid=UID)
        head = HeadServer(CLOCK, Credential(UID, fresh_secret()), None, MemoryJournal(), MemoryLog(CLOCK), settings)
        with pytest.raises(UserError, match="cannot listen on tcp"):
            await head.start(Address("tcp", "127.0.0.1", taken.getsockname()[1]))


async def test_a_bug_of_ours_is_an_alarm_and_not_the_end(caplog: pytest.LogCaptureFixture) -> None:
    async with running(control=None) as run:
        good, bad = await run.agent(), await run.agent()
        good.join()
        bad.join(node_id="2f" * 14, instance_id="i-2")
        await good.next(told.Joined)
        await bad.next(told.Joined)
        run.head.core._hear[told.Leaving] = lambda member, news: {}["bug"]

        bad.say(told.Leaving("x"))
        async with asyncio.timeout(10):
            while await bad.connection.receive() is not None:
                pass

        good.say(told.Ask(1, PROCESS, "nodes", {}))
        assert (await good.next(told.Reply)).is_ok
        assert any(event.kind == "alarm" and "KeyError" in event.fields["why"] for event in run.log.events)
        assert "the core raised on Leaving" in caplog.text
        await good.connection.close()


async def test_a_killed_head_comes_back_with_names_groups_sessions_and_orders(tmp_path: Path) -> None:
    credential = Credential(UID, fresh_secret())
    async with running(SqliteJournal(tmp_path / "head.db"), credential=credential) as run, run.client() as client:
        agent = await run.agent()
        agent.join()
        await agent.next(told.Joined)
        agent.say(
            told.Ask(
                1,
                PROCESS,
                "create_actor",
                {"actor_id": b"a" * 16, "job": "", "class_name": "A", "name": "bob", "amounts": {"CPU": CPU}},
            )
        )
        assert (await agent.next(told.Reply)).is_ok
        spec = told.GroupSpec("g", [Bundle(amounts={"CPU": CPU})], "PACK", "pg", is_detached=True)  # type: ignore[arg-type]
        agent.say(told.Ask(2, PROCESS, "create_group", {"spec": spec}))
        assert (await agent.next(told.Reply)).is_ok
        session = await client.open_session("autoscaler")
        await client.cordon("i-1", "o1", 600)
        await client.request_resources("me", [Bundle(amounts={"CPU": CPU})] * 3, ttl_s=500)
        # What a kill -9 leaves behind is exactly what was committed: copy it while the head runs on.
        for path in tmp_path.iterdir():
            (tmp_path / f"copy-{path.name}").write_bytes(path.read_bytes())
        await agent.connection.close()

    async with running(SqliteJournal(tmp_path / "copy-head.db"), credential=credential) as run, run.client() as client:
        work = run.head.work()
        assert work.is_settling and work.nodes[0].is_missing
        agent = await run.agent()
        agent.join()
        await agent.next(told.Joined)
        assert (await agent.next(told.Cordon)).order == "o1"
        agent.say(told.Ask(1, PROCESS, "get_actor", {"name": "bob", "namespace": ""}))
        assert (await agent.next(told.Reply)).value["actor_id"] == b"a" * 16
        agent.say(told.Ask(2, PROCESS, "get_group", {"name": "pg"}))
        assert (await agent.next(told.Reply)).is_ok
        assert [len(one.bundles) for one in run.head.work().standing] == [3]
        client.session = session
        await client.undrain("i-1", "o1")
        assert not run.head.work().nodes[0].is_cordoned
        await agent.connection.close()


async def test_a_reply_waits_for_its_commit() -> None:
    class Slow(MemoryJournal):
        """Commits when told to."""

        def __init__(self) -> None:
            self.committed = 0
            self.written = 0

        def start(self, on_committed: Any, on_full: Any) -> None:
            self.on_committed, self.on_full = on_committed, on_full

        def write(self, rows: Any) -> int:
            self.written += len(rows)
            return self.written

        def commit(self) -> None:
            self.committed = self.written
            self.on_committed()

    journal = Slow()
    async with running(journal, control=None) as run:
        journal.commit()
        asked = asyncio.create_task(run.head.ask("put_key", {"space": "s", "key": "k", "value": b"v"}))
        later = asyncio.create_task(run.head.ask("get_key", {"space": "s", "key": "k"}))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not asked.done() and not later.done()

        journal.on_full(True)
        assert await later == b"v", "a full disk stops promises only"
        assert not asked.done()
        journal.commit()
        journal.on_full(False)

        assert await asked is True


# ------------------------------------------------------------------------------------------------ control


async def test_the_autoscalers_whole_protocol() -> None:
    async with running() as run, run.client() as client:
        head: Head = client
        agent = await run.agent()
        assert await head.open_session("autoscaler") == 1
        watch = head.watch()
        first = await anext(watch)
        assert (first.epoch, first.nodes) == (1, ())

        agent.join(labels={"zone": "a"})
        await agent.next(told.Joined)
        while not (work := await anext(watch)).nodes:
            pass
        [node] = work.nodes
        assert (node.instance_id, node.total, node.labels["zone"]) == ("i-1", {"CPU": 4 * CPU}, "a")
        agent.say(
            told.Report(
                1,
                is_full=True,
                free={"CPU": -CPU},
                idle_serial=7,
                busy=[told.BusyFor("lease", 2, "f")],
                backlog=[
                    told.Backlog(
                        PROCESS,
                        "c",
                        "j",
                        5,
                        0,
                        {"CPU": CPU},
                        running_slots=2,
                        duration_s=1.5,
                        selector=Selector(hard={"zone": "a"}, fallback=({"zone": "b"},), node_ids=(NODE,)),
                        spread=True,
                    )
                ],
            )
        )
        while not (work := await anext(watch)).classes:
            pass
        assert work.nodes == run.head.work().nodes
        [demand] = work.classes
        [truth] = run.head.work().classes
        assert demand.waiting_s <= truth.waiting_s < 10
        for name in demand.__struct_fields__:
            if name != "waiting_s":
                assert getattr(demand, name) == getattr(truth, name), name

        await head.cordon("i-1", "o1", 60)
        await head.drain("i-1", "o1", 7, None)
        assert await agent.next(told.Drain) == told.Drain("o1", 7, None)
        agent.say(told.DrainAnswer("o1", "emptied"))
        while (work := await anext(watch)).nodes[0].drain_answer != "emptied":
            pass
        await head.undrain("i-1", "o1")
        assert await head.bar("i-1") is False and await head.bar("i-9") is True
        assert await head.join_secret("tok") == await head.join_secret("tok")
        report = Report(
            session=1,
            ran_ago_s=0.0,
            ran_wall_s=1.0,
            rounds=3,
            instances=(
                InstanceReport(
                    instance_id="i-1", node_type="t", offer="o", state="ready", since_s=1.0, price_usd_per_h=None
                ),
            ),
        )
        await head.publish(report)
        assert (await client.report())["instances"][0]["state"] == "ready"
        await head.forget("i-1")
        while (work := await anext(watch)).nodes:
            pass

        async with run.client() as newer:
            assert await newer.open_session("other") == 2
            with pytest.raises(StaleSession):
                await head.cordon("i-1", "o", 1)
        await watch.aclose()  # type: ignore[attr-defined]
        await agent.connection.close()


async def test_the_clis_calls() -> None:
    async with running() as run, run.client() as client:
        agent = await run.agent()
        agent.join()
        await agent.next(told.Joined)

        identity = await client.identify()
        assert (identity["cluster_uid"], identity["cluster_name"]) == (UID, "test")
        assert identity["frames_addresses"] == [str(run.head.addresses[0])]
        await client.request_resources("me", [Bundle(amounts={"CPU": CPU})] * 2, ttl_s=50)
        [standing] = await client.standing()
        assert standing["bundles"] == [{"amounts": {"CPU": 1.0}, "count": 2}]
        await client.notice("i-1", "spot", 30.0)
        status = await client.status()
        assert status["nodes"]["active"][0]["notice"] == "spot" and status["cluster"] == "test"
        rows = await client.state("nodes", filters=[("state", "=", "alive")], detail=True)
        assert rows["total"] == 1 and rows["rows"][0]["node_id"] == NODE
        assert (await client.state("nodes", filters=[("state", "!=", "alive")]))["rows"] == []
        with pytest.raises(UserError, match="expected one of"):
            await client.state("nonsense")
        assert await client.config_generation("h1", "first") == (1, "h1")
        assert (await client.ask("start_job", {"entrypoint": "x", "process": "ff01"}))["job"] == "01000000"
        with pytest.raises(UserError, match="no such request"):
            await client.ask("down", {})
        kinds = [kind async for _, kind, _ in client.events()]
        assert "node_joined" in kinds and "job_started" in kinds

        await client.down("done")
        assert (await agent.next(told.End)).why == "done"
        await agent.connection.close()
        async with asyncio.timeout(10):
            await run.head.is_down.wait()


async def test_logs_are_found_by_what_people_know_and_followed() -> None:
    files = {"worker-00000001-77.out": b"one\ntwo\nthree\n", "worker-00000001-77.err": b"oops\n", "zygote.err": b""}

    async with running() as run, run.client() as client:
        agent = await run.agent()
        agent.join()
        await agent.next(told.Joined)

        async def serve() -> None:
            while True:
                query = await agent.next(told.Query)
                name = query.args.get("name")
                if query.what == "workers":
                    value: Any = {"rows": [{"pid": 77, "job_id": "j"}, {"pid": 5, "job_id": "k"}], "total": 2}
                elif name is None:
                    value = {"rows": [{"name": one, "node_id": NODE} for one in files], "total": len(files)}
                else:
                    start = query.args.get("offset", max(0, len(files[name]) - query.args.get("tail_bytes", 0)))
                    data = files[name][start : start + 8]
                    value = {"data": data, "offset": start + len(data), "size": len(files[name])}
                agent.say(told.Answered(query.rid, True, value))

        async def read(**wanted: Any) -> bytes:
            return b"".join([data async for _, _, data, _ in client.logs(**wanted)])

        served = asyncio.create_task(serve())
        assert await read(pid=77) == b"one\ntwo\nthree\n"
        assert await read(pid=77, is_error_stream=True) == b"oops\n"
        assert await read(worker_id=NODE + "00000001") == b"one\ntwo\nthree\n"
        assert await read(job="j", tail=-1) == b"one\ntwo\nthree\n"
        assert await read(file="*.err") == b"oops\n"
        assert await read(pid=78) == b""
        with pytest.raises(UserError, match="no process of an actor"):
            await read(actor_id="00")
        rows = (await client.state("logs"))["rows"]
        assert sorted(row["file"] for row in rows) == sorted(files)

        follow = client.logs(pid=77, follow=True, tail=-1)
        got = b""
        async with asyncio.timeout(10):
            async for _, _, data, _ in follow:
                got += data
                if got.endswith(b"three\n"):
                    files["worker-00000001-77.out"] += b"four\n"
                if got.endswith(b"four\n"):
                    break
        assert got == b"one\ntwo\nthree\nfour\n"
        await follow.aclose()  # type: ignore[attr-defined]
        served.cancel()
        await agent.connection.close()


async def test_a_slow_follower_gets_the_newest_state_and_costs_no_memory() -> None:
    async with running() as run, run.client() as client:
        agent = await run.agent()
        agent.join()
        await agent.next(told.Joined)
        watch = client.watch()
        await anext(watch)

        for number in range(3000):
            agent.say(told.Report(number, free={"CPU": number}))
        agent.say(told.Ask(1, PROCESS, "nodes", {}))
        await agent.next(told.Reply)
        seen = []
        while not seen or seen[-1] != 2999:
            seen.append((await anext(watch)).nodes[0].free.get("CPU"))

        assert len(seen) < 500, "states in between are left out"
        await watch.aclose()
        await agent.connection.close()


async def test_watch_ends_quietly_when_the_head_goes() -> None:
    async with running() as run:
        client = run.client()
        watch = client.watch()
        await anext(watch)
        await run.head.stop()

        rest = [work async for work in watch]

        assert len(rest) <= 1
        with pytest.raises(NoCluster, match="no head answers"):
            await client.status()
        await client.close()


# --------------------------------------------------------------------------------------------------- gate


class Counted:
    """Counts what the server's deserializers are given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.parsed = 0
        for name in ("StatusRequest", "WatchRequest", "DownRequest"):
            real = getattr(control_pb2, name).FromString

            def parse(data: bytes, real: Any = real) -> Any:
                self.parsed += 1
                return real(data)

            monkeypatch.setattr(control_pb2, name, _Stub(getattr(control_pb2, name), parse))


class _Stub:
    def __init__(self, real: Any, parse: Any) -> None:
        self._real, self.FromString = real, parse
        self.SerializeToString = real.SerializeToString

    def __call__(self, *args: Any, **more: Any) -> Any:
        return self._real(*args, **more)


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", "Bearer admin:00"),),
        (("authorization", "Bearer nonsense"),),
        (("authorization", "Bearer :"),),
        (("authorization", "Basic YWRtaW46"),),
    ],
)
async def test_nothing_of_a_peer_without_a_token_is_parsed(
    metadata: tuple[tuple[str, str], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    async with running() as run:
        channel = grpc.aio.insecure_channel(str(run.head.control_address).removeprefix("tcp:"))
        garbage = b"\xff" * 1000
        for name in ("Status", "Down", "Watch", "NoSuchCall"):
            path = f"/shoal.control.v1.Control/{name}"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(path)(garbage, metadata=metadata, timeout=10)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in channel.unary_stream(path)(garbage, metadata=metadata, timeout=10):
                    pass
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert counted.parsed == 0

        # The same garbage from a peer with a token does reach the parser, so the count means something.
        token = (("authorization", f"Bearer {run.credential.bearer()}"),)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/shoal.control.v1.Control/Status")(garbage, metadata=token, timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNKNOWN
        assert counted.parsed == 1
        await channel.close(None)


async def test_health_and_reflection_stand_behind_the_token() -> None:
    async with running() as run:
        channel = grpc.aio.insecure_channel(str(run.head.control_address).removeprefix("tcp:"))
        health = health_pb2_grpc.HealthStub(channel)
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        token = (("authorization", f"Bearer {run.credential.bearer(Role.READ)}"),)

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health.Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await reflection.ServerReflectionInfo(iter([question]), timeout=10).read()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED

        answer = await health.Check(health_pb2.HealthCheckRequest(), metadata=token, timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        listed = await reflection.ServerReflectionInfo(iter([question]), metadata=token, timeout=10).read()
        names = {one.name for one in listed.list_services_response.service}
        assert {"shoal.control.v1.Control", "grpc.health.v1.Health"} <= names
        await channel.close(None)


async def test_every_call_asks_for_its_role() -> None:
    needs = {
        Role.READ: {"Identify", "Watch", "Report", "Standing", "State", "Status", "Logs", "Events", "ConfigGeneration"},
        Role.DRIVER: {"RequestResources", "Ask"},
        Role.NODE: {"Notice"},
        Role.ADMIN: {
            "OpenSession",
            "JoinSecret",
            "Cordon",
            "Drain",
            "Undrain",
            "Bar",
            "Forget",
            "Publish",
            "Down",
        },
    }
    service = control_pb2.DESCRIPTOR.services_by_name["Control"]
    assert set().union(*needs.values()) == {method.name for method in service.methods}

    async with running() as run:
        channel = grpc.aio.insecure_channel(str(run.head.control_address).removeprefix("tcp:"))
        stub = control_pb2_grpc.ControlStub(channel)  # type: ignore[no-untyped-call]
        for role, names in needs.items():
            if role is Role.READ:
                continue
            weaker = (("authorization", f"Bearer {run.credential.bearer(Role(role - 1))}"),)
            for name in names:
                request = service.methods_by_name[name].input_type.name
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await getattr(stub, name)(getattr(control_pb2, request)(), metadata=weaker, timeout=10)
                assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED, name
        await channel.close(None)


async def test_a_reader_may_ask_for_the_config_and_not_set_it() -> None:
    async with running() as run, run.client(Role.READ) as client:
        assert await client.config_generation() == (0, "")
        with pytest.raises(UserError, match="needs role `admin`"):
            await client.config_generation("h")


async def test_another_clusters_token_is_a_line_for_people() -> None:
    async with running() as run, run.client(credential=Credential(UID, fresh_secret())) as client:
        with pytest.raises(UserError, match="expected a valid token"):
            await client.status()
        with pytest.raises(UserError, match="expected a valid token"):
            await anext(client.watch())


async def test_the_control_api_works_over_a_unix_socket_of_the_owner(own_places: Path) -> None:
    async with running(control=unix(own_places / "c.sock")) as run, run.client() as client:
        assert (await client.identify())["cluster_uid"] == UID
        assert (own_places / "c.sock").stat().st_mode & 0o777 == 0o600


async def test_two_heads_never_share_a_port() -> None:
    async with running() as run:
        assert run.head.control_address is not None
        with pytest.raises(UserError, match="cannot listen for control calls"):
            async with running(control=run.head.control_address):
                pass


async def test_the_control_api_starts_in_the_background() -> None:
    credential = Credential(UID, fresh_secret())
    head = HeadServer(CLOCK, credential, None, MemoryJournal(), MemoryLog(CLOCK), HeadSettings(cluster_uid=UID))
    await head.start(ANY, ANY, grpc_after_s=0.01)
    assert head.control_address is None
    async with asyncio.timeout(10):
        while head.control_address is None:
            await asyncio.sleep(0.005)
    async with ControlClient(head.control_address, credential) as client:
        assert (await client.identify())["epoch"] == 1
    await head.stop()


async def test_frames_and_control_work_over_tls(tmp_path: Path) -> None:
    x509 = pytest.importorskip("cryptography.x509")
    from shoal.runtime.head.control import server_credentials

    key, certificate = _self_signed(x509)
    (tmp_path / "key.pem").write_bytes(key)
    (tmp_path / "certificate.pem").write_bytes(certificate)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    trusting = ssl.create_default_context(cadata=certificate.decode())
    credential = Credential(UID, fresh_secret())
    head = HeadServer(CLOCK, credential, serving, MemoryJournal(), MemoryLog(CLOCK), HeadSettings(cluster_uid=UID))
    [address] = await head.start(ANY, ANY, grpc_credentials=server_credentials(certificate, key))
    control = head.control_address
    assert control is not None

    agent = Agent(await dial(address, trusting, credential.lowered(Role.NODE), type=told.TO_AGENT))
    agent.join()
    assert (await agent.next(told.Joined)).cluster_uid == UID
    async with ControlClient(control, credential, root_certificates=certificate) as client:
        assert (await client.identify())["cluster_uid"] == UID
    async with ControlClient(control, credential, limit_s=5) as plain:
        with pytest.raises(NoCluster):
            await plain.identify()
    await agent.connection.close()
    await head.stop()


def _self_signed(x509: Any) -> tuple[bytes, bytes]:
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "head")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private, certificate.public_bytes(pem)


async def test_news_for_many_are_the_same_for_each() -> None:
    async with running(control=None) as run:
        agents = [await run.agent() for _ in range(4)]
        for number, agent in enumerate(agents):
            agent.join(node_id=f"{number + 1:02x}" * 14, instance_id=f"i-{number}")
            await agent.next(told.Joined)
        agents[0].say(told.Leaving("bye"))

        for agent in agents[1:]:
            while (tell := await agent.next(told.Tell)).what != "node-died":
                pass
            assert tell.value == {"node_id": "01" * 14, "why": "bye"}
        for agent in agents:
            await agent.connection.close()
