"""`get`, `put` and `wait`: from refs to values and back."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Sequence
from typing import Any

from shoal.runtime.client import codec
from shoal.runtime.client.core import Core, monotonic
from shoal.runtime.client.reactor import Link
from shoal.runtime.client.refs import ObjectRef, settle, when_ready
from shoal.wire import tasks as wire


class Values:
    """Turns refs into values for one core."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.before_block = _nothing
        """Called when a thread is about to wait for a value; returns what to call afterwards (or None)."""
        core.handlers[wire.ASK_VALUE] = self._on_ask
        core.handlers[wire.LEND] = self._on_lend
        core.on_link_closed.append(self._link_closed)
        self.settle_result: Any = None
        self.doubtful: dict[bytes, list[ObjectRef[Any]]] = {}
        """Foreign refs whose owner cannot be reached, by owner, until its fate is known."""
        self.has_losses = False
        """Whether any node has died since we are here."""
        self.stored: Any = None
        """Reads and writes values in the object store."""

    # ---------------------------------------------------------------------------------------------- get

    def get(self, ref: ObjectRef[Any], limit_s: float | None = None) -> Any:
        """Return the value of one ref.

        Raises:
            GetTimeoutError: it is not there in time.
            TaskError and the cause's type, or a system error: that is its value.
        """
        end_s = None if limit_s is None else monotonic() + limit_s
        if not ref._ready:
            self._await([ref], limit_s)
        format = ref._format
        if format == 0:  # NATIVE
            return ref._data
        return self.value_of(ref, end_s)

    def get_many(self, refs: Sequence[ObjectRef[Any]], limit_s: float | None = None) -> list[Any]:
        """Return the values of refs, in their order. Raises as `get`, for the first that failed."""
        values: list[Any] = []
        read = self.value_of
        if limit_s is not None:
            read = functools.partial(self.value_of, end_s=monotonic() + limit_s)
        for ref in refs:
            if not ref._ready:
                self._await(refs, limit_s, values)
                break
        if self.has_losses:
            self.stored.make_again(refs)
        if values:
            values.extend([ref._data if ref._format == 0 else read(ref) for ref in refs[len(values) :]])
            return values
        return [ref._data if ref._format == 0 else read(ref) for ref in refs]

    def value_of(self, ref: ObjectRef[Any], end_s: float | None = None) -> Any:
        """Return a fresh copy of a ready ref's value, or raise its error. `end_s`: until when it may be waited for."""
        format, data = ref._format, ref._data
        if format == wire.STORED:
            return self.stored.read(ref, end_s)
        if format == wire.ERROR:
            raise_error(data)
        if format == wire.NOTHING:
            return None
        return codec.read(format, data, ref._hold)

    def _await(self, refs: Sequence[ObjectRef[Any]], limit_s: float | None, values: list[Any] | None = None) -> None:
        """Wait until all are ready. Given `values`, the first may be read into it while others come."""
        core = self._core
        for ref in refs:
            if not ref._ready and ref._owner != core.process:
                self.fetch(ref)
        if core.dirty:
            core.flush()
        if limit_s is not None and limit_s <= 0:
            core.poll_now()  # `timeout=0` asks for the state of now
            self._raise_unless_ready(refs, limit_s)
            return
        resume = self.before_block()
        try:
            if limit_s is None:
                wait_ready = core.wait_ready
                is_reading = values is not None and resume is None
                for ref in refs:
                    if not ref._ready:
                        wait_ready(ref)
                    if is_reading:
                        # Whoever makes the others works on meanwhile. Errors and stored values wait for all.
                        if ref._format == 0:
                            values.append(ref._data)  # type: ignore[union-attr]
                        elif ref._format == wire.PICKLED:
                            values.append(pickle.loads(ref._data))  # type: ignore[union-attr]
                        else:
                            is_reading = False
                return
            end = monotonic() + limit_s
            for ref in refs:
                if not ref._ready and not core.wait(functools.partial(_is_ready, ref), end - monotonic()):
                    break
        finally:
            if resume is not None:
                resume()
        self._raise_unless_ready(refs, limit_s)

    def _raise_unless_ready(self, refs: Sequence[ObjectRef[Any]], limit_s: float | None) -> None:
        late = [ref for ref in refs if not ref._ready]
        if late:
            from shoal.exceptions import GetTimeoutError

            raise GetTimeoutError(f"get: {len(late)} of {len(refs)} values were not ready within {limit_s:g} s")

    # ---------------------------------------------------------------------------------------------- foreign refs

    def fetch(self, ref: ObjectRef[Any]) -> None:
        """Ask the owner of a foreign ref for its value; the ref settles when it comes."""
        core = self._core
        with core.lock:
            if ref._ready or ref._recipe is not None:
                return
            ref._recipe = FETCHING
            core.with_peer(ref._message, lambda link: self._ask_owner(ref, link))

    def _ask_owner(self, ref: ObjectRef[Any], link: Link | None) -> None:
        if link is None:
            self.owner_unreachable(ref)
            return
        core = self._core
        n = next(core.ids)

        def answered(format: int, data: Any) -> None:
            nested = codec.nested_of(format, data)
            if nested:
                holds = codec.holds_of(nested, (core.process, n))
                if ref._hold is not None:
                    holds[b""] = ref._hold  # the container itself stays held as long as its value is used
                ref._hold = holds
                from shoal.runtime.client.results import own_refs

                ref._pins = own_refs(core, nested)
            settle(ref, format, data)

        link.asked[n] = Fetch(ref, answered)
        link.out.append((wire.ASK_VALUE, n, ref._n))
        core.touch(link)

    def _link_closed(self, link: Link) -> None:
        """Questions that the lost connection took with it are asked again, unless their owner is dead."""
        asked, link.asked = link.asked, {}
        for question in asked.values():
            if not question.ref._ready:
                self.owner_unreachable(question.ref)

    def owner_unreachable(self, ref: ObjectRef[Any]) -> None:
        """Nobody answers where the owner was: ask for its fate."""
        core = self._core
        core.agent.out.append((wire.FATE, ref._owner))
        core.agent.flush()
        self.doubtful.setdefault(ref._owner, []).append(ref)

    def owner_died(self, process: bytes, why: str) -> None:
        """The verdict: everything that we wanted from it is lost."""
        from shoal.exceptions import OwnerDiedError

        for ref in self.doubtful.pop(process, ()):
            if not ref._ready:
                settle(
                    ref,
                    wire.ERROR,
                    pickle.dumps(OwnerDiedError(ref.hex(), None, f"the process that owned the value is gone: {why}")),
                )

    def owner_alive(self, process: bytes) -> None:
        """It lives: try again."""
        for ref in self.doubtful.pop(process, ()):
            ref._recipe = None
            self.fetch(ref)

    # ---------------------------------------------------------------------------------------------- others ask us

    def _on_ask(self, link: Link, message: list[Any]) -> None:
        _, n, number = message
        core = self._core
        ref = core.escaped.refs.get(number)
        if ref is None:
            from shoal.runtime.client.refs import lost_ref

            lost = lost_ref(number, core.process)
            link.out.append((wire.RESULT, n, wire.ERROR, lost._data, 0))
            core.touch(link)
            return

        def answer() -> None:
            if ref._format in (wire.NESTED, wire.STORED) and codec.nested_of(ref._format, ref._data):
                self._lend_nested(link.peer, (link.peer, n), ref)
            link.out.append((wire.RESULT, n, ref._format, ref._data, 0))
            core.touch(link)

        when_ready(ref, answer)

    def _lend_nested(self, borrower: bytes, token: tuple[bytes, int], ref: ObjectRef[Any]) -> None:
        """The asker gets a value with refs inside: they are lent to it under the number of its question."""
        self.settle_result.lend_all(borrower, token, codec.nested_of(ref._format, ref._data), [ref])

    def _on_lend(self, link: Link, message: list[Any]) -> None:
        """A borrower of ours has lent our objects on."""
        _, borrower, token, numbers = message
        core = self._core
        refs = [ref for number in numbers if (ref := core.escaped.refs.get(number)) is not None]
        core.lending.lend(borrower, (token[0], token[1]), refs)

    # ---------------------------------------------------------------------------------------------- put

    def put(self, value: Any) -> ObjectRef[Any]:
        """Return a ref to a copy of the value. Small ones stay in this process until somebody asks.

        Raises:
            TypeError: it is a ref already, or cannot be pickled.
        """
        core = self._core
        kind = type(value)
        if kind in codec.SCALARS and ((kind is not bytes and kind is not str) or len(value) <= codec.INLINE_BYTES_MAX):
            return ObjectRef(next(core.ids), core.process, True, 0, value)
        if kind is int and codec.INT_MIN <= value <= codec.INT_MAX:
            return ObjectRef(next(core.ids), core.process, True, 0, value)
        if kind is ObjectRef:
            raise TypeError("put: expected a value, got an ObjectRef; pass the ref itself, or put a list that holds it")
        if codec.is_plain(value):
            data = pickle.dumps(value, 5)
            if len(data) <= codec.INLINE_BYTES_MAX:
                return ObjectRef(next(core.ids), core.process, True, wire.PICKLED, data)
        dumped, refs = codec.pickled(value)
        if dumped.size > codec.INLINE_BYTES_MAX and self.stored is not None:
            stored: ObjectRef[Any] = self.stored.put(dumped, refs)
            return stored
        format, data, pins = codec.packed(dumped, refs)
        return ObjectRef(next(core.ids), core.process, True, format, data, None, None, None, 0, pins)

    # ---------------------------------------------------------------------------------------------- wait

    def wait(
        self, refs: list[ObjectRef[Any]], count: int, limit_s: float | None
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """Return at most `count` ready refs, and the others; both in the order of `refs`."""
        core = self._core
        total = len(refs)
        found: list[int] = []

        def scan() -> bool:
            found.clear()
            for place in range(total):
                if refs[place]._ready:
                    found.append(place)
                    if len(found) >= count:
                        return True
            return False

        if not scan():
            for ref in refs:
                if not ref._ready and ref._owner != core.process:
                    self.fetch(ref)
            if core.dirty:
                core.flush()
            if limit_s is not None and limit_s <= 0:
                core.poll_now()
                scan()
            else:
                resume = self.before_block()
                try:
                    core.wait(scan, limit_s)
                finally:
                    if resume is not None:
                        resume()
        if len(found) == 1:
            place = found[0]
            rest = refs.copy()
            del rest[place]
            return [refs[place]], rest
        chosen = set(found)
        return [refs[place] for place in found], [refs[place] for place in range(total) if place not in chosen]


class Fetch:
    """A question to an owner that is under way; called with its answer."""

    __slots__ = ("_call", "ref")

    def __init__(self, ref: ObjectRef[Any], call: Any) -> None:
        self.ref, self._call = ref, call

    def __call__(self, format: int, data: Any) -> None:
        self._call(format, data)


class _Fetching:
    """Marks a foreign ref whose value is on its way, in the place of a recipe."""


FETCHING = _Fetching()


def raise_error(data: bytes) -> None:
    """Raise the error that came as a value: of the cause's type where user code raised it."""
    error = pickle.loads(data)
    both = getattr(error, "as_instanceof_cause", None)
    raise (both() if both is not None else error) from None


def _is_ready(ref: ObjectRef[Any]) -> bool:
    return ref._ready


def _nothing() -> None:
    return None
