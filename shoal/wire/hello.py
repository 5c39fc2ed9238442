"""The hello: how both ends of every connection prove themselves before anything else is read. Pure, sans I/O.

Three fixed-size messages; nothing of variable length exists before they are checked.

    client -> server   magic 4 | version 2 | role 1 | 0 1 | uid 16 | nonce 32                    = 56 bytes
    server -> client   magic 4 | version 2 | role 1 | verdict 1 | uid 16 | nonce 32 | proof 32   = 88 bytes
    client -> server   proof 32                                                                  = 32 bytes

A proof is HMAC-SHA256 under the secret of the *client's* role over a label and everything said before, so it
cannot be replayed or turned around. A server that does not know the uid or role answers with a verdict and
random bytes, then closes.

Roles form a chain: admin > node > driver > read. The secret of a role is HMAC(secret of the role above, name), so
whoever holds a role can also act as, and check, every role below it, and none above.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from enum import IntEnum
from typing import Protocol

from shoal.foundation.errors import AuthenticationError, ProtocolError

MAGIC = b"SHL\x01"
VERSION = 1
HELLO_LIMIT_S = 2.0
"""How long a peer may take for its whole hello."""
UNAUTHENTICATED_MAX = 64
"""How many connections of one listener may be in their hello at once; further ones are closed."""
SECRET_BYTES = 32

_CLIENT = struct.Struct("<4sHBB16s32s")
_SERVER = struct.Struct("<4sHBB16s32s32s")
CLIENT_BYTES, SERVER_BYTES, PROOF_BYTES = _CLIENT.size, _SERVER.size, 32
_WELCOME, _OTHER_VERSION, _OTHER_CLUSTER, _NOT_HERE = range(4)
_VERDICTS = {
    _OTHER_VERSION: "the other side speaks another version of the protocol",
    _OTHER_CLUSTER: "another cluster listens there",
    _NOT_HERE: "this role is not served there",
}


class Role(IntEnum):
    """What a credential allows, weakest first."""

    READ = 1
    DRIVER = 2
    NODE = 3
    ADMIN = 4


def fresh_secret() -> bytes:
    """Return a new root (admin) secret."""
    return os.urandom(SECRET_BYTES)


def secret_for(role: Role, held: bytes, held_role: Role = Role.ADMIN) -> bytes:
    """Return the secret of `role`, derived from one of the same or a higher role.

    Raises:
        AuthenticationError: the held role is below the wanted one.
    """
    if held_role < role:
        raise AuthenticationError(f"a `{held_role.name.lower()}` credential cannot act as `{role.name.lower()}`")
    for below in range(held_role - 1, role - 1, -1):
        held = hmac.digest(held, b"shoal role " + Role(below).name.encode(), hashlib.sha256)
    return held


class Authenticator(Protocol):
    """Who we are and whom we believe."""

    uid: bytes
    role: Role

    def secret(self, role: Role) -> bytes | None:
        """Return the secret of a role that we can check or act as, None if we cannot."""
        ...


class Credential:
    """An `Authenticator` from one secret of one role; `serves` limits which roles may connect to us."""

    def __init__(self, uid: str, secret: bytes, role: Role = Role.ADMIN, *, serves_from: Role = Role.READ) -> None:
        self.uid = bytes.fromhex(uid)
        self.role = role
        self._secret = secret
        self._serves_from = serves_from

    def secret(self, role: Role) -> bytes | None:
        return secret_for(role, self._secret, self.role) if role <= self.role else None

    def admits(self, role: Role) -> bool:
        """Say whether a listener with this credential takes connections of that role at all."""
        return self._serves_from <= role <= self.role

    def lowered(self, role: Role) -> Credential:
        """Return the credential for a lower role: what we hand to workers."""
        return Credential(self.uid.hex(), secret_for(role, self._secret, self.role), role)

    def bearer(self, role: Role | None = None) -> str:
        """Return the token text for HTTP and gRPC: `role:hex`; derived, so that it never equals a hello secret."""
        chosen = self.role if role is None else role
        return f"{chosen.name.lower()}:{_bearer_of(secret_for(chosen, self._secret, self.role))}"

    def checks_bearer(self, text: str) -> Role | None:
        """Return the role that a bearer token proves, None if it proves nothing. Constant time per role."""
        name, _, digits = text.partition(":")
        role = Role.__members__.get(name.upper())
        if role is None or not self.admits(role):
            return None
        expected = _bearer_of(secret_for(role, self._secret, self.role))
        return role if hmac.compare_digest(expected.encode(), digits.encode("utf-8", "replace")) else None


class ClientHello:
    """The client's half: send `first`, give the answer to `reply`, send what it returns."""

    def __init__(self, credential: Authenticator, *, role: Role | None = None, nonce: bytes | None = None) -> None:
        self._role = credential.role if role is None else role
        secret = credential.secret(self._role)
        if secret is None:
            raise AuthenticationError(f"no secret for role `{self._role.name.lower()}`")
        self._secret, self._uid = secret, credential.uid
        self.first = _CLIENT.pack(MAGIC, VERSION, self._role, 0, self._uid, nonce or os.urandom(32))

    def reply(self, answer: bytes) -> bytes:
        """Check the server's answer of SERVER_BYTES and return our proof.

        Raises:
            ProtocolError: it is not an answer of ours.
            AuthenticationError: the server refused us, or does not know the secret.
        """
        magic, version, _, verdict, uid, _, proof = _SERVER.unpack(answer)
        if magic != MAGIC:
            raise ProtocolError("hello: no Shoal answered")
        if verdict != _WELCOME:
            raise AuthenticationError(f"hello: {_VERDICTS.get(verdict, 'refused')}")
        if version != VERSION or uid != self._uid:
            raise AuthenticationError("hello: the answer is not from this cluster")
        said = self.first + answer[:-PROOF_BYTES]
        if not hmac.compare_digest(proof, _proof(self._secret, b"server", said)):
            raise AuthenticationError("hello: the server does not know the secret")
        return _proof(self._secret, b"client", said + proof)


class ServerHello:
    """The server's half: give CLIENT_BYTES to `answer`, send what it returns, give PROOF_BYTES to `check`."""

    def __init__(self, credential: Authenticator, *, nonce: bytes | None = None) -> None:
        self._credential = credential
        self._nonce = nonce or os.urandom(32)
        self._secret: bytes | None = None
        self._said = b""
        self.role: Role | None = None
        """The client's role; proven only once `check` has returned."""

    def answer(self, first: bytes) -> bytes:
        """Return the answer to a client's first message.

        Raises:
            ProtocolError: this is no hello; close without a word.
        """
        magic, version, role, zero, uid, _ = _CLIENT.unpack(first)
        if magic != MAGIC or zero != 0:
            raise ProtocolError("hello: expected a Shoal peer, got something else")
        secret, verdict = None, _WELCOME
        if version != VERSION:
            verdict = _OTHER_VERSION
        elif uid != self._credential.uid:
            verdict = _OTHER_CLUSTER
        elif role not in Role._value2member_map_ or (secret := self._secret_for(Role(role))) is None:
            verdict = _NOT_HERE
        else:
            self.role = Role(role)
        self._secret = secret
        head = _SERVER.pack(MAGIC, VERSION, role, verdict, self._credential.uid, self._nonce, b"")[:-PROOF_BYTES]
        proof = _proof(secret, b"server", first + head) if secret else os.urandom(PROOF_BYTES)
        self._said = first + head + proof
        return head + proof

    @property
    def is_refused(self) -> bool:
        """Whether the answer was a refusal: send it, then close."""
        return self._secret is None

    def check(self, proof: bytes) -> Role:
        """Return the client's proven role.

        Raises:
            AuthenticationError: the client does not know the secret.
        """
        if self._secret is None or self.role is None:
            raise AuthenticationError("hello: refused")
        if not hmac.compare_digest(proof, _proof(self._secret, b"client", self._said)):
            raise AuthenticationError(f"hello: a peer claimed role `{self.role.name.lower()}` without its secret")
        return self.role

    def _secret_for(self, role: Role) -> bytes | None:
        admits = getattr(self._credential, "admits", None)
        return None if admits is not None and not admits(role) else self._credential.secret(role)


def _proof(secret: bytes, label: bytes, said: bytes) -> bytes:
    return hmac.digest(secret, b"shoal hello " + label + said, hashlib.sha256)


def _bearer_of(secret: bytes) -> str:
    return hmac.digest(secret, b"shoal bearer", hashlib.sha256).hex()
