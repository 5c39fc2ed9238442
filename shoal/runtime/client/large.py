"""Large values: written into the node's shared memory, read where they lie, made again if they are lost.

The owner's ref says where a value is (`STORED`). Its end frees the value; that is the whole protocol, because readers
are pinned by their own agent. What a task made can be made again: its message and arguments are kept as lineage, up to
`LINEAGE_BYTES_MAX`, the oldest going first.
"""

from __future__ import annotations

import collections
import functools
import pickle
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from shoal.runtime.client import codec
from shoal.runtime.client.copies import Copies
from shoal.runtime.client.core import monotonic, named_error
from shoal.runtime.client.reactor import Link
from shoal.runtime.client.refs import Hold, ObjectRef, context, escape, groups, settle
from shoal.runtime.client.remote_store import RemoteReader, RemoteWriter, remote_store
from shoal.runtime.client.results import own_refs
from shoal.runtime.client.sources import Made, Source
from shoal.runtime.store.reader import Reader
from shoal.runtime.store.segments import Located, Segment
from shoal.runtime.store.values import Dumped, load_view
from shoal.runtime.store.writer import Writer
from shoal.wire import tasks as wire

if TYPE_CHECKING:
    from shoal.runtime.client.session import Session

LINEAGE_BYTES_MAX = 256 * 2**20
DEAD_NODES_MAX = 1000
"""How many dead nodes are remembered, the newest."""
LOOK_S = 0.5
"""How long a `get` that may not wait does wait for its agent's word on where a value lies."""
SWEPT_BYTES_A_REF = 1000
"""A put of so many bytes for each ref of the table looks first for those that ended: that costs less than its copy."""
REBUILDS_MAX = 3
"""How often one `get` has a lost value made again."""


class StoredHold:
    """Rides on an owner's ref of a stored value; its end frees the value."""

    __slots__ = ("freed", "node_id", "object_id")

    def __init__(self, object_id: bytes, node_id: str, freed: collections.deque[tuple[bytes, str]]) -> None:
        self.object_id, self.node_id, self.freed = object_id, node_id, freed

    def __del__(self) -> None:
        if self.object_id:
            self.freed.append((self.object_id, self.node_id))


class Stored:
    """Puts, reads and frees stored values for one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._core = session.core
        self._writer: Writer | RemoteWriter | None = None
        self._reader: Reader | RemoteReader | None = None
        self.lineage: collections.OrderedDict[int, int] = collections.OrderedDict()
        """Numbers of our refs whose making is remembered, with the bytes that takes; those of sources are negative."""
        self._freed: collections.deque[tuple[bytes, str]] = collections.deque()
        self._sources_gone: collections.deque[int] = collections.deque()
        # Of this session alone: numbers begin anew in each, and what an earlier one left may end at any time.
        self._sources: weakref.WeakValueDictionary[int, Source] = weakref.WeakValueDictionary()
        self._lineage_bytes = 0
        self._evicted: set[int] = set()
        core = session.core
        core.on_attached.append(self._attached)
        core.on_tick.append(self._tick)
        core.handlers[wire.SEGMENT] = self._on_segment
        core.handlers[wire.SPARE] = self._on_spare
        core.handlers[wire.LOST] = self._on_lost
        core.handlers[wire.RELOCATED] = self._on_relocated
        self._dead_nodes: dict[str, None] = {}
        self._numbers: dict[bytes, int] = {}
        """Stored objects of ours, by object id: the number of their ref."""
        self.copies = Copies(core, self._numbers.__contains__, self._name_copies)
        session.owner.held = self.copies.held

    def _attached(self) -> None:
        store = self._core.info.get("store")
        if store and self._core.relay is not None:
            self._writer, self._reader = remote_store(self._core, self._lease)
        elif store:
            self._writer = Writer(Path(store), self._lease, self._shed)
            self._reader = Reader(Path(store))

    @property
    def is_there(self) -> bool:
        """Whether this node has an object store."""
        return self._writer is not None

    def close(self) -> None:
        """Let go of what is mapped."""
        if self._reader is not None:
            self._reader.close()
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    # ---------------------------------------------------------------------------------------------- writing

    def put(self, dumped: Dumped, refs: list[ObjectRef[Any]]) -> ObjectRef[Any]:
        """Return a ref of ours to a large pickled value.

        Raises:
            ObjectStoreFullError: there is no room, even after waiting and spilling.
        """
        core = self._core
        n = next(core.ids)
        ref: ObjectRef[Any] = ObjectRef(n, core.process)
        format, data = self._write(dumped, refs, core.process, list(core.address[1]), n, ref.binary())
        if format == wire.STORED:
            place = data[0]
            ref._hold = StoredHold(place[0], place[1], self._freed)
            with core.lock:
                self._numbers[place[0]] = n
                escape(ref)
        ref._pins = refs or None
        ref._format, ref._data, ref._ready = format, data, True
        return ref

    def put_result(
        self, dumped: Dumped, refs: list[ObjectRef[Any]], caller: bytes, n: int, *, object_id: bytes | None = None
    ) -> tuple[int, Any]:
        """Write the result of a caller's task and return it as it travels; the caller owns it."""
        addresses = []
        link = self._core.peers.get(caller)
        if link is not None:
            addresses = link.addresses
        return self._write(dumped, refs, caller, addresses, n, object_id or caller + n.to_bytes(6, "big"))

    def _write(
        self, dumped: Dumped, refs: list[ObjectRef[Any]], owner: bytes, addresses: list[str], n: int, object_id: bytes
    ) -> tuple[int, Any]:
        nested = groups(refs) if refs else None
        writer = self._writer
        if writer is None:
            format, data, _ = codec.packed(dumped, refs)
            return format, data
        sealed = writer.put(dumped)
        agent = self._core.agent
        with self._core.lock:
            agent.out.append((wire.STORE, 0, "seal", [object_id, sealed.segment_id, sealed.size, owner]))
        agent.flush()
        info = self._core.info
        place = [object_id, info["node_id"], info.get("transfer", []), owner, addresses, n]
        return wire.STORED, [place, sealed.size, nested]

    def _lease(self, size: int) -> Segment:
        # First, so that the pages of a value dropped just now, still warm, serve this one.
        with self._core.lock:
            if len(self._core.escaped.refs) * SWEPT_BYTES_A_REF <= size:
                self._core.escaped.sweep()
        self._let_go()
        return msgspec.convert(self._core.ask("lease", size, kind=wire.STORE), Segment)  # type: ignore[arg-type]

    def _shed(self) -> None:
        """The file system is full: give back what we keep for later, and have all that is free given up."""
        assert self._writer is not None
        self._let_go()
        self._send("give_back", [segment.id for segment in self._writer.spare()])
        self._core.ask("shed", None, kind=wire.STORE)  # type: ignore[arg-type]

    def _on_segment(self, link: Link, message: list[Any]) -> None:
        segment = msgspec.convert(message[1], Segment)
        if self._writer is None or not self._writer.offer(segment):
            link.out.append((wire.STORE, 0, "give_back", [segment.id]))
            self._core.touch(link)

    def _on_spare(self, link: Link, message: list[Any]) -> None:
        spare = self._writer.spare() if self._writer is not None else []
        if spare:
            link.out.append((wire.STORE, 0, "give_back", [segment.id for segment in spare]))
            self._core.touch(link)

    # ---------------------------------------------------------------------------------------------- reading

    def read(self, ref: ObjectRef[Any], end_s: float | None = None) -> Any:
        """Return a ready, stored ref's value. A lost one is made again if it can be. `end_s`: on the monotonic clock.

        Raises:
            ObjectLostError, ObjectReconstructionFailedError, OwnerDiedError: it cannot.
            GetTimeoutError: it is not here by `end_s`, whether it is under way or made again.
        """
        from shoal.exceptions import LossReason, ObjectLostError

        for attempt in range(REBUILDS_MAX + 1):
            with self._core.lock:
                is_ready, format, data, hold = ref._ready, ref._format, ref._data, ref._hold
            if not is_ready:  # it is being made again, for another reader
                self._session.values._await([ref], None if end_s is None else max(0.0, end_s - monotonic()))
                format, data, hold = ref._format, ref._data, ref._hold
            if format != wire.STORED:
                return self._session.values.value_of(ref, end_s)
            try:
                return self.read_place(data, hold, end_s)
            except (ObjectLostError, FileNotFoundError) as error:
                if isinstance(error, ObjectLostError) and error.reason is LossReason.UNTRUSTED:
                    error.object_ref_hex = ref.hex()
                    raise  # a person must mend that; the value is there
                with self._core.lock:
                    is_elsewhere = ref._ready and ref._data is not data  # it has moved, or been made again, meanwhile
                    is_lost = attempt == REBUILDS_MAX or not (is_elsewhere or self.rebuild(ref))
                if is_lost:
                    raise told_why(self.loss_of(ref), error) from error
            self._session.values._await([ref], None if end_s is None else max(0.0, end_s - monotonic()))
        raise AssertionError("unreachable")

    def read_place(self, data: list[Any], holds: Any = None, end_s: float | None = None) -> Any:
        """Return the value at a place, without copying its buffers."""
        place, size, nested = data
        object_id = place[0]
        reader = self._reader
        if reader is None:
            from shoal.exceptions import ObjectLostError

            raise ObjectLostError(object_id.hex(), None, "this node has no object store")
        view = reader.held_view(object_id)
        if view is None:
            got = self._pinned(pin_arguments(place, size), end_s)
            view = reader.view(object_id, msgspec.convert(got, Located))
        return loaded(view, nested, holds)

    def _pinned(self, args: list[Any], end_s: float | None) -> Any:
        """Have the agent fetch and pin an object; return where it lies.

        Raises:
            ObjectLostError, ...: as the agent says.
            GetTimeoutError: it has not answered by `end_s`; if it does later, the pin is given back.
        """
        core = self._core
        if end_s is None:
            return core.ask("pin", args, kind=wire.STORE)  # type: ignore[arg-type]
        box: list[tuple[bool, Any]] = []
        is_given_up = False

        def answered(is_ok: bool, value: Any) -> None:
            if not is_given_up:
                box.append((is_ok, value))
            elif is_ok:
                self._send("unpin", [args[0]])

        core.request(wire.STORE, "pin", args, answered)
        left_s = max(LOOK_S, end_s - monotonic())
        core.wait(lambda: bool(box), left_s)
        with core.lock:
            is_given_up = not box
        if is_given_up:
            from shoal.exceptions import GetTimeoutError

            raise GetTimeoutError(f"get: the value's {args[3]} bytes were not here in time")
        is_ok, value = box[0]
        if not is_ok:
            raise named_error(value)
        return value

    def read_argument(self, data: list[Any], holds: dict[bytes, Hold]) -> Any:
        """Return a stored argument's value; if it is lost, its owner makes it again."""
        from shoal.exceptions import LossReason, ObjectLostError

        try:
            return self.read_place(data, holds)
        except (ObjectLostError, FileNotFoundError) as error:
            if isinstance(error, ObjectLostError) and error.reason is LossReason.UNTRUSTED:
                raise
            place = data[0]
            ref: ObjectRef[Any] = ObjectRef(place[5], place[3], False, 0, None, None, (place[3], tuple(place[4])))
            self._tell_lost(ref, place)
            return self._session.values.get(ref)

    # ---------------------------------------------------------------------------------------------- losing

    def remember(self, ref: ObjectRef[Any], message: Any, pins: Any) -> None:
        """Keep what made a stored value, so that it can be made again. With the core's lock held."""
        ref._message, ref._pins = message, (ref._pins or []) + (pins or []) or None
        self._note_lineage(ref._n, message)

    def source_of(self, ref: ObjectRef[Any], message: Any, pins: Any) -> Source:
        """Return what makes the several values of a task again, if it may. With the core's lock held."""
        if ref._tries == 0:
            return Source(ref._n, None, None, ref._recipe, 0, self._sources_gone)
        source = Source(ref._n, message, pins, ref._recipe, ref._tries, self._sources_gone)
        self._sources[-ref._n] = source
        self._note_lineage(-ref._n, message)
        return source

    def _note_lineage(self, key: int, message: Any) -> None:
        self._lineage_bytes -= self.lineage.pop(key, 0)
        self.lineage[key] = size = 200 + (codec.size_of(message[3], message[4]) if message[3] != wire.PARTS else 1024)
        self._lineage_bytes += size
        while self._lineage_bytes > LINEAGE_BYTES_MAX:
            n, oldest = self.lineage.popitem(last=False)
            self._lineage_bytes -= oldest
            if n > 0:
                self._evicted.add(n)
                self._forget_making(self._core.escaped.refs.get(n))
            elif (source := self._sources.get(n)) is not None:
                source.message = source.pins = None

    def _forget_making(self, ref: ObjectRef[Any] | None) -> None:
        """Let go of what would make a value again; what the value itself holds stays."""
        if ref is not None and ref._ready and ref._format == wire.STORED:
            ref._message, ref._pins = None, own_refs(self._core, codec.nested_of(ref._format, ref._data))

    def rebuild(self, ref: ObjectRef[Any]) -> bool:
        """Have a lost value brought back, by a copy or its task; False if nobody can. Until then it is not ready."""
        core = self._core
        with core.lock:
            if ref._owner != core.process:
                place = ref._data[0]
                if not ref._ready:
                    return True
                ref._ready, ref._recipe = False, None
                self._tell_lost(ref, place)
                return True
            if not ref._ready:
                return True  # somebody else has begun already
            if self._keep_copy(ref):
                return True
            if type(ref._recipe) is Made:
                return self._session.replays.rebuild(ref)
            if ref._message is None or ref._recipe is None or ref._n not in self.lineage or ref._tries == 0:
                return False
            if ref._tries > 0:
                ref._tries -= 1
            hold, ref._hold = ref._hold, None
            stored = hold.get(b"stored") if isinstance(hold, dict) else hold
            if isinstance(stored, StoredHold):
                stored.object_id = b""  # the new value bears the same id: freeing the lost one could hit it
            ref._ready, ref._data = False, None
            self._session.owner.resubmit(ref)
            return True

    def node_died(self, node_id: str) -> None:
        """Nothing comes from that node any more. With the core's lock held."""
        self._dead_nodes[node_id] = None
        while len(self._dead_nodes) > DEAD_NODES_MAX:
            del self._dead_nodes[next(iter(self._dead_nodes))]
        self.copies.node_died(node_id)
        for object_id in self.copies.values():
            ref = self._ready_ref(object_id)
            if ref is not None and ref._data[0][1] == node_id:
                self._keep_copy(ref)

    def _ready_ref(self, object_id: bytes) -> ObjectRef[Any] | None:
        """Return our ref of a stored value if it is ready."""
        number = self._numbers.get(object_id)
        ref = self._core.escaped.refs.get(number) if number is not None else None
        return ref if ref is not None and ref._ready and ref._format == wire.STORED else None

    def _name_copies(self, object_id: bytes) -> None:
        """Let whoever learns from now on where a value lies learn of its copies, too. With the core's lock held."""
        ref = self._ready_ref(object_id)
        if ref is not None:
            place, size, nested = ref._data
            ref._data = [[*place[:6], self.copies.further(object_id, place[1])], size, nested]

    def _keep_copy(self, ref: ObjectRef[Any]) -> bool:
        """Have a fetched copy of a lost value be the primary one; False if none is known. With the core's lock held.

        Until one is, the ref is not ready; if none is left, it is as it was.
        """
        place, size, nested = ref._data
        object_id, lost = place[0], place[1]
        further = self.copies.further(object_id, lost)
        if not further:
            return False
        node_id, address = further[-1]
        ref._ready = False

        def answered(is_ok: bool, value: Any) -> None:
            with self._core.lock:
                if ref._ready:
                    return
                ref._ready, moved = True, ref._data[0][1] != lost  # it is settled below, or asked for anew
                self.copies.drop(object_id, node_id)
                if is_ok and not moved:
                    hold = ref._hold.get(b"stored") if isinstance(ref._hold, dict) else ref._hold
                    if isinstance(hold, StoredHold):
                        hold.node_id = node_id
                    kept = [object_id, node_id, [address], *place[3:6], self.copies.further(object_id, node_id)]
                    settle(ref, wire.STORED, [kept, size, nested])
                elif moved or not self._keep_copy(ref):
                    settle(ref, wire.STORED, ref._data)

        self._core.request(wire.STORE, "keep", [object_id, size, node_id], answered)
        return True

    def lost_items(self, source: Source) -> dict[int, ObjectRef[Any]]:
        """Return what dead nodes took along of a task's several values, by index. With the core's lock held."""
        stored = [ref for ref in self._core.escaped.refs.values() if ref._ready and ref._format == wire.STORED]
        return {
            ref._recipe.index: ref
            for ref in stored
            if type(ref._recipe) is Made and ref._recipe.source is source and ref._data[0][1] in self._dead_nodes
        }

    def make_again(self, refs: Sequence[ObjectRef[Any]]) -> None:
        """Have what a dead node took along made again all at once, before it is read one by one.

        Only what the agent has no copy of, either. Whatever this misses is made again when it is read.
        """
        dead, core = self._dead_nodes, self._core
        lost = [
            ref
            for ref in refs
            if ref._ready and ref._format == wire.STORED and ref._owner == core.process and ref._data[0][1] in dead
        ]
        if len(lost) > 1:
            for ref in lost:
                place, size, _ = ref._data
                call = functools.partial(self._looked_for, ref, place)
                core.request(wire.STORE, "pin", pin_arguments(place, size), call)

    def _looked_for(self, ref: ObjectRef[Any], place: list[Any], is_ok: bool, value: Any) -> None:
        if is_ok:
            self._send("unpin", [place[0]])  # its reader pins it anew
        elif value[0] == "ObjectLostError" and ref._ready and ref._format == wire.STORED and ref._data[0] == place:
            self.rebuild(ref)

    def _tell_lost(self, ref: ObjectRef[Any], place: list[Any]) -> None:
        def connected(link: Link | None) -> None:
            if link is not None:
                link.out.append((wire.LOST, 0, ref._n, place[1]))
                self._core.touch(link)

        self._core.with_peer(ref._message, connected)

    def _on_lost(self, link: Link, message: list[Any]) -> None:
        """A borrower cannot read our object where we said it is."""
        ref = self._core.escaped.refs.get(message[2])
        if ref is None or not ref._ready or ref._format != wire.STORED or ref._data[0][1] != message[3]:
            return  # it has moved, or is being made again: the borrower asks once more
        if not self.rebuild(ref):
            ref._ready = False
            settle(ref, wire.ERROR, pickle.dumps(self.loss_of(ref)))

    def loss_of(self, ref: ObjectRef[Any]) -> Exception:
        from shoal import exceptions

        shown = ref.hex()
        if ref._n in self._evicted:
            return exceptions.ObjectReconstructionFailedError(shown, exceptions.LossReason.LINEAGE_EVICTED)
        recipe = ref._recipe
        if type(recipe) is Made and recipe.source.message is None and recipe.tries:
            return exceptions.ObjectReconstructionFailedError(shown, exceptions.LossReason.LINEAGE_EVICTED)
        if recipe is not None and ref._owner == self._core.process:
            reason = exceptions.LossReason.RETRIES_USED_UP if recipe.tries else exceptions.LossReason.RETRIES_OFF
            return exceptions.ObjectReconstructionFailedError(shown, reason)
        if ref._owner != self._core.process:
            return exceptions.ObjectLostError(shown, exceptions.LossReason.NODE_DIED)
        return exceptions.ObjectLostError(shown, exceptions.LossReason.PUT)

    def _on_relocated(self, link: Link, message: list[Any]) -> None:
        """A node that is being emptied has moved our object: from now on it is read, and freed, there."""
        _, n, object_id, node_id, sources = message
        number = self._numbers.get(object_id)
        ref = self._core.escaped.refs.get(number) if number is not None else None
        if ref is not None and ref._format == wire.STORED and ref._data is not None:  # else it is being made again
            place, size, nested = ref._data
            further = self.copies.further(object_id, node_id)
            ref._data = [[place[0], node_id, sources, *place[3:6], further], size, nested]
            hold = ref._hold.get(b"stored") if isinstance(ref._hold, dict) else ref._hold
            if isinstance(hold, StoredHold):
                hold.node_id = node_id
        link.out.append((wire.NOTED, n))
        self._core.touch(link)

    # ---------------------------------------------------------------------------------------------- letting go

    def hold_result(self, ref: ObjectRef[Any], data: list[Any]) -> None:
        """Take charge of a stored value that a task of ours has made. With the core's lock held."""
        place = data[0]
        holds = ref._hold
        hold: Any = StoredHold(place[0], place[1], self._freed)
        if isinstance(holds, dict):
            holds[b"stored"] = hold
        else:
            ref._hold = hold
        if place[0] in self._numbers:
            self.copies.made_again(place[0])
        self._numbers[place[0]] = ref._n
        escape(ref)

    def _tick(self, now: float) -> None:
        self._let_go()

    def _let_go(self) -> None:
        """Tell the agent what has ended here: values of ours, and looks at others'."""
        freed = self._freed
        if freed:
            found = []
            try:
                while True:
                    found.append(freed.popleft())
            except IndexError:
                pass
            for object_id, _ in found:
                self._evicted.discard(self._numbers.pop(object_id, 0))
                self.copies.forget(object_id)
            self._send("free", [[object_id, node_id] for object_id, node_id in found])
            if self.lineage:
                with self._core.lock:
                    self._forget_lineage(found)
        while self._sources_gone:
            with self._core.lock:
                self._lineage_bytes -= self.lineage.pop(-self._sources_gone.popleft(), 0)
        reader = self._reader
        if reader is not None:
            gone = reader.drain()
            if gone:
                self._send("unpin", gone)

    def _forget_lineage(self, found: list[tuple[bytes, str]]) -> None:
        for object_id, _ in found:
            size = self.lineage.pop(int.from_bytes(object_id[-6:], "big"), None)
            if size is not None:
                self._lineage_bytes -= size

    def _send(self, what: str, args: Any) -> None:
        agent = self._core.agent
        if agent is not None and not agent.is_closed:
            with self._core.lock:
                agent.out.append((wire.STORE, 0, what, args))
            agent.flush()

    def forked(self) -> None:
        """User code forked: the child may look at what is mapped now for as long as it lives."""
        if self._reader is not None and self._reader.pinned():
            self._send("forked", None)


def pin_arguments(place: list[Any], size: int) -> list[Any]:
    """Return what an agent must know to fetch and pin a value: id, node, its addresses, bytes, who has copies."""
    return [*place[:3], size, place[6] if len(place) > 6 else []]


def loaded(view: memoryview, nested: Any, holds: Any) -> Any:
    """Return the value in a view, with the refs that it holds."""
    if not nested:
        return load_view(view)
    outer, context.holds = context.holds, holds if isinstance(holds, dict) else {}
    try:
        return load_view(view)
    finally:
        context.holds = outer


def told_why(loss: Exception, cause: Exception) -> Exception:
    """Return the loss with what its agent said last: a node that is no longer there, or one that nobody may trust."""
    from shoal.exceptions import ObjectLostError

    if isinstance(loss, ObjectLostError) and isinstance(cause, ObjectLostError):
        said = cause.reason_message.removeprefix(f"object {loss.object_ref_hex}: ")
        loss.reason_message = f"{loss.reason_message} ({said})"
    return loss
