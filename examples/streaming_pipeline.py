"""A pipeline that starts before its source has finished: a generator task streams, each item is worked on as it comes.

python examples/streaming_pipeline.py [ITEMS]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import shoal


@shoal.remote(num_returns="streaming")
def source(items: int) -> Iterator[list[int]]:
    """Yield blocks of numbers, one every few milliseconds, as a file or a queue would."""
    for number in range(items):
        time.sleep(0.02)
        yield list(range(number, number + 100))


@shoal.remote
def squared(block: list[int]) -> int:
    """Work on one block."""
    return sum(one * one for one in block)


def main(items: int = 20) -> None:
    with shoal.init():
        began_s = time.monotonic()
        totals, first_s = [], 0.0
        for block in source.remote(items):
            totals.append(squared.remote(block))
            first_s = first_s or time.monotonic() - began_s
        total = sum(shoal.get(totals))
        print(f"{items} blocks, sum of squares {total}")
        print(f"the first block was there after {first_s:.2f} s, the last after {time.monotonic() - began_s:.2f} s")
        assert total == sum(one * one for number in range(items) for one in range(number, number + 100))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
