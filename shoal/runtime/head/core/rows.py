"""The journal's tables: what survives the head. The same structs are the core's own records, so nothing is copied.

Never here: heartbeats, leases, backlog, locations, task events. Wall times are for records; no decision compares them
with another machine's.
"""

from __future__ import annotations

from typing import Any

import msgspec

from shoal.foundation.amounts import Amounts
from shoal.model.demand import ANYWHERE, Bundle, Selector
from shoal.runtime.decide.actor_states import ActorState
from shoal.runtime.decide.group_states import GroupState
from shoal.wire.messages import GroupSpec

SCHEMA = 1


class MetaRow(msgspec.Struct, kw_only=True):
    """One row, key `meta`: whose journal this is."""

    uid: str
    epoch: int
    schema: int = SCHEMA
    starts: int = 0
    """How often a head started on this journal: versions of later ones are higher."""
    join_keys: dict[int, bytes] = {}
    """Epoch to key of join secrets; older ones stay, so that a replayed launch can still join."""
    session: int = 0
    session_owner: str = ""
    job_serial: int = 0
    config_generation: int = 0
    config_hash: str = ""


class NodeRow(msgspec.Struct, kw_only=True):
    """One node that joined. `verdict` empty while it lives."""

    node_id: str
    instance_id: str
    node_type: str
    total: Amounts
    labels: dict[str, str]
    address: list[str]
    is_head: bool
    hostname: str
    pid: int
    object_store_bytes: int = 0
    version: str = ""
    joined_wall_s: float = 0.0
    ended_wall_s: float = 0.0
    verdict: str = ""  # "" | "dead" | "left"
    why: str = ""


class JoinRow(msgspec.Struct, kw_only=True):
    """Which instance has joined with which launch token: a token is used by one instance."""

    instance_id: str
    token: str
    node_id: str
    public_key: bytes = b""


class OrderRow(msgspec.Struct, kw_only=True):
    """A cordon or bar of an instance."""

    instance_id: str
    kind: str  # "cordon" | "bar"
    order: str
    until_wall_s: float | None = None
    ttl_s: float | None = None


class JobRow(msgspec.Struct, kw_only=True):
    """One driver's life."""

    job: str
    entrypoint: str
    namespace: str
    pid: int
    process: bytes
    node_id: str = ""
    labels: dict[str, Any] = {}
    is_remote: bool = False
    began_wall_s: float = 0.0
    ended_wall_s: float = 0.0
    is_ended: bool = False
    why: str = ""


class ActorRow(msgspec.Struct, kw_only=True):
    """One actor. `generation` counts incarnations that may have run, `restarts` those that the user sees."""

    actor_id: bytes
    job: str
    class_name: str
    name: str = ""
    namespace: str = ""
    is_detached: bool = False
    restarts_max: int = 0
    amounts: Amounts = {}
    held: Amounts = {}
    selector: Selector = ANYWHERE
    spread: bool = False
    group_id: str = ""
    bundle: int = -1
    seat: int = -1
    """The bundle that it was given, -1 outside groups."""
    handle: bytes = b""
    spec: bytes = b""
    options: dict[str, Any] = {}
    creator: bytes = b""
    creator_node: str = ""
    state: ActorState = ActorState.PENDING
    generation: int = 0
    restarts: int = 0
    node_id: str = ""
    process: bytes = b""
    pid: int = 0
    address: list[Any] = []
    cause: str = ""
    why: str = ""
    error: bytes = b""
    is_dropped: bool = False
    began_wall_s: float = 0.0
    ended_wall_s: float = 0.0


class GroupRow(msgspec.Struct, kw_only=True):
    """One placement group; `nodes` has the node of each bundle, empty text where it has none."""

    spec: GroupSpec
    state: GroupState = GroupState.PENDING
    nodes: list[str] = []
    serial: int = 0
    creator: bytes = b""
    creator_node: str = ""
    why: str = ""


class StandingRow(msgspec.Struct, kw_only=True):
    """One `request_resources`; it ends at `until_wall_s`, whatever happens in between."""

    owner: str
    job: str
    bundles: tuple[Bundle, ...]
    ttl_s: float
    until_wall_s: float


class KeyRow(msgspec.Struct, kw_only=True):
    """One value of the key-value spaces."""

    value: bytes


TABLES: dict[str, type] = {
    "meta": MetaRow,
    "nodes": NodeRow,
    "joins": JoinRow,
    "orders": OrderRow,
    "jobs": JobRow,
    "actors": ActorRow,
    "groups": GroupRow,
    "standing": StandingRow,
    "keys": KeyRow,
}
"""Every table and the struct of its rows. Names of actors and groups are columns of theirs: one truth."""
