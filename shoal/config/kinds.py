"""The kinds of values a config may hold, each with its check and its shape for editors; the base of every section."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from shoal.config.quantities import (
    DURATION_EXPECTED,
    MEMORY_EXPECTED,
    NEED_EXPECTED,
    duration_s,
    is_need,
    machine_need,
    memory_bytes,
    need_shown,
    resource_amount,
)
from shoal.model.offer import ON_DEMAND, SPOT
from shoal.model.policy import MachineNeed

LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.\-/]*[A-Za-z0-9])?)?")
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
LISTS_MAX = 10_000


class Section(BaseModel):
    """A mapping of the file: unknown keys are errors, nothing is coerced, nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


def key(
    default: Any = ...,
    *,
    says: str,
    unit: str = "",
    why: str = "",
    ray: bool = False,
    factory: Callable[[], Any] | None = None,
    **limits: Any,
) -> Any:
    """Return a field: its meaning, its unit, why the default is what it is, and whether Ray has the key too."""
    extra: dict[str, Any] = {"x-origin": "Ray" if ray else "Shoal"}
    if unit:
        extra["x-unit"] = unit
    if why:
        extra["x-why"] = why
    if factory is not None:
        return Field(default_factory=factory, description=says, json_schema_extra=extra, **limits)
    return Field(default, description=says, json_schema_extra=extra, **limits)


def expected(words: str, hint: str = "") -> PydanticCustomError:
    """Return the error that says what was expected in just these words."""
    return PydanticCustomError("expected", "{expected}", {"expected": words, "hint": hint})


def _duration(value: object) -> float | None:
    if value is None:
        return None
    try:
        return duration_s(value)
    except ValueError as error:
        raise expected(str(error)) from None


def _memory(value: object) -> int | None:
    if value is None:
        return None
    try:
        return memory_bytes(value)
    except ValueError as error:
        raise expected(str(error)) from None


def _quantity(value: object) -> float:
    try:
        resource_amount("", value)
    except ValueError as error:
        raise expected(str(error)) from None
    assert isinstance(value, int | float)
    return value


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _label(value: object) -> str:
    if not isinstance(value, str):
        written = str(value).lower() if isinstance(value, bool) else str(value)
        raise expected("a text", f'write "{written}" in quotes' if isinstance(value, int | float) else "")
    if len(value) > 63 or not LABEL_VALUE.fullmatch(value):
        raise expected("at most 63 letters, digits, `-`, `_`, `.` or `/`, a letter or digit first and last")
    return value


def _label_name(value: object) -> str:
    if not isinstance(value, str) or len(value) > 128 or not NAME.fullmatch(value.replace("/", "-")):
        raise expected("a label's name: letters, digits, `-`, `_`, `.` or `/`, a letter or digit first and last")
    return value


def _name(value: object) -> str:
    if not isinstance(value, str) or len(value) > 48 or not NAME.fullmatch(value):
        raise expected("a name of at most 48 letters, digits, `-`, `_` or `.`, a letter or digit first and last")
    return value


Duration = Annotated[
    float,
    BeforeValidator(_duration),
    WithJsonSchema(
        {
            "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": "^[0-9. a-z]+$"}],
            "description": DURATION_EXPECTED,
        }
    ),
]
Memory = Annotated[
    int,
    BeforeValidator(_memory),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9.]+ *[kKMGTP]?i?B?$"}],
            "description": MEMORY_EXPECTED,
        }
    ),
]
Quantity = Annotated[float, PlainValidator(_quantity), WithJsonSchema({"type": "number", "minimum": 0})]
Strings = Annotated[tuple[str, ...], Field(strict=False, max_length=LISTS_MAX)]
OneOrMany = Annotated[
    tuple[str, ...],
    BeforeValidator(_as_list),
    Field(strict=False, max_length=LISTS_MAX),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
Markets = Annotated[
    tuple[Literal["on-demand", "spot"], ...],
    BeforeValidator(_as_list),
    Field(strict=False, min_length=1, max_length=2),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": [ON_DEMAND, SPOT]},
                {"type": "array", "items": {"enum": [ON_DEMAND, SPOT]}, "minItems": 1, "maxItems": 2},
            ]
        }
    ),
]
Label = Annotated[str, PlainValidator(_label), WithJsonSchema({"type": "string", "maxLength": 63})]
LabelName = Annotated[str, PlainValidator(_label_name), WithJsonSchema({"type": "string", "maxLength": 128})]
Name = Annotated[
    str, PlainValidator(_name), WithJsonSchema({"type": "string", "maxLength": 48, "pattern": f"^{NAME.pattern}$"})
]
Anything = dict[str, Any]
"""A mapping that belongs to somebody else (a cloud's request body); checked by its owner."""


class MachineChoice(msgspec.Struct, frozen=True):
    """Which machine types a node type may use: names, or requirements, or both empty for what `node_config` names."""

    names: tuple[str, ...] = ()
    need: MachineNeed | None = None

    def __bool__(self) -> bool:
        return bool(self.names or self.need)

    def __str__(self) -> str:
        return need_shown(self.need) if self.need else ", ".join(self.names)


def _machine_choice(value: object) -> MachineChoice:
    if isinstance(value, dict):
        value = ", ".join(
            f"{name} {text}" if str(text).lstrip().startswith(("<", ">", "=")) else f"{name}: {text}"
            for name, text in value.items()
        )
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item.strip() for item in value):
        raise expected(f"a machine type's name, a list of names, or {NEED_EXPECTED}")
    if not any(map(is_need, value)):
        return MachineChoice(names=tuple(dict.fromkeys(item.strip() for item in value)))
    if not all(map(is_need, value)):
        raise expected("either names or requirements, not both")
    try:
        return MachineChoice(need=machine_need(", ".join(value)))
    except ValueError as error:
        raise expected(str(error)) from None


Machines = Annotated[
    MachineChoice,
    PlainValidator(_machine_choice),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, "minItems": 1},
                {"type": "object", "additionalProperties": {"type": ["string", "number"]}},
            ],
            "description": f"a name, a list of names, or {NEED_EXPECTED}",
        }
    ),
]
