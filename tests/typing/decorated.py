"""Decorated classes: pyright follows a class decorator's type, mypy does not (its documentation says so). Never run."""

from __future__ import annotations

import shoal
from shoal import ObjectRef


@shoal.remote
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.count = start

    @shoal.method
    def add(self, by: int) -> int:
        self.count += by
        return self.count

    @shoal.method(num_returns=1)
    async def name(self) -> str:
        return "counter"

    def plain(self) -> int:
        return self.count


@shoal.remote(num_cpus=1, max_restarts=-1, concurrency_groups={"io": 2})
class Other:
    pass


def actors() -> None:
    counter = Counter.remote(1)
    named = Counter.options(name="c", lifetime="detached", get_if_exists=True).remote()
    first: ObjectRef[int] = counter.add.remote(1)
    second: ObjectRef[str] = named.name.remote()
    shoal.get([first, second])
    Other.remote()
    shoal.kill(counter)


def wrong_actors() -> None:
    Counter.options(lifetime="forever")  # wrong
    Counter.options(max_retries=1)  # wrong
    Counter(1)  # wrong
