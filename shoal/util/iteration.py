"""Iterating over results as they come: `as_completed` and `map_unordered`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from shoal.runtime.client.api import get, wait


def as_completed(refs: Sequence[Any], *, chunk_size: int = 10, yield_obj_refs: bool = False) -> Iterator[Any]:
    """Yield the values of `refs` (or the refs themselves) as they are ready.

    At most `chunk_size` are taken at once: more is faster, fewer shows the first sooner.

    Raises:
        ValueError: `chunk_size` is below 1. The error of a failed task, when its turn comes.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size: expected at least 1, got `{chunk_size}`")
    left = list(refs)
    while left:
        ready, left = wait(left, num_returns=1)
        if left and len(ready) < chunk_size:  # take along what is there as well
            more, left = wait(left, num_returns=min(chunk_size - len(ready), len(left)), timeout=0)
            ready += more
        yield from ready if yield_obj_refs else get(ready)


def map_unordered(
    fn: Any,
    items: Iterable[Any],
    *,
    backpressure_size: int | None = 100,
    chunk_size: int = 10,
    yield_obj_refs: bool = False,
) -> Iterator[Any]:
    """Yield the results of a remote function (or actor method) over `items` as they are ready.

    At most `backpressure_size` calls are under way (None: all at once).

    Raises:
        ValueError: `backpressure_size` or `chunk_size` is below 1.
    """
    if backpressure_size is not None and backpressure_size < 1:
        raise ValueError(f"backpressure_size: expected at least 1, got `{backpressure_size}`")
    if chunk_size < 1:
        raise ValueError(f"chunk_size: expected at least 1, got `{chunk_size}`")
    source = iter(items)
    under_way = [fn.remote(item) for item in itertools.islice(source, backpressure_size)]
    while under_way:
        ready, under_way = wait(under_way, num_returns=1)
        if under_way and len(ready) < chunk_size:
            more, under_way = wait(under_way, num_returns=min(chunk_size - len(ready), len(under_way)), timeout=0)
            ready += more
        for _ in ready:
            for item in source:
                under_way.append(fn.remote(item))
                break
        yield from ready if yield_obj_refs else get(ready)


__all__ = ["as_completed", "map_unordered"]
