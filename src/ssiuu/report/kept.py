"""What a model kept, in words: ranked facts that were not to go, and plain text.

The two pull apart: a model can keep either and lose the other. So both stand wherever "kept" is said.
"""

from __future__ import annotations

from ssiuu.analysis.divergence import UNCOUNTED, WORDS, damaged
from ssiuu.analysis.kept import FACTS, RANKED, lost
from ssiuu.analysis.verdict import accuracy
from ssiuu.records.schema import Cell, Divergence, RunRecord
from ssiuu.report.text import kl, percent


def kept(record: RunRecord, cell: Cell) -> str:
    """Return one sentence on both measures; nothing where the model was not evaluated."""
    if cell.evaluation is None:
        return ""
    divergence = cell.evaluation.divergence
    if divergence is None:
        moved = "how far it moved on plain text was not scored"
    else:
        moved = f"moved {kl(divergence.plain, divergence.plain_se)} nats a token on plain text"
        moved += UNCOUNTED * (not divergence.counts)
        if divergence.instructions is not None:
            on_answers = kl(divergence.instructions, divergence.instructions_se)
            moved = f"{moved} and {on_answers} on the answers to instructions"
    facts = _facts(record, cell)
    sentence = f"{facts}; {moved}" if facts else moved
    gone = [WORDS] if damaged(cell) else []
    gone += (
        [f"fewer than {percent(RANKED, 0)} % of such facts kept"]
        if FACTS in (lost(record, cell) or [])
        else []
    )
    damage = f": {' and '.join(gone)}" if gone else ""
    return f"{sentence[0].upper()}{sentence[1:]}{_read(record, divergence)}{damage}."


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


def _read(record: RunRecord, divergence: Divergence | None) -> str:
    """Say how the perplexity went, where it was read before and after."""
    before = record.original.divergence if record.original else None
    if divergence is None or before is None:
        return ""
    return f" (perplexity {before.perplexity:.3g} → {divergence.perplexity:.3g})"
