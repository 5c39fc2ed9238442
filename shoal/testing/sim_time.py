"""An event loop in virtual time: its selector never waits, it jumps the clock to the next timer.

Hours pass in milliseconds, in the same order every time. What cannot be repeated is an error here: a thread, an
executor, a socket, a subprocess. When every task waits and no timer is left, `Deadlock` names the tasks.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, NoReturn, TypeVar

Result = TypeVar("Result")


class Deadlock(RuntimeError):
    """Every task waits and nothing will ever wake one."""


class NotVirtual(RuntimeError):
    """Something was used that virtual time cannot cover."""


class _Selector(selectors.SelectSelector):
    """A selector that lets the loop's clock jump instead of waiting."""

    def __init__(self, loop: SimLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            self._loop.deadlock()
        if timeout > 0:
            self._loop.now_s += timeout
        return []


class SimLoop(asyncio.SelectorEventLoop):
    """The loop; `time()` is virtual and begins at 0."""

    def __init__(self) -> None:
        self.now_s = 0.0
        super().__init__(_Selector(self))
        # Timers that are less than this apart fall together; the real clock's resolution has no meaning here.
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self.now_s

    def deadlock(self) -> NoReturn:
        """Say which tasks wait for what.

        Raises:
            Deadlock: always.
        """
        waiting = [f"{task.get_name()} {task.get_coro()}" for task in asyncio.all_tasks(self) if not task.done()]
        raise Deadlock(f"every task waits and no timer is left at {self.now_s:.3f} s: {'; '.join(sorted(waiting))}")

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> NoReturn:  # type: ignore[override]
        raise NotVirtual(f"an executor cannot run in virtual time: {func!r}")

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> NoReturn:  # type: ignore[override]
        raise NotVirtual(f"a thread cannot take part in virtual time: {callback!r}")

    async def create_connection(self, *args: Any, **options: Any) -> NoReturn:
        raise NotVirtual("a socket cannot take part in virtual time")

    async def create_server(self, *args: Any, **options: Any) -> NoReturn:
        raise NotVirtual("a socket cannot take part in virtual time")

    async def subprocess_exec(self, *args: Any, **options: Any) -> NoReturn:
        raise NotVirtual("a process cannot take part in virtual time")


class HandClock:
    """A clock that a test moves by hand."""

    def __init__(self, now_s: float = 1000.0, wall_s: float = 1_800_000_000.0) -> None:
        self.now_s, self.wall = now_s, wall_s

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.wall

    def pass_(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self.now_s += seconds
        self.wall += seconds


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end in virtual time, then end whatever it left running."""
    loop = SimLoop()
    errors: list[BaseException] = []
    loop.set_exception_handler(lambda _, context: errors.append(context.get("exception") or RuntimeError(str(context))))
    try:
        asyncio.set_event_loop(loop)
        result = loop.run_until_complete(main)
        if errors:
            raise errors[0]  # a callback failed; in virtual time that is never somebody else's business
        return result
    finally:
        try:
            left = [task for task in asyncio.all_tasks(loop) if not task.done()]
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            loop.close()
