"""One use of each feature that Ray programs lean on."""

import asyncio
import os

import numpy as np
import ray
from ray.util.multiprocessing import Pool

ray.init(num_cpus=2, namespace="mine", runtime_env={"env_vars": {"SETTING": "1"}})


@ray.remote
def add(a, b):
    return a + b


@ray.remote
class Limited:
    def __init__(self):
        self.semaphore, self.running, self.most = asyncio.Semaphore(2), 0, 0

    async def run(self, n):
        async with self.semaphore:
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(0.02)
            self.running -= 1
            return n

    async def peak(self):
        return self.most

    async def nested(self):
        return await add.remote(1, 2)


limited = Limited.remote()
print("async", ray.get([limited.run.remote(n) for n in range(10)]), ray.get(limited.peak.remote()))
print("nested", ray.get(limited.nested.remote()))


@ray.remote
def surroundings():
    return os.environ.get("SETTING"), ray.get_runtime_context().namespace


print("surroundings", ray.get(surroundings.remote()))


@ray.remote(num_returns="dynamic")
def dynamic(count):
    for n in range(count):
        yield n + 0


@ray.remote
def stream(count):
    for n in range(count):
        yield {"n": n}


async def consume():
    return [await ref async for ref in stream.remote(4)]


print("dynamic", [ray.get(ref) for ref in ray.get(dynamic.remote(3))])
print("stream", asyncio.run(consume()))


@ray.remote
class Named:
    @ray.method(num_returns=2)
    def two(self):
        return 1, 2

    def me(self):
        return ray.get_runtime_context().current_actor


named = Named.options(name="kept", lifetime="detached").remote()
print("two", ray.get(named.two.remote()), ray.get(ray.get_actor("kept").two.remote()[0]))
print("me", ray.get(ray.get(named.me.remote()).two.remote()[1]))
ray.kill(named)

big = ray.put(np.arange(2_000_000))


@ray.remote
def total(array):
    return int(array.sum()), array.flags.writeable


print("big", ray.get([total.remote(big) for _ in range(3)]))


@ray.remote
def fails():
    raise RuntimeError("boom")


try:
    ray.get([fails.remote(), add.remote(1, 1)])
except RuntimeError as error:
    print("error", isinstance(error, ray.exceptions.RayTaskError), "boom" in str(error))


@ray.remote(max_calls=1)
def pid():
    return os.getpid()


print("max_calls", len({ray.get(pid.remote()) for _ in range(3)}))
with Pool(2) as pool:
    print("pool", pool.map(abs, [-1, -2]))


@ray.remote
def deep(n):
    return ray.get(deep.remote(n - 1)) + 1 if n else 0


print("deep", ray.get(deep.remote(12)))


class Base:
    def hello(self):
        return "base"


@ray.remote
class Child(Base):
    def hello(self):
        return "child of " + super().hello()


print("inherited", ray.get(Child.remote().hello.remote()))
print("lambda", ray.get(ray.remote(lambda value: value * 2).remote(4)))
print("nodes", [node["Alive"] for node in ray.nodes()], ray.cluster_resources()["CPU"])
ray.shutdown()
print("over", not ray.is_initialized())
