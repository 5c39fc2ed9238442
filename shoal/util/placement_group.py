"""Placement groups: reserve bundles of resources together, under Ray's names.

Ray calls both this module and its main function `ray.util.placement_group`. Importing a submodule puts the module into
its package under that name, so the module can be called like the function.
"""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any

from shoal.foundation.amounts import amounts
from shoal.model.demand import Bundle, Selector, Strategy
from shoal.runtime.client.api import session
from shoal.runtime.client.context import current_task
from shoal.runtime.client.groups import PlacementGroup, groups_of
from shoal.runtime.client.strategies import checked_selector
from shoal.wire.asks import What

GROUP_ID_BYTES = 16


def placement_group(
    bundles: Sequence[Mapping[str, float]],
    strategy: str = "PACK",
    name: str = "",
    lifetime: str | None = None,
    _soft_target_node_id: str | None = None,
    bundle_label_selector: Sequence[Mapping[str, str]] | None = None,
    topology_strategy: str | None = None,
) -> PlacementGroup:
    """Ask for bundles that are reserved together or not at all; returns at once.

    `strategy`: PACK and STRICT_PACK put them on few nodes or one, SPREAD and STRICT_SPREAD on many. The group ends with
    its creator unless `lifetime="detached"`. Bundles hold natural units: `{"CPU": 1, "memory": 2**30}`.

    Raises:
        ValueError: an argument is wrong, or the name is taken.
    """
    wanted = _checked(bundles, bundle_label_selector)
    if strategy not in Strategy.__members__:
        raise ValueError(f"strategy: expected {', '.join(Strategy)}, got `{strategy}`")
    if lifetime not in (None, "detached"):
        raise ValueError(f"lifetime: expected None or 'detached', got `{lifetime}`")
    if not isinstance(name, str):
        raise ValueError(f"name: expected a string, got `{type(name).__name__}`")
    if _soft_target_node_id is not None or topology_strategy is not None:
        raise ValueError("_soft_target_node_id and topology_strategy are not supported")
    groups = groups_of(session())
    group_id = os.urandom(GROUP_ID_BYTES).hex()
    return groups.create(group_id, wanted, Strategy(strategy), name=name, is_detached=lifetime == "detached")


def remove_placement_group(placement_group: PlacementGroup) -> None:
    """Give the bundles back and kill what runs inside. Quiet if the group is gone."""
    if not isinstance(placement_group, PlacementGroup):
        raise TypeError(f"expected a placement group, got `{type(placement_group).__name__}`")
    groups_of(session()).remove(placement_group.id)


def get_placement_group(placement_group_name: str) -> PlacementGroup:
    """Return the named group.

    Raises:
        ValueError: there is none of that name.
    """
    if not placement_group_name:
        raise ValueError("placement_group_name: expected a name, got an empty one")
    row = session().core.ask(What.GET_GROUP, {"name": placement_group_name})
    return PlacementGroup(row["group_id"], [amounts(one) for one in row["bundles"]])


def get_current_placement_group() -> PlacementGroup | None:
    """Return the group in which this task or actor runs, None outside of any."""
    running = current_task()
    if running is None or running.group is None:
        return None
    return PlacementGroup(running.group.group_id)


def placement_group_table(placement_group: PlacementGroup | None = None) -> dict[str, Any]:
    """Return the state of one group, or of all by id, with Ray's keys."""
    if placement_group is not None:
        return _shown(groups_of(session()).row(placement_group.id))
    return {row["group_id"]: _shown(row) for row in session().core.ask(What.LIST_GROUPS, {})}


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "placement_group_id": row["group_id"],
        "name": row["name"],
        "bundles": dict(enumerate(row["bundles"])),
        "bundles_to_node_id": dict(enumerate(row["nodes"])),
        "strategy": row["strategy"],
        "state": row["state"],
        "stats": {"scheduling_state": row.get("why") or row["state"]},
    }


def _checked(bundles: Sequence[Mapping[str, float]], selectors: Sequence[Mapping[str, str]] | None) -> list[Bundle]:
    if not isinstance(bundles, Sequence) or isinstance(bundles, str) or not bundles:
        raise ValueError(f"bundles: expected a list of at least one dict of resources, got `{bundles!r}`")
    if selectors is not None and len(selectors) not in (1, len(bundles)):
        raise ValueError(
            f"bundle_label_selector: expected one selector, or one per bundle ({len(bundles)}), got {len(selectors)}"
        )
    found = []
    for place, bundle in enumerate(bundles):
        if not isinstance(bundle, Mapping):
            raise ValueError(f"bundles[{place}]: expected a dict of resources, got `{bundle!r}`")
        try:
            needed = amounts({name: int(count) if name == "memory" else count for name, count in bundle.items()})
        except (TypeError, ValueError) as error:
            raise ValueError(f"bundles[{place}]: {error}") from None
        if not needed:
            raise ValueError(f"bundles[{place}]: expected at least one resource above 0, got `{dict(bundle)}`")
        terms = {} if not selectors else checked_selector(selectors[place if len(selectors) > 1 else 0])
        found.append(Bundle(amounts=needed, selector=Selector(hard=terms)))
    return found


class _CallableModule(types.ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> PlacementGroup:
        return placement_group(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule

__all__ = [
    "PlacementGroup",
    "get_current_placement_group",
    "get_placement_group",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]
