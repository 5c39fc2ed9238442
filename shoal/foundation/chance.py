"""Randomness as an argument: one seeded source, split by name so that new users do not disturb old ones."""

from __future__ import annotations

import hashlib
import random


class Chance(random.Random):
    """A seeded source of randomness that can be split.

    >>> Chance(7).split("boot").random() == Chance(7).split("boot").random()
    True
    >>> Chance(7).split("boot").random() == Chance(7).split("faults").random()
    False
    """

    def __init__(self, seed: int | str) -> None:
        self.name = str(seed)
        super().__init__(_number(self.name))

    def split(self, name: str) -> Chance:
        """Return an independent source that depends only on this one's seed and on `name`."""
        return Chance(f"{self.name}/{name}")


def _number(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "big")
