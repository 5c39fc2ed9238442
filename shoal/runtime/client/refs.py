"""Object refs: the handle, the state of its value in this process, and what keeps foreign objects alive.

One struct is both what the user holds and what the runtime knows. It is not tracked by the garbage collector
(`gc=False`, worth a factor of 1.5 on task rates); it may be, because a ref only ever points to older refs.

Lifetime needs no counting of our own: whoever needs an object holds its `ObjectRef`, and the object ends when Python
frees it. That covers local variables, arguments in flight (`_pins` of the task's own ref), containers (`_pins` of the
container) and what is lent to other processes (`Lending`). Only refs that have left the process stand in a table,
because others may ask for them by number; `Escaped.sweep` drops those that nobody but the table holds.

Foreign refs point to a `Hold`: one object per message that brought refs of one owner. When the last of them is gone
the owner is told, once, to let go of what it pinned under that message's token.
"""

from __future__ import annotations

import collections
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from shoal.foundation.ids import OBJECT_ID_BYTES, IdText
from shoal.wire.tasks import STORED

if TYPE_CHECKING:
    import asyncio
    import concurrent.futures

T = TypeVar("T")
OwnerAddress = tuple[bytes, tuple[str, ...]]
"""(process id, address texts) of an owner."""
Token = tuple[bytes, int]
"""(requester's process id, its number): names the message that carried refs."""


class ObjectRef(msgspec.Struct, Generic[T], gc=False, eq=False):
    """A value that is there, or will be: pass it to tasks, `get` it, await it.

    Two refs of one object are equal and hash alike. Attributes with an underscore belong to the runtime.
    """

    _n: int
    _owner: bytes
    _ready: bool = False
    _format: int = 0
    _data: Any = None
    _waiter: Any = None
    """None, a callable, or a list of callables: called once with the core's lock held when the value is ready."""
    _message: Any = None
    """Own: what was sent, for a retry. Foreign: the owner's `OwnerAddress`."""
    _recipe: Any = None
    _tries: int = 0
    _pins: Any = None
    _hold: Any = None

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return type(other) is ObjectRef and self._n == other._n and self._owner == other._owner

    def __hash__(self) -> int:
        return hash((self._n, self._owner))

    def __repr__(self) -> str:
        return f"ObjectRef({self.hex()})"

    def __reduce__(self) -> tuple[Any, ...]:
        address = _lent_address(self)
        if self._ready and self._format == STORED and not self._data[2]:
            return _restored, (address, self._n, self._data)  # who gets it there need not ask us where it lies
        return _restored, (address, self._n)

    def __await__(self) -> Generator[Any, None, T]:
        from shoal.runtime.client.awaiting import as_asyncio

        return as_asyncio(self).__await__()

    def binary(self) -> bytes:
        """Return the object's id: 24 bytes."""
        return self._owner + self._n.to_bytes(6, "big")

    def hex(self) -> str:
        """Return the object's id as 48 hex digits."""
        return self.binary().hex()

    def task_id(self) -> IdText:
        """Return the id of the task that makes it."""
        return IdText(self.hex())

    def job_id(self) -> IdText:
        """Return the id of the job that this process works for."""
        from shoal.runtime.client.api import session

        return IdText(session().job)

    def size(self) -> int:
        """Return how many bytes the id has."""
        return OBJECT_ID_BYTES

    def is_nil(self) -> bool:
        """Return False: a ref always names an object."""
        return False

    def future(self) -> concurrent.futures.Future[T]:
        """Return a `concurrent.futures.Future` of the value."""
        from shoal.runtime.client.awaiting import as_future

        return as_future(self)

    def as_future(self) -> asyncio.Future[T]:
        """Return an asyncio future of the value, on the running loop."""
        from shoal.runtime.client.awaiting import as_asyncio

        return as_asyncio(self)

    def __class_getitem__(cls, item: Any) -> Any:
        return cls


def settle(ref: ObjectRef[Any], format: int, data: Any) -> None:
    """Make the ref ready and tell whoever waits. With the core's lock held."""
    ref._format, ref._data, ref._ready = format, data, True
    waiter = ref._waiter
    if waiter is not None:
        ref._waiter = None
        if type(waiter) is list:
            for one in waiter:
                one()
        else:
            waiter()


def when_ready(ref: ObjectRef[Any], call: Callable[[], None]) -> None:
    """Have `call` called once when the ref is ready; at once if it is. With the core's lock held."""
    if ref._ready:
        call()
    elif ref._waiter is None:
        ref._waiter = call
    elif type(ref._waiter) is list:
        ref._waiter.append(call)
    else:
        ref._waiter = [ref._waiter, call]


def no_longer(ref: ObjectRef[Any], call: Callable[[], None]) -> None:
    """Take a `when_ready` back. With the core's lock held."""
    waiter = ref._waiter
    if type(waiter) is list:
        if call in waiter:
            waiter.remove(call)
    elif waiter is call:
        ref._waiter = None


# ------------------------------------------------------------------------------------------------ foreign refs


class Hold:
    """Keeps the refs that one message brought from one owner; the last one's end is told to the owner.

    `is_implicit`: the arguments of a task that still runs here; its reply lets go of them, so nothing need be said.
    """

    __slots__ = ("address", "is_implicit", "token")

    def __init__(self, address: OwnerAddress, token: Token, *, is_implicit: bool = False) -> None:
        self.address, self.token, self.is_implicit = address, token, is_implicit

    def __del__(self) -> None:
        if not self.is_implicit:
            # May run anywhere, even with our locks held: only queue it.
            dropped((self.address, self.token))


drops: collections.deque[tuple[OwnerAddress, Token]] = collections.deque()
dropped = drops.append


class Lending:
    """What this process lends to others: own refs pinned under (borrower, token) until the borrower releases them.

    A release may come before the third party's word that it lent (`early`); such a lending never starts.
    """

    EARLY_MAX = 100_000

    def __init__(self) -> None:
        self.held: dict[tuple[bytes, Token], list[ObjectRef[Any]]] = {}
        self._early: dict[tuple[bytes, Token], None] = {}

    def lend(self, borrower: bytes, token: Token, refs: Iterable[ObjectRef[Any]]) -> None:
        """Pin `refs` until `borrower` releases `token`."""
        key = (borrower, token)
        if key in self._early:
            del self._early[key]
            return
        self.held.setdefault(key, []).extend(refs)

    def release(self, borrower: bytes, token: Token) -> None:
        """Unpin. Idempotent."""
        key = (borrower, token)
        if self.held.pop(key, None) is None:
            self._early[key] = None
            while len(self._early) > self.EARLY_MAX:
                del self._early[next(iter(self._early))]

    def forget(self, borrower: bytes) -> None:
        """Release everything of a borrower that died."""
        for key in [key for key in self.held if key[0] == borrower]:
            del self.held[key]


class Escaped:
    """Own refs that others may ask for by number."""

    def __init__(self) -> None:
        self.refs: dict[int, ObjectRef[Any]] = {}
        # How many references a ref has that only the table holds is the interpreter's business (iterating over a dict
        # keeps one in a hidden tuple), so it is measured in the very loop that asks.
        self._only_table = 0
        self.refs[0] = ObjectRef(0, b"", True)
        self._only_table = self._counts()[0][1]
        self.refs.clear()

    def sweep(self) -> int:
        """Drop refs that nobody but the table holds; return how many. With the core's lock held."""
        dead = [n for n, _ in self._counts()]
        for n in dead:
            del self.refs[n]
        return len(dead)

    def _counts(self) -> list[tuple[int, int]]:
        """Return (number, reference count) of the ready refs with no more than the table's references."""
        getrefcount, only_table = sys.getrefcount, self._only_table or sys.maxsize
        found = []
        for n, ref in self.refs.items():
            if ref._ready:
                count = getrefcount(ref)
                if count <= only_table:
                    found.append((n, count))
        return found


# ------------------------------------------------------------------------------------------------ pickling


class _Context(threading.local):
    """What the (un)pickling that runs on this thread collects."""

    leaving: list[ObjectRef[Any]] | None = None
    """Refs met while pickling; None outside the runtime."""
    holds: dict[bytes, Hold] | None = None
    """Holds by owner while unpickling; None outside the runtime."""


context = _Context()


class Home:
    """What (un)pickling must know of this process; set by the core."""

    process: bytes = b""
    node_id = ""
    address: OwnerAddress = (b"", ())
    escaped: Escaped | None = None
    lock: Any = threading.RLock()
    has_foreign = False
    """Whether any foreign ref was ever here: only those can be equal without being one object."""
    for_ever: list[ObjectRef[Any]] = []
    """Refs pickled outside the runtime (`cloudpickle.dumps(ref)`): nobody can know when they are no longer needed."""


def _lent_address(ref: ObjectRef[Any]) -> OwnerAddress:
    """Note that the ref leaves this process, and return its owner's address."""
    leaving = context.leaving
    if leaving is not None:
        leaving.append(ref)
    else:
        Home.for_ever.append(ref)
    if ref._owner == Home.process:
        escape(ref)
        return Home.address
    address: OwnerAddress = ref._message
    return address


def escape(ref: ObjectRef[Any]) -> None:
    """Let others ask for an own ref by its number."""
    escaped = Home.escaped
    if escaped is not None:
        escaped.refs[ref._n] = ref


def _restored(address: OwnerAddress, n: int, stored: Any = None) -> ObjectRef[Any]:
    """Return the ref that a pickle names; `stored` says where its value lay then.

    Only a place on this node is believed: its agent says at once if the value is no longer there, and then its owner is
    asked, while a node that has gone could be waited for in vain.
    """
    owner = address[0]
    holds = context.holds
    if stored is not None and stored[0][1] == Home.node_id and owner != Home.process:
        hold = holds.get(owner) if holds is not None else None
        return ObjectRef(n, owner, True, STORED, stored, None, address, None, 0, None, hold)
    if holds is not None and (hold := holds.get(owner)) is not None:
        return ObjectRef(n, owner, False, 0, None, None, address, None, 0, None, hold)
    if owner == Home.process and Home.escaped is not None:
        with Home.lock:
            ref = Home.escaped.refs.get(n)
        return ref if ref is not None else lost_ref(n, owner)
    return ObjectRef(n, owner, False, 0, None, None, address)


def lost_ref(n: int, owner: bytes) -> ObjectRef[Any]:
    """Return a ref that is ready with the error that its object is gone."""
    import pickle

    from shoal.exceptions import ReferenceCountingAssertionError
    from shoal.wire.tasks import ERROR

    ref: ObjectRef[Any] = ObjectRef(n, owner)
    error = ReferenceCountingAssertionError(ref.hex())
    ref._format, ref._data, ref._ready = ERROR, pickle.dumps(error), True
    return ref


def groups(refs: Sequence[ObjectRef[Any]]) -> list[list[Any]]:
    """Return refs by owner, as `NESTED` writes them: `[[process, addresses, [n, ...]], ...]`."""
    found: dict[bytes, list[Any]] = {}
    for ref in refs:
        group = found.get(ref._owner)
        if group is None:
            address = Home.address if ref._owner == Home.process else ref._message
            group = found[ref._owner] = [ref._owner, list(address[1]), []]
        group[2].append(ref._n)
    return list(found.values())
