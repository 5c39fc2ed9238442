"""Replies that an actor keeps until their caller must have them, for connections that may lose what is under way.

A broken connection takes along whatever its buffers held. The caller comes back and sends again what it has no answer
to; the actor must not run that twice. What it has answered it answers again from here; what still runs is answered
where the caller is now. Only so much is kept of each caller; a reply that is gone is said to be lost, instead of
nothing.
"""

from __future__ import annotations

import collections
import pickle
from typing import Any

from shoal.runtime.client.reactor import Link
from shoal.wire import tasks as wire

KEPT_MAX = 20_000
KEPT_BYTES_MAX = 8 * 2**20
"""What is kept of each caller: more than the buffers of a connection hold."""
REPLY_BYTES = 100
"""About what a small reply takes on the wire."""


class Kept:
    """The replies of one actor, by caller."""

    def __init__(self) -> None:
        self._callers: dict[bytes, _Caller] = {}

    def received(self, link: Link, n: int) -> None:
        """Note that a call is going to be answered."""
        caller = self._callers.get(link.peer)
        if caller is None:
            caller = self._callers[link.peer] = _Caller()
        caller.open[n] = link

    def way_back(self, link: Link, message: tuple[Any, ...]) -> Link:
        """Keep the reply; return the link on which its caller waits for it."""
        caller = self._callers.get(link.peer)
        if caller is None:
            return link
        return caller.keep(message, link)

    def repeated(self, link: Link, n: int) -> tuple[Any, ...] | None:
        """Return the reply to a call that came again over `link`, None if it will still come there."""
        caller = self._callers.get(link.peer)
        if caller is not None:
            if n in caller.open:
                caller.open[n] = link
                return None
            reply = caller.replies.get(n)
            if reply is not None:
                return reply
        from shoal.exceptions import ActorUnavailableError

        why = "the call ran, but its reply was lost with a broken connection"
        return (wire.RESULT, n, wire.ERROR, pickle.dumps(ActorUnavailableError(why)), 0)


class _Caller:
    __slots__ = ("bytes", "open", "replies")

    def __init__(self) -> None:
        self.open: dict[int, Link] = {}
        """Calls without a reply so far, with the link on which they came last."""
        self.replies: collections.OrderedDict[int, tuple[Any, ...]] = collections.OrderedDict()
        self.bytes = 0

    def keep(self, message: tuple[Any, ...], link: Link) -> Link:
        n = message[1]
        link = self.open.pop(n, link)
        replies = self.replies
        earlier = replies.pop(n, None)  # of an attempt that ended with an error of the user's
        if earlier is not None:
            self.bytes -= _size(earlier)
        replies[n] = message
        self.bytes += _size(message)
        while len(replies) > KEPT_MAX or self.bytes > KEPT_BYTES_MAX:
            _, gone = replies.popitem(last=False)
            self.bytes -= _size(gone)
        return link


def _size(message: tuple[Any, ...]) -> int:
    data = message[3]
    return REPLY_BYTES + (len(data) if isinstance(data, (bytes, str)) else 0)
