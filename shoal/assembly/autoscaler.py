"""The autoscaler process: the real loop on the head's public API, its own ledger, and the YAML's providers."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.assembly.boot import TicketBoot
from shoal.assembly.cluster import CONFIG_IN_FORCE
from shoal.assembly.providers import Place, providers_for
from shoal.assembly.specs import AutoscalerSpec, read
from shoal.foundation.chance import Chance
from shoal.foundation.clock import SystemClock
from shoal.foundation.eventlog import FileLog, Kind
from shoal.guard.spawn import spawn_session
from shoal.transport import address, discovery

if TYPE_CHECKING:
    from shoal.autoscaler.act.loop import Autoscaler
    from shoal.config.load import Loaded

CONFIG_EVERY_S = 0.5


async def run_autoscaler(path: Path) -> None:
    """Run the autoscaler until it is told to end, or a newer one is in charge."""
    from shoal.autoscaler.act.ledger import Ledger
    from shoal.autoscaler.act.loop import Autoscaler
    from shoal.autoscaler.decide.planner import improve
    from shoal.transport.control import GrpcHead

    spec = read(path, AutoscalerSpec)
    clock = SystemClock()
    events = FileLog(Path(spec.events), clock)
    loaded, seen = _first_config(Path(spec.config), events)
    place = Place(
        uid=spec.uid,
        directory=Path(spec.directory),
        log_dir=Path(spec.log_dir),
        sockets=Path(spec.sockets),
        secret_file=Path(spec.node_secret_file),
    )
    providers = providers_for(clock, loaded.policy, loaded.providers, place)
    boot = TicketBoot(spec.uid, spec.head_address, loaded.policy, providers)  # type: ignore[arg-type]
    ledger = Ledger.open(Path(spec.ledger), clock)
    head = GrpcHead(clock, address.parse(spec.grpc), discovery.load_credential(Path(spec.secret_file)))
    autoscaler = Autoscaler(
        clock,
        Chance(spec.uid),
        ledger,
        head,
        providers,
        boot,
        events,
        loaded.policy,
        improve,
        cluster_uid=spec.uid,
        owner=f"autoscaler {os.getpid()}",
        on_end=lambda why: _end_cluster(spec, events, why),
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, autoscaler.stop, f"signal {number}")
    follower = asyncio.create_task(_follow_config(loaded, seen, Path(spec.config), autoscaler, boot, events))
    try:
        await autoscaler.run()
    finally:
        follower.cancel()
        await head.close()
        ledger.close()


def _first_config(path: Path, events: FileLog) -> tuple[Loaded, int]:
    """Return what to start with and when the file changed last: the YAML, or the one in force while it is broken."""
    from shoal.config.diagnostics import ConfigErrors
    from shoal.config.load import load

    seen = _stamp(path)
    try:
        return load(path), seen
    except ConfigErrors as errors:
        events.record(Kind.CONFIG_REFUSED, error=str(errors), difference=[])
        return load(path.with_name(CONFIG_IN_FORCE)), seen


async def _follow_config(
    held: Loaded, seen: int, path: Path, autoscaler: Autoscaler, boot: TicketBoot, events: FileLog
) -> None:
    """Take over a changed YAML; a broken one, or one that needs a new cluster, is reported and the old one stays."""
    from shoal.config.reload import reload

    while True:
        if (now := _stamp(path)) != seen:
            seen = now
            again = reload(held, path)
            told = [str(change) for change in again.changes]
            if again.is_taken:
                events.record(Kind.CONFIG_CHANGED, difference=told)
                held = again.current
                boot.policy = held.policy
                autoscaler.set_policy(held.policy)
                discovery.write_private(path.with_name(CONFIG_IN_FORCE), path.read_bytes())
            elif again.errors is not None or told:
                events.record(Kind.CONFIG_REFUSED, error=str(again.errors or "needs a new cluster"), difference=told)
        await asyncio.sleep(CONFIG_EVERY_S)


def _stamp(path: Path) -> int:
    """Return what changes when the file does (0 while there is none)."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _end_cluster(spec: AutoscalerSpec, events: FileLog, why: str) -> None:
    """End the whole cluster (idle shutdown, lifetime) by `shoal down` in a session of its own, which outlives us."""
    events.record(Kind.CLUSTER_ENDING, why=why)
    argv = [sys.executable, "-m", "shoal", "down", "--yes", "--cluster-name", spec.cluster_name]
    spawn_session(argv, Path(os.devnull))
