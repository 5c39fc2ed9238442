"""Giving machines back without an autoscaler: what `shoal down` does once the head machine's processes are gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from shoal.assembly.cluster import CONFIG_IN_FORCE, Identity
from shoal.assembly.providers import Place, twins_of
from shoal.foundation.clock import SystemClock
from shoal.foundation.eventlog import FileLog
from shoal.providers.protocol import Provider

RELEASE_LIMIT_S = 60.0


def release_everything(identity: Identity, state: Path, runtime: Path, say: Callable[[str], None]) -> list[str]:
    """Release every machine of the cluster, by tag, and return what is left after two clean listings (or not)."""
    return asyncio.run(_release(identity, state, runtime, say))


async def _release(identity: Identity, state: Path, runtime: Path, say: Callable[[str], None]) -> list[str]:
    from shoal.autoscaler.act.down import take_down

    clock = SystemClock()
    providers = _providers(identity, state, runtime, clock)
    if not providers:
        return []
    log = FileLog(state / "events.jsonl", clock)
    try:
        left = await take_down(clock, providers, log, epoch=identity.epoch, limit_s=RELEASE_LIMIT_S, say=say)
    finally:
        log.close()
    return list(left)


def _providers(identity: Identity, state: Path, runtime: Path, clock: SystemClock) -> dict[str, Provider]:
    from shoal.config.load import load

    if not (state / CONFIG_IN_FORCE).exists():
        return {}
    loaded = load(state / CONFIG_IN_FORCE)
    place = Place(
        uid=identity.uid,
        directory=state,
        log_dir=state / "logs",
        sockets=runtime,
        secret_file=runtime / "node.secret",
    )
    return {use.name: twins_of(clock, loaded.policy, use, place) for use in loaded.providers}
