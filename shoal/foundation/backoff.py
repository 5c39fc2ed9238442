"""Waiting longer after each failure, with a limit and with jitter from a given source of chance."""

from __future__ import annotations

import random


def backoff_s(failures: int, *, first_s: float, most_s: float, chance: random.Random | None = None) -> float:
    """Return how long to wait after the `failures`-th failure in a row (1 for the first).

    Doubles from `first_s` up to `most_s`; with `chance`, scaled by a factor in 0.5 to 1, so that many
    waiters do not come back together ("equal jitter": AWS Architecture Blog, 2015).

    >>> [backoff_s(n, first_s=1, most_s=5) for n in (1, 2, 3, 4)]
    [1.0, 2.0, 4.0, 5.0]
    """
    if failures < 1:
        return 0.0
    wait_s = min(float(most_s), first_s * 2.0 ** min(failures - 1, 60))
    return wait_s * (0.5 + chance.random() / 2) if chance else wait_s
