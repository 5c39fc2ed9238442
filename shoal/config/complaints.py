"""Say what the model found wrong in our own words: place, path, expected, got, and what was probably meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from shoal.config.diagnostics import Diagnostic, Path, nearest, path_shown, printable, shown
from shoal.config.providers import KINDS
from shoal.config.sections import KEYS, field_at, owners, section_at
from shoal.config.tree import Tree

MEANT = {
    "budget_usd_per_hour": "budget: {usd_per_hour_max: ...}",
    "hard": "budget_hard",
    "idle_timeout": "idle_timeout_s",
    "image_id": "node_config: {ImageId: ...}",
    "instance_type": "machine_types",
    "instance_types": "machine_types",
    "machine_type": "machine_types",
    "max_nodes": "max_workers",
    "max_price": "budget: {usd_per_hour_max: ...}",
    "min_nodes": "min_workers",
    "name": "cluster_name",
    "nodes": "available_node_types",
    "num_workers": "min_workers",
    "pull": "pull_before_run",
    "price": "price_usd_per_h",
    "spot": "markets: [spot]",
    "ttl": "lifetime",
    "use_spot": "markets: [spot]",
    "vm_size": "machine_types",
    "workers": "max_workers",
    "zone": "zones",
}
"""Words of other tools, by what they are called here."""

REMOVED = {
    "autoscaling_mode": "Ray removed it; `upscaling_speed` limits how fast workers are added",
    "services": "Ray removed it with its old Kubernetes provider; make Services with kubectl",
    "initial_workers": "Ray removed it; write `min_workers` in the node type",
    "target_utilization_fraction": "Ray removed it; what waits decides how many workers there are",
}
"""Keys that Ray itself rejects today and that stand in many old files."""


def complaints(error: ValidationError, data: Any, tree: Tree) -> Iterator[tuple[Path, Diagnostic]]:
    """Yield each finding of `error` about `data` with its path. Values that were refused before are left out."""
    for found in error.errors(include_url=False):
        path = _in_file(found["loc"], data)
        if tree.is_broken(path):
            continue
        # Pydantic shows durations and sizes as already converted; people are shown what they wrote.
        value = _at(path, data, found["input"])
        yield path, _diagnostic(found["type"], path, value, found.get("ctx") or {}, data, tree)


def _diagnostic(kind: str, path: Path, value: Any, context: Mapping[str, Any], data: Any, tree: Tree) -> Diagnostic:
    got, hint, of_key = shown(value), "", False
    match kind:
        case "extra_forbidden":
            name = str(path[-1])
            wanted, got, of_key = "a known key", f"`{printable(name)}`", True
            hint = _unknown_key_hint(path[:-1], name, data)
        case "missing":
            wanted, got, of_key = f"the key `{path[-1]}`", "nothing", True
        case "union_tag_not_found":
            wanted, got, of_key, path = "the key `type`", "nothing", True, (*path, "type")
        case "union_tag_invalid":
            path = (*path, "type")
            wanted, got = _one_of(KINDS), shown(context["tag"])
            hint = _meant(str(context["tag"]), KINDS)
        case "expected":
            wanted, hint = context["expected"], context["hint"]
        case "literal_error":
            words = [word.strip("'") for word in context["expected"].replace(" or ", ", ").split(", ")]
            wanted, hint = _one_of(words), _meant(str(value), words)
        case _:
            wanted = _wanted(kind, context)
    if value is None and kind not in ("missing", "extra_forbidden") and not hint:
        field = field_at(path, data)
        if field is not None:
            hint = "write a value; this key is needed" if field.is_required() else "leave the key out for its default"
    place = tree.place(path, of_key=of_key)
    return Diagnostic(
        file=tree.file,
        line=place.line,
        column=place.column,
        path=path_shown(path),
        expected=wanted,
        got=got,
        hint=hint,
    )


def _wanted(kind: str, context: Mapping[str, Any]) -> str:
    match kind:
        case "greater_than_equal":
            return f"at least {context['ge']:g}"
        case "greater_than":
            return f"more than {context['gt']:g}"
        case "less_than_equal":
            return f"at most {context['le']:g}"
        case "int_type" | "int_from_float" | "int_parsing" | "int_parsing_size":
            return "a whole number"
        case "float_type" | "float_parsing":
            return "a number"
        case "finite_number":
            return "a finite number"
        case "bool_type" | "bool_parsing":
            return "`true` or `false`"
        case "string_type" | "string_sub_type":
            return "a text"
        case "string_too_short":
            return "a text that is not empty"
        case "dict_type" | "model_type" | "model_attributes_type" | "mapping_type":
            return "a mapping of keys"
        case "tuple_type" | "list_type":
            return "a list"
        case "too_long":
            return f"at most {context['max_length']} items"
        case "too_short":
            return f"at least {context['min_length']} item{'s' * (context['min_length'] != 1)}"
    return f"another value ({kind.replace('_', ' ')})"


def _in_file(loc: tuple[int | str, ...], data: Any) -> Path:
    """Return pydantic's location without what the file does not have: union tags, `[key]`, a lone value's index."""
    path: list[int | str] = []
    for place, part in enumerate(loc):
        if isinstance(data, dict):
            if part in data:
                data = data[part]
            elif part == "[key]":
                break
            elif part == data.get("type") and place < len(loc) - 1:
                continue
            elif place < len(loc) - 1:
                break
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            break
        path.append(part)
    return tuple(path)


def _at(path: Path, data: Any, otherwise: Any) -> Any:
    for part in path:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return otherwise
    return data


def _unknown_key_hint(parent: Path, name: str, data: Any) -> str:
    if name in REMOVED:
        return REMOVED[name]
    section = section_at(parent, data)
    known = sorted(section.model_fields) if section else []
    # A key that is spelt as elsewhere is rather in the wrong place than misspelt.
    for other in (f"{name}s", name.removesuffix("s"), f"worker_{name}"):
        if other in known:
            return f"did you mean `{other}`?"
    if places := owners(name):
        return f"`{printable(name)}` is a key of {' and '.join(places[:3])}"
    if meant := nearest(name, known):
        return f"did you mean `{meant}`?"
    if name.lower() in MEANT:
        return f"write `{MEANT[name.lower()]}`"
    if meant := nearest(name, KEYS):
        return f"did you mean `{meant}`, a key of {' and '.join(owners(meant)[:3])}?"
    return f"known keys: {', '.join(known)}" if 0 < len(known) <= 12 else ""


def _one_of(words: Iterable[str]) -> str:
    quoted = [f"`{word}`" for word in words]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def _meant(word: str, known: Iterable[str]) -> str:
    meant = nearest(word, known)
    return f"did you mean `{meant}`?" if meant else ""
