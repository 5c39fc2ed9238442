"""Whether this node's head can still believe that the node lives: a lease that every answer of the head renews.

What arrives from the head proves little: it may have been sent long ago and have lain in a buffer while a cable was
cut, or the way back may be the one that is broken. Only an answer proves that the head has heard us, and no earlier
than when we *asked*. So the lease counts from there, on our clock alone: the head, which counts its own patience
(`node_dead_s`) from when it heard the question, cannot give the node up before the node has noticed, as long as
`fence_s` and the pause between two looks are shorter than that patience together.
"""

from __future__ import annotations

ASKS_PER_FENCE = 5
"""How often the lease is renewed in `fence_s`: so many questions in a row may get lost."""


class Contact:
    """The lease. Times are seconds on any clock of this node that does not go back."""

    __slots__ = ("_asked_s", "fence_s", "proven_s")

    def __init__(self, fence_s: float) -> None:
        self.fence_s = fence_s
        """How long the lease lasts; 0: for ever."""
        self.proven_s: float | None = None
        """What was said before, on the way that the question took, has reached the head; None: it never answered."""
        self._asked_s: float | None = None

    def answered(self, asked_s: float) -> None:
        """Take an answer to what was asked at `asked_s`, over the connection that this was asked on."""
        if self.proven_s is None or asked_s > self.proven_s:
            self.proven_s = asked_s

    def is_lost(self, now_s: float) -> bool:
        """Say whether the head may be about to give the node up. Never before it has joined.

        >>> contact = Contact(fence_s=25.0)
        >>> contact.answered(100.0)
        >>> contact.is_lost(125.0), contact.is_lost(125.1)
        (False, True)
        """
        return self.fence_s > 0 and self.proven_s is not None and now_s - self.proven_s > self.fence_s

    def is_question_due(self, now_s: float) -> bool:
        """Say whether to ask the head for a sign of life, and count it as asked."""
        pause_s = self.fence_s / ASKS_PER_FENCE
        if self.fence_s <= 0 or self.proven_s is None or now_s - self.proven_s < pause_s:
            return False
        if self._asked_s is not None and now_s - self._asked_s < pause_s:
            return False
        self._asked_s = now_s
        return True
