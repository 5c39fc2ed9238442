"""The agent's side of the object store: segments for writers, places for readers, pulls from other nodes, freeing.

The store itself decides nothing about time or sockets; here it gets both. Requests of clients are `STORE n, what,
arguments`; those with n = 0 want no answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from shoal.foundation.errors import ShoalError
from shoal.foundation.ids import NODE_ID_BYTES
from shoal.runtime.agent.clients import Client
from shoal.runtime.agent.parcels import PARCELS, Parcels
from shoal.runtime.decide.turns import in_turn
from shoal.runtime.store.errors import UNTRUSTED, ObjectAbsent, TransferError
from shoal.runtime.store.node import RESTORER, NodeStore
from shoal.runtime.store.objects import Pinned, Row
from shoal.runtime.store.places import NodeDirectory, shared_memory_root, sweep_stale
from shoal.runtime.store.segments import Located, Segment
from shoal.runtime.store.spill import DiskThread
from shoal.runtime.store.transfer.pull import PULLER, Puller
from shoal.runtime.store.transfer.serve import SENDER, Server
from shoal.transport import blocking
from shoal.transport.address import Address, parse
from shoal.transport.connection import Connection, dial
from shoal.wire import messages as told
from shoal.wire import tasks as wire
from shoal.wire.hello import Role

if TYPE_CHECKING:
    from shoal.runtime.agent.main import Agent

SEAL_LIMIT_S = 2.0
"""How long a reader waits for the writer's word that an object is sealed: both speak on connections of their own."""
PULL_PAUSE_S = 0.5
"""How long to wait before trying again to fetch from a node that is out of reach and not declared dead."""
ASK_AGAIN_S = 2.0
"""How long to wait for a node's word that it keeps a copy as the primary one before asking it again."""
OWNERS_ASKED_S = 10.0
"""How often the head is asked whether the owners of what lies here, where it is not theirs to tell, still live."""
SPILLED_TOLD_S = 10.0
"""How often at most the head is told that objects went to disk."""
COPIED_TOLD_BYTES_MIN = 2**18
"""Owners are told of copies from this size on; smaller ones decide neither where a task runs nor who sends most."""
STOCK_OFFER_BYTES_MAX = 16 * 2**20
"""Writers of values up to this size get the next segment at once."""


class Objects:
    """The store of this node and everybody who uses it."""

    peer_kinds = frozenset((wire.FREED, wire.MOVED, wire.MOVED_OWNED, wire.COPIED_OWNED))

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._directory: NodeDirectory | None = None
        self.store: NodeStore | None = None
        self._disk: DiskThread | None = None
        self._server: Server | None = None
        self._puller: Puller | None = None
        self._address = ""
        self._early: dict[bytes, list[tuple[float, Callable[[], None]]]] = {}
        self._freed_early: dict[bytes, float] = {}
        """Objects whose end was told before they were sealed, and until when that is remembered."""
        """Who wants an object that nobody has sealed yet, and until when."""
        self._links: dict[str, asyncio.Task[Connection | None]] = {}
        self._requests: dict[str, Callable[[Client, int, Any], None]] = {
            "lease": self._lease,
            "seal": self._seal,
            "give_back": self._give_back,
            "shed": self._shed,
            "pin": self._pin,
            "unpin": self._unpin,
            "free": self._free,
            "keep": self._keep,
            "forked": self._forked,
            "read": self._read,
            "written": self._written,
        }
        self._parcels: Parcels | None = None
        self._number = 0
        self._answers: dict[int, Callable[[bool, Any], None]] = {}
        """What to do when a peer (or a client) has answered."""
        self._moving: dict[bytes, None] = {}
        self._turn = 0
        self._readers: set[asyncio.Task[None]] = set()
        self._sources: dict[str, set[str]] = {}
        """Transfer addresses that objects were to be fetched from, by node, for when the node is declared dead."""
        self._paused: dict[str, list[Callable[[], None]]] = {}
        """Fetches from nodes out of reach, until their next attempt, by node."""
        self._owners_asked_s = 0.0
        self._spilled_bytes = 0
        self._spilled_told_s = -math.inf

    # ---------------------------------------------------------------------------------------------- life

    async def start(self) -> None:
        """Open the store. Nothing to do where the node has no object store memory."""
        agent, settings = self._agent, self._agent.settings
        if settings.store_bytes <= 0:
            return
        loop = asyncio.get_running_loop()
        root = settings.store_root or shared_memory_root()
        await loop.run_in_executor(None, sweep_stale, root)
        self._directory = NodeDirectory(root, settings.cluster_uid, settings.node_id)
        self._disk = DiskThread(lambda: _soon(loop, self._poll_disk))
        spill = settings.spill_dir or settings.session / "spill"
        spill.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._spill = spill
        self.store = NodeStore(
            self._directory.path,
            settings.store_bytes,
            agent.clock,
            disk=self._disk,
            spill_directory=spill,
            reclaim=self._ask_spare,
            spilled=self._note_spilled,
            copied=self._tell_copied,
            name_of=self._name_of,
        )
        self.store.warm()
        self._parcels = Parcels(self.store)

        def on_loop(call: Callable[[], None]) -> None:
            _soon(loop, call)

        self._puller = Puller(self.store, on_loop, self._dial_transfer)
        self._server = Server(self.store, on_loop, self._answer_transfer)
        hosts = [parse(text).host for text in settings.listen] or ["127.0.0.1"]
        host, port = self._server.start(hosts[0])
        self._address = str(Address("tcp", host, port))

    async def stop(self) -> None:
        """Close the store and remove its files."""
        loop = asyncio.get_running_loop()
        for task in (*self._links.values(), *self._readers):
            task.cancel()
        if self._puller is not None:
            await loop.run_in_executor(None, self._puller.close)
        if self._server is not None:
            self._server.close()
        if self._disk is not None:
            await loop.run_in_executor(None, self._disk.close)
        if self._directory is not None:
            self._directory.remove()
            import shutil

            shutil.rmtree(self._spill, ignore_errors=True)

    def tick(self) -> None:
        """Answer who waited too long."""
        if self.store is None:
            return
        self.store.tick()
        if self._parcels is not None:
            self._parcels.let_go()
        now = self._agent.clock.monotonic_s()
        self._tell_spilled(now)
        if now - self._owners_asked_s >= OWNERS_ASKED_S:
            self._owners_asked_s = now
            self._ask_about_owners()
        while self._freed_early and now >= next(iter(self._freed_early.values())):
            del self._freed_early[next(iter(self._freed_early))]
        for object_id, waiting in tuple(self._early.items()):
            late = [call for until, call in waiting if now >= until]
            self._early[object_id] = [(until, call) for until, call in waiting if now < until]
            if not self._early[object_id]:
                del self._early[object_id]
            for call in late:
                call()

    def _name_of(self, process: bytes) -> str:
        """Say who a process is to somebody whose store is full."""
        client = self._agent.client(process)
        return f"{client.kind} {client.pid}" if client is not None else _OWN_NAMES.get(process, "a process that ended")

    def _note_spilled(self, object_id: bytes, size: int) -> None:
        self._spilled_bytes += size

    def _tell_spilled(self, now_s: float) -> None:
        """Tell the head how much went to disk: at once at first, then in sums, for one burst spills many objects."""
        if self._spilled_bytes and now_s - self._spilled_told_s >= SPILLED_TOLD_S:
            event = {"node": self._agent.node_id, "bytes": self._spilled_bytes}
            self._agent.head.send(told.Happened([("spilled", event)]))
            self._spilled_bytes, self._spilled_told_s = 0, now_s

    def client_info(self) -> dict[str, Any]:
        """Return what clients must know to read and write."""
        if self.store is None or self._directory is None:
            return {}
        return {"store": str(self._directory.path), "transfer": [self._address] if self._address else []}

    def primaries(self) -> int:
        """Return how many primary copies are here."""
        return self.store.usage().primaries if self.store is not None else 0

    def used_bytes(self) -> int:
        """Return how many bytes are in use."""
        return self.store.pool.used_bytes if self.store is not None else 0

    def rows(self) -> list[dict[str, Any]]:
        """Return the objects for listings."""
        if self.store is None:
            return []
        tasks = {row["task_id"]: row for row in self._agent.state.ran.tasks()}
        return [self._row(row, tasks.get(row.object_id.hex())) for row in self.store.rows()]

    def _row(self, row: Row, task: dict[str, Any] | None) -> dict[str, Any]:
        owner = self._agent.client(row.owner)  # an owner that lives elsewhere is known by its id alone
        return {
            "object_id": row.object_id.hex(),
            "object_size": row.size,
            "task_status": _task_status(row, task),
            "attempt_number": None if task is None else task["attempt_number"] + 1,  # Ray counts them from 1 here
            "reference_type": "PINNED_IN_MEMORY" if row.pins else "LOCAL_REFERENCE",
            "call_site": (task["call_site"] if task is not None else "") or "disabled",
            "type": owner.kind.upper() if owner is not None else "",
            "pid": owner.pid if owner is not None else None,
            "ip": self._agent.host,
            "state": row.state.value,
            "is_primary": row.is_primary,
            "owner": row.owner.hex(),
            "pins": sum(row.pins.values()),
            "node_id": self._agent.node_id,
        }

    def process_died(self, process: bytes) -> None:
        """Take back what a dead process of this node leased or pinned, and drop what it owned."""
        if self.store is not None and self._parcels is not None:
            self._parcels.ended(process)
            self.store.ended(process)
            self._drop_owned(lambda owner: owner == process)

    def owner_died(self, process: bytes) -> None:
        """A process of another node is dead: what it owned is nobody's, for only its owner knows who needs a value."""
        self._drop_owned(lambda owner: owner == process)

    def node_died(self, node_id: str) -> None:
        """A node is dead by verdict: nothing comes from there, and its processes need nothing any more."""
        if self._puller is not None:
            self._puller.give_up(self._sources.pop(node_id, ()), "its node died")
        for again in self._paused.pop(node_id, ()):
            again()
        self._drop_owned(lambda owner: owner[:NODE_ID_BYTES].hex() == node_id)

    def _drop_owned(self, is_dead: Callable[[bytes], bool]) -> None:
        if self.store is None:
            return
        left = [row.object_id for row in self.store.rows() if is_dead(row.owner)]
        if left:
            self.store.free(left)
            self._agent.changed()

    def _ask_about_owners(self) -> None:
        """In a large cluster not every death of a worker is told to everybody: ask about owners that live elsewhere."""
        if self.store is None:
            return
        owners = sorted({row.owner for row in self.store.rows() if not self._agent.is_own(row.owner)})

        def answered(is_ok: bool, value: Any) -> None:
            if is_ok and isinstance(value, list):
                dead = {owner for owner, is_alive in zip(owners, value, strict=False) if is_alive is False}
                if dead:
                    self._drop_owned(dead.__contains__)

        if owners:
            self._agent.head.ask(b"", "is_alive", {"processes": owners}, answered)

    # ---------------------------------------------------------------------------------------------- requests

    def on_request(self, client: Client, message: list[Any]) -> None:
        """Carry out one request of a client."""
        _, n, what, args = message
        if self.store is None:
            self._fail(client, n, ShoalError("this node has no object store"))
            return
        handler = self._requests.get(what)
        if handler is not None:
            handler(client, n, args)

    def _lease(self, client: Client, n: int, args: Any) -> None:
        assert self.store is not None

        def answer(got: Segment | Any) -> None:
            if isinstance(got, Segment):
                if client.relay is not None and self._parcels is not None:
                    self._parcels.leased(client, got)
                client.tell(wire.ANSWER, n, True, msgspec.to_builtins(got))
            else:
                self._fail(client, n, got)

        self.store.lease(client.process, args, answer)

    def _seal(self, client: Client, n: int, args: Any) -> None:
        assert self.store is not None
        object_id, segment_id, size, owner = args
        self.store.seal(client.process, object_id, segment_id, size, owner=owner)
        self._agent.leases.idle_serial += 1
        self._agent.changed()
        for _, call in self._early.pop(object_id, ()):
            call()
        if self._freed_early.pop(object_id, None) is not None:
            self.store.free([object_id])
        if client.relay is not None:
            assert self._parcels is not None
            self._parcels.sealed(client.process, segment_id)  # and no stock: others would wait for what it keeps
        elif size <= STOCK_OFFER_BYTES_MAX:
            segment = self.store.lease_now(client.process, size)
            if segment is not None:
                client.tell(wire.SEGMENT, msgspec.to_builtins(segment))

    def _give_back(self, client: Client, n: int, args: Any) -> None:
        assert self.store is not None
        assert self._parcels is not None
        for segment_id in args:
            self._parcels.sealed(client.process, segment_id)
            self.store.give_back(client.process, segment_id)

    def _shed(self, client: Client, n: int, args: Any) -> None:
        assert self.store is not None
        self._ask_spare()
        self.store.shed()
        client.tell(wire.ANSWER, n, True, None)

    def _pin(self, client: Client, n: int, args: Any) -> None:
        """Tell a client where to read an object: here, or after fetching it from where it is."""
        assert self.store is not None
        store = self.store
        object_id, node_id, sources, _, further = args
        until = self._agent.clock.monotonic_s() + SEAL_LIMIT_S

        def answer(got: Pinned) -> None:
            if isinstance(got, Located):
                if client.relay is not None and self._parcels is not None:
                    self._parcels.pinned(client, object_id, got)
                client.tell(wire.ANSWER, n, True, msgspec.to_builtins(got))
            else:
                self._fail(client, n, got)

        def pinned_at_last() -> None:
            store.pin(client.process, object_id, answer)

        if store.has(object_id):
            store.pin(client.process, object_id, answer)
        elif node_id == self._agent.node_id:
            # The writer is done, or its ref would not be known; its word is on its way.
            self._early.setdefault(object_id, []).append((until, pinned_at_last))
        else:
            self._fetch(client, n, object_id, (node_id, sources), further, pinned_at_last)

    def _fetch(
        self,
        client: Client,
        n: int,
        object_id: bytes,
        primary: tuple[str, list[str]],
        further: list[tuple[str, str]],
        pin: Callable[[], None],
    ) -> None:
        """Bring an object here, from its primary copy's node and its addresses, or others that may have a copy.

        Out of reach is not lost: that is for the head to say (docs/ownership.md, "Death").
        """
        assert self._puller is not None
        agent, node_id = self._agent, primary[0]
        named = [(node_id, address) for address in primary[1]] + [(node, address) for node, address in further]
        alive = in_turn(agent.node_id, named, agent.is_node_dead)
        for node, address in alive:
            self._sources.setdefault(node, set()).add(address)

        def pulled(error: ShoalError | None) -> None:
            if error is None:
                pin()
            elif (
                isinstance(error, TransferError)
                and not error.is_verdict
                and not all(agent.is_node_dead(node) for node, _ in alive)
            ):
                self._paused.setdefault(node_id, []).append(again)
                asyncio.get_running_loop().call_later(PULL_PAUSE_S, self._go_on, node_id, again)
            else:
                self._fail(client, n, error)

        def again() -> None:
            if self._agent.client(client.process) is client:  # else nobody waits any more
                self._fetch(client, n, object_id, primary, further, pin)

        if not alive and agent.is_node_dead(node_id):
            self._fail(client, n, TransferError(f"object {object_id.hex()}: its node died", is_verdict=True))
        else:
            hints = [address for node, address in alive if node != node_id]
            self._puller.pull(object_id, [address for _, address in alive], pulled, hints=hints)

    def _go_on(self, node_id: str, again: Callable[[], None]) -> None:
        paused = self._paused.get(node_id, [])
        if again in paused:  # else the node's verdict was quicker
            paused.remove(again)
            if not paused:
                del self._paused[node_id]
            again()

    def _keep(self, client: Client, n: int, args: Any) -> None:
        """Have a node that fetched a client's object keep it as the primary copy, for that one is lost."""
        object_id, size, node_id = args

        def answer(is_kept: bool, _: Any) -> None:
            client.tell(wire.ANSWER, n, is_kept, None if is_kept else ["ObjectLostError", "the copy gave way"])

        if node_id == self._agent.node_id:
            self._take(object_id, [], lambda error: answer(error is None, None))
        else:
            self._ask_peer(
                node_id,
                lambda number: (wire.MOVED, number, object_id, size, []),
                answer,
                lambda: self._agent.client(client.process) is client,
            )

    def _take(self, object_id: bytes, sources: list[str], done: Callable[[ShoalError | None], None]) -> None:
        """Keep the primary copy of an object here, fetched from `sources` if it is not here yet."""
        assert self._puller is not None

        def pulled(error: ShoalError | None) -> None:
            if error is None:
                self._agent.leases.idle_serial += 1
                self._agent.changed()
            done(error)

        self._puller.pull(object_id, sources, pulled, is_primary=True)

    def _unpin(self, client: Client, n: int, args: Any) -> None:
        assert self.store is not None and self._parcels is not None
        if client.relay is not None:
            for object_id in args:
                self._parcels.unpinned(client.process, object_id)
        self.store.unpin(client.process, args)

    def _read(self, client: Client, n: int, args: Any) -> None:
        """Send a remote driver a part of an object."""
        assert self._parcels is not None
        self._parcels.read(client, n, *args)

    def _written(self, client: Client, n: int, args: Any) -> None:
        """Tell a remote driver whether what it sent for a segment is there."""
        assert self._parcels is not None
        self._parcels.written(client, n, args)

    def take(self, client: Client, segment_id: int, offset: int, data: memoryview) -> None:
        """Take bytes that a remote driver writes into its segment."""
        if self._parcels is not None:
            self._parcels.take(client.process, segment_id, offset, data)

    def _free(self, client: Client, n: int, args: Any) -> None:
        """An owner's objects are no longer referred to: here, and on whatever node holds them."""
        assert self.store is not None
        for object_id, node_id in args:
            if node_id == self._agent.node_id:
                self._note_freed(object_id)
        self.store.free([object_id for object_id, _ in args])
        away: dict[str, list[bytes]] = {}
        for object_id, node_id in args:
            if node_id != self._agent.node_id:
                away.setdefault(node_id, []).append(object_id)
        for node_id, object_ids in away.items():
            self._tell_peer(node_id, (wire.FREED, object_ids))
        self._agent.changed()

    def _note_freed(self, object_id: bytes) -> None:
        """Remember what was freed before its writer's word came, by another connection: it goes when that comes."""
        if self.store is not None and not self.store.has(object_id):
            self._freed_early[object_id] = self._agent.clock.monotonic_s() + SEAL_LIMIT_S

    def _forked(self, client: Client, n: int, args: Any) -> None:
        assert self.store is not None
        self.store.forked(client.process)

    def _fail(self, client: Client, n: int, error: Any) -> None:
        if n:
            name = "ObjectLostError" if isinstance(error, ObjectAbsent | TransferError) else type(error).__name__
            if isinstance(error, TransferError) and error.is_untrusted:
                name = UNTRUSTED
            client.tell(wire.ANSWER, n, False, [name, str(error)])

    def _ask_spare(self) -> None:
        for client in self._agent.clients():
            if client.kind != "owner":
                client.tell(wire.SPARE)

    # ---------------------------------------------------------------------------------------------- other agents

    async def on_peer(self, connection: Connection, message: list[Any]) -> None:
        """Take a word of another agent."""
        if self.store is None:
            return
        if message[0] == wire.FREED:
            for object_id in message[1]:
                self._note_freed(object_id)
            self.store.free(message[1])
            self._agent.changed()
        elif message[0] == wire.MOVED_OWNED:
            _, n, owner, object_id, node_id, address = message

            def noted(is_noted: bool, _: Any) -> None:
                connection.send((wire.ANSWER, n, is_noted, ""))

            self._relocate(owner, object_id, node_id, address, noted)
        elif message[0] == wire.COPIED_OWNED:
            client = self._agent.client(message[1])
            if client is not None:
                client.tell(wire.COPIED, *message[2:])
        elif message[0] == wire.MOVED:
            _, n, object_id, _, sources = message

            def pulled(error: ShoalError | None) -> None:
                connection.send((wire.ANSWER, n, error is None, self._address))

            self._take(object_id, sources, pulled)

    def _tell_peer(self, node_id: str, message: Any) -> None:
        task = self._links.get(node_id)
        if task is not None and task.done():
            known = None if task.cancelled() else task.result()
            if known is None or known.is_closed:
                task = None
        if task is None:
            task = self._links[node_id] = asyncio.get_running_loop().create_task(self._dial_peer(node_id))

        def send(done: asyncio.Task[Connection | None]) -> None:
            if not done.cancelled() and (connection := done.result()) is not None:
                connection.send(message)

        task.add_done_callback(send)

    def _ask_peer(
        self,
        node_id: str,
        question: Callable[[int], Any],
        call: Callable[[bool, Any], None],
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Ask a node until it answers; False is the answer once it is dead or nobody wants to know.

        Connections may be cut, and asking twice does no harm.
        """
        number = self._expect(call)
        message = question(number)

        def ask() -> None:
            if number not in self._answers:
                return
            if self._agent.is_node_dead(node_id) or not is_wanted():
                self._answers.pop(number)(False, None)
                return
            self._tell_peer(node_id, message)
            asyncio.get_running_loop().call_later(ASK_AGAIN_S, ask)

        ask()

    async def _dial_peer(self, node_id: str) -> Connection | None:
        settings = self._agent.settings
        for text in self._agent.peers.get(node_id, ()):
            with contextlib.suppress(OSError, TimeoutError, ShoalError):
                connection = await dial(parse(text), settings.ssl_context, settings.credential, role=Role.NODE)
                reader = asyncio.get_running_loop().create_task(self._read_answers(connection))
                self._readers.add(reader)
                reader.add_done_callback(self._readers.discard)
                return connection
        return None

    async def _read_answers(self, connection: Connection) -> None:
        with contextlib.suppress(ShoalError):
            while (messages := await connection.receive()) is not None:
                for message in messages:
                    if message[0] == wire.ANSWER and (call := self._answers.pop(message[1], None)) is not None:
                        call(bool(message[2]), message[3])

    # ---------------------------------------------------------------------------------------------- draining

    def drain(self) -> None:
        """Move primary copies to other nodes: the target pins, the owner is told and confirms, then ours may go."""
        if self.store is None:
            return
        targets = sorted(node_id for node_id in self._agent.peers if node_id != self._agent.node_id)
        for row in self.store.rows():
            if row.is_primary and row.object_id not in self._moving and targets:
                self._moving[row.object_id] = None
                self._turn += 1
                self._move(row.object_id, row.owner, row.size, targets[self._turn % len(targets)])

    def _move(self, object_id: bytes, owner: bytes, size: int, target: str) -> None:
        agent = self._agent

        def taken(is_taken: bool, address: Any) -> None:
            if not is_taken:
                self._moving.pop(object_id, None)  # the next tick of the drain tries another node
                return
            self._tell_owner(owner, object_id, target, address, confirmed)

        def confirmed(is_noted: bool, _: Any) -> None:
            self._moving.pop(object_id, None)
            if self.store is not None and is_noted:
                self.store.free([object_id])
                agent.changed()

        self._ask_peer(target, lambda number: (wire.MOVED, number, object_id, size, [self._address]), taken)

    def _tell_owner(
        self, owner: bytes, object_id: bytes, node_id: str, address: str, call: Callable[[bool, Any], None]
    ) -> None:
        """Tell an owner where its object is now."""
        home = owner[:NODE_ID_BYTES].hex()
        if home == self._agent.node_id:
            self._relocate(owner, object_id, node_id, address, call)
        else:
            self._ask_peer(home, lambda number: (wire.MOVED_OWNED, number, owner, object_id, node_id, address), call)

    def _tell_copied(self, object_id: bytes, owner: bytes, size: int, is_there: bool) -> None:
        """Tell an owner that a copy of its object is here, or no longer.

        It weighs where to run what reads the object, and names the copy to those who fetch it.
        """
        if size < COPIED_TOLD_BYTES_MIN:
            return
        home, own = owner[:NODE_ID_BYTES].hex(), self._agent.node_id
        if home != own:
            self._tell_peer(home, (wire.COPIED_OWNED, owner, object_id, own, is_there, self._address))
        elif (client := self._agent.client(owner)) is not None:
            client.tell(wire.COPIED, object_id, own, is_there, self._address)

    def _relocate(
        self, owner: bytes, object_id: bytes, node_id: str, address: str, call: Callable[[bool, Any], None]
    ) -> None:
        client = self._agent.client(owner)
        if client is None:
            call(True, None)  # a dead owner's object is nobody's: the old copy may go
        else:
            client.tell(wire.RELOCATED, self._expect(call), object_id, node_id, [address])

    def _expect(self, call: Callable[[bool, Any], None]) -> int:
        self._number += 1
        self._answers[self._number] = call
        return self._number

    def on_noted(self, client: Client, message: list[Any]) -> None:
        """An owner has confirmed where its object is."""
        call = self._answers.pop(message[1], None)
        if call is not None:
            call(True, None)

    # ---------------------------------------------------------------------------------------------- threads

    def _dial_transfer(self, address: str) -> socket.socket:
        settings = self._agent.settings
        return blocking.dial(parse(address), settings.ssl_context, settings.credential, role=Role.NODE)

    def _answer_transfer(self, accepted: socket.socket) -> tuple[socket.socket, Role]:
        settings = self._agent.settings
        return blocking.answer(accepted, settings.server_ssl_context, settings.credential)

    def _poll_disk(self) -> None:
        if self._disk is not None:
            self._disk.poll()


_OWN_NAMES = {
    PULLER: "values on their way here",
    RESTORER: "values on their way from disk",
    SENDER: "other nodes",
    PARCELS: "drivers elsewhere",
}


def _task_status(row: Row, task: dict[str, Any] | None) -> str:
    """Return the state of the task that made an object: `-` for a `put`, empty for a copy, which does not tell."""
    if row.writer == row.owner:
        return "-"
    if row.writer == PULLER:
        return ""
    return "FINISHED" if task is None else str(task["state"])


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nothing matters any more
        loop.call_soon_threadsafe(call)
