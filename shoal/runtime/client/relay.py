"""All links of a driver that nobody can dial, in its one connection to its home agent.

A `RelayedLink` is a `Link` to everybody else here: what is queued leaves in batches, and what the peer does not take
stays queued and unencoded. Its socket is a *channel* of the agent's connection; the other end is in
`runtime/agent/relay.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from shoal.runtime.client.reactor import Link, body_of
from shoal.wire import tasks as wire

if TYPE_CHECKING:
    from shoal.runtime.client.core import Core
    from shoal.runtime.client.refs import OwnerAddress

MESSAGES_PER_FRAME = 64
"""Fewer than on a socket: a frame is the least that can be under way, whatever the limit."""
_decode = msgspec.msgpack.Decoder(list[Any]).decode


class RelayedLink(Link):
    """One channel. `fd` is a number that no descriptor has."""

    __slots__ = ("_relay", "channel", "under_way")

    def __init__(self, relay: Relay, channel: int) -> None:
        self._set_up()
        self._relay, self.channel = relay, channel
        self.fd = -1 - channel
        self.under_way = 0
        """Bytes that the peer has not taken yet, as far as we know."""

    def flush(self) -> None:
        """Hand what is queued to the agent's connection, as far as the peer takes it."""
        with self._write_lock:
            out = self.out
            while out and self.under_way < wire.VIA_BYTES_MAX and not self.is_closed:
                batch = out[:MESSAGES_PER_FRAME]
                del out[: len(batch)]
                body = body_of(batch)
                self.under_way += len(body)
                self._relay.say((wire.VIA, self.channel, body))
        self._relay.flush()

    def taken(self, count: int) -> None:
        """The peer has taken so many bytes."""
        with self._write_lock:
            self.under_way -= count
        if self.out:
            self.flush()

    @property
    def has_more(self) -> bool:
        """Nothing is ever held back."""
        return False

    def close(self) -> None:
        """Mark it closed; the relay has told the agent."""
        self.is_closed = True


class Relay:
    """The channels of this process. Everything with the core's lock held, but `say` and `flush`."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.links: dict[int, RelayedLink] = {}
        self._opening: dict[int, Callable[[RelayedLink | None], None]] = {}
        self._odd = itertools.count(1, 2)
        core.handlers[wire.VIA] = self._on_via
        core.handlers[wire.VIA_OPEN] = self._on_open
        core.handlers[wire.VIA_CLOSE] = self._on_close
        core.handlers[wire.VIA_TAKEN] = self._on_taken

    def dial(self, address: OwnerAddress, call: Callable[[RelayedLink | None], None]) -> None:
        """Have the agent connect us to a process; `call` gets the open link, or None."""
        channel = next(self._odd)
        self._opening[channel] = call
        self.say((wire.VIA_DIAL, channel, address[0], list(address[1])))
        self.flush()

    def drop(self, link: RelayedLink) -> None:
        """Close a link from our side."""
        if self.links.pop(link.channel, None) is not None:
            link.close()
            self.say((wire.VIA_CLOSE, link.channel))
            self._core.link_closed(link)

    def has(self, link: Link) -> bool:
        """Say whether the link is one of these and open."""
        return isinstance(link, RelayedLink) and self.links.get(link.channel) is link

    def say(self, message: Any) -> None:
        """Queue a message to the agent."""
        self._core.agent.out.append(message)

    def flush(self) -> None:
        """Send what is queued to the agent."""
        self._core.agent.flush()

    def _on_via(self, agent: Link, message: list[Any]) -> None:
        link = self.links.get(message[1])
        if link is None:
            return  # we closed it; the agent hears of it
        try:
            messages = _decode(message[2])
        except msgspec.DecodeError:
            self.drop(link)
            return
        self._core.arrived(link, messages)

    def _on_open(self, agent: Link, message: list[Any]) -> None:
        _, channel, role = message
        link = self.links[channel] = RelayedLink(self, channel)
        link.role = role
        call = self._opening.pop(channel, None)
        if call is not None:
            call(link)
        else:
            self._core.greet(link)

    def _on_close(self, agent: Link, message: list[Any]) -> None:
        channel = message[1]
        call = self._opening.pop(channel, None)
        if call is not None:
            call(None)
            return
        link = self.links.pop(channel, None)
        if link is not None:
            link.close()
            self._core.link_closed(link)

    def _on_taken(self, agent: Link, message: list[Any]) -> None:
        link = self.links.get(message[1])
        if link is not None:
            link.taken(message[2])
