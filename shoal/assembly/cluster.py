"""How a cluster on this machine starts and ends: the specs of its processes, and the order of things.

    <state dir>/            what must outlive a crash: identity, the YAML, journal, ledger, events, logs, machines/
    <runtime dir>/<uid>/    sockets, secrets, specs; gone with the cluster

The head machine's guard is the life of the cluster. Whatever is interrupted, `start` or `end` called again completes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

import shoal
from shoal.assembly.boot import in_both_dialects
from shoal.assembly.specs import JOINED, AutoscalerSpec, HeadSpec, NodeSpec
from shoal.foundation import ids
from shoal.foundation.errors import Held, UserError
from shoal.guard import processes
from shoal.guard.lock import lock_holder
from shoal.guard.machine import Child, MachineSpec
from shoal.guard.spawn import reap, spawn_guard
from shoal.transport import address as addresses
from shoal.transport import discovery
from shoal.transport.discovery import ClusterFile, write_private
from shoal.transport.tls import TlsFiles
from shoal.wire.hello import Role, fresh_secret, secret_for

READY_LIMIT_S = 30.0
END_LIMIT_S = 10.0
REMAINS_GRACE_S = 3.0
"""How long what a killed guard left may take to end by itself before it is killed."""
TURN_LIMIT_S = 15.0
"""How long an `up` or `down` waits for another one at work on the same name."""
HEAD_INSTANCE = "head"
LOCK = ".lock"
CONFIG = "cluster.yaml"
"""The YAML as `up` wrote it last; the autoscaler follows it."""
CONFIG_IN_FORCE = "cluster.in-force.yaml"
"""The last one that was taken over: what holds while `CONFIG` is broken, and what `down` goes by."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who a cluster is, as its state directory remembers it. The uid is random; a name alone identifies nothing."""

    name: str
    uid: str
    epoch: int
    created_wall_s: float


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What to start on this machine. Resources are whole 1/10000.

    `config` is the YAML's text, None for a head that was started by hand (then nothing scales). `frames` and
    `grpc` are address texts; empty means sockets in the runtime directory. `driver_port`: where drivers of other hosts
    are served, 0 for any port; used only where `frames` can be reached from there.
    """

    name: str
    resources: dict[str, int]
    node_type: str = ""
    labels: dict[str, str] = {}
    config: str | None = None
    config_path: str = ""
    frames: tuple[str, ...] = ()
    grpc: str = ""
    object_store_bytes: int = 0
    request_ttl_s: float = 3600.0
    node_dead_s: float = 40.0
    fence_s: float = 25.0
    job_dead_s: float = 30.0
    driver_port: int = 0
    tls: TlsFiles | None = None


class AlreadyUp(Held):
    """The cluster that should be started lives."""


def live(name: str) -> ClusterFile | None:
    """Return the cluster of that name, None if it is not up or if its end was begun (and interrupted).

    `end` raises the epoch before it touches anything, so a process of an older epoch is on its way out.
    """
    file = discovery.find(name)
    if file is None:
        return None
    identity = read_identity(discovery.state_dir(name))
    return None if identity is not None and identity.epoch > file.epoch else file


def start(wanted: Wanted, *, say: Callable[[str], None] = lambda text: None) -> ClusterFile:
    """Start the cluster and return once its head machine's guard lives.

    What an interrupted `start` or `end` left is ended first; a guard that an interrupted `start` was about to start is
    waited for.

    Raises:
        AlreadyUp: it lives.
        Held: it is being started or ended by somebody else.
        UserError: its guard could not start; the message says where its log is.
    """
    state = discovery.state_dir(wanted.name)
    with _exclusively(state, wanted.name) as turn:
        if (found := live(wanted.name)) is not None:
            raise AlreadyUp(f"cluster `{wanted.name}` is already up (pid {found.pid})")
        _end_guard(discovery.find(wanted.name))
        identity = _next_identity(state, wanted.name)
        runtime = discovery.cluster_dir(identity.uid)
        folder = runtime / "head"
        folder.mkdir(mode=0o700, exist_ok=True)
        _end_remains(folder)
        (runtime / "n" / JOINED).unlink(missing_ok=True)
        _write_secrets(state, runtime, identity.uid)
        if wanted.config is not None:
            for name in (CONFIG, CONFIG_IN_FORCE):
                write_private(state / name, wanted.config.encode())
        spec = _head_machine(wanted, identity, state, runtime)
        write_private(folder / "machine.json", msgspec.json.encode(spec))
        log = state / "logs" / "guard-head.log"
        guard = spawn_guard(folder, log, holding=turn)
        say(f"guard started (pid {guard})")
        return wait_for_file(wanted.name, identity.uid, guard, log)


def end(name: str, release_all: Callable[[Identity, Path, Path], None]) -> bool:
    """End a cluster and everything of it; return whether there was anything to end.

    `release_all(identity, state, runtime)` gives back every machine by tag, with or without head and ledger; it is
    called after the head machine's processes are gone, so that nothing buys any more.

    Raises:
        Held: somebody else is starting or ending it right now.
    """
    state = discovery.state_dir(name)
    with _exclusively(state, name):
        identity = read_identity(state)
        if identity is None:
            _remove_state(state)
            return False
        raised = msgspec.structs.replace(identity, epoch=identity.epoch + 1)
        # A full disk must not keep anyone from ending what fills it; the raised epoch is for others on the way up.
        with contextlib.suppress(OSError):
            write_private(state / "identity.json", msgspec.json.encode(raised))
        runtime = discovery.cluster_dir(identity.uid)
        _end_guard(discovery.find(name))
        _end_remains(runtime / "head")
        release_all(raised, state, runtime)
        _sweep_shared_memory()
        discovery.remove(name, identity.uid)
        shutil.rmtree(runtime, ignore_errors=True)
        _remove_state(state)
        return True


def end_node(file: ClusterFile) -> None:
    """End a node or head that was started by hand: its guard, in order, with all it runs."""
    _end_guard(file)
    _sweep_shared_memory()
    discovery.remove(file.name, file.uid)


def read_identity(state: Path) -> Identity | None:
    """Return the identity that a state directory remembers, None if it holds none."""
    try:
        return msgspec.json.decode((state / "identity.json").read_bytes(), type=Identity)
    except (OSError, msgspec.DecodeError):
        return None


# ------------------------------------------------------------------------------------------------ the head machine


def _head_machine(wanted: Wanted, identity: Identity, state: Path, runtime: Path) -> MachineSpec:
    """Write the specs of head, agent and autoscaler, and return the guard's."""
    folder, logs = runtime / "head", state / "logs"
    frames = list(wanted.frames) or [f"unix:{runtime / 'head.sock'}"]
    grpc = wanted.grpc or f"unix:{runtime / 'grpc.sock'}"
    head = HeadSpec(
        uid=identity.uid,
        cluster_name=wanted.name,
        epoch=identity.epoch,
        directory=str(runtime),
        secret_file=str(runtime / "admin.secret"),
        frames=frames,
        grpc=grpc,
        journal=str(state / "journal.sqlite"),
        events=str(state / "head-events.jsonl"),
        request_ttl_s=wanted.request_ttl_s,
        node_dead_s=wanted.node_dead_s,
        fence_s=wanted.fence_s,
        tls=wanted.tls,
    )
    node = NodeSpec(
        instance_id=HEAD_INSTANCE,
        node_type=wanted.node_type,
        token="",
        join_secret="",
        resources=wanted.resources,
        labels={**in_both_dialects({"node-group": wanted.node_type, "market-type": "on-demand"}), **wanted.labels},
        head_address=frames[0],
        epoch=identity.epoch,
        uid=identity.uid,
        cluster_name=wanted.name,
        directory=str(runtime / "n"),
        log_dir=str(logs / HEAD_INSTANCE),
        other_logs={
            "logs": str(logs),  # of head, agent, guard and autoscaler, as the guard names them
            "head-events.jsonl": str(state / "head-events.jsonl"),
            "autoscaler-events.jsonl": str(state / "events.jsonl"),
        },
        secret_file=str(runtime / "node.secret"),
        is_head=True,
        listen=_beside(frames[0], wanted.driver_port),
        object_store_bytes=wanted.object_store_bytes,
        job_dead_s=wanted.job_dead_s,
        tls=wanted.tls,
    )
    write_private(folder / "head.json", msgspec.json.encode(head))
    write_private(folder / "node.json", msgspec.json.encode(node))
    children = [_child("head", folder / "head.json"), _child("agent", folder / "node.json")]
    if wanted.config is not None:
        autoscaler = AutoscalerSpec(
            uid=identity.uid,
            cluster_name=wanted.name,
            epoch=identity.epoch,
            config=str(state / CONFIG),
            secret_file=str(runtime / "admin.secret"),
            grpc=grpc,
            head_address=frames[0],
            ledger=str(state / "ledger.sqlite"),
            events=str(state / "events.jsonl"),
            directory=str(state),
            log_dir=str(logs),
            sockets=str(runtime),
            node_secret_file=str(runtime / "node.secret"),
        )
        write_private(folder / "autoscaler.json", msgspec.json.encode(autoscaler))
        # Its imports would take a core from head and agent, and nothing can wait before the head's node has joined.
        joined = str(runtime / "n" / JOINED)
        children.append(msgspec.structs.replace(_child("autoscaler", folder / "autoscaler.json"), after_file=joined))
    return MachineSpec(
        name=HEAD_INSTANCE,
        uid=identity.uid,
        instance_id=HEAD_INSTANCE,
        role="head",
        children=children,
        secret_file=str(runtime / "node.secret"),
        log_dir=str(logs),
        cluster_file=ClusterFile(
            name=wanted.name,
            uid=identity.uid,
            pid=0,
            started="",
            directory=str(runtime),
            frames=frames[0],
            grpc=grpc,
            agent=f"unix:{runtime / 'n' / 'agent.sock'}",
            epoch=identity.epoch,
            config=wanted.config_path,
            started_wall_s=time.time(),
            version=shoal.__version__,
        ),
    )


def _beside(frames: str, port: int) -> list[str]:
    """Return where the head machine's agent listens for other hosts: where the head does, on a port of its own."""
    head = addresses.parse(frames)
    return [] if head.is_loopback else [str(addresses.Address("tcp", head.host, port))]


def _child(role: str, spec: Path) -> Child:
    return Child(name=role, argv=[sys.executable, "-m", "shoal.assembly", role, str(spec)])


def _write_secrets(state: Path, runtime: Path, uid: str) -> None:
    """Keep the root secret with the state, and put the secret of each role where its processes read it."""
    path = state / "admin.secret"
    if path.exists():
        root = discovery.load_credential(path).secret(Role.ADMIN)
        assert root is not None
    else:
        root = fresh_secret()
        discovery.save_secret(state, Role.ADMIN, root, uid)
    for role in Role:
        discovery.save_secret(runtime, role, secret_for(role, root), uid)


def _next_identity(state: Path, name: str) -> Identity:
    held = read_identity(state)
    fresh = (
        Identity(name=name, uid=ids.cluster_uid(), epoch=1, created_wall_s=time.time())
        if held is None
        else msgspec.structs.replace(held, epoch=held.epoch + 1)
    )
    write_private(state / "identity.json", msgspec.json.encode(fresh))
    return fresh


# --------------------------------------------------------------------------------------------------------- guards


def wait_for_file(name: str, uid: str, guard: int, log: Path) -> ClusterFile:
    """Return the discovery file that a just started guard writes.

    Raises:
        UserError: the guard ended instead, or took too long; the message has its last words.
    """
    deadline_s = time.monotonic() + READY_LIMIT_S
    while time.monotonic() < deadline_s:
        found = discovery.find(name)
        if found is not None and found.uid == uid:
            return found
        if reap(guard):
            said = log.read_text().strip().splitlines()[-1:] if log.exists() else []
            raise UserError(f"the guard of `{name}` ended: {''.join(said) or 'no word'}", hint=f"see {log}")
        time.sleep(0.005)
    raise UserError(f"the guard of `{name}` did not start within {READY_LIMIT_S:.0f} s", hint=f"see {log}")


def _end_guard(file: ClusterFile | None) -> None:
    """Ask a guard to end, wait, and kill its whole session if it takes too long."""
    if file is None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(file.pid, signal.SIGTERM)
    deadline_s = time.monotonic() + END_LIMIT_S
    while discovery.process_started(file.pid) == file.started:
        if time.monotonic() > deadline_s:
            processes.kill_session(file.pid)
        reap(file.pid)
        time.sleep(0.005)


def _end_remains(folder: Path) -> None:
    """Wait until nothing runs any more of a head machine whose guard was killed, and kill what takes too long.

    Its processes inherit the guard's lock, so the lock is free exactly when all are gone. An old head or agent that
    ended beside a new one would take the sockets away that both call theirs.

    Raises:
        UserError: they cannot be ended.
    """
    began_s = time.monotonic()
    while (holder := lock_holder(folder)) is not None:
        waited_s = time.monotonic() - began_s
        if waited_s > REMAINS_GRACE_S + END_LIMIT_S:
            left = ", ".join(map(str, processes.session_members(holder[0]))) or "unknown"
            raise UserError(f"processes of the guard {holder[0]} do not end (pids {left})", hint="kill them by hand")
        if waited_s > REMAINS_GRACE_S:
            # The lock is held from inside the guard's session, so its id cannot have been given to anybody else.
            processes.kill_session(holder[0])
        time.sleep(0.005)


def _sweep_shared_memory() -> None:
    """Remove what agents that were killed could not take with them."""
    from shoal.runtime.store.places import shared_memory_root, sweep_stale  # `up` needs none of it

    sweep_stale(shared_memory_root())


def _remove_state(state: Path) -> None:
    """Remove a state directory whose lock we hold: the lock last, so that nobody begins in what is being removed."""
    for path in state.iterdir():
        if path.name == LOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    (state / LOCK).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        state.rmdir()  # not empty if somebody has just begun anew


@contextlib.contextmanager
def _exclusively(state: Path, name: str) -> Iterator[int]:
    """Hold the cluster's name against another `up` or `down` on this machine; yield the lock's descriptor.

    Raises:
        Held: somebody else held it for `TURN_LIMIT_S`.
    """
    deadline_s = time.monotonic() + TURN_LIMIT_S
    while (descriptor := _locked(state)) is None:
        if time.monotonic() > deadline_s:
            raise Held(f"cluster `{name}`: another `up` or `down` is at work", hint="wait for it to finish")
        time.sleep(0.02)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _locked(state: Path) -> int | None:
    """Return the descriptor of a state directory's lock, None while somebody else holds it."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = state / LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None  # a `down` has just removed the directory
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == path.stat().st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None
