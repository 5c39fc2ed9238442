"""The rows of the runtime benchmark: what is run, on `ray` and on `shoal` alike, and what is asked of the ratio.

A row is a function of the engine's module: it sets up (actors, objects) and returns one step and how many operations
that step does. The shapes are those of Ray's own `ray microbenchmark`, under its names; the companions stand beside
rows that a benchmark could flatter: arguments and results of a kilobyte, values that another process reads.

Everything remote is defined inside the row, so that both engines pickle it by value. Every step checks what came back.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

Step = Callable[[], None]
Build = Callable[[Any, "Sizes"], tuple[Step, float]]

MIB = 2**20
CPUS = max(1, (os.cpu_count() or 1) // 2)
"""Ray's benchmark takes half of the processors for its n:n rows."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much one step does. Ray's own numbers; `QUICK` for a look while working."""

    batch: int = 1000
    clients: int = 4
    tasks_per_client: int = 10_000
    calls_per_client: int = 5000
    refs: int = 10_000
    groups: int = 100
    put_mib: int = 800
    fast_calls: int = 100_000


QUICK = Sizes(tasks_per_client=1000, calls_per_client=1000, put_mib=200, fast_calls=2000)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    `floor` is the ratio to Ray that the median must reach (the lowest round: 0.7 of it); `limit_s` is for rows whose
    own time is what counts. `is_against_best`: each round is held against Ray's best round.
    """

    build: Build
    floor: float = 0.0
    unit: str = "/s"
    limit_s: float | None = None
    is_against_best: bool = False


def expect(got: Any, wanted: Any) -> None:
    """Stop the benchmark if a result is wrong: a fast wrong answer is none."""
    if got != wanted:
        raise AssertionError(f"expected {str(wanted)[:80]}, got {str(got)[:80]}")


# ------------------------------------------------------------------------------------------------ what the rows run


def small_task(ray: ModuleType) -> Any:
    @ray.remote
    def small_value() -> bytes:
        return b"ok"

    return small_value


def small_actor(ray: ModuleType) -> Any:
    small_value_task = small_task(ray)

    @ray.remote(num_cpus=0)
    class Actor:
        def small_value(self) -> bytes:
            return b"ok"

        def small_value_arg(self, x: Any) -> bytes:
            return b"ok" if x == 0 else b"?"

        def small_value_batch(self, n: int) -> int:
            return ray.get([small_value_task.remote() for _ in range(n)]).count(b"ok")

        def echo(self, x: Any) -> Any:
            return x

        def nap(self, seconds: float) -> float:
            time.sleep(seconds)
            return seconds

    return Actor


def async_actor(ray: ModuleType) -> Any:
    @ray.remote
    class AsyncActor:
        async def small_value(self) -> bytes:
            return b"ok"

        async def small_value_with_arg(self, x: Any) -> int:
            return x

    return AsyncActor


def client_actor(ray: ModuleType) -> Any:
    @ray.remote(num_cpus=0)
    class Client:
        def __init__(self, servers: list[Any]) -> None:
            self.servers = servers

        def small_value_batch(self, n: int) -> int:
            results = []
            for server in self.servers:
                results.extend([server.small_value.remote() for _ in range(n)])
            return ray.get(results).count(b"ok")

        def small_value_batch_arg(self, n: int) -> int:
            x = ray.put(0)
            results = []
            for server in self.servers:
                results.extend([server.small_value_arg.remote(x) for _ in range(n)])
            return ray.get(results).count(b"ok")

    return Client


def kilobyte() -> dict[str, Any]:
    """Return a dict of about 1 KB when pickled, as programs pass them: names, numbers, a few lists."""
    return {
        "name": "experiment-0017",
        "path": "/data/sets/images/2026/train-00017-of-01024.tfrecord",
        "values": [round(0.37 * n, 2) for n in range(50)],
        "labels": [f"label-{n:03d}" for n in range(20)],
        "options": {"rate": 0.001, "steps": 10_000, "is_shuffled": True, "seed": None},
    }


# ------------------------------------------------------------------------------------------------ objects


def get_small(ray: ModuleType, sizes: Sizes) -> tuple[Step, float]:
    value = ray.put(0)

    def step() -> None:
        for _ in range(100):
            found = ray.get(value)
        expect(found, 0)

    return step, 100


def put_small(ray: ModuleType, sizes: Sizes) -> tuple[Step, float]:
    def step() -> None:
        for _ in range(100):
            ref = ray.put(0)
        expect(ray.get(ref), 0)

    return step, 100


def put_small_multi(ray: ModuleType, sizes: Sizes) -> tuple[Step, float]:
    @ray.remote
    def do_put_small() -> int:
        for _ in range(100):
            ray.put(0)
        return 100

    return lambda: expect(ray.get([do_put_small.remote() for _ in range(10)]), [100] * 10), 1000


def random_array(size: int) -> Any:
    import numpy as np

    return np.frombuffer(os.urandom(size), dtype=np.uint8).copy()


def put_large(ray: ModuleType, sizes: Sizes) -> tuple[Step, float]:
    array = random_array(sizes.put_mib * MIB)

    def step() -> None:
        ref = ray.put(array)
        del ref
        time.sleep(0)

    found = ray.get(ray.put(array))
    expect((len(found), int(found[-1]), int(found[12345])), (len(array), int(array[-1]), int(array[12345])))
    del found
    return step, len(array) / 1e9


def put_large_multi(ray: ModuleType, sizes: Sizes) -> tuple[Step, float]:
    part = sizes.put_mib * MIB // 10

    @ray.remote
    class Putter:
        def __init__(self) -> None:
            import os

            import numpy as np

            self.array = np.frombuffer(os.urandom(part), dtype=np.uint8).copy()

        def do_put(self) -> int:
            for _ in range(10):
                ref = ray.put(self.array)
            return len(ray.get(ref))

    putters = [Putter.remote() for _ in range(2)]
    expect(ray.get([one.do_put.remote() for one in putters]), [part] * 2)
    return (
        lambda: expect(ray.get([one.do_put.remote() for one in putters]), [part] * 2),
        2 * 10 * part / 1e9,
    )


def get_many_refs(ray: ModuleType, sizes: Sizes) -> tuple[Step, float]:
    count = sizes.refs

    @ray.remote
    def create_object_containing_ref() -> list[Any]:
        return [ray.put(1) for _ in range(count)]

    holder = create_object_containing_ref.remote()
    expect(ray.get(ray.get(holder)[17]), 1)
    return lambda: expect(len(ray.get(holder)), count), 1


# ------------------------------------------------------------------------------------------------ tasks


def tasks_sync(ray: ModuleType, sizes: Sizes) -> tuple[Step, float]:
    small_value = small_task(ray)
    return lambda: expect(ray.get(small_value.remote()), b"ok"), 1


def tasks_async(ray: ModuleType, sizes: Sizes) -> tuple[Step, float]:
    small_value, wanted = small_task(ray), [b"ok"] * sizes.batch
    return lambda: expect(ray.get([small_value.remote() for _ in range(sizes.batch)]), wanted), sizes.batch


def tasks_batch(ray: ModuleType, sizes: Sizes) -> tuple[Step, float]:
    step, _ = tasks_async(ray, sizes)
    return step, 1


def wait_1k(ray: ModuleType, sizes: Sizes) -> tuple[Step, float]:
    small_value = small_task(ray)

    def step() -> None:
        not_ready = [small_value.remote() for _ in range(sizes.batch)]
        fetch_local = True
        for _ in range(sizes.batch):
            ready, not_ready = ray.wait(not_ready, fetch_local=fetch_local)
            fetch_local = False
        expect((len(ready), len(not_ready)), (1, 0))

    return step, 1


def tasks_multi(ray: ModuleType, sizes: Sizes) -> tuple[Step, float]:
    Actor, n, m = small_actor(ray), sizes.tasks_per_client, sizes.clients
    actors = [Actor.remote() for _ in range(m)]
    return lambda: expect(ray.get([a.small_value_batch.remote(n) for a in actors]), [n] * m), n * m


# ------------------------------------------------------------------------------------------------ actors


def calls_sync(ray: ModuleType, sizes: Sizes) -> tuple[Step, float]:
    a = small_actor(ray).remote()
    return lambda: expect(ray.get(a.small_value.remote()), b"ok"), 1


def _calls_async(ray: ModuleType, sizes: Sizes, a: Any) -> tuple[Step, float]:
    wanted = [b"ok"] * sizes.batch
    return lambda: expect(ray.get([a.small_value.remote() for _ in range(sizes.batch)]), wanted), sizes.batch


def calls_async(ray: ModuleType, sizes: Sizes) -> tuple[Step, float]:
    return _calls_async(ray, sizes, small_actor(ray).remote())


def calls_concurrent(ray: ModuleType, sizes: Sizes) -> tuple[Step, float]:
    return _calls_async(ray, sizes, small_actor(ray).options(max_concurrency=16).remote())


def calls_1n(ray: ModuleType, sizes: Sizes) -> tuple[Step, float]:
    Actor, n = small_actor(ray), sizes.calls_per_client
    client = client_actor(ray).remote([Actor.remote() for _ in range(CPUS)])
    return lambda: expect(ray.get(client.small_value_batch.remote(n)), n * CPUS), n * CPUS


def _calls_nn(ray: ModuleType, sizes: Sizes, actors: list[Any]) -> tuple[Step, float]:
    n, m, total = sizes.calls_per_client, sizes.clients, len(actors)

    @ray.remote
    def work(actors: list[Any]) -> int:
        return ray.get([actors[i % total].small_value.remote() for i in range(n)]).count(b"ok")

    return lambda: expect(ray.get([work.remote(actors) for _ in range(m)]), [n] * m), m * n


def calls_nn(ray: ModuleType, sizes: Sizes) -> tuple[Step, float]:
    Actor = small_actor(ray)
    return _calls_nn(ray, sizes, [Actor.remote() for _ in range(CPUS)])


def calls_nn_arg(ray: ModuleType, sizes: Sizes) -> tuple[Step, float]:
    Actor, Client, n = small_actor(ray), client_actor(ray), sizes.batch
    clients = [Client.remote([Actor.remote()]) for _ in range(CPUS)]
    return lambda: expect(ray.get([c.small_value_batch_arg.remote(n) for c in clients]), [n] * CPUS), n * CPUS


def async_calls_sync(ray: ModuleType, sizes: Sizes) -> tuple[Step, float]:
    a = async_actor(ray).remote()
    return lambda: expect(ray.get(a.small_value.remote()), b"ok"), 1


def async_calls_async(ray: ModuleType, sizes: Sizes) -> tuple[Step, float]:
    return _calls_async(ray, sizes, async_actor(ray).remote())


def async_calls_arg(ray: ModuleType, sizes: Sizes) -> tuple[Step, float]:
    a, n = async_actor(ray).remote(), sizes.batch
    wanted = list(range(n))
    return lambda: expect(ray.get([a.small_value_with_arg.remote(i) for i in range(n)]), wanted), n


def async_calls_1n(ray: ModuleType, sizes: Sizes) -> tuple[Step, float]:
    AsyncActor, n = async_actor(ray), sizes.calls_per_client
    client = client_actor(ray).remote([AsyncActor.remote() for _ in range(CPUS)])
    return lambda: expect(ray.get(client.small_value_batch.remote(n)), n * CPUS), n * CPUS


def async_calls_nn(ray: ModuleType, sizes: Sizes) -> tuple[Step, float]:
    AsyncActor = async_actor(ray)
    return _calls_nn(ray, sizes, [AsyncActor.remote() for _ in range(CPUS)])


# ------------------------------------------------------------------------------------------------ placement groups


def groups(ray: ModuleType, sizes: Sizes) -> tuple[Step, float]:
    import importlib

    util = importlib.import_module(f"{ray.__name__}.util")

    def step() -> None:
        made = [util.placement_group(bundles=[{"custom": 0.001}]) for _ in range(sizes.groups)]
        expect([one.wait(timeout_seconds=30) for one in made], [True] * sizes.groups)
        for one in made:
            util.remove_placement_group(one)

    return step, sizes.groups


# ------------------------------------------------------------------------------------------------ companions


def _echo_task(ray: ModuleType) -> Any:
    @ray.remote
    def echo(x: Any) -> Any:
        return x

    return echo


def dict_sync(ray: ModuleType, sizes: Sizes) -> tuple[Step, float]:
    echo, value = _echo_task(ray), kilobyte()
    return lambda: expect(ray.get(echo.remote(value)), value), 1


def dict_async(ray: ModuleType, sizes: Sizes) -> tuple[Step, float]:
    echo, value, n = _echo_task(ray), kilobyte(), sizes.batch
    return lambda: expect(ray.get([echo.remote(value) for _ in range(n)]), [value] * n), n


def dict_actor_async(ray: ModuleType, sizes: Sizes) -> tuple[Step, float]:
    a, value, n = small_actor(ray).remote(), kilobyte(), sizes.batch
    return lambda: expect(ray.get([a.echo.remote(value) for _ in range(n)]), [value] * n), n


def put_passed(ray: ModuleType, sizes: Sizes) -> tuple[Step, float]:
    value = kilobyte()

    @ray.remote
    def name_of(one: dict[str, Any]) -> Any:
        return one["name"]

    return lambda: expect(ray.get(name_of.remote(ray.put(value))), value["name"]), 1


def put_read(ray: ModuleType, sizes: Sizes) -> tuple[Step, float]:
    value = kilobyte()

    @ray.remote
    def name_in(refs: list[Any]) -> Any:
        return ray.get(refs[0])["name"]

    return lambda: expect(ray.get(name_in.remote([ray.put(value)])), value["name"]), 1


def _naps(ray: ModuleType, sizes: Sizes, fast_calls: int) -> tuple[Step, float]:
    a = small_actor(ray).options(max_concurrency=16).remote()
    done = 0
    while done < fast_calls:
        expect(ray.get([a.small_value.remote() for _ in range(sizes.batch)]), [b"ok"] * sizes.batch)
        done += sizes.batch
    return lambda: expect(ray.get([a.nap.remote(0.1) for _ in range(16)]), [0.1] * 16), 1


def naps(ray: ModuleType, sizes: Sizes) -> tuple[Step, float]:
    return _naps(ray, sizes, 0)


def naps_after_fast(ray: ModuleType, sizes: Sizes) -> tuple[Step, float]:
    return _naps(ray, sizes, sizes.fast_calls)


# ------------------------------------------------------------------------------------------------ the table

NAP_LIMIT_S = 0.2

ROWS: dict[str, Row] = {
    "single client get calls": Row(build=get_small, floor=20),
    "single client put calls": Row(build=put_small, floor=20),
    "multi client put calls": Row(build=put_small_multi, floor=20),
    "single client tasks and get batch": Row(build=tasks_batch, floor=20),
    "single client get object containing 10k refs": Row(build=get_many_refs, floor=8),
    "single client wait 1k refs": Row(build=wait_1k, floor=8),
    "single client tasks sync": Row(build=tasks_sync, floor=6),
    "single client tasks async": Row(build=tasks_async, floor=20),
    "multi client tasks async": Row(build=tasks_multi, floor=20),
    "1:1 actor calls sync": Row(build=calls_sync, floor=6),
    "1:1 actor calls async": Row(build=calls_async, floor=20),
    "1:1 actor calls concurrent": Row(build=calls_concurrent, floor=6),
    "1:n actor calls async": Row(build=calls_1n, floor=12),
    "n:n actor calls async": Row(build=calls_nn, floor=12),
    "n:n actor calls with arg async": Row(build=calls_nn_arg, floor=20),
    "1:1 async-actor calls sync": Row(build=async_calls_sync, floor=6),
    "1:1 async-actor calls async": Row(build=async_calls_async, floor=20),
    "1:1 async-actor calls with args async": Row(build=async_calls_arg, floor=20),
    "1:n async-actor calls async": Row(build=async_calls_1n, floor=12),
    "n:n async-actor calls async": Row(build=async_calls_nn, floor=12),
    "placement group create/removal": Row(build=groups, floor=6),
    "1 KB dict, tasks sync": Row(build=dict_sync, floor=3),
    "1 KB dict, tasks async": Row(build=dict_async, floor=10),
    "1 KB dict, actor calls async": Row(build=dict_actor_async, floor=10),
    "put, passed to a task": Row(build=put_passed, floor=3),
    "put, read by a worker": Row(build=put_read, floor=3),
    "16 calls of 0.1 s on 16 threads": Row(build=naps, limit_s=NAP_LIMIT_S, unit="s"),
    "the same after 100,000 fast calls": Row(build=naps_after_fast, limit_s=NAP_LIMIT_S, unit="s"),
    "single client put gigabytes": Row(build=put_large, floor=1, unit="GB/s", is_against_best=True),
    "multi client put gigabytes": Row(build=put_large_multi, floor=1, unit="GB/s", is_against_best=True),
}
