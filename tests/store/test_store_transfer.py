"""Objects arrive whole whatever the connection does, from whoever has them, and liars are not believed."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_rig import CREDENTIAL, MIB, CuttingProxy, Node

from shoal.exceptions import ObjectStoreFullError
from shoal.foundation.errors import ProtocolError
from shoal.runtime.store.errors import TransferError
from shoal.runtime.store.transfer.pull import Puller
from shoal.runtime.store.transfer.serve import Server
from shoal.runtime.store.transfer.wire import (
    ANSWER_BYTES,
    REQUEST_BYTES,
    Answer,
    Request,
    Status,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
)
from shoal.runtime.store.values import dump
from shoal.transport import blocking
from shoal.wire.hello import Credential, Role

Make = Callable[..., Node]


def random_array(megabytes: int) -> np.ndarray:
    return np.random.default_rng(megabytes).integers(0, 256, megabytes * MIB, dtype=np.uint8)


def twin(source: Node, object_id: bytes, target: Node) -> None:
    """Assert that both nodes hold the same value."""
    np.testing.assert_array_equal(source.get(object_id), target.get(object_id))
    source.drain()
    target.drain()


@pytest.mark.parametrize("size_is_known", [True, False])
def test_an_object_arrives_whole(node: Make, size_is_known: bool) -> None:
    source, target = node(128 * MIB), node(128 * MIB)
    object_id = source.put(random_array(37))
    size = source.store.size_of(object_id)

    assert target.pull(object_id, [source.serve()], size=size if size_is_known else None) is None

    twin(source, object_id, target)
    (row,) = target.store.rows()
    assert not row.is_primary
    assert target.puller is not None
    assert target.puller.received_bytes == size


def test_a_cut_connection_is_resumed_not_restarted(node: Make) -> None:
    source, target = node(128 * MIB), node(128 * MIB)
    object_id = source.put(random_array(40))
    proxy = CuttingProxy(source.serve(), cut_after=7 * MIB, cuts=3)

    assert target.pull(object_id, [proxy.address]) is None

    twin(source, object_id, target)
    assert proxy.cuts_left == 0
    assert target.puller is not None
    assert target.puller.received_bytes == source.store.size_of(object_id), "bytes that had come were fetched again"
    proxy.close()


def test_a_source_that_goes_away_is_replaced_by_another(node: Make) -> None:
    first, second, target = node(128 * MIB), node(128 * MIB), node(128 * MIB)
    array = random_array(48)
    object_id = first.put(array)
    assert second.put(array) == object_id
    # Everything that passes the proxy is cut soon, for ever: in the end this source is given up.
    proxy = CuttingProxy(first.serve(), cut_after=500, cuts=1000)

    assert target.pull(object_id, [proxy.address, second.serve()]) is None

    twin(second, object_id, target)
    proxy.close()


def test_several_sources_share_the_work(node: Make) -> None:
    sources = [node(128 * MIB) for _ in range(2)]
    target = node(128 * MIB)
    array = random_array(64)
    object_ids = {source.put(array) for source in sources}
    assert len(object_ids) == 1
    addresses = [source.serve() for source in sources]

    assert target.pull(object_ids.pop(), addresses) is None

    assert all(source.server and source.server.sent_bytes > 0 for source in sources)
    np.testing.assert_array_equal(target.get(b"\0" * 23 + b"\x01"), array)


def test_the_first_source_is_asked_first_and_a_copy_that_gave_way_costs_one_try(
    node: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale, sources, target = node(64 * MIB), [node(128 * MIB) for _ in range(2)], node(128 * MIB)
    object_ids = [source.put(random_array(60)) for source in sources]  # for four lanes at once
    assert object_ids[0] == object_ids[1]
    absent, *addresses = stale.serve(), *(source.serve() for source in sources)
    asked: list[str] = []
    visit = Puller._visit

    def noted(puller: Puller, pull: Any, source: str, *more: Any) -> None:
        asked.append(source)
        visit(puller, pull, source, *more)

    monkeypatch.setattr(Puller, "_visit", noted)
    for first in (addresses, addresses[::-1], addresses[:1]):
        assert target.pull(object_ids[0], [absent, *first], hints=[absent]) is None
        assert asked.count(absent) == 1
        assert asked[:2] == [absent, first[0]]
        target.store.free([object_ids[0]])
        asked.clear()
    assert isinstance(target.pull(b"n" * 24, [absent], hints=[absent]), TransferError)
    assert len(asked) > 1, "the last one is asked again like any other"


def test_sources_without_the_object_are_named_in_the_error(node: Make) -> None:
    source, target = node(64 * MIB), node(64 * MIB)
    error = target.pull(b"n" * 24, [source.serve(), "127.0.0.1:9"])
    assert isinstance(error, TransferError)
    assert "does not have it" in str(error)
    assert "refused" in str(error)
    assert target.store.usage().used == 0
    assert isinstance(target.pull(b"n" * 24, []), TransferError)


def test_an_object_whose_sealing_is_still_on_its_way_is_waited_for(node: Make) -> None:
    """The writer tells its agent and the reader at the same time; the reader may be the quicker one."""
    source, target = node(64 * MIB), node(64 * MIB)
    address = source.serve()
    sealed = source.writer.put(dump(random_array(2)))
    target.pull(b"w" * 24, [address])  # makes the puller
    assert target.puller is not None and source.server is not None
    told: list[object] = []
    target.puller.pull(b"s" * 24, [address], told.append)
    asked = source.server.answered
    source.loop.until(lambda: source.server and source.server.answered > asked)
    assert told == []

    source.store.seal(b"w", b"s" * 24, sealed.segment_id, sealed.size)

    source.loop.until(lambda: told)
    assert told == [None]
    twin(source, b"s" * 24, target)


def test_an_object_larger_than_the_store_is_refused_before_memory_is_taken(node: Make) -> None:
    source, target = node(64 * MIB), node(16 * MIB)
    object_id = source.put(random_array(20))
    error = target.pull(object_id, [source.serve()])
    assert isinstance(error, ObjectStoreFullError)
    assert target.store.usage().total == 0


def test_a_copy_that_fills_its_store_is_there_for_whoever_fetched_it(node: Make) -> None:
    """The store is over the mark from which on copies that nobody reads give way."""
    source, target = node(128 * MIB), node(64 * MIB)
    source.put(random_array(1))
    object_id = source.put(random_array(8))
    held = target.get(target.put(random_array(50)))
    address = source.serve()
    target.pull(b"n" * 24, [address])  # makes the puller
    assert target.puller is not None
    pinned: list[Any] = []

    target.puller.pull(object_id, [address], lambda error: target.store.pin(b"r", object_id, pinned.append))
    target.loop.until(lambda: pinned)

    np.testing.assert_array_equal(target.reader.load(object_id, pinned[0]), random_array(8))
    del held
    target.drain()
    assert not any(row.pins for row in target.store.rows()), "the puller still pins it"


def test_a_pull_waits_for_room(node: Make) -> None:
    source, target = node(128 * MIB), node(64 * MIB)
    source.put(random_array(1))
    object_id = source.put(random_array(8))
    held = target.get(target.put(random_array(60)))
    address = source.serve()
    target.pull(b"n" * 24, [address])
    assert target.puller is not None
    told: list[Any] = []
    target.puller.pull(object_id, [address], told.append)
    target.loop.until(lambda: target.store.usage().waiting)
    assert not told

    del held
    target.drain()
    target.store.free([b"\0" * 23 + b"\x01"])
    target.loop.until(lambda: told)

    assert told == [None]


def test_a_pull_into_a_store_that_stays_full_says_who_fills_it(node: Make) -> None:
    source, target = node(128 * MIB), node(64 * MIB, wait_s=0.3)
    source.put(random_array(1))
    object_id = source.put(random_array(8))
    held = target.get(target.put(random_array(60)))

    error = target.pull(object_id, [source.serve()])

    assert isinstance(error, ObjectStoreFullError)
    assert "no room for 8 MiB after" in str(error)
    assert "60 MiB pinned by readers" in str(error)
    assert f"held by {b'r'.hex()} 60 MiB" in str(error)
    assert "`object_store_memory`" in str(error)
    del held


def test_a_source_that_cannot_restore_what_it_spilled_has_not_lost_it(node: Make, tmp_path: Path) -> None:
    source, target = node(64 * MIB, spill=tmp_path, wait_s=60.0), node(128 * MIB)
    object_id = source.put(random_array(30))
    source.put(random_array(25))  # over the mark: the first one goes to disk
    source.loop.until(lambda: source.store.usage().spilled and source.store.usage().used < 30 * MIB)
    held = [source.get(b"\0" * 23 + b"\x02"), source.get(source.put(random_array(30)))]
    address = source.serve(pin_limit_s=0.2)

    error = target.pull(object_id, [address])

    assert isinstance(error, ObjectStoreFullError)
    assert "the object store of its node is full" in str(error)
    assert address in str(error)
    held.clear()
    source.drain()
    assert target.pull(object_id, [address]) is None
    np.testing.assert_array_equal(target.get(object_id), random_array(30))
    source.loop.until(lambda: not any(row.pins for row in source.store.rows()), within_s=10)


def test_a_thousand_small_objects_at_once(node: Make) -> None:
    source, target = node(256 * MIB), node(256 * MIB)
    object_ids = [source.put(np.full(20_000, number)) for number in range(1000)]
    address = source.serve()
    target.pull(b"n" * 24, [address])
    assert target.puller is not None
    told: list[Any] = []

    for object_id in object_ids:
        target.puller.pull(object_id, [address], told.append)
    target.loop.until(lambda: len(told) == 1000, within_s=60)

    assert told == [None] * 1000
    for number in range(0, 1000, 37):
        assert (target.get(object_ids[number]) == number).all()
    target.drain()
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("shoal-transfer-pull") <= 4
    source.loop.until(lambda: not any(row.pins for row in source.store.rows()), within_s=10)


def test_a_value_that_ends_while_it_is_fetched_arrives_whole_or_not_at_all(node: Make) -> None:
    source, target = node(128 * MIB), node(128 * MIB)
    array = random_array(60)
    object_id = source.put(array)
    address = source.serve()
    target.pull(b"n" * 24, [address])
    assert target.puller is not None
    puller = target.puller
    told: list[Any] = []
    puller.pull(object_id, [address], told.append)
    source.loop.until(lambda: puller.received_bytes > 0)

    source.store.free([object_id])
    source.store.free([source.put(np.full(60 * MIB, 7, np.uint8))])  # would take its memory
    target.loop.until(lambda: told)

    if told == [None]:
        np.testing.assert_array_equal(target.get(object_id), array)
    else:
        assert isinstance(told[0], TransferError)
        assert not target.store.has(object_id)
    source.loop.until(lambda: not source.store.usage().sealed, within_s=10)


def test_a_source_that_dies_in_the_middle_leaves_the_rest_to_another(node: Make) -> None:
    """Its connections break, and nobody answers there any more."""
    first, second, target = node(128 * MIB), node(128 * MIB), node(128 * MIB)
    array = random_array(64)
    object_id = first.put(array)
    assert second.put(array) == object_id
    dying, living = first.serve(), second.serve()
    target.pull(b"n" * 24, [living])
    assert target.puller is not None and first.server is not None
    puller, told = target.puller, []
    puller.pull(object_id, [dying, living], told.append)
    before = puller.received_bytes
    source_server = first.server
    target.loop.until(lambda: source_server.sent_bytes > 0 or told)
    source_server.close()
    target.loop.until(lambda: told)

    assert told == [None]
    twin(second, object_id, target)
    assert puller.received_bytes - before == second.store.size_of(object_id), "what had come was fetched again"


def test_a_size_that_is_not_the_objects_own_is_an_error(node: Make) -> None:
    source, target = node(64 * MIB), node(64 * MIB)
    object_id = source.put(random_array(2))
    size = source.store.size_of(object_id)
    assert size is not None
    address = source.serve()
    for wrong in (size + 1, size - 1):
        error = target.pull(object_id, [address], size=wrong)
        assert isinstance(error, TransferError), error
        assert target.store.usage().used == 0


def test_two_who_want_the_same_object_fetch_it_once(node: Make) -> None:
    source, target = node(64 * MIB), node(64 * MIB)
    object_id = source.put(random_array(10))
    address = source.serve()
    told: list[object] = []
    target.pull(b"w" * 24, [address])  # makes the puller
    assert target.puller is not None
    target.puller.pull(object_id, [address], told.append)
    target.puller.pull(object_id, [address], told.append)
    target.loop.until(lambda: len(told) == 2)
    assert told == [None, None]
    assert source.server is not None
    assert source.server.sent_bytes == source.store.size_of(object_id)


def test_a_cancelled_pull_takes_no_memory(node: Make) -> None:
    source, target = node(64 * MIB), node(64 * MIB)
    object_id = source.put(random_array(30))
    proxy = CuttingProxy(source.serve(), cut_after=100_000, cuts=10_000)
    target.pull(b"w" * 24, [proxy.address])
    assert target.puller is not None
    told: list[object] = []
    target.puller.pull(object_id, [proxy.address], told.append)
    target.puller.cancel(object_id)
    target.loop.until(lambda: told)
    assert isinstance(told[0], TransferError)
    assert target.store.usage().used == 0
    proxy.close()


@pytest.mark.parametrize("silent_after", [None, 3 * MIB])
def test_who_hopes_for_a_dead_node_is_told_at_once(node: Make, silent_after: int | None) -> None:
    """A host without power answers nothing and closes nothing: only the verdict ends the waiting."""
    source, target = node(64 * MIB), node(64 * MIB)
    object_id = source.put(random_array(30))
    proxy = CuttingProxy(source.serve(), cut_after=0, cuts=0, silent_after=silent_after or 0)
    told: list[object] = []
    target.pull(b"w" * 24, [])  # makes the puller
    assert target.puller is not None
    target.puller.pull(object_id, [proxy.address], told.append, size=source.store.size_of(object_id))
    target.loop.until(lambda: proxy.is_silent)
    assert not told

    began_s = time.monotonic()
    target.puller.give_up([proxy.address], "its node died")
    assert isinstance(told[0], TransferError)
    assert told[0].is_verdict
    assert "its node died" in str(told[0])
    assert time.monotonic() - began_s < 1.0, "the lane's own limit is 2 s"
    # What the lane was receiving into is free again, and the object can be had from somebody else.
    target.loop.until(lambda: target.store.usage().used == 0)
    assert target.pull(object_id, [source.serve()]) is None
    twin(source, object_id, target)
    proxy.close()


def test_a_node_out_of_reach_is_not_said_to_have_nothing(node: Make) -> None:
    source, target = node(64 * MIB), node(64 * MIB)
    unreachable = target.pull(b"n" * 24, ["127.0.0.1:9"])
    empty = target.pull(b"n" * 24, [source.serve()])
    assert isinstance(unreachable, TransferError)
    assert isinstance(empty, TransferError)
    assert (unreachable.is_verdict, empty.is_verdict) == (False, True)


def test_a_spilled_object_is_restored_for_whoever_fetches_it(node: Make, tmp_path: Path) -> None:
    source, target = node(32 * MIB, spill=tmp_path), node(128 * MIB)
    array = random_array(9)
    object_ids = [source.put(array + number) for number in range(5)]
    source.loop.until(lambda: any(row.state == "spilled" for row in source.store.rows()))
    address = source.serve()
    for number, object_id in enumerate(object_ids):
        assert target.pull(object_id, [address]) is None
        np.testing.assert_array_equal(target.get(object_id), array + number)
        target.drain()


def test_sent_objects_are_pinned_only_while_they_are_sent(node: Make) -> None:
    source, target = node(64 * MIB), node(64 * MIB)
    one, two = source.put(random_array(3)), source.put(random_array(4))
    address = source.serve()
    target.pull(one, [address])
    target.pull(two, [address])
    source.loop.until(lambda: not any(row.pins for row in source.store.rows()), within_s=10)


def test_peers_without_the_secret_or_the_role_get_nothing(node: Make) -> None:
    source = node(64 * MIB)
    object_id = source.put(random_array(1))
    host, _, port = source.serve().rpartition(":")
    address = blocking.Address("tcp", host, int(port))

    with pytest.raises((blocking.AuthenticationError, OSError)):
        blocking.dial(address, None, Credential("ab" * 16, b"x" * 32, Role.NODE))
    lower = blocking.dial(address, None, CREDENTIAL.lowered(Role.DRIVER))
    lower.settimeout(5.0)
    try:
        lower.sendall(encode_request(Request(object_id, 0, 100)))
        assert lower.recv(100) == b""
    except ConnectionError:
        pass  # closed before our request was read: as good
    lower.close()
    assert source.server is not None
    assert source.server.sent_bytes == 0


@pytest.mark.parametrize(
    "lie",
    [
        encode_answer(Answer(Status.OK, 10 * MIB, 4, 100)),
        encode_answer(Answer(Status.OK, 2**60, 0, 2**60)),
        b"HTTP/1.1 200 OK" + bytes(200),
        encode_answer(Answer(Status.OK, MIB, 0, MIB))[:-1] + b"\xff" + bytes(MIB),
    ],
    ids=["other range", "huge", "other protocol", "bad checksum"],
)
def test_a_lying_peer_delivers_nothing(node: Make, lie: bytes) -> None:
    target = node(64 * MIB)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                accepted, _ = listener.accept()
                with blocking.answer(accepted, None, CREDENTIAL)[0] as answered:
                    answered.settimeout(5.0)
                    answered.recv(REQUEST_BYTES)
                    answered.sendall(lie)
                    answered.recv(1)
            except OSError:
                if listener.fileno() < 0:
                    return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    error = target.pull(b"l" * 24, [f"127.0.0.1:{listener.getsockname()[1]}"], size=MIB)
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(10)
    assert isinstance(error, TransferError)
    assert not target.store.has(b"l" * 24)
    assert target.store.usage().used == 0


def test_garbage_ends_the_connection_and_nothing_else(node: Make) -> None:
    source, target = node(64 * MIB), node(64 * MIB)
    object_id = source.put(random_array(1))
    text = source.serve()
    host, _, port = text.rpartition(":")
    rude = blocking.dial(blocking.Address("tcp", host, int(port)), None, CREDENTIAL)
    rude.settimeout(5.0)
    rude.sendall(b"\0" * REQUEST_BYTES)
    assert rude.recv(10) == b""
    rude.close()
    assert target.pull(object_id, [text]) is None


def test_the_same_over_tls(node: Make, tmp_path: Path) -> None:
    server_side, client_side = tls_pair(tmp_path)
    source, target = node(128 * MIB), node(128 * MIB)
    object_id = source.put(random_array(20))
    address = source.serve(server_side)

    assert target.pull(object_id, [address], tls=client_side) is None

    twin(source, object_id, target)


def test_a_certificate_that_does_not_name_the_node_is_a_verdict_at_once(node: Make, tmp_path: Path) -> None:
    server_side, client_side = tls_pair(tmp_path, names="127.0.0.9")
    source, target = node(64 * MIB), node(64 * MIB)
    object_id = source.put(random_array(3))
    address = source.serve(server_side)

    error = target.pull(object_id, [address], tls=client_side)

    assert isinstance(error, TransferError)
    assert error.is_verdict, "whoever waits would wait for ever"
    assert f"{address}: its certificate does not hold: IP address mismatch" in str(error)


def test_a_node_that_refuses_our_certificate_is_a_verdict(node: Make, tmp_path: Path) -> None:
    server_side, client_side = tls_pair(tmp_path)
    server_side.load_verify_locations(tmp_path / "node.pem")
    server_side.verify_mode = ssl.CERT_REQUIRED  # and we show none
    source, target = node(64 * MIB), node(64 * MIB)
    object_id = source.put(random_array(1))

    error = target.pull(object_id, [source.serve(server_side)], tls=client_side)

    assert isinstance(error, TransferError)
    assert error.is_verdict
    assert "it refuses our certificate" in str(error)


def test_another_clusters_node_is_a_verdict_and_another_source_delivers(node: Make) -> None:
    stranger, source, target = node(64 * MIB), node(64 * MIB), node(64 * MIB)
    object_id = source.put(random_array(3))
    strange = Server(
        stranger.store,
        stranger.loop.call,
        lambda sock: blocking.answer(sock, None, Credential("cd" * 16, b"x" * 32, Role.NODE)),
    )
    host, port = strange.start("127.0.0.1")
    try:
        error = target.pull(object_id, [f"{host}:{port}"])
        assert isinstance(error, TransferError)
        assert error.is_verdict
        assert "hello: " in str(error)

        assert target.pull(object_id, [f"{host}:{port}", source.serve()]) is None
        twin(source, object_id, target)
    finally:
        strange.close()


def test_who_closes_without_an_answer_is_only_out_of_reach(node: Make) -> None:
    target = node(64 * MIB)
    listener = socket.create_server(("127.0.0.1", 0))

    def close_each() -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = listener.accept()
                accepted.recv(4096)
                accepted.close()

    thread = threading.Thread(target=close_each, daemon=True)
    thread.start()
    error = target.pull(b"c" * 24, [f"127.0.0.1:{listener.getsockname()[1]}"])
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(10)
    assert isinstance(error, TransferError)
    assert not error.is_verdict


@settings(deadline=None)
@given(st.binary(min_size=24, max_size=24), st.integers(0, 2**63), st.integers(0, 64 * MIB))
def test_requests_survive_the_wire(object_id: bytes, offset: int, length: int) -> None:
    request = Request(object_id, offset, length)
    assert decode_request(encode_request(request)) == request


@settings(deadline=None)
@given(st.sampled_from(Status), *[st.integers(0, 2**63)] * 3)
def test_answers_survive_the_wire(status: Status, size: int, offset: int, length: int) -> None:
    answer = Answer(status, size, offset, length)
    assert decode_answer(encode_answer(answer)) == answer


@settings(deadline=None)
@given(at=st.integers(0, ANSWER_BYTES - 1), bit=st.integers(0, 7))
def test_every_flipped_bit_is_noticed(at: int, bit: int) -> None:
    answer = bytearray(encode_answer(Answer(Status.OK, 100, 0, 100)))
    answer[at] ^= 1 << bit
    with pytest.raises(ProtocolError):
        decode_answer(answer)
    request = bytearray(encode_request(Request(b"i" * 24, 0, 100)))
    request[at] ^= 1 << bit
    with pytest.raises(ProtocolError):
        decode_request(request)


def tls_pair(directory: Path, *, names: str = "127.0.0.1") -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return contexts of a server with a fresh certificate and of a client that trusts only it."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "node")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(names))]), False)
        .sign(key, hashes.SHA256())
    )
    path = directory / "node.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(path)
    client_side = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_side.load_verify_locations(path)
    return server_side, client_side
