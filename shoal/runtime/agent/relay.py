"""Links of drivers that nobody can dial: everything they say to others, and others to them, passes through here.

Such a driver (`is_remote`) has one connection, to this agent. In it run *channels*, each one link to a worker, another
agent or another driver: those it opens have odd numbers, those that peers open to it even ones. Bodies of frames are
passed on as they are. Memory is bounded in both directions: towards a peer by what the driver may have under way
(`VIA_BYTES_MAX` a channel; it hears what was taken), towards the driver by reading from a peer only once the driver's
own connection has taken what was read before.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from shoal.foundation.errors import ProtocolError, ShoalError
from shoal.runtime.agent.clients import Client
from shoal.transport.address import VIA, parse, reachable
from shoal.transport.connection import Connection, dial
from shoal.wire import tasks as wire
from shoal.wire.hello import Role

if TYPE_CHECKING:
    from shoal.runtime.agent.main import Agent

CHANNELS_MAX = 4096
"""How many links one driver may have."""
DIAL_LIMIT_S = 5.0


class Channel:
    """One relayed link of a driver."""

    __slots__ = ("connection", "is_draining", "number", "owed", "task")

    def __init__(self, number: int) -> None:
        self.number = number
        self.connection: Connection | None = None
        self.task: asyncio.Task[None] | None = None
        self.owed = 0
        """Bytes written towards the peer that the driver has not been told of."""
        self.is_draining = False


class Relay:
    """The channels of one driver."""

    def __init__(self, agent: Agent, client: Client) -> None:
        self._agent, self._client = agent, client
        self._channels: dict[int, Channel] = {}
        self._even = itertools.count(2, 2)
        self._turn = asyncio.Lock()

    def close(self) -> None:
        """End every channel: the driver is gone."""
        for channel in tuple(self._channels.values()):
            self._end(channel)

    # ---------------------------------------------------------------------------------------------- from the driver

    def dial(self, number: int, process: bytes, texts: list[str]) -> None:
        """Connect the driver to a process that listens at one of `texts`."""
        if number % 2 == 0 or number in self._channels or len(self._channels) >= CHANNELS_MAX:
            self._client.tell(wire.VIA_CLOSE, number)
            return
        channel = self._channels[number] = Channel(number)
        channel.task = asyncio.get_running_loop().create_task(self._dialled(channel, process, texts))

    def pass_on(self, number: int, body: bytes) -> None:
        """Send what the driver said on a channel."""
        channel = self._channels.get(number)
        if channel is None or channel.connection is None:
            return  # closed meanwhile: the driver hears of it, or has
        if channel.owed >= wire.VIA_BYTES_MAX:  # it does not keep the rule
            self._end(channel)
            self._client.tell(wire.VIA_CLOSE, number)
            return
        channel.owed += len(body)
        channel.connection.forward(body)
        if not channel.is_draining:
            channel.is_draining = True
            asyncio.get_running_loop().create_task(self._drained(channel)).add_done_callback(_quiet)

    def closed_by_driver(self, number: int) -> None:
        """End a channel."""
        channel = self._channels.get(number)
        if channel is not None:
            self._end(channel)

    # ---------------------------------------------------------------------------------------------- from peers

    async def serve(self, connection: Connection) -> None:
        """Relay a peer that has dialled the driver, until either is gone."""
        if len(self._channels) >= CHANNELS_MAX:
            return
        channel = Channel(next(self._even))
        channel.connection, channel.task = connection, None
        self._channels[channel.number] = channel
        connection.forward(msgspec.msgpack.encode([(wire.VIA_OPEN, 0, 0)]))
        self._client.tell(wire.VIA_OPEN, channel.number, int(connection.role))
        await self._read(channel, connection)

    # ---------------------------------------------------------------------------------------------- inside

    async def _dialled(self, channel: Channel, process: bytes, texts: Iterable[str]) -> None:
        connection, said = await self._connected(process, texts)
        if connection is None:
            if self._channels.pop(channel.number, None) is channel:
                self._client.tell(wire.VIA_CLOSE, channel.number)
            return
        channel.connection = connection
        try:
            self._client.tell(wire.VIA_OPEN, channel.number, int(Role.DRIVER))
            if said:
                self._client.tell(wire.VIA, channel.number, msgspec.msgpack.encode(said))
            await self._read(channel, connection)
        finally:
            await connection.close()

    async def _connected(self, process: bytes, texts: Iterable[str]) -> tuple[Connection | None, list[Any]]:
        """Return a connection to the process and what it has said already; None if it cannot be reached."""
        settings = self._agent.settings
        driver = settings.credential.lowered(Role.DRIVER)
        for text in reachable(list(texts)):
            address = parse(text.removeprefix(VIA))
            context = settings.ssl_context if address.scheme == "tcp" else None
            with contextlib.suppress(OSError, TimeoutError, ShoalError):
                connection = await dial(address, context, driver, limit_s=DIAL_LIMIT_S)
                if not text.startswith(VIA):
                    return connection, []
                said = await _taken(connection, process)
                if said is not None:
                    return connection, said
                connection.abort()
        return None, []

    async def _read(self, channel: Channel, connection: Connection) -> None:
        """Pass on what the peer says, never more than the driver's connection takes."""
        client = self._client
        try:
            while (bodies := await connection.receive_bodies()) is not None:
                for body in bodies:
                    async with self._turn:  # one frame at a time, or many slow readings at once would fill its buffer
                        client.tell(wire.VIA, channel.number, body)
                        await client.connection.drain()
        except (ConnectionError, ProtocolError):
            pass  # either side is gone, or the peer speaks no frames
        finally:
            if self._channels.pop(channel.number, None) is channel:
                client.tell(wire.VIA_CLOSE, channel.number)

    async def _drained(self, channel: Channel) -> None:
        """Tell the driver what the peer has taken."""
        connection = channel.connection
        assert connection is not None
        while channel.owed:
            with contextlib.suppress(ConnectionError):
                await connection.drain()
            taken, channel.owed = channel.owed, 0
            self._client.tell(wire.VIA_TAKEN, channel.number, taken)
        channel.is_draining = False

    def _end(self, channel: Channel) -> None:
        self._channels.pop(channel.number, None)
        if channel.task is not None:
            channel.task.cancel()  # it closes what it has dialled
        elif channel.connection is not None:
            channel.connection.abort()


async def _taken(connection: Connection, process: bytes) -> list[Any] | None:
    """Ask the agent at the other end, a driver's home, to pass everything on; return what came after its yes."""
    connection.send((wire.VIA_TO, process))
    connection.flush()
    async with asyncio.timeout(DIAL_LIMIT_S):
        messages = await connection.receive()
    return messages[1:] if messages and messages[0][0] == wire.VIA_OPEN else None


def _quiet(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()
