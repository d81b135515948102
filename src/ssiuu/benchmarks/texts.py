"""Plain texts of many kinds and languages, in which nothing of any fact set stands.

A model that forgot some facts should go on reading them as it did.

    texts.measured()   # KL is measured on these
    texts.anchor()     # a retain term may be trained on these, and on no others

Written for this project and under its licence (Apache 2.0): nothing is taken from elsewhere. Rows stand
together by genre, so that every third of them, the anchor, is a set of the same kinds as the rest.
`tests/unit/test_texts.py` holds them against the fact sets.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import Final

from pydantic import BaseModel, ConfigDict

ANCHOR: Final = 3  # every so-many-th row is kept apart, to be trained on


class TextRow(BaseModel):
    """One row: `genre` and `language` (ISO 639-1) say what it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    genre: str
    language: str
    text: str


def load() -> list[TextRow]:
    """Return all rows in file order."""
    return [TextRow(**json.loads(line)) for line in _raw().decode().splitlines() if line]


def measured() -> list[TextRow]:
    """Return the rows that KL is measured on; nothing may be trained on them."""
    return [row for n, row in enumerate(load()) if n % ANCHOR != ANCHOR - 1]


def anchor() -> list[TextRow]:
    """Return the rows that a retain term may be trained on; none of them is measured."""
    return load()[ANCHOR - 1 :: ANCHOR]


@cache
def fingerprint() -> str:
    """Return the sha256 of the rows."""
    return hashlib.sha256(_raw()).hexdigest()


def version() -> str:
    """Return what names these rows in a record: numbers on other rows do not compare."""
    return f"1-{fingerprint()[:8]}"


@cache
def _raw() -> bytes:
    return files("ssiuu.benchmarks").joinpath("data/texts.jsonl").read_bytes()
