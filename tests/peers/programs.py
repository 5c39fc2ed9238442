"""Small Ray programs whose results say what the API means. Run by real Ray and by Shoal; the answers must be equal.

    python tests/peers/programs.py                      with the Ray that is installed
    python -m shoal.compat.ray tests/peers/programs.py  with Shoal

Prints, after `answers: `, one JSON object: the name of each program to what it returned. Answers hold nothing that may
differ from run to run.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy
import ray
from ray import exceptions

MARK = "answers: "
PROGRAMS: dict[str, Callable[[], Any]] = {}
KINDS = (
    *(ValueError, TypeError, KeyError, RuntimeError, TimeoutError, ZeroDivisionError, AttributeError, StopIteration),
    *(KeyboardInterrupt, ConnectionError),
    *(exceptions.RayError, exceptions.RayTaskError, exceptions.RayActorError, exceptions.ActorDiedError),
    *(exceptions.GetTimeoutError, exceptions.TaskCancelledError, exceptions.WorkerCrashedError),
    *(
        exceptions.TaskPlacementGroupRemoved,
        exceptions.ActorPlacementGroupRemoved,
        exceptions.PendingCallsLimitExceeded,
    ),
)
SHOWN = {
    exceptions.RayError: "RayError",
    exceptions.RayTaskError: "RayTaskError",
    exceptions.RayActorError: "RayActorError",
}


def program(function: Callable[[], Any]) -> Callable[[], Any]:
    PROGRAMS[function.__name__] = function
    return function


def kinds(call: Callable[[], Any]) -> Any:
    """Return the names of what `call` raises, or what it returns."""
    try:
        return {"returned": call()}
    except BaseException as error:
        return [SHOWN.get(kind, kind.__name__) for kind in KINDS if isinstance(error, kind)]


@ray.remote
def identity(value: Any) -> Any:
    return value


@ray.remote
def fail(kind: type[BaseException] = ValueError) -> None:
    raise kind("boom")


@ray.remote
def sleep(delay_s: float) -> float:
    time.sleep(delay_s)
    return delay_s


@ray.remote(num_cpus=0)
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.count = start

    def add(self, by: int = 1) -> int:
        self.count += by
        return self.count

    def fail(self) -> None:
        raise KeyError("in actor")

    def leave(self) -> None:
        ray.actor.exit_actor()

    def pid(self) -> int:
        return os.getpid()

    def sleep(self, delay_s: float) -> float:
        time.sleep(delay_s)
        return delay_s


# ------------------------------------------------------------------------------------------------------ calling wrongly


@program
def direct_calls_are_type_errors() -> Any:
    counter = Counter.remote()
    return [kinds(lambda: identity(1)), kinds(lambda: Counter(1)), kinds(lambda: counter.add(1))]


@program
def wrong_arguments() -> Any:
    @ray.remote
    def two(a: int, b: int = 2) -> int:
        return a + b

    calls: list[Callable[[], Any]] = [
        lambda: two.remote(1, 2, 3),
        lambda: two.remote(),
        lambda: two.remote(1, c=1),
        lambda: Counter.remote().add.remote(1, 2, 3),
        lambda: Counter.remote(nothing=1),
    ]
    return [*(kinds(call) for call in calls), kinds(lambda: Counter.remote().nothing)]


@program
def wrong_options() -> Any:
    given: list[dict[str, Any]] = [
        {"num_cpu": 1},
        {"num_cpus": -1},
        {"num_cpus": "1"},
        {"max_retries": -2},
        {"max_retries": 1.5},
        {"num_returns": -1},
        {"resources": {"CPU": 1}},
        {"scheduling_strategy": 3},
        {"max_calls": 1},
        {"runtime_env": {"env_vars": {"A": 1}}},
        {"name": 3},
    ]
    return [[sorted(one), kinds(lambda one=one: identity.options(**one).remote(1) and None)] for one in given]


@program
def wrong_actor_options() -> Any:
    given: list[dict[str, Any]] = [
        {"lifetime": "forever"},
        {"get_if_exists": True},
        {"name": ""},
        {"max_retries": 1},
        {"max_restarts": -2},
        {"max_concurrency": -1},
        {"namespace": ""},
        {"concurrency_groups": {"io": 1}},
    ]
    return [[sorted(one), kinds(lambda one=one: Counter.options(**one).remote() and None)] for one in given]


@program
def wrong_gets_puts_and_waits() -> Any:
    ref = ray.put(1)
    return [
        kinds(lambda: ray.get(3)),
        kinds(lambda: ray.get([ref, 3])),
        kinds(lambda: ray.put(ref)),
        kinds(lambda: ray.wait(ref)),
        kinds(lambda: ray.wait([3])),
        kinds(lambda: ray.wait([ref, ref])),
        kinds(lambda: ray.wait([ref], num_returns=2)),
        kinds(lambda: ray.wait([ref], num_returns=0)),
        kinds(lambda: ray.wait([ref], timeout=-1)),
        kinds(lambda: ray.wait([])),
        kinds(lambda: ray.get([])),
        kinds(lambda: ray.get_actor("nobody")),
        kinds(lambda: ray.kill(3)),
        kinds(lambda: ray.cancel(3)),
    ]


# --------------------------------------------------------------------------------------------------------------- values


@program
def gets_are_copies() -> Any:
    ref = ray.put([1, 2])
    first, second = ray.get(ref), ray.get(ref)
    first.append(3)
    return [first is second, second, ray.get(ref)]


@program
def arrays_are_read_only_views() -> Any:
    answers = []
    for size in (3, 1_000_000):
        array = ray.get(ray.put(numpy.zeros(size)))
        answers.append([array.flags.writeable, kinds(lambda array=array: array.__setitem__(0, 1)), float(array.sum())])
    made = ray.get(identity.remote(numpy.ones(10)))
    return [*answers, made.flags.writeable, float(made.sum())]


@program
def references_at_the_top_are_values_and_inside_are_references() -> Any:
    @ray.remote
    def kinds_of(plain: Any, inside: Any, *, named: Any) -> list[str]:
        return [type(plain).__name__, type(inside[0]).__name__, type(named).__name__]

    ref = ray.put("value")
    return ray.get(kinds_of.remote(ref, [ref], named=ref))


@program
def references_are_equal_and_hash_alike() -> Any:
    ref = identity.remote(1)
    (inside,) = ray.get(ray.put([ref]))
    return [ref == inside, hash(ref) == hash(inside), len({ref, inside}), ref == identity.remote(1), len(ref.hex()) > 0]


@program
def nested_references_can_be_returned_and_read() -> Any:
    @ray.remote
    def outer() -> Any:
        return [identity.remote(n) for n in range(3)]

    return ray.get(ray.get(outer.remote()))


@program
def timeouts_of_get() -> Any:
    ref = sleep.remote(0.5)
    return [
        kinds(lambda: ray.get(ref, timeout=0)),
        kinds(lambda: ray.get(ref, timeout=0.05)),
        ray.get(ref, timeout=10),
        ray.get(ref, timeout=0),
    ]


@program
def wait_gives_at_most_what_was_asked() -> Any:
    refs = [identity.remote(n) for n in range(4)]
    ray.get(refs)
    ready, others = ray.wait(refs, num_returns=2)
    everything = ray.wait(refs, num_returns=4)
    slow = sleep.remote(0.5)
    return [
        len(ready),
        len(others),
        len(everything[0]),
        [len(part) for part in ray.wait([slow], timeout=0)],
        [len(part) for part in ray.wait([slow, refs[0]], num_returns=2, timeout=0.05)],
        [len(part) for part in ray.wait([slow], timeout=10)],
    ]


@program
def failed_counts_as_ready() -> Any:
    ref = fail.remote()
    return [len(part) for part in ray.wait([ref], timeout=10)]


@program
def awaiting_and_futures() -> Any:
    async def both() -> Any:
        gathered = await asyncio.gather(identity.remote(1), identity.remote(2))
        try:
            await fail.remote()
        except ValueError:
            return [gathered, "raised"]
        return [gathered, "quiet"]

    return [asyncio.run(both()), identity.remote(3).future().result(10)]


# --------------------------------------------------------------------------------------------------------------- errors


@program
def errors_are_both_types() -> Any:
    class OwnError(Exception):
        def __init__(self, code: int) -> None:
            super().__init__(code)
            self.code = code

    @ray.remote
    def own() -> None:
        raise OwnError(7)

    try:
        ray.get(own.remote())
    except OwnError as error:
        return [
            isinstance(error, exceptions.RayTaskError),
            type(error.cause).__name__,
            error.code,
            "OwnError: 7" in str(error),
        ]
    return "quiet"


@program
def errors_of_arguments_reach_the_last_task() -> Any:
    return [
        kinds(lambda: ray.get(identity.remote(fail.remote(KeyError)))),
        kinds(lambda: ray.get(fail.remote(ZeroDivisionError))),
    ]


@program
def nested_errors_keep_their_type() -> Any:
    @ray.remote
    def outer() -> Any:
        return ray.get(fail.remote(KeyError))

    try:
        ray.get(outer.remote())
    except KeyError as error:
        return [isinstance(error, exceptions.RayTaskError), type(error.cause).__name__]
    return "quiet"


@program
def what_cannot_be_pickled() -> Any:
    import threading

    lock = threading.Lock()

    @ray.remote
    def closes_over() -> Any:
        return lock

    @ray.remote
    def returns() -> Any:
        return threading.Lock()

    @ray.remote(num_cpus=0)
    class Holds:
        def __init__(self, value: Any = None) -> None:
            self.lock = threading.Lock()

        def give(self) -> Any:
            return self.lock

        def fail(self) -> None:
            class OwnError(Exception):
                def __init__(self) -> None:
                    self.lock = threading.Lock()

            raise OwnError

        def fine(self) -> int:
            return 1

    holds = Holds.remote()
    return [
        kinds(lambda: identity.remote(lock)),
        kinds(lambda: identity.remote(value=[lock])),
        kinds(lambda: ray.put(lock)),
        kinds(lambda: closes_over.remote()),
        kinds(lambda: ray.get(returns.remote())),
        kinds(lambda: Holds.remote(lock)),
        kinds(lambda: ray.get(holds.give.remote())),
        kinds(lambda: ray.get(holds.fail.remote())),
        ray.get(holds.fine.remote()),
    ]


@program
def user_errors_are_retried_only_on_request(folder: str = "") -> Any:
    counter = Counter.remote()

    def attempts(**options: Any) -> Any:
        start = ray.get(counter.add.remote(0))

        @ray.remote
        def flaky() -> str:
            if ray.get(counter.add.remote()) - start < 3:
                raise KeyError("again")
            return "done"

        answer = kinds(lambda: ray.get(flaky.options(**options).remote()))
        return [answer, ray.get(counter.add.remote(0)) - start]

    return [
        attempts(),
        attempts(retry_exceptions=True),
        attempts(retry_exceptions=[KeyError], max_retries=5),
        attempts(retry_exceptions=[ValueError]),
        attempts(retry_exceptions=True, max_retries=1),
    ]


@program
def system_failures_are_retried() -> Any:
    counter = Counter.remote()

    @ray.remote
    def dies_twice() -> str:
        if ray.get(counter.add.remote()) < 3:
            os._exit(1)
        return "done"

    @ray.remote(max_retries=0)
    def dies() -> None:
        os._exit(1)

    return [ray.get(dies_twice.remote()), ray.get(counter.add.remote(0)), kinds(lambda: ray.get(dies.remote()))]


# ------------------------------------------------------------------------------------------------------ several results


@program
def numbers_of_results() -> Any:
    @ray.remote(num_returns=2)
    def two() -> Any:
        return 1, 2

    @ray.remote(num_returns=2)
    def three() -> Any:
        return 1, 2, 3

    first, second = two.remote()
    wrong = three.remote()
    return [
        ray.get([first, second]),
        [kinds(lambda ref=ref: ray.get(ref)) for ref in wrong],
        identity.options(num_returns=0).remote(1),
        len(two.options(num_returns=2).remote()),
    ]


@program
def generators_stream_by_default() -> Any:
    @ray.remote
    def count(most: int) -> Any:
        for n in range(most):
            yield n + 0

    @ray.remote
    def breaks() -> Any:
        yield 1
        raise ValueError("midway")

    stream = count.remote(3)
    broken = breaks.remote()
    return [
        type(stream).__name__,
        [ray.get(ref) for ref in stream],
        ray.get(next(broken)),
        kinds(lambda: ray.get(next(broken))),
        kinds(lambda: next(broken)),
        kinds(lambda: identity.options(num_returns="streaming").remote(1)),
    ]


@program
def generator_with_a_number_of_results_is_a_tuple() -> Any:
    @ray.remote(num_returns=3)
    def count() -> Any:
        yield from range(3)

    return ray.get(count.remote())


@program
def actors_stream_too() -> Any:
    @ray.remote(num_cpus=0)
    class Streams:
        def count(self, most: int) -> Any:
            for n in range(most):  # `yield from` an iterator without `send` fails in Ray
                yield n + 0

        async def later(self, most: int) -> Any:
            for n in range(most):
                yield n * 10

    streams = Streams.remote()
    return [
        [ray.get(ref) for ref in streams.count.remote(3)],
        [ray.get(ref) for ref in streams.later.remote(3)],
    ]


# --------------------------------------------------------------------------------------------------------------- actors


@program
def calls_run_in_order_even_when_an_argument_is_late() -> Any:
    @ray.remote(num_cpus=0)
    class Log:
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def note(self, value: Any) -> Any:
            self.seen.append(value)
            return list(self.seen)

    log = Log.remote()
    log.note.remote(sleep.remote(0.3))
    log.note.remote("second")
    return ray.get(log.note.remote("third"))


@program
def errors_of_actors() -> Any:
    @ray.remote(num_cpus=0)
    class Broken:
        def __init__(self) -> None:
            raise ValueError("in init")

        def ping(self) -> None:
            pass

    counter = Counter.remote()
    answers = [kinds(lambda: ray.get(counter.fail.remote())), ray.get(counter.add.remote())]
    broken = Broken.remote()
    try:
        ray.get(broken.ping.remote())
    except exceptions.RayActorError as error:
        answers.append([isinstance(error, exceptions.ActorDiedError), "in init" in str(error)])
    return answers


@program
def killed_and_left_actors() -> Any:
    counter, other = Counter.remote(), Counter.remote()
    ray.get([counter.add.remote(), other.add.remote()])
    ray.kill(counter)
    first = kinds(lambda: ray.get(counter.add.remote()))
    left = kinds(lambda: ray.get(other.leave.remote()))
    return [first, left, kinds(lambda: ray.get(other.add.remote()))]


@program
def restarted_actors_start_anew() -> Any:
    counter = Counter.options(max_restarts=1, max_task_retries=1).remote(10)
    before = ray.get(counter.add.remote())
    os.kill(ray.get(counter.pid.remote()), 9)
    after = ray.get(counter.add.remote())
    os.kill(ray.get(counter.pid.remote()), 9)
    return [before, after, kinds(lambda: ray.get(counter.add.remote()))]


@program
def named_actors() -> Any:
    counter = Counter.options(name="one").remote(5)
    ray.get(counter.add.remote())
    again = Counter.options(name="one", get_if_exists=True).remote(100)
    answers = [
        ray.get(ray.get_actor("one").add.remote()),
        ray.get(again.add.remote()),
        kinds(lambda: Counter.options(name="one").remote()),
        kinds(lambda: ray.get_actor("one", namespace="elsewhere")),
        ray.util.list_named_actors(),
    ]
    del counter, again
    for _ in range(200):
        if not ray.util.list_named_actors():
            break
        time.sleep(0.05)
    return [*answers, ray.util.list_named_actors(), kinds(lambda: ray.get_actor("one"))]


@program
def a_handle_by_name_does_not_keep_the_actor() -> Any:
    counter = Counter.options(name="weak").remote(1)
    found = ray.get_actor("weak")
    before = ray.get(found.add.remote())
    del counter
    for _ in range(200):
        if isinstance(kinds(lambda: ray.get(found.add.remote())), list):
            break
        time.sleep(0.05)
    return [before, kinds(lambda: ray.get(found.add.remote())), kinds(lambda: ray.get_actor("weak"))]


@program
def handles_know_every_method() -> Any:
    @ray.remote(num_cpus=0)
    class Methods:
        @ray.method
        def plain(self) -> int:
            return 5

        @ray.method()
        def called(self) -> int:
            return 6

        @staticmethod
        def static(value: int) -> int:
            return value + 1

        @classmethod
        def named(cls) -> str:
            return cls.__name__

        def _private(self) -> str:
            return "private"

        def __len__(self) -> int:
            return 3

    actor = Methods.remote()
    return [
        ray.get([actor.plain.remote(), actor.called.remote(), actor.static.remote(1), actor.named.remote()]),
        ray.get([actor._private.remote(), actor.__len__.remote(), actor.plain._remote()]),
        ray.get([identity._remote(args=(1,)), actor.static._remote(args=(2,))]),
        kinds(lambda: ray.remote(identity)),
    ]


@program
def detached_actors_outlive_their_handle() -> Any:
    Counter.options(name="kept", lifetime="detached").remote(1)
    time.sleep(0.3)
    found = ray.get_actor("kept")
    answer = ray.get(found.add.remote())
    ray.kill(found)
    return answer


@program
def one_async_method_makes_the_class_async() -> Any:
    @ray.remote(num_cpus=0)
    class Meeting:
        def __init__(self) -> None:
            self.event = asyncio.Event()
            self.waiting = 0

        async def wait(self) -> int:
            self.waiting += 1
            await self.event.wait()
            return self.waiting

        def go(self) -> bool:
            self.event.set()
            return True

    meeting = Meeting.remote()
    waiting = [meeting.wait.remote() for _ in range(50)]
    ray.wait([meeting.go.remote()], timeout=10)
    return len(ray.get(waiting, timeout=10))


@program
def threads_and_concurrency_groups() -> Any:
    @ray.remote(num_cpus=0, concurrency_groups={"io": 2})
    class Groups:
        @ray.method(concurrency_group="io")
        def slow(self) -> float:
            time.sleep(0.3)
            return 0.3

        def quick(self) -> str:
            return "quick"

    groups, counter = Groups.remote(), Counter.options(max_concurrency=4).remote()
    ray.get([groups.quick.remote(), counter.add.remote()])
    slow = [groups.slow.remote(), groups.slow.options(concurrency_group="io").remote()]
    quick = groups.quick.remote()
    first = ray.wait([quick, *slow], num_returns=1)[0] == [quick]
    began = time.monotonic()
    ray.get([counter.sleep.remote(1.0) for _ in range(4)])
    return [first, ray.get(slow), time.monotonic() - began < 3.5]


@program
def pending_calls_are_limited() -> Any:
    counter = Counter.options(max_pending_calls=1).remote()
    ray.get(counter.add.remote())
    # Ray may still count the call that was just answered, so that the first of these is the one too many.
    return kinds(lambda: [counter.sleep.remote(0.2) for _ in range(4)] and None)


@program
def handles_travel() -> Any:
    @ray.remote
    def use(counter: Any, inside: list[Any]) -> Any:
        return [ray.get(counter.add.remote()), ray.get(inside[0].add.remote()), counter == inside[0]]

    counter = Counter.remote()
    return ray.get(use.remote(counter, [counter]))


# --------------------------------------------------------------------------------------------------------------- cancel


@program
def cancelling() -> Any:
    running = sleep.remote(5)
    blocked = identity.remote(running)
    time.sleep(1.0)
    ray.cancel(running)
    counter = Counter.remote()
    ray.get(counter.add.remote())
    forced = kinds(lambda: ray.cancel(counter.sleep.remote(2), force=True))
    # Ray waits for the end of the sleep, and wraps the second error in a task error: both are TaskCancelledErrors.
    return [
        "TaskCancelledError" in kinds(lambda: ray.get(running, timeout=20)),
        "TaskCancelledError" in kinds(lambda: ray.get(blocked, timeout=20)),
        forced,
        kinds(lambda: ray.cancel(ray.put(1))),
    ]


@program
def forced_cancel_kills_the_worker() -> Any:
    @ray.remote
    def stubborn() -> str:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                time.sleep(1)
            except KeyboardInterrupt:
                pass
        return "survived"

    ref = stubborn.remote()
    time.sleep(1.0)
    ray.cancel(ref, force=True)
    return kinds(lambda: ray.get(ref, timeout=20))[:1]


@program
def a_borrower_cancels_too() -> Any:
    @ray.remote(num_cpus=0)
    def cancel(refs: list[Any]) -> None:
        ray.cancel(refs[0])

    ref = sleep.remote(4)
    time.sleep(0.5)
    ray.get(cancel.remote([ref]))
    return "TaskCancelledError" in kinds(lambda: ray.get(ref, timeout=30))


@program
def cancelling_spares_children_on_request() -> Any:
    @ray.remote(num_cpus=0)
    def parent(keeper: Any) -> Any:
        child = sleep.options(num_cpus=0).remote(2.0)
        ray.get(keeper.keep.remote([child]))
        return ray.get(child)

    @ray.remote(num_cpus=0)
    class Keeper:
        def __init__(self) -> None:
            self.refs: list[Any] = []

        def keep(self, refs: list[Any]) -> None:
            self.refs = refs

        def kept(self) -> list[Any]:
            return self.refs

    keepers = [Keeper.remote(), Keeper.remote()]
    parents = [parent.remote(keeper) for keeper in keepers]
    children = []
    for keeper in keepers:
        while not ray.get(keeper.kept.remote()):
            time.sleep(0.05)
        children.append(ray.get(keeper.kept.remote())[0])
    ray.cancel(parents[0], recursive=False)
    ray.cancel(parents[1])
    return [
        ["TaskCancelledError" in kinds(lambda ref=ref: ray.get(ref, timeout=20)) for ref in parents],
        kinds(lambda: ray.get(children[0], timeout=20)),
        "TaskCancelledError" in kinds(lambda: ray.get(children[1], timeout=20)),
    ]


# ------------------------------------------------------------------------------------------------------------ resources


@program
def blocked_tasks_give_their_cpu_back() -> Any:
    @ray.remote
    def fib(n: int) -> int:
        return n if n < 2 else sum(ray.get([fib.remote(n - 1), fib.remote(n - 2)]))

    return ray.get(fib.remote(5))


@program
def actors_hold_what_they_name() -> Any:
    def settle() -> float:
        for _ in range(200):
            if ray.available_resources().get("CPU", 0.0) == 2.0:
                break
            time.sleep(0.05)
        return ray.available_resources().get("CPU", 0.0)

    def held(**options: Any) -> float:
        before = settle()
        actor = ray.remote(**options)(Plain).remote() if options else ray.remote(Plain).remote()
        ray.get(actor.ping.remote())
        time.sleep(0.5)
        after = ray.available_resources().get("CPU", 0.0)
        ray.kill(actor)
        return before - after

    class Plain:
        def ping(self) -> None:
            pass

    return [
        held(),
        held(num_cpus=1),
        held(num_cpus=0.5),
        held(memory=1000),
        held(num_cpus=0),
        held(resources={"thing": 1}),
    ]


@program
def resources_are_shown() -> Any:
    total = ray.cluster_resources()
    return [
        total["CPU"],
        total["thing"],
        len(ray.nodes()),
        ray.nodes()[0]["Alive"],
        ray.is_initialized(),
        ray.get_gpu_ids(),
    ]


@program
def places_for_nodes_and_labels() -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as Affinity

    here = ray.get_runtime_context().get_node_id()
    nobody = "ab" * (len(here) // 2)

    @ray.remote(num_cpus=0)
    def runs_here() -> bool:
        return ray.get_runtime_context().get_node_id() == here

    def at(**options: Any) -> Any:
        return kinds(lambda: ray.get(runs_here.options(**options).remote(), timeout=options.pop("timeout", 20)))

    def dead(remote: Any) -> str:
        try:
            ray.get(remote(), timeout=20)
        except Exception as error:
            return type(error).__name__
        return "quiet"

    hard, soft = Affinity(nobody, soft=False), Affinity(nobody, soft=True)
    node = ray.nodes()[0]
    waits = runs_here.options(label_selector={"tier": "!gold"}).remote()
    return [
        at(scheduling_strategy=Affinity(here, soft=False)),
        at(scheduling_strategy=soft),
        at(scheduling_strategy="SPREAD"),
        dead(lambda: runs_here.options(scheduling_strategy=hard).remote()),
        dead(lambda: Counter.options(scheduling_strategy=hard).remote().add.remote()),
        at(label_selector={"ray.io/node-id": here}),
        at(label_selector={"tier": "in(gold,silver)", "none": "!there"}),
        at(label_selector={"none": "there"}, fallback_strategy=[{"label_selector": {"tier": "gold"}}]),
        [len(part) for part in ray.wait([waits], timeout=0.5)],
        [node["Labels"]["tier"], ray.get_runtime_context().get_node_labels() == node["Labels"]],
        [node["NodeManagerAddress"] == ray.util.get_node_ip_address(), node["alive"]],
    ]


@program
def placement_groups() -> Any:
    from ray.util.placement_group import get_current_placement_group, placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = placement_group([{"CPU": 1}])
    answers: list[Any] = [ray.get(group.ready()) == group, group.wait(5), group.bundle_specs, group.bundle_count]

    @ray.remote
    def inside() -> bool:
        return get_current_placement_group() == group

    at = PlacementGroupSchedulingStrategy(group)
    answers += [ray.get(inside.options(scheduling_strategy=at).remote()), ray.get(inside.remote())]
    answers.append(kinds(lambda: inside.options(scheduling_strategy=at, num_cpus=2).remote()))
    answers.append(kinds(lambda: inside.options(placement_group=group, placement_group_bundle_index=5).remote()))
    actor = Counter.options(scheduling_strategy=at, num_cpus=1).remote()
    ray.get(actor.add.remote())
    remove_placement_group(group)
    for _ in range(100):
        if isinstance(kinds(lambda: ray.get(actor.add.remote())), list):
            break
        time.sleep(0.05)
    answers.append(placement_group([{"CPU": 1000}]).wait(0.1))
    answers.append([kinds(lambda: placement_group([])), kinds(lambda: placement_group([{"CPU": 1}], strategy="TIGHT"))])
    return answers


@program
def a_blocked_task_keeps_memory_and_gpus() -> Any:
    def free() -> Any:
        found = ray.available_resources()
        return [found.get("CPU", 0.0), found.get("GPU", 0.0), memory - found["memory"]]

    def settled(wanted: Any) -> Any:
        for _ in range(200):
            if free() == wanted:
                break
            time.sleep(0.05)
        return free()

    for _ in range(200):
        if ray.available_resources().get("CPU", 0.0) == 2.0:
            break
        time.sleep(0.05)
    memory = ray.available_resources()["memory"]

    @ray.remote(num_cpus=2, num_gpus=1, memory=1000)
    def blocked(refs: list[Any], by_wait: bool) -> Any:
        return ray.wait(refs)[0] == refs if by_wait else ray.get(refs[0])

    answers = []
    for by_wait in (False, True):
        gate = Counter.remote()
        nap = gate.sleep.remote(3.0)
        ref = blocked.remote([nap], by_wait)
        answers.append(settled([2.0, 0.0, 1000.0]))
        answers.append([ray.get(ref), settled([2.0, 1.0, 0.0])])
    return answers


@program
def placement_groups_end_with_what_waits_inside() -> Any:
    from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    @ray.remote(num_cpus=0)
    def makes() -> Any:
        group = placement_group([{"thing": 0.1}])
        ray.get(group.ready())
        return group

    group = placement_group([{"CPU": 1}])
    at = PlacementGroupSchedulingStrategy(group)
    held = Counter.options(scheduling_strategy=at, num_cpus=1).remote()
    ray.get(held.add.remote())
    queued = identity.options(scheduling_strategy=at).remote(1)
    time.sleep(0.5)
    remove_placement_group(group)
    answers = [kinds(lambda: ray.get(queued, timeout=20))]
    of_a_task = ray.get(makes.remote())
    time.sleep(1.0)
    answers.append(placement_group_table(of_a_task)["state"])
    remove_placement_group(of_a_task)
    return answers


@program
def names_of_tasks_and_variables_in_variables() -> Any:
    def name() -> Any:
        return ray.get_runtime_context().get_task_name()

    @ray.remote(num_cpus=0)
    class Named:
        def method(self) -> Any:
            return name()

    task, named = ray.remote(name), Named.remote()
    variable = ray.remote(lambda: os.environ["MEANING"])
    given = {"env_vars": {"MEANING": "a:${HOME}:${NOT_THERE}b"}}
    return [
        ray.get([task.remote(), task.options(name="other").remote()]),
        ray.get([named.method.remote(), named.method.options(name="another").remote()]),
        ray.get(variable.options(runtime_env=given).remote()) == f"a:{os.environ['HOME']}:b",
    ]


@program
def environments_and_context() -> Any:
    @ray.remote(runtime_env={"env_vars": {"MEANING": "42"}})
    def variable() -> Any:
        return os.environ.get("MEANING"), os.getcwd() == folder

    @ray.remote(name="mine")
    def context() -> Any:
        here = ray.get_runtime_context()
        return [here.get_task_name(), here.get_actor_id(), len(here.get_node_id()) > 0, here.get_assigned_resources()]

    folder = os.getcwd()
    driver = ray.get_runtime_context()
    return [ray.get(variable.remote()), ray.get(context.remote()), driver.get_actor_id(), driver.get_task_id() is None]


# ------------------------------------------------------------------------------------------------------ call graphs


@program
def graphs_run_each_node_once() -> Any:
    from ray.dag import InputNode, MultiOutputNode

    @ray.remote
    def add(left: int, right: int = 10) -> int:
        return left + right

    @ray.remote
    def of_list(values: Any) -> Any:
        return [ray.get(value) if isinstance(value, ray.ObjectRef) else value for value in values]

    counter = Counter.remote()
    once = counter.add.bind()
    several = MultiOutputNode([once, once, add.bind(once, right=once)])
    with InputNode() as given:
        parts = MultiOutputNode([add.bind(given[0], given.right), add.bind(given["right"])])
        whole = add.bind(add.bind(given), given)
    with InputNode() as given:
        attribute = add.bind(given.real, given.imag)
    made = Counter.bind(5)
    made.add.bind()
    last = made.add.options(name="last").bind(add.bind(1, 1))
    two = identity.options(num_returns=2).bind((1, 2))
    return [
        ray.get(several.execute()),
        ray.get(several.execute()),
        ray.get(parts.execute(1, right=2)),
        ray.get(whole.execute(7)),
        ray.get(attribute.execute(1 + 2j)),
        [ray.get(last.execute()), ray.get(last.execute())],
        ray.get(two.execute()),
        ray.get(of_list.bind([add.bind(1), {"no": 1}, add.bind(2)]).execute()),
        ray.get(made.execute().add.remote()),
    ]


@program
def graphs_refuse() -> Any:
    from ray.dag import InputNode

    node = identity.bind(1)
    made = Counter.bind()
    with InputNode() as given:
        asked = given["key"]
    return [
        kinds(lambda: node.bind(1)),
        kinds(lambda: node.remote()),
        kinds(lambda: made.nothing),
        kinds(lambda: made.add.remote()),
        kinds(lambda: Counter.bind(given)),
        kinds(lambda: ray.get(Counter.bind(asked).add.bind().execute({"key": 4}))),
        kinds(lambda: ray.get(identity.bind(fail.bind()).execute())),
        kinds(lambda: ray.get(identity.bind(given.missing).execute(1))),
    ]


def main() -> None:
    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=1,
        resources={"thing": 1},
        labels={"tier": "gold"},
        include_dashboard=False,
        log_to_driver=False,
    )
    chosen = sys.argv[1:] or list(PROGRAMS)
    answers = {}
    for name in chosen:
        began = time.monotonic()
        try:
            answers[name] = PROGRAMS[name]()
        except BaseException as error:
            answers[name] = f"{type(error).__name__}: {error}"[:2000]
        sys.stderr.write(f"{name} {time.monotonic() - began:.2f} s\n")
    print("\n" + MARK + json.dumps(answers, default=repr))
    ray.shutdown()


if __name__ == "__main__":
    main()
