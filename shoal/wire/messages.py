"""What an agent and its head say to each other, as typed messages: one frame holds a list of them.

Node and group ids are hex strings, process, actor and lease ids are bytes. Amounts are whole 1/10000. Every
message is one array with its tag first, so a frame decodes in one pass and anything unexpected is a
ProtocolError. Drivers and workers reach the head only through their agent: `Ask` carries their requests, `Reply` the
answers, `Tell` what they subscribed to.

Order on one connection is order of effect. What hangs on the connection (usage, backlog) is frozen when it closes
and resent in full (`Report.is_full`) after a `Join`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from shoal.foundation.amounts import Amounts
from shoal.model.demand import ANYWHERE, Bundle, Selector, Strategy


class _Message(msgspec.Struct, array_like=True, frozen=True):
    pass


# --------------------------------------------------------------------------------------------- agent to head


class ActorHere(_Message, frozen=True):
    """An actor that lives on a joining node."""

    actor_id: bytes
    generation: int
    address: list[Any]


class Join(_Message, frozen=True, tag=1):
    """The first message: who this node is and, after a head restart, what is on it.

    `token` and `join_secret` prove that the machine was launched by us; both are empty for nodes that a person
    started by hand (`shoal start`), which the node credential alone admits. `address` is where peers reach the
    agent: a list of address texts.
    """

    node_id: str
    instance_id: str
    node_type: str
    token: str
    join_secret: str
    total: Amounts
    labels: dict[str, str]
    address: list[str]
    epoch: int
    is_head: bool
    hostname: str
    pid: int
    object_store_bytes: int = 0
    actors: list[ActorHere] = []
    bundles: dict[str, list[int]] = {}
    """Committed bundles: group id to bundle numbers."""
    processes: list[bytes] = []
    """Live drivers and workers, so that the head may answer for them."""
    version: str = ""
    ended: list[ActorEnded] = []
    """Verdicts that an earlier connection may have taken with it, oldest first."""


class Backlog(_Message, frozen=True):
    """What one owner waits for in one class, as its home agent knows it (docs/demand.md).

    `owner` is the owner's process id, `seen` its cumulative count of grants it has absorbed.
    """

    owner: bytes
    class_key: str
    job: str
    waiting: int
    seen: int
    amounts: Amounts
    running_slots: int = 0
    duration_s: float | None = None
    selector: Selector = ANYWHERE
    spread: bool = False
    waiting_s: float = 0.0


class Grants(_Message, frozen=True):
    """How many leases this agent has granted to an owner in a class, cumulative."""

    owner: bytes
    class_key: str
    granted: int


class BusyFor(_Message, frozen=True):
    """One reason why the node is not idle."""

    what: str
    count: int
    detail: str = ""


class Report(_Message, frozen=True, tag=2):
    """Usage and backlog in one cut, at most 50 a second; empty ones are the heartbeat (1 a second).

    Absent (None) fields have not changed. A `Backlog` with `waiting` 0 removes the row. `idle_s` is None while
    busy. `is_full` replaces everything the head held for this node.
    """

    sequence: int
    is_full: bool = False
    free: Amounts | None = None
    total: Amounts | None = None
    idle_serial: int | None = None
    idle_s: float | None = None
    busy: list[BusyFor] | None = None
    backlog: list[Backlog] = []
    granted: list[Grants] = []
    store_used_bytes: int | None = None
    stats: dict[str, float] | None = None


class Ask(_Message, frozen=True, tag=3):
    """A request of a driver or worker (or of the agent itself: `process` empty), answered by one `Reply`."""

    rid: int
    process: bytes
    what: str
    args: dict[str, Any]


class ActorStarted(_Message, frozen=True, tag=4):
    """The actor's constructor returned; `address` is its process address."""

    actor_id: bytes
    generation: int
    process: bytes
    address: list[Any]
    pid: int


class ActorEnded(_Message, frozen=True, tag=5):
    """The actor's process is gone, or its constructor raised. `error` is pickled for the caller, opaque here.

    `cause`: created-failed, exited (by its own wish), killed, crashed, oom, group-removed, refused (no room: place it
    anew).
    """

    actor_id: bytes
    generation: int
    cause: str
    why: str = ""
    error: bytes = b""


class Prepared(_Message, frozen=True, tag=6):
    """The answer to `Prepare`."""

    group_id: str
    serial: int
    is_ready: bool


class Committed(_Message, frozen=True, tag=7):
    """Bundles of the group are usable on this node."""

    group_id: str
    serial: int


class DrainAnswer(_Message, frozen=True, tag=8):
    """`emptied` or `busy`, decided in one turn of the agent's loop, under the same lock as grants."""

    order: str
    answer: str
    why: str = ""


class Died(_Message, frozen=True, tag=9):
    """The agent's verdict (by pidfd) that one of its processes is dead. Journaled only for drivers."""

    process: bytes
    why: str
    is_driver: bool = False


class JobStarted(_Message, frozen=True, tag=10):
    """A driver attached to this agent; its job id was given by the agent."""

    job: str
    process: bytes
    entrypoint: str
    namespace: str
    pid: int


class Leaving(_Message, frozen=True, tag=11):
    """The node ends of its own wish (shutdown, lease, drain done)."""

    why: str


class Happened(_Message, frozen=True, tag=12):
    """Events for the cluster's event log (kind and fields), and rows for the state tables."""

    events: list[tuple[str, dict[str, Any]]]


class Answered(_Message, frozen=True, tag=13):
    """The agent's answer to a `Query`."""

    rid: int
    is_ok: bool
    value: Any


class Printed(_Message, frozen=True, tag=14):
    """What the job's code printed on this node, for its driver on another one: `[[name, line], ...]` of one process.

    The head passes it to the driver's home agent as `Tell` about `printed`; it is lost where nobody is in touch, as
    the files hold it too. `where` tells people the node: `ip=...` or `node=...`.
    """

    job: str
    pid: int
    where: str
    is_error: bool
    lines: list[list[Any]]


class LeftBehind(_Message, frozen=True, tag=15):
    """What ran on a node that is about to go, for the state API: msgpack of {kind: rows}. Said again, it replaces."""

    rows: bytes


# --------------------------------------------------------------------------------------------- head to agent


class Joined(_Message, frozen=True, tag=51):
    """Welcome. Times in seconds; `peers` lists live nodes: id to address texts."""

    node_id: str
    epoch: int
    cluster_uid: str
    fence_s: float
    heartbeat_s: float
    peers: dict[str, list[str]]


class Refused(_Message, frozen=True, tag=52):
    """No: barred, dead, an old epoch, or a wrong join secret. `is_dead`: come back under a new node id."""

    why: str
    is_dead: bool = False


class Reply(_Message, frozen=True, tag=53):
    """The answer to an `Ask`. A failed one carries the error's name and text in `value`: [name, text]."""

    rid: int
    process: bytes
    is_ok: bool
    value: Any


class Tell(_Message, frozen=True, tag=54):
    """News for a process that asked for it (`process` empty: for everyone on the node).

    `what`: actor (state, address, ...), group, node-died, process-died, nodes (membership), infeasible, printed.
    """

    process: bytes
    what: str
    value: Any


class StartActor(_Message, frozen=True, tag=55):
    """Start an actor here; `spec` is opaque to head and agent. `held` is what it holds for life, `amounts` what
    its placement needs."""

    actor_id: bytes
    generation: int
    job: str
    amounts: Amounts
    held: Amounts
    spec: bytes
    group_id: str = ""
    bundle: int = -1
    options: dict[str, Any] = {}


class KillActor(_Message, frozen=True, tag=56):
    """End an actor's process."""

    actor_id: bytes
    generation: int
    why: str


class Prepare(_Message, frozen=True, tag=57):
    """Reserve bundles (number to amounts) for a group; dropped after 30 s without `Commit`."""

    group_id: str
    serial: int
    bundles: dict[int, Amounts]
    job: str = ""


class Commit(_Message, frozen=True, tag=58):
    """The group is journaled: the prepared bundles are its own."""

    group_id: str
    serial: int


class ReturnBundles(_Message, frozen=True, tag=59):
    """The group is removed: kill what runs inside and free the bundles."""

    group_id: str
    why: str


class Cordon(_Message, frozen=True, tag=60):
    """Take no new work (`is_on`), or take it again."""

    order: str
    is_on: bool


class Drain(_Message, frozen=True, tag=61):
    """Empty the node: only if `idle_serial` still holds, or by `deadline_s` (a duration)."""

    order: str
    idle_serial: int | None
    deadline_s: float | None


class End(_Message, frozen=True, tag=62):
    """The cluster goes down or the node is released: end everything here."""

    why: str


class Query(_Message, frozen=True, tag=63):
    """A question of the state API to one agent: what (tasks, objects, workers, logs, ...) and how much."""

    rid: int
    what: str
    args: dict[str, Any]


class Revoke(_Message, frozen=True, tag=64):
    """A job ended: end its leases, workers, actors and bundles here."""

    job: str
    why: str


class Granted(_Message, frozen=True, tag=65):
    """Work that the head placed for an owner of this agent: `count` leases of a class may be asked of each node."""

    process: bytes
    class_key: str
    nodes: list[tuple[str, int]]


class GroupSpec(_Message, frozen=True):
    """A placement group as its creator asked for it (argument of the `create_group` request)."""

    group_id: str
    bundles: list[Bundle]
    strategy: Strategy
    name: str = ""
    job: str = ""
    is_detached: bool = False


ToHead = (
    Join
    | Report
    | Ask
    | ActorStarted
    | ActorEnded
    | Prepared
    | Committed
    | DrainAnswer
    | Died
    | JobStarted
    | Leaving
    | Happened
    | Answered
    | Printed
    | LeftBehind
)
ToAgent = (
    Joined
    | Refused
    | Reply
    | Tell
    | StartActor
    | KillActor
    | Prepare
    | Commit
    | ReturnBundles
    | Cordon
    | Drain
    | End
    | Query
    | Revoke
    | Granted
)
TO_HEAD = list[ToHead]
TO_AGENT = list[ToAgent]
