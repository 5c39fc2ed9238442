"""Which task made which, and when, as an owner remembers it: nothing of it travels with the tasks."""

from __future__ import annotations

import itertools
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from shoal.runtime.client import origins
from shoal.runtime.client.origins import Origins, call_site, driver_task

PROCESS = b"p" * 18


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(origins.time, "time", lambda: clock.now)
    return clock


def of_worker(is_worker: bool = True) -> tuple[Any, Origins]:
    core: Any = SimpleNamespace(
        is_worker=is_worker, process=PROCESS, ids=itertools.count(1), lock=threading.RLock(), on_tick=[], handlers={}
    )
    found = Origins(core)
    found.name_of = lambda running: running.encode()
    return core, found


def hand_out(core: Any, found: Origins, task: str, count: int) -> list[int]:
    found.now = lambda: task
    numbers = [next(core.ids) for _ in range(count)]
    for n in numbers:
        found.note(n, None)
    return numbers


def test_a_number_is_of_the_task_that_ran_when_it_was_given(wall: SimpleNamespace) -> None:
    core, found = of_worker()
    made = {task: hand_out(core, found, task, 3) for task in ("a", "b", "a2")}

    for task, numbers in made.items():
        assert {found.of(n)[0] for n in numbers} == {task.encode()}
    assert [(first, parent) for first, parent, _ in found.between(2, 8)] == [(2, b"a"), (4, b"b"), (7, b"a2")]


def test_tasks_whose_threads_take_turns_are_told_apart(wall: SimpleNamespace) -> None:
    core, found = of_worker()
    found.now = lambda: "a"
    first, second = next(core.ids), next(core.ids)
    found.now = lambda: "b"
    found.note(second, None)
    found.now = lambda: "a"
    found.note(first, None)
    found.note(third := next(core.ids), None)

    assert [found.of(n)[0] for n in (first, second, third)] == [b"a", b"b", b"a"]


def test_a_driver_stands_for_itself(wall: SimpleNamespace) -> None:
    _core, found = of_worker(is_worker=False)

    assert not found.is_watching
    assert found.of(7)[0] == driver_task(PROCESS) == PROCESS + bytes(6)


def test_a_creation_time_is_when_it_was_first_seen_there(wall: SimpleNamespace) -> None:
    core, found = of_worker()
    one = hand_out(core, found, "a", 2)
    wall.now = 101.0
    found._tick(1.0)
    wall.now = 150.0
    for number in range(5):  # nothing is made meanwhile
        found._tick(2.0 + number)
    two = hand_out(core, found, "a", 2)
    wall.now = 151.0
    found._tick(9.0)
    wall.now = 200.0
    three = hand_out(core, found, "a", 1)

    assert [found.of(n)[1] for n in (*one, *two, *three)] == [101.0, 101.0, 151.0, 151.0, 200.0]
    assert len(found._times) == 2, "looking alone leaves no marks"


def test_what_is_remembered_is_bounded(wall: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origins, "MARKS_MAX", 10)
    core, found = of_worker()
    numbers = [n for task in range(50) for n in hand_out(core, found, f"t{task}", 1)]

    assert len(found._firsts) <= 10
    assert found.of(numbers[-1])[0] == b"t49"
    assert found.of(numbers[0])[0] == b"", "forgotten is unknown, not wrong"


def test_a_call_site_is_recorded_only_if_wanted(wall: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    _core, found = of_worker()
    found.now = lambda: "a"
    assert found.note(1, None) is None

    monkeypatch.setenv(origins.SITES_VARIABLE, "1")
    _, recording = of_worker(is_worker=False)
    assert recording.is_watching
    options = recording.note(1, {"name": "x"})
    assert options is not None
    assert options["name"] == "x"
    assert "test_origins.py" in options["site"] and options["site"].endswith(
        "in test_a_call_site_is_recorded_only_if_wanted"
    )
    assert "test_origins.py" in call_site()
