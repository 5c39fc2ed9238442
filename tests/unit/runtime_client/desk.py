"""An owner of plain tasks without sockets, for tests of its books."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

from shoal.foundation.amounts import UNIT
from shoal.runtime.client.owner import Lease, Owner, Recipe, WorkClass
from shoal.runtime.client.refs import ObjectRef
from shoal.wire import tasks as wire


class Link:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.out: list[Any] = []
        self.peer = b""
        self.pending: dict[int, Any] = {}
        self.asked: dict[int, Any] = {}
        self.known: set[bytes] = set()
        self.lease: Any = None
        self.is_closed = False

    def flush(self) -> None: ...


class Desk:
    """An owner, and what it told its agent."""

    def __init__(self) -> None:
        self.agent = Link()
        self.core: Any = SimpleNamespace(
            agent=self.agent,
            handlers={},
            on_tick=[],
            on_link_closed=[],
            lock=threading.RLock(),
            touch=lambda link: None,
        )
        self.owner = Owner(self.core)
        self.numbers = iter(range(1, 1000))

    def work(self, cpus: float, **more: Any) -> WorkClass:
        return self.owner.work_class(
            {"amounts": {"CPU": int(cpus * UNIT)}, "name": str(len(self.owner.classes)), **more}
        )

    def lease(self, work: WorkClass, *, unused_s: float = 0.0, is_busy: bool = False) -> int:
        number = next(self.numbers)
        lease = Lease(number, b"w%d" % number, Link(), work, self.agent, [])  # type: ignore[arg-type]
        lease.link.lease = lease
        lease.idle_since = time.monotonic() - unused_s
        if is_busy:
            lease.pending[number] = object()
        work.leases.append(lease)
        self.owner.leases[self.agent, number] = lease  # type: ignore[index]
        return number

    def submit(self, work: WorkClass) -> None:
        recipe = Recipe(b"f", b"", "f", work, tries=0, retry_on=False, returns=1, options=None)
        n = next(self.numbers)
        ref: Any = ObjectRef(n, b"me", False, 0, None, None, (wire.TASK, n), recipe, 0, None)
        self.owner.push(ref, recipe)

    def now(self) -> float:
        return time.monotonic()

    def returned(self) -> list[int]:
        return [message[1] for message in self.agent.out if message[0] == wire.RETURN]
