"""Heads and nodes that a person starts on this machine, each under a guard of its own."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

import shoal
from shoal.assembly import cluster
from shoal.assembly.ready import wait_until_ready
from shoal.assembly.specs import JOINED, NodeSpec
from shoal.foundation import ids
from shoal.foundation.errors import BadInput, NoCluster, UserError
from shoal.guard.machine import Child, MachineSpec
from shoal.guard.spawn import spawn_guard
from shoal.transport import address as addresses
from shoal.transport import discovery
from shoal.transport.discovery import ClusterFile, write_private
from shoal.transport.tls import TlsFiles
from shoal.wire.hello import Role

JOIN_LIMIT_S = 15.0


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """What the person said about the node; None means: find out."""

    num_cpus: float | None = None
    num_gpus: float | None = None
    memory: str | None = None
    object_store_memory: str | None = None
    resources: Mapping[str, float] = {}
    labels: Mapping[str, str] = {}
    tls: TlsFiles | None = None


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """After how many seconds without contact a node is dead, and stops what could run elsewhere; less, so that never
    two of them run. And after how many the host of a driver elsewhere is."""

    node_dead_s: float = 40.0
    fence_s: float = 25.0
    job_dead_s: float = 30.0


def start_head(
    name: str,
    host: str,
    port: int,
    node: Node,
    say: Callable[[str], None],
    patience: Patience | None = None,
    *,
    driver_port: int = 0,
) -> ClusterFile:
    """Start a head with a node here and return its discovery file once work can run.

    Raises:
        Held: the name is taken.
        BadInput: a value cannot be used.
    """
    patience = patience or Patience()
    if host in ("0.0.0.0", "::"):
        raise BadInput(f"--host: expected the address by which other hosts reach this one, got `{host}`")
    if driver_port and addresses.Address("tcp", host).is_loopback:
        raise BadInput("--driver-port: expected --host with it, since only drivers of other hosts use the port")
    if driver_port and driver_port == port:
        raise BadInput(f"--driver-port: expected another port than the head's, {port}")
    if not 0 < patience.fence_s < patience.node_dead_s:
        raise BadInput(f"--fence-after: expected less than --node-dead-after, got {patience.fence_s:g} s")
    held, store_bytes = _resources(node)
    port = port or _free_port(host)
    listen = str(addresses.Address("tcp", host, port))
    started = cluster.start(
        cluster.Wanted(
            name=name,
            resources=held,
            node_type="by-hand",
            labels=dict(node.labels),
            frames=(listen,),
            object_store_bytes=store_bytes,
            node_dead_s=patience.node_dead_s,
            fence_s=patience.fence_s,
            job_dead_s=patience.job_dead_s,
            driver_port=driver_port,
            tls=node.tls,
        ),
        say=say,
    )
    wait_until_ready(started, say, limit_s=JOIN_LIMIT_S)
    return started


def start_node(address: str | None, secret_file: Path | None, node: Node, say: Callable[[str], None]) -> ClusterFile:
    """Join a head from this machine and return the node's discovery file.

    Raises:
        NoCluster: no head was named and none lives here.
        UserError: the head did not take the node in time.
    """
    frames, directory, uid, cluster_name = _head_of(address, secret_file)
    secret = secret_file or directory / "node.secret"
    credential = discovery.load_credential(secret)
    if credential.role < Role.NODE:
        raise BadInput(f"--secret-file: expected a node's secret, got a {credential.role.name.lower()}'s")
    held, store_bytes = _resources(node)
    name = f"node-{ids.fresh(3).hex()}"
    folder = discovery.runtime_dir() / name
    folder.mkdir(mode=0o700)
    kept_secret = discovery.save_secret(folder, credential.role, credential.secret(credential.role) or b"", uid)
    write_private(
        folder / "node.json",
        msgspec.json.encode(
            NodeSpec(
                instance_id=name,
                node_type="by-hand",
                token="",
                join_secret="",
                resources=held,
                labels=dict(node.labels),
                head_address=frames,
                epoch=0,
                uid=uid,
                cluster_name=cluster_name,
                directory=str(folder / "n"),
                log_dir=str(folder / "logs"),
                other_logs={"guard.log": str(folder / "guard.log")},
                secret_file=str(kept_secret),
                is_head=False,
                listen=_listen_for(frames),
                object_store_bytes=store_bytes,
                tls=node.tls,
            )
        ),
    )
    spec = MachineSpec(
        name=name,
        uid=uid,
        instance_id=name,
        role="worker",
        children=[
            Child(
                name="agent",
                argv=[sys.executable, "-m", "shoal.assembly", "agent", str(folder / "node.json")],
                restarts_max=3,
                is_vital=True,
            )
        ],
        secret_file=str(kept_secret),
        log_dir=str(folder / "logs"),
        head_addresses=[frames],
        tls=node.tls,
        busy_file=str(folder / "n" / "busy"),
        joined_file=str(folder / "n" / JOINED),
        remove=[str(folder)],
        cluster_file=ClusterFile(
            name=name,
            uid=uid,
            pid=0,
            started="",
            directory=str(folder),
            frames=frames,
            agent=f"unix:{folder / 'n' / 'agent.sock'}",
            kind="node",
            started_wall_s=time.time(),
            version=shoal.__version__,
        ),
    )
    write_private(folder / "machine.json", msgspec.json.encode(spec))
    log = folder / "guard.log"
    started = cluster.wait_for_file(name, uid, spawn_guard(folder, log), log)
    say(f"guard started (pid {started.pid})")
    try:
        wait_until_ready(started, say, limit_s=JOIN_LIMIT_S)
    except UserError:
        cluster.end_node(started)
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return started


def stop(name: str | None, *, everything: bool = False) -> list[str]:
    """End what was started by hand here; return the names.

    Raises:
        BadInput: several live and none was named, or the name is a cluster of `shoal up`.
    """
    live = [one for one in discovery.live_clusters(kinds=("cluster", "node")) if not one.config]
    if name is not None:
        chosen = [one for one in live if one.name == name]
        if not chosen and discovery.find(name) is not None:
            raise BadInput(f"`{name}` was started by `shoal up`", hint=f"shoal down {name}")
        if not chosen:
            raise NoCluster(f"nothing named `{name}` was started by hand here", hint="see `shoal clusters`")
    elif everything or len(live) <= 1:
        chosen = live
    else:
        raise BadInput(f"several live here: {', '.join(f'`{one.name}`' for one in live)}", hint="name one, or --all")
    for one in sorted(chosen, key=lambda file: file.kind != "node"):
        if one.kind == "node":
            cluster.end_node(one)
            shutil.rmtree(one.directory, ignore_errors=True)
        else:
            cluster.end(one.name, lambda identity, state, runtime: None)
    return [one.name for one in chosen]


def wait(started: ClusterFile) -> None:
    """Stay until the node ends; Ctrl-C ends it."""
    try:
        while discovery.is_live(started):
            time.sleep(0.2)
    except KeyboardInterrupt:
        stop(started.name)
        raise


def parsed_labels(text: str) -> dict[str, str]:
    """Return `a=b,c=d` as a mapping.

    Raises:
        BadInput: it is not of that form.
    """
    found = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals or not name:
            raise BadInput(f"--labels: expected name=value,..., got `{part}`")
        found[name] = value
    return found


def _resources(node: Node) -> tuple[dict[str, int], int]:
    """Return the node's resources and its object store's bytes, looked up where the person did not say.

    Raises:
        BadInput: a value is no quantity.
    """
    from shoal.runtime.agent.detect import detected_resources, store_bytes_of

    try:
        held = detected_resources(
            num_cpus=node.num_cpus,
            num_gpus=node.num_gpus,
            memory=_bytes_of("--memory", node.memory),
            custom=node.resources,
            store_bytes=_bytes_of("--object-store-memory", node.object_store_memory),
        )
    except (ValueError, TypeError) as error:
        raise BadInput(f"start: {error}") from error
    return held, store_bytes_of(held)


def _bytes_of(option: str, text: str | None) -> int | None:
    from shoal.config.quantities import memory_bytes

    try:
        return memory_bytes(text) if text else None
    except ValueError as error:
        raise BadInput(f"{option}: expected {error}, got `{text}`") from error


def _head_of(address: str | None, secret_file: Path | None) -> tuple[str, Path, str, str]:
    """Return (frames address, directory, uid, name) of the head to join."""
    live = discovery.live_clusters()
    if address is None:
        if len(live) != 1:
            raise NoCluster(f"start: expected --address, since {len(live)} clusters live on this machine")
        return live[0].frames, Path(live[0].directory), live[0].uid, live[0].name
    wanted = str(addresses.parse(address))
    for one in live:
        if one.frames == wanted:
            return wanted, Path(one.directory), one.uid, one.name
    if secret_file is None:
        raise BadInput("start: expected --secret-file, to join a head of another host", hint="copy its node.secret")
    return wanted, Path(), discovery.load_credential(secret_file).uid.hex(), "remote"


def _listen_for(frames: str) -> list[str]:
    """Return where the node's agent listens beside its socket: the address by which this host reaches the head."""
    head = addresses.parse(frames)
    if head.is_loopback:
        return []
    import socket

    with socket.socket(socket.AF_INET6 if ":" in head.host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((head.host, head.port))
        return [str(addresses.Address("tcp", probe.getsockname()[0], 0))]


def _free_port(host: str) -> int:
    import socket

    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        try:
            probe.bind((host, 0))
        except OSError as error:
            raise BadInput(f"--host: cannot listen on `{host}`: {error.strerror}") from error
        return int(probe.getsockname()[1])
