"""Who keeps which object alive: distributed reference counts by lending, as `react(state, event) -> commands`.

This is the model. The runtime inlines its hot path (`shoal/runtime/client/refs.py`), and a property test holds the two
equal; a stateful test runs the model over simulated links with delay, reordering between links, cuts and deaths against
an oracle of reachability. docs/ownership.md explains it with pictures.

The idea: a process *needs* an own object, or a *hold* on a foreign one, as long as a handle, a value that contains it,
a message under way, or a borrower needs it. Four rules make that safe:

 1. Every message that carries references has a token. Whoever receives it holds all references of one owner under that
    token, and tells the owner once, when the last is gone (`Release`).
 2. Before a lender lets go, the owner knows of the borrower: own objects are noted as lent when the message leaves; for
    foreign ones the lender tells the owner (`Lend`) and keeps its own hold until that is acknowledged.
 3. Arguments are lent implicitly: the caller keeps them until it has processed the reply, and nobody is told. Only if
    some outlive the task does the worker say whose (`Kept`, ahead of the reply); then rule 2 holds.
 4. References to the receiver's own objects are taken up when they arrive, before any later `Release` of the sender.

A `Release` may overtake the third party's `Lend`; it is then remembered as early. Between two processes messages are
applied once and in order (`Outgoing`, `Incoming`), so a message that is resent after a cut changes nothing.

A process that is dead by verdict needs nothing any more. What it had lent on behalf of others, and not yet told the
owner, is lost with it: readers then get an `ObjectLostError`. What it had told the owner, and not yet sent, stays lent
until the borrower ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

Ref = tuple[str, int]
"""An object: its owner and the owner's number for it."""
Token = tuple[str, int]
"""A message that carries references: the requester and its number for the request."""
Support = tuple[str, Any]
"""What a reference here rests on: (`own`, number) or (owner, token)."""
Handle = tuple[Ref, Support]
OWN = "own"
EARLY_MAX = 100_000
"""How many early releases are remembered."""


# ------------------------------------------------------------------------------------------------------------- events


class Event(msgspec.Struct, frozen=True):
    """Something that happened to this process."""


class Made(Event, frozen=True):
    """An own object exists, with one handle; its value contains `inside`."""

    number: int
    inside: tuple[Handle, ...] = ()


class Copied(Event, frozen=True):
    """There is one more handle."""

    handle: Handle


class Dropped(Event, frozen=True):
    """There is one handle less."""

    handle: Handle


class Sending(Event, frozen=True):
    """A message with references leaves for `to`, under `token`. `is_arguments`: of a task; its reply will come."""

    to: str
    token: Token
    handles: tuple[Handle, ...]
    is_arguments: bool = False


class Received(Event, frozen=True):
    """A message with references has come. What it brings is kept as one value until `Discarded`."""

    token: Token
    refs: tuple[Ref, ...]
    is_arguments: bool = False


class Discarded(Event, frozen=True):
    """The value that came under `token` is gone (its handles may live on). For arguments: the task has returned."""

    token: Token
    caller: str = ""
    """Arguments only: whom to tell if some outlive the task."""


class Replied(Event, frozen=True):
    """The reply to our task has been taken in: its arguments may go."""

    token: Token


class KeptHeard(Event, frozen=True):
    """The worker says, ahead of its reply, that references of these owners among the arguments outlive the task."""

    worker: str
    token: Token
    owners: tuple[str, ...]


class LendHeard(Event, frozen=True):
    """Another process lends our objects to `borrower`."""

    sender: str
    serial: int
    borrower: str
    token: Token
    numbers: tuple[int, ...]


class LentHeard(Event, frozen=True):
    """The owner has noted our `Lend`."""

    serial: int


class ReleaseHeard(Event, frozen=True):
    """A borrower holds nothing more under `token`."""

    borrower: str
    token: Token


class Died(Event, frozen=True):
    """The verdict: a process is dead."""

    process: str


# ----------------------------------------------------------------------------------------------------------- commands


class Command(msgspec.Struct, frozen=True):
    """Something this process must do; a message to `to` unless it says otherwise."""


class Lend(Command, frozen=True):
    """Tell the owner `to` that `borrower` holds its objects."""

    to: str
    serial: int
    borrower: str
    token: Token
    numbers: tuple[int, ...]


class Lent(Command, frozen=True):
    """Acknowledge a `Lend`."""

    to: str
    serial: int


class Release(Command, frozen=True):
    """Tell the owner `to` that nothing is held under `token` any more."""

    to: str
    token: Token


class Kept(Command, frozen=True):
    """Tell the caller `to`, ahead of the reply, that arguments outlive the task: those of these owners, and no others,
    for nobody will ever release what is gone already."""

    to: str
    token: Token
    owners: tuple[str, ...]


class Free(Command, frozen=True):
    """Nobody needs the own object any more (a local command)."""

    number: int


# -------------------------------------------------------------------------------------------------------------- state


class References:
    """What one process knows. Every field is a count or a set of what somebody needs here."""

    def __init__(self, me: str) -> None:
        self.me = me
        self.needs: dict[Support, int] = {}
        """How many keepers (handles, values, pins, borrowers) each own object and each hold has."""
        self.inside: dict[int, list[Support]] = {}
        """What the value of an own object contains."""
        self.values: dict[tuple[Token, bool], list[Support]] = {}
        """What came in a message and is kept as a value; True: as arguments."""
        self.implicit: set[Support] = set()
        """Holds of arguments whose caller keeps them for us: nobody need be told when they go."""
        self.pins: dict[Token, tuple[str, list[Handle]]] = {}
        """Arguments of our tasks under way: worker and handles."""
        self.lending: dict[int, tuple[str, list[Support]]] = {}
        """Our `Lend`s that are not acknowledged: owner, and what we keep until then."""
        self.lent: dict[tuple[str, Token], list[int]] = {}
        """Own objects that (borrower, token) holds."""
        self.early: dict[tuple[str, Token], None] = {}
        """Releases that came before the `Lend` they belong to, oldest first; that may never come if its sender dies."""
        self.dead: set[str] = set()
        self.serial = 0

    def lives(self, number: int) -> bool:
        """Say whether an own object is there."""
        return (OWN, number) in self.needs


def react(state: References, event: Event) -> list[Command]:
    """Take an event in and return what to do about it, in order."""
    todo: list[Command] = []
    match event:
        case Made(number=number, inside=inside):
            _keep(state, (OWN, number))
            state.inside[number] = [support for _, support in inside]
            for _, support in inside:
                _keep(state, support)
        case Copied(handle=(_, support)):
            _keep(state, support)
        case Dropped(handle=(_, support)):
            _let_go(state, [support], todo)
        case Sending(to=to, token=token, handles=handles, is_arguments=True):
            state.pins[token] = (to, list(handles))
            for _, support in handles:
                _keep(state, support)
        case Sending(to=to, token=token, handles=handles):
            _lend(state, to, token, handles, todo)
        case Received(token=token, refs=refs, is_arguments=is_arguments):
            _take_in(state, token, refs, is_arguments)
        case Discarded(token=token, caller=caller):
            _discard(state, token, caller, todo)
        case Replied(token=token):
            if token in state.pins:
                _let_go(state, [support for _, support in state.pins.pop(token)[1]], todo)
        case KeptHeard(worker=worker, token=token, owners=owners):
            if token in state.pins:
                kept = [handle for handle in state.pins[token][1] if handle[0][0] in owners]
                _lend(state, worker, token, kept, todo)
        case LendHeard(sender=sender, serial=serial, borrower=borrower, token=token, numbers=numbers):
            _note(state, borrower, token, numbers)
            todo.append(Lent(sender, serial))
        case LentHeard(serial=serial):
            if serial in state.lending:
                _let_go(state, state.lending.pop(serial)[1], todo)
        case ReleaseHeard(borrower=borrower, token=token):
            if (borrower, token) in state.lent:
                _let_go(state, [(OWN, number) for number in state.lent.pop((borrower, token))], todo)
            elif borrower not in state.dead:
                state.early[borrower, token] = None
                if len(state.early) > EARLY_MAX:
                    del state.early[next(iter(state.early))]
        case Died(process=process):
            _bury(state, process, todo)
        case _:
            raise TypeError(f"no such event: {event!r}")
    return todo


def handle_of(state: References, token: Token, ref: Ref) -> Handle:
    """Return the handle of a reference that came under `token` (already kept by the value it came in)."""
    return ref, _support(state, token, ref)


# -------------------------------------------------------------------------------------------------------------- parts


def _keep(state: References, support: Support) -> None:
    state.needs[support] = state.needs.get(support, 0) + 1


def _let_go(state: References, supports: Iterable[Support], todo: list[Command]) -> None:
    """Take one keeper off each; what has none left goes, and with an own object what its value contains."""
    stack = list(supports)
    while stack:
        support = stack.pop()
        left = state.needs.get(support, 0) - 1
        if left > 0:
            state.needs[support] = left
            continue
        state.needs.pop(support, None)
        owner, which = support
        if owner == OWN:
            stack += state.inside.pop(which, ())
            todo.append(Free(which))
        elif support in state.implicit:
            state.implicit.discard(support)
        elif owner not in state.dead:
            todo.append(Release(owner, which))


def _lend(state: References, to: str, token: Token, handles: Sequence[Handle], todo: list[Command]) -> None:
    """Rule 2: make sure that the owners know of the borrower before we let go."""
    others: dict[str, list[Handle]] = {}
    _note(state, to, token, [ref[1] for ref, _ in handles if ref[0] == state.me])
    for ref, support in handles:
        if ref[0] not in (state.me, to) and ref[0] not in state.dead:
            others.setdefault(ref[0], []).append((ref, support))
    for owner, theirs in others.items():
        state.serial += 1
        supports = [support for _, support in theirs]
        for support in supports:
            _keep(state, support)
        state.lending[state.serial] = (owner, supports)
        todo.append(Lend(owner, state.serial, to, token, tuple(ref[1] for ref, _ in theirs)))


def _note(state: References, borrower: str, token: Token, numbers: Sequence[int]) -> None:
    """Note that a borrower holds own objects, unless it is dead or has released them already."""
    key = (borrower, token)
    if borrower in state.dead or not numbers:
        return
    if key in state.early:
        del state.early[key]
        return
    for number in numbers:
        if state.lives(number):
            _keep(state, (OWN, number))
            state.lent.setdefault(key, []).append(number)


def _take_in(state: References, token: Token, refs: Iterable[Ref], is_arguments: bool) -> None:
    """Rules 1 and 4: keep what came as one value."""
    kept = state.values.setdefault((token, is_arguments), [])
    for ref in refs:
        support = _support(state, token, ref)
        if support[0] == OWN and not state.lives(ref[1]):
            continue  # lost with a lender that died; reading it is an error
        if is_arguments and support[0] != OWN and support not in state.needs:
            state.implicit.add(support)
        _keep(state, support)
        kept.append(support)


def _discard(state: References, token: Token, caller: str, todo: list[Command]) -> None:
    is_arguments = bool(caller)
    supports = state.values.pop((token, is_arguments), [])
    _let_go(state, supports, todo)
    if is_arguments:
        outlived = [one for one in dict.fromkeys(supports) if one in state.implicit]
        state.implicit.difference_update(outlived)  # from now on their end is told
        if outlived and caller not in state.dead:
            todo.append(Kept(caller, token, tuple(owner for owner, _ in outlived)))


def _bury(state: References, process: str, todo: list[Command]) -> None:
    """A dead process needs nothing, will answer nothing, and what it owned is gone."""
    state.dead.add(process)
    for key in [key for key in state.lent if key[0] == process]:
        _let_go(state, [(OWN, number) for number in state.lent.pop(key)], todo)
    state.early = {key: None for key in state.early if key[0] != process}
    for token in [token for token, (worker, _) in state.pins.items() if worker == process]:
        _let_go(state, [support for _, support in state.pins.pop(token)[1]], todo)
    for serial in [serial for serial, (owner, _) in state.lending.items() if owner == process]:
        _let_go(state, state.lending.pop(serial)[1], todo)


def _support(state: References, token: Token, ref: Ref) -> Support:
    return (OWN, ref[1]) if ref[0] == state.me else (ref[0], token)


# ----------------------------------------------------------------------------------------- once and in order, over cuts


class Outgoing:
    """What one process says to another, numbered, and kept until acknowledged: after a cut the rest is said again."""

    def __init__(self) -> None:
        self.serial = 0
        self._unacknowledged: deque[tuple[int, Any]] = deque()

    def __len__(self) -> int:
        return len(self._unacknowledged)

    def send(self, message: Any) -> tuple[int, Any]:
        """Return the message with its number."""
        self.serial += 1
        numbered = (self.serial, message)
        self._unacknowledged.append(numbered)
        return numbered

    def acknowledged(self, serial: int) -> None:
        """Forget everything up to `serial`. Idempotent."""
        while self._unacknowledged and self._unacknowledged[0][0] <= serial:
            self._unacknowledged.popleft()

    def again(self) -> list[tuple[int, Any]]:
        """Return what the other side may not have, in order; to be sent first on a new connection."""
        return list(self._unacknowledged)


class Incoming:
    """What one process hears from another: each message once, in order."""

    def __init__(self) -> None:
        self.seen = 0

    def accept(self, serial: int) -> bool:
        """Say whether the message is new. A gap is our bug: connections keep order, and resends start at the first."""
        if serial <= self.seen:
            return False
        assert serial == self.seen + 1, f"message {serial} after {self.seen}"
        self.seen = serial
        return True
