"""Room as the head believes it: exact sums, no forgotten room, the same answers as plain placement."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.foundation.amounts import Amounts, minus
from shoal.model.demand import Bundle, Selector, Strategy
from shoal.placement.fits import fits_on
from shoal.placement.gangs import place_gang
from shoal.runtime.decide.head_spots import Spots

CPU = 10_000


class Model:
    """The same room, kept in the plainest way."""

    def __init__(self) -> None:
        self.reported: dict[str, Amounts] = {}
        self.holds: dict[str, dict[object, tuple[Amounts, float]]] = {}
        self.closed: set[str] = set()

    def free(self, node: str) -> Amounts:
        found = self.reported[node]
        for amounts, _ in self.holds[node].values():
            found = minus(found, amounts)
        return found


@given(st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_any_history_leaves_exact_room_and_hides_none(seed: int) -> None:
    chance = random.Random(seed)
    spots, model, now_s = Spots(), Model(), 0.0
    names = [f"n{number}" for number in range(5)]
    for step in range(60):
        now_s += chance.choice([0.0, 0.05, 0.2])
        node = chance.choice(names)
        amounts = {"CPU": chance.randint(1, 4) * CPU}
        match chance.randrange(8):
            case 0:
                spots.join(node, amounts, {"zone": node[-1]})
                model.reported[node], model.holds[node] = amounts, {}
                model.closed.discard(node)
            case 1 if chance.random() < 0.3:
                spots.leave(node)
                model.reported.pop(node, None)
                model.holds.pop(node, None)
                model.closed.discard(node)
            case 2:
                is_open = chance.random() < 0.5
                spots.allow(node, is_open)
                if node in model.reported:
                    (model.closed.discard if is_open else model.closed.add)(node)
            case 3 if node in model.reported:
                free = chance.choice([None, amounts])
                spots.report(node, free, now_s)
                held = model.holds[node]
                model.holds[node] = {key: one for key, one in held.items() if one[1] > now_s}
                model.reported[node] = model.reported[node] if free is None else free
            case 4 if node in model.reported:
                spots.hold(node, step, amounts, now_s)
                model.holds[node][step] = (amounts, now_s + 0.1)
            case 5 if model.holds.get(node):
                key = chance.choice(list(model.holds[node]))
                spots.release(node, key)
                del model.holds[node][key]
            case 6 if model.holds.get(node):
                key = chance.choice(list(model.holds[node]))
                spots.ack(node, key, now_s, amounts)
                model.holds[node][key] = (amounts, now_s)
            case _ if node in model.reported:
                key = ("back", step)
                spots.hand_back(node, step, amounts, now_s)
                model.holds[node][key] = ({"CPU": -amounts["CPU"]}, now_s)
        for name in model.reported:
            assert minus(spots.free(name), {}) == model.free(name)
        need = {"CPU": chance.randint(1, 5) * CPU}
        able = [
            name
            for name in model.reported
            if name not in model.closed and model.free(name).get("CPU", 0) >= need["CPU"]
        ]
        picked = spots.pick(need)
        assert (picked in able) if able else picked is None, "room that is there must be found, and no other"
        assert set(spots.fitting(need, Selector(), 99)) == set(able)
        many = spots.pick_many(need, Selector(), 3, spread=chance.random() < 0.5)
        assert {node for node, _ in many} <= set(able) and bool(many) == bool(able)


@given(st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_what_placement_says_fits_the_head_places(seed: int) -> None:
    chance = random.Random(seed)
    spots = Spots()
    for number in range(chance.choice([1, 3, 10, 90])):
        spots.join(f"n{number}", {"CPU": chance.randint(0, 4) * CPU}, {"zone": str(number % 3)})
    bundles = [
        Bundle(
            amounts={"CPU": chance.randint(1, 3) * CPU},
            selector=Selector(hard={"zone": "1"}) if chance.random() < 0.2 else Selector(),
        )
        for _ in range(chance.randint(1, 4))
    ]
    strategy = chance.choice(list(Strategy))

    expected = place_gang(bundles, strategy, spots.open_spots())
    found = spots.place(bundles, strategy)

    assert (found is None) == (expected is None)
    if found is not None:
        for bundle, node in zip(bundles, found, strict=True):
            spot = next(one for one in spots.open_spots() if one.spot_id == node)
            assert fits_on(bundle.amounts, bundle.selector, spot)
        for node in set(found):
            together = sum(one.amounts["CPU"] for one, at in zip(bundles, found, strict=True) if at == node)
            assert together <= spots.free(node)["CPU"]
        if strategy is Strategy.STRICT_SPREAD:
            assert len(set(found)) == len(found)
        if strategy is Strategy.STRICT_PACK:
            assert len(set(found)) == 1


def test_home_is_preferred_and_the_better_rank_wins() -> None:
    spots = Spots()
    for name in ("a", "b", "c"):
        spots.join(name, {"CPU": 2 * CPU}, {"zone": name})

    assert spots.pick({"CPU": CPU}, home="b") == "b"
    assert spots.pick({"CPU": CPU}, home="b", away_from=["b"]) == "a"
    assert spots.pick({"CPU": CPU}, Selector(hard={"zone": "c"}), home="b") == "c"
    fallback = Selector(hard={"zone": "x"}, fallback=({"zone": "c"}, {"zone": "b"}))
    assert spots.pick({"CPU": CPU}, fallback, home="b") == "c"
    assert spots.pick({"CPU": 3 * CPU}, home="b") is None
    assert spots.pick({"CPU": CPU}, among={"c", "gone"}) == "c"


def test_spread_deals_one_by_one() -> None:
    spots = Spots()
    for name in ("a", "b", "c"):
        spots.join(name, {"CPU": 2 * CPU}, {})

    assert sorted(spots.pick_many({"CPU": CPU}, Selector(), 5, spread=True)) == [("a", 2), ("b", 2), ("c", 1)]
    assert spots.pick_many({"CPU": CPU}, Selector(), 5, spread=False) == [("a", 2), ("b", 2), ("c", 1)]


def test_spread_goes_on_after_the_node_it_ended_with_whoever_is_full() -> None:
    spots = Spots()
    for name in ("a", "b", "c"):
        spots.join(name, {"CPU": 2 * CPU}, {})

    given = []
    for free in ({"CPU": 2 * CPU}, {}, {"CPU": 2 * CPU}, {"CPU": 2 * CPU}):
        spots.report("a", free, 0.0)
        given += spots.pick_many({"CPU": CPU}, Selector(), 1, spread=True)
    assert given == [("a", 1), ("b", 1), ("c", 1), ("a", 1)]


def test_leases_that_a_report_counts_are_not_held_beside_it() -> None:
    spots = Spots()
    spots.join("a", {"CPU": 8 * CPU}, {})
    mine, other = (b"owner", "class"), (b"other", "class")
    spots.hold("a", 1, {"CPU": 3 * CPU}, 0.0, until_s=0.5, claim=mine, units=3)
    spots.hold("a", 2, {"CPU": CPU}, 0.0, until_s=0.5, claim=other, units=1)
    spots.hold("a", 3, {"CPU": 2 * CPU}, 0.0, until_s=0.5, claim=mine, units=2)
    assert spots.free("a") == {"CPU": 2 * CPU}

    spots.report("a", {"CPU": 6 * CPU}, 0.01, {mine: 2})
    assert spots.free("a") == {"CPU": 2 * CPU}, "two have become leases: the room is as before"
    spots.report("a", None, 0.02, {mine: 2, (b"unknown", "class"): 5})
    assert spots.free("a") == {"CPU": 4 * CPU}, "others came back meanwhile"
    spots.report("a", {"CPU": 4 * CPU}, 0.03)
    assert spots.free("a") == {"CPU": 2 * CPU}, "what nobody has taken is still held"
    spots.expire(0.5)
    assert spots.free("a") == {"CPU": 4 * CPU}


def test_a_scan_that_found_nothing_costs_nothing_until_room_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    spots = Spots()
    for number in range(100):
        spots.join(f"n{number}", {"CPU": CPU}, {})
    scans = 0
    real = Spots._scan

    def counted(self: Spots, *args: object) -> str | None:
        nonlocal scans
        scans += 1
        return real(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Spots, "_scan", counted)
    for _ in range(50):
        assert spots.pick({"CPU": 2 * CPU}) is None
    assert scans == 1
    spots.report("n7", {"CPU": 3 * CPU}, 0.0)

    assert spots.pick({"CPU": 2 * CPU}) == "n7"
