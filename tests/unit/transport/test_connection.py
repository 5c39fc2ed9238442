"""Real sockets: nothing is read before the hello, slow and silent peers are let go, frames flow both ways."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from shoal.foundation.errors import AuthenticationError, LimitExceeded, ProtocolError
from shoal.transport import address, blocking
from shoal.transport.address import Address
from shoal.transport.connection import Connection, Listener, dial
from shoal.wire.frames import RAW_HEAD, frame, raw_head
from shoal.wire.hello import ClientHello, Credential, Role, fresh_secret

UID = "ab" * 16
ADMIN = Credential(UID, fresh_secret())


async def echo(connection: Connection) -> None:
    async def handle(peer: Connection, messages: list[Any]) -> None:
        for message in messages:
            peer.send(message)

    await connection.serve(handle)


@pytest.fixture(params=["unix", "tcp"])
async def listener(request: pytest.FixtureRequest, own_places: Path) -> AsyncIterator[Listener]:
    listening = Listener(None, ADMIN, echo, hello_limit_s=0.2, unauthenticated_max=4)
    where = Address("unix", str(own_places / "l.sock")) if request.param == "unix" else Address("tcp", "127.0.0.1")
    await listening.start(where)
    yield listening
    await listening.close()


def place(listener: Listener) -> Address:
    assert listener.address is not None
    return listener.address


def raw_socket(where: Address) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX if where.scheme == "unix" else socket.AF_INET)
    sock.connect(where.host if where.scheme == "unix" else (where.host, where.port))
    sock.settimeout(3)
    return sock


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def test_messages_come_back_in_order(listener: Listener) -> None:
    connection = await dial(place(listener), None, ADMIN.lowered(Role.DRIVER))
    for number in range(1000):
        connection.send([number, b"x" * number])
    got: list[Any] = []
    while len(got) < 1000:
        got += await connection.receive() or []
    await connection.close()

    assert [message[0] for message in got] == list(range(1000))


async def test_a_wrong_secret_is_refused_without_a_frame(listener: Listener) -> None:
    with pytest.raises(AuthenticationError):
        await dial(place(listener), None, Credential(UID, fresh_secret()))
    await until(lambda: listener.refused)
    assert not listener.connections


async def test_another_cluster_is_named(listener: Listener) -> None:
    with pytest.raises(AuthenticationError, match="another cluster"):
        await dial(place(listener), None, Credential("cd" * 16, fresh_secret()))


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n" + b"x" * 60, os.urandom(400), b"\0" * 56])
async def test_garbage_gets_no_answer(listener: Listener, garbage: bytes) -> None:
    sock = raw_socket(place(listener))
    sock.sendall(garbage)
    said = b""
    with contextlib.suppress(ConnectionError):
        said = await asyncio.to_thread(sock.recv, 10)
    sock.close()

    assert said == b""
    await until(lambda: listener.refused["garbage"] == 1)


async def test_a_frame_before_the_proof_is_never_read(listener: Listener) -> None:
    """A peer that says a right first message and then frames instead of its proof is cut off unread."""
    sock = raw_socket(place(listener))
    sock.sendall(ClientHello(ADMIN).first + frame([["run", "this"]]) + b"\0" * 40)
    with contextlib.suppress(ConnectionError):
        while await asyncio.to_thread(sock.recv, 1000):
            pass
    sock.close()

    assert listener.refused["secret"] == 1
    assert not listener.connections


async def test_silence_is_cut_off_after_the_limit(listener: Listener) -> None:
    sock = raw_socket(place(listener))
    said = b"?"
    with contextlib.suppress(ConnectionError):
        said = await asyncio.to_thread(sock.recv, 10)
    sock.close()

    assert said in (b"", b"?")
    assert listener.refused["slow"] == 1


async def test_a_slow_loris_cannot_keep_others_out(listener: Listener) -> None:
    """Four silent peers fill the limit; a fifth is closed at once; when they are cut off, a real one gets in."""
    silent = [raw_socket(place(listener)) for _ in range(4)]
    await until(lambda: listener._unauthenticated == 4)
    fifth = raw_socket(place(listener))
    with contextlib.suppress(ConnectionError):
        assert await asyncio.to_thread(fifth.recv, 10) == b""
    assert listener.refused["too many"] == 1
    await until(lambda: listener.refused["slow"] == 4)

    connection = await dial(place(listener), None, ADMIN)
    connection.send(["hello"])
    assert await connection.receive() == [["hello"]]
    await connection.close()
    for sock in (*silent, fifth):
        sock.close()


async def test_a_byte_at_a_time_is_as_slow_as_silence(listener: Listener) -> None:
    sock = raw_socket(place(listener))
    with contextlib.suppress(ConnectionError):
        for byte in ClientHello(ADMIN).first:
            sock.send(bytes([byte]))
            await asyncio.sleep(0.02)
    sock.close()

    await until(lambda: listener.refused["slow"] == 1)


async def test_a_bad_frame_after_the_hello_closes_that_connection_only(listener: Listener) -> None:
    good = await dial(place(listener), None, ADMIN)
    sock = await asyncio.to_thread(blocking.dial, place(listener), None, ADMIN)
    sock.setblocking(True)
    sock.sendall(b"\x05\0\0\0garbage")
    assert await asyncio.to_thread(sock.recv, 10) == b""
    sock.close()

    good.send(["still here"])
    assert await good.receive() == [["still here"]]
    assert listener.refused["ProtocolError"] == 1
    await good.close()


async def test_closing_ends_every_connection_and_removes_the_socket(listener: Listener) -> None:
    connection = await dial(place(listener), None, ADMIN)
    await until(lambda: listener.connections)
    await listener.close()

    assert await connection.receive() is None
    if place(listener).scheme == "unix":
        assert not Path(place(listener).host).exists()


async def test_dialling_something_else_is_an_error_in_time(own_places: Path) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 smtp ready\r\n" + b"x" * 100)
        await reader.read(100)
        writer.close()

    server = await asyncio.start_server(other, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(ProtocolError, match="no Shoal"):
        await dial(Address("tcp", "127.0.0.1", port), None, ADMIN)
    server.close()
    await server.wait_closed()


class TestBlocking:
    async def test_both_ends_agree(self, own_places: Path) -> None:
        path = own_places / "b.sock"
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(path))
        server.listen()
        answering = asyncio.create_task(asyncio.to_thread(lambda: blocking.answer(server.accept()[0], None, ADMIN)))
        mine = await asyncio.to_thread(blocking.dial, Address("unix", str(path)), None, ADMIN.lowered(Role.DRIVER))
        yours, role = await answering

        mine.send(b"x")
        yours.setblocking(True)
        assert role is Role.DRIVER
        assert yours.recv(1) == b"x"
        assert not mine.getblocking()
        for sock in (mine, yours, server):
            sock.close()
        path.unlink()

    def test_nobody_there_is_an_oserror(self, own_places: Path) -> None:
        with pytest.raises(OSError):
            blocking.dial(Address("unix", str(own_places / "none.sock")), None, ADMIN)


class TestAddress:
    @pytest.mark.parametrize("text", ["tcp:127.0.0.1:80", "unix:/run/x.sock", "tcp:[::1]:6379"])
    def test_text_and_back(self, text: str) -> None:
        assert str(address.parse(text)) == text

    @pytest.mark.parametrize("text", ["", "host", "host:", ":80", "host:99999", "host:port", "unix:/" + "x" * 101])
    def test_what_is_no_address_is_refused(self, text: str) -> None:
        with pytest.raises(Exception, match=r"address|socket path"):
            address.parse(text)

    def test_only_loopback_is_loopback(self) -> None:
        assert address.parse("127.0.0.1:1").is_loopback
        assert not address.parse("10.0.0.1:1").is_loopback


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_both_ends_are_tuned_whatever_the_loop(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    found: dict[str, list[tuple[int, ...]]] = {}

    def note(name: str, connection: Connection) -> None:
        lent = connection._writer.get_extra_info("socket")
        sock = socket.socket(fileno=os.dup(lent.fileno()))
        with sock:
            no_delay = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            alive = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            buffers = [sock.getsockopt(socket.SOL_SOCKET, option) for option in (socket.SO_SNDBUF, socket.SO_RCVBUF)]
            with socket.socket() as fresh:  # the system may allow less than is asked for
                address.tune(fresh)
                allowed = fresh.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        found.setdefault(name, []).append((no_delay, alive, *(size == allowed for size in buffers)))

    async def handle(connection: Connection) -> None:
        note("listener", connection)
        await echo(connection)

    async def run() -> None:
        listening = Listener(None, ADMIN, handle)
        await listening.start(Address("tcp", "127.0.0.1"))
        connection = await dial(place(listening), None, ADMIN)
        note("dialler", connection)
        connection.send([1])
        assert await connection.receive() == [[1]]
        await connection.close()
        await listening.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run())

    assert found == {"listener": [(1, 1, True, True)], "dialler": [(1, 1, True, True)]}


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_raw_bytes_and_messages_share_a_connection(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Also what was said before raw bytes were allowed, and more messages than may wait."""
    sent = os.urandom(3 * 2**20)
    many = [[number, b"x" * 1000] for number in range(5000)]
    got = bytearray(len(sent))
    back: list[Any] = []

    async def handle(connection: Connection) -> None:
        messages: list[Any] = await connection.receive() or []
        connection.send(["go"])
        await asyncio.sleep(0.05)  # more has come by now

        def take(key: int, offset: int, come: memoryview) -> None:
            assert key == 5
            got[offset : offset + len(come)] = come

        await connection.take_raw(take)
        while messages[-1:] != [["end"]]:
            await asyncio.sleep(0.002)  # slower than they come
            messages += await connection.receive() or [["end"]]
        back.extend(messages)
        connection.send_raw(9, memoryview(bytes(got)))
        await connection.drain()
        assert await connection.receive() is None

    async def run() -> bytes:
        listening = Listener(None, ADMIN, handle)
        await listening.start(Address("tcp", "127.0.0.1"))
        connection = await dial(place(listening), None, ADMIN)
        connection.send(["before"])
        assert await connection.receive() == [["go"]]
        connection.send(["after"])
        connection.flush()
        for start in range(0, len(sent), 2**20):
            connection._writer.write(raw_head(5, start, 2**20) + sent[start : start + 2**20])
            connection.send([start])
            connection.flush()
        for message in (*many, ["end"]):
            connection.send(message)
        await connection.drain()
        answer = await connection._reader.readexactly(RAW_HEAD.size + len(sent))
        await connection.close()
        await listening.close()
        return answer

    with asyncio.Runner(loop_factory=new_loop) as runner:
        answer = runner.run(run())

    assert got == sent
    assert back == [["before"], ["after"], [0], [2**20], [2 * 2**20], *many, ["end"]]
    assert answer == raw_head(9, 0, len(sent)) + sent


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_rubbish_after_raw_bytes_were_allowed_ends_the_connection(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    ended: list[Any] = []

    async def handle(connection: Connection) -> None:
        await connection.take_raw(lambda key, offset, come: None)
        try:
            while await connection.receive() is not None:
                pass
        except LimitExceeded as error:
            ended.append(error)
            raise

    async def run() -> None:
        listening = Listener(None, ADMIN, handle)
        await listening.start(Address("tcp", "127.0.0.1"))
        connection = await dial(place(listening), None, ADMIN)
        connection._writer.write(b"\xff" * 64)
        assert await connection.receive() is None
        await listening.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run())
    assert len(ended) == 1


INTRUDER = """
import os, socket, sys
where = os.open(os.path.dirname(sys.argv[1]), os.O_PATH)  # its parents may be closed to others
os.setgroups([])
os.setuid(65534)
sock = socket.socket(socket.AF_UNIX)
sock.settimeout(20)
sock.connect(f"/proc/self/fd/{where}/{os.path.basename(sys.argv[1])}")
try:
    sock.sendall(bytes.fromhex(sys.argv[2]))
    print(len(sock.recv(4096)))
except ConnectionError:
    print(0)
"""


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("is_other", [True, False], ids=["another user", "ourselves"])
def test_another_users_process_gets_no_answer_on_a_unix_socket(
    new_loop: Callable[[], asyncio.AbstractEventLoop], is_other: bool, own_places: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    refused: dict[str, int] = {}
    answered: list[str] = []

    async def run() -> None:
        listening = Listener(None, ADMIN, echo, hello_limit_s=20.0)
        where = await listening.start(Address("unix", str(own_places / "l.sock")))
        Path(where.host).chmod(0o666)  # as if the file's mode had not kept it out
        own_places.chmod(0o755)
        first = ClientHello(ADMIN).first.hex()
        program = INTRUDER if is_other else INTRUDER.replace("os.setuid(65534)", "")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, where.host, first, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await process.communicate()
        answered.append(said.decode().strip())
        refused.update(listening.refused)
        await listening.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run())

    if is_other:
        assert answered == ["0"]
        assert refused == {"secret": 1}
    else:
        assert int(answered[0]) > 0
