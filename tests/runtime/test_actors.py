"""Actors of all kinds: order, concurrency, names, lifetimes, restarts, limits, endings."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Any

import pytest

import shoal
from shoal import exceptions
from shoal.actor import exit_actor
from tests.runtime.conftest import eventually

pytestmark = pytest.mark.usefixtures("cluster")


@shoal.remote
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.value = start

    def add(self, by: int = 1) -> int:
        self.value += by
        return self.value

    def note(self, what: Any, seen: Any = None) -> Any:
        self.seen = [*getattr(self, "seen", []), what]
        return self.seen

    def pid(self) -> int:
        return os.getpid()

    def die(self) -> None:
        os._exit(3)

    def fail(self) -> None:
        raise KeyError("inside")

    def exit(self) -> None:
        exit_actor()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@shoal.remote
def slowly(value: Any, seconds: float = 0.3) -> Any:
    time.sleep(seconds)
    return value


def test_calls_run_in_order_and_errors_name_the_method() -> None:
    counter = Counter.remote(10)
    assert shoal.get([counter.add.remote() for _ in range(100)]) == list(range(11, 111))
    with pytest.raises(KeyError) as caught:
        shoal.get(counter.fail.remote())
    assert isinstance(caught.value, exceptions.TaskError)
    assert "in fail" in str(caught.value)


def test_order_is_kept_even_when_earlier_arguments_are_late() -> None:
    counter = Counter.remote()
    refs = [counter.note.remote(slowly.remote("first")), counter.note.remote("second"), counter.note.remote("third")]
    assert shoal.get(refs[-1]) == ["first", "second", "third"]


@shoal.remote
class AsyncEcho:
    async def note(self, what: Any) -> Any:
        return [what]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_concurrent_actor_answers_calls_whose_arguments_were_late_and_those_that_passed_them(is_async: bool) -> None:
    actor: Any = AsyncEcho.remote() if is_async else Counter.options(max_concurrency=4).remote()
    late, early = actor.note.remote(slowly.remote("late")), actor.note.remote("early")
    assert shoal.get(early, timeout=10) == ["early"]
    assert shoal.get(late, timeout=10)[-1] == "late"
    assert shoal.get(actor.note.remote("afterwards"), timeout=10)[-1] == "afterwards"


def test_a_failed_argument_fails_its_call_only() -> None:
    counter = Counter.remote()
    bad = counter.note.remote(counter.fail.remote())
    good = counter.note.remote("good")
    assert shoal.get(good) == ["good"]
    with pytest.raises(KeyError):
        shoal.get(bad)


def test_a_constructor_that_raises_fails_every_call() -> None:
    @shoal.remote
    class Broken:
        def __init__(self) -> None:
            raise ValueError("cannot be")

        def use(self) -> None: ...

    broken = Broken.remote()
    with pytest.raises(exceptions.ActorDiedError, match="cannot be"):
        shoal.get(broken.use.remote(), timeout=10)


def test_wrong_constructor_arguments_are_told_at_once() -> None:
    with pytest.raises(TypeError):
        Counter.remote(1, 2, 3)


def test_handles_can_be_passed_on() -> None:
    counter = Counter.remote()

    @shoal.remote
    def use(handle: Any) -> int:
        return shoal.get(handle.add.remote(5))

    assert shoal.get([use.remote(counter), use.remote(counter)]) in ([5, 10], [10, 5])


def test_an_actor_ends_with_its_last_handle() -> None:
    counter = Counter.remote()
    pid = shoal.get(counter.pid.remote())
    box = [counter]
    del counter
    time.sleep(0.2)
    assert _is_alive(pid), "a handle is left"
    del box
    eventually(lambda: not _is_alive(pid))


def test_pending_calls_of_a_dropped_handle_are_done() -> None:
    assert shoal.get(Counter.remote(1).add.remote(2)) == 3


def test_an_actor_lives_while_another_actor_holds_its_handle() -> None:
    @shoal.remote
    class Holder:
        def take(self, box: list[Any]) -> None:
            self.box = box

        def use(self) -> int:
            return shoal.get(self.box[0].add.remote())

        def drop(self) -> None:
            del self.box

    holder, counter = Holder.remote(), Counter.remote()
    pid = shoal.get(counter.pid.remote())
    shoal.get(holder.take.remote([counter]))
    del counter
    time.sleep(0.5)
    assert shoal.get(holder.use.remote()) == 1
    shoal.get(holder.drop.remote())
    eventually(lambda: not _is_alive(pid))


def test_named_actors() -> None:
    counter = Counter.options(name="teller").remote(1)
    assert shoal.get(shoal.get_actor("teller").add.remote()) == 2
    with pytest.raises(exceptions.ActorAlreadyExistsError) as caught:
        Counter.options(name="teller").remote()
    assert isinstance(caught.value, ValueError)
    same = Counter.options(name="teller", get_if_exists=True).remote(100)
    assert shoal.get(same.add.remote()) == 3
    with pytest.raises(ValueError, match="nobody"):
        shoal.get_actor("nobody")
    with pytest.raises(ValueError):
        shoal.get_actor("teller", namespace="elsewhere")
    del counter, same
    eventually(lambda: _is_unknown("teller"))


def test_a_detached_actor_needs_no_handle() -> None:
    Counter.options(name="keeper", lifetime="detached", namespace="shared").remote(5)
    time.sleep(0.3)
    keeper = shoal.get_actor("keeper", namespace="shared")
    assert shoal.get(keeper.add.remote()) == 6
    shoal.kill(keeper)
    eventually(lambda: _is_unknown("keeper", "shared"))


def test_kill_fails_pending_and_later_calls() -> None:
    counter = Counter.remote()
    shoal.get(counter.add.remote())
    pending = counter.sleep.remote(60)
    shoal.kill(counter)
    for ref in (pending, counter.add.remote()):
        with pytest.raises(exceptions.ActorDiedError, match="kill"):
            shoal.get(ref, timeout=10)
    with pytest.raises(ValueError):
        shoal.kill("counter")


def test_restarts_and_retries_of_calls() -> None:
    counter = Counter.options(max_restarts=1).remote(7)
    first = shoal.get(counter.pid.remote())
    shoal.get(counter.add.remote())
    with pytest.raises(exceptions.ActorError):
        shoal.get(counter.die.remote(), timeout=10)
    assert shoal.get(counter.add.options(max_task_retries=3).remote(), timeout=10) == 8, "state starts anew"
    assert shoal.get(counter.pid.remote()) != first
    with pytest.raises(exceptions.ActorError):
        shoal.get(counter.die.remote(), timeout=10)
    with pytest.raises(exceptions.ActorDiedError):
        shoal.get(counter.add.remote(), timeout=10)


def test_max_task_retries_runs_a_call_again_in_the_next_incarnation(tmp_path: Any) -> None:
    @shoal.remote(max_restarts=3, max_task_retries=3)
    class Fragile:
        def work(self, path: str) -> int:
            with open(path, "a") as file:
                file.write("x")
            size = os.path.getsize(path)
            if size < 3:
                os._exit(1)
            return size

        def was_restarted(self) -> bool:
            return shoal.get_runtime_context().was_current_actor_reconstructed

    fragile = Fragile.remote()
    assert shoal.get(fragile.was_restarted.remote()) is False
    assert shoal.get(fragile.work.remote(str(tmp_path / "a")), timeout=20) == 3
    assert shoal.get(fragile.was_restarted.remote()) is True


def test_kill_without_no_restart_restarts() -> None:
    counter = Counter.options(max_restarts=-1, max_task_retries=-1).remote()
    first = shoal.get(counter.pid.remote())
    shoal.kill(counter, no_restart=False)
    assert eventually(lambda: shoal.get(counter.pid.remote(), timeout=10) != first)


def test_exit_actor_ends_it_for_good() -> None:
    counter = Counter.options(max_restarts=5).remote()
    pid = shoal.get(counter.pid.remote())
    for call in (counter.exit, counter.add):
        with pytest.raises(exceptions.ActorDiedError):
            shoal.get(call.remote(), timeout=10)
    eventually(lambda: not _is_alive(pid))
    with pytest.raises(TypeError):
        exit_actor()


def test_max_pending_calls() -> None:
    counter = Counter.options(max_pending_calls=3).remote()
    shoal.get(counter.add.remote())
    refs = [counter.sleep.remote(0.2) for _ in range(3)]
    with pytest.raises(exceptions.PendingCallsLimitExceeded):
        counter.add.remote()
    shoal.get(refs)
    assert shoal.get(counter.add.remote()) == 2


def test_threaded_actors_run_calls_at_once() -> None:
    @shoal.remote(max_concurrency=16)
    class Pool:
        def __init__(self) -> None:
            self.barrier = threading.Barrier(16)

        def meet(self) -> bool:
            self.barrier.wait(10)
            return True

        def quick(self) -> bytes:
            return b"ok"

        def sleep(self) -> None:
            time.sleep(0.1)

    pool = Pool.remote()
    assert shoal.get([pool.meet.remote() for _ in range(16)], timeout=20) == [True] * 16
    shoal.get([pool.quick.remote() for _ in range(20_000)])
    started = time.monotonic()
    shoal.get([pool.sleep.remote() for _ in range(16)])
    assert time.monotonic() - started < 0.6, "calls that are usually short must not stop the others when one is slow"


def test_async_actors_run_a_thousand_calls_at_once() -> None:
    @shoal.remote
    class Meeting:
        def __init__(self) -> None:
            self.here = 0
            self.all = asyncio.Event()

        async def meet(self, count: int) -> int:
            self.here += 1
            if self.here == count:
                self.all.set()
            await self.all.wait()
            return self.here

        def plain(self) -> bool:
            return asyncio.get_running_loop().is_running()

        async def nested(self, ref_box: list[Any]) -> Any:
            return await ref_box[0]

    meeting = Meeting.remote()
    assert shoal.get([meeting.meet.remote(1000) for _ in range(1000)], timeout=30) == [1000] * 1000
    assert shoal.get(meeting.plain.remote()) is True
    assert shoal.get(meeting.nested.remote([slowly.remote("late")])) == "late"


def test_async_concurrency_limit() -> None:
    @shoal.remote(max_concurrency=2)
    class Narrow:
        def __init__(self) -> None:
            self.now = self.most = 0

        async def work(self) -> int:
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.02)
            self.now -= 1
            return self.most

    narrow = Narrow.remote()
    assert max(shoal.get([narrow.work.remote() for _ in range(10)])) == 2


@pytest.mark.parametrize("is_async", [False, True])
def test_concurrency_groups_do_not_wait_for_each_other(is_async: bool) -> None:
    if is_async:

        @shoal.remote(concurrency_groups={"io": 2, "compute": 1})
        class Grouped:
            @shoal.method(concurrency_group="io")
            async def block(self) -> None:
                await asyncio.sleep(3)

            @shoal.method(concurrency_group="compute")
            async def name(self) -> str:
                return "compute"

            async def other(self) -> str:
                return "default"
    else:

        @shoal.remote(concurrency_groups={"io": 2, "compute": 1})
        class Grouped:  # type: ignore[no-redef]
            @shoal.method(concurrency_group="io")
            def block(self) -> None:
                time.sleep(3)

            @shoal.method(concurrency_group="compute")
            def name(self) -> str:
                return "compute"

            def other(self) -> str:
                return "default"

    grouped = Grouped.remote()
    blocked = [grouped.block.remote() for _ in range(2)]
    started = time.monotonic()
    assert shoal.get([grouped.name.remote(), grouped.other.remote()], timeout=10) == ["compute", "default"]
    assert shoal.get(grouped.other.options(concurrency_group="compute").remote()) == "default"
    assert time.monotonic() - started < 2.5
    with pytest.raises(ValueError, match="concurrency group"):
        grouped.other.options(concurrency_group="nonsense").remote()
    shoal.kill(grouped)
    del blocked


def test_a_default_actor_holds_nothing_and_a_sized_one_its_size() -> None:
    def free() -> float:
        return shoal.available_resources().get("CPU", 0.0)

    eventually(lambda: free() == 4.0)
    plain = [Counter.remote() for _ in range(6)]
    shoal.get([one.add.remote() for one in plain])
    eventually(lambda: free() == 4.0)
    sized = Counter.options(num_cpus=3).remote()
    shoal.get(sized.add.remote())
    eventually(lambda: free() == 1.0)
    del sized
    eventually(lambda: free() == 4.0)


def test_an_actor_blocked_in_get_gives_its_cpu_back() -> None:
    @shoal.remote(num_cpus=4)
    class Greedy:
        def use(self) -> int:
            return shoal.get(slowly.remote(5))

    greedy = Greedy.remote()
    assert shoal.get(greedy.use.remote(), timeout=20) == 5


def test_method_options_and_handles_of_oneself() -> None:
    @shoal.remote
    class Self:
        @shoal.method(num_returns=2)
        def two(self) -> Any:
            return 1, 2

        def me(self) -> Any:
            return shoal.get_runtime_context().current_actor

        def who(self) -> str:
            return shoal.get_runtime_context().get_actor_id()

    actor = Self.remote()
    assert shoal.get(actor.two.remote()) == [1, 2]
    assert shoal.get(shoal.get(actor.me.remote()).who.remote()) == shoal.get(actor.who.remote())
    with pytest.raises(AttributeError):
        actor.nonsense.remote()
    with pytest.raises(TypeError, match="remote"):
        actor.two()


def test_a_call_from_inside_an_actor_to_another_keeps_working_both_ways() -> None:
    @shoal.remote
    class Node:
        def __init__(self) -> None:
            self.other: Any = None

        def meet(self, other: list[Any]) -> None:
            self.other = other[0]

        def ping(self, depth: int) -> int:
            return 0 if depth == 0 else 1 + shoal.get(self.other.pong.remote())

        def pong(self) -> int:
            return 1

    left, right = Node.remote(), Node.remote()
    shoal.get([left.meet.remote([right]), right.meet.remote([left])])
    assert shoal.get(left.ping.remote(1), timeout=10) == 2
    assert shoal.get(right.ping.remote(1), timeout=10) == 2


def _is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def _is_unknown(name: str, namespace: str | None = None) -> bool:
    try:
        shoal.get_actor(name, namespace=namespace)
    except ValueError:
        return True
    return False


def test_methods_with_several_results_also_on_a_warm_link() -> None:
    @shoal.remote(num_cpus=0)
    class Pairs:
        @shoal.method(num_returns=2)
        def pair(self, n: int) -> tuple[int, int]:
            return n, n + 1

    pairs = Pairs.remote()

    assert [shoal.get(pairs.pair.remote(n)) for n in range(3)] == [[0, 1], [1, 2], [2, 3]]


@pytest.mark.parametrize("concurrency", [1, 2])
def test_user_errors_of_calls_are_retried_on_request(concurrency: int) -> None:
    @shoal.remote(num_cpus=0, max_concurrency=concurrency)
    class Flaky:
        def __init__(self) -> None:
            self.count = 0

        def work(self, good_at: int) -> int:
            self.count += 1
            if self.count < good_at:
                raise KeyError(self.count)
            return self.count

    flaky = Flaky.remote()

    assert shoal.get(flaky.work.options(max_task_retries=5, retry_exceptions=True).remote(3), timeout=20) == 3
    with pytest.raises(KeyError, match="5"):
        shoal.get(flaky.work.options(max_task_retries=1, retry_exceptions=[KeyError]).remote(100), timeout=20)
    with pytest.raises(KeyError, match="6"):
        shoal.get(flaky.work.options(max_task_retries=5, retry_exceptions=[ValueError]).remote(100), timeout=20)
    assert shoal.get(flaky.work.remote(1)) == 7
