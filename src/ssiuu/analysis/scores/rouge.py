"""How much of the right answers a model writes, in set after set, as RWKU asks."""

from __future__ import annotations

from collections.abc import Sequence

from ssiuu.analysis.column import Column, of_facts
from ssiuu.analysis.score import ScoreColumns
from ssiuu.records.schema import Evaluation, FactScore

GROUP = "Written answers"


class RougeColumns(ScoreColumns):
    """ROUGE-L recall of the forget set, the facts held out, and every further set."""

    name = "rouge"
    summary = "mean ROUGE-L recall of the written answers, set by set; attacks are read by ranking"

    told = "Mean ROUGE-L recall of the written answers"

    def columns(self, others: Sequence[str]) -> list[Column]:
        """Return the mean recall of every set."""
        return [*recalls(), *map(_further, others)]


def recalls() -> list[Column]:
    """Return the mean ROUGE-L recall of the forget set and of the facts held out."""
    meaning = "Mean ROUGE-L recall of the written answers to the {}."
    return [
        of_facts(
            "forget_rouge",
            "forget ROUGE",
            "Forget set",
            lambda e: e.forget,
            _recall,
            meaning.format("facts to forget"),
            direction="lower",
        ),
        of_facts(
            "heldout_rouge",
            "held-out ROUGE",
            "Kept",
            lambda e: e.heldout,
            _recall,
            meaning.format("facts held out"),
            direction="higher",
        ),
    ]


def _further(name: str) -> Column:
    def facts(evaluation: Evaluation) -> dict[str, FactScore]:
        return evaluation.others.get(name, {})

    words = name.replace("_", " ")
    meaning = f"Mean ROUGE-L recall of the written answers to the set {words}."
    return of_facts(f"{name}_rouge", words, GROUP, facts, _recall, meaning)


def _recall(score: FactScore) -> list[float | None]:
    return [score.rouge]
