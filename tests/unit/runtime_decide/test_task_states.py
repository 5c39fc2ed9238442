"""States of tasks as they are shown: whatever the order in which news arrives."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from shoal.runtime.decide.task_states import TaskState, is_demand, is_ended, is_running, later


def test_only_waiting_for_a_node_is_demand() -> None:
    assert [state for state in TaskState if is_demand(state)] == [TaskState.PENDING_NODE_ASSIGNMENT]


def test_blocked_task_is_running() -> None:
    assert is_running(TaskState.RUNNING_IN_RAY_GET)
    assert later(TaskState.RUNNING_IN_RAY_GET, TaskState.RUNNING) is TaskState.RUNNING


def test_retry_shows_the_new_attempt() -> None:
    assert (
        later(TaskState.FAILED, TaskState.PENDING_NODE_ASSIGNMENT, attempt_heard=1) is TaskState.PENDING_NODE_ASSIGNMENT
    )
    assert later(TaskState.RUNNING, TaskState.FAILED, attempt_known=1) is TaskState.RUNNING


@given(st.permutations([s for s in TaskState if s.name not in ("FAILED", "RUNNING_IN_RAY_GET", "RUNNING_IN_RAY_WAIT")]))
def test_any_order_of_news_ends_in_the_last_state(order: list[TaskState]) -> None:
    state = TaskState.NIL
    for heard in order:
        state = later(state, heard)

    assert state is TaskState.FINISHED


def test_end_is_final_within_an_attempt() -> None:
    for known, heard in itertools.product(TaskState, TaskState):
        if is_ended(known):
            assert later(known, heard) is known
