"""Count words in many texts: tasks that return dictionaries, combined as they finish.

python examples/word_count.py [TEXTS]
"""

from __future__ import annotations

import collections
import random
import sys

import shoal

WORDS = ["reef", "tide", "shoal", "current", "plankton", "kelp", "gull", "anchor", "buoy", "sand"]


@shoal.remote
def make_text(seed: int) -> str:
    """Return a text of 10,000 words."""
    return " ".join(random.Random(seed).choices(WORDS, k=10_000))


@shoal.remote
def count(text: str) -> collections.Counter[str]:
    """Count one text. It is fetched to where this runs."""
    return collections.Counter(text.split())


def main(texts: int = 40) -> None:
    with shoal.init():
        waiting = [count.remote(make_text.remote(seed)) for seed in range(texts)]
        total: collections.Counter[str] = collections.Counter()
        while waiting:
            done, waiting = shoal.wait(waiting, num_returns=1)
            total += shoal.get(done[0])
        for word, times in total.most_common(3):
            print(f"{word:10} {times}")
        print(f"{total.total()} words in {texts} texts")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
