"""How large a pod is, by its specification: what Ray's operator reads where a group names no resources. Pure."""

from __future__ import annotations

import re
from typing import Any

from shoal.config.quantities import memory_bytes
from shoal.foundation.amounts import UNIT, Amounts

_CPU = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(m?)")


def pod_resources(node_config: dict[str, Any]) -> Amounts:
    """Return what the first container of a pod has, as exact amounts; empty where the body does not say.

    Limits come before requests, as Ray's operator takes them. The body is a pod's or a pod template's; CPUs are
    not rounded, since fractions are fine here.
    """
    container = _first_container(node_config)
    asked = container.get("resources") if container else None
    if not isinstance(asked, dict):
        return {}
    requests, limits = asked.get("requests"), asked.get("limits")
    both = {**(requests if isinstance(requests, dict) else {}), **(limits if isinstance(limits, dict) else {})}
    found: Amounts = {}
    for name, value in both.items():
        amount, meant = _amount(str(name), value)
        if meant and amount:
            found[meant] = found.get(meant, 0) + amount
    return dict(sorted(found.items()))


def _first_container(body: dict[str, Any]) -> dict[str, Any] | None:
    template = body.get("template")
    spec = (template if isinstance(template, dict) else body).get("spec")
    containers = spec.get("containers") if isinstance(spec, dict) else None
    first = containers[0] if isinstance(containers, list) and containers else None
    return first if isinstance(first, dict) else None


def _amount(name: str, value: object) -> tuple[int, str]:
    """Return an amount and the name it has here, "" for what is none of a node's resources."""
    if name == "cpu":
        found = _CPU.fullmatch(str(value).strip())
        if not found:
            return 0, ""
        return int(float(found[1]) * UNIT / (1000 if found[2] else 1) + 1e-6), "CPU"
    if name == "memory":
        try:
            return memory_bytes(value) * UNIT, "memory"
        except ValueError:
            return 0, ""
    for ending, meant in (("gpu", "GPU"), ("google.com/tpu", "TPU")):
        if name.endswith(ending):
            text = str(value).strip()
            return (int(text) * UNIT, meant) if text.isdecimal() and len(text) < 7 else (0, "")
    return 0, ""
