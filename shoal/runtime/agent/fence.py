"""A node that cannot reach its head: actors that may be started elsewhere are stopped before the head gives us up.

`fence_s` is shorter than the head's `node_dead_s`, each on its own clock, so an actor never has two incarnations that
answer; what counts as contact is said in `runtime/decide/contact.py`. Stopped is also what the head may not know to
have started: it would start that again, whatever the user allows. Plain tasks run on: their owners decide. With
contact again, not declared dead, everything goes on; declared dead, the head refuses us and the node ends
(`Refused.is_dead`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.runtime.agent.actors import Actor
    from shoal.runtime.agent.main import Agent
    from shoal.runtime.agent.pool import Worker


class Fence:
    """Stops and continues the processes of actors that may be started elsewhere."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._stopped: list[Worker] = []

    def look(self) -> None:
        """See whether the head is in reach. Called about twice a second."""
        head, now_s = self._agent.head, self._agent.clock.monotonic_s()
        if head.is_joined and head.contact.is_question_due(now_s):
            head.ask(b"", "is_alive", {"processes": []}, lambda is_ok, value: None)
        if head.contact.is_lost(now_s):
            self._stop()
        elif self._stopped and not head.is_refused:
            self._continue()

    def _stop(self) -> None:
        for actor in self._agent.actors.by_id.values():
            worker = actor.worker
            if worker is not None and worker not in self._stopped and self._may_be_elsewhere(actor):
                self._stopped.append(worker)
                self._agent.pool.halt(worker)
                self._agent.note(f"the head is out of reach: actor {actor.actor_id.hex()[:8]} is stopped")

    def _may_be_elsewhere(self, actor: Actor) -> bool:
        proven_s = self._agent.head.contact.proven_s
        is_known = actor.up_s is not None and proven_s is not None and actor.up_s < proven_s
        return not is_known or actor.start.options.get("max_restarts", 0) != 0

    def _continue(self) -> None:
        stopped, self._stopped = self._stopped, []
        for worker in stopped:
            if not worker.is_dead:
                self._agent.pool.go_on(worker)
