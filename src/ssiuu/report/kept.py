"""What a model kept, in words: ranked facts that were not to go, and plain text.

The two pull apart: a model can keep either and lose the other. So both stand wherever "kept" is said.
"""

from __future__ import annotations

from ssiuu.analysis.divergence import WORDS, damaged
from ssiuu.analysis.verdict import accuracy
from ssiuu.records.schema import Cell, Divergence, RunRecord
from ssiuu.report.text import kl, percent


def kept(record: RunRecord, cell: Cell) -> str:
    """Return one sentence on both measures; nothing where the model was not evaluated."""
    if cell.evaluation is None:
        return ""
    found = cell.evaluation.divergence
    if found is None:
        moved = "how far it moved on plain text was not scored"
    else:
        moved = f"moved {kl(found.plain, found.plain_se)} nats a token on plain text"
        if found.instructions is not None:
            told = kl(found.instructions, found.instructions_se)
            moved = f"{moved} and {told} on the answers to instructions"
    facts = _facts(record, cell)
    said = f"{facts}; {moved}" if facts else moved
    return f"{said[0].upper()}{said[1:]}{_read(record, found)}{f': {WORDS}' if damaged(cell) else ''}."


def _facts(record: RunRecord, cell: Cell) -> str:
    """Say how many of the facts that were to stay are still ranked first."""
    assert cell.evaluation is not None
    for name, words in (("heldout", "facts held out"), ("retain", "facts to retain")):
        level = accuracy(getattr(cell.evaluation, name).values())
        if level is not None:
            before = accuracy(getattr(record.original, name).values()) if record.original else None
            was = f" (before: {percent(before, 0)} %)" if before is not None else ""
            return f"kept {percent(level, 0)} % of the {words} ranked first{was}"
    return ""


def _read(record: RunRecord, found: Divergence | None) -> str:
    """Say how the perplexity went, where it was read before and after."""
    before = record.original.divergence if record.original else None
    if found is None or before is None:
        return ""
    return f" (perplexity {before.perplexity:.3g} → {found.perplexity:.3g})"
