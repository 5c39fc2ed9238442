"""What must reach another process though connections break: numbered, kept until taken, said again, applied once.

References are counted across processes by messages (`LEND`, `RELEASE`); one that is lost keeps a value for ever, one
that is applied twice frees it too early. A connection can break with words under way in both directions, so every such
message bears a number of its sender-receiver pair, and the receiver says up to which it has them. On a new connection
the sender starts with the first that it has no word of. While there is no connection the agent is asked for the other's
fate: alive, it is dialled again; dead, nothing need be said to it.

`Outgoing` and `Incoming` (`runtime/decide/references.py`) are the two ends; this module ties them to links.
"""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any

from shoal.runtime.client.refs import OwnerAddress
from shoal.runtime.decide.references import Incoming, Outgoing
from shoal.wire import tasks as wire

if TYPE_CHECKING:
    from shoal.runtime.client.core import Core
    from shoal.runtime.client.reactor import Link

DEAD_MAX = 10_000
"""How many dead processes are remembered, so that nobody dials them again for a word."""


class Channel:
    """Both directions between this process and another one."""

    __slots__ = ("address", "incoming", "is_connecting", "link", "outgoing")

    def __init__(self, address: OwnerAddress) -> None:
        self.address = address
        self.outgoing, self.incoming = Outgoing(), Incoming()
        self.link: Link | None = None
        self.is_connecting = False


class Reliable:
    """The channels of this process. Everything with the core's lock held."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.channels: dict[bytes, Channel] = {}
        self._dead: collections.OrderedDict[bytes, None] = collections.OrderedDict()
        self._owed: dict[Channel, Link] = {}
        """Whom to tell what we have, once the frame that is being read is done."""
        core.handlers[wire.NUMBERED] = self._on_numbered
        core.handlers[wire.TAKEN] = self._on_taken
        core.on_link_closed.append(self._link_closed)

    def send(self, address: OwnerAddress, message: Any, pins: Any = None) -> None:
        """Say `message` to a process, surely unless it dies. `pins` live until it has it."""
        process = address[0]
        if process in self._dead:
            return
        channel = self._channel(process, address)
        serial, _ = channel.outgoing.send((message, pins))
        if channel.link is None:
            self._connect(channel)
        else:
            channel.link.out.append((wire.NUMBERED, serial, message))
            self._core.touch(channel.link)

    def greeted(self, link: Link) -> None:
        """A connection to `link.peer` has begun: what it may not have comes first."""
        channel = self.channels.get(link.peer)
        if channel is not None and channel.link is None and len(channel.outgoing):
            self._resume(channel, link)

    def acknowledge(self) -> None:
        """Say what has been taken since the last call."""
        owed, self._owed = self._owed, {}
        for channel, link in owed.items():
            link.out.append((wire.TAKEN, channel.incoming.seen))
            self._core.touch(link)

    @property
    def is_owing(self) -> bool:
        """Whether `acknowledge` has something to say."""
        return bool(self._owed)

    def process_died(self, process: bytes, why: str) -> None:
        """The verdict: nothing need be said to it, and nothing will be heard of it."""
        self.channels.pop(process, None)
        self._dead[process] = None
        if len(self._dead) > DEAD_MAX:
            self._dead.popitem(last=False)

    def process_alive(self, process: bytes) -> None:
        """No verdict so far: try again."""
        channel = self.channels.get(process)
        if channel is not None and channel.link is None and len(channel.outgoing):
            self._connect(channel)

    # ---------------------------------------------------------------------------------------------- inside

    def _channel(self, process: bytes, address: OwnerAddress) -> Channel:
        channel = self.channels.get(process)
        if channel is None:
            channel = self.channels[process] = Channel(address)
        return channel

    def _connect(self, channel: Channel) -> None:
        if channel.is_connecting:
            return
        channel.is_connecting = True

        def connected(link: Link | None) -> None:
            channel.is_connecting = False
            if self.channels.get(channel.address[0]) is not channel or channel.link is not None:
                return
            if link is None:
                self._ask_fate(channel)
            else:
                self._resume(channel, link)

        self._core.with_peer(channel.address, connected)

    def _resume(self, channel: Channel, link: Link) -> None:
        channel.link = link
        for serial, (message, _) in channel.outgoing.again():
            link.out.append((wire.NUMBERED, serial, message))
        self._core.touch(link)

    def _on_numbered(self, link: Link, message: list[Any]) -> None:
        _, serial, inner = message
        channel = self._channel(link.peer, (link.peer, tuple(link.addresses)))
        if serial > channel.incoming.seen + 1:
            return  # cannot be: but what is not taken comes again
        is_new = channel.incoming.accept(serial)
        self._owed[channel] = link
        if is_new and (handler := self._core.handlers.get(inner[0])) is not None:
            handler(link, inner)

    def _on_taken(self, link: Link, message: list[Any]) -> None:
        channel = self.channels.get(link.peer)
        if channel is not None:
            channel.outgoing.acknowledged(message[1])

    def _link_closed(self, link: Link) -> None:
        channel = self.channels.get(link.peer)
        if channel is None or channel.link is not link:
            return
        channel.link = None
        if len(channel.outgoing):
            other = self._core.peers.get(link.peer)
            if other is not None and not other.is_closed:
                self._resume(channel, other)
            else:
                self._ask_fate(channel)

    def _ask_fate(self, channel: Channel) -> None:
        agent = self._core.agent
        if not agent.is_closed:
            agent.out.append((wire.FATE, channel.address[0]))
            agent.flush()
