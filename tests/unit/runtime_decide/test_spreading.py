"""Spread work is even over nodes in every batch and across them, however their leases come, and never stands still."""

from __future__ import annotations

import random

import pytest

from shoal.runtime.decide.spreading import LONE_MAX, PATIENCE_S, Deal

WAIT_S = 1.0


def test_a_quick_node_waits_for_a_slow_one_that_is_expected_but_not_for_ever() -> None:
    deal = Deal()
    deal.expect("slow", 10.0)
    assert deal.choose(["quick"], 9.0, 1) == "quick"
    deal.took("quick")
    assert deal.choose(["quick"], 9.0, 1) is None
    deal.expect("slow", 99.0)  # dealt again, and no longer waited for because of that
    assert deal.choose(["quick"], 10.0, 1) is None
    assert deal.choose(["quick"], 10.0 + PATIENCE_S, 1) == "quick"
    assert deal.choose(["quick", "slow"], 9.0, 1) == "slow"


def test_a_left_over_lease_waits_once_in_a_batch_for_the_head() -> None:
    deal = Deal()
    for node in ("a", "b", "b"):
        deal.took(node)
    deal.ended()
    assert deal.choose(["b"], 5.0, 1) is None
    assert deal.choose(["b"], 5.0 + PATIENCE_S, 1) == "b"
    deal.took("b")
    assert deal.choose(["b"], 6.0, 1) == "b"
    deal.ended()
    assert deal.choose(["b"], 7.0, 1) is None


def test_a_lease_stays_only_where_its_node_is_not_ahead() -> None:
    deal = Deal()
    deal.took("a")
    assert [deal.keeps("a", 1) for _ in range(LONE_MAX + 1)] == [False] * LONE_MAX + [True], "it may be the only node"
    deal.expect("b", 1.0)
    assert not deal.keeps("a", 1), "the new one is behind"
    deal.took("b")
    assert deal.keeps("a", 1)
    for _ in range(9):
        deal.took("a")
        deal.took("b")
    deal.took("a")
    assert not deal.keeps("a", 1) and deal.keeps("b", 1)
    deal.expect("c", 1.0)
    deal.took("c")
    assert deal.keeps("c", 1) and deal.keeps("b", 1), "it need not catch up with all that the others have had"
    for node in ("b", "c", "unknown"):
        deal.gone(node)
    assert deal.choose(["a"], 0.0, 1) == "a", "nobody waits for a node that is gone"


@pytest.mark.parametrize("seed", range(50))
def test_batches_are_even_in_virtual_time(seed: int) -> None:
    """Nodes of different speed, each lease on its way for a time of its own; batches follow each other at once."""
    chance = random.Random(seed)
    nodes = ["", *(f"n{number}" for number in range(chance.randint(1, 4)))]
    travel_s = {node: chance.choice((0.0, 0.001, 0.02, 0.3)) for node in nodes}
    work_s = chance.choice((0.0, 0.0005, 0.05, 0.4))
    deal, now, cursor = Deal(), 0.0, 0
    totals = dict.fromkeys(nodes, 0)
    for _ in range(10):
        waiting = size = chance.randint(1, 12)
        counts = dict.fromkeys(nodes, 0)
        events: list[tuple[float, str, str]] = []
        for _ in range(size):  # the head goes round the nodes
            node = nodes[cursor % len(nodes)]
            cursor += 1
            deal.expect(node, now + WAIT_S)
            events.append((now + travel_s[node], "came", node))
        idle: list[str] = []
        began_s = now
        while waiting:
            events.sort()
            if events:
                now, kind, node = events.pop(0)
                if kind == "came":
                    deal.came(node)
                    idle.append(node)
                elif deal.keeps(node, waiting):
                    idle.append(node)
                else:  # returned, and dealt anew
                    other = nodes[cursor % len(nodes)]
                    cursor += 1
                    events.append((now + travel_s[other], "came", other))
            else:
                now += 0.01
            while waiting and (chosen := deal.choose(idle, now, waiting)) is not None:
                idle.remove(chosen)
                deal.took(chosen)
                counts[chosen] += 1
                waiting -= 1
                events.append((now + work_s, "done", chosen))
            assert now - began_s < WAIT_S + size * (work_s + 0.35), "it stands still"
        deal.ended()
        assert max(counts.values()) - min(counts.values()) <= 2, counts
        for node in nodes:
            totals[node] += counts[node]
    assert max(totals.values()) - min(totals.values()) <= 3, totals


def test_while_much_waits_a_node_may_be_ahead_by_a_share_of_it() -> None:
    deal = Deal()
    deal.took("b")
    for _ in range(6):
        deal.took("a")
    assert not deal.keeps("a", 39) and deal.keeps("a", 40)
    assert deal.choose(["a"], 0.0, 39) is None
    assert deal.choose(["a"], 0.0, 40) == "a"


def test_one_full_node_does_not_hold_up_the_others() -> None:
    deal = Deal()
    for node in ("a", "b", "full"):
        deal.expect(node, WAIT_S)
    now = 0.0
    given = 0
    while given < 50 and now < 10.0:
        chosen = deal.choose(["a", "b"], now, 1)
        if chosen is None:
            now += 0.01
            continue
        deal.came(chosen)
        deal.took(chosen)
        given += 1
    assert given == 50
    assert now <= WAIT_S + PATIENCE_S + 0.02
