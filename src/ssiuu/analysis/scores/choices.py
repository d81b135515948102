"""Accuracy set by set: by text, and by the letters of the choices, as WMDP and MMLU are read."""

from __future__ import annotations

from collections.abc import Sequence

from ssiuu.analysis.column import Column, of_facts
from ssiuu.analysis.score import ScoreColumns
from ssiuu.records.schema import Evaluation, FactScore, RunRecord

GROUP = "By letter"
NOTE = (
    "Accuracy in %, guessing 25: which of the letters A to D is the most probable after a question "
    "that shows its four choices, without answered ones in front. The other columns rank the choices "
    "themselves, by log p a token."
)


class ChoiceColumns(ScoreColumns):
    """The accuracy of every further set."""

    name = "choices"
    summary = "WMDP: accuracy among four choices, by text and by letter"

    def columns(self, others: Sequence[str]) -> list[Column]:
        """Return the accuracy of every further set."""
        return [_accuracy(name) for name in others]

    def notes(self, record: RunRecord) -> dict[str, str]:
        """Say what a letter is."""
        return {GROUP: NOTE}


def _accuracy(name: str) -> Column:
    def facts(evaluation: Evaluation) -> dict[str, FactScore]:
        return evaluation.others.get(name, {})

    words = name.replace("_", " ")
    meaning = f"Accuracy on the set {words}."
    return of_facts(name, words, GROUP, facts, lambda score: [score.correct], meaning, chance=True)
