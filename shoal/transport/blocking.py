"""Dialling and answering without an event loop: for drivers and workers, whose reactor then takes the socket.

The hello runs blocking with a deadline; the returned socket is authenticated and non-blocking.
"""

from __future__ import annotations

import os
import socket
import ssl
import time

from shoal.foundation.errors import AuthenticationError, NoAnswer, ProtocolError
from shoal.transport import tls
from shoal.transport.address import VIA, Address, parse, peer_uid, tune
from shoal.wire.frames import LENGTH, frame
from shoal.wire.hello import (
    CLIENT_BYTES,
    HELLO_LIMIT_S,
    PROOF_BYTES,
    SERVER_BYTES,
    Authenticator,
    ClientHello,
    Role,
    ServerHello,
)
from shoal.wire.tasks import VIA_TO

VIA_ANSWER_BYTES_MAX = 64


def dial(
    address: Address,
    ssl_context: ssl.SSLContext | None,
    authenticator: Authenticator,
    *,
    role: Role | None = None,
    limit_s: float = 5.0,
) -> socket.socket:
    """Return an authenticated, non-blocking socket to `address`. TLS is used for tcp if a context is given.

    Raises:
        OSError: nobody answers there in time.
        AuthenticationError, ProtocolError: somebody does, but not our cluster.
    """
    end = time.monotonic() + limit_s
    if address.scheme == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(limit_s)
        target: str | tuple[str, int] = address.host
    else:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        sock = socket.socket(family)
        sock.settimeout(limit_s)
        target = (address.host, address.port)
    try:
        sock.connect(target)
        tune(sock)
        if ssl_context is not None and address.scheme == "tcp":
            sock = ssl_context.wrap_socket(sock, server_hostname=address.host)
        hello = ClientHello(authenticator, role=role)
        sock.sendall(hello.first)
        sock.sendall(hello.reply(_exactly(sock, SERVER_BYTES, end)))
    except BaseException:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def dial_peer(
    text: str, process: bytes, ssl_context: ssl.SSLContext | None, authenticator: Authenticator
) -> socket.socket:
    """Return a socket to a driver or worker that is reachable at `text`: at its own, or by way of its home agent.

    Raises:
        As `dial`; ProtocolError: the agent there does not know the process.
    """
    sock = dial(parse(text.removeprefix(VIA)), ssl_context, authenticator, role=Role.DRIVER)
    if not text.startswith(VIA):
        return sock
    end = time.monotonic() + HELLO_LIMIT_S
    try:
        sock.settimeout(HELLO_LIMIT_S)
        sock.sendall(frame([(VIA_TO, process)]))
        # Exactly this answer is read: what follows it is the driver's, and the caller's to read.
        (length,) = LENGTH.unpack(_exactly(sock, LENGTH.size, end))
        if length > VIA_ANSWER_BYTES_MAX:
            raise ProtocolError(f"relay: an answer of {length} bytes")
        _exactly(sock, length, end)
    except BaseException:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def answer(
    sock: socket.socket,
    ssl_context: ssl.SSLContext | None,
    authenticator: Authenticator,
    *,
    limit_s: float = HELLO_LIMIT_S,
) -> tuple[socket.socket, Role]:
    """Return an accepted socket as authenticated and non-blocking, with the peer's proven role.

    Call it on a thread of its own: it blocks for up to `limit_s`. The socket is closed if the hello fails.

    Raises:
        OSError, AuthenticationError, ProtocolError: the peer is silent, unknown, or no Shoal.
    """
    end = time.monotonic() + limit_s
    try:
        owner = peer_uid(sock)
        if owner is not None and owner not in (os.getuid(), 0):
            raise AuthenticationError("hello: another user's process")
        sock.settimeout(limit_s)
        tune(sock)
        if ssl_context is not None and sock.family != socket.AF_UNIX:
            sock = ssl_context.wrap_socket(sock, server_side=True)
        hello = ServerHello(authenticator)
        sock.sendall(hello.answer(_exactly(sock, CLIENT_BYTES, end)))
        if hello.is_refused:
            raise AuthenticationError("hello: refused")
        role = hello.check(_exactly(sock, PROOF_BYTES, end))
    except BaseException:
        sock.close()
        raise
    sock.setblocking(False)
    return sock, role


def refusal(error: Exception) -> str:
    """Return why somebody answers at an address and never as a peer of ours; empty for what may pass."""
    if isinstance(error, AuthenticationError) and not isinstance(error, NoAnswer):
        return str(error)
    return tls.verdict(error)


def _exactly(sock: socket.socket, count: int, end: float) -> bytes:
    got = b""
    while len(got) < count:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError("hello: the other side was too slow")
        sock.settimeout(left)
        part = sock.recv(count - len(got))
        if not part:
            raise NoAnswer("hello: the other side closed without an answer")
        got += part
    return got


__all__ = ["AuthenticationError", "ProtocolError", "answer", "dial", "dial_peer", "refusal"]
