"""Where a task's arguments would have it run."""

from __future__ import annotations

from shoal.runtime.decide.locality import NEAR_BYTES_MIN, best_node


def test_the_node_with_most_bytes_wins_over_all_arguments_together() -> None:
    half = NEAR_BYTES_MIN // 2
    assert best_node([("a", half), ("b", NEAR_BYTES_MIN + half), ("a", 3 * half)], "home") == "a"
    assert best_node([("a", half), ("b", 9 * half), ("a", 3 * half)], "home") == "b"
    assert best_node([("b", 4 * half), ("a", 4 * half)], "home") == "b", "the first named of equals"


def test_home_stays_where_moving_costs_little() -> None:
    assert best_node([], "home") == ""
    assert best_node([("a", NEAR_BYTES_MIN - 1)], "home") == ""
    assert best_node([("a", NEAR_BYTES_MIN)], "home") == "a"
    assert best_node([("a", NEAR_BYTES_MIN), ("home", 1)], "home") == "", "what lies here would have to move as well"
    assert best_node([("home", 10 * NEAR_BYTES_MIN), ("a", NEAR_BYTES_MIN)], "home") == ""
