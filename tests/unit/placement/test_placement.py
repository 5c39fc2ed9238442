"""Does it fit? Nodes, labels, gangs, and width."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.foundation.amounts import amounts, total
from shoal.model.demand import Bundle, DemandClass, Selector, Strategy
from shoal.placement import selectors
from shoal.placement.fits import Spot, fits, fits_on, how_many, take, width
from shoal.placement.gangs import place_gang


def spot(name: str, cpus: float, **labels: str) -> Spot:
    return Spot(spot_id=name, free=amounts({"CPU": cpus}), labels=labels)


def bundles(*cpus: float, selector: Selector | None = None) -> list[Bundle]:
    return [Bundle(amounts=amounts({"CPU": one}), selector=selector or Selector()) for one in cpus]


class TestFits:
    def test_a_need_of_nothing_fits_where_free_is_negative(self) -> None:
        assert fits({"CPU": 0}, {"CPU": -5})
        assert not fits({"CPU": 1}, {"CPU": -5})

    def test_counting_agrees_with_fitting_one_after_another(self) -> None:
        free = amounts({"CPU": 3.5, "GPU": 2})

        assert how_many(amounts({"CPU": 1, "GPU": 0.5}), free, 10) == 3
        assert how_many({}, free, 10) == 10

    def test_taking_more_than_there_is_is_a_bug(self) -> None:
        with pytest.raises(AssertionError, match="over-full"):
            take(spot("a", 1), amounts({"CPU": 2}))


class TestSelectors:
    @pytest.mark.parametrize(
        ("term", "value", "holds"),
        [
            ("a", "a", True),
            ("a", "b", False),
            ("a", None, False),
            ("!a", "b", True),
            ("!a", "a", False),
            ("!a", None, True),
            ("in(a,b)", "b", True),
            ("in(a, b)", "c", False),
            ("!in(a,b)", "c", True),
            ("!in(a,b)", None, True),
            ("exists()", "x", True),
            ("exists()", None, False),
            ("!exists()", None, True),
        ],
    )
    def test_terms_mean_what_ray_means(self, term: str, value: str | None, holds: bool) -> None:
        assert selectors.matches(term, value) is holds

    def test_fallbacks_are_tried_in_order(self) -> None:
        wanted = Selector(hard={"gpu": "a100"}, fallback=({"gpu": "l4"}, {}))

        ranks = [selectors.rank(wanted, "n", labels) for labels in ({"gpu": "a100"}, {"gpu": "l4"}, {})]
        assert ranks == sorted(ranks)  # type: ignore[type-var]
        assert selectors.rank(Selector(hard={"gpu": "a100"}), "n", {}) is None

    def test_hard_affinity_admits_one_node_only(self) -> None:
        assert not fits_on({}, Selector(node_ids=("n1",)), spot("n2", 1))
        assert fits_on({}, Selector(node_ids=("n1",), is_soft_node=True), spot("n2", 1))

    @pytest.mark.parametrize("term", ["in()", "a b", "!", "in(a,b"])
    def test_mistakes_are_told(self, term: str) -> None:
        assert (selectors.mistake("zone", term) is None) == (term == "!")


class TestGangs:
    def test_strict_pack_needs_one_spot_for_all(self) -> None:
        assert place_gang(bundles(1, 1), Strategy.STRICT_PACK, [spot("a", 1), spot("b", 2)]) == ["b", "b"]
        assert place_gang(bundles(1, 1), Strategy.STRICT_PACK, [spot("a", 1), spot("b", 1)]) is None

    def test_strict_spread_finds_the_only_matching(self) -> None:
        # The small bundle fits on both, the large one only on `b`: taking `b` first for the small one is wrong.
        assert place_gang(bundles(1, 4), Strategy.STRICT_SPREAD, [spot("b", 4), spot("a", 1)]) == ["a", "b"]
        assert place_gang(bundles(1, 1, 1), Strategy.STRICT_SPREAD, [spot("a", 8), spot("b", 8)]) is None

    def test_pack_takes_few_and_spread_takes_many(self) -> None:
        spots = [spot("a", 2), spot("b", 2), spot("c", 2)]

        assert len(set(place_gang(bundles(1, 1), Strategy.PACK, spots) or ())) == 1
        assert len(set(place_gang(bundles(1, 1, 1), Strategy.SPREAD, spots) or ())) == 3
        assert len(place_gang(bundles(1, 1, 1, 1), Strategy.SPREAD, spots) or ()) == 4

    def test_placing_changes_no_spot(self) -> None:
        spots = [spot("a", 2)]
        place_gang(bundles(1, 1), Strategy.PACK, spots)

        assert spots[0].free == amounts({"CPU": 2})

    @settings(max_examples=150, deadline=None)
    @given(
        st.lists(st.integers(1, 4), min_size=1, max_size=6),
        st.lists(st.integers(0, 8), min_size=1, max_size=5),
        st.sampled_from(list(Strategy)),
    )
    def test_what_is_placed_fits_and_keeps_its_strategy(
        self, wanted: list[int], there: list[int], strategy: Strategy
    ) -> None:
        parts, spots = bundles(*wanted), [spot(str(place), cpus) for place, cpus in enumerate(there)]

        found = place_gang(parts, strategy, spots)

        if found is None:
            if strategy is Strategy.STRICT_PACK:
                assert max(there) < sum(wanted)
            return
        for one in spots:
            here = total(part.amounts for part, place in zip(parts, found, strict=True) if place == one.spot_id)
            assert fits(here, one.free)
        assert strategy is not Strategy.STRICT_PACK or len(set(found)) == 1
        assert strategy is not Strategy.STRICT_SPREAD or len(set(found)) == len(found)


class TestWidth:
    def waiting(self, count: int, duration_s: float | None, running: int = 0, kind: str = "task") -> DemandClass:
        return DemandClass(key="k", amounts={}, waiting=count, duration_s=duration_s, running_slots=running, kind=kind)

    def test_many_short_tasks_deserve_little(self) -> None:
        assert width(self.waiting(100_000, 0.001), 30) == 4
        assert width(self.waiting(100_000, 0.001, running=4), 30) == 0

    def test_long_tasks_deserve_a_slot_each(self) -> None:
        assert width(self.waiting(100, 600), 30) == 100

    @pytest.mark.parametrize(("running", "bought"), [(0, 100), (2, 100), (100, 100), (10_000, 100)])
    def test_slots_that_run_longer_than_anyone_waits_take_nothing_over(self, running: int, bought: int) -> None:
        assert width(self.waiting(100, 600, running=running), 30) == bought
        assert width(self.waiting(2, 600, running=2), 30) == 2

    def test_a_running_slot_counts_by_what_is_left_of_the_time(self) -> None:
        # Of 30 s a slot of 15 s tasks has half to give: two stand for one free slot.
        assert width(self.waiting(100, 15), 30) == 50
        assert width(self.waiting(100, 15, running=20), 30) == 40
        assert width(self.waiting(100, 15, running=100), 30) == width(self.waiting(100, 15, running=999), 30) == 0
        assert width(self.waiting(100, 30, running=50), 30) == 100

    @given(
        count=st.integers(1, 10**6),
        duration_s=st.floats(1e-6, 1e5),
        running=st.integers(0, 10**5),
        more=st.integers(1, 99),
    )
    def test_width_is_between_nothing_and_all_and_shrinks_with_what_runs(
        self, count: int, duration_s: float, running: int, more: int
    ) -> None:
        wide = width(self.waiting(count, duration_s, running=running), 30)
        assert 0 <= width(self.waiting(count, duration_s, running=running + more), 30) <= wide <= count

    def test_the_unknown_counts_in_full(self) -> None:
        assert width(self.waiting(100, None), 30) == 100

    def test_actors_and_full_width_count_in_full(self) -> None:
        assert width(self.waiting(100, 0.001, kind="actor"), 30) == 100
        assert width(self.waiting(100, 0.001), 30, "full") == 100
