"""Names of things: how each id is made, and what may be read from it.

Random ids come from the operating system through `fresh`; everything that must repeat under a seed takes a
`Chance` instead. A `ProcessId` is never used twice: the incarnation of its node is random.
"""

from __future__ import annotations

import base64
import hashlib
import os
import random

CLUSTER_UID_BYTES = 16
NODE_ID_BYTES = 14
PROCESS_ID_BYTES = 18  # node id + 4 bytes counter, given out by the node's agent
OBJECT_ID_BYTES = 24  # process id of the owner + 6 bytes counter


class IdText(str):
    """An id as hex text, with the methods that Ray's ids have."""

    __slots__ = ()

    def hex(self) -> str:
        """Return it as hex text."""
        return str(self)

    def binary(self) -> bytes:
        """Return it as bytes."""
        return bytes.fromhex(self)

    def is_nil(self) -> bool:
        """Say whether it names nothing."""
        return not self


def fresh(count: int) -> bytes:
    """Return `count` random bytes from the operating system."""
    return os.urandom(count)


def cluster_uid(chance: random.Random | None = None) -> str:
    """Return a new cluster's uid: 32 hex digits. A name alone never identifies a cluster."""
    return (chance.randbytes(CLUSTER_UID_BYTES) if chance else fresh(CLUSTER_UID_BYTES)).hex()


def instance_id(cluster: str, serial: int) -> str:
    """Return the id of the ledger's `serial`-th instance: `i-<6 of the uid>-<serial>`.

    >>> instance_id("ab12cd34" * 4, 7)
    'i-ab12cd-00007'
    """
    return f"i-{cluster[:6]}-{serial:05d}"


def launch_token(cluster: str, instances: tuple[str, ...], attempt: int) -> str:
    """Return the launch token of one attempt: 31 characters, valid as a name in every cloud.

    Source: docs/provider-contract.md: base32 of blake2 over uid, instance ids and attempt; shape `[a-z][a-z0-9]{30}`.

    >>> launch_token("ab" * 16, ("i-ababab-00001",), 1) == launch_token("ab" * 16, ("i-ababab-00001",), 1)
    True
    """
    text = "\0".join((cluster, *instances, str(attempt)))
    digest = hashlib.blake2b(text.encode(), digest_size=19).digest()
    return "s" + base64.b32encode(digest).decode().lower().rstrip("=")[:30]
