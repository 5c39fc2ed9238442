"""`inspect_serializability`: the innermost object that is in the way, with its name."""

from __future__ import annotations

import io
import threading

from shoal.util import inspect_serializability


def inspected(value: object, depth: int = 3) -> tuple[bool, set[str], str]:
    out = io.StringIO()
    is_good, failures = inspect_serializability(value, "it", depth=depth, print_file=out)
    return is_good, {failure.name for failure in failures}, out.getvalue()


def test_what_pickles_is_good() -> None:
    is_good, names, text = inspected([1, lambda: 2])

    assert is_good
    assert names == set()
    assert "Checking Serializability" in text


def test_closure_names_its_culprit() -> None:
    lock = threading.Lock()

    def work() -> object:
        return lock

    is_good, names, text = inspected(work)

    assert not is_good
    assert names == {"lock"}
    assert "FAIL serialization of `lock`" in text


def test_attributes_containers_and_methods_are_looked_into() -> None:
    class Holder:
        def __init__(self) -> None:
            self.inner = {"a": [threading.Lock()]}

        def method(self) -> None:
            pass

    assert inspected(Holder())[1] == {"[0]"}
    assert inspected(Holder().method, depth=4)[1] == {"[0]"}


def test_depth_ends_the_search() -> None:
    assert inspected([[[threading.Lock()]]], depth=1)[1] == {"[0]"}
    assert len(inspected([threading.Lock(), threading.Lock()])[1]) == 2


def test_cycles_end() -> None:
    loop: list[object] = [threading.Lock()]
    loop.append(loop)

    assert inspected(loop)[1] == {"[0]"}
