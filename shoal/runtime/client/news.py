"""What the head tells processes unasked, and what other workers printed."""

from __future__ import annotations

import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shoal.foundation.ids import NODE_ID_BYTES
from shoal.runtime.client.reactor import Link
from shoal.wire import tasks as wire

if TYPE_CHECKING:
    from shoal.runtime.client.session import Session

REPEAT_S = 5.0
"""Equal lines of different processes within this time are shown once, then counted (as Ray does)."""


class News:
    """Distributes TELL by what it is about, and prints FORWARDED lines."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._calls: dict[str, list[Callable[[Any], None]]] = {}
        self._seen: dict[str, list[Any]] = {}
        self._print_lock = threading.Lock()
        session.core.handlers[wire.TELL] = self._on_tell
        session.core.handlers[wire.FORWARDED] = self._on_forwarded
        session.core.handlers[wire.UNPLACEABLE] = self._on_unplaceable
        self.on("node-died", self._on_node_died)
        self.on("printed", self._on_printed)

    def on(self, what: str, call: Callable[[Any], None]) -> None:
        """Call with the value of every TELL about `what`, with the core's lock held."""
        self._calls.setdefault(what, []).append(call)

    def _on_tell(self, link: Link, message: list[Any]) -> None:
        _, what, value = message
        if what == "infeasible":
            self._warn(value)
        for call in self._calls.get(what, ()):
            call(value)

    def _on_node_died(self, value: Any) -> None:
        """Drop the connections to a dead node: if it lost power or was cut off, nobody else ever closes them."""
        node, reactor = value["node_id"], self._session.core.reactor
        for link in tuple(reactor.links.values()):
            if link.peer[:NODE_ID_BYTES].hex() == node or link.peer == b"agent:" + node.encode():
                reactor.drop(link)

    def _warn(self, value: Any) -> None:
        text = value.get("why", "") if isinstance(value, dict) else str(value)
        self._session.later(lambda: warnings.warn(f"shoal: work waits: {text}", RuntimeWarning, stacklevel=1))

    def _on_unplaceable(self, link: Link, message: list[Any]) -> None:
        _, key, why, is_final = message
        work = self._session.owner.by_key.get(key)
        if work is None:
            return
        if is_final:
            import pickle

            from shoal.runtime.client.results import death_of_task, fault_of

            while work.queue:
                ref = work.queue.popleft()
                error = pickle.dumps(death_of_task(ref, fault_of(why), why))
                self._session.results.settle(ref, wire.ERROR, error, (self._session.core.process, ref._n))
        else:
            self._warn(why)

    # ---------------------------------------------------------------------------------------------- prints

    def _on_forwarded(self, link: Link, message: list[Any]) -> None:
        if self._session.log_to_driver:
            _, pid, is_error, lines = message
            self._session.later(lambda: self._print(f"pid={pid}", is_error, lines))

    def _on_printed(self, value: Any) -> None:
        """What a process on another node printed."""
        if self._session.log_to_driver:
            process = f"pid={value['pid']}, {value['where']}"
            self._session.later(lambda: self._print(process, value["is_error"], value["lines"]))

    def _print(self, process: str, is_error: bool, lines: list[Any]) -> None:
        """Show lines as `(name pid=...) text`, those of another node as `(name pid=..., ip=...)`, as Ray does.

        What several processes print alike is shown once.
        """
        stream = sys.stderr if is_error else sys.stdout
        now = time.monotonic()
        with self._print_lock:
            for name, line in lines:
                seen = self._seen.get(line)
                if seen is not None and seen[0] != process and now - seen[1] < REPEAT_S:
                    seen[2] += 1
                    continue
                if seen is not None and seen[2]:
                    self._write(stream, f"({seen[3]} {seen[0]}) {line} [repeated {seen[2]}x across cluster]")
                self._seen[line] = [process, now, 0, name]
                self._write(stream, f"({name} {process}) {line}")
            if len(self._seen) > 1000:
                self._forget(stream, now)

    def flush_repeats(self) -> None:
        """Show the counts of lines that were repeated."""
        with self._print_lock:
            self._forget(sys.stdout, float("inf"))

    def _forget(self, stream: Any, now: float) -> None:
        for line, seen in tuple(self._seen.items()):
            if now - seen[1] >= REPEAT_S:
                if seen[2]:
                    self._write(stream, f"({seen[3]} {seen[0]}) {line} [repeated {seen[2]}x across cluster]")
                del self._seen[line]

    @staticmethod
    def _write(stream: Any, text: str) -> None:
        try:
            stream.write(text + "\n")
            stream.flush()
        except (OSError, ValueError):
            pass  # the driver's own output is gone; nobody is left to read it
