"""An agent's requests survive the head: whatever crashed between a request and its answer, the answer comes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from shoal.foundation.clock import SystemClock
from shoal.runtime.agent.clients import ClassRow, Client
from shoal.runtime.agent.head_link import HeadLink
from shoal.transport.address import unix
from shoal.transport.connection import Connection, Listener
from shoal.wire import messages as told
from shoal.wire.hello import Credential, Role, fresh_secret

UID = "ab" * 16
JOIN = told.Join("n" * 28, "i-1", "t", "", "", {"CPU": 1}, {}, ["tcp:127.0.0.1:9"], 1, False, "h", 1)


class Agent:
    """What the link asks of its agent."""

    is_ending = False

    def __init__(self, place: Path, credential: Credential) -> None:
        self.clock = SystemClock()
        self.state = SimpleNamespace(left_behind=lambda: told.LeftBehind(b""))
        self.settings = SimpleNamespace(head=f"unix:{place}", ssl_context=None, credential=credential, fence_s=25.0)

    def join_message(self) -> told.Join:
        return JOIN

    def usage(self) -> dict[str, Any]:
        return {"idle_s": None}

    def clients(self) -> list[Any]:
        return []

    def note(self, text: str) -> None:
        pass

    def on_joined(self, message: told.Joined) -> None:
        pass

    def on_head(self, message: Any) -> None:
        raise AssertionError(message)


class ForgetfulHead:
    """Joins everybody; crashes, as far as its peers can see, at each of its first requests, before it answers."""

    def __init__(self, crashes: int) -> None:
        self.crashes, self.asked = crashes, 0

    async def serve(self, connection: Connection) -> None:
        while (messages := await connection.receive()) is not None:
            for message in messages:
                if isinstance(message, told.Join):
                    connection.send(told.Joined(message.node_id, 1, UID, 25.0, 1.0, {}))
                elif isinstance(message, told.Ask):
                    self.asked += 1
                    if self.crashes:
                        self.crashes -= 1
                        connection.abort()
                        return
                    connection.send(told.Reply(message.rid, b"", True, [message.what, message.args["n"]]))


async def test_a_request_whose_answer_was_lost_is_asked_again_and_answered_once(own_places: Path) -> None:
    credential = Credential(UID, fresh_secret(), Role.ADMIN)
    head = ForgetfulHead(crashes=2)
    listener = Listener(None, credential, head.serve, type=told.TO_HEAD)
    await listener.start(unix(own_places / "head.sock"))
    agent = Agent(own_places / "head.sock", credential)
    link = HeadLink(agent)  # type: ignore[arg-type]  # what it uses of an agent
    answers: list[tuple[bool, Any]] = []

    # The first before there is a head to ask, the others when there is one.
    link.ask(b"", "place", {"n": 0}, lambda *answer: answers.append(answer))
    running = asyncio.create_task(link.run())
    async with asyncio.timeout(20):
        await link.joined.wait()
        for n in (1, 2):
            link.ask(b"", "place", {"n": n}, lambda *answer: answers.append(answer))
        while len(answers) < 3:
            await asyncio.sleep(0.01)

    assert sorted(answers) == [(True, ["place", n]) for n in range(3)]
    assert head.crashes == 0
    agent.is_ending = True
    await link.leave("the test is over")
    await asyncio.wait_for(running, 10)
    await listener.close()
    (own_places / "head.sock").unlink(missing_ok=True)


def test_functions_of_one_shape_are_one_class_to_the_head_whichever_of_them_waits(own_places: Path) -> None:
    agent = Agent(own_places / "head.sock", Credential(UID, fresh_secret(), Role.ADMIN))
    client = Client(SimpleNamespace(), "driver", b"p", 1, {})  # type: ignore[arg-type]
    agent.clients = lambda: [client]  # type: ignore[method-assign]
    spec = {"amounts": {"CPU": 10_000}, "class_key": "shape", "job": "01"}
    first, second = (
        client.classes.setdefault(key, ClassRow(client, key, {**spec, "name": f"f{key}"})) for key in (1, 2)
    )
    link = HeadLink(agent)  # type: ignore[arg-type]

    first.waiting, first.seen_anywhere, first.granted, first.duration_us = 3, 2, 2, 1000
    second.waiting, second.seen_anywhere, second.granted, second.duration_us = 1, 5, 5, 5000
    [row], [grants] = link._backlog()
    assert (row.waiting, row.seen, grants.granted, row.duration_s) == (4, 7, 7, 0.002)

    second.waiting = 0  # the later row is idle: what the first waits for must not vanish
    [row], [] = link._backlog()
    assert (row.waiting, row.seen) == (3, 7)
    assert link._backlog() == ([], [])
    first.waiting, second.waiting, second.duration_us = 0, 2, -1
    [row], [] = link._backlog()
    assert (row.waiting, row.duration_s) == (2, None)
    second.waiting = 0
    [row], [] = link._backlog()
    assert row.waiting == 0
