"""A driver on a host that is not of the cluster: `init("HOST:PORT")` with the cluster's secret, over one connection.

The secret is the file of role driver (or above) that the head's machine keeps in its cluster directory:
SHOAL_SECRET_FILE names a copy, or SHOAL_SECRET holds its line. Where hosts encrypt, SHOAL_TLS_CERT, SHOAL_TLS_KEY and
SHOAL_TLS_CA name this host's certificate, its key, and the authority's certificate.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from shoal.foundation.errors import AuthenticationError, NoCluster, ProtocolError
from shoal.runtime.client.core import Elsewhere
from shoal.transport import discovery, tls
from shoal.transport.address import Address, parse
from shoal.wire.hello import Credential, Role

if TYPE_CHECKING:
    from shoal.runtime.client.session import Session

SECRET_FILE, SECRET = "SHOAL_SECRET_FILE", "SHOAL_SECRET"
TLS_FILES = ("SHOAL_TLS_CERT", "SHOAL_TLS_KEY", "SHOAL_TLS_CA")


class Remote(msgspec.Struct, frozen=True):
    """A cluster of other hosts: where `init` was told to dial."""

    frames: str
    name: str = "remote"


def remote(address: str) -> Remote | None:
    """Return the cluster that HOST:PORT names, None if the text is no such address."""
    host, _, port = address.removeprefix("tcp:").rpartition(":")
    return Remote(str(parse(address))) if host and port.isdecimal() else None


def connect_from_elsewhere(found: Remote, info: dict[str, Any]) -> Session:
    """Return a session of a driver that nobody can dial.

    Raises:
        NoCluster: nobody answers there, or not the cluster of our secret; or there is no secret.
        BadInput: the secret or a certificate cannot be used.
    """
    from shoal.runtime.client.driver import connect

    credential = _credential(found)
    files = _tls()
    context = files.dialling() if files is not None else None
    # Folders of this host mean nothing over there.
    told = {**info, "is_remote": True, "sys_path": [], "cwd": ""}
    address = found.frames
    try:
        try:
            return connect(address, Path(), credential, told, context)
        except Elsewhere as error:
            address = _beside(found, error.addresses)
            return connect(address, Path(), credential, told, context)
    except (AuthenticationError, ProtocolError) as error:
        raise NoCluster(
            f"{address}: {error}", hint=f"do {SECRET_FILE} and, if its hosts encrypt, {TLS_FILES[0]} belong to it?"
        ) from error
    except OSError as error:
        raise NoCluster(f"{address}: {error.strerror or error}", hint="is this the address of a head?") from error


def _credential(found: Remote) -> Credential:
    """Return who we are over there: what the environment says, as a driver."""
    path, line = os.environ.get(SECRET_FILE), os.environ.get(SECRET)
    if path:
        return discovery.load_credential(Path(path)).lowered(Role.DRIVER)
    if line:
        return discovery.parsed_credential(line, SECRET).lowered(Role.DRIVER)
    raise NoCluster(
        f"no live cluster `{found.frames.removeprefix('tcp:')}` on this machine",
        hint=f"to drive one of another host, copy its driver.secret here and set {SECRET_FILE}",
    )


def _tls() -> tls.TlsFiles | None:
    """Return the files that the environment names, None for none."""
    paths = {name: os.environ.get(name) for name in TLS_FILES}
    return tls.given({name: Path(path) if path else None for name, path in paths.items()})


def _beside(found: Remote, addresses: Sequence[str]) -> str:
    """Return where the head machine's agent listens, seen from here."""
    for text in addresses:
        listening = parse(text)
        if listening.scheme == "tcp":
            head = parse(found.frames)
            host = head.host if listening.host in ("0.0.0.0", "::") else listening.host
            return str(Address("tcp", host, listening.port))
    raise NoCluster(
        f"{found.frames}: this cluster serves drivers of its own machine only",
        hint="start it with `shoal start --head --host ADDRESS`",
    )
