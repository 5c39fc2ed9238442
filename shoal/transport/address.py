"""Addresses: `unix:/path` or `tcp:host:port`. Everything listens on loopback or a Unix socket unless asked."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import msgspec

from shoal.foundation.errors import BadInput

UNIX_PATH_BYTES_MAX = 100


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


def tune(sock: socket.socket) -> None:
    """Set what every connection of ours wants: no Nagle, 1 MiB buffers, keep-alive on TCP."""
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, 1 << 20)


def peer_uid(sock: socket.socket) -> int | None:
    """Return the user id at the other end of a Unix socket, None where the system does not say."""
    if sock.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
        return None
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)
