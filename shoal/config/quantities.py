"""Read what people write for times, sizes and machines: `5m`, `16 GiB`, `cpu >= 4, gpu: 1 x L4`. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from shoal.foundation.amounts import UNIT, Amounts, amount_of
from shoal.model.policy import MachineNeed

DURATION_EXPECTED = "a duration such as `90`, `90s`, `5m` or `1h30m`"
MEMORY_EXPECTED = "bytes, or a size such as `16 GiB` or `16GB`"
NEED_EXPECTED = "requirements such as `cpu >= 4, memory >= 16 GiB, gpu: 1 x L4`"

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION_PART = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*(ms|s|min|m|h|d|w)")
_PLAIN_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?")
_SIZES = {"": 1, "B": 1} | {
    f"{letter}{ending}": base**power
    for power, letter in enumerate("KMGTP", start=1)
    for ending, base in (("iB", 1024), ("i", 1024), ("B", 1000), ("", 1000))
}
_SIZES |= {"kB": 1000, "k": 1000}
_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([KMGTPk]?i?B?)")
_TERM = re.compile(r"\s*([A-Za-z_][\w./-]*)\s*(>=|<=|==|=|:|>|<)\s*(.+?)\s*", re.DOTALL)
_COUNTED = re.compile(r"([0-9]{1,6})\s*x\s*(\S.*)", re.DOTALL)
_NAMES = {"cpu": "CPU", "cpus": "CPU", "vcpu": "CPU", "vcpus": "CPU", "memory": "memory", "gpu": "GPU", "gpus": "GPU"}
_ARCHES = {"amd64": "amd64", "x86_64": "amd64", "arm64": "arm64", "aarch64": "arm64"}
_SECONDS_MOST = 100 * 365 * 86400.0


def duration_s(value: object) -> float:
    """Return a duration in seconds; a bare number is seconds already.

    >>> duration_s("1h30m"), duration_s(90), duration_s("250ms")
    (5400.0, 90.0, 0.25)

    Raises:
        ValueError: it is no duration; the message is what was expected.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(DURATION_EXPECTED)
    if isinstance(value, str):
        seconds = _written_s(value.strip())
    else:
        seconds = float(value) if abs(value) <= 2 * _SECONDS_MOST else math.inf
    if not seconds >= 0:
        raise ValueError("a duration of at least 0")
    if seconds > _SECONDS_MOST:
        raise ValueError("a duration of at most 100 years")
    return seconds


def _written_s(text: str) -> float:
    if _PLAIN_NUMBER.fullmatch(text):
        return float(text)
    at, seconds = 0, 0.0
    while part := _DURATION_PART.match(text, at):
        seconds += float(part[1]) * _SECONDS[part[2]]
        at = part.end()
    if not text or at != len(text):
        raise ValueError(DURATION_EXPECTED)
    return seconds


def memory_bytes(value: object) -> int:
    """Return a size in bytes; a bare number is bytes already. `GiB` counts in 1024s, `GB` in 1000s.

    >>> memory_bytes("16 GiB") == 16 * 2**30, memory_bytes("16GB") == 16 * 10**9, memory_bytes(5)
    (True, True, 5)

    Raises:
        ValueError: it is no size; the message is what was expected.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(MEMORY_EXPECTED)
    if isinstance(value, str):
        found = _SIZE.fullmatch(value.strip())
        if not found or found[2] not in _SIZES:
            raise ValueError(MEMORY_EXPECTED)
        size = float(found[1]) * _SIZES[found[2]] if "." in found[1] else int(found[1]) * _SIZES[found[2]]
    else:
        size = value
    if not 0 <= size < 2**60:
        raise ValueError("a size of at least 0 bytes and under 1 EiB")
    if size != int(size) and not isinstance(value, str):
        raise ValueError("a whole number of bytes")
    return int(size)


def resource_amount(name: str, value: object) -> int:
    """Return a quantity of resource `name` as an exact amount; `memory` may be written as a size.

    Raises:
        ValueError: it is no quantity; the message is what was expected.
    """
    if name in ("memory", "object_store_memory"):
        return memory_bytes(value) * UNIT
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a number of at least 0")
    if not 0 <= value < 1e12:
        raise ValueError("a number of at least 0 and under 10^12")
    try:
        return amount_of(value, name)
    except ValueError:
        raise ValueError("a multiple of 0.0001") from None


def is_need(text: str) -> bool:
    """Say whether a text under `machine_types` states requirements, rather than a machine type's name.

    >>> is_need("cpu >= 4"), is_need("gpu: 1 x L4"), is_need("m5.large")
    (True, True, False)
    """
    return any(sign in text for sign in "<>=:")


def machine_need(text: str) -> MachineNeed:
    """Return requirements written in one line; terms are separated by commas and must all hold.

    `cpu`, `gpu` and `memory` take `>=`, `<=` and `=`; `gpu` also `: 1 x L4`; `arch` and `family` take `=` or `:`.

    >>> need = machine_need("cpu >= 4, memory >= 16 GiB, gpu: 1 x L4")
    >>> need.at_least["CPU"], need.accelerator
    (40000, 'L4')

    Raises:
        ValueError: a term cannot be read, or no machine could fulfil all; the message is what was expected.
    """
    at_least: Amounts = {}
    at_most: Amounts = {}
    accelerator = arch = ""
    families: list[str] = []
    for term in text.split(","):
        found = _TERM.fullmatch(term)
        if not found:
            raise ValueError(NEED_EXPECTED)
        name, sign, value = found[1].lower(), found[2], found[3]
        if sign in ("<", ">"):
            raise ValueError(f"`{sign}=` in requirements (machine sizes are steps)")
        if name in ("arch", "architecture"):
            if sign not in (":", "=", "==") or value.lower() not in _ARCHES:
                raise ValueError("`arch: amd64` or `arch: arm64` in requirements")
            arch = _ARCHES[value.lower()]
        elif name in ("family", "families"):
            if sign not in (":", "=", "=="):
                raise ValueError("`family: NAME` or `family: NAME|NAME` in requirements")
            families += [part.strip() for part in value.split("|") if part.strip()]
        elif name in _NAMES:
            if (counted := _COUNTED.fullmatch(value)) and _NAMES[name] == "GPU":
                accelerator, value = counted[2].strip(), counted[1]
                if int(value) == 0:
                    raise ValueError("at least one GPU, as in `gpu: 1 x L4`")
            amount = _needed(_NAMES[name], value)
            if sign in (">=", ":", "=", "=="):
                at_least[_NAMES[name]] = amount
            if sign in ("<=", "=", "=="):
                at_most[_NAMES[name]] = amount
        else:
            raise ValueError("`cpu`, `memory`, `gpu`, `arch` or `family` in requirements")
    for name, most in at_most.items():
        if at_least.get(name, 0) > most:
            raise ValueError("requirements that a machine can fulfil (a lower bound is above the upper one)")
    return MachineNeed(
        at_least={name: amount for name, amount in sorted(at_least.items()) if amount},
        at_most=dict(sorted(at_most.items())),
        accelerator=accelerator,
        arch=arch,
        families=tuple(families),
    )


def _needed(name: str, value: str) -> int:
    if name == "memory":
        return memory_bytes(value) * UNIT
    if not _PLAIN_NUMBER.fullmatch(value):
        raise ValueError(NEED_EXPECTED)
    return amount_of(float(value), name)


def need_shown(need: MachineNeed) -> str:
    """Return requirements in the form that `machine_need` reads.

    >>> need_shown(machine_need("gpu: 2 x A100, cpu>=8"))
    'cpu >= 8, gpu: 2 x A100'
    """
    terms = []
    names: Mapping[str, str] = {"CPU": "cpu", "memory": "memory", "GPU": "gpu"}
    for name, word in names.items():
        least, most = need.at_least.get(name, 0), need.at_most.get(name)
        if name == "GPU" and need.accelerator:
            terms.append(f"gpu: {least / UNIT:g} x {need.accelerator}")
        elif least:
            terms.append(f"{word} >= {_quantity(name, least)}")
        if most is not None:
            terms.append(f"{word} <= {_quantity(name, most)}")
    if need.arch:
        terms.append(f"arch: {need.arch}")
    if need.families:
        terms.append(f"family: {'|'.join(need.families)}")
    return ", ".join(terms)


def _quantity(name: str, amount: int) -> str:
    if name == "memory":
        size = amount // UNIT
        return f"{size // 2**30} GiB" if size % 2**30 == 0 else f"{size} B"
    return f"{amount / UNIT:g}"
