"""The files made from the model are those in the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.config.document import DOCS_FILE, SCHEMA_FILE, docs_text, schema_text
from shoal.config.sections import sections

ROOT = Path(__file__).parents[3]
AGAIN = "run `python -m shoal.config.document` in the root of the repository"


def test_schema_is_current() -> None:
    assert (ROOT / SCHEMA_FILE).read_text() == schema_text(), AGAIN


def test_docs_are_current() -> None:
    assert (ROOT / DOCS_FILE).read_text() == docs_text(), AGAIN


@pytest.mark.parametrize("name", list(sections()))
def test_every_key_says_what_it_means(name: str) -> None:
    text = docs_text()

    for key, field in sections()[name].model_fields.items():
        assert field.description, key
        assert field.description.endswith("."), key
        assert f"| `{key}` |" in text, key
