"""Which provider objects a cluster has: one per provider that its YAML uses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from shoal.foundation.clock import Clock
from shoal.foundation.errors import BadInput
from shoal.model.policy import Policy
from shoal.providers.protocol import Provider


class Use(Protocol):
    """One provider of the YAML: the name node types use, the kind, its own keys as JSON."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def settings(self) -> bytes: ...


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where local machines of a cluster live on this host."""

    uid: str
    directory: Path
    log_dir: Path
    sockets: Path
    secret_file: Path


def providers_for(clock: Clock, policy: Policy, uses: Sequence[Use], place: Place) -> dict[str, Provider]:
    """Return the providers by the name that node types use.

    Raises:
        BadInput: the YAML uses a provider that this version cannot run machines on.
    """
    return {use.name: _made(clock, policy, use, place) for use in uses}


def check_launchable(uses: Sequence[Use]) -> None:
    """Refuse what no machine can be launched on.

    Raises:
        BadInput: one of them is such a provider.
    """
    for use in uses:
        if use.kind not in ("local", "sim"):
            raise BadInput(
                f"provider: expected `local` or `sim`, got `{use.kind}`, which this version cannot run machines on yet",
                hint="`shoal validate`, `plan` and `simulate` work for it",
            )


def _made(clock: Clock, policy: Policy, use: Use, place: Place) -> Provider:
    check_launchable([use])
    from shoal.providers.local.provider import LocalProvider, LocalSettings

    section = json.loads(use.settings)
    here = LocalSettings(
        uid=place.uid,
        directory=place.directory,
        secret_file=place.secret_file,
        log_dir=place.log_dir,
        sockets=place.sockets,
        node_types=policy.node_types,
        oversubscribe=float(section.get("oversubscribe") or 4.0),
    )
    if use.kind == "local":
        return LocalProvider(clock, here)
    from shoal.assembly.simulated import SimulatedCloud

    # What a simulated machine promises is simulated too: the host does not bound it, but for their number.
    return SimulatedCloud(clock, policy, use.name, section, msgspec.structs.replace(here, oversubscribe=1e6))


def twins_of(clock: Clock, policy: Policy, use: Use, place: Place) -> Provider:
    """Return the provider whose machines `down` must release for `use`: a simulated cloud's are local ones."""
    if use.kind != "sim":
        return _made(clock, policy, use, place)
    from shoal.providers.local.provider import LocalProvider, LocalSettings

    return LocalProvider(
        clock,
        LocalSettings(
            uid=place.uid,
            directory=place.directory,
            secret_file=place.secret_file,
            log_dir=place.log_dir,
            sockets=place.sockets,
            node_types=policy.node_types,
        ),
    )
