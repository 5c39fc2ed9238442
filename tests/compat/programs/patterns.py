"""Patterns that Ray's users write: progress actor, map and reduce, trees of actors, pipelines, a parameter server."""

import math
import random
import time

import numpy as np
import ray

ray.init(num_cpus=2)


@ray.remote
class Progress:
    def __init__(self, total):
        self.total, self.done = total, {}

    def report(self, task, count):
        self.done[task] = count

    def share(self):
        return sum(self.done.values()) / self.total


@ray.remote
def sample(count, task, progress):
    inside = 0
    for n in range(count):
        inside += math.hypot(random.uniform(-1, 1), random.uniform(-1, 1)) <= 1
        if (n + 1) % 20_000 == 0:
            progress.report.remote(task, n + 1)
    progress.report.remote(task, count)
    return inside


TASKS, COUNT = 4, 50_000
progress = Progress.remote(TASKS * COUNT)
parts = [sample.remote(COUNT, task, progress) for task in range(TASKS)]
while ray.get(progress.share.remote()) < 1:
    time.sleep(0.02)
print("pi", round(4 * sum(ray.get(parts)) / (TASKS * COUNT), 1))


@ray.remote
def count_words(text):
    halves = [[], []]
    for word in text.split():
        halves[ord(word) % 2].append((word, 1))
    return halves


@ray.remote
def add_up(*parts):
    counts = {}
    for part in parts:
        for word, count in part:
            counts[word] = counts.get(word, 0) + count
    return counts


mapped = [count_words.options(num_returns=2).remote(text) for text in ["a b c a", "b c", "a a"] * 10]
reduced = ray.get([add_up.remote(*[halves[which] for halves in mapped]) for which in range(2)])
print("words", sorted({**reduced[0], **reduced[1]}.items()))


@ray.remote(num_cpus=0)
class Worker:
    def work(self, value):
        return value * 2


@ray.remote(num_cpus=0)
class Supervisor:
    def __init__(self):
        self.workers = [Worker.remote() for _ in range(3)]

    def work(self, value):
        return ray.get([worker.work.remote(value) for worker in self.workers])


supervisors = [Supervisor.remote() for _ in range(2)]
print("tree", ray.get([one.work.remote(3) for one in supervisors]))


@ray.remote
def load(n):
    time.sleep(random.random() / 50)
    return n


@ray.remote
def process(n):
    return n + 1


refs, total = [process.remote(load.remote(n)) for n in range(20)], 0
while refs:
    ready, refs = ray.wait(refs, num_returns=min(3, len(refs)))
    total += sum(ray.get(ready))
print("pipeline", total)


@ray.remote
class ParameterServer:
    def __init__(self, size):
        self.weights = np.zeros(size)

    def apply(self, *gradients):
        self.weights = self.weights + np.sum(gradients, axis=0)
        return self.weights

    def read(self):
        return self.weights


@ray.remote(num_cpus=0)
class Learner:
    def gradient(self, weights):
        return np.ones_like(weights)


server, learners = ParameterServer.remote(300_000), [Learner.remote() for _ in range(3)]
weights = server.read.remote()
for _ in range(5):
    weights = server.apply.remote(*[learner.gradient.remote(weights) for learner in learners])
print("weights", ray.get(weights)[:2].tolist(), ray.get(weights).flags.writeable)
