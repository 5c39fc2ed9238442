"""The agent of one node: worker pool, leases, actors, bundles, drain; the head's hands and the drivers' landlord.

One event loop owns everything; every decision about work on this node is made in one turn of it, which is what makes
"idle" and "drained" true when they are said. Deaths are verdicts by pidfd, never by a closed socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from shoal.foundation.amounts import UNIT
from shoal.foundation.clock import Clock, SystemClock
from shoal.foundation.ids import NODE_ID_BYTES, fresh
from shoal.placement import selectors
from shoal.runtime.agent.actors import Actors
from shoal.runtime.agent.bundles import Bundles
from shoal.runtime.agent.clients import ClassRow, Client
from shoal.runtime.agent.drain import Drain
from shoal.runtime.agent.fence import Fence
from shoal.runtime.agent.head_link import HeadLink
from shoal.runtime.agent.leases import Leases
from shoal.runtime.agent.logs import Logs
from shoal.runtime.agent.objects import Objects
from shoal.runtime.agent.pool import Pool, Worker
from shoal.runtime.agent.relay import Relay
from shoal.runtime.agent.settings import AgentSettings
from shoal.runtime.agent.state import StateTables
from shoal.runtime.agent.stock import Grip, Stock
from shoal.transport.address import parse
from shoal.transport.connection import Connection, Listener
from shoal.transport.marks import Marks
from shoal.wire import messages as told
from shoal.wire import tasks as wire
from shoal.wire.hello import Role

SHOW_LIMIT_S = 0.25
"""How long a driver that leaves waits for the last prints of its workers."""
IDLE_WORKER_S = 5.0
"""How long idle workers beyond the warm ones are kept."""


class Agent:
    """One node. Make it inside a running loop, `await start()`, `await ended.wait()`, `await stop()`."""

    def __init__(self, clock: Clock, settings: AgentSettings) -> None:
        self.clock, self.settings = clock, settings
        self.node_id = settings.node_id
        # Ids of processes begin with the node's id, which no second agent ever has.
        node_bytes = bytes.fromhex(settings.node_id) if _is_hex(settings.node_id) else settings.node_id.encode()
        self._prefix = node_bytes.ljust(NODE_ID_BYTES, b"\0")[:NODE_ID_BYTES]
        self._processes = itertools.count(1)
        self._clients: dict[bytes, Client] = {}
        self.is_ending = False
        self.ended = asyncio.Event()
        self.end_why = ""
        self._idle_since = clock.monotonic_s()
        self.stock = Stock(settings.resources)
        settings.session.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.log_dir = settings.log_dir or settings.session / "logs"
        self.log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.marks = Marks(settings.session)
        cpus = settings.resources.get("CPU", 0) // UNIT
        warm = settings.warm_workers if settings.warm_workers is not None else max(1, min(8, cpus))
        self.pool = Pool(
            self._worker_info(),
            self._next_process,
            self._worker_died,
            self.end,
            warm=warm,
            log_dir=self.log_dir,
            preload=settings.preload,
            zygote=settings.zygote,
        )
        self.labels = selectors.labels_of_node(settings.node_id, settings.node_type, settings.labels)
        self.head = HeadLink(self)
        self.leases = Leases(
            clock,
            self.stock,
            self.pool,
            settings.node_id,
            self.labels,
            bind=self._bind,
            place=self._place,
            place_near=self._place_near,
            changed=self.changed,
        )
        self.actors = Actors(
            clock,
            self.stock,
            self.pool,
            bind=self._bind,
            send=self.head.send,
            changed=self.changed,
            short=self.leases.schedule_soon,
            fence=lambda: self.fence.look(),
        )
        self.bundles = Bundles(clock, self.stock, self.leases, self.actors, self.head.send, self.changed)
        self.drain = Drain(self)
        self.fence = Fence(self)
        self.logs = Logs(self.log_dir, _where(settings), self._clients_of_job, self.head.mention)
        self.state = StateTables(self)
        self.objects = Objects(self)
        self._listeners: list[Listener] = []
        self._addresses: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._fates: dict[bytes, list[Client]] = {}
        self._dead: dict[bytes, str] = {}
        self._dead_nodes: dict[str, None] = {}
        self.peers: dict[str, list[str]] = {}
        """Where the agents of the other live nodes listen, by node id."""
        self._jobs: dict[str, dict[str, Any]] = {}
        self._handlers: dict[int, Callable[[Client, list[Any]], None]] = {
            wire.CLASS: self._on_class,
            wire.NEED: lambda client, m: self.leases.need(client, *m[1:]),
            wire.RETURN: lambda client, m: self.leases.give_back(m[1], is_reusable=m[2]),
            wire.BLOCKED: self._on_blocked,
            wire.UNBLOCKED: self._on_unblocked,
            wire.ASK: self._on_ask,
            wire.FATE: self._on_fate,
            wire.REVOKE: lambda client, m: self.leases.revoke(client, m[1]),
            wire.ROWS: lambda client, m: self.state.add_rows(client, m[1], m[2], m[3]),
            wire.ACTOR_UP: lambda client, m: self.actors.up(client.worker) if client.worker else None,
            wire.ACTOR_FAILED: self._on_actor_failed,
            wire.STORE: lambda client, m: self.objects.on_request(client, m),
            wire.LOCAL: self._on_local,
            wire.OWED: lambda client, m: self.state.asked.answered(client, m),
            wire.OWNS: self._on_owns,
            wire.NOTED: lambda client, m: self.objects.on_noted(client, m),
            wire.USED_UP: self._on_used_up,
            wire.PRINTED: lambda client, m: self.logs.printed(client, *m[1:]),
            wire.SHOWN: lambda client, m: self.logs.on_shown(client, m[1]),
            wire.VIA: lambda client, m: client.relay.pass_on(m[1], m[2]) if client.relay else None,
            wire.VIA_DIAL: lambda client, m: client.relay.dial(m[1], m[2], m[3]) if client.relay else None,
            wire.VIA_CLOSE: lambda client, m: client.relay.closed_by_driver(m[1]) if client.relay else None,
        }

    # ---------------------------------------------------------------------------------------------- life

    async def start(self) -> None:
        """Listen, start the zygote, and begin joining the head."""
        settings = self.settings
        addresses = [parse(f"unix:{settings.session / 'agent.sock'}"), *(parse(text) for text in settings.listen)]
        for address in addresses:
            context = settings.server_ssl_context if address.scheme == "tcp" else None
            listener = Listener(context, settings.credential, self._serve)
            await listener.start(address)
            self._listeners.append(listener)
            self._addresses.append(str(listener.address))
        await self.pool.start()
        await self.objects.start()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self.head.run()), loop.create_task(self._tick())]

    async def stop(self, why: str = "the node ends") -> None:
        """End everything here and leave nothing behind."""
        if self.is_ending:
            return
        self.is_ending = True
        await self.head.leave(why)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in tuple(self._clients.values()):
            client.tell(wire.STOP, why)
            client.connection.flush()
        await self.pool.end()
        for listener in self._listeners:
            await listener.close()
        for client in self._clients.values():
            if client.pidfd >= 0:
                with contextlib.suppress(OSError, ValueError):
                    asyncio.get_running_loop().remove_reader(client.pidfd)
                    os.close(client.pidfd)
        await self.objects.stop()
        self.logs.close()
        self.marks.close()
        if self.settings.log_dir is None:
            shutil.rmtree(self.log_dir, ignore_errors=True)
        for path in self.settings.session.glob("*.sock"):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.settings.session.rmdir()

    def end(self, why: str) -> None:
        """Have `run_agent` stop."""
        self.end_why = self.end_why or why
        self.ended.set()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            self.fence.look()
            self.bundles.expire()
            self.objects.tick()
            self.logs.tick()
            self.state.tick()
            self.drain.tick()
            self.pool.end_idle(older_than_s=IDLE_WORKER_S)
            await self.state.watch_memory()

    # ---------------------------------------------------------------------------------------------- clients

    def clients(self) -> Iterable[Client]:
        """Return every attached process."""
        return self._clients.values()

    def client(self, process: bytes) -> Client | None:
        """Return an attached process."""
        return self._clients.get(process)

    def _clients_of_job(self, job: str) -> list[Client]:
        return [one for one in self._clients.values() if one.kind == "driver" and one.job == job]

    async def _serve(self, connection: Connection) -> None:
        client: Client | None = None
        try:
            while (messages := await connection.receive()) is not None:
                for message in messages:
                    kind = message[0]
                    if kind == wire.ATTACH and client is None:
                        client = self._attach(connection, message)
                        if client is None:
                            return
                        if client.relay is not None:
                            await connection.take_raw(functools.partial(self.objects.take, client))
                    elif client is not None:
                        handler = self._handlers.get(kind)
                        if handler is not None:
                            handler(client, message)
                    elif kind in self.objects.peer_kinds and connection.role >= Role.NODE:
                        await self.objects.on_peer(connection, message)
                    elif kind == wire.VIA_TO:
                        driver = self._clients.get(message[1])
                        if driver is not None and driver.relay is not None:
                            await driver.relay.serve(connection)
                        return
                self.leases.schedule_soon()
        finally:
            if client is not None:
                self._detached(client)

    def _attach(self, connection: Connection, message: list[Any]) -> Client | None:
        _, kind, process, pid, info = message
        if kind == "worker":
            client = Client(connection, kind, process, pid, info)
            worker = self.pool.by_process.get(process)
            if worker is None:
                connection.abort()
                return None
            client.worker = worker
            self._clients[process] = client
            client.tell(wire.WELCOME, process, self.client_info(""))
            self.pool.ready(process, client)
            return client
        if kind == "driver":
            process = self._next_process()
            client = Client(connection, kind, process, pid, info)
            client.job = fresh(4).hex()
            self._jobs[client.job] = {
                "sys_path": info.get("sys_path", []),
                "cwd": info.get("cwd", ""),
                "environment": info.get("environment", {}),
                "namespace": info.get("namespace", ""),
                "records_sites": info.get("records_sites", False),
                "process": process,
            }
            self._clients[process] = client
            if info.get("is_remote"):
                client.relay = Relay(self, client)
                connection.lose_after(self.settings.job_dead_s)
            else:
                self._watch_driver(client)
            client.tell(wire.WELCOME, process, self.client_info(client.job))
            self.head.send(
                told.JobStarted(client.job, process, info.get("entrypoint", ""), info.get("namespace", ""), pid)
            )
            return client
        client = Client(connection, "owner", process, pid, info)
        self._clients[b"owner:" + process] = client
        return client

    def _detached(self, client: Client) -> None:
        """The connection closed: no verdict, except for a driver or an owner that cannot come back under its id."""
        if client.kind == "owner":
            self._clients.pop(b"owner:" + client.process, None)
            self.leases.forget(client)
        elif client.kind == "driver" and client.pidfd < 0:
            self._driver_died(client, "its connection closed")
        elif client.kind == "driver":
            # It is alive but said goodbye (shutdown), or will be found dead in a moment.
            self._driver_died(client, "the driver disconnected")

    def _watch_driver(self, client: Client) -> None:
        if not client.connection.peer and hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                client.pidfd = os.pidfd_open(client.pid)
                loop = asyncio.get_running_loop()
                loop.add_reader(client.pidfd, lambda: self._driver_died(client, "the driver process died"))

    def _driver_died(self, client: Client, why: str) -> None:
        if client.pidfd >= 0:
            asyncio.get_running_loop().remove_reader(client.pidfd)
            os.close(client.pidfd)
            client.pidfd = -1
        if self._clients.pop(client.process, None) is None:
            return
        if client.relay is not None:
            client.relay.close()
        self.objects.process_died(client.process)
        self.state.asked.gone(client.process)
        self._verdict(client.process, why, is_driver=True)
        self.leases.forget(client)
        self.end_job(client.job, why)
        client.connection.abort()

    def end_job(self, job: str, why: str) -> None:
        """End what belongs to a job here: workers, actors that are not detached."""
        self.actors.end_job(job, why)
        self.pool.end_idle(job)
        for worker in tuple(self.pool.workers.values()):
            if worker.job == job and worker.actor is None:
                self.pool.kill(worker, why)

    def client_info(self, job: str) -> dict[str, Any]:
        """Return what an attached process must know of its node."""
        listen = [parse(text) for text in self._addresses if text.startswith("tcp:")]
        return {
            "node_id": self.node_id,
            "job": job,
            "cluster_uid": self.settings.cluster_uid,
            "session": str(self.settings.session),
            "agent": self._addresses,
            "listen_host": listen[0].host if listen else "",
            "tls": msgspec.structs.astuple(self.settings.tls) if self.settings.tls else None,
            "labels": self.labels,
            "total": self.stock.total,
            "log_dir": str(self.log_dir),
            "job_dead_s": self.settings.job_dead_s,
            **self.objects.client_info(),
        }

    # ---------------------------------------------------------------------------------------------- workers

    def _next_process(self) -> bytes:
        return self._prefix + next(self._processes).to_bytes(4, "big")

    def _worker_info(self) -> dict[str, Any]:
        driver = self.settings.credential.lowered(Role.DRIVER)
        secret = driver.secret(Role.DRIVER)
        assert secret is not None
        return {
            "uid": driver.uid.hex(),
            "secret": secret.hex(),
            "agent": f"unix:{self.settings.session / 'agent.sock'}",
            "session": str(self.settings.session),
            "listen_host": parse(self.settings.listen[0]).host if self.settings.listen else "",
            "tls": msgspec.structs.astuple(self.settings.tls) if self.settings.tls else None,
            "log_dir": str(self.log_dir),
            "log_bytes_max": self.settings.log_bytes_max,
            "log_files_max": self.settings.log_files_max,
        }

    def _bind(self, worker: Worker, job: str, environment: dict[str, Any], grip: Grip, group: Any) -> None:
        """Tell a worker whose it is. A worker that already belongs to the job only learns its GPUs."""
        worker.job = job
        client = worker.client
        assert client is not None
        client.job = job
        info = dict(self._jobs.get(job) or {})
        info.pop("process", None)
        info["job"] = job
        info["environment"] = environment or info.get("environment", {})
        info["gpus"] = [str(gpu) for gpu in sorted(grip.gpus)]
        info["amounts"] = grip.amounts
        info["group"] = group
        client.tell(wire.BIND, info)
        client.connection.flush()  # it must be there before anything that an owner sends to this worker

    def _worker_died(self, worker: Worker, why: str) -> None:
        """The verdict about a worker."""
        started = self.marks.read(worker.process)
        self.marks.forget(worker.process)
        self.logs.worker_died(worker)
        owner = self.leases.worker_died(worker, why, started)
        self.actors.worker_died(worker, why)
        client = self._clients.pop(worker.process, None)
        if client is not None:
            client.connection.abort()
            self.leases.forget(client)
        self.objects.process_died(worker.process)
        self.state.worker_died(worker, why)
        self._verdict(worker.process, why, started=started, told=owner)

    def _verdict(
        self, process: bytes, why: str, *, is_driver: bool = False, started: int = -1, told: Client | None = None
    ) -> None:
        self._dead[process] = why
        while len(self._dead) > 10_000:
            del self._dead[next(iter(self._dead))]
        for client in self._fates.pop(process, ()):
            if client is not told:
                client.tell(wire.DIED, process, why, started)
        self.head.send(_died(process, why, is_driver))

    # ---------------------------------------------------------------------------------------------- messages

    def _on_class(self, client: Client, message: list[Any]) -> None:
        _, key, spec = message
        row = client.classes[key] = ClassRow(client, key, spec)
        job = spec.get("job_info")
        if job and row.job not in self._jobs:
            self._jobs[row.job] = job

    def _on_blocked(self, client: Client, message: list[Any]) -> None:
        if client.worker is not None:
            self.leases.block(client.worker.grip)

    def _on_unblocked(self, client: Client, message: list[Any]) -> None:
        if client.worker is not None:
            self.leases.unblock(client.worker.grip)

    def _on_actor_failed(self, client: Client, message: list[Any]) -> None:
        _, _, _, cause, why, error = message
        if client.worker is not None:
            self.actors.failed(client.worker, cause, why, error)

    def _on_ask(self, client: Client, message: list[Any]) -> None:
        _, n, what, args = message
        self.head.ask(client.process, what, args, lambda is_ok, value: client.tell(wire.ANSWER, n, is_ok, value))

    def _on_owns(self, client: Client, message: list[Any]) -> None:
        if client.worker is not None:
            client.worker.is_owner = message[1]

    def _on_used_up(self, client: Client, message: list[Any]) -> None:
        if client.worker is not None:
            client.worker.is_reusable = False

    def _on_local(self, client: Client, message: list[Any]) -> None:
        _, n, what, args = message
        if what == "prints":
            self.show_prints(client.job, lambda: client.tell(wire.ANSWER, n, True, None))
            return
        try:
            value = self.state.answer(what, args)
        except (KeyError, ValueError, TypeError) as error:
            client.tell(wire.ANSWER, n, False, [type(error).__name__, str(error)])
        except OSError as error:  # such as a log file that is not there
            client.tell(wire.ANSWER, n, False, ["ValueError", str(error)])
        else:
            client.tell(wire.ANSWER, n, True, value)

    def show_prints(self, job: str, call: Callable[[], None]) -> None:
        """Have the job's workers here send what they printed so far, then `call`; after `SHOW_LIMIT_S` in any case."""
        workers = [one for one in self.pool.workers.values() if one.job == job]
        serial = self.logs.show(workers, call)
        asyncio.get_running_loop().call_later(SHOW_LIMIT_S, self.logs.give_up, serial)

    def _on_fate(self, client: Client, message: list[Any]) -> None:
        """Somebody lost its connection to a process and asks whether it is dead."""
        process = message[1]
        why = self._dead.get(process)
        if why is not None:
            client.tell(wire.DIED, process, why, -1)
        elif process[:NODE_ID_BYTES] == self._prefix:
            if process not in self._clients and process not in self.pool.by_process:
                client.tell(wire.DIED, process, "the process is not known here", -1)
            else:
                self._await_fate(client, process)
        elif process[:NODE_ID_BYTES].hex() in self._dead_nodes:
            client.tell(wire.DIED, process, "its node died", -1)
        else:
            self._await_fate(client, process)

            def answered(is_ok: bool, value: Any) -> None:
                if is_ok and value and value[0] is False:
                    self._tell_fates(process, "its node died")

            self.head.ask(b"", "is_alive", {"processes": [process]}, answered)

    def _await_fate(self, client: Client, process: bytes) -> None:
        waiting = self._fates.setdefault(process, [])
        if client not in waiting:
            waiting.append(client)
        asyncio.get_running_loop().call_later(1.0, self._still_alive, client, process)

    def _still_alive(self, client: Client, process: bytes) -> None:
        waiting = self._fates.get(process)
        if waiting and client in waiting:
            waiting.remove(client)
            if not waiting:
                del self._fates[process]
            client.tell(wire.ALIVE, process)

    @property
    def host(self) -> str:
        """The address under which this node is listed."""
        return next((parse(text).host for text in self._addresses if text.startswith("tcp:")), "127.0.0.1")

    def is_own(self, process: bytes) -> bool:
        """Say whether a process is, or was, one of this node's."""
        return process[:NODE_ID_BYTES] == self._prefix

    def is_node_dead(self, node_id: str) -> bool:
        """Say whether the head has declared a node dead."""
        return node_id in self._dead_nodes

    def _tell_fates(self, process: bytes, why: str) -> None:
        self._dead[process] = why
        for client in self._fates.pop(process, ()):
            client.tell(wire.DIED, process, why, -1)

    # ---------------------------------------------------------------------------------------------- head

    def join_message(self) -> told.Join:
        """Return the first message to the head, with everything that lives here."""
        settings = self.settings
        return told.Join(
            node_id=settings.node_id,
            instance_id=settings.instance_id,
            node_type=settings.node_type,
            token=settings.token,
            join_secret=settings.join_secret,
            total=self.stock.total,
            labels=settings.labels,
            address=self._addresses,
            epoch=settings.epoch,
            is_head=settings.is_head,
            hostname=socket.gethostname(),
            pid=os.getpid(),
            object_store_bytes=settings.store_bytes,
            actors=[
                told.ActorHere(actor.actor_id, actor.generation, actor.address)
                for actor in self.actors.by_id.values()
                if actor.is_up
            ],
            bundles=self.bundles.committed(),
            ended=self.actors.unconfirmed(self.head.contact.proven_s),
            processes=[*self.pool.by_process, *(one.process for one in self._clients.values() if one.kind == "driver")],
        )

    def on_joined(self, message: told.Joined) -> None:
        """We are in."""
        gone = self.peers.keys() - message.peers.keys() - {self.node_id}  # the head's news name us, too
        self.peers = dict(message.peers)
        self.state.joined()
        for node_id in gone:
            # The head's word about it was lost while we were out of touch; our processes may wait for that node.
            why = "it died while this node could not reach the head"
            self._pass_on(told.Tell(b"", "node-died", {"node_id": node_id, "why": why}))
        for client in self._clients.values():
            if client.kind == "driver":
                self.head.send(
                    told.JobStarted(
                        client.job,
                        client.process,
                        client.info.get("entrypoint", ""),
                        client.info.get("namespace", ""),
                        client.pid,
                    )
                )
        self.leases.schedule_soon()

    def on_refused(self, message: told.Refused) -> None:
        """We are not, for good."""
        self.end(f"the head refused this node: {message.why}")

    def on_head(self, message: Any) -> None:
        """Carry out one order or pass on one piece of news."""
        match message:
            case told.StartActor():
                if "job_info" in message.options:
                    self._jobs.setdefault(message.job, message.options["job_info"])
                self.actors.start(message)
            case told.KillActor():
                self.actors.kill(message.actor_id, message.generation, message.why)
            case told.Prepare():
                self.bundles.prepare(message)
            case told.Commit():
                self.bundles.commit(message)
            case told.ReturnBundles():
                self.bundles.give_back(message)
            case told.Cordon():
                self.drain.cordon(message)
            case told.Drain():
                self.drain.begin(message)
            case told.Revoke():
                self.end_job(message.job, message.why)
            case told.Tell():
                self._pass_on(message)
            case told.Granted():
                self._on_granted(message)
            case told.Query():
                self.state.on_query(message)
            case told.End():
                self.end(message.why)

    def _pass_on(self, message: told.Tell) -> None:
        if message.what == "process-died":
            value = message.value
            process, why = (value["process"], value.get("why", "")) if isinstance(value, dict) else (value[0], value[1])
            self._tell_fates(process, why)
            self.objects.owner_died(process)
        elif message.what == "nodes" and isinstance(message.value, dict):
            self.peers = {**self.peers, **message.value.get("peers", {})}
            for node_id in message.value.get("left", ()):
                self._node_left(node_id)
        if message.process:
            client = self._clients.get(message.process)
            if client is not None:
                client.tell(wire.TELL, message.what, message.value)
            return
        for client in self._clients.values():
            if client.kind != "owner":
                client.tell(wire.TELL, message.what, message.value)
        if message.what == "node-died" and isinstance(message.value, dict):
            # Only then what follows from it, such as that values there are lost: who hears that knows why.
            self._node_left(message.value["node_id"])

    def _node_left(self, node_id: str) -> None:
        """The head's verdict about a node is one about every process of it."""
        self.peers.pop(node_id, None)
        if node_id in self._dead_nodes:
            return  # told already
        self._dead_nodes[node_id] = None
        while len(self._dead_nodes) > 1000:
            del self._dead_nodes[next(iter(self._dead_nodes))]
        self.objects.node_died(node_id)
        for process in [one for one in self._fates if one[:NODE_ID_BYTES].hex() == node_id]:
            self._tell_fates(process, "its node died")

    def _place(self, row: ClassRow, count: int) -> None:
        """Ask the head for room on other nodes, for an owner of ours."""
        args = {
            "class_key": row.class_key,
            "amounts": row.amounts,
            "selector": msgspec.to_builtins(row.selector),
            "spread": row.spread,
            "count": count,
            "away_from": [],
        }

        def answered(is_ok: bool, value: Any) -> None:
            places = value if is_ok and value else []
            here = sum(count for node, _, count in places if node == self.node_id)
            away = [place for place in places if place[0] != self.node_id]
            self.leases.placed(row, sum(place[2] for place in away) + here, here)
            if away:
                row.client.tell(wire.PLACED, row.key, away)

        self.head.ask(row.client.process, "place", args, answered)

    def _place_near(self, row: ClassRow, count: int) -> bool:
        """Send an owner of ours to the node that holds its arguments; return whether that node is known."""
        addresses = self.peers.get(row.near)
        if addresses is None:
            return False
        row.client.tell(wire.PLACED, row.key, [[row.near, addresses, count]])
        return True

    def _on_granted(self, message: told.Granted) -> None:
        """The head has placed work of a class: give the places to those of the owner's functions that wait."""
        client = self._clients.get(message.process)
        if client is None:
            return
        left = {node: count for node, count in message.nodes if node != self.node_id}
        for row in client.classes.values():
            if row.class_key != message.class_key:
                continue
            found, wanted = [], row.wanted
            for node, count in left.items():
                taken = min(count, wanted)
                if taken > 0:
                    left[node] -= taken
                    wanted -= taken
                    found.append([node, self.peers.get(node, []), taken])
            if found:
                client.tell(wire.PLACED, row.key, found)
        self.leases.schedule_soon()

    # ---------------------------------------------------------------------------------------------- reports

    def changed(self) -> None:
        """Something that the head should know has changed."""
        self.head.report_soon()

    def busy(self) -> list[told.BusyFor]:
        """Return why the node is not idle."""
        reasons = []
        if self.leases.by_number:
            reasons.append(told.BusyFor("lease", len(self.leases.by_number)))
        if self.actors.by_id:
            reasons.append(told.BusyFor("actor", len(self.actors.by_id)))
        if self.stock.bundles:
            reasons.append(told.BusyFor("bundle", len(self.stock.bundles)))
        primaries = self.objects.primaries()
        if primaries:
            reasons.append(told.BusyFor("object", primaries))
        drivers = sum(1 for one in self._clients.values() if one.kind == "driver")
        if drivers:
            reasons.append(told.BusyFor("driver", drivers))
        return reasons

    def usage(self) -> dict[str, Any]:
        """Return the cut of usage for a report."""
        busy = self.busy()
        now = self.clock.monotonic_s()
        if busy:
            self._idle_since = now
        return {
            "free": self.stock.free,
            "total": self.stock.total,
            "idle_serial": self.leases.idle_serial,
            "idle_s": None if busy else round(now - self._idle_since, 3),
            "busy": busy,
            "store_used_bytes": self.objects.used_bytes(),
            "stats": self.state.stats(),
        }

    def note(self, text: str) -> None:
        """Write one line for people."""
        print(f"shoal agent {self.node_id[:8]}: {text}", file=sys.stderr, flush=True)  # noqa: T201


async def run_agent(settings: AgentSettings, clock: Clock | None = None) -> str:
    """Run a node until the head ends it, refuses it, or we are cancelled; return why it ended."""
    agent = Agent(clock or SystemClock(), settings)
    try:
        await agent.start()
        await agent.ended.wait()
        return agent.end_why
    finally:
        await agent.stop(agent.end_why or "the agent was stopped")


def _died(process: bytes, why: str, is_driver: bool) -> told.Died:
    return told.Died(process, why, is_driver)


def _where(settings: AgentSettings) -> str:
    """Return what tells people this node from others in a line's prefix: its address, else its name."""
    hosts = [parse(text).host for text in settings.listen if text.startswith("tcp:")]
    outside = [host for host in hosts if host and not host.startswith("127.") and host not in ("::1", "0.0.0.0", "::")]
    return f"ip={outside[0]}" if outside else f"node={settings.instance_id or settings.node_id[:12]}"


def _is_hex(text: str) -> bool:
    try:
        bytes.fromhex(text)
    except ValueError:
        return False
    return True
