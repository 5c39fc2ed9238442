"""Fit a line by gradient descent: an actor holds the weights, workers compute gradients on their share of the data.

python examples/parameter_server.py [ROUNDS]
"""

from __future__ import annotations

import random
import sys

import shoal

SLOPE, OFFSET = 3.0, -1.0


@shoal.remote
class Weights:
    """The parameters, changed by one call at a time."""

    def __init__(self) -> None:
        self.slope = self.offset = 0.0

    def get(self) -> tuple[float, float]:
        return self.slope, self.offset

    def step(self, *gradients: tuple[float, float]) -> None:
        rate = 0.5 / len(gradients)
        for by_slope, by_offset in gradients:
            self.slope -= rate * by_slope
            self.offset -= rate * by_offset


@shoal.remote
def gradient(weights: tuple[float, float], seed: int) -> tuple[float, float]:
    """Return the gradient of the squared error on 500 points of this share."""
    slope, offset = weights
    chance = random.Random(seed)
    by_slope = by_offset = 0.0
    for _ in range(500):
        x = chance.uniform(-1, 1)
        error = slope * x + offset - (SLOPE * x + OFFSET + chance.gauss(0, 0.1))
        by_slope += 2 * error * x / 500
        by_offset += 2 * error / 500
    return by_slope, by_offset


def main(rounds: int = 30) -> None:
    with shoal.init():
        weights = Weights.remote()
        for number in range(rounds):
            now = weights.get.remote()
            weights.step.remote(*[gradient.remote(now, 4 * number + share) for share in range(4)])
        slope, offset = shoal.get(weights.get.remote())
        print(f"y = {slope:.2f} x {offset:+.2f}   (made from y = {SLOPE:.2f} x {OFFSET:+.2f})")
        assert abs(slope - SLOPE) < 0.2 and abs(offset - OFFSET) < 0.2


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
