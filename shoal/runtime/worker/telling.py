"""What this process tells its agent of what it ran: rows for listings, off the path of tasks.

Rows wait about a second. Then their owners are asked where the tasks come from (`runtime/client/origins.py`), and with
the answers, or without after `ORIGINS_LIMIT_S`, they go to the agent, in order: a task's end never before its start.
"""

from __future__ import annotations

import bisect
import collections
import itertools
import time
from typing import TYPE_CHECKING, Any

from shoal.runtime.client.reactor import Link
from shoal.wire import tasks as wire

if TYPE_CHECKING:
    from shoal.runtime.worker.execute import Executor

ROWS_PAUSE_S = 1.0
RUNNING_AFTER_S = 0.2
"""What runs for longer is told while it runs."""
ROWS_PER_SEND = 2000
ROWS_WAITING_MAX = 100_000
"""More than a worker ends between two looks, even where it does nothing else; what comes beyond is not counted."""
ORIGINS_LIMIT_S = 0.5
MESSAGE_CHARACTERS_MAX = 500
ERRORS_MAX = 10_000
Key = tuple[bytes, int]


class _Batch:
    """Rows on their way: whose origins are still awaited, by question, and until when."""

    __slots__ = ("asked", "counts", "rows", "until")

    def __init__(self, rows: list[list[Any]], counts: list[list[Any]], until: float) -> None:
        self.rows, self.counts, self.until = rows, counts, until
        self.asked: dict[int, list[tuple[int, int]]] = {}
        """Numbers and places of the rows of one owner, in order, by question."""


class Telling:
    """The rows of one worker process."""

    def __init__(self, executor: Executor) -> None:
        self._executor, self._core = executor, executor.core
        self._rows: collections.deque[Any] = collections.deque(maxlen=ROWS_WAITING_MAX)
        self.add = self._rows.append
        """Takes (caller, number, name or function id, start, end, went well[, function's name, options])."""
        self._batches: collections.deque[_Batch] = collections.deque()
        self._asked: dict[int, _Batch] = {}
        self._serials = itertools.count(1)
        self._sent_at = self._looked_at = 0.0
        self.under_way: dict[Key, tuple[str, float]] = {}
        """Calls that run beside the main thread: name and start, by caller and number."""
        self._told_running: set[Key] = set()
        self._errors: dict[Key, tuple[str, str]] = {}
        """Kind and text of the errors of what ended lately."""
        self._wall_offset_s = time.time() - time.perf_counter()
        self._core.handlers[wire.ORIGINS] = self._on_origins

    # ---------------------------------------------------------------------------------------------- what is known

    def failed(self, key: Key, kind: str, text: str) -> None:
        """Note why a task failed; its row follows."""
        self._errors[key] = (kind, text[:MESSAGE_CHARACTERS_MAX])
        while len(self._errors) > ERRORS_MAX:
            del self._errors[next(iter(self._errors))]

    @property
    def is_due(self) -> bool:
        """Whether something waits to be told to the agent."""
        return bool(self._rows or self._batches)

    def tick(self, now: float) -> None:
        """Tell what has ended, about once a second, and what has been running for a while, once each."""
        if now - self._looked_at >= RUNNING_AFTER_S and self._has_news_of_running():
            self._looked_at = now
            self._tell_running(now)
        if self._rows and (now - self._sent_at >= ROWS_PAUSE_S or len(self._rows) >= ROWS_PER_SEND):
            self._sent_at = now
            self._tell_ended(now)
        if self._batches:
            with self._core.lock:
                self._let_go(now)

    def tell_all(self) -> None:
        """Send every row now, known origins or not: this process is about to end, or to belong to other work."""
        while self._rows:
            self._tell_ended(0.0)
        with self._core.lock:
            self._let_go(float("inf"))

    # ---------------------------------------------------------------------------------------------- rows

    def _has_news_of_running(self) -> bool:
        return bool(self._executor.current is not None or self.under_way or self._told_running)

    def _tell_running(self, now: float) -> None:
        executor = self._executor
        found: dict[Key, tuple[str, float, str, Any]] = {
            key: (name, started, "", None) for key, (name, started) in self.under_way.items()
        }
        current = executor.current
        if current is not None and current[0] is not self._core.agent:
            link, message = current
            options = message[5] if message[0] in (wire.SPECIAL, wire.SPECIAL_CALL) else None
            what = executor.name_of(message[2]) if message[0] in (wire.TASK, wire.SPECIAL) else ""
            found[link.peer, message[1]] = (executor._name_of_work(message), executor._started_at, what, options)
        before = time.perf_counter() - RUNNING_AFTER_S
        long = {key: one for key, one in found.items() if one[1] <= before}
        rows = {
            key: self._row(*key, name, what, started, None, True, options)
            for key, (name, started, what, options) in long.items()
            if key not in self._told_running
        }
        self._told_running = set(long)
        if rows:
            self._send(list(rows), list(rows.values()), [], now)

    def _tell_ended(self, now: float) -> None:
        keys: list[Key] = []
        rows: list[list[Any]] = []
        while len(rows) < ROWS_PER_SEND:
            try:
                peer, n, what, started, ended, is_ok, *more = self._rows.popleft()
            except IndexError:  # another thread may take them, too
                break
            name = self._executor.name_of(what) if type(what) is bytes else what
            function, options = more or ("", None)
            keys.append((peer, n))
            rows.append(self._row(peer, n, name, function, started, ended, is_ok, options))
        counts: list[list[Any]] = []
        if len(self._rows) > ROWS_PER_SEND * 2:
            counts = self._counted()
            self._errors.clear()
        self._send(keys, rows, counts, now)

    def _counted(self) -> list[list[Any]]:
        """Take what waits, more than listings can use, and return only how much it was: [function, kind, failed, n]."""
        found: collections.Counter[tuple[Any, str, bool]] = collections.Counter()
        for _ in range(len(self._rows)):  # what is added meanwhile waits for the next time
            try:
                _, _, what, _, _, is_ok, *more = self._rows.popleft()
            except IndexError:  # another thread may take them, too
                break
            found[what, more[0] if more else "", is_ok] += 1
        return [
            [*self._sort_of(self._executor.name_of(what) if type(what) is bytes else what, function)[:2], not is_ok, n]
            for (what, function, is_ok), n in found.items()
        ]

    def _sort_of(self, name: str, function: str) -> tuple[str, str, str]:
        """Return the function, the type and the actor of what ran under a name."""
        actor = self._executor.actor
        if actor is None:
            return function or name, "NORMAL_TASK", ""
        name = f"{actor.class_name}.{name}"
        return name, "ACTOR_CREATION_TASK" if name.endswith(".__init__") else "ACTOR_TASK", actor.actor_id.hex()

    def _row(
        self, peer: bytes, n: int, name: str, what: str, started: float, ended: float | None, is_ok: bool, options: Any
    ) -> list[Any]:
        """Return one row, as `runtime/agent/ran.py` reads it."""
        offset = self._wall_offset_s
        error, text = "", ""
        if not is_ok:
            error, text = self._errors.pop((peer, n), ("TASK_EXECUTION_EXCEPTION", ""))
        function, kind, actor_id = self._sort_of(name, what)
        if actor_id:
            name = function
        options = options or {}
        attempt, site = options.get("attempt", 0), options.get("site", "")
        parent, made_s = options.get("made", ("", None))
        return [
            (peer + n.to_bytes(6, "big")).hex(),
            name,
            function,
            started + offset,
            None if ended is None else ended + offset,
            error,
            actor_id,
            kind,
            attempt,
            parent,
            made_s,
            text,
            site,
        ]

    # ---------------------------------------------------------------------------------------------- origins

    def _send(self, keys: list[Key], rows: list[list[Any]], counts: list[list[Any]], now: float) -> None:
        """Queue rows for the agent, and ask their owners."""
        batch = _Batch(rows, counts, now + ORIGINS_LIMIT_S)
        by_owner: dict[bytes, list[tuple[int, int]]] = {}
        for place, (peer, n) in enumerate(keys):
            if rows[place][9]:
                continue  # an actor was told who made it
            by_owner.setdefault(peer, []).append((n, place))
        core = self._core
        with core.lock:
            self._batches.append(batch)
            for owner, found in by_owner.items():
                found.sort()
                if owner == core.process:
                    self._fill(batch, found, self._executor.session.origins.between(found[0][0], found[-1][0]))
                    continue
                link = core.peers.get(owner)
                if link is None or link.is_closed:
                    continue
                serial = next(self._serials)
                batch.asked[serial] = found
                self._asked[serial] = batch
                link.out.append((wire.ASK_ORIGINS, serial, found[0][0], found[-1][0]))
                core.touch(link)
            self._let_go(now)

    def _on_origins(self, link: Link, message: list[Any]) -> None:
        """An owner's answer. With the core's lock held."""
        _, serial, pieces = message
        batch = self._asked.pop(serial, None)
        if batch is not None:
            self._fill(batch, batch.asked.pop(serial), pieces)
            self._let_go(0.0)

    @staticmethod
    def _fill(batch: _Batch, found: list[tuple[int, int]], pieces: list[Any]) -> None:
        firsts = [piece[0] for piece in pieces]
        for n, place in found:
            at = bisect.bisect_right(firsts, n) - 1
            if at >= 0:
                batch.rows[place][9:11] = pieces[at][1].hex(), pieces[at][2]

    def _let_go(self, now: float) -> None:
        """Send the batches whose owners have answered, or take too long. With the core's lock held."""
        batches, agent = self._batches, self._core.agent
        while batches and (not batches[0].asked or now >= batches[0].until):
            batch = batches.popleft()
            for serial in batch.asked:
                del self._asked[serial]
            agent.out.append((wire.ROWS, batch.rows, batch.counts, self._executor.binding.about()))
        if agent.out:
            agent.flush()
