"""Label selectors: which nodes may hold a piece of work.

Terms are Ray's strings, all of which must match: `value`, `!value`, `in(a,b)`, `!in(a,b)`; and `exists()`,
`!exists()` for what `NodeLabelSchedulingStrategy` calls Exists and DoesNotExist.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

from shoal.model.demand import Selector

_LISTED = re.compile(r"(!?)in\((.*)\)", re.DOTALL)
_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.\-/]*[A-Za-z0-9])?|")


def labels_of_node(node_id: str, node_type: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Return a node's own labels with those that every node has, under Ray's names."""
    return {"ray.io/node-id": node_id, "ray.io/node-group": node_type, **labels}


def matches(term: str, value: str | None) -> bool:
    """Say whether a node whose label has `value` (None: no such label) satisfies `term`.

    A negative term also holds where the label is missing, as in Ray.

    >>> matches("in(a, b)", "b"), matches("!a", None), matches("a", None)
    (True, True, False)
    """
    word, wanted = parsed(term)
    match word:
        case "exists":
            return value is not None
        case "!exists":
            return value is None
        case "in":
            return value in wanted
        case _:
            return value not in wanted


def all_match(terms: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Say whether `labels` satisfy every term."""
    return all(matches(term, labels.get(name)) for name, term in terms.items())


def admits(selector: Selector, node_id: str, labels: Mapping[str, str]) -> bool:
    """Say whether the node may hold the work, by its id and labels; any fallback counts as well."""
    if selector.node_ids and not selector.is_soft_node and node_id not in selector.node_ids:
        return False
    if all_match(selector.hard, labels):
        return True
    return any(all_match(terms, labels) for terms in selector.fallback)


def rank(selector: Selector, node_id: str, labels: Mapping[str, str]) -> int | None:
    """Return how well an admitted node suits (0 is best: the hard terms; then each fallback), None if not admitted."""
    if selector.node_ids and node_id not in selector.node_ids and not selector.is_soft_node:
        return None
    away = 1 if selector.node_ids and node_id not in selector.node_ids else 0
    for place, terms in enumerate((selector.hard, *selector.fallback)):
        if all_match(terms, labels):
            return 2 * place + away
    return None


def mistake(name: str, term: str) -> str | None:
    """Return what is wrong with a term, None if nothing is."""
    if not name:
        return "label selector: expected a label's name, got an empty one"
    if not isinstance(term, str):
        return f"label selector `{name}`: expected a string, got `{term!r}`"
    word, wanted = parsed(term)
    if word in ("in", "!in") and not wanted:
        return f"label selector `{name}`: expected at least one value in `{term}`"
    for value in wanted:
        if not _VALUE.fullmatch(value):
            return (
                f"label selector `{name}`: expected letters, digits, `-`, `_`, `.`, `/`, "
                f"`!value`, `in(a,b)` or `!in(a,b)`, got `{term}`"
            )
    return None


@functools.lru_cache(maxsize=4096)
def parsed(term: str) -> tuple[str, frozenset[str]]:
    """Return a term's word (`in`, `!in`, `exists`, `!exists`) and its values."""
    if term in ("exists()", "!exists()"):
        return term[:-2], frozenset()
    if listed := _LISTED.fullmatch(term.strip()):
        values = frozenset(part.strip() for part in listed[2].split(",") if part.strip())
        return f"{listed[1]}in", values
    if term.startswith("!"):
        return "!in", frozenset((term[1:],))
    return "in", frozenset((term,))
