"""Nothing that a file may say is ignored in silence: what the policy holds, something reads, or a message says so."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from shoal.model.policy import Budget, Deadlines, Health, MachineNeed, NodeType, Policy, Repack, Thinking

PACKAGE = Path(__file__).parents[3] / "shoal"
READERS = "\n".join(
    path.read_text()
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.relative_to(PACKAGE).parts[0] not in ("config", "model")
)

UNREAD = {
    # Refused where it would matter: `policy.repack.is_on`.
    *(("Repack", name) for name in Repack.__struct_fields__),
    ("Policy", "repack"),
    # Only machines that are set up have a body and commands; elsewhere a message says that there is nothing to set up.
    ("NodeType", "node_config"),
    ("NodeType", "setup"),
    # A release is called again at every look; how long that has gone on changes nothing yet.
    ("Deadlines", "releasing_s"),
    # A tie-breaker between equal prices.
    ("NodeType", "priority"),
}
"""Fields that nothing reads yet, each with why that deceives nobody."""

FIELDS = [
    (kind.__name__, name)
    for kind in (Policy, NodeType, Budget, Deadlines, MachineNeed, Repack, Thinking, Health)
    for name in kind.__struct_fields__
]


@pytest.mark.parametrize(("kind", "name"), [field for field in FIELDS if field not in UNREAD])
def test_field_of_the_policy_is_read_somewhere(kind: str, name: str) -> None:
    assert re.search(rf"\.{name}\b", READERS), f"{kind}.{name} can be written in a file and changes nothing"


def test_list_of_unread_fields_names_real_fields() -> None:
    assert set(FIELDS) >= UNREAD
    assert issubclass(Policy, msgspec.Struct)
