"""Making again what a task of several values had made: items of a stream, or one of `num_returns` results.

All values of such a task share one `Source`, what was sent; each stored one has a `Made` in the place of its recipe.
When one of them is lost the task runs once more, under a number of its own. The values that are missed, and those that
lay on the same node, take their places; all others are let go at once, so that nobody sees an item twice and the replay
needs no room. A replayed stream is stopped as soon as it has brought what is wanted.
"""

from __future__ import annotations

import functools
import pickle
from typing import TYPE_CHECKING, Any

from shoal.runtime.client.codec import holds_of, nested_of
from shoal.runtime.client.core import Core
from shoal.runtime.client.reactor import Link
from shoal.runtime.client.refs import ObjectRef, settle, when_ready
from shoal.runtime.client.results import Several, own_refs, placed
from shoal.runtime.client.sources import Made, Source
from shoal.wire import tasks as wire

if TYPE_CHECKING:
    from shoal.runtime.client.session import Session


class _Replay:
    """One run of a source for the sake of some of its values."""

    __slots__ = ("is_stopped", "next_index", "several", "source", "task", "wanted")

    def __init__(self, source: Source, task: ObjectRef[Any]) -> None:
        self.source, self.task = source, task
        self.wanted: dict[int, ObjectRef[Any]] = {}
        self.next_index = 0
        self.is_stopped = False
        self.several: Several | None = None


class Replays:
    """The replays that are under way in one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._core: Core = session.core
        self._running: dict[int, _Replay] = {}

    def rebuild(self, ref: ObjectRef[Any]) -> bool:
        """Have the task of a lost value run again; False if it may not. With the core's lock held."""
        made: Made = ref._recipe
        source = made.source
        if self._session.streams.brings_again(ref):
            return True
        for replay in self._running.values():
            if replay.source is source and replay.next_index <= made.index and not replay.is_stopped:
                self._want(replay, made.index, ref)
                return True
        if source.message is None or source.tries == 0:
            return False
        if source.tries > 0:
            source.tries -= 1
        core, recipe = self._core, source.recipe
        task: ObjectRef[Any] = ObjectRef(next(core.ids), core.process)
        task._recipe, task._tries, task._pins = recipe, source.tries, source.pins
        task._message = (source.message[0], task._n, *source.message[2:])
        replay = self._running[task._n] = _Replay(source, task)
        if recipe.returns > 1:
            refs: list[ObjectRef[Any]] = [ObjectRef(next(core.ids), core.process) for _ in range(recipe.returns)]
            numbers = [one._n for one in refs]
            replay.several = self._session.results.several[task._n] = Several(refs, source, task)
            task._message = (*task._message[:5], {**task._message[5], "numbers": numbers})
        when_ready(task, functools.partial(self._ended, replay))
        node_id = ref._data[0][1]
        self._want(replay, made.index, ref)
        if node_id != core.info["node_id"]:
            # Whatever else of it lay there is most likely lost too: one run shall do for all.
            for other in tuple(core.escaped.refs.values()):
                mark, is_stored = other._recipe, other._ready and other._format == wire.STORED
                if type(mark) is Made and mark.source is source and is_stored and other._data[0][1] == node_id:
                    self._want(replay, mark.index, other, is_lost=False)
        self._session.owner.push(task, recipe)
        return True

    def item(self, link: Link, n: int, index: int, format: int, data: Any) -> bool:
        """Take an item of a replayed stream; False if it is none. With the core's lock held."""
        replay = self._running.get(n)
        if replay is None:
            return False
        replay.next_index = index + 1
        ref = replay.wanted.pop(index, None)
        if ref is None:
            self.let_go(format, data, (self._core.process, f"{n}.{index}"))
        else:
            self.keep(ref, format, data, (self._core.process, f"{n}.{index}"), Made(replay.source, index))
        if not replay.wanted:
            replay.is_stopped = True
            link.out.append((wire.STOP_STREAM, n))
            self._core.touch(link)
        elif (replay.source.recipe.options or {}).get("backpressure", -1) > 0:
            link.out.append((wire.CONSUMED, n, index + 1))
            self._core.touch(link)
        return True

    def keep(self, ref: ObjectRef[Any], format: int, data: Any, token: Any, made: Made | None) -> None:
        """Settle a ref with a value that is not its task's only one. With the core's lock held."""
        core = self._core
        nested = nested_of(format, data)
        ref._hold = holds_of(nested, token) if nested else None
        ref._pins = own_refs(core, nested) if nested else None
        if format == wire.STORED:
            data = placed(data, ref)
            self._session.stored.hold_result(ref, data)
            ref._recipe = made
        settle(ref, format, data)

    def let_go(self, format: int, data: Any, token: Any) -> None:
        """Drop a value that nobody wants, with what it holds. With the core's lock held."""
        self.keep(ObjectRef(next(self._core.ids), self._core.process), format, data, token, None)

    # ---------------------------------------------------------------------------------------------- inside

    def _want(self, replay: _Replay, index: int, ref: ObjectRef[Any], *, is_lost: bool = True) -> None:
        if is_lost:
            hold, ref._hold = ref._hold, None
            del hold
            ref._ready, ref._data = False, None
        if replay.several is not None:
            replay.several.refs[index] = ref
        else:
            replay.wanted[index] = ref

    def _ended(self, replay: _Replay) -> None:
        """The task has run to its end. With the core's lock held."""
        self._running.pop(replay.task._n, None)
        wanted, replay.wanted = replay.wanted, {}
        for ref in wanted.values():
            if ref._ready:
                continue  # it was not missed yet
            self.never_came(ref, replay.task, replay.source.recipe.name)

    def never_came(self, ref: ObjectRef[Any], task: ObjectRef[Any], name: str) -> None:
        """Fail a value that the task, which has ended, did not make again. With the core's lock held."""
        if task._format == wire.ERROR:
            settle(ref, wire.ERROR, task._data)
        else:
            from shoal.exceptions import ObjectReconstructionFailedError

            why = f"`{name}` yielded fewer items when it ran again"
            settle(ref, wire.ERROR, pickle.dumps(ObjectReconstructionFailedError(ref.hex(), None, why)))
