"""Machines as process groups of this host.

Each machine is a folder under `machines/` with the launch's record, the guard's spec and the guard's lock; the lock
says whether it runs. The folder is made before the guard is started and named after token and index, so a replay finds
it and starts no second guard (R1), and a listing is complete by reading one directory (R4). Folders outlive the
autoscaler and the CLI: any later process with the same uid finds every machine again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from shoal.foundation.clock import Clock
from shoal.foundation.errors import Outcome, ProviderError, QuotaError, RequestError, TokenMismatch, UnknownOutcome
from shoal.guard import processes
from shoal.guard.lock import lock_holder
from shoal.guard.machine import Child, MachineSpec
from shoal.guard.spawn import reap, spawn_guard
from shoal.model.launch import Answer, Debris, Launch, Listing, Machine, Phase
from shoal.model.offer import Market, Offer, OfferKey
from shoal.model.policy import NodeType
from shoal.providers.local import translate
from shoal.providers.protocol import Ticket, Traits
from shoal.transport import discovery

TERM_GRACE_S = 8.0
"""How long a released machine may take to end in order before its processes are killed."""


class LocalRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The bytes of one launch: everything the guards and agents of its machines will be told."""

    ticket: Ticket
    offer: OfferKey
    resources: dict[str, int]
    labels: dict[str, str]
    env: dict[str, str] = {}


class MachineRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine's folder says of it (`record.json`)."""

    token: str
    index: int
    instance_id: str
    node_type: str
    offer: OfferKey
    attempt: int
    epoch: int
    role: str
    request_hash: str
    created_wall_s: float


class LocalSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where this cluster's machines live and what they may take of the host.

    `directory` keeps what must outlive a crash; `sockets` is short, since a socket's path is limited.
    """

    uid: str
    directory: Path
    secret_file: Path
    log_dir: Path
    sockets: Path
    node_types: tuple[NodeType, ...]
    oversubscribe: float = 4.0
    agent_command: tuple[str, ...] = (sys.executable, "-m", "shoal.assembly", "agent")


class LocalProvider:
    """This host, seen as the machines of one cluster."""

    def __init__(self, clock: Clock, settings: LocalSettings) -> None:
        self.traits = Traits(
            name="local",
            token_ttl_s=float("inf"),
            listing_lag_s=0.0,
            call_limit_s=10.0,
            boot_typical_s=1.0,
            batch_max=16,
            self_end="end-process-group",
            is_atomic=True,
        )
        self._clock, self._settings = clock, settings
        self._machines = settings.directory / "machines"
        self._children: set[int] = set()
        self._asked_to_end_s: dict[str, float] = {}

    # ------------------------------------------------------------------------------------------ the four calls

    async def offers(self) -> Market:
        kinds = tuple(kind for kind in self._settings.node_types if kind.provider == "local")
        used = sum(self._weight_of(record) for record, _, _ in self._records())
        return Market(
            offers=tuple(_offer(kind) for kind in kinds),
            quotas=(translate.host_quota(kinds, os.cpu_count() or 1, self._settings.oversubscribe, used),),
        )

    async def machines(self) -> Listing:
        began_s = self._clock.monotonic_s()
        self._reap()
        found, debris = [], []
        for folder in self._folders():
            record = _record(folder)
            age_s = max(0.0, time.time() - (record.created_wall_s if record else folder.stat().st_mtime))
            if record is None:
                # A crash between making the folder and writing the record: nothing was started from it.
                debris.append(Debris(name=folder.name, kind="machine folder", age_s=age_s))
                continue
            is_running = lock_holder(folder) is not None
            phase = translate.phase(is_running, age_s)
            if folder.name in self._asked_to_end_s:
                phase = Phase.HALTING if is_running else Phase.HALTED
            found.append(_machine(folder.name, record, phase, age_s))
        return Listing(machines=tuple(found), debris=tuple(debris), began_s=began_s, ended_s=self._clock.monotonic_s())

    async def launch(self, launches: Sequence[Launch]) -> Sequence[Answer]:
        return [self._launch(launch) for launch in launches]

    async def release(self, names: Sequence[str]) -> Sequence[Answer]:
        return [self._release(name) for name in names]

    # ----------------------------------------------------------------------------------------------- rendering

    def render(self, ticket: Ticket, node_type: NodeType, offer: OfferKey) -> bytes:
        """Return the bytes of one launch; the same ticket gives the same bytes."""
        return msgspec.json.encode(
            LocalRequest(
                ticket=ticket, offer=offer, resources=dict(node_type.resources), labels=dict(node_type.labels)
            ),
            order="deterministic",
        )

    # ------------------------------------------------------------------------------------------------ launching

    def _launch(self, launch: Launch) -> Answer:
        try:
            request = msgspec.json.decode(launch.request, type=LocalRequest)
        except msgspec.DecodeError as error:
            refusal = RequestError(f"local: expected a launch request, got {error}")
            return Answer(name=launch.token, outcome=Outcome.REFUSED, error=refusal)
        digest = hashlib.blake2b(launch.request, digest_size=16).hexdigest()
        try:
            self._check(launch, request, digest)
            machines = [self._start(launch, request, digest, place) for place in range(len(launch.instance_ids))]
        except ProviderError as error:
            return Answer(name=launch.token, outcome=error.outcome, error=error)
        return Answer(name=launch.token, outcome=Outcome.ACCEPTED, machines=tuple(machines))

    def _check(self, launch: Launch, request: LocalRequest, digest: str) -> None:
        """Refuse a token with other bytes, an unknown type, and what the host cannot hold."""
        folders = [
            self._machines / translate.machine_name(launch.token, place) for place in range(len(launch.instance_ids))
        ]
        held = [record for folder in folders if (record := _record(folder)) is not None]
        if any(record.request_hash != digest for record in held):
            raise TokenMismatch(f"local: token `{launch.token}` was used with another request")
        kind = next((kind for kind in self._settings.node_types if kind.name == request.ticket.node_type), None)
        if kind is None or launch.offer != translate.offer_key(kind.name):
            raise RequestError(f"local: no node type `{request.ticket.node_type}` for offer `{launch.offer}`")
        if held:
            return
        used = [self._weight_of(record) for record, _, _ in self._records()]
        wanted = translate.weight(kind) * len(folders)
        quota = translate.host_quota(
            self._settings.node_types, os.cpu_count() or 1, self._settings.oversubscribe, sum(used)
        )
        if sum(used) + wanted > quota.limit or len(used) + len(folders) > translate.MACHINES_MAX:
            raise QuotaError(
                f"local: this host holds at most {quota.limit / 1000:g} CPUs and {translate.MACHINES_MAX} machines; "
                f"{sum(used) / 1000:g} CPUs are taken",
                code="HostFull",
            )

    def _start(self, launch: Launch, request: LocalRequest, digest: str, place: int) -> Machine:
        name = translate.machine_name(launch.token, place)
        folder = self._machines / name
        instance_id = launch.instance_ids[place]
        record = _record(folder)
        if record is None:
            record = MachineRecord(
                token=launch.token,
                index=place,
                instance_id=instance_id,
                node_type=request.ticket.node_type,
                offer=launch.offer,
                attempt=request.ticket.attempt,
                epoch=request.ticket.epoch,
                role=request.ticket.role,
                request_hash=digest,
                created_wall_s=time.time(),
            )
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._write_spec(folder, request, instance_id)
                discovery.write_private(folder / "record.json", msgspec.json.encode(record))
                self._spawn(folder)
            except OSError as error:
                raise UnknownOutcome(f"local: cannot start a machine in {folder}: {error}", code="HostError") from error
        elif lock_holder(folder) is None and not (folder / "started").exists():
            # The replay of a launch whose caller died between the folder and the guard.
            self._spawn(folder)
        return _machine(name, record, Phase.RUNNING, max(0.0, time.time() - record.created_wall_s))

    def _write_spec(self, folder: Path, request: LocalRequest, instance_id: str) -> None:
        ticket = request.ticket
        sockets = self._sockets_of(folder)
        node = {
            "instance_id": instance_id,
            "node_type": ticket.node_type,
            "token": ticket.token,
            "join_secret": ticket.join_secret,
            "resources": request.resources,
            "labels": {**request.labels, **ticket.labels},
            "head_address": ticket.head_address,
            "epoch": ticket.epoch,
            "uid": ticket.cluster_uid,
            "cluster_name": ticket.cluster_name,
            "directory": str(sockets),
            "log_dir": str(self._settings.log_dir / instance_id),
            "other_logs": {"guard.log": str(self._settings.log_dir / "guards" / f"{folder.name}.log")},
            "secret_file": str(self._settings.secret_file),
            "is_head": False,
        }
        discovery.write_private(folder / "node.json", msgspec.json.encode(node))
        spec = MachineSpec(
            name=folder.name,
            uid=ticket.cluster_uid,
            instance_id=instance_id,
            role=ticket.role,
            secret_file=str(self._settings.secret_file),
            log_dir=str(self._settings.log_dir / instance_id),
            head_addresses=[ticket.head_address],
            lease_s=ticket.lease_s,
            lease_busy_s=ticket.lease_busy_s,
            jitter_s=_jitter_s(folder.name, ticket.lease_s),
            boot_deadline_s=ticket.boot_deadline_s,
            busy_file=str(sockets / "busy"),
            joined_file=str(sockets / "joined"),
            # A machine that ends in order takes its own folder away: then it is gone, not halted.
            remove=[str(sockets), str(folder)],
            children=[
                Child(
                    name="agent",
                    argv=[*self._settings.agent_command, str(folder / "node.json")],
                    env=request.env,
                    restarts_max=3,
                    is_vital=True,
                )
            ],
        )
        discovery.write_private(folder / "machine.json", msgspec.json.encode(spec))

    def _spawn(self, folder: Path) -> None:
        pid = spawn_guard(folder, self._settings.log_dir / "guards" / f"{folder.name}.log")
        self._children.add(pid)
        began = f"{pid} {discovery.process_started(pid)} {_boot_id()}\n"
        discovery.write_private(folder / "started", began.encode())

    # ------------------------------------------------------------------------------------------------ releasing

    def _release(self, name: str) -> Answer:
        """Ask the guard to end; when it has, or when it took too long, remove what is left.

        Called again until the machine is no longer listed (R6): each call does what can be done now and waits
        for nothing (R8).
        """
        try:
            translate.token_of(name)
        except ValueError:
            # Never a machine of ours, so it is as gone as can be (R6); and no path is made of such a name.
            return Answer(name=name, outcome=Outcome.ACCEPTED)
        folder = self._machines / name
        self._reap()
        if not folder.exists():
            self._asked_to_end_s.pop(name, None)
            return Answer(name=name, outcome=Outcome.ACCEPTED)
        started = _started(folder)
        session = started[0] if started else 0
        is_alive = started is not None and discovery.process_started(started[0]) == started[1]
        now_s = self._clock.monotonic_s()
        asked_s = self._asked_to_end_s.setdefault(name, now_s)
        if is_alive:
            if asked_s == now_s:
                _signal(session, signal.SIGTERM)
            elif now_s - asked_s > TERM_GRACE_S:
                processes.kill_session(session)
            return Answer(name=name, outcome=Outcome.ACCEPTED)
        # The guard is gone. Whatever it left of its session must not outlive the machine. A pid is not given out
        # again while it names a session, so if another process has it, the session is empty.
        if session and not discovery.process_started(session) and processes.kill_session(session):
            return Answer(name=name, outcome=Outcome.ACCEPTED)
        shutil.rmtree(self._sockets_of(folder), ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        self._asked_to_end_s.pop(name, None)
        return Answer(name=name, outcome=Outcome.ACCEPTED)

    # ----------------------------------------------------------------------------------------------- the folders

    def _sockets_of(self, folder: Path) -> Path:
        token, _, index = folder.name.rpartition(".")
        return self._settings.sockets / f"m-{token[1:11]}-{index}"

    def _folders(self) -> list[Path]:
        return sorted(path for path in self._machines.iterdir()) if self._machines.is_dir() else []

    def _records(self) -> list[tuple[MachineRecord, Path, float]]:
        return [
            (record, folder, record.created_wall_s)
            for folder in self._folders()
            if (record := _record(folder)) is not None
        ]

    def _weight_of(self, record: MachineRecord) -> int:
        kind = next((kind for kind in self._settings.node_types if kind.name == record.node_type), None)
        return translate.weight(kind) if kind else 1000

    def _reap(self) -> None:
        self._children = {pid for pid in self._children if not reap(pid)}


def _offer(kind: NodeType) -> Offer:
    return Offer(
        key=translate.offer_key(kind.name),
        resources=dict(kind.resources),
        price_usd_per_h=kind.price_usd_per_h or 0.0,
        labels=dict(kind.labels),
        boot_typical_s=1.0,
        is_named=True,
    )


def _machine(name: str, record: MachineRecord, phase: Phase, age_s: float) -> Machine:
    return Machine(
        name=name,
        machine_id=name,
        token=record.token,
        offer=record.offer,
        index=record.index,
        phase=phase,
        is_billed=phase is not Phase.HALTED,
        role=record.role,
        instance_id=record.instance_id,
        node_type=record.node_type,
        attempt=record.attempt,
        epoch=record.epoch,
        age_s=age_s,
    )


def _record(folder: Path) -> MachineRecord | None:
    try:
        return msgspec.json.decode((folder / "record.json").read_bytes(), type=MachineRecord)
    except (OSError, msgspec.DecodeError):
        return None


def _started(folder: Path) -> tuple[int, str] | None:
    """Return (pid, start time) of the guard that was started for a folder; its pid is the session's id."""
    holder = lock_holder(folder)
    if holder is not None:
        return holder
    try:
        pid, started, boot_id = (folder / "started").read_text().split()
    except (OSError, ValueError):
        return None
    return (int(pid), started) if boot_id == _boot_id() else None


def _boot_id() -> str:
    """Return what tells this boot of the host from every other ('-' where the system does not say)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "-"


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _jitter_s(name: str, lease_s: float) -> float:
    """Return up to a tenth of the lease, from the machine's name, so that not all machines end together."""
    return lease_s * 0.1 * (int.from_bytes(hashlib.blake2b(name.encode(), digest_size=2).digest(), "big") / 65535)
