"""From a cluster file to a simulated day: what is sold, what goes wrong, and who decides."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from shoal.autoscaler.act.loop import Improve
from shoal.autoscaler.act.what_if import at_listed_prices, suited
from shoal.config.load import Loaded
from shoal.model.offer import Offer
from shoal.providers.prices.catalogue import Catalogue
from shoal.providers.prices.market import market
from shoal.providers.sim.faults import Faults
from shoal.testing.simulation import Setting

BOOT_S, BOOT_SPREAD = 60.0, 0.5
"""Boot time of machines whose cluster file does not say: typical of a Linux VM with set-up baked in."""


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """A setting, and what the user must know of its prices."""

    setting: Setting
    notes: tuple[str, ...]


def setting(
    loaded: Loaded,
    policy: str,
    *,
    listed: Sequence[Offer] | None = None,
    seed: int = 0,
    effort: int = 0,
    until_s: float | None = None,
) -> Made:
    """Return the day's setting for one of the policies `ours`, `ray`, `static`.

    `listed` are an offer file's rows; without them the price tables say what is sold.

    Raises:
        BadInput: nothing is sold that the file's node types could use, or a section is wrong.
    """
    catalogue, chosen = Catalogue(), loaded.policy
    if listed is not None:
        kinds = {use.name: use.kind for use in loaded.providers}
        chosen = at_listed_prices(loaded.policy, listed)
        stall = suited(chosen, kinds, listed, catalogue)
    else:
        stall = market(loaded.policy, loaded.providers, catalogue, beside=loaded.path.parent)
    # Thinking takes no virtual time, so it is counted, not timed: the same seed then tells the same story.
    thinking = msgspec.structs.replace(loaded.policy.thinking, effort_fixed=effort)
    said: dict[str, Any] = next((json.loads(use.settings) for use in loaded.providers if use.kind == "sim"), {})
    boot_s, spread = float(said.get("boot_s", BOOT_S)), float(said.get("boot_spread", BOOT_SPREAD))
    return Made(
        setting=Setting(
            policy=msgspec.structs.replace(chosen, thinking=thinking),
            offers=stall.offers,
            seed=seed,
            faults=_faults(said.get("faults") or {}),
            boot_s=(boot_s * (1 - spread), boot_s * (1 + spread)),
            until_s=until_s,
            is_fixed=policy == "static",
        ),
        notes=stall.notes,
    )


def improver(policy: str) -> Improve:
    """Return the planner of one of the policies `ours`, `ray`, `static`."""
    match policy:
        case "ray":
            from shoal.autoscaler.decide.ray_policy import improve
        case "static":
            from shoal.autoscaler.decide.static_policy import improve
        case _:
            from shoal.autoscaler.decide.planner import improve
    return improve


def _faults(said: dict[str, Any]) -> Faults:
    return Faults(**{name: float(value) for name, value in said.items() if name in Faults.__struct_fields__})
