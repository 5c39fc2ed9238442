"""What the head tells processes unasked, and what other workers printed."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shoal.foundation.errors import ShoalError
from shoal.foundation.ids import NODE_ID_BYTES
from shoal.runtime.client.reactor import Link
from shoal.runtime.client.refs import Home
from shoal.runtime.decide.repeats import Repeats
from shoal.wire import tasks as wire
from shoal.wire.asks import What

if TYPE_CHECKING:
    from shoal.runtime.client.session import Session

LAST_PRINTS_S = 0.5
"""How long a driver that leaves waits for what its workers printed last."""


class News:
    """Distributes TELL by what it is about, and prints FORWARDED lines."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._calls: dict[str, list[Callable[[Any], None]]] = {}
        is_counting = os.environ.get("SHOAL_DEDUP_LOGS", "1") != "0"
        self._repeats = {is_error: Repeats() if is_counting else None for is_error in (False, True)}
        self._print_lock = threading.Lock()
        self._look_at = 0.0
        session.core.handlers[wire.TELL] = self._on_tell
        session.core.handlers[wire.FORWARDED] = self._on_forwarded
        session.core.handlers[wire.UNPLACEABLE] = self._on_unplaceable
        session.core.on_tick.append(self._tick)
        self.on("node-died", self._on_node_died)
        self.on("printed", self._on_printed)
        self.on("never-fits", self._on_never_fits)

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
        node, core = value["node_id"], self._session.core
        self._session.stored.node_died(node)
        self._session.values.has_losses = True
        for link in core.links():
            if link.peer[:NODE_ID_BYTES].hex() == node or link.peer == b"agent:" + node.encode():
                core.drop(link)

    def _warn(self, value: Any) -> None:
        text = value.get("why", "") if isinstance(value, dict) else str(value)
        # Of no line of code: the work may have been submitted anywhere, long ago.
        self._session.later(lambda: warnings.warn_explicit(f"work waits: {text}", RuntimeWarning, "shoal", 1))

    def _on_unplaceable(self, link: Link, message: list[Any]) -> None:
        _, key, why, is_final = message
        work = self._session.owner.by_key.get(key)
        if work is None:
            return
        if is_final:
            self._session.owner.end_class(work, why)
        else:
            self._warn(why)

    def _on_never_fits(self, value: Any) -> None:
        """The head says that a class of ours can never be placed."""
        for work in self._session.owner.by_key.values():
            if work.spec["class_key"] == value["key"]:
                self._session.owner.end_class(work, f"never: {value['why']}")

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

        What several processes print alike is shown once, then counted.
        """
        now = time.monotonic()
        shown = []
        with self._print_lock:
            repeats = self._repeats[is_error]
            for name, line in lines:
                if repeats is None:
                    shown.append(f"({name} {process}) {line}")
                else:
                    shown += repeats.lines(process, name, line, now)
            self._write(is_error, shown)

    def _tick(self, now: float) -> None:
        """Show counts when their time is over, though nothing else is printed."""
        if now < self._look_at:
            return
        self._look_at = now + 1.0
        with self._print_lock:
            for is_error, repeats in self._repeats.items():
                if repeats is not None and (shown := repeats.due(now)):
                    self._session.later(functools.partial(self._write, is_error, shown))

    def show_rest(self) -> None:
        """Before the session ends: have its workers on all nodes send what they printed last; show it."""
        session = self._session
        if session.log_to_driver and not session.core.is_closed:
            core, answers, asked = session.core, list[bool](), 1

            def answered(is_ok: bool, value: Any) -> None:
                answers.append(is_ok)

            core.request(wire.LOCAL, "prints", {}, answered)
            if nodes := self._other_nodes():
                args = {"job": session.job, "node_ids": nodes, "timeout_s": LAST_PRINTS_S}
                core.request(wire.ASK, What.LAST_PRINTS, args, answered)
                asked = 2
            with contextlib.suppress(OSError, ShoalError):
                core.wait(lambda: len(answers) == asked, LAST_PRINTS_S)
            done = threading.Event()
            session.later(done.set)
            done.wait(LAST_PRINTS_S)
        with self._print_lock:
            for is_error, repeats in self._repeats.items():
                if repeats is not None:
                    self._write(is_error, repeats.rest())

    def _other_nodes(self) -> list[str]:
        """Return the other nodes on which work of ours has run: we are connected to their agents or their workers."""
        core, nodes = self._session.core, set(self._session.owner.agents)
        for link in core.links():
            if not link.peer.startswith(b"agent:"):
                nodes.add(link.peer[:NODE_ID_BYTES].hex())
        return sorted(nodes - {"", Home.node_id})

    @staticmethod
    def _write(is_error: bool, lines: list[str]) -> None:
        if not lines:
            return
        stream = sys.stderr if is_error else sys.stdout
        try:
            stream.write("\n".join(lines) + "\n")
            stream.flush()
        except (OSError, ValueError):
            pass  # the driver's own output is gone; nobody is left to read it
