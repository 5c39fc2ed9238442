"""Programs that type checkers must accept, and lines (marked `# wrong`) that they must refuse. Never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import assert_type

import shoal
from shoal import ObjectRef, ObjectRefGenerator


@shoal.remote
def add(a: int, b: int = 2) -> int:
    return a + b


@shoal.remote(num_cpus=2, max_retries=0)
def text(value: float, *, digits: int) -> str:
    return f"{value:.{digits}f}"


@shoal.remote
async def later(a: int) -> str:
    return str(a)


@shoal.remote
def several(count: int) -> Iterator[int]:
    yield from range(count)


@shoal.remote
async def stream(count: int) -> AsyncIterator[int]:
    yield count


def tasks() -> None:
    assert_type(add.remote(1), ObjectRef[int])
    assert_type(add.remote(1, b=3), ObjectRef[int])
    assert_type(shoal.get(add.remote(1)), int)
    assert_type(shoal.get([add.remote(1), add.remote(2)]), list[int])
    assert_type(text.remote(1.5, digits=2), ObjectRef[str])
    assert_type(text.options(num_cpus=1, name="t").remote(1.5, digits=2), ObjectRef[str])
    assert_type(later.remote(1), ObjectRef[str])
    assert_type(several.remote(3), ObjectRefGenerator[int])
    assert_type(stream.remote(3), ObjectRefGenerator[int])
    assert_type(add.remote(add.remote(1), 2), ObjectRef[int])
    assert_type(add.remote(1, add.remote(1)), ObjectRef[int])
    assert_type(shoal.put("x"), ObjectRef[str])
    ready, _others = shoal.wait([add.remote(1)], num_returns=1, timeout=1.0)
    assert_type(ready, list[ObjectRef[int]])
    for ref in several.remote(3):
        assert_type(shoal.get(ref), int)
    shoal.get([add.remote(1), text.remote(1.0, digits=1)])


def wrong_tasks() -> None:
    add.remote("1")  # wrong
    add.remote()  # wrong
    add.remote(1, c=3)  # wrong
    text.remote(1.5)  # wrong
    add.options(num_cpu=1)  # wrong
    add.options(num_returns="all")  # wrong
    add.options(max_restarts=1)  # wrong
    shoal.get(3)  # wrong
    add(1)  # wrong


async def awaited() -> None:
    assert_type(await add.remote(1), int)


class CounterClass:
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


Counter = shoal.remote(CounterClass)
Sized = shoal.remote(num_cpus=1, max_restarts=-1, concurrency_groups={"io": 2})(CounterClass)


def actors() -> None:
    counter = Counter.remote(1)
    named = Counter.options(name="c", lifetime="detached", get_if_exists=True).remote()
    first: ObjectRef[int] = counter.add.remote(1)
    second: ObjectRef[str] = named.name.remote()
    counter.add.options(name="one").remote(1)
    shoal.get([first, second])
    Sized.remote()
    shoal.kill(counter)


def wrong_actors() -> None:
    Counter.options(lifetime="forever")  # wrong
    Counter.options(max_retries=1)  # wrong
    Counter(1)  # wrong
    Counter.remote(1).add.remote("1")  # wrong
