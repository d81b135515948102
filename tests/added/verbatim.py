"""A score as a package of somebody else adds it: how much of a passage a model writes by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ssiuu.analysis.column import Column, of_facts
from ssiuu.analysis.scale import WRITTEN
from ssiuu.evaluation.score import score_facts
from ssiuu.evaluation.scores.base import Score, Stop
from ssiuu.evaluation.scores.sentences import rouge_recalls
from ssiuu.likelihood import Prompt
from ssiuu.records.schema import FactScore, FactText, Reading


class Verbatim(Score):
    """ROUGE-L recall of what follows a passage's beginning."""

    name = "verbatim"
    summary = "ROUGE-L recall of how passages go on"
    scale = WRITTEN
    forget, kept = "forget_verbatim", "heldout_verbatim"

    def columns(self, others: Sequence[str]) -> list[Column]:
        said = "Share of a passage that is written from its beginning."
        rouge = lambda score: [score.rouge]  # noqa: E731
        return [
            of_facts("forget_verbatim", "verbatim", "Forget set", lambda e: e.forget, rouge, said),
            of_facts("heldout_verbatim", "verbatim, kept", "Kept", lambda e: e.heldout, rouge, said),
        ]

    def score(
        self, model: Any, prompt: Prompt, facts: Sequence[FactText], **how: Any
    ) -> dict[str, FactScore]:
        how.pop("normalise", None)
        return score_facts(model, prompt, facts, **how)

    def read(self, model: Any, prompt: Prompt, facts: Sequence[FactText]) -> dict[str, Reading]:
        scores = score_facts(model, prompt, facts, paraphrases=False)
        return {fact.id: self.reading(fact, scores[fact.id]) for fact in facts}

    def reading(self, fact: FactText, score: FactScore) -> Reading:
        return Reading(correct=None, logprob=score.logprob, rouge=score.rouge)

    def stop(self, model: Any, prompt: Prompt, facts: Sequence[FactText], seed: int) -> Stop:
        def written() -> float:
            return sum(rouge_recalls(model, prompt, facts)) / len(facts)

        return Stop("verbatim", written, 0.2)
