"""How far a model moved beside the facts: where that is damage."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ssiuu.records.schema import Cell

DAMAGED: Final = 0.1  # nats a token on plain text: above it is said that the model is damaged
WORDS: Final = "general language ability damaged"
UNCOUNTED: Final = " (not counted: before, it predicted this worse than a uniform guess)"


def damaged(cell: Cell) -> bool:
    """Whether a method moved the model further on plain text than `DAMAGED`; no control is judged.

    Nor is a model whose original predicts plain text worse than a uniform guess.
    """
    divergence = cell.evaluation.divergence if cell.evaluation else None
    if divergence is None or cell.method.origin == "control":
        return False
    return divergence.counts and divergence.plain > DAMAGED


def damaged_labels(cells: Iterable[Cell]) -> list[str]:
    """Return the labels of the methods with a damaged model; where not all of one's are, how many."""
    of: dict[str, list[bool]] = {}
    for cell in cells:
        of.setdefault(cell.method.label, []).append(damaged(cell))
    return [
        label if all(found) else f"{label} ({sum(found)} of {len(found)} seeds)"
        for label, found in of.items()
        if any(found)
    ]
