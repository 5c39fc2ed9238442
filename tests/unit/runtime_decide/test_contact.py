"""The lease of a node that may be cut off: over whatever links, it ends before the head gives the node up."""

from __future__ import annotations

import random

import pytest

from shoal.runtime.decide.contact import Contact

FENCE_S, DEAD_S, LOOK_S = 25.0, 40.0, 0.5


def test_only_an_answer_renews_it_and_from_when_it_was_asked_for() -> None:
    contact = Contact(FENCE_S)
    assert not contact.is_lost(1e9), "a node that never joined has nothing that could be elsewhere"
    contact.answered(100.0)
    assert not contact.is_lost(125.0)

    contact.answered(90.0)  # an older answer, late

    assert not contact.is_lost(125.0)
    assert contact.is_lost(125.1)


def test_it_asks_five_times_before_it_gives_up_and_not_at_all_while_answers_come() -> None:
    contact = Contact(FENCE_S)
    contact.answered(0.0)
    assert [now for now in range(1, 27) if contact.is_question_due(now)] == [5, 10, 15, 20, 25]
    contact.answered(25.0)
    assert not contact.is_question_due(29.9)


def test_without_a_fence_it_lasts_for_ever_and_asks_nothing() -> None:
    contact = Contact(0.0)
    contact.answered(0.0)
    assert not contact.is_lost(1e9)
    assert not contact.is_question_due(1e9)


@pytest.mark.parametrize("seed", range(300))
def test_however_links_delay_and_lose_the_lease_ends_before_the_head_gives_the_node_up(seed: int) -> None:
    """Both ways delay, lose and fall silent each for itself; the head also says things of its own accord."""
    chance, contact = random.Random(seed), Contact(FENCE_S)
    contact.answered(0.0)
    heard_s, now_s = 0.0, 0.0
    underway: list[tuple[float, bool, float]] = []
    """(when it arrives, whether at the head, when it was asked)"""
    silent_until = {True: 0.0, False: 0.0}
    lost_s = None

    def send(to_head: bool, at_s: float, asked_s: float) -> None:
        if chance.random() > 0.1:
            late_s = chance.choice([0.001, 0.2, chance.uniform(0, 60)])
            underway.append((max(at_s + late_s, silent_until[to_head]), to_head, asked_s))

    while now_s < 400 and now_s - heard_s < DEAD_S:
        now_s += LOOK_S
        for way in (True, False):
            if chance.random() < 0.01:
                silent_until[way] = now_s + chance.uniform(5, 120)

        if contact.is_question_due(now_s):
            send(True, now_s, now_s)
        for one in sorted(one for one in underway if one[0] <= now_s):
            underway.remove(one)
            if one[1]:
                heard_s = now_s
                send(False, now_s, one[2])
            else:
                contact.answered(one[2])
        lost_s = (lost_s or now_s) if contact.is_lost(now_s) else None
    if now_s - heard_s >= DEAD_S:  # the head's verdict
        assert lost_s is not None, f"the head gave the node up at {now_s} and the node had not noticed"
        assert lost_s <= now_s - (DEAD_S - FENCE_S) + LOOK_S
