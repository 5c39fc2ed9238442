"""Emptying this node: refused at once when it is not idle, or carried out until a deadline.

The answer is given in the same turn of the loop in which grants are made, so nothing can slip in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.wire import messages as told

if TYPE_CHECKING:
    from shoal.runtime.agent.main import Agent


class Drain:
    """The drain that is under way, if any."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._order = ""
        self._deadline_at: float | None = None
        self._is_answered = True
        self._cordon = ""
        """The order under which nothing new is taken; the head's newest word holds, whichever order it names."""

    def cordon(self, message: told.Cordon) -> None:
        """Take no new work, or take it again."""
        self._cordon = message.order if message.is_on else ""
        if self._cordon != self._order:
            self._order, self._is_answered = "", True  # what was to be drained under another order is not any more
        self._open_or_close()

    def begin(self, message: told.Drain) -> None:
        """Decide, now: `busy`, or no more grants until it is empty."""
        agent = self._agent
        if message.deadline_s is None and (
            (message.idle_serial is not None and message.idle_serial != agent.leases.idle_serial) or self._work()
        ):
            agent.head.send(told.DrainAnswer(message.order, "busy", self._work() or "work came and went"))
            return
        self._order, self._is_answered = message.order, False
        self._cordon = message.order
        self._deadline_at = (
            None if message.deadline_s is None else agent.clock.monotonic_s() + max(0.0, message.deadline_s)
        )
        self._open_or_close()
        for lease in agent.leases.by_number.values():
            agent.leases.reclaim(lease)
        agent.objects.drain()
        self.tick()

    def tick(self) -> None:
        """See whether it is empty by now, or the deadline is over."""
        if self._is_answered:
            return
        agent = self._agent
        agent.objects.drain()
        left = self._work()
        if left and self._deadline_at is not None and agent.clock.monotonic_s() >= self._deadline_at:
            for worker in tuple(agent.pool.workers.values()):
                if worker.lease is not None or worker.actor is not None:
                    agent.pool.kill(worker, "the node was drained")
            self._deadline_at = None
        if not left:
            self._is_answered = True
            agent.head.send(agent.state.left_behind())
            agent.head.send(told.DrainAnswer(self._order, "emptied", ""))

    def _work(self) -> str:
        """Return what keeps the node from being empty, as text; empty if nothing."""
        return ", ".join(
            f"{reason.count} {reason.what}{'s' if reason.count > 1 else ''}" for reason in self._agent.busy()
        )

    def _open_or_close(self) -> None:
        is_open = not self._cordon
        self._agent.leases.is_open = self._agent.actors.is_open = is_open
        if is_open:
            self._agent.leases.schedule_soon()
