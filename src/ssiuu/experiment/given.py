"""What a caller of the Python API hands over, beside the text of a recipe.

A path may be a `str` or a `Path`; facts may be rows in memory. The recipe then says so in place of
a file, and the record holds the digest of what they say (its benchmark's fingerprint).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssiuu.data.fact import Fact
from ssiuu.data.read import Source, read_facts

IN_MEMORY = "given in memory"


@dataclass(frozen=True)
class Given:
    """What the recipe cannot name; None where it does."""

    forget: Sequence[Fact] | None = None
    retain: Sequence[Fact] | None = None


def settings(model: str | Path, forget: Source, retain: Source | None) -> tuple[list[str], Given]:
    """Return what was given as settings of a recipe, and what those cannot hold.

    Args:
        model: Short name, folder or hub name.
        forget: The facts to forget: a file, a hub name, or rows.
        retain: The facts to keep, "none" to go without.

    Raises:
        DataError: Rows in memory cannot be used, each by its number ("forget[3]").
    """
    values: dict[str, Any] = {"benchmark": "own", "model": str(model)}
    facts = {"forget": forget, "retain": "none" if retain is None else retain}
    held = {key: read_facts(rows, key) for key, rows in facts.items() if not _is_name(rows)}
    values |= {key: IN_MEMORY if key in held else str(rows) for key, rows in facts.items()}
    return [setting(key, value) for key, value in values.items()], Given(**held)


def setting(key: str, value: Any) -> str:
    """Return key=value as a recipe reads it; JSON is YAML, whatever stands in a text."""
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def _is_name(source: Source) -> bool:
    return isinstance(source, (str, Path))
