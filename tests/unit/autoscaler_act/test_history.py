"""What plans hear of launches: a thousand machines of one launch tell no more than those that differ."""

from __future__ import annotations

import random

import hypothesis
from hypothesis import strategies

from shoal.autoscaler.act.history import History
from shoal.autoscaler.act.rows import RecentRow
from shoal.autoscaler.decide.surplus import frozen_until
from shoal.model.snapshot import Recent
from shoal.testing.builders import offer_key

TYPES = ("a", "b")


def row(number: int, launched_s: float, released_s: float | None = None, why: str = "", name: str = "a") -> RecentRow:
    return RecentRow(
        instance_id=f"i-{number:04d}",
        node_type=name,
        offer=offer_key(machine_type=f"type-{number % 3}"),
        launched_s=launched_s,
        released_s=released_s,
        why=why,
    )


def as_told(one: RecentRow) -> Recent:
    return Recent(
        node_type=one.node_type, offer=one.offer, launched_s=one.launched_s, released_s=one.released_s, why=one.why
    )


def test_a_large_launch_is_told_by_its_ends() -> None:
    history = History()
    rows = [row(number, 10.0, 100.0 + number, "idle for 60 s") for number in range(1000)]
    for one in rows:
        history.put(None, one)
    history.put(None, row(2000, 10.0, why="for b"))
    history.put(None, row(2001, 10.0, why="for b"))

    assert [(one.released_s, one.why) for one in history.told()] == [
        (None, "for b"),
        (100.0, "idle for 60 s"),
        (1099.0, "idle for 60 s"),
    ]
    history.put(rows[0], None)
    history.put(rows[-1], None)
    assert [one.released_s for one in history.told()] == [None, 101.0, 1098.0]
    for one in rows[1:-1]:
        history.put(one, None)
    assert [one.why for one in history.told()] == ["for b"]


@strategies.composite
def lives(draw: strategies.DrawFn) -> list[RecentRow]:
    times = strategies.integers(0, 30).map(lambda number: number * 60.0)
    found = []
    for number in range(draw(strategies.integers(0, 40))):
        launched_s, lasts_s = draw(times), draw(times)
        why = draw(strategies.sampled_from(("idle for 60 s", "idle for 61 s", "refused", "for x", "for y")))
        released_s = None if why.startswith("for") else launched_s + lasts_s
        found.append(row(number, launched_s, released_s, why, draw(strategies.sampled_from(TYPES))))
    return found


@hypothesis.given(lives(), strategies.randoms(use_true_random=False), strategies.sampled_from((60.0, 120.0, 600.0)))
@hypothesis.settings(max_examples=150, deadline=None)
def test_plans_conclude_the_same_from_it_as_from_every_row(
    rows: list[RecentRow], chance: random.Random, flap_s: float
) -> None:
    """Rows come as launches, end in any order, and the older half is dropped."""
    history, now = History(), dict[str, RecentRow]()

    def put(name: str, one: RecentRow | None) -> None:
        history.put(now.get(name), one)
        if one is None:
            del now[name]
        else:
            now[name] = one

    def check() -> None:
        told, every = history.told(), [as_told(now[name]) for name in sorted(now)]
        boots_s = {offer_key(machine_type=f"type-{kind}"): 20.0 + 40 * kind for kind in range(3)}
        assert frozen_until(told, flap_s, boots_s.__getitem__) == frozen_until(every, flap_s, boots_s.__getitem__)
        assert {(one.node_type, one.launched_s) for one in told} == {(one.node_type, one.launched_s) for one in every}
        reasons = [
            {(one.node_type, one.launched_s, one.why) for one in some if one.released_s is None}
            for some in (told, every)
        ]
        assert reasons[0] == reasons[1]

    for one in rows:
        put(
            one.instance_id,
            row(
                int(one.instance_id[2:]),
                one.launched_s,
                why=one.why if one.released_s is None else "for x",
                name=one.node_type,
            ),
        )
    check()
    for one in chance.sample(rows, len(rows)):
        put(one.instance_id, one)
        if chance.random() < 0.2:
            check()
    check()
    for one in chance.sample(rows, len(rows) // 2):
        put(one.instance_id, None)
        if chance.random() < 0.2:
            check()
    check()
