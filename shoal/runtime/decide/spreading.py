"""Which of several nodes takes the next task of work that is to be spread: the one that has had the fewest.

The head deals leases round the nodes, but they come when they can: a worker that is there already is quicker than one
that has yet to start, and would run a whole batch alone. So a lease waits while another node, which has had fewer and
was dealt a lease, has yet to bring it; not for ever, for that node may be busy by now. And a lease whose node has had
more than others is returned after each task, for the head to deal anew.

While much waits, a node may be ahead by a share of that: leases are worth keeping, and the rest evens it out.
"""

from __future__ import annotations

from collections.abc import Iterable

PATIENCE_S = 0.1
"""How long, once in a batch, a lease waits for the head to deal to nodes that have had fewer."""
CARRIED_MAX = 2
"""How many tasks more than others a node may have had when the next batch begins; beyond that it is forgiven."""
LEAD_SHARE = 8
"""A node may be ahead of the others by one task for so many that wait."""
LONE_MAX = 3
"""So often in a batch a lease is returned although no other node has been heard of: one may be."""


class Deal:
    """What each node has had of one class of work in this batch, and what is left over from the ones before."""

    __slots__ = ("_counts", "_expected", "_lone", "_patient_until_s")

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._expected: dict[str, float] = {}
        self._lone = 0
        self._patient_until_s: float | None = None

    def expect(self, node: str, until_s: float) -> None:
        """A lease of this node is on its way; nobody waits for it longer than `until_s`, nor anew if it is late."""
        self._expected.setdefault(node, until_s)
        self._join(node)

    def came(self, node: str) -> None:
        """The node's lease is here, or will not come."""
        self._expected.pop(node, None)

    def gone(self, node: str) -> None:
        """Nothing comes from the node any more."""
        self._expected.pop(node, None)
        self._counts.pop(node, None)

    def choose(self, idle: Iterable[str], now_s: float, waiting: int) -> str | None:
        """Return which of the nodes with an idle lease takes the next of so many tasks, None to wait for another's."""
        counts = self._counts
        best = min(idle, key=lambda node: counts.get(node, 0), default=None)
        if best is None:
            return None
        count = counts.get(best, 0) - waiting // LEAD_SHARE
        if any(counts.get(node, 0) < count and now_s < until_s for node, until_s in self._expected.items()):
            return None
        if count > min(counts.values(), default=0):  # a left-over lease, and the head has yet to deal this batch
            if self._patient_until_s is None:
                self._patient_until_s = now_s + PATIENCE_S
            if now_s < self._patient_until_s:
                return None
        return best

    def keeps(self, node: str, waiting: int) -> bool:
        """Say whether a lease whose task has ended may wait for another one, instead of being returned."""
        if len(self._counts) <= 1:
            self._lone += 1
            return self._lone > LONE_MAX
        return self._counts.get(node, 0) <= min(self._counts.values()) + waiting // LEAD_SHARE

    def took(self, node: str) -> None:
        """The node has been given a task."""
        self._join(node)
        self._counts[node] += 1

    def ended(self) -> None:
        """The batch is all given out: who has had a little more than others is remembered, for the next."""
        least = min(self._counts.values(), default=0)
        self._counts = {node: min(CARRIED_MAX, count - least) for node, count in self._counts.items()}
        self._expected.clear()
        self._patient_until_s = None
        self._lone = 0

    def _join(self, node: str) -> None:
        """Count a node that is new as one behind the others, however much those have had: it need not catch up."""
        if node not in self._counts:
            self._counts[node] = max(0, min(self._counts.values(), default=0) - 1)
