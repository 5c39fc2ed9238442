"""Size classes waste little, and layouts keep their promises."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.runtime.store.segments import SLOT_BYTES_MAX, SLOT_BYTES_MIN, class_bytes


@settings(deadline=None)
@given(st.integers(1, 2**44))
def test_a_class_holds_its_size_and_wastes_at_most_a_quarter(size: int) -> None:
    capacity = class_bytes(size)
    assert capacity >= size
    if size > SLOT_BYTES_MAX:
        assert capacity <= size * 9 / 8
    elif size > SLOT_BYTES_MIN:
        assert capacity <= size * 5 / 4 + 1
    assert capacity % 4096 == 0


@settings(deadline=None)
@given(st.integers(1, 2**44))
def test_classes_are_their_own_class(size: int) -> None:
    assert class_bytes(class_bytes(size)) == class_bytes(size)
