"""What a command can know of a live cluster: its head's word, the autoscaler's report, its events, its YAML."""

from __future__ import annotations

from pathlib import Path

import msgspec

from shoal.autoscaler.act.contracts import Report
from shoal.config.load import Loaded
from shoal.foundation.eventlog import Event
from shoal.model.offer import Offer
from shoal.model.plan import Plan
from shoal.model.snapshot import Snapshot, Work

WAIT_S = 10.0
EVENTS_MOST = 200_000


class LiveView(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a cluster. `loaded` is None for a head that nobody scales, `report` before the first round."""

    name: str
    work: Work
    report: Report | None
    loaded: Loaded | None
    offers: tuple[Offer, ...] = ()
    notes: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()


def look(name: str | None) -> LiveView:
    """Look at the live cluster of that name, or at the only one.

    Raises:
        NoCluster: there is none, or it does not answer.
    """
    from shoal.cli.which import live
    from shoal.config.load import load
    from shoal.providers.prices.catalogue import Catalogue
    from shoal.providers.prices.market import market
    from shoal.transport import discovery

    cluster = live(name)
    state = discovery.state_dir(cluster.name)
    loaded = load(Path(cluster.config)) if cluster.config else None
    work, report = ask(cluster.name)
    offers: tuple[Offer, ...] = ()
    notes: tuple[str, ...] = ()
    if loaded is not None:
        stall = market(loaded.policy, loaded.providers, Catalogue(), beside=loaded.path.parent)
        offers, notes = stall.offers, stall.notes
    return LiveView(
        name=cluster.name,
        work=work,
        report=report,
        loaded=loaded,
        offers=offers,
        notes=notes,
        events=recorded(state),
    )


def ask(name: str) -> tuple[Work, Report | None]:
    """Return the head's word and the autoscaler's newest report of a live cluster.

    Raises:
        NoCluster: there is none, or it does not answer.
    """
    import asyncio

    from shoal.cli.which import live

    return asyncio.run(_ask(live(name)))


def recorded(state: Path) -> tuple[Event, ...]:
    """Return what the cluster's logs hold, by time; the newest `EVENTS_MOST`."""
    from shoal.foundation.eventlog import read

    found = [event for name in ("head-events.jsonl", "events.jsonl") for event in read(state / name)]
    found.sort(key=lambda event: event.at_s)
    return tuple(found[-EVENTS_MOST:])


def solved(view: LiveView, *, seed: int = 0, effort: int = 0) -> tuple[Snapshot, Plan | None]:
    """Return the snapshot as seen from outside, and what a plan made on it now would do."""
    from shoal.autoscaler.act.story import snapshot_of
    from shoal.autoscaler.act.what_if import think

    snapshot = snapshot_of(view.work, view.report, view.offers)
    if view.loaded is None:
        return snapshot, None
    return snapshot, think(snapshot, view.loaded.policy, seed=seed, think_s=1.0, effort_max=effort or None)


async def _ask(cluster: object) -> tuple[Work, Report | None]:
    import asyncio

    from shoal.foundation.clock import SystemClock
    from shoal.foundation.errors import NoCluster
    from shoal.transport import address, discovery
    from shoal.transport.control import GrpcHead
    from shoal.transport.discovery import ClusterFile

    assert isinstance(cluster, ClusterFile)
    credential = discovery.best_credential(Path(cluster.directory))
    async with GrpcHead(SystemClock(), address.parse(cluster.grpc), credential) as head:
        said = await head.report()
        try:
            async with asyncio.timeout(WAIT_S):
                async for work in head.watch():
                    return work, msgspec.convert(said, Report) if said else None
        except TimeoutError:
            pass
    raise NoCluster(f"the head of `{cluster.name}` does not answer", hint="`shoal status` shows what is up")
