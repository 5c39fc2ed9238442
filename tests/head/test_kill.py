"""kill -9 of a head under load: whatever was acknowledged is there afterwards."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from shoal.model.demand import Bundle, Strategy
from shoal.runtime.head.journal import SqliteJournal
from shoal.transport.address import unix
from shoal.transport.connection import Connection, dial
from shoal.wire import messages as told
from shoal.wire.hello import Credential, Role, fresh_secret
from tests.head.head_process import UID

NODE = "1f" * 14
PROCESS = bytes.fromhex(NODE) + b"\0\0\0\1"


def start(directory: Path, secret: bytes) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.head.head_process", str(directory), secret.hex()]
    head = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert head.stdout is not None
    assert head.stdout.readline() == "ready\n"
    return head


async def joined(directory: Path, secret: bytes) -> Connection:
    credential = Credential(UID, secret).lowered(Role.NODE)
    connection = await dial(unix(directory / "head.sock"), None, credential, type=told.TO_AGENT)
    connection.send(told.Join(NODE, "i", "t", "", "", {"CPU": 10**9}, {}, ["unix:x"], 1, False, "h", 1))
    return connection


async def load(connection: Connection, acknowledged: set[str], enough: int) -> None:
    """Keep 50 requests under way until `enough` were acknowledged; then ask on without listening."""
    sent = 0

    def ask() -> None:
        nonlocal sent
        sent += 1
        if sent % 2:
            args = {
                "actor_id": sent.to_bytes(16, "big"),
                "job": "",
                "class_name": "A",
                "name": f"n{sent}",
                "amounts": {},
            }
            connection.send(told.Ask(sent, PROCESS, "create_actor", {**args, "is_detached": True}))
        else:
            spec = told.GroupSpec(f"g{sent}", [Bundle(amounts={"CPU": 1})], Strategy.PACK, is_detached=True)
            connection.send(told.Ask(sent, PROCESS, "create_group", {"spec": spec}))

    for _ in range(50):
        ask()
    while len(acknowledged) < enough:
        messages = await connection.receive()
        assert messages is not None
        for message in messages:
            if isinstance(message, told.Reply) and message.rid:
                assert message.is_ok
                acknowledged.add(f"n{message.rid}" if message.rid % 2 else f"g{message.rid}")
                ask()
            elif isinstance(message, told.Prepare):
                connection.send(told.Prepared(message.group_id, message.serial, True))


@pytest.mark.parametrize("enough", [60, 400])
async def test_everything_acknowledged_survives_kill_9(own_places: Path, enough: int) -> None:
    secret = fresh_secret()
    head = start(own_places, secret)
    acknowledged: set[str] = set()
    connection = await joined(own_places, secret)
    try:
        async with asyncio.timeout(30):
            await load(connection, acknowledged, enough)
    finally:
        head.kill()
        head.wait()
        assert head.stdout is not None
        head.stdout.close()
        connection.abort()

    again = start(own_places, secret)
    try:
        connection = await joined(own_places, secret)
        connection.send(told.Ask(1, PROCESS, "list_named", {"all_namespaces": True}))
        connection.send(told.Ask(2, PROCESS, "list_groups", {}))
        found: set[str] = set()
        answers = 0
        async with asyncio.timeout(30):
            while answers < 2:
                for message in await connection.receive() or ():
                    if isinstance(message, told.Reply) and message.rid:
                        answers += 1
                        found |= {one[0] if isinstance(one, list) else one["group_id"] for one in message.value}
        await connection.close()
    finally:
        again.kill()
        again.wait()
        assert again.stdout is not None
        again.stdout.close()

    assert len(acknowledged) >= enough
    assert acknowledged <= found
    journal = SqliteJournal(own_places / "head.db")
    assert journal.load()["meta"]["meta"].starts == 1
    journal.close()
    for name in ("head.db", "head.sock"):
        (own_places / name).unlink(missing_ok=True)
