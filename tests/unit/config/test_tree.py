"""YAML as values with places."""

from __future__ import annotations

import itertools

import pytest

from shoal.config.source import decode
from shoal.config.tree import VALUES_MAX, Place, Tree, parse


def tree(text: str) -> Tree:
    return parse(decode(text.encode(), "f.yaml"))


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1", 1),
        ("-1", -1), ("+1", 1), ("1_000", 1000), ("0x1F", 31), ("0b11", 3), ("0", 0), ("0.5", 0.5), (".5", 0.5),
        ("1.", 1.0), ("1e3", 1000.0), ("1.5e-3", 0.0015), ("true", True), ("False", False), ("~", None), ("null", None),
        ("", None), ("text", "text"), ("'1'", "1"), ('"yes"', "yes"), ("'22:30'", "22:30"), ("!!str 1", "1"),
        ("!!int 5", 5), ("2024-01-01", "2024-01-01"), ("1.2.3", "1.2.3"), ("192.0.2.1", "192.0.2.1"), ("a:b", "a:b"),
        ("10:00:00:ff", "10:00:00:ff"), ("y", "y"), ("=", "="), ("|\n  a\n  b\n", "a\nb\n"), (">-\n  a\n  b", "a b"),
        ("[1, a, ~]", [1, "a", None]), ("{a: 1}", {"a": 1}),
    ],
)  # fmt: skip
def test_value_is_read(written: str, value: object) -> None:
    result = tree(f"k: {written}")

    assert result.findings == []
    assert result.data == {"k": value}
    assert type(result.data["k"]) is type(value)


def test_places_of_keys_and_values() -> None:
    result = tree("a: 1\nb:\n  - x\n  - c: [2, 3]\n")

    assert result.keys["a",] == Place(1, 1)
    assert result.values["a",] == Place(1, 4)
    assert result.values["b", 1, "c", 1] == Place(4, 12)
    assert result.place(("b", 1, "c")) == Place(4, 8)
    assert result.place(("b", 1, "c"), of_key=True) == Place(4, 5)
    assert result.place(("b", 1, "absent")) == Place(4, 5)
    assert result.place(("absent",)) == Place(1, 1)


def test_anchors_and_merges() -> None:
    result = tree(
        "base: &base {a: 1, b: 2}\nother: &other {b: 3, c: 4}\nmine: {<<: [*base, *other], a: 9}\nagain: *base\n"
    )

    assert result.findings == []
    assert result.data["mine"] == {"a": 9, "b": 2, "c": 4}
    assert result.data["again"] == {"a": 1, "b": 2}
    assert result.values["mine", "b"] == Place(1, 23)
    assert result.values["mine", "a"] == Place(3, 32)


def test_aliases_are_counted_before_they_are_expanded() -> None:
    names = "abcdefghijklmnopqrstuvwxyz"
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]" for old, new in itertools.pairwise(names)]

    result = tree("\n".join(lines))

    assert [found.expected for found in result.findings] == [f"at most {VALUES_MAX} values"]


def test_refused_values_are_known_as_broken() -> None:
    result = tree("a: {b: yes, c: 1}\n")

    assert result.is_broken(("a", "b"))
    assert result.is_broken(("a",))
    assert result.is_broken(("a", "b", "deeper"))
    assert not result.is_broken(("a", "c"))


def test_both_parsers_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML may be installed without libyaml; its own parser must serve as well."""
    import yaml

    text = "a: &x [1, 'two', {b: c}]\nd: *x\ne: |\n  text\n"
    with_c = tree(text)
    monkeypatch.setattr("shoal.config.tree._LOADER", yaml.SafeLoader)
    without_c = tree(text)

    assert with_c.data == without_c.data
    assert with_c.values == without_c.values
    assert tree("a: [1").findings[0].expected == "`,` or `]`"
