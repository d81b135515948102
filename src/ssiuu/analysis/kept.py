"""Whether a model kept what was not to go: by both measures, or not at all.

The two pull apart: a method may leave plain text as it was and lose the facts that resemble those to
forget, or the other way round. Either alone calls a broken model whole.
"""

from __future__ import annotations

from typing import Final

from ssiuu.analysis.divergence import DAMAGED
from ssiuu.analysis.scale import FREE, mean
from ssiuu.analysis.scores import score_of
from ssiuu.records.schema import Cell, Evaluation, RunRecord

RANKED: Final = 0.8  # of the original's score on facts to stay: below it they count as lost
TEXT, FACTS = "plain text", "facts"


def kept_share(record: RunRecord, cell: Cell) -> float | None:
    """Return the score on facts to stay over the original's, on those held out where there are any.

    None where either was not scored, or the original scores nothing.
    """
    for scale in (score_of(record).scale, FREE):
        for name in ("heldout", "retain"):
            before, after = (
                None if scored is None else mean(map(scale.before, getattr(scored, name).values()))
                for scored in (record.original, cell.evaluation)
            )
            if before and after is not None:
                return after / before
    return None


def lost(record: RunRecord, cell: Cell) -> list[str] | None:
    """Return what a method did not keep, of `TEXT` and `FACTS`.

    Empty only where both were measured and kept; None where one was not measured and nothing lost is
    known, and for a control, which is not judged.
    """
    evaluation: Evaluation | None = cell.evaluation
    if evaluation is None or cell.method.origin == "control":
        return None
    moved, share = evaluation.divergence, kept_share(record, cell)
    gone = [TEXT] if moved is not None and not moved.plain <= DAMAGED else []
    gone += [FACTS] if share is not None and share < RANKED else []
    return None if not gone and (moved is None or share is None) else gone
