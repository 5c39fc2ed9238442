"""Which section of the model describes a place in the file, and which sections know a key."""

from __future__ import annotations

import types
import typing
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from shoal.config.diagnostics import Path
from shoal.config.providers import KINDS
from shoal.config.schema import Cluster, NodeType

Model = type[BaseModel]


def section_at(path: Path, data: Any) -> Model | None:
    """Return the model of the mapping at `path` in `data`, None where any key may stand.

    The data is needed because the keys of a `provider` depend on its `type`.
    """
    model: Any = Cluster
    for part in path:
        data = data.get(part) if isinstance(data, dict) else None
        if part == "provider" and model in (Cluster, NodeType):
            kind = data.get("type") if isinstance(data, dict) else None
            model = KINDS.get(kind) if isinstance(kind, str) else None
        elif model is dict:
            model = NodeType
        elif is_section(model):
            field = model.model_fields.get(str(part))
            model = _inside(field.annotation) if field else None
        else:
            return None
    return model if is_section(model) else None


def field_at(path: Path, data: Any) -> FieldInfo | None:
    """Return the field that describes the value at `path`, None for what the model does not name."""
    parent = section_at(path[:-1], data) if path else None
    return parent.model_fields.get(str(path[-1])) if parent else None


def unit_of(field: FieldInfo | None) -> str:
    """Return a field's unit, "" if it has none."""
    extra = field.json_schema_extra if field else None
    return str(extra.get("x-unit", "")) if isinstance(extra, dict) else ""


def is_section(model: Any) -> bool:
    """Say whether `model` is the model of a mapping."""
    return isinstance(model, type) and issubclass(model, BaseModel)


def sections() -> dict[str, Model]:
    """Return every section under the words with which people are told of it, from the top down."""
    found: dict[str, Model] = {"the top level": Cluster, "a node type": NodeType}
    for kind, model in KINDS.items():
        found[f"provider `{kind}`"] = model
    _add_inner(found, "", Cluster)
    _add_inner(found, "available_node_types.NAME.", NodeType)
    for kind, model in KINDS.items():
        _add_inner(found, f"provider({kind}).", model)
    return found


def owners(name: str) -> list[str]:
    """Return the sections that know the key `name`, in words."""
    return [owner for owner, section in _SECTIONS.items() if name in section.model_fields]


def _add_inner(found: dict[str, Model], prefix: str, model: Model) -> None:
    for name, field in model.model_fields.items():
        inner = _inside(field.annotation)
        if is_section(inner) and inner not in found.values():
            found[f"`{prefix}{name}`"] = inner
            _add_inner(found, f"{prefix}{name}.", inner)


def _inside(annotation: Any) -> Any:
    """Return the model behind a field's annotation, `dict` for the mapping of node types, None for anything else."""
    if is_section(annotation):
        return annotation
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is dict:
        return dict if NodeType in arguments else None
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        models = [part for part in arguments if is_section(part)]
        return models[0] if len(models) == 1 else None
    return None


_SECTIONS = sections()
KEYS = frozenset(name for section in _SECTIONS.values() for name in section.model_fields)
"""Every key of every section."""
