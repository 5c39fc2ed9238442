"""What runs now: the task or actor call of this thread (or asyncio task), for everything that asks about itself."""

from __future__ import annotations

import contextvars
from typing import Any

from shoal.runtime.client.strategies import GroupPlace


class Running:
    """One execution of a task or actor call in this process."""

    __slots__ = (
        "attempt",
        "group",
        "is_cancelled",
        "is_main_thread",
        "link",
        "n",
        "name",
        "owner",
        "task_id",
        "thread",
    )

    def __init__(self, link: Any, n: int, name: str) -> None:
        self.link, self.n, self.name = link, n, name
        self.owner: bytes = link.peer if link is not None else b""
        self.group: GroupPlace | None = None
        self.attempt = 0
        self.is_cancelled = False
        self.is_main_thread = False
        self.thread = 0


class ActorExit(BaseException):
    """Raised by `exit_actor`: the actor ends of its own wish once this call is answered."""


def exit_actor() -> None:
    """End the actor that runs this, for good; calls that wait for it fail.

    Raises:
        TypeError: no actor runs this.
    """
    from shoal.runtime.client.api import session

    if session().this_actor is None:
        raise TypeError("exit_actor: this is not running in an actor")
    raise ActorExit


_running: contextvars.ContextVar[Running | None] = contextvars.ContextVar("shoal_running", default=None)
set_running = _running.set
main_task: Any = None
"""The plain task (or sync actor call) that the main thread runs: a callable that returns it; set by the worker."""


def current_task() -> Running | None:
    """Return what runs here, None outside of tasks."""
    running = _running.get()
    if running is None and main_task is not None:
        running = main_task()
    return running
