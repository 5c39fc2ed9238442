"""Load a cluster file: one frozen, checked value, or every mistake in it at once.

The stages: bytes to text (`source`), text to values with places (`tree`), Ray's older ways of saying things
(`dialect`), the typed model (`schema`), what several keys say together (`rules`), what cannot be honoured
(`honour`), and the planner's `Policy` (`build`).
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import msgspec
from pydantic import ValidationError

from shoal.config import build, rules
from shoal.config.complaints import complaints
from shoal.config.diagnostics import ConfigErrors, Diagnostic, in_order
from shoal.config.diagnostics import Path as Place
from shoal.config.dialect import foreign, translate
from shoal.config.findings import Findings
from shoal.config.honour import unhonoured
from shoal.config.schema import Cluster
from shoal.config.source import Source, read
from shoal.config.tree import Tree, parse
from shoal.model.policy import Policy

_ROUNDS_MAX = 4


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster file that can be used. `text_hash` changes with every byte of the file."""

    path: Path
    config: Cluster
    policy: Policy
    providers: tuple[build.ProviderUse, ...]
    warnings: tuple[Diagnostic, ...]
    text_hash: str


def load(path: Path) -> Loaded:
    """Return the cluster that `path` describes.

    Raises:
        ConfigErrors: it cannot be used; carries and prints every finding, warnings included.
    """
    return loaded(read(path), path)


def loaded(source: Source, path: Path) -> Loaded:
    """Return the cluster that a text describes; `path` is what relative paths in it refer to.

    Raises:
        ConfigErrors: as for `load`.
    """
    tree = parse(source)
    if not isinstance(tree.data, dict):
        raise ConfigErrors(tree.findings)
    findings = Findings(tree)
    config = _validated(tree, findings)
    if config is not None:
        rules.check(config, findings)
        unhonoured(config, findings)
    if config is None or findings.has_errors:
        raise ConfigErrors(findings.all)
    return Loaded(
        path=path,
        config=config,
        policy=build.policy(config),
        providers=build.provider_uses(config),
        warnings=in_order(findings.all),
        text_hash=source.text_hash,
    )


def _validated(tree: Tree, findings: Findings) -> Cluster | None:
    """Return the model; mistakes go to `findings`, and their values are left out so that the rest can be judged too."""
    data = copy.deepcopy(tree.data)
    for path in tree.broken:
        _leave_out(data, path)
    if foreign(data, findings):
        return None
    translate(data, tree, findings)
    for _ in range(_ROUNDS_MAX):
        try:
            return Cluster.model_validate(data)
        except ValidationError as error:
            fresh = list(complaints(error, data, tree))
            for path, found in fresh:
                findings.all.append(found)
                tree.broken.add(path)
                _leave_out(data, path)
            if not fresh:
                _stand_in(error, data, tree)
    return None


def _stand_in(error: ValidationError, data: dict[str, Any], tree: Tree) -> None:
    """Put something valid where a wrong value cannot just be left out; nothing will be said about it."""
    for loc in {found["loc"][:2] for found in error.errors(include_url=False)}:
        path: Place = loc[:1]
        if path == ("cluster_name",):
            data["cluster_name"] = "unknown"
        elif path == ("provider",):
            data["provider"] = {"type": "local"}
        elif path == ("available_node_types",) and len(loc) > 1:
            path = loc
            _leave_out(data, path)
        else:
            _leave_out(data, path)
        tree.broken.add(path)


def _leave_out(data: Any, path: Place) -> None:
    for part in path[:-1]:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(data, dict):
        data.pop(path[-1], None)
    elif isinstance(data, list) and isinstance(path[-1], int) and path[-1] < len(data):
        data[path[-1]] = None
