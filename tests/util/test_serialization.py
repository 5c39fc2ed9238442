"""`register_serializer`, and the typed runtime environment."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

import shoal
from shoal.runtime_env import RuntimeEnv
from shoal.util import deregister_serializer, register_serializer


class Locked:
    def __init__(self, value: int) -> None:
        self.value = value
        self.lock = threading.Lock()


@pytest.fixture
def registered() -> Iterator[None]:
    register_serializer(Locked, serializer=lambda one: one.value, deserializer=Locked)
    yield
    deregister_serializer(Locked)


def test_registered_class_travels(cluster: None, registered: None) -> None:
    @shoal.remote
    def grown(one: Locked) -> int:
        return one.value + 1

    assert shoal.get(grown.remote(Locked(4))) == 5
    assert shoal.get(shoal.put(Locked(7))).value == 7


def test_it_can_be_taken_back(cluster: None, registered: None) -> None:
    deregister_serializer(Locked)
    deregister_serializer(Locked)

    with pytest.raises(TypeError):
        shoal.put(Locked(1))
    with pytest.raises(TypeError):
        register_serializer(Locked, serializer=1, deserializer=Locked)  # type: ignore[arg-type]


def test_typed_environment_is_a_checked_dict() -> None:
    assert RuntimeEnv(env_vars={"A": "1"}, working_dir=None).to_dict() == {"env_vars": {"A": "1"}}
    with pytest.raises(ValueError, match="`pip`"):
        RuntimeEnv(pip=["x"])
