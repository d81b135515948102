"""MUSE's numbers: how much of the texts is written again, what is known of them, what is given away."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ssiuu.analysis.column import Column, Direction, of_facts
from ssiuu.analysis.scale import FOLLOWED
from ssiuu.analysis.score import ScoreColumns
from ssiuu.analysis.scores.privacy import privleak_column
from ssiuu.records.schema import Evaluation, FactScore, RunRecord

GROUP = "MUSE's numbers"
KNOWN = "knowledge"  # the further set of questions about the texts to forget
NOTE = (
    "In %, but for PrivLeak: 0 as if never learned, below 0 the texts still look trained on. ROUGE-L "
    "F1 of what is written: after excerpts of the texts to forget (VerbMem), in answer to questions "
    "about them (KnowMem), and about the texts to keep (utility)."
)


class TextColumns(ScoreColumns):
    """MUSE's first four: verbatim memory, knowledge, privacy leakage and utility."""

    name = "texts"
    summary = "MUSE: ROUGE-L F1 of continuations and answers; privacy leakage"
    scale = FOLLOWED
    forget = "verbmem"
    kept = "utility_knowmem"
    told = "Mean ROUGE-L F1 of what is written"

    def columns(self, others: Sequence[str]) -> list[Column]:
        """Return MUSE's numbers, and how much of the excerpts is likeliest."""
        return [
            _mean(
                "verbmem",
                "VerbMem",
                "Forget set",
                lambda e: e.forget,
                "rouge",
                "Mean ROUGE-L F1 of what is written after excerpts of the texts to forget.",
                "lower",
            ),
            _mean(
                "utility_knowmem",
                "KnowMem, kept",
                "Kept",
                lambda e: e.heldout,
                "rouge",
                "Mean ROUGE-L F1 of the answers to questions about the texts to keep.",
                "higher",
            ),
            _mean(
                "knowmem",
                "KnowMem",
                GROUP,
                lambda e: e.others.get(KNOWN, {}),
                "rouge",
                "Mean ROUGE-L F1 of the answers to questions about the texts to forget.",
                "lower",
            ),
            privleak_column(GROUP),
            _mean(
                "extraction_strength",
                "extraction strength",
                GROUP,
                lambda e: e.forget,
                "extraction_strength",
                "Share of a continuation that is written when given the rest.",
                "lower",
            ),
            _mean(
                "exact_memorisation",
                "exact memorisation",
                GROUP,
                lambda e: e.forget,
                "exact_memorisation",
                "Share of a continuation's tokens that are the most probable.",
                "lower",
            ),
        ]

    def notes(self, record: RunRecord) -> dict[str, str]:
        """Say what the numbers are."""
        return {GROUP: NOTE}


def _mean(
    key: str,
    heading: str,
    group: str,
    facts: Callable[[Evaluation], Mapping[str, FactScore]],
    field: str,
    meaning: str,
    direction: Direction,
) -> Column:
    """Return the mean of a field of `FactScore` over a set."""

    def read(score: FactScore) -> list[float | None]:
        return [getattr(score, field)]

    return of_facts(key, heading, group, facts, read, meaning, direction=direction)
