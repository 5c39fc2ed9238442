"""Values survive the way to bytes and back, with their types, and arrays come back read-only."""

from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.runtime.store import values
from shoal.runtime.store.errors import BadLayout
from shoal.runtime.store.layout import ALIGNMENT, parts
from shoal.runtime.store.values import BUFFERS, BYTES, INLINE_BYTES_MAX, PICKLE, dump, is_native, load_inline, load_view


def carried(value: Any) -> Any:
    dumped = dump(value)
    return load_inline(dumped.format, dumped.packed())


class Point:
    def __init__(self, x: int) -> None:
        self.x = x


class Ref:
    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        return Ref, (self.name,)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(deadline=None)
@given(plain)
def test_plain_values_come_back_equal_and_of_the_same_type(value: Any) -> None:
    found = carried(value)
    assert found == value
    assert type(found) is type(value)


@settings(deadline=None)
@given(plain)
def test_natives_survive_msgpack(value: Any) -> None:
    import msgspec

    if is_native(value):
        found = msgspec.msgpack.decode(msgspec.msgpack.encode(value))
        assert found == value
        assert type(found) is type(value)


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, "\ud800", "x" * 200_000, b"x" * 200_000, [], True.__class__])
def test_what_msgpack_cannot_carry_is_not_native(value: Any) -> None:
    assert not is_native(value)


@pytest.mark.parametrize("value", [None, True, 2**63 - 1, -(2**63), 0.5, "héllo", b"\xff"])
def test_scalars_are_native(value: Any) -> None:
    assert is_native(value)


@pytest.mark.parametrize("count", [0, 1, 7, 1000, 100_000])
def test_arrays_are_read_only_at_any_size(count: int) -> None:
    array = np.arange(count, dtype=np.int64)

    found = carried({"a": array, "b": [array]})

    np.testing.assert_array_equal(found["a"], array)
    assert not found["a"].flags.writeable
    assert found["a"] is found["b"][0], "one array referred to twice stays one"


@pytest.mark.parametrize(
    "view",
    [
        np.arange(100)[::2],
        np.arange(100).reshape(10, 10)[:, 3],
        np.arange(100).reshape(10, 10).T,
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(24).reshape(2, 3, 4)[:, ::2, ::-1],
        np.array(3.5),
    ],
    ids=["strided", "column", "transposed", "fortran", "reversed", "scalar"],
)
def test_every_memory_order_comes_back_equal_and_read_only(view: np.ndarray) -> None:
    found = carried(view)

    np.testing.assert_array_equal(found, view)
    assert found.dtype == view.dtype
    assert not found.flags.writeable


def test_two_loads_give_distinct_objects() -> None:
    dumped = dump({"k": [1]})
    data = dumped.packed()
    assert load_inline(dumped.format, data) is not load_inline(dumped.format, data)


def test_object_arrays_and_records_survive() -> None:
    mixed = np.array([1, "two", None], dtype=object)
    record = np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])
    assert carried(mixed).tolist() == [1, "two", None]
    assert carried(record)["b"][0] == 2.0


def test_large_bytes_are_not_pickled() -> None:
    value = bytes(INLINE_BYTES_MAX + 1)
    dumped = dump(value)
    assert dumped.format == BYTES
    assert dumped.pickle == b""
    assert not dumped.is_inline
    assert load_inline(BYTES, dumped.packed()) == value


def test_only_small_values_are_inline() -> None:
    assert dump(np.zeros(1000)).is_inline
    assert not dump(np.zeros(INLINE_BYTES_MAX // 8 + 1)).is_inline


def test_buffers_are_aligned_in_memory() -> None:
    dumped = dump([np.ones(3, dtype=np.int8), np.ones(5), np.ones(7, dtype=np.int16)])
    plan = dumped.plan()
    assert dumped.format == BUFFERS
    assert all(offset % ALIGNMENT == 0 for offset in plan.offsets)
    _, _, buffers = parts(memoryview(dumped.packed()))
    assert [buffer.nbytes for buffer in buffers] == [3, 40, 14]


def test_classes_of_main_travel_by_value() -> None:
    """Plain pickle would send them by name, which only fails at the other end."""
    sender = textwrap.dedent(
        """
        import sys
        from shoal.runtime.store.values import dump
        class Local:
            def __init__(self, x): self.x = x
            def double(self): return 2 * self.x
        dumped = dump([Local(21), lambda y: y + 1])
        sys.stdout.buffer.write(bytes([dumped.format]) + dumped.packed())
        """
    )
    data = subprocess.run([sys.executable, "-c", sender], capture_output=True, check=True).stdout

    local, function = load_inline(data[0], data[1:])

    assert local.double() == 42
    assert function(1) == 2


def test_refs_inside_a_value_are_reported_once_each() -> None:
    values.register_ref_type(Ref)
    found: list[Ref] = []
    one, two = Ref("one"), Ref("two")

    dumped = dump({"a": one, "b": [two, one], "c": Point(1)}, found.append)

    assert found == [one, two]
    assert load_inline(dumped.format, dumped.packed())["b"][0].name == "two"


def test_registered_serializer_is_used_and_travels() -> None:
    values.register_serializer(Point, serializer=lambda p: p.x + 1, deserializer=lambda x: Point(x * 10))
    try:
        assert carried([Point(1)])[0].x == 20
    finally:
        values.deregister_serializer(Point)
    assert carried([Point(1)])[0].x == 1


def test_unpicklable_values_raise_their_own_error() -> None:
    with pytest.raises(TypeError, match="cannot pickle"):
        dump({"lock": __import__("threading").Lock()})
    endless: list[Any] = []
    for _ in range(100_000):
        endless = [endless]
    with pytest.raises(pickle.PicklingError, match="recursion"):
        dump(endless)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_garbage_is_refused_without_harm(data: bytes) -> None:
    with pytest.raises(BadLayout):
        parts(memoryview(data))


@settings(deadline=None)
@given(cut=st.integers(0, 400), at=st.integers(0, 47), to=st.integers(0, 255))
def test_damaged_headers_never_reach_beyond_the_value(cut: int, at: int, to: int) -> None:
    data = bytearray(dump([np.arange(20), np.arange(9)]).packed())
    data[at] = to
    data = data[: len(data) - cut] if cut < len(data) else bytearray()
    try:
        _, pickled, buffers = parts(memoryview(data))
    except BadLayout:
        return
    assert pickled.nbytes + sum(buffer.nbytes for buffer in buffers) <= len(data) + 29 * 8 * 2


def test_unknown_formats_are_refused() -> None:
    with pytest.raises(BadLayout, match="format 99"):
        values.load(99, b"", [])
    assert dump(1).format == PICKLE


def test_a_view_loads_without_copying() -> None:
    array = np.arange(50_000)
    data = memoryview(dump(array).packed())
    found = load_view(data)
    assert np.shares_memory(found, np.frombuffer(data, dtype=np.uint8))


def test_importing_the_store_imports_nothing_heavy() -> None:
    script = (
        "import shoal.runtime.store, sys; "
        "print(sorted({'numpy', 'grpc', 'pydantic', 'highspy', 'psutil', 'asyncio'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
