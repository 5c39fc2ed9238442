"""Addresses: `unix:/path` or `tcp:host:port`. Everything listens on loopback or a Unix socket unless asked.

`via:` before one names the home agent of a process that nobody else can reach.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from shoal.foundation.errors import BadInput

UNIX_PATH_BYTES_MAX = 100
VIA = "via:"


class Address(msgspec.Struct, frozen=True, order=True):
    """Where something listens."""

    scheme: str  # "unix" | "tcp"
    host: str  # the socket's path for "unix"
    port: int = 0

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix:{self.host}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp:{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.scheme == "unix" or self.host in ("127.0.0.1", "::1", "localhost")


def parse(text: str) -> Address:
    """Return the address that `text` names; `host:port` without a scheme is tcp.

    Raises:
        BadInput: it is neither.
    """
    if text.startswith("unix:"):
        return unix(Path(text[5:]))
    host, colon, port = text.removeprefix("tcp:").rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise BadInput(f"address: expected HOST:PORT or unix:PATH, got `{text}`")
    return Address("tcp", host.strip("[]"), int(port))


def unix(path: Path) -> Address:
    """Return the address of a Unix socket.

    Raises:
        BadInput: the path is too long for a socket.
    """
    if len(str(path).encode()) > UNIX_PATH_BYTES_MAX:
        raise BadInput(
            f"socket path: at most {UNIX_PATH_BYTES_MAX} bytes, got {len(str(path).encode())}: `{path}`",
            hint="set SHOAL_RUNTIME_DIR to a shorter path",
        )
    return Address("unix", str(path))


class Socket(Protocol):
    """What is asked of a socket here: event loops lend theirs out as objects of their own, no `socket.socket`."""

    @property
    def family(self) -> int: ...

    def getsockopt(self, level: int, option: int, length: int, /) -> bytes: ...

    def setsockopt(self, level: int, option: int, value: int, /) -> None: ...


def tune(sock: Socket) -> None:
    """Set what every connection of ours wants: no Nagle, 1 MiB buffers, keep-alive on TCP."""
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, 1 << 20)


def lose_after(descriptor: int, silent_s: float) -> None:
    """Have the system break a TCP connection whose other host has been silent for `silent_s`, busy or not.

    The other host's system answers for its process, however busy that is; where it has ended, it says so itself.
    """
    sock = socket.socket(fileno=os.dup(descriptor))  # an event loop lends its socket out without its options
    try:
        if sock.family == socket.AF_UNIX:
            return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        whole = max(3, round(silent_s))
        for name, value in {
            "TCP_KEEPIDLE": max(1, whole // 3),
            "TCP_KEEPINTVL": max(1, whole // 6),
            "TCP_KEEPCNT": 4,
            "TCP_USER_TIMEOUT": whole * 1000,  # the same for what was sent and never acknowledged
        }.items():
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    finally:
        sock.close()


def reachable(texts: Sequence[str]) -> list[str]:
    """Return the addresses worth dialling, best first: a Unix socket whose file is here, then TCP.

    An address that begins with `via:` is one of the process's home agent, which passes everything on (`by_way_of`).
    """
    plain = {text: text.removeprefix(VIA) for text in texts}
    here = [text for text, bare in plain.items() if bare.startswith("unix:") and Path(bare[5:]).exists()]
    return here + [text for text, bare in plain.items() if not bare.startswith("unix:")]


def by_way_of(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the addresses of a process that only its home agent, which listens at `texts`, can reach."""
    return tuple(VIA + text for text in texts)


def peer_uid(sock: Socket) -> int | None:
    """Return the user id at the other end of a Unix socket, None where the system does not say."""
    if sock.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
        return None
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)
