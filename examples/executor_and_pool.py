"""Code that knows only the standard library, on the cluster: `concurrent.futures` and `multiprocessing.Pool`.

python examples/executor_and_pool.py
"""

from __future__ import annotations

import concurrent.futures
import math

import shoal
from shoal.util.executor import Executor
from shoal.util.multiprocessing import Pool


def is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def main() -> None:
    numbers = range(10_000, 10_200)
    expected = [number for number in numbers if is_prime(number)]
    with shoal.init():
        with Executor() as executor:
            futures = {executor.submit(is_prime, number): number for number in numbers}
            primes = sorted(futures[one] for one in concurrent.futures.as_completed(futures) if one.result())
        with Pool(2) as pool:
            again = [number for number, prime in zip(numbers, pool.map(is_prime, numbers), strict=True) if prime]
    print(f"{len(primes)} primes, the first {primes[:5]}")
    assert primes == again == expected


if __name__ == "__main__":
    main()
