"""Lines that several processes write alike are shown once and counted, as Ray does it."""

from __future__ import annotations

from shoal.runtime.decide.repeats import KINDS_MAX, WINDOW_S, Repeats


def test_the_first_is_shown_and_those_of_others_are_counted() -> None:
    repeats = Repeats()
    assert repeats.lines("pid=1", "f", "step 1 done", 0.0) == ["(f pid=1) step 1 done"]
    assert repeats.lines("pid=2", "f", "step 7 done", 0.1) == []
    assert repeats.lines("pid=3", "g", "step 9 done", 0.2) == []
    assert repeats.due(WINDOW_S - 0.1) == []
    assert repeats.due(WINDOW_S) == ["(g pid=3) step 9 done [repeated 2x across cluster]"]
    assert repeats.lines("pid=4", "g", "step 9 done", WINDOW_S + 1) == []  # it went on, so it is counted on
    assert repeats.rest() == ["(g pid=4) step 9 done"]  # a single one is shown as it is
    assert repeats.rest() == []


def test_what_one_process_repeats_is_always_shown() -> None:
    repeats = Repeats()
    for n in range(3):
        assert repeats.lines("pid=1", "f", f"at {n}", float(n)) == [f"(f pid=1) at {n}"]
    assert repeats.due(100.0) == []


def test_lines_of_numbers_alone_are_always_shown() -> None:
    repeats = Repeats()
    for pid in (1, 2):
        assert repeats.lines(f"pid={pid}", "f", "0x7f 12", 0.0) == [f"(f pid={pid}) 0x7f 12"]
        assert repeats.lines(f"pid={pid}", "f", "", 0.0) == [f"(f pid={pid}) "]


def test_memory_is_bounded_and_counts_are_not_lost() -> None:
    repeats = Repeats()
    repeats.lines("pid=1", "f", "first", 0.0)
    repeats.lines("pid=2", "f", "first", 0.0)
    repeats.lines("pid=3", "f", "first", 0.0)
    shown: list[str] = []
    for n in range(KINDS_MAX):
        shown += repeats.lines("pid=1", "f", "word" + "x" * n, 0.0)
    assert "(f pid=3) first [repeated 2x across cluster]" in shown
    assert len(shown) == KINDS_MAX + 1
