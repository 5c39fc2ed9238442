"""Write what is made from the model: `configs/schema.json` for editors and `docs/config.md` for people.

`python -m shoal.config.document` in the root of the repository writes both; a test compares them with the model.
"""

from __future__ import annotations

import json
import types
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from shoal.config import kinds
from shoal.config.kinds import MachineChoice
from shoal.config.providers import KINDS
from shoal.config.schema import Cluster, NodeType
from shoal.config.sections import is_section, sections, unit_of

SCHEMA_FILE = Path("configs/schema.json")
DOCS_FILE = Path("docs/config.md")

_HEADER = """\
# The cluster file

<!-- Made by `python -m shoal.config.document` from the model in shoal/config/schema.py; do not edit. -->

One YAML describes a cluster: where machines come from, what kinds there are, how many, and what they may cost.
`shoal validate FILE` checks it; examples for every provider stand in `configs/`. The line

```yaml
# yaml-language-server: $schema=schema.json
```

at the top of a file lets an editor complete and check it while you type (`configs/schema.json`).

- **Ray's cluster files work as they are.** Keys marked *Ray* have Ray's name and meaning. What cannot be done as
  written is an *error* if it changes what is bought, exposed or who may enter, and a *warning* if it only changes how
  machines are set up; either says what to write instead. Nothing is ignored in silence.
- **All mistakes are reported at once**, each as `file:line:column: path: expected ..., got ...`, with a hint where one
  is known.
- **A running cluster takes a changed file over by itself.** A broken one is reported, and the old one stays in force.

## Values

| written | means |
|---|---|
| duration | seconds as a number (`90`, `0.5`), or `90s`, `5m`, `1h30m`, `2d`, `250ms` |
| bytes | a number, or `16 GiB` (in 1024s), `16GB` (in 1000s), `512 MiB` |
| requirements | terms joined by commas, such as `cpu >= 4, memory >= 16 GiB, gpu: 1 x L4`; see below |
| fraction | from 0 to 1 |
| list or text | one text may stand for a list of one |

Requirements may speak of `cpu`, `memory` and `gpu` (with `>=`, `<=` or `=`; `gpu: 1 x L4` names the model), of `arch`
(`amd64`, `arm64`) and of `family` (`m6i|m7i`). A text with `: ` in it needs quotes.

YAML itself is read strictly. A key written twice, `yes`/`no`/`on`/`off` without quotes, numbers such as `22:30` or
`0755` that YAML reads in base 60 or 8, tags such as `!!python/object`, a second document, and files above
512 KiB are errors. Anchors, aliases and `<<` work.
"""

_RAY_FOOTER = """\
## Coming from Ray

Old and internal forms are understood and said aloud:

| in a Ray file | here |
|---|---|
| `provider: {type: local, head_ip: ...}` | means `type: ssh` (`local` alone means processes on this machine) |
| `type: fake_multinode` | means `type: local` |
| `type: kuberay`, `vsphere`, `aliyun`, `external`, `readonly`, `spark` | error; the hint says what to write |
| `type: fake_multinode_docker` | error: there are no containers on this machine; `type: local` |
| `head_node`, `worker_nodes` | become the node types `ray.head.default` and `ray.worker.default` |
| `min_workers` at the top | goes to the only worker type; with several it is an error |
| `worker_default_node_type`, `no_restart` | ignored with a warning |
| `initial_workers`, `target_utilization_fraction`, `autoscaling_mode` | error, as in Ray |
| `head_start_ray_commands`, `worker_start_ray_commands` | ignored with a warning unless `engine: ray` |
| `cache_stopped_nodes: true` | error: machines are ended, not stopped |
| `coordinator_address` | error: Ray's coordinator has no authentication |
| misspelt keys under `provider` | error (Ray ignores them) |
| `CPU: 1.5` | fine (Ray rejects it) |
| `min_workers` above `max_workers` of a type | error (Ray's autoscaler fails later, on the head) |
"""


def schema_text() -> str:
    """Return the JSON Schema of a cluster file."""
    schema = Cluster.model_json_schema()
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **_tidied(schema)}
    schema["title"] = "Shoal cluster file"
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


def docs_text() -> str:
    """Return the reference of every key, as Markdown."""
    parts = [_HEADER, _section("The file", "Keys at the top level.", Cluster)]
    inner = {name: model for name, model in sections().items() if model not in (Cluster, *KINDS.values())}
    node_type = inner.pop("a node type")
    parts.append(_section("`available_node_types.NAME`", _sentence(node_type), node_type))
    for kind, model in KINDS.items():
        own = {name: field for name, field in model.model_fields.items() if name not in _common()}
        parts.append(_section(f"`provider` with `type: {kind}`", _sentence(model), model, own))
    parts.append(_section("`provider` of any type", "Ray's common keys.", kinds.Section, _common()))
    parts += [_section(name, _sentence(model), model) for name, model in inner.items()]
    return "\n".join([*parts, _RAY_FOOTER])


def write(root: Path) -> None:
    """Write both files below `root`."""
    for name, text in ((SCHEMA_FILE, schema_text()), (DOCS_FILE, docs_text())):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def _common() -> dict[str, FieldInfo]:
    """Return the keys that every provider has."""
    first, *others = KINDS.values()
    shared = {name for name in first.model_fields if all(name in model.model_fields for model in others)}
    return {name: field for name, field in first.model_fields.items() if name in shared and name != "type"}


def _section(title: str, words: str, model: type[BaseModel], fields: dict[str, FieldInfo] | None = None) -> str:
    lines = [f"## {title}", "", words, "", "| key | value | default | meaning |", "|---|---|---|---|"]
    for name, field in (model.model_fields if fields is None else fields).items():
        lines.append(f"| `{name}` | {_value(field)} | {_default(field)} | {_meaning(field)} |")
    if model is not NodeType and model.model_config.get("extra") == "allow":
        lines.append("| any other name | number |  | A resource of your own. |")
    return "\n".join([*lines, ""])


def _sentence(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _value(field: FieldInfo) -> str:
    unit, words = unit_of(field), _words(field.annotation, field)
    if unit == "bytes":
        return "bytes"
    if unit == "s" and "number" in words:
        return "duration"
    if unit == "fraction":
        return "fraction"
    return f"{words}, {unit}" if unit else words


def _words(annotation: Any, field: FieldInfo | None = None) -> str:
    if any(isinstance(part, BeforeValidator) for part in (field.metadata if field else ())):
        if typing.get_origin(annotation) is tuple:
            inner = typing.get_args(annotation)[0]
            return f"list of {_words(inner)}, or one" if inner is not str else "list or text"
        return "number"
    if typing.get_origin(annotation) is typing.Annotated:
        return _words(typing.get_args(annotation)[0])
    if annotation is MachineChoice:
        return "name, list or requirements"
    if is_section(annotation):
        return "section"
    plain = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`", Any: "anything"}
    if annotation in plain:
        return plain[annotation]
    arguments = [part for part in typing.get_args(annotation) if part not in (type(None), ...)]
    match typing.get_origin(annotation):
        case typing.Literal:
            return " or ".join(f"`{part}`" for part in arguments)
        case origin if origin is tuple:
            return "list"
        case origin if origin is dict:
            return "section for each name" if NodeType in arguments else "mapping"
        case origin if origin in (typing.Union, types.UnionType):
            if any(is_section(_bare(part)) for part in arguments):
                return "section"
            return _words(arguments[0]) if len(arguments) == 1 else " or ".join(map(_words, arguments))
    return "value"


def _bare(annotation: Any) -> Any:
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) is typing.Annotated else annotation


def _default(field: FieldInfo) -> str:
    default = field.default
    if field.is_required():
        return "**required**"
    if default is None or default is PydanticUndefined or isinstance(default, BaseModel) or default in ({}, ()):
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        return f"`{', '.join(default)}`"
    if unit_of(field) == "s":
        return f"`{default:g}s`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def _meaning(field: FieldInfo) -> str:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    why = extra.get("x-why")
    origin = " *Ray.*" if extra.get("x-origin") == "Ray" else ""
    return f"{field.description or ''}{f' {why}' if why else ''}{origin}".replace("|", "\\|")


def _tidied(schema: Any, *, is_names: bool = False) -> Any:
    """Return the schema without pydantic's titles and whole sections as defaults; whole numbers print as such."""
    if isinstance(schema, dict):
        return {
            name: _tidied(part, is_names=name in ("properties", "$defs") and not is_names)
            for name, part in schema.items()
            if is_names or not (name == "title" or (name == "default" and isinstance(part, dict)))
        }
    if isinstance(schema, list):
        return [_tidied(part) for part in schema]
    return int(schema) if isinstance(schema, float) and schema.is_integer() else schema


if __name__ == "__main__":
    write(Path.cwd())
