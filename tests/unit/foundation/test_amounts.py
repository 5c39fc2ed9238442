"""Amounts are exact: sums of tenths are whole, and nothing finer than 1/10000 is accepted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.foundation import amounts as a

SOME = st.dictionaries(st.sampled_from(["CPU", "GPU", "memory", "disk"]), st.integers(0, 10**6), max_size=4)


def test_ten_tenths_are_one() -> None:
    assert a.total(a.amounts({"CPU": 0.1}) for _ in range(10)) == a.amounts({"CPU": 1})


@pytest.mark.parametrize("wrong", [-1, -0.5, float("nan"), float("inf"), 0.00001, 1e19])
def test_what_is_no_amount_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="CPU"):
        a.amounts({"CPU": wrong})


def test_zeros_are_dropped() -> None:
    assert a.amounts({"CPU": 0, "GPU": 1}) == {"GPU": 10_000}


@given(SOME, SOME)
def test_taking_away_what_was_added_gives_back_the_same(left: a.Amounts, right: a.Amounts) -> None:
    clean = {name: amount for name, amount in left.items() if amount}

    assert a.minus(a.plus(left, right), right) == clean


@given(SOME, SOME)
def test_the_highest_covers_both(left: a.Amounts, right: a.Amounts) -> None:
    top = a.highest([left, right])

    assert a.covers(top, left)
    assert a.covers(top, right)


def test_bytes_are_shown_in_the_largest_fitting_unit() -> None:
    assert [a.bytes_shown(count) for count in (5, 2048, 3 * 2**30)] == ["5 B", "2 KiB", "3 GiB"]
