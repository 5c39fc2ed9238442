"""Frames: whatever arrives, however cut, is decoded or refused; nothing is taken on trust."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.foundation.errors import LimitExceeded, ProtocolError
from shoal.wire.frames import RAW_BYTES_MAX, FrameReader, frame, raw_head
from shoal.wire.messages import TO_AGENT, TO_HEAD, Backlog, End, Leaving, Report, ToHead

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.lists(st.lists(VALUES, max_size=4), max_size=4), st.integers(1, 9))
def test_any_cut_of_the_stream_gives_the_same_frames(bodies: list[list[object]], step: int) -> None:
    data = b"".join(frame(body) for body in bodies)
    reader = FrameReader()

    got = [body for start in range(0, len(data), step) for body in reader.feed(data[start : start + step])]

    assert got == bodies
    assert reader.bytes_waiting == 0


@settings(deadline=None)
@given(
    st.lists(st.lists(VALUES, max_size=3) | st.tuples(st.integers(0, 2**64 - 1), st.binary(min_size=1)), max_size=6),
    st.integers(1, 60),
)
def test_raw_bytes_between_frames_arrive_however_the_stream_is_cut(
    sent: list[list[object] | tuple[int, bytes]], step: int
) -> None:
    data = b"".join(frame(one) if isinstance(one, list) else raw_head(one[0], 7, len(one[1])) + one[1] for one in sent)
    reader = FrameReader()
    order: list[object] = []

    def take(key: int, offset: int, come: memoryview) -> None:
        if offset == 7:
            order.append((key, b""))
        key_before, before = order[-1]  # type: ignore[misc]
        assert (key_before, len(before)) == (key, offset - 7)
        order[-1] = (key, before + bytes(come))

    reader.take_raw(take)
    for start in range(0, len(data), step):
        order.extend(reader.feed(bytearray(data[start : start + step])))

    assert order == sent
    assert reader.bytes_waiting == 0


@pytest.mark.parametrize("length", [0, RAW_BYTES_MAX + 1])
def test_raw_bytes_beyond_the_limit_or_nobody_allowed_are_refused(length: int) -> None:
    reader = FrameReader()
    with pytest.raises(LimitExceeded):
        list(reader.feed(raw_head(1, 0, 10)))
    allowed = FrameReader()
    allowed.take_raw(lambda key, offset, come: None)
    with pytest.raises(LimitExceeded):
        list(allowed.feed(raw_head(1, 0, length)))


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300))
def test_garbage_is_refused_or_waited_for_and_never_anything_else(data: bytes) -> None:
    reader = FrameReader(TO_HEAD, bytes_max=10_000)
    try:
        for messages in reader.feed(data):
            assert all(type(message).__module__ == "shoal.wire.messages" for message in messages)
    except (ProtocolError, LimitExceeded):
        pass


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_changed_byte_never_gets_past_the_types(data: st.DataObject) -> None:
    good = bytearray(
        frame([Report(1, free={"CPU": 3}, backlog=[Backlog(b"p", "k", "j", 3, 0, {"CPU": 1})]), Leaving("x")])
    )
    place = data.draw(st.integers(0, len(good) - 1))
    good[place] = data.draw(st.integers(0, 255))
    try:
        for messages in FrameReader(TO_HEAD, bytes_max=10_000).feed(bytes(good)):
            assert all(isinstance(message, ToHead) for message in messages)
    except (ProtocolError, LimitExceeded):
        pass


def test_an_announced_length_beyond_the_limit_is_refused_before_it_is_read() -> None:
    reader = FrameReader(bytes_max=100)

    with pytest.raises(LimitExceeded, match="101 bytes announced"):
        list(reader.feed(struct.pack("<I", 101)))


def test_a_message_of_the_other_direction_is_refused() -> None:
    with pytest.raises(ProtocolError):
        list(FrameReader(TO_HEAD).feed(frame([End("x")])))
    assert list(FrameReader(TO_AGENT).feed(frame([End("x")]))) == [[End("x")]]


def test_deep_nesting_is_an_error_not_a_crash() -> None:
    body = b"\x91" * 100_000 + b"\xc0"
    with pytest.raises(ProtocolError):
        list(FrameReader().feed(struct.pack("<I", len(body)) + body))


def test_writing_too_much_is_refused() -> None:
    with pytest.raises(LimitExceeded):
        frame([b"x" * 100], bytes_max=50)
