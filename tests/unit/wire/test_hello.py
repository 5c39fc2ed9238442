"""The hello: both sides prove themselves; nobody acts above their role; replays and changes fail."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.foundation.errors import AuthenticationError, ProtocolError
from shoal.wire.hello import (
    CLIENT_BYTES,
    SERVER_BYTES,
    ClientHello,
    Credential,
    Role,
    ServerHello,
    fresh_secret,
    secret_for,
)

UID = "ab" * 16
ROOT = bytes(range(32))


def admin() -> Credential:
    return Credential(UID, ROOT)


def greet(client: Credential, server: Credential) -> Role:
    mine, yours = ClientHello(client), ServerHello(server)
    return yours.check(mine.reply(yours.answer(mine.first)))


@pytest.mark.parametrize("role", list(Role))
def test_every_role_is_proven(role: Role) -> None:
    assert greet(admin().lowered(role), admin()) is role


def test_sizes_are_fixed() -> None:
    mine, yours = ClientHello(admin()), ServerHello(admin())

    assert len(mine.first) == CLIENT_BYTES == 56
    assert len(yours.answer(mine.first)) == SERVER_BYTES == 88


def test_a_wrong_secret_fails_at_the_client_first() -> None:
    with pytest.raises(AuthenticationError, match="does not know the secret"):
        greet(Credential(UID, fresh_secret()), admin())


def test_a_client_without_the_secret_cannot_make_the_proof() -> None:
    mine, yours = ClientHello(admin()), ServerHello(admin())
    yours.answer(mine.first)

    with pytest.raises(AuthenticationError, match="without its secret"):
        yours.check(b"\0" * 32)


def test_another_cluster_is_told_so() -> None:
    with pytest.raises(AuthenticationError, match="another cluster"):
        greet(Credential("cd" * 16, ROOT), admin())


def test_nobody_acts_above_their_role() -> None:
    driver = admin().lowered(Role.DRIVER)

    with pytest.raises(AuthenticationError):
        ClientHello(driver, role=Role.NODE)
    with pytest.raises(AuthenticationError):
        secret_for(Role.ADMIN, ROOT, Role.NODE)
    assert driver.checks_bearer(admin().bearer()) is None


def test_a_driver_cannot_check_and_so_does_not_serve_nodes() -> None:
    with pytest.raises(AuthenticationError, match="not served"):
        greet(admin().lowered(Role.NODE), admin().lowered(Role.DRIVER))


def test_a_listener_serves_only_from_its_lowest_role() -> None:
    server = Credential(UID, ROOT, serves_from=Role.NODE)

    assert greet(admin().lowered(Role.NODE), server) is Role.NODE
    with pytest.raises(AuthenticationError, match="not served"):
        greet(admin().lowered(Role.READ), server)


def test_a_proof_cannot_be_replayed() -> None:
    mine, first, second = ClientHello(admin()), ServerHello(admin()), ServerHello(admin())
    proof = mine.reply(first.answer(mine.first))
    second.answer(mine.first)

    with pytest.raises(AuthenticationError):
        second.check(proof)


def test_a_server_cannot_be_played_by_turning_the_hello_around() -> None:
    mine = ClientHello(admin())
    answer = bytearray(ServerHello(admin()).answer(mine.first))
    answer[-32:] = mine.first[-32:]

    with pytest.raises(AuthenticationError):
        mine.reply(bytes(answer))


@given(st.integers(0, 55), st.integers(1, 255))
def test_any_changed_byte_of_the_first_message_fails(place: int, change: int) -> None:
    mine, yours = ClientHello(admin()), ServerHello(admin())
    changed = bytearray(mine.first)
    changed[place] ^= change
    try:
        proof = mine.reply(yours.answer(bytes(changed)))
    except (AuthenticationError, ProtocolError):
        return
    with pytest.raises(AuthenticationError):
        yours.check(proof)


@given(st.binary(min_size=56, max_size=56))
def test_garbage_is_no_hello(data: bytes) -> None:
    if data[:4] == b"SHL\x01":
        return
    with pytest.raises(ProtocolError):
        ServerHello(admin()).answer(data)


class TestBearer:
    @pytest.mark.parametrize("role", list(Role))
    def test_it_proves_its_role(self, role: Role) -> None:
        assert admin().checks_bearer(admin().bearer(role)) is role

    @pytest.mark.parametrize("text", ["", ":", "admin", "admin:", "admin:00", "boss:00", "admin:ü", "read:" + "0" * 64])
    def test_anything_else_proves_nothing(self, text: str) -> None:
        assert admin().checks_bearer(text) is None

    def test_it_does_not_give_the_secret_away(self) -> None:
        assert ROOT.hex() not in admin().bearer()
