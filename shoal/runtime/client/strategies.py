"""Where work may run, as the user says it: Ray's scheduling strategies, and what they amount to.

`resolve` turns a strategy, a label selector and its fallbacks into a `Selector` (which nodes), a `GroupPlace` (which
bundle) and whether the work is to be spread. Public under `shoal.util.scheduling_strategies`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from shoal.foundation.amounts import Amounts
from shoal.model.demand import Selector
from shoal.placement import selectors


class Group(Protocol):
    """What a strategy needs of a placement group."""

    @property
    def id(self) -> Any: ...

    @property
    def bundle_amounts(self) -> Sequence[Amounts]: ...


class In:
    """The label is one of `values`."""

    def __init__(self, *values: str) -> None:
        self.values = _checked_values(values, "In")


class NotIn:
    """The label is none of `values`, or missing."""

    def __init__(self, *values: str) -> None:
        self.values = _checked_values(values, "NotIn")


class Exists:
    """The node has the label."""


class DoesNotExist:
    """The node lacks the label."""


LabelMatch = In | NotIn | Exists | DoesNotExist


class PlacementGroupSchedulingStrategy:
    """Run inside a placement group: in bundle `placement_group_bundle_index`, or -1 for any.

    With `placement_group_capture_child_tasks`, what the work starts in turn runs in the group as well.
    """

    def __init__(
        self,
        placement_group: Any,
        placement_group_bundle_index: int = -1,
        placement_group_capture_child_tasks: bool | None = None,
    ) -> None:
        self.placement_group = placement_group
        self.placement_group_bundle_index = placement_group_bundle_index
        self.placement_group_capture_child_tasks = placement_group_capture_child_tasks


class NodeAffinitySchedulingStrategy:
    """Run on one node. Unless `soft`, work for a dead node fails; a node that is merely full is waited for."""

    def __init__(
        self, node_id: str, soft: bool, _spill_on_unavailable: bool = False, _fail_on_unavailable: bool = False
    ) -> None:
        if not isinstance(node_id, str):
            node_id = node_id.hex()
        if not _is_hex_id(node_id):
            raise ValueError(f"node_id: expected a node's id as hex text (see `shoal.nodes()`), got `{node_id}`")
        if _spill_on_unavailable and not soft:
            raise ValueError("_spill_on_unavailable cannot be set when soft is False")
        if _fail_on_unavailable:
            raise ValueError("_fail_on_unavailable is not supported: work for a full node waits")
        self.node_id = node_id
        self.soft = bool(soft)


class NodeLabelSchedulingStrategy:
    """Run where every expression of `hard` matches; among those, rather where `soft` matches as well."""

    def __init__(self, hard: Mapping[str, LabelMatch], *, soft: Mapping[str, LabelMatch] | None = None) -> None:
        self.hard = _checked_matches(hard, "hard")
        self.soft = _checked_matches(soft, "soft")
        if not (self.hard or self.soft):
            raise ValueError("The `hard` and `soft` parameter of NodeLabelSchedulingStrategy cannot both be empty")


SchedulingStrategy = (
    None
    | Literal["DEFAULT", "SPREAD"]
    | PlacementGroupSchedulingStrategy
    | NodeAffinitySchedulingStrategy
    | NodeLabelSchedulingStrategy
)


class GroupPlace(msgspec.Struct, frozen=True):
    """A place in a placement group: `bundle` -1 is any. `captures`: what the work starts runs there too."""

    group_id: str
    bundle: int = -1
    captures: bool = False


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where work may run. `inherits`: nothing was said, so a capturing parent's group applies."""

    selector: Selector = Selector()
    spread: bool = False
    group: GroupPlace | None = None
    inherits: bool = False


def resolve(
    strategy: Any,
    label_selector: Mapping[str, str] | None,
    fallback: Sequence[Mapping[str, Any]] | None,
    needed: Amounts,
) -> Place:
    """Return what the strategy and the selectors amount to for work that needs `needed`.

    Raises:
        ValueError: terms contradict each other or are malformed; a bundle's number is out of range; the work fits into
            no bundle of its group.
        TypeError: `strategy` is none of Ray's.
    """
    hard = checked_selector(label_selector)
    others = tuple(checked_selector(one.get("label_selector")) for one in fallback or ())
    match strategy:
        case None:
            return Place(selector=Selector(hard=hard, fallback=others), inherits=True)
        case "DEFAULT":
            return Place(selector=Selector(hard=hard, fallback=others))
        case "SPREAD":
            return Place(selector=Selector(hard=hard, fallback=others), spread=True)
        case PlacementGroupSchedulingStrategy():
            return Place(selector=Selector(hard=hard, fallback=others), group=_group_place(strategy, needed))
        case NodeAffinitySchedulingStrategy():
            nodes = (strategy.node_id,)
            return Place(
                selector=Selector(hard=hard, fallback=others, node_ids=nodes, is_soft_node=strategy.soft),
            )
        case NodeLabelSchedulingStrategy():
            must = both(strategy.hard, hard)
            if must is None:
                raise ValueError("label_selector and scheduling_strategy contradict each other: no node can match both")
            preferred = both(must, strategy.soft) if strategy.soft else None
            if preferred is None or preferred == must:
                return Place(selector=Selector(hard=must, fallback=others))
            return Place(selector=Selector(hard=preferred, fallback=(must, *others)))
        case str():
            raise ValueError(f"scheduling_strategy: expected `DEFAULT`, `SPREAD` or a strategy, got `{strategy}`")
        case _:
            raise TypeError(
                f"scheduling_strategy: expected a string or a scheduling strategy, got `{type(strategy).__name__}`"
            )


def checked_selector(terms: Mapping[str, str] | None) -> dict[str, str]:
    """Return a label selector as a plain dict.

    Raises:
        ValueError: a term is malformed.
        TypeError: it is no mapping.
    """
    if terms is None:
        return {}
    if not isinstance(terms, Mapping):
        raise TypeError(f"label_selector: expected a dict, got `{type(terms).__name__}`")
    for name, term in terms.items():
        if wrong := selectors.mistake(name, term):
            raise ValueError(wrong)
    return dict(terms)


def both(left: Mapping[str, str], right: Mapping[str, str]) -> dict[str, str] | None:
    """Return terms that hold where all of `left` and `right` hold, None if that is nowhere.

    >>> both({"a": "in(x,y)"}, {"a": "!x", "b": "exists()"})
    {'a': 'in(y)', 'b': 'exists()'}
    """
    result = dict(left)
    for name, term in right.items():
        joined = _conjunction(result[name], term) if name in result else term
        if joined is None:
            return None
        result[name] = joined
    return result


def _conjunction(left: str, right: str) -> str | None:
    """Return the one term for `left` and `right` on the same label, None if no value satisfies both."""
    (kind, values), (other, more) = selectors.parsed(left), selectors.parsed(right)
    match kind, other:
        case "in", "in":
            return _listed("in", values & more)
        case "in", "!in":
            return _listed("in", values - more)
        case "!in", "in":
            return _listed("in", more - values)
        case "!in", "!in":
            return _listed("!in", values | more)
        case ("in", "exists") | ("exists", "exists"):
            return left
        case "exists", "in":
            return right
        case ("!exists", "!exists") | ("!exists", "!in"):
            return left
        case "!in", "!exists":
            return right
        case _:  # exists with `!in` has no single term; a label that must exist and must not, or have a value, has none
            return None


def _listed(word: str, values: frozenset[str]) -> str | None:
    return f"{word}({','.join(sorted(values))})" if values else None


def _group_place(strategy: PlacementGroupSchedulingStrategy, needed: Amounts) -> GroupPlace | None:
    group, bundle = strategy.placement_group, strategy.placement_group_bundle_index
    if group is None:
        if bundle != -1:
            raise ValueError("If placement group is not set, the value of bundle index must be -1.")
        return None
    bundles = list(group.bundle_amounts)
    if not isinstance(bundle, int) or not -1 <= bundle < len(bundles):
        raise ValueError(
            f"placement group bundle index {bundle} is invalid. Valid placement group indexes: 0-{len(bundles) - 1}"
        )
    open_bundles = bundles if bundle == -1 else [bundles[bundle]]
    if not any(all(one.get(name, 0) >= amount for name, amount in needed.items()) for one in open_bundles):
        from shoal.foundation.amounts import shown

        raise ValueError(
            f"Cannot schedule with the placement group because the resource request ({shown(needed)}) cannot fit into "
            f"any bundles for the placement group: {'; '.join(map(shown, open_bundles))}"
        )
    return GroupPlace(str(group.id), bundle, bool(strategy.placement_group_capture_child_tasks))


def _is_hex_id(text: str) -> bool:
    try:
        return bool(text) and any(bytes.fromhex(text))
    except ValueError:
        return False


def _checked_values(values: tuple[Any, ...], name: str) -> list[str]:
    if not values:
        raise ValueError(f'{name}: expected at least one value, such as {name}("value1", "value2")')
    for place, value in enumerate(values):
        if not isinstance(value, str):
            raise ValueError(f"{name}: expected a string in position {place}, got `{value!r}`")
    return list(values)


def _checked_matches(matches: Mapping[str, LabelMatch] | None, name: str) -> dict[str, str]:
    """Return label expressions as selector terms."""
    if matches is None:
        return {}
    if not isinstance(matches, Mapping):
        raise ValueError(f'{name}: expected a dict such as {{"key1": In("value1")}}, got `{type(matches).__name__}`')
    terms: dict[str, str] = {}
    for label, operator in matches.items():
        if not isinstance(label, str):
            raise ValueError(f"{name}: expected a label's name as a string, got `{label!r}`")
        match operator:
            case In(values=values):
                terms[label] = f"in({','.join(values)})"
            case NotIn(values=values):
                terms[label] = f"!in({','.join(values)})"
            case Exists():
                terms[label] = "exists()"
            case DoesNotExist():
                terms[label] = "!exists()"
            case _:
                raise ValueError(
                    f"{name}[{label!r}]: expected In, NotIn, Exists or DoesNotExist, got `{type(operator).__name__}`"
                )
    return checked_selector(terms)
