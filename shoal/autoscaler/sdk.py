"""Ask for room ahead of the work: `request_resources`, under Ray's module name.

A request is a total, not an extra: the cluster shall be able to hold these bundles at once, whatever runs on it now. It
stands until the same owner of the same job asks again, its job ends, or its time is over; over owners the largest of
each resource counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shoal.foundation.amounts import amounts
from shoal.model.demand import Bundle, Selector
from shoal.runtime.client.api import is_initialized, session
from shoal.runtime.client.strategies import checked_selector
from shoal.wire.asks import What


def request_resources(
    num_cpus: int | None = None,
    bundles: Sequence[Mapping[str, float]] | None = None,
    bundle_label_selectors: Sequence[Mapping[str, str]] | None = None,
    *,
    owner: str = "",
    ttl_s: float | None = None,
) -> None:
    """Have the cluster hold `num_cpus` bundles of one CPU, and `bundles`, at once; nothing takes the request back.

    `owner` keeps requests of several parts of one program apart. `ttl_s` None: as the cluster's policy says.

    Raises:
        RuntimeError: this process is not connected. TypeError, ValueError: an argument is wrong.
    """
    wanted = _checked(num_cpus, bundles, bundle_label_selectors)
    if not is_initialized():
        raise RuntimeError("request_resources: not connected; call shoal.init() first")
    here = session()
    args: dict[str, Any] = {"owner": owner, "job": here.job, "bundles": wanted, "ttl_s": ttl_s}
    here.core.ask(What.REQUEST_RESOURCES, args)


def _checked(
    num_cpus: int | None,
    bundles: Sequence[Mapping[str, float]] | None,
    selectors: Sequence[Mapping[str, str]] | None,
) -> list[Bundle]:
    if num_cpus is not None and (isinstance(num_cpus, bool) or not isinstance(num_cpus, int)):
        raise TypeError(f"num_cpus: expected a whole number, got `{num_cpus!r}`")
    if num_cpus is not None and num_cpus < 0:
        raise ValueError(f"num_cpus: expected at least 0, got `{num_cpus}`")
    if bundles is not None and (isinstance(bundles, str) or not isinstance(bundles, Sequence)):
        raise TypeError(f"bundles: expected a list of dicts, got `{type(bundles).__name__}`")
    if selectors and len(selectors) != len(bundles or ()):
        raise ValueError(
            f"bundle_label_selectors: expected one for each of {len(bundles or ())} bundles, got {len(selectors)}"
        )
    found = [Bundle(amounts=amounts({"CPU": 1}))] * (num_cpus or 0)
    for place, bundle in enumerate(bundles or ()):
        if not isinstance(bundle, Mapping):
            raise TypeError(f"bundles[{place}]: expected a dict of resources, got `{bundle!r}`")
        for name, count in bundle.items():
            if not isinstance(name, str) or isinstance(count, bool) or not isinstance(count, int | float):
                raise TypeError(f"bundles[{place}]: expected names and quantities, got `{name!r}: {count!r}`")
        terms = checked_selector(selectors[place]) if selectors else {}
        found.append(Bundle(amounts=amounts(bundle), selector=Selector(hard=terms)))
    return found


__all__ = ["request_resources"]
